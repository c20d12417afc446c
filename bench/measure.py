"""A row ready to be timed, the check of its result, and facts about the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv as fc

LIBRARIES = ("fastconv", "numpy", "scipy", "scikit-image", "torch", "opencv-python-headless", "opencv-python")


def parametrize(rows: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    """The mark that runs a benchmark once for each (workload, row)."""
    rows = list(rows)
    return pytest.mark.parametrize(("workload", "row"), rows, ids=["-".join(row) for row in rows])


@dataclass
class Run:
    """One row, ready to be timed."""

    call: Callable[[], Any]
    expected: Any
    """The right result: an array, or None where there is nothing to compare."""
    work: float
    """What one call of the whole workload does, in ``unit``."""
    unit: str = "FLOP"
    scale: float = 1.0
    """The workload's work over that of what is timed: times are multiplied by it."""
    tolerance: float = 2e-4
    """Largest difference from ``expected``, relative to its largest element."""
    kind: str = "peer"
    details: dict[str, Any] = field(default_factory=dict)


def cpu_model() -> str:
    """As the system gives it; the architecture where it gives none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def compare(result: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert result.shape == expected.shape, f"the result has shape {result.shape}, not {expected.shape}"
    scale = max(float(np.abs(expected).max()), 1e-30)
    difference = float(np.abs(result - expected).max()) / scale
    assert difference <= tolerance, f"the result is off by {difference:.1e} of its largest element"


def isa() -> str:
    return fc.plan_conv2d((1, 1, 3, 3), (1, 1, 3, 3)).isa


def versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {"fastconv": fc.__version__} | found
