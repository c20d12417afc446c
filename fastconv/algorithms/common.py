"""What several algorithms share: costs, the bound of a plain sum, views of the weights, blocks of scratch.

Knows problems, arrays and the machine's scratch memory; no algorithm and no user input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.problem import ConvProblem

__all__ = ["KINDS", "PREFIX", "Cost", "add_up", "even", "grouped", "scratch", "sum_bound", "up"]

PREFIX = {"float32": "f32", "float64": "f64", "uint64": "u64"}
"""The kernels' names begin with their dtype."""
KINDS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
"""What some kernels convert in passing, numbered from 1 in this order (src_cython/simd/convert.h); 0: nothing to do."""


@dataclass(frozen=True)
class Cost:
    """What an algorithm reckons a problem takes. Seconds are the planner's: it knows the machine's rates."""

    flops: float
    """Two for each multiply-add done, useful or not."""
    bytes: float
    """Moved by packing and copying, beside the product itself."""
    shared: int
    """Bytes of scratch that all workers share."""
    worker: int
    """Bytes of scratch of each worker."""
    rate: str
    """Which of machine.Rates the flops run at."""
    calls: float = 1
    """Kernel calls; less than 1 is one that begins sooner than machine.CALL_SECONDS says."""


def up(extent: int, block: int) -> int:
    """The next multiple of ``block``."""
    return -(-extent // block) * block


def even(extent: int, most: int) -> int:
    """A block of at most ``most``, of as equal ones as can be; 0 of nothing."""
    return -(-extent // max(-(-extent // most), 1))


def sum_bound(problem: ConvProblem) -> float:
    """e of |y - exact| <= e * sum |a||b| for a sum of n products in any order, with or without fused multiply-add.

    n*u / (1 - n*u) with u the unit roundoff (N. Higham, Accuracy and Stability of Numerical Algorithms, 2002,
    section 3.1); float16 results are rounded once more; integers are exact.
    """
    if problem.dtype == "int64":
        return 0.0
    n = (problem.terms + 1) * float(np.finfo(problem.compute_dtype).eps) / 2  # one more term: the bias
    if n >= 0.5:
        return math.inf
    e = n / (1 - n)
    return e if problem.dtype != "float16" else e + 2.0**-11 * (1 + e)


def grouped(w: np.ndarray, groups: int) -> np.ndarray:
    """A view of the weights as (groups, K/groups, C/groups, R, S)."""
    return w.reshape(groups, w.shape[0] // groups, *w.shape[1:])


def add_up(parts: np.ndarray, out: np.ndarray) -> None:
    """out = the sum of the parts, in their order."""
    with np.errstate(all="ignore"):  # NaN and Inf go where IEEE arithmetic sends them
        out[...] = parts[0]
        for part in parts[1:]:
            out += part


class scratch:
    """Scratch memory for the duration of a block. (A class: a generator would take a microsecond of every call.)"""

    __slots__ = ("buffer", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def __enter__(self) -> Any:
        self.buffer = machine.take_scratch(self.nbytes)
        return self.buffer

    def __exit__(self, *_: object) -> None:
        machine.give_scratch(self.buffer)
