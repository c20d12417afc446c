"""Results that are not finite, computed again by the direct sum.

Methods that mix a whole tile (SCOPE "tile") spread NaN and infinities over it, and can overflow where the direct sum
does not. Under "auto", each tile of each output channel that came out with a value that is not finite is replaced
by the direct sum of that tile, a problem of its own; everything else keeps its bytes. Stands between planner and
algorithms; knows neither, but that a tile is a pair of slices and how a plan is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv.problem import ConvProblem

__all__ = ["PackedTwice", "finite", "largest_part", "repair", "repair_weight_grad"]

Tile = tuple[slice, slice]
"""Rows and columns of a plane of the result, with start, stop and step. The step is that of the result's phases: for
a forward problem any, for an input gradient lcm(stride, dilation) of the axis (or any, for a single row)."""

MakePlan = Callable[[ConvProblem], Any]
"""The direct method's plan of a problem."""

SLICE_BYTES = 128  # of a tile's place along an axis, a Python object
RUN = 128  # columns up to which neighbouring small tiles are computed together


@dataclass(frozen=True)
class PackedTwice:
    """Packed weights, and the weights themselves for tiles that must be computed again."""

    packed: Any
    weights: np.ndarray


@np.errstate(all="ignore")
def repair(
    problem: ConvProblem, tiles: tuple[list[slice], list[slice]], direct: MakePlan, a: np.ndarray, b: np.ndarray,
    bias: np.ndarray, out: np.ndarray, workers: int,
) -> None:  # fmt: skip
    """Replace the tiles of a forward result or input gradient that are not finite. ``b``: weights, not packed."""
    results = out.shape[1] // problem.groups
    part = _forward if problem.direction == "forward" else _input_grad
    for n in range(problem.N):
        if finite(out[n]):
            continue
        for rows in tiles[0]:
            strip = out[n, :, rows]
            for run in _neighbours(tiles[1], ~np.isfinite(strip.sum(axis=(0, 1)))):
                columns = slice(run[0].start, run[-1].stop, run[0].step)
                wrong = ~np.isfinite(strip[:, :, columns]).all(axis=1)  # channels, columns of the run
                for g in range(problem.groups):
                    channels = g * results + np.flatnonzero(wrong[g * results : (g + 1) * results].any(axis=1))
                    if channels.size == 0:
                        continue
                    values = part(problem, direct, a[n : n + 1], b, bias, (rows, columns), g, channels, workers)
                    for tile in run:
                        first = (tile.start - columns.start) // columns.step
                        places = slice(first, first + len(range(strip.shape[2])[tile]))
                        mask = wrong[channels, places].any(axis=1)
                        strip[channels[mask], :, tile] = values[mask, :, places]


@np.errstate(all="ignore")
def repair_weight_grad(
    problem: ConvProblem, direct: MakePlan, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int
) -> None:
    """Replace the filters' channels that are not finite: each is summed over everything at once."""
    part = _one_group(problem)
    for g in range(problem.groups):
        channels, filters = slice(g * part.C, (g + 1) * part.C), slice(g * part.K, (g + 1) * part.K)
        wrong = ~np.isfinite(dw[filters]).all(axis=(2, 3))
        if wrong.any():
            values = np.empty(part.w_shape, dw.dtype)
            direct(part).run(x[:, channels], dy[:, filters], np.empty(0, dw.dtype), values, workers)
            dw[filters][wrong] = values[wrong]


def finite(values: np.ndarray) -> bool:
    """False where any value is NaN or infinite; may be False where very large ones add up."""
    with np.errstate(all="ignore"):  # one pass, no temporary; einsum takes half the time of sum
        contiguous = values.flags.c_contiguous
        return math.isfinite(np.einsum("i->", values.reshape(-1)) if contiguous else values.sum())


def _neighbours(tiles: list[slice], wrong: np.ndarray) -> Iterator[list[slice]]:
    """The tiles along an axis that hold places that may be wrong; neighbours together, up to RUN places."""
    run: list[slice] = []
    for tile in tiles:
        if not wrong[tile].any():
            continue
        if run and (
            (tile.start, tile.step) != (run[-1].stop, run[0].step) or tile.stop - run[0].start > RUN * tile.step
        ):
            yield run
            run = []
        run.append(tile)
    if run:
        yield run


def largest_part(problem: ConvProblem, extents: tuple[int, int]) -> tuple[ConvProblem, int]:
    """The largest direct problem that may have to be solved, and the bytes of scratch beside that problem's own.

    ``extents``: rows and columns of the largest tile.
    """
    g, item = problem.groups, problem.itemsize
    group, rows = _one_group(problem), extents[0]
    columns = max(extents[1], min(RUN, problem.out_shape[3]))
    copied = 0
    if problem.direction == "weight_grad":
        part = group
    elif problem.direction == "forward":
        step = [d // math.gcd(s, d) for s, d in zip(problem.stride, problem.dilation, strict=True)]
        tile = slice(0, rows * step[0], step[0]), slice(0, columns * step[1], step[1])
        part, _, _ = _forward_part(problem, tile, group.K)
        copied = math.prod(part.x_shape) * item
    elif problem.boundary != "constant":
        part = replace(group, N=1)
    else:
        taps = [
            -(-r // (s // math.gcd(s, d)))
            for r, s, d in zip((problem.R, problem.S), problem.stride, problem.dilation, strict=True)
        ]
        pads = (taps[0] - 1, taps[0] - 1), (taps[1] - 1, taps[1] - 1)
        part = ConvProblem(
            N=1, C=group.C, H=rows, W=columns, K=group.K, R=taps[0], S=taps[1], padding=pads, dtype=problem.dtype,
            direction="input_grad",
        )  # fmt: skip
    weights = math.prod(problem.w_shape) // g
    result, sums = math.prod(part.out_shape), problem.out_shape[3] * item
    slices = SLICE_BYTES * sum(-(-n // extent) for n, extent in zip(problem.out_shape[2:], extents, strict=True))
    return part, copied + (weights + 2 * result) * item + g * result + sums + slices


def _one_group(problem: ConvProblem) -> ConvProblem:
    g = problem.groups
    return replace(problem, C=problem.C // g, K=problem.K // g, groups=1, layout="NCHW")


def _places(part: slice, extent: int) -> tuple[int, int, int]:
    """First, step and number of a slice's places."""
    places = range(extent)[part]
    return places[0], places.step, len(places)


# --- forward: the window rows of the tile, gathered ---------------------------------------------------


def _forward_part(problem: ConvProblem, tile: Tile, filters: int) -> tuple[ConvProblem, np.ndarray, np.ndarray]:
    """The tile's problem and the padded rows and columns that it reads."""
    read, strides, dilations = [], [], []
    for axis, part in enumerate(tile):
        first, step, count = _places(part, (problem.P, problem.Q)[axis])
        stride, dilation = problem.stride[axis] * (step if count > 1 else 1), problem.dilation[axis]
        common = math.gcd(stride, dilation)  # only every so many-th row is read
        strides.append(stride // common)
        dilations.append(dilation // common)
        kernel = (problem.R, problem.S)[axis]
        reach = (count - 1) * strides[axis] + (kernel - 1) * dilations[axis]
        read.append(first * problem.stride[axis] + common * np.arange(reach + 1))
    part_problem = ConvProblem(
        N=1, C=problem.C // problem.groups, H=len(read[0]), W=len(read[1]), K=filters, R=problem.R, S=problem.S,
        stride=(strides[0], strides[1]), dilation=(dilations[0], dilations[1]), dtype=problem.dtype,
    )  # fmt: skip
    return part_problem, read[0], read[1]


def _forward(
    problem: ConvProblem, direct: MakePlan, x: np.ndarray, w: np.ndarray, bias: np.ndarray, tile: Tile, g: int,
    filters: np.ndarray, workers: int,
) -> np.ndarray:  # fmt: skip
    part, rows, columns = _forward_part(problem, tile, len(filters))
    rows, columns = problem.rows()[rows], problem.columns()[columns]
    window = x[0, g * part.C : (g + 1) * part.C][:, rows[:, None], columns]
    window[:, rows < 0] = problem.compute_cval
    window[:, :, columns < 0] = problem.compute_cval
    values = np.empty(part.y_shape, x.dtype)
    direct(part).run(window[None], w[filters], bias[filters] if bias.size else bias, values, workers)
    return values[0]


# --- input gradient: the windows of dy that reach the tile ----------------------------------------------


def _input_grad_part(problem: ConvProblem, tile: Tile, channels: int) -> tuple[ConvProblem, Tile, Tile]:
    """The tile's problem, at stride and dilation 1, and which windows of dy and taps of w it takes.

    The rows u = u0 + i*step of the tile meet the taps r = t + (s/g)*j and windows p = p0 + (d/g)*(i - j) alone.
    """
    windows, taps, pads, extents = [], [], [], []
    for axis, part in enumerate(tile):
        first, _, count = _places(part, (problem.H, problem.W)[axis])
        stride, dilation = problem.stride[axis], problem.dilation[axis]
        kernel, outputs = (problem.R, problem.S)[axis], (problem.P, problem.Q)[axis]
        common = math.gcd(stride, dilation)
        tap_step, window_step = stride // common, dilation // common
        u = first + problem.padding[axis][0]
        t = next(t for t in range(tap_step) if (u - t * dilation) % stride == 0)
        p = (u - t * dilation) // stride
        taps.append(slice(t, None, tap_step))
        reach = len(range(t, kernel, tap_step)) - 1
        before = min(reach, p // window_step)  # windows before p that reach the first row
        start = p - before * window_step
        last = min(p + (count - 1) * window_step, outputs - 1)
        start = min(start, last - (last - p) % window_step)
        used = (last - start) // window_step + 1
        before = (p - start) // window_step
        windows.append(slice(start, last + 1, window_step))
        pads.append((before, used + reach - count - before))
        extents.append((count, reach + 1))
    part_problem = ConvProblem(
        N=1, C=channels, H=extents[0][0], W=extents[1][0], K=problem.K // problem.groups, R=extents[0][1],
        S=extents[1][1], padding=(pads[0], pads[1]), dtype=problem.dtype, direction="input_grad",
    )  # fmt: skip
    return part_problem, (windows[0], windows[1]), (taps[0], taps[1])


def _input_grad(
    problem: ConvProblem, direct: MakePlan, dy: np.ndarray, w: np.ndarray, bias: np.ndarray, tile: Tile, g: int,
    channels: np.ndarray, workers: int,
) -> np.ndarray:  # fmt: skip
    if problem.boundary == "constant":
        part, windows, taps = _input_grad_part(problem, tile, len(channels))
    else:
        part, windows, taps = replace(_one_group(problem), N=1, C=len(channels)), tile, tile
    filters = slice(g * part.K, (g + 1) * part.K)
    values = np.empty(part.x_shape, dy.dtype)
    inputs = channels - g * (problem.C // problem.groups)
    weights = w[filters][:, inputs][:, :, *taps]
    direct(part).run(dy[:, filters, *windows], weights, bias[channels] if bias.size else bias, values, workers)
    return values[0]
