"""The machine: instruction sets, cores, workers, scratch memory, cost constants.

Loads the compiled kernels and answers how many threads may work. May be called by planner,
algorithms and ops; knows no problem and no algorithm.
"""

from __future__ import annotations

import contextvars
import importlib
import math
import operator
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["ISA", "ISAS", "cpu", "give_scratch", "kernels", "resolve_workers", "set_workers", "take_scratch", "windows"]


def _common(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"fastconv._kernels.{name}")
    except ImportError as error:
        raise ImportError(
            f"fastconv is not compiled in {Path(__file__).parent}: run `pip install .` in the source tree, "
            f"then start Python in another folder, or install it in place with `pip install -e .` ({error})"
        ) from error


cpu: Any = _common("cpu")
windows: Any = _common("windows")

# --- instruction sets ------------------------------------------------------------------------------

_ALL_ISAS = ("baseline", "avx2", "avx512")  # plainest first


def built_isas() -> tuple[str, ...]:
    """The instruction sets that this installation was built for, plainest first."""
    folder = Path(__file__).parent / "_kernels"
    return tuple(isa for isa in _ALL_ISAS if (folder / isa).is_dir())


def _capped(found: tuple[str, ...]) -> tuple[str, ...]:
    cap = os.environ.get("FASTCONV_ISA")
    if cap is None:
        cap = _ALL_ISAS[-1]
    elif cap not in _ALL_ISAS:
        raise ImportError(f"FASTCONV_ISA: got {cap!r}; must be one of {', '.join(_ALL_ISAS)}, or unset")
    here = tuple(isa for isa in found if _ALL_ISAS.index(isa) <= _ALL_ISAS.index(cap) and isa in built_isas())
    if not here:
        built = ", ".join(built_isas()) or "nothing"
        raise ImportError(f"fastconv was built for {built}; nothing of that up to {cap} can run here")
    return here


ISAS: tuple[str, ...] = _capped(cpu.instruction_sets())
"""The instruction sets that may be used here, plainest first."""

ISA: str = ISAS[-1]
"""The one that new plans take."""

_KERNEL_MODULES = ("direct", "fft", "gemm", "pool", "rows", "separable", "winograd")
_loaded: dict[str, SimpleNamespace] = {}


def kernels(isa: str | None = None) -> Any:
    """The kernel set of an instruction set: a namespace with one compiled module per name."""
    isa = isa or ISA
    if isa not in _loaded:
        modules = {name: importlib.import_module(f"fastconv._kernels.{isa}.{name}") for name in _KERNEL_MODULES}
        _loaded[isa] = SimpleNamespace(isa=isa, **modules)
    return _loaded[isa]


_L2 = cpu.cache_sizes()[1]
L2_BYTES: int = min(max(_L2, 256 << 10), 2 << 20) if _L2 else 512 << 10
"""Of one core's second cache, within what is usual: block sizes follow it, results don't."""

# --- workers ---------------------------------------------------------------------------------------


def _cgroup_cores() -> float:
    """The CPU quota of this process's control group, in cores (inf: none)."""
    cores = math.inf
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()
        roots = [Path("/sys/fs/cgroup")]
        for line in own:
            _, controllers, group = line.split(":", 2)
            mount = Path("/sys/fs/cgroup", "cpu" if "cpu" in controllers.split(",") else "")
            folder = mount / group.lstrip("/")
            roots += [folder, *folder.parents, mount]
        for folder in dict.fromkeys(roots):
            if (folder / "cpu.max").is_file():  # version 2
                quota, period = (folder / "cpu.max").read_text().split()
                if quota != "max":
                    cores = min(cores, int(quota) / int(period))
            elif (folder / "cpu.cfs_quota_us").is_file():  # version 1
                quota = (folder / "cpu.cfs_quota_us").read_text()
                if int(quota) > 0:
                    cores = min(cores, int(quota) / int((folder / "cpu.cfs_period_us").read_text()))
    except (OSError, ValueError):
        pass  # no control groups here, or none that may be read
    return cores


_quota = max(1, math.ceil(min(_cgroup_cores(), 1 << 20)))

_default_workers: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastconv_workers", default=None)


def check_workers(workers: object) -> int | None:
    """``workers`` as given to a call: None, or an integer of at least 1."""
    if workers is None:
        return None
    try:
        n = operator.index(workers)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"workers: got {workers!r}; must be None or an integer") from None
    if n < 1:
        raise ValueError(f"workers: got {n}; must be None or at least 1")
    return n


def resolve_workers(workers: int | None) -> int:
    """How many threads a call may use: as told, else the default, else all the cores of this process."""
    if workers is None:
        workers = _default_workers.get()
        if workers is None:
            workers = min(cpu.openmp_threads(), _quota)
    elif type(workers) is not int or workers < 1:
        workers = check_workers(workers)
        assert workers is not None
    return min(workers, 256)


class Default:
    """A new default, already in force; as a context manager it is taken back at the end of the block."""

    def __init__(self, variable: contextvars.ContextVar, value: object) -> None:
        self._variable, self._token = variable, variable.set(value)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._variable.reset(self._token)


def set_workers(n: int | None) -> Default:
    """Set how many threads calls and plans use that leave ``workers=None``.

    Parameters
    ----------
    n : int or None
        At least 1; None for all the cores this process may use.

    Returns
    -------
    A context manager that restores the former default when its block ends; used as a plain call,
    the default stays. It holds for the current thread or asyncio task (``contextvars``).

    Examples
    --------
    >>> import fastconv
    >>> with fastconv.set_workers(1):
    ...     y = fastconv.conv2d([[[[1.0, 2.0]]]], [[[[3.0]]]])
    """
    return Default(_default_workers, check_workers(n))


# --- scratch memory --------------------------------------------------------------------------------

_SCRATCH_KEPT = 8  # buffers
_SCRATCH_LARGEST = 32 << 20  # bytes of one that is kept
_scratch: list[np.ndarray] = []


def take_scratch(nbytes: int) -> np.ndarray:
    """At least ``nbytes`` bytes of memory aligned to 64, contents arbitrary; hand back with give_scratch.

    Fresh pages cost more than the work of a small call, so freed buffers are kept (a few, not large).
    ``list.pop`` and ``append`` are atomic: threads and signal handlers never get the same buffer.
    """
    try:
        buffer = _scratch.pop()
        if buffer.nbytes >= nbytes:
            return buffer
    except IndexError:
        pass
    raw = np.empty(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


def give_scratch(buffer: np.ndarray) -> None:
    """Hand back what take_scratch gave; nobody may use it any more."""
    if len(_scratch) < _SCRATCH_KEPT and buffer.nbytes <= _SCRATCH_LARGEST:
        _scratch.append(buffer)


def clear_scratch() -> None:
    _scratch.clear()


# --- cost constants --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """Speeds the planner reckons with, of one core in float32; 8-byte types take twice as long."""

    gemm: float
    """Two for each multiply-add of the packed product's tile, a second."""
    direct: float
    """The same of the direct method's tiles."""
    rows: float
    """The same of its tiles for one channel."""
    separable: float
    """The same of the separable method's, down the columns."""
    bandwidth: float
    """Bytes a second of packing and copying within the caches."""
    fft: float
    """Tiles: 5*n*log2(n) for n complex points and what goes with it (algorithms/fft.py), a second."""
    provenance: str
    naive: float = 1e7
    """The reference loops: two for each multiply-add, a second."""


_ZEN3 = "measured on one core of an AMD Zen 3 server, GCC 12"
_ZEN4 = "measured on one core of an AMD Zen 4 server, GCC 12"
_RATES = {
    "baseline": Rates(20e9, 20e9, 34e9, 38e9, 8e9, 52e9, _ZEN4),
    "avx2": Rates(83e9, 85e9, 92e9, 100e9, 10e9, 60e9, _ZEN3),
    "avx512": Rates(98e9, 90e9, 100e9, 110e9, 10e9, 120e9, _ZEN4),
}
CALL_SECONDS = 8e-6  # of each kernel call, before its loops start
PARALLEL_SECONDS = 50e-6  # below this much work a second thread costs more than it brings


def rates(isa: str | None = None) -> Rates:
    """The cost constants of an instruction set, and where they were measured."""
    return _RATES[isa or ISA]
