"""What is installed and in force, for people; and the caches of all rooms emptied at once.

Stands above the operations; nothing but ``fastconv/__init__.py`` imports it.
"""

from __future__ import annotations

import platform

import numpy as np

from fastconv import machine, planner
from fastconv.ops import call
from fastconv.version import __version__

__all__ = ["clear_caches", "show_config"]


def clear_caches() -> None:
    """Forget prepared calls and plans and free the scratch memory kept between calls.

    Nothing else changes: the next call of each kind takes a little longer. What ``tune`` measured is kept.
    """
    call.clear_calls()
    planner.clear_plans()
    machine.clear_scratch()


def show_config() -> None:
    """Print version, compiler, instruction sets built and in use, OpenMP, workers and caches."""
    cpu = machine.cpu
    openmp = cpu.openmp_version()
    l1, l2, l3 = (f"{n >> 10} KiB" if n else "unknown" for n in cpu.cache_sizes())
    print(f"fastconv {__version__}")
    print(f"  python {platform.python_version()}, numpy {np.__version__}, compiler {cpu.compiler()}")
    built, here = ", ".join(machine.built_isas()), ", ".join(machine.ISAS)
    print(f"  instruction sets: {built} built; {here} here; {machine.ISA} in use")
    print(f"  openmp: {openmp or 'none'}; workers by default: {machine.resolve_workers(None)}")
    print(f"  data caches: L1 {l1}, L2 {l2}, L3 {l3}")
    print(f"  methods: {', '.join(planner.METHODS)}")

