"""The input gradient as forward convolutions of dy with turned filters: one for each output phase.

With u = h + top a padded row, dx[u] = sum_{p, r: p*s + r*d = u} dy[p] w[r]. Rows u of one phase a = u mod s meet only
the taps with r*d = a mod s, every s/gcd(s, d)-th one, and along u = a + s*i and those taps, p advances by 1 and by
d/gcd(s, d): a convolution at stride 1 with a part of the filter, turned. No zeros are inserted and no product is
wasted. At stride 1 there is one phase, the whole filter. (V. Dumoulin and F. Visin, A guide to convolution
arithmetic for deep learning, 2016, describes the form with inserted zeros that this replaces.)

A rewrite that any algorithm may use for a gradient; knows problems and views, no algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastconv.algorithms.common import grouped
from fastconv.problem import ConvProblem

__all__ = ["Phase", "covers", "fold", "phases", "run", "turned"]


@dataclass(frozen=True)
class Phase:
    """One output phase: rows and columns ``out`` of dx are a forward convolution of dy with the taps ``taps`` of w."""

    out: tuple[slice, slice]
    taps: tuple[slice, slice]
    problem: ConvProblem
    """The forward problem."""


def phases(problem: ConvProblem) -> list[Phase]:
    """The phases that have taps. With a boundary other than constant, of the gradient of the whole padded image."""
    axes = []
    for axis in range(2):
        extent, before = (problem.H, problem.W)[axis], problem.padding[axis][0]
        if problem.boundary != "constant":
            extent, before = extent + sum(problem.padding[axis]), 0
        kernel, windows = (problem.R, problem.S)[axis], (problem.P, problem.Q)[axis]
        axes.append(_axis(extent, before, kernel, windows, problem.stride[axis], problem.dilation[axis]))
    return [
        Phase(
            (h.out, w.out),
            (h.taps, w.taps),
            ConvProblem(
                N=problem.N, C=problem.K, H=problem.P, W=problem.Q, K=problem.C, R=h.size, S=w.size,
                padding=(h.pads, w.pads), dilation=(h.spread, w.spread), groups=problem.groups, dtype=problem.dtype,
                exact_in=problem.exact_in,
            ),
        )
        for h in axes[0]
        for w in axes[1]
    ]  # fmt: skip


def covers(problem: ConvProblem) -> bool:
    """Do the phases write every element of dx? Otherwise it starts as zeros: pixels that no window reaches."""
    pairs = zip(problem.stride, problem.dilation, (problem.R, problem.S), strict=True)
    return all(math.gcd(s, d) == 1 and r >= s for s, d, r in pairs)


@dataclass(frozen=True)
class _AxisPhase:
    out: slice
    taps: slice
    size: int
    pads: tuple[int, int]
    spread: int


def _axis(extent: int, before: int, kernel: int, windows: int, stride: int, dilation: int) -> list[_AxisPhase]:
    """The phases of one axis that have taps."""
    common = math.gcd(stride, dilation)
    step, spread = stride // common, dilation // common
    found = []
    for tap in range(min(kernel, step)):  # the first tap of each phase
        a = tap * dilation % stride
        first = max(-(-(before - a) // stride), 0)  # the first i whose row u = a + stride*i lies inside dx
        start = a + stride * first - before
        if start >= extent:
            continue
        count, size = -(-(extent - start) // stride), len(range(tap, kernel, step))
        reach = (size - 1) * spread
        pad_before = reach + (tap * dilation - a) // stride - first
        pads = (pad_before, count + reach - windows - pad_before)
        found.append(_AxisPhase(slice(start, None, stride), slice(tap, None, step), size, pads, spread))
    return found


def turned(w: np.ndarray, groups: int, taps: tuple[slice, slice]) -> np.ndarray:
    """The filters of one phase, turned by 180 degrees, inputs and outputs exchanged: (groups, C, K, R', S'), a view."""
    return grouped(w, groups)[..., taps[0], taps[1]][..., ::-1, ::-1].transpose(0, 2, 1, 3, 4)


def run(problem: ConvProblem, one: Callable, dy: np.ndarray, bias: np.ndarray, dx: np.ndarray) -> None:
    """dx by ``one(dy, bias, dx)``, which writes the pixels of the phases of its dx: the padded image's, a sample at a
    time, where that has to be folded."""
    if problem.boundary == "constant":
        if not covers(problem):
            dx[...] = bias[:, None, None] if bias.size else 0
        one(dy, bias, dx)
        return
    padded = np.zeros((1, *problem.padded_shape[1:]), dx.dtype)
    for n in range(problem.N):
        one(dy[n : n + 1], bias, padded)
        fold(padded, problem, dx[n : n + 1])


@np.errstate(all="ignore")  # NaN and Inf go where IEEE arithmetic sends them
def fold(padded: np.ndarray, problem: ConvProblem, dx: np.ndarray) -> None:
    """The adjoint of padding: dx[..., h, j] = sum of padded[..., u, v] over rows[u] == h, columns[v] == j."""
    rows, columns = problem.rows(), problem.columns()
    (top, _), (left, _) = problem.padding
    height, width = problem.H, problem.W
    dx[...] = padded[:, :, top : top + height, left : left + width]
    for v in (*range(left), *range(left + width, len(columns))):
        if columns[v] >= 0:
            dx[..., columns[v]] += padded[:, :, top : top + height, v]
    for u in (*range(top), *range(top + height, len(rows))):
        if rows[u] < 0:
            continue
        dx[:, :, rows[u]] += padded[:, :, u, left : left + width]
        for v in (*range(left), *range(left + width, len(columns))):
            if columns[v] >= 0:
                dx[:, :, rows[u], columns[v]] += padded[:, :, u, v]
