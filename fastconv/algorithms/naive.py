"""The reference itself as a method: what everything else is compared with, for results and for time."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import reference
from fastconv.algorithms.common import Cost, sum_bound
from fastconv.problem import ConvProblem

NAME = "naive"
SCOPE, ELEMENTWISE = "window", True


def why_not(problem: ConvProblem) -> str | None:
    return None


def variant(problem: ConvProblem) -> str:
    return "loops"


def cost(problem: ConvProblem, isa: str) -> Cost:
    padded = int(np.prod(problem.padded_shape, dtype=object)) * problem.itemsize
    result = int(np.prod(problem.out_shape, dtype=object)) * problem.itemsize
    window = problem.C // problem.groups * problem.R * problem.S * problem.itemsize
    return Cost(problem.flops, padded, padded + result + window, 0, "naive")


def error_bound(problem: ConvProblem) -> float:
    return sum_bound(problem)


def prepare(problem: ConvProblem, isa: str) -> None:
    return None


def pack(plan: Any, w: np.ndarray) -> np.ndarray:
    return w.copy()


def run(plan: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    operation = getattr(reference, plan.problem.direction)
    with np.errstate(all="ignore"):  # NaN and Inf go where IEEE arithmetic sends them
        result = operation(a, b, plan.problem)
        out[...] = result + bias[:, None, None] if bias.size else result
