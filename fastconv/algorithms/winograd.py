"""Winograd's minimal filtering: F(4x4,3x3) and F(4x4,5x5) with 4 and 6.25 times fewer multiplications.

F(2x2,3x3) and F(2x2,5x5) serve small maps and tight error bounds. F(6x6,3x3) saves most (5 times) and errs most: it
serves only where max_error admits it. At a stride of 2, filters of 3x3, 4x4 and 5x5 are split by the parity of their
taps into four of 2x2 or 3x3 and less, which are convolutions at stride 1: F(4x4,2x2) and F(4x4,3x3), with 1.8, 2.6 and
3.3 times fewer multiplications; forward and input gradient only.

Forward and input gradient (a forward convolution with turned filters); dilation by phases; groups one after another.
Kernel: src_cython/winograd.pyx, which draws the layouts; this module chooses block sizes and the order of the loops.
A value that is not finite spreads over its tile. (A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural
Networks, 2016; on points and errors B. Barabasz et al., Error analysis and improving the accuracy of Winograd
convolution for deep neural networks, 2020.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms import phases, space_to_depth
from fastconv.algorithms.common import PREFIX, Cost, even, grouped, scratch, up
from fastconv.problem import ConvProblem

POINTS = {4: (1.0,), 5: (0.375, 1.25), 6: (0.625, 1.5), 8: (0.5, 1.0, 2.0)}
"""By their number, pairs +-p beside infinity and, if it is even, 0; as in simd/winograd_tile.h."""
CHUNK = 96  # tiles at a time, where their transforms don't fit into L2 anyway
CHUNK_BYTES = 8 << 20  # of these, or fewer tiles
MANY_FILTERS = 2 << 20  # bytes of transformed filters from which they are transformed when needed, if tiles can wait
FEW_TILES = 8 << 20  # bytes of transformed tiles up to which they may wait
LEAST_TILES = 6  # of a worker: fewer waste the products
WEIGHT_TILES = 4 << 20  # bytes of transformed tiles of x and dy that a weight gradient keeps at a time, or more
WEIGHT_BLOCKS = 4  # of its sums at the least: work for several workers
SCATTERING = 4.0  # a pixel between others, put there or taken from there one by one
PARITY = 2.0  # what an element of a tile of one parity's pixels costs more, in elements moved


def _taps(problem: ConvProblem) -> int:
    """Of an axis, of the longest filter: at a stride of 2 the even ones."""
    return -(-problem.R // problem.stride[0])


# --- error -----------------------------------------------------------------------------------------


@cache
def _amplification(pairs: tuple[float, ...], outputs: int, taps: int) -> float:
    """max over outputs of sum_i |A_i| ||G_i|| ||B_i||, i over the points: what one dimension makes of an error.

    0 is a point if their number, outputs + taps - 1, is even.
    """
    squares, zero = [p * p for p in pairs], (outputs + taps) % 2
    whole = np.poly(squares)[::-1]  # coefficients of prod (y - p^2), lowest first
    rows_b, rows_g, rows_a = [np.linalg.norm(whole)], [1 / abs(whole[0])], [np.eye(1, outputs, 0)[0]]
    if not zero:
        rows_b, rows_g, rows_a = [], [], []
    for i, p in enumerate(pairs):
        others = np.atleast_1d(np.poly(squares[:i] + squares[i + 1 :]))[::-1]
        scale = 2 * p ** (1 + zero) * abs(np.polyval(others[::-1], p * p))
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
    u, taps = float(np.finfo(problem.compute_dtype).eps) / 2, _taps(problem)
    pairs, tiling = POINTS[taps + m - 1], (m, taps)
    if problem.direction == "weight_grad":
        depth, tiling = problem.N * (-(-problem.P // m)) * (-(-problem.Q // m)), (problem.R, m)
    else:
        depth = problem.K if problem.direction == "input_grad" else problem.C * math.prod(problem.stride)
        depth //= problem.groups
    n = (depth + 8 * (len(pairs) + 2)) * u
    if n >= 0.5:
        return math.inf
    e = n / (1 - n) * _amplification(pairs, *tiling) ** 2
    return e if problem.dtype != "float16" else e + 2.0**-11 * (1 + e)


# --- blocks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Blocks:
    """Sizes as the kernel takes them, scratch, and the order of the loops."""

    sizes: tuple[int, ...]
    filters_outside: bool
    packed: int
    """Elements of the transformed filters of one group."""
    tiles: int
    """Elements of the transformed tiles that all workers share, if filters are outside."""
    worker_bytes: int


@dataclass(frozen=True)
class _Parity:
    """Taps r, r + stride, .. x s, s + stride, .. of a filter, and where in the result its first tile begins."""

    r: int
    s: int
    rows: int
    columns: int
    p: int = 0
    q: int = 0


@dataclass(frozen=True)
class _Task:
    """What the kernel computes: an input gradient is a forward convolution of dy."""

    problem: ConvProblem
    """The forward convolution; of an input gradient at a stride of 2, that of the largest parity."""
    stride: int
    parities: tuple[_Parity, ...]
    adding: bool
    """The parities' products add up; else each makes pixels of its own."""
    extents: tuple[int, int]
    """Of the result."""
    taps: int
    """Of an axis of the filters as they come."""
    step: tuple[int, int]
    """Pixels of the result from one of a tile to the next."""


def _task(problem: ConvProblem) -> _Task:
    kernel, extents = problem.R, (problem.P, problem.Q)
    if problem.stride == (1, 1) or problem.C == 0:
        forward = problem
        if problem.direction == "input_grad" and problem.C > 0:
            forward = phases.phases(problem)[0].problem
        only = _Parity(0, 0, kernel, kernel)
        return _Task(forward, 1, (only,), False, (forward.P, forward.Q), kernel, forward.dilation)
    if problem.direction == "forward":
        parities = tuple(_Parity(a, b, -(-(kernel - a) // 2), -(-(kernel - b) // 2)) for a in (0, 1) for b in (0, 1))
        return _Task(problem, 2, parities, True, extents, kernel, (1, 1))
    return _gradient(problem)


def _gradient(problem: ConvProblem) -> _Task:
    """An input gradient at a stride of 2: the output phases, whose tiles of dy are made to begin at one pixel."""
    found, most = phases.phases(problem), _taps(problem)
    before, tiles = [0, 0], [0, 0]
    for axis in range(2):
        before[axis] = max(p.problem.padding[axis][0] for p in found)
        tiles[axis] = max((p.problem.P, p.problem.Q)[axis] + before[axis] - p.problem.padding[axis][0] for p in found)
    parities = []
    for p in sorted(found, key=lambda p: (-p.problem.R, -p.problem.S)):
        late = [first - pad[0] for first, pad in zip(before, p.problem.padding, strict=True)]
        start = [out.start - 2 * delay for out, delay in zip(p.out, late, strict=True)]
        parities.append(_Parity(p.taps[0].start, p.taps[1].start, p.problem.R, p.problem.S, *start))
    pads = [
        (first, count - 1 + most - first - extent)
        for first, count, extent in zip(before, tiles, (problem.P, problem.Q), strict=True)
    ]
    forward = replace(found[0].problem, R=most, S=most, padding=(pads[0], pads[1]))
    shape = problem.out_shape if problem.boundary == "constant" else problem.padded_shape
    return _Task(forward, 2, tuple(parities), False, (shape[2], shape[3]), problem.R, (2, 2))


@dataclass(frozen=True)
class _Extents:
    """Of one group: what both kinds of blocks begin with."""

    lanes: int
    item: int
    points: int
    line: int
    """Elements between frequency planes."""
    channels: int
    filters: int
    """Rounded up to whole vectors, and pairs of them."""
    geometry: tuple[int, int, int, int, int]
    """Samples, phases and tiles along both axes."""
    tiles: int

    @property
    def frequencies(self) -> int:
        return self.points * self.points


def _extents(task: _Task, m: int, kernel: Any) -> _Extents:
    problem = task.problem
    item, (dh, dw) = problem.itemsize, problem.dilation
    lanes = kernel.BYTES // item
    samples = max(problem.N, 1)  # an empty batch is planned, too
    phases_p, phases_q = min(dh, problem.P), min(dw, problem.Q)
    geometry = (samples, phases_p, phases_q, -(-problem.P // (dh * m)), -(-problem.Q // (dw * m)))
    return _Extents(
        lanes, item, _taps(problem) + m - 1, max(64 // item, lanes), up(max(problem.C // problem.groups, 1), lanes),
        up(problem.K // problem.groups, 2 * lanes), geometry, math.prod(geometry),
    )  # fmt: skip


def _sizes(task: _Task, m: int, e: _Extents, chunk: int, block_k: int, block_c: int) -> tuple[Any, ...]:
    k = task.problem.K // task.problem.groups
    parities = tuple((p.r, p.s, p.rows, p.columns, p.p, p.q) for p in task.parities)
    return (
        e.points, m, *e.geometry, chunk, block_k, block_c, k, *task.extents, *task.step, task.taps, task.stride,
        task.adding, parities,
    )  # fmt: skip


def _blocks(task: _Task, m: int, isa: str) -> _Blocks:
    kernel = machine.kernels(isa).winograd
    e = _extents(task, m, kernel)
    f, pair, parities = e.frequencies, 2 * e.lanes, len(task.parities)
    channels = e.channels * parities if task.adding else e.channels  # of the tiles
    packed = e.filters // pair * parities * f * (e.channels * pair + e.line)
    shared = f * (channels * up(e.tiles, kernel.TILES) + e.line)
    run = min(e.geometry[-1], kernel.LONGEST_RUN)
    pixels = e.points * ((run - 1) * m + e.points)
    beside = 1 if task.adding or parities == 1 else 2  # parities of one row of the result
    patch = max(pixels, 2 * m * kernel.LONGEST_RUN * m * beside, kernel.LOADED) * e.lanes
    filters_outside = packed * e.item > MANY_FILTERS and shared * e.item <= FEW_TILES
    if filters_outside:
        chunk = e.tiles
        most = max(machine.L2_BYTES * 5 // 4 // (f * pair * e.item), e.lanes)
        block_c = up(even(e.channels, most), e.lanes)
        elements = f * (block_c * pair + e.line) + f * (chunk * pair + e.line) * beside + patch
    else:
        # Either a chunk's tiles stay in L2, and each product reads its filters from beyond; or the tiles come from
        # there too, but more of them share the filters. What is read for each multiply-add decides.
        chunk = machine.L2_BYTES // 2 // (f * (channels + pair) * e.item)
        if 1 / max(chunk, 1) > 1 / pair + 1 / CHUNK:
            chunk = min(CHUNK, max(CHUNK_BYTES // (f * channels * e.item), 1))
        chunk = min(up(max(chunk, 1), kernel.TILES), e.tiles)
        block_c = e.channels
        elements = f * (channels * up(chunk, kernel.TILES) + e.line) + f * (chunk * pair + e.line) * beside + patch
    sizes = _sizes(task, m, e, chunk, 1, block_c)
    return _Blocks(sizes, filters_outside, packed, shared, up(elements * e.item, 64))


@dataclass(frozen=True)
class _WeightBlocks:
    """Sizes as the kernel takes them, and elements of the scratch that all workers share."""

    sizes: tuple[int, ...]
    x_tiles: int
    dy_tiles: int
    sums: int
    worker_bytes: int


def _weight_blocks(task: _Task, m: int, isa: str) -> _WeightBlocks:
    kernel = machine.kernels(isa).winograd
    e, taps = _extents(task, m, kernel), task.taps
    f, pair, run = e.frequencies, 2 * e.lanes, kernel.LONGEST_RUN
    # As many tiles as are worth the sums that go to memory and back between two chunks.
    most = max(WEIGHT_TILES, f * e.channels * e.filters * e.item)
    chunk = max(most // (f * (e.channels + e.filters) * e.item) // run, 2) * run
    chunk = min(-(-e.tiles // -(-e.tiles // chunk)), e.tiles)
    # Sums of about as many filters as channels stay in L2: each is read as often as there are blocks of the other.
    sums = min(machine.L2_BYTES // 2 // (f * e.item), e.channels * e.filters // WEIGHT_BLOCKS)
    block_k = even(e.filters // pair, max(math.isqrt(sums) // pair, 1))
    block_c = even(e.channels // e.lanes, max(sums // (block_k * pair * e.lanes), 1)) * e.lanes
    block = block_k * f * (block_c * pair + e.line)
    blocks = -(-e.channels // block_c) * -(-e.filters // (block_k * pair))
    patch = max(e.points * ((min(run, e.geometry[-1]) - 1) * m + e.points), 2 * m * run * m) * e.lanes
    worker = max(patch, block + e.lanes * taps * taps * e.lanes)
    x_tiles, dy_tiles = (f * (wide * chunk + e.line) for wide in (e.channels, e.filters))
    sizes = _sizes(task, m, e, chunk, block_k, block_c)
    return _WeightBlocks(sizes, x_tiles, dy_tiles, 1 if chunk == e.tiles else blocks * block, up(worker * e.item, 64))


def _cost(problem: ConvProblem, m: int, isa: str) -> Cost:
    task = _task(problem)
    if problem.direction == "weight_grad":
        weight_blocks = _weight_blocks(task, m, isa)
        shared = weight_blocks.x_tiles + weight_blocks.dy_tiles + weight_blocks.sums
        worker, waiting = weight_blocks.worker_bytes, weight_blocks.sums > 1
    else:
        blocks = _blocks(task, m, isa)
        shared = blocks.tiles if blocks.filters_outside else blocks.packed
        worker, waiting = blocks.worker_bytes, not blocks.filters_outside
    e = _extents(task, m, machine.kernels(isa).winograd)
    # In transforms of F elements: each parity has its own filters, and its own input or output
    parities = len(task.parities)
    ins, outs = (parities, 1) if task.adding else (1, parities)
    tiles, filters = e.tiles * (e.channels * ins + e.filters * outs), e.channels * e.filters * parities
    taps = _taps(task.problem)
    frequencies = sum((e.points - taps + p.rows) * (e.points - taps + p.columns) for p in task.parities)
    products = 2 * e.tiles * e.channels * e.filters * frequencies
    # A vector goes through a transform of POINTS points at about half the speed of a product, in twice as many
    # multiply-adds as it has elements; tiles have to be loaded, or stored, as well.
    transforms = 8 * (2 * tiles + filters) * e.frequencies
    few = products / e.lanes if e.tiles < 4 else 0  # a product of few tiles waits for its own sums
    moved = e.frequencies * (2 * tiles + (filters if waiting else 0)) / 4  # filters, or sums, that don't stay in L2
    moved += e.channels * e.filters * task.taps**2
    if task.adding:  # every second pixel of a row, and tiles that seldom stay in L2
        moved += PARITY * e.frequencies * e.tiles * e.channels * ins
    groups = problem.groups
    flops = (products + transforms + few) * groups
    return Cost(flops, moved * e.item * groups, shared * e.item, worker, "gemm", groups * 2)


# --- running ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tables:
    """Index vectors have a row for each phase of the dilation, or each parity of the pixels."""

    problem: ConvProblem
    kernel: Any
    prefix: str
    rows: np.ndarray
    columns: np.ndarray
    blocks: Any
    """_Blocks, or _WeightBlocks"""
    dy_rows: np.ndarray
    """Index vectors of dy in a weight gradient: its own rows, then zeros up to the last tile's end."""
    dy_columns: np.ndarray


def _by_phases(index: np.ndarray, step: int, count: int, length: int) -> np.ndarray:
    """Every step-th entry from each phase's first on, cut or filled with zeros (-2)."""
    return np.stack([np.concatenate([index[a::step], np.full(length, -2)])[:length] for a in range(count)])


def _folds(problem: ConvProblem) -> bool:
    """Do results of several tiles meet in one pixel?"""
    return problem.direction == "input_grad" and problem.boundary != "constant"


def _tables(problem: ConvProblem, m: int, isa: str) -> _Tables:
    task = _task(problem)
    weight_grad, seen = problem.direction == "weight_grad", task.problem
    blocks = _weight_blocks(task, m, isa) if weight_grad else _blocks(task, m, isa)

    def indices(index: np.ndarray, steps: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        """Of x, and of dy."""
        count, length = min(steps, outputs), up(-(-outputs // steps), m)
        dy = _by_phases(np.arange(outputs), steps, count, length)
        if task.adding:
            count = steps = task.stride
        return _by_phases(index, steps, count, length + _taps(seen) - 1), dy

    rows, dy_rows = indices(seen.rows(), seen.dilation[0], seen.P)
    columns, dy_columns = indices(seen.columns(), seen.dilation[1], seen.Q)
    kernel = machine.kernels(isa).winograd
    return _Tables(seen, kernel, PREFIX[seen.compute_dtype], rows, columns, blocks, dy_rows, dy_columns)


def _filters(plan: Any, w: np.ndarray) -> np.ndarray:
    """The filters of the forward problem by group, not turned yet: (groups, K, C, R, R), a view."""
    five = grouped(w, plan.problem.groups)
    return five.transpose(0, 2, 1, 3, 4) if plan.problem.direction == "input_grad" else five


def _transform(plan: Any, w: np.ndarray, packed: np.ndarray, workers: int) -> None:
    tables = plan.tables
    blocks = tables.blocks
    flip = plan.problem.direction == "input_grad"
    with scratch(blocks.worker_bytes * workers) as memory:
        for filters, to in zip(_filters(plan, w), packed, strict=True):
            getattr(tables.kernel, tables.prefix + "_pack")(
                filters, flip, blocks.sizes, to, memory, blocks.worker_bytes, workers
            )


def _packed_shape(plan: Any) -> tuple[int, int]:
    return plan.tables.problem.groups, plan.tables.blocks.packed


def _pack(plan: Any, w: np.ndarray) -> np.ndarray:
    packed = np.empty(_packed_shape(plan), w.dtype)
    _transform(plan, w, packed, 1)
    return packed


def _run(plan: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> bool:
    tables: _Tables = plan.tables
    if plan.problem.direction == "weight_grad":
        return _weight_grad(tables, a, b, out, workers)
    if b.ndim == 2:
        return _samples(plan, a, None, b, bias, out, workers)
    if tables.blocks.filters_outside:
        return _samples(plan, a, b, None, bias, out, workers)
    shape = _packed_shape(plan)
    nbytes = math.prod(shape) * b.itemsize
    with scratch(nbytes) as memory:
        packed = memory[:nbytes].view(b.dtype).reshape(shape)
        _transform(plan, b, packed, workers)
        return _samples(plan, a, None, packed, bias, out, workers)


def _samples(
    plan: Any,
    a: np.ndarray,
    w: np.ndarray | None,
    packed: np.ndarray | None,
    bias: np.ndarray,
    out: np.ndarray,
    workers: int,
) -> bool:
    """The forward problem; where a gradient of padding must be folded into dx, sample by sample."""
    if plan.problem.direction == "forward" or plan.problem.boundary == "constant":
        return _forward(plan, a, w, packed, bias, out, workers)
    padded = np.empty((1, *plan.problem.padded_shape[1:]), out.dtype)
    for n in range(plan.problem.N):
        _forward(plan, a[n : n + 1], w, packed, bias, padded, workers)
        phases.fold(padded, plan.problem, out[n : n + 1])
    return False  # sums of finite values need not be


def _shares(sizes: tuple[int, ...], images: int, workers: int) -> tuple[int, ...]:
    """The sizes for so many images, in as many chunks as give every worker the same; no sum depends on them."""
    points, m, _, *geometry, chunk = sizes[:8]
    tiles = images * math.prod(geometry)
    chunk = -(-tiles // up(-(-tiles // chunk), min(workers, -(-tiles // LEAST_TILES))))
    return (points, m, images, *geometry, chunk, *sizes[8:])


def _forward(
    plan: Any,
    x: np.ndarray,
    w: np.ndarray | None,
    packed: np.ndarray | None,
    bias: np.ndarray,
    y: np.ndarray,
    workers: int,
) -> bool:
    tables: _Tables = plan.tables
    problem, blocks = tables.problem, tables.blocks
    c, k = problem.C // problem.groups, problem.K // problem.groups
    flip = plan.problem.direction == "input_grad"
    sizes, finite = _shares(blocks.sizes, x.shape[0], workers), True
    with scratch(blocks.worker_bytes * workers) as memory:
        tail = (memory, blocks.worker_bytes, workers)
        for g in range(problem.groups):
            own_x, own_y, own_bias = x[:, g * c : (g + 1) * c], y[:, g * k : (g + 1) * k], bias[g * k : (g + 1) * k]
            places = (problem.compute_cval, sizes, tables.rows, tables.columns, problem.padding[1][0])
            if packed is not None:
                finite &= getattr(tables.kernel, tables.prefix + "_tiles_outside")(
                    own_x, packed[g], own_bias, own_y, *places, *tail
                )
            else:
                assert w is not None
                with scratch(blocks.tiles * problem.itemsize) as tiles:
                    finite &= getattr(tables.kernel, tables.prefix + "_filters_outside")(
                        own_x, _filters(plan, w)[g], flip, own_bias, own_y, *places,
                        tiles[: blocks.tiles * problem.itemsize].view(y.dtype), *tail,
                    )  # fmt: skip
    return finite


def _weight_grad(tables: _Tables, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int) -> bool:
    problem, blocks = tables.problem, tables.blocks
    c, k = problem.C // problem.groups, problem.K // problem.groups
    sizes, finite = (blocks.x_tiles, blocks.dy_tiles, blocks.sums), True
    with scratch((sum(sizes) + 48) * problem.itemsize) as shared, scratch(blocks.worker_bytes * workers) as memory:
        parts = shared[: shared.nbytes // 64 * 64].view(dw.dtype)
        starts = np.cumsum([0, *(up(size, 16) for size in sizes)])
        v, d, sums = (parts[start : start + size] for start, size in zip(starts, sizes, strict=False))
        for g in range(problem.groups):
            finite &= getattr(tables.kernel, tables.prefix + "_weight_grad")(
                x[:, g * c : (g + 1) * c], dy[:, g * k : (g + 1) * k], dw[g * k : (g + 1) * k], problem.compute_cval,
                blocks.sizes, tables.rows, tables.columns, problem.padding[1][0], tables.dy_rows, tables.dy_columns,
                v, d, sums, memory, blocks.worker_bytes, workers,
            )  # fmt: skip
    return finite


class Winograd:
    """Minimal filtering with tiles of ``outputs`` x ``outputs`` (see fastconv.algorithms for the parts)."""

    NAME = "winograd"
    SCOPE, ELEMENTWISE = "tile", False
    pack = staticmethod(_pack)
    run = staticmethod(_run)

    def __init__(self, outputs: int, kernels: dict[tuple[int, int], tuple[int, ...]], on_request: bool = False) -> None:
        self.outputs = outputs
        self.kernels = kernels
        """Sizes of filters, by stride."""
        self.ON_REQUEST = on_request

    def why_not(self, problem: ConvProblem) -> str | None:
        if problem.dtype == "int64":
            return "integers would not be exact"
        kernels = self.kernels.get(problem.stride)
        if kernels is None:
            strides = " or ".join(str(stride[0]) for stride in self.kernels)
            return f"its stride is {problem.stride}; must be {strides}"
        if problem.R != problem.S or problem.R not in kernels:
            sizes = " or ".join(f"{r}x{r}" for r in kernels)
            return f"filters of {problem.R}x{problem.S} have no such variant at this stride; must be {sizes}"
        if problem.stride != (1, 1) and problem.direction == "weight_grad":
            return "weight gradients have no such variant at a stride of 2"
        if problem.stride != (1, 1) and problem.dilation != (1, 1):
            return f"its dilation is {problem.dilation}; must be 1 at a stride of 2"
        return None

    def variant(self, problem: ConvProblem) -> str:
        taps = _taps(problem)
        tiling = (self.outputs, taps) if problem.direction != "weight_grad" else (taps, self.outputs)
        return "F({0}x{0},{1}x{1})".format(*tiling) + (" by parity" if problem.stride[0] > 1 else "")

    def error_bound(self, problem: ConvProblem) -> float:
        return _error_bound(problem, self.outputs)

    def cost(self, problem: ConvProblem, isa: str) -> Cost:
        return _cost(problem, self.outputs, isa)

    def prepare(self, problem: ConvProblem, isa: str) -> _Tables:
        return _tables(problem, self.outputs, isa)

    def tile_extents(self, problem: ConvProblem) -> tuple[int, int]:
        return (problem.H, problem.W) if _folds(problem) else (self.outputs, self.outputs)

    def tiles(self, plan: Any) -> tuple[list[slice], list[slice]]:
        problem, m = plan.problem, self.outputs
        if _folds(problem):
            return [slice(0, problem.H, 1)], [slice(0, problem.W, 1)]
        task = _task(problem)
        starts = [set(range(d)) for d in task.step]
        if not task.adding and task.stride > 1:
            starts = [{p.p for p in task.parities}, {p.q for p in task.parities}]
        return _slices(problem, starts, task.step, m)


def _slices(
    problem: ConvProblem, starts: list[set[int]], step: tuple[int, int], m: int
) -> tuple[list[slice], list[slice]]:
    """Tiles of m pixels, every step-th, along both axes: where the first ones begin, before the result perhaps."""
    rows, columns = (
        [
            slice(max(first, first % d), first + m * d, d)
            for start in axis
            for first in range(start, extent, m * d)
            if first + m * d > 0
        ]
        for extent, d, axis in zip(problem.out_shape[2:], step, starts, strict=True)
    )
    return rows, columns


@dataclass(frozen=True)
class _Inner:
    """A plan of the problem at a stride of 1."""

    problem: ConvProblem
    tables: _Tables


class SpaceToDepth(Winograd):
    """At a stride of 2, all parities of the pixels at once, as channels (fastconv.algorithms.space_to_depth).

    For few channels: they fill vectors together. The four filters are as long as the longest, so nothing is left out.
    """

    @staticmethod
    def pack(plan: Any, w: np.ndarray) -> np.ndarray:
        inner = plan.tables
        t = np.empty(inner.problem.w_shape, w.dtype)
        space_to_depth.filters(w, t)
        return _pack(inner, t)

    @staticmethod
    def run(plan: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> bool:
        problem, inner = plan.problem, plan.tables
        shapes = inner.problem.x_shape, inner.problem.w_shape
        sizes = [up(math.prod(shape) * out.itemsize, 64) for shape in shapes]
        with scratch(sum(sizes)) as memory:
            z, t = (
                memory[start : start + math.prod(shape) * out.itemsize].view(out.dtype).reshape(shape)
                for start, shape in zip((0, sizes[0]), shapes, strict=True)
            )
            if b.ndim == 4:
                space_to_depth.filters(b, t)
                b = t
            if problem.direction == "forward":
                space_to_depth.gather(problem, a, z)
                return _run(inner, z, b, bias, out, workers)
            finite = _run(inner, a, b, np.tile(bias, 4), z, workers)
            space_to_depth.put_pixels(problem, z, out)
            return finite and not _folds(problem)

    def why_not(self, problem: ConvProblem) -> str | None:
        reason = super().why_not(problem)
        if reason is None and problem.groups > 1:
            return f"it has {problem.groups} groups; must be 1"
        return reason

    def variant(self, problem: ConvProblem) -> str:
        return "F({0}x{0},{1}x{1}) of space to depth".format(self.outputs, -(-problem.R // 2))

    def error_bound(self, problem: ConvProblem) -> float:
        return _error_bound(space_to_depth.rewritten(problem), self.outputs)

    def cost(self, problem: ConvProblem, isa: str) -> Cost:
        inner = space_to_depth.rewritten(problem)
        found = _cost(inner, self.outputs, isa)
        pixels, taps = math.prod(inner.x_shape), math.prod(inner.w_shape)
        moved = SCATTERING * (pixels + taps) * problem.itemsize
        shared = found.shared + (pixels + taps) * problem.itemsize + 128
        return replace(found, bytes=found.bytes + moved, shared=shared, calls=found.calls + 2)

    def prepare(self, problem: ConvProblem, isa: str) -> Any:
        inner = space_to_depth.rewritten(problem)
        return _Inner(inner, _tables(inner, self.outputs, isa))

    def tiles(self, plan: Any) -> tuple[list[slice], list[slice]]:
        problem = plan.problem
        if problem.direction == "forward" or _folds(problem):
            return super().tiles(plan)
        return _slices(problem, [{-before, 1 - before} for before, _ in problem.padding], (2, 2), self.outputs)


F4 = Winograd(4, {(1, 1): (3, 5), (2, 2): (3, 4, 5)})
F2 = Winograd(2, {(1, 1): (3, 5)})
F6 = Winograd(6, {(1, 1): (3,)}, on_request=True)
DEPTH4 = SpaceToDepth(4, {(2, 2): (5, 6)})
DEPTH3 = SpaceToDepth(3, {(2, 2): (7, 8)})
