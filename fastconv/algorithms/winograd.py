"""Winograd's minimal filtering at stride 1: F(4x4,3x3) and F(4x4,5x5) with 4 and 6.25 times fewer multiplications.

F(2x2,3x3) and F(2x2,5x5) serve small maps and tight error bounds. F(6x6,3x3) saves most (5 times) and errs most: it
serves only where max_error admits it.

Forward and input gradient (a forward convolution with turned filters); dilation by phases; groups one after another.
Kernel: src_cython/winograd.pyx, which draws the layouts; this module chooses block sizes and the order of the loops.
A value that is not finite spreads over its tile. (A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural
Networks, 2016; on points and errors B. Barabasz et al., Error analysis and improving the accuracy of Winograd
convolution for deep neural networks, 2020.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms import phases
from fastconv.algorithms.common import PREFIX, Cost, grouped, scratch, up
from fastconv.problem import ConvProblem

POINTS = {4: (1.0,), 6: (0.625, 1.5), 8: (0.5, 1.0, 2.0)}
"""By their number, pairs +-p beside 0 and infinity; as in simd/winograd_tile.h."""
MANY_FILTERS = 2 << 20  # bytes of transformed filters from which their own L2 is worth a second look at the tiles
FEW_TILES = 8 << 20  # bytes of transformed tiles up to which they may wait for the filters
FILTER_BLOCK = 512 << 10  # bytes of transformed filters at a time, where tiles are few
LEAST_TILES = 6  # of a chunk: fewer waste the products
WEIGHT_TILES = 4 << 20  # bytes of transformed tiles of x and dy that a weight gradient keeps at a time
WEIGHT_GROUPS, WEIGHT_BLOCKS = 4, 4  # vectors of channels in a block of sums at the most; such blocks at the least


# --- error -----------------------------------------------------------------------------------------


@cache
def _amplification(pairs: tuple[float, ...], outputs: int, taps: int) -> float:
    """max over outputs of sum_i |A_i| ||G_i|| ||B_i||, i over the points: what one dimension makes of an error."""
    squares = [p * p for p in pairs]
    whole = np.poly(squares)[::-1]  # coefficients of prod (y - p^2), lowest first
    rows_b, rows_g, rows_a = [np.linalg.norm(whole)], [1 / abs(whole[0])], [np.eye(1, outputs, 0)[0]]
    for i, p in enumerate(pairs):
        others = np.atleast_1d(np.poly(squares[:i] + squares[i + 1 :]))[::-1]
        scale = 2 * p * p * abs(np.polyval(others[::-1], p * p))
        for _ in range(2):
            rows_b.append(np.hypot(np.linalg.norm(others), p * np.linalg.norm(others)))
            rows_g.append(np.linalg.norm(p ** np.arange(taps)) / scale)
            rows_a.append(p ** np.arange(outputs))
    rows_b.append(np.linalg.norm(whole))
    rows_g.append(1.0)
    rows_a.append(np.eye(1, outputs, outputs - 1)[0])
    return float((np.array(rows_a).T @ (np.array(rows_b) * np.array(rows_g))).max())


def _error_bound(problem: ConvProblem, m: int) -> float:
    """Roundings of the longest path times the square of the amplification (both dimensions), by Cauchy-Schwarz.

    With |B^T| |d| <= ||B_i|| ||d|| for each frequency and likewise for the filters, n roundings on the way from an
    operand to an output (3 a transform and dimension for 6 points, 4 for 8, and the sum over channels) give
    |y - exact| <= n u / (1 - n u) * amplification^2 * sum_c ||tile|| ||filter||.
    """
    u = float(np.finfo(problem.compute_dtype).eps) / 2
    pairs, tiling = POINTS[problem.R + m - 1], (m, problem.R)
    if problem.direction == "weight_grad":
        depth, tiling = problem.N * (-(-problem.P // m)) * (-(-problem.Q // m)), (problem.R, m)
    else:
        depth = (problem.K if problem.direction == "input_grad" else problem.C) // problem.groups
    n = (depth + 8 * (len(pairs) + 2)) * u
    if n >= 0.5:
        return math.inf
    e = n / (1 - n) * _amplification(pairs, *tiling) ** 2
    return e if problem.dtype != "float16" else e + 2.0**-11 * (1 + e)


# --- blocks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Blocks:
    """Sizes as the kernel takes them, scratch, and which loop is outside."""

    sizes: tuple[int, ...]
    filters_outside: bool
    packed: int
    """Elements of the transformed filters of one group."""
    tiles: int
    """Elements of the transformed tiles that all workers share, if filters are outside."""
    worker_bytes: int


def _forward_problem(problem: ConvProblem) -> ConvProblem:
    """What the kernel computes: an input gradient is a forward convolution of dy."""
    if problem.direction == "forward" or problem.C == 0:
        return problem
    return phases.phases(problem)[0].problem


def _phase_extents(problem: ConvProblem) -> tuple[int, int]:
    """Outputs of the largest dilation phase."""
    return -(-problem.P // problem.dilation[0]), -(-problem.Q // problem.dilation[1])


def _blocks(problem: ConvProblem, m: int, isa: str, extents: tuple[int, int], once: bool) -> _Blocks:
    """Of one group and dilation phase with ``extents`` outputs; ``once``: the filters serve no other phase or call."""
    kernel = machine.kernels(isa).winograd
    item, taps = problem.itemsize, problem.R
    lanes = kernel.BYTES // item
    points = taps + m - 1
    frequencies, line = points * points, max(64 // item, lanes)
    c, k = max(problem.C // problem.groups, 1), problem.K // problem.groups
    channels, filters = up(c, lanes), up(k, 2 * lanes)
    tiles_p, tiles_q = -(-extents[0] // m), -(-extents[1] // m)
    tiles = max(problem.N, 1) * tiles_p * tiles_q  # an empty batch is planned, too
    packed = filters // (2 * lanes) * frequencies * (channels * 2 * lanes + line)
    shared = frequencies * (channels * tiles + line)
    filters_outside = once and packed * item > MANY_FILTERS and shared * item <= FEW_TILES
    run = min(tiles_q, kernel.LONGEST_RUN)
    pixels = points * ((run - 1) * m + points)
    patch = max(pixels, m * kernel.LONGEST_RUN * m, kernel.LOADED, 2 * taps * taps) * lanes
    chunk = min(tiles, 2 * kernel.TILES if kernel.TILES > 8 else 4 * kernel.TILES)
    block_c = channels
    if filters_outside:
        if tiles <= 2 * chunk:
            chunk = tiles
            block_c = min(max(FILTER_BLOCK // (frequencies * 2 * lanes * item) // lanes, 1) * lanes, channels)
        elements = frequencies * (block_c * 2 * lanes + line) + frequencies * (chunk * 2 * lanes + line) + patch
    else:
        elements = frequencies * (channels * chunk + line) + frequencies * (chunk * 2 * lanes + line) + patch
    sizes = (points, points, m, problem.N, tiles_p, tiles_q, chunk, chunk, block_c, k, *extents, taps)
    return _Blocks(sizes, filters_outside, packed, shared, up(elements * item, 64))


@dataclass(frozen=True)
class _WeightBlocks:
    """Sizes as the kernel takes them, and elements of the scratch that all workers share."""

    sizes: tuple[int, ...]
    x_tiles: int
    dy_tiles: int
    sums: int
    worker_bytes: int


def _weight_blocks(problem: ConvProblem, m: int, isa: str, extents: tuple[int, int]) -> _WeightBlocks:
    kernel = machine.kernels(isa).winograd
    item, taps = problem.itemsize, problem.R
    lanes = kernel.BYTES // item
    points = taps + m - 1
    frequencies, line = points * points, max(64 // item, lanes)
    c, k = max(problem.C // problem.groups, 1), problem.K // problem.groups
    channels, filters = up(c, lanes), up(k, 2 * lanes)
    tiles_p, tiles_q = -(-extents[0] // m), -(-extents[1] // m)
    tiles = max(problem.N, 1) * tiles_p * tiles_q  # an empty batch is planned, too
    run = kernel.LONGEST_RUN
    chunk = max(WEIGHT_TILES // (frequencies * (channels + filters) * item) // run, 2) * run
    chunk = min(-(-tiles // -(-tiles // chunk)), tiles)
    k_blocks, groups = filters // (2 * lanes), channels // lanes
    block_c = lanes * max(min(groups, WEIGHT_GROUPS, groups * k_blocks // WEIGHT_BLOCKS), 1)
    block = frequencies * (block_c * 2 * lanes + line)  # sums of one block of channels and filters
    whole = chunk == tiles and problem.dilation == (1, 1)
    sums = 1 if whole else -(-channels // block_c) * k_blocks * block
    patch = points * ((min(run, tiles_q) - 1) * m + points) * lanes
    worker = max(patch, block + lanes * taps * taps * lanes)
    sizes = (points, points, m, problem.N, tiles_p, tiles_q, chunk, chunk, block_c, k, *extents, taps)
    x_tiles, dy_tiles = (frequencies * (wide * chunk + line) for wide in (channels, filters))
    return _WeightBlocks(sizes, x_tiles, dy_tiles, sums, up(worker * item, 64))


def _once(problem: ConvProblem) -> bool:
    return problem.dilation == (1, 1)


def _cost(problem: ConvProblem, m: int, isa: str) -> Cost:
    if problem.direction == "weight_grad":
        return _weight_cost(problem, m, isa)
    problem = _forward_problem(problem)
    blocks = _blocks(problem, m, isa, _phase_extents(problem), _once(problem))
    points, _, _, n, tiles_p, tiles_q, *_ = blocks.sizes
    item, lanes = problem.itemsize, machine.kernels(isa).winograd.BYTES // problem.itemsize
    groups, count = problem.groups, problem.dilation[0] * problem.dilation[1]
    channels, filters = up(problem.C // groups, lanes), up(problem.K // groups, 2 * lanes)
    tiles, frequencies = n * tiles_p * tiles_q * count, points * points
    products = 2 * tiles * frequencies * channels * filters * groups
    # A vector goes through a transform of POINTS points in about as many multiply-adds as it has elements.
    transforms = 4 * frequencies * groups * (tiles * (channels + filters) + channels * filters)
    few = products / lanes if tiles < 4 else 0  # a product of few tiles waits for its own sums
    moved = (2 * tiles * frequencies * (channels + filters) + 2 * channels * filters * frequencies) * groups * item
    shared = (blocks.tiles if blocks.filters_outside else blocks.packed) * item
    return Cost(products + transforms + few, moved / 4, shared, blocks.worker_bytes, "gemm", groups * count * 2)


def _weight_cost(problem: ConvProblem, m: int, isa: str) -> Cost:
    blocks = _weight_blocks(problem, m, isa, _phase_extents(problem))
    points, _, _, n, tiles_p, tiles_q, *_ = blocks.sizes
    item, lanes = problem.itemsize, machine.kernels(isa).winograd.BYTES // problem.itemsize
    groups, count = problem.groups, problem.dilation[0] * problem.dilation[1]
    channels, filters = up(problem.C // groups, lanes), up(problem.K // groups, 2 * lanes)
    tiles, frequencies = n * tiles_p * tiles_q * count, points * points
    products = 2 * tiles * frequencies * channels * filters * groups
    transforms = 4 * frequencies * groups * (tiles * (channels + filters) + channels * filters)
    moved = (2 * tiles * frequencies * (channels + filters) + 2 * channels * filters * frequencies) * groups * item
    shared = (blocks.x_tiles + blocks.dy_tiles + blocks.sums) * item
    return Cost(products + transforms, moved / 4, shared, blocks.worker_bytes, "gemm", groups * count * 2)


# --- running ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PhaseTables:
    """One dilation phase: its outputs, index vectors, and where its rows of x lie in a line."""

    out: tuple[slice, slice]
    rows: np.ndarray
    columns: np.ndarray
    inside: tuple[int, int, int, int]
    blocks: Any
    """_Blocks, or _WeightBlocks"""
    dy_rows: np.ndarray
    """Index vectors of dy in a weight gradient: its own rows, then zeros up to the last tile's end."""
    dy_columns: np.ndarray


@dataclass(frozen=True)
class _Tables:
    problem: ConvProblem
    kernel: Any
    prefix: str
    phases: tuple[_PhaseTables, ...]


def _to_tile_ends(index: np.ndarray, outputs: int, m: int, beyond: int) -> np.ndarray:
    """The index vector cut or filled with zeros (-2) to the end of the last tile."""
    length = up(outputs, m) + beyond
    return np.concatenate([index, np.full(length, -2)])[:length]


def _folds(problem: ConvProblem) -> bool:
    """Do results of several tiles meet in one pixel?"""
    return problem.direction == "input_grad" and problem.boundary != "constant"


def _tables(problem: ConvProblem, m: int, isa: str) -> _Tables:
    found = []
    (dh, dw), taps = problem.dilation, problem.R
    rows, columns = problem.rows(), problem.columns()
    for a in range(min(dh, problem.P)):
        for b in range(min(dw, problem.Q)):
            extents = -(-(problem.P - a) // dh), -(-(problem.Q - b) // dw)
            if problem.direction == "weight_grad":
                blocks: Any = _weight_blocks(problem, m, isa, extents)
            else:
                blocks = _blocks(problem, m, isa, extents, _once(problem))
            own = (
                _to_tile_ends(rows[a::dh], extents[0], m, taps - 1),
                _to_tile_ends(columns[b::dw], extents[1], m, taps - 1),
            )
            dy_own = [_to_tile_ends(np.arange(extent), extent, m, 0) for extent in extents]
            # Column j of the phase lies at padded column b + j*dw, in the image from `left` on for W columns.
            left = problem.padding[1][0]
            inside = max(-(-(left - b) // dw), 0)
            outside = max(min(-(-(left + problem.W - b) // dw), len(columns[b::dw])), inside)
            place = (inside, outside, b - left, dw)
            found.append(_PhaseTables((slice(a, None, dh), slice(b, None, dw)), *own, place, blocks, *dy_own))
    kernel = machine.kernels(isa).winograd
    return _Tables(problem, kernel, PREFIX[problem.compute_dtype], tuple(found))


def _filters(plan: Any, w: np.ndarray) -> np.ndarray:
    """The filters of the forward problem by group, not turned yet: (groups, K, C, R, R), a view."""
    five = grouped(w, plan.problem.groups)
    return five.transpose(0, 2, 1, 3, 4) if plan.problem.direction == "input_grad" else five


def _transform(plan: Any, w: np.ndarray, packed: np.ndarray, workers: int) -> None:
    tables = plan.tables
    blocks = tables.phases[0].blocks
    flip = plan.problem.direction == "input_grad"
    with scratch(blocks.worker_bytes * workers) as memory:
        for filters, to in zip(_filters(plan, w), packed, strict=True):
            getattr(tables.kernel, tables.prefix + "_pack")(
                filters, flip, blocks.sizes, to, memory, blocks.worker_bytes, workers
            )


def _packed_shape(plan: Any) -> tuple[int, int]:
    return plan.tables.problem.groups, plan.tables.phases[0].blocks.packed


def _pack(plan: Any, w: np.ndarray) -> np.ndarray:
    packed = np.empty(_packed_shape(plan), w.dtype)
    _transform(plan, w, packed, 1)
    return packed


def _run(plan: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    tables: _Tables = plan.tables
    if plan.problem.direction == "weight_grad":
        _weight_grad(tables, a, b, out, workers)
        return
    if b.ndim == 2:
        _samples(plan, a, None, b, bias, out, workers)
    elif tables.phases[0].blocks.filters_outside:
        _samples(plan, a, b, None, bias, out, workers)
    else:
        shape = _packed_shape(plan)
        nbytes = math.prod(shape) * b.itemsize
        with scratch(nbytes) as memory:
            packed = memory[:nbytes].view(b.dtype).reshape(shape)
            _transform(plan, b, packed, workers)
            _samples(plan, a, None, packed, bias, out, workers)


def _samples(
    plan: Any,
    a: np.ndarray,
    w: np.ndarray | None,
    packed: np.ndarray | None,
    bias: np.ndarray,
    out: np.ndarray,
    workers: int,
) -> None:
    """The forward problem; where a gradient of padding must be folded into dx, sample by sample."""
    if plan.problem.direction == "forward" or plan.problem.boundary == "constant":
        _forward(plan, a, w, packed, bias, out, workers)
        return
    padded = np.empty((1, *plan.problem.padded_shape[1:]), out.dtype)
    for n in range(plan.problem.N):
        _forward(plan, a[n : n + 1], w, packed, bias, padded, workers)
        phases.fold(padded, plan.problem, out[n : n + 1])


def _shares(sizes: tuple[int, ...], images: int, workers: int) -> tuple[int, ...]:
    """The sizes for so many images, in as many chunks as give every worker the same; no sum depends on them."""
    points, size, m, _, tiles_p, tiles_q, chunk, *rest = sizes
    tiles = images * tiles_p * tiles_q
    chunk = max(-(-tiles // up(-(-tiles // chunk), workers)), min(chunk, LEAST_TILES))
    return (points, size, m, images, tiles_p, tiles_q, chunk, *rest)


def _forward(
    plan: Any,
    x: np.ndarray,
    w: np.ndarray | None,
    packed: np.ndarray | None,
    bias: np.ndarray,
    y: np.ndarray,
    workers: int,
) -> None:
    tables: _Tables = plan.tables
    problem = tables.problem
    c, k = problem.C // problem.groups, problem.K // problem.groups
    flip = plan.problem.direction == "input_grad"
    for phase in tables.phases:
        blocks = phase.blocks
        part = y[:, :, phase.out[0], phase.out[1]]
        places = (phase.rows, phase.columns, phase.inside)
        with scratch(blocks.worker_bytes * workers) as memory:
            tail = (memory, blocks.worker_bytes, workers)
            for g in range(problem.groups):
                own_x, own_y = x[:, g * c : (g + 1) * c], part[:, g * k : (g + 1) * k]
                own_bias = bias[g * k : (g + 1) * k]
                sizes = _shares(blocks.sizes, x.shape[0], workers)
                if packed is not None:
                    getattr(tables.kernel, tables.prefix + "_tiles_outside")(
                        own_x, packed[g], own_bias, own_y, problem.compute_cval, sizes, *places, *tail
                    )
                else:
                    assert w is not None
                    with scratch(blocks.tiles * problem.itemsize) as tiles:
                        getattr(tables.kernel, tables.prefix + "_filters_outside")(
                            own_x, _filters(plan, w)[g], flip, own_bias, own_y, problem.compute_cval, sizes, *places,
                            tiles[: blocks.tiles * problem.itemsize].view(y.dtype), *tail,
                        )  # fmt: skip


def _weight_grad(tables: _Tables, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int) -> None:
    problem = tables.problem
    c, k = problem.C // problem.groups, problem.K // problem.groups
    sizes = [max(getattr(phase.blocks, name) for phase in tables.phases) for name in ("x_tiles", "dy_tiles", "sums")]
    worker_bytes = max(phase.blocks.worker_bytes for phase in tables.phases)
    with scratch((sum(sizes) + 48) * problem.itemsize) as shared, scratch(worker_bytes * workers) as memory:
        parts = shared[: shared.nbytes // 64 * 64].view(dw.dtype)
        starts = np.cumsum([0, *(up(size, 16) for size in sizes)])
        v, d, sums = (parts[start : start + size] for start, size in zip(starts, sizes, strict=False))
        for g in range(problem.groups):
            own_x, own_dy = x[:, g * c : (g + 1) * c], dy[:, g * k : (g + 1) * k]
            for i, phase in enumerate(tables.phases):
                rows, columns = phase.out
                getattr(tables.kernel, tables.prefix + "_weight_grad")(
                    own_x, own_dy[:, :, rows, columns], dw[g * k : (g + 1) * k], problem.compute_cval,
                    phase.blocks.sizes, phase.rows, phase.columns, phase.inside, phase.dy_rows, phase.dy_columns,
                    i == 0, i == len(tables.phases) - 1, v, d, sums, memory, worker_bytes, workers,
                )  # fmt: skip


class Winograd:
    """Minimal filtering with tiles of ``outputs`` x ``outputs`` (see fastconv.algorithms for the parts)."""

    NAME = "winograd"
    SCOPE, ELEMENTWISE = "tile", False
    pack = staticmethod(_pack)
    run = staticmethod(_run)

    def __init__(self, outputs: int, on_request: bool = False) -> None:
        self.outputs = outputs
        self.ON_REQUEST = on_request

    def why_not(self, problem: ConvProblem) -> str | None:
        if problem.dtype == "int64":
            return "integers would not be exact"
        if problem.R != problem.S or problem.R not in (3, 5) or problem.R + self.outputs - 1 not in POINTS:
            sizes = "3x3" if self.outputs == 6 else "3x3 or 5x5"
            return f"filters of {problem.R}x{problem.S} have no such variant; must be {sizes}"
        if problem.stride != (1, 1):
            return f"its stride is {problem.stride}; must be 1"
        return None

    def variant(self, problem: ConvProblem) -> str:
        tiling = (self.outputs, problem.R) if problem.direction != "weight_grad" else (problem.R, self.outputs)
        return "F({0}x{0},{1}x{1})".format(*tiling)

    def error_bound(self, problem: ConvProblem) -> float:
        return _error_bound(problem, self.outputs)

    def cost(self, problem: ConvProblem, isa: str) -> Cost:
        return _cost(problem, self.outputs, isa)

    def prepare(self, problem: ConvProblem, isa: str) -> _Tables:
        forward = problem if problem.direction == "weight_grad" else _forward_problem(problem)
        return _tables(forward, self.outputs, isa)

    def tile_extents(self, problem: ConvProblem) -> tuple[int, int]:
        return (problem.H, problem.W) if _folds(problem) else (self.outputs, self.outputs)

    def tiles(self, plan: Any) -> tuple[list[slice], list[slice]]:
        problem, m = plan.problem, self.outputs
        if _folds(problem):
            return [slice(0, problem.H, 1)], [slice(0, problem.W, 1)]
        rows, columns = (
            [slice(first, first + m * d, d) for e in range(d) for first in range(e, extent, m * d)]
            for extent, d in zip(problem.out_shape[2:], problem.dilation, strict=True)
        )
        return rows, columns


F4 = Winograd(4)
F2 = Winograd(2)
F6 = Winograd(6, on_request=True)
