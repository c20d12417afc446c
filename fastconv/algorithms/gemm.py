"""Implicit GEMM: convolution as a product of matrices, one of which is the windows of x, never written out.

Any stride, dilation, group, boundary, layout and dtype; several hundred KiB of scratch for each worker. One operand is
read where it lies, or from a padded patch of the image, whose channels lie side by side if its pixels are rows of the
product; the other is packed into panels. Kernel: src_cython/gemm.pyx,
which draws the product; this module chooses which operand is which, by what packing and storing cost, and the block
sizes. Input gradients are forward convolutions, one per output phase; at a stride of 2 the even and the odd columns are
computed apart and put together after. (S. Chetlur et al., cuDNN: Efficient Primitives for Deep Learning, 2014, for
windows within the product; E. Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD
Architectures, 2018, for reading pixels in place.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms import phases
from fastconv.algorithms.common import PREFIX, Cost, grouped, scratch, sum_bound, up
from fastconv.problem import ConvProblem

NAME = "gemm"
SCOPE, ELEMENTWISE = "window", True

PANELS_BYTES = 640 << 10  # packed lanes at a time: they may come from the third cache, a panel after another
PATCH_BYTES = 208 << 10  # of the image copied at a time, more or less
PRODUCT_BYTES = 4096  # that could be moved while the product of one group is set up
# What an element beside the multiply-adds costs, in parts of the time that machine.Rates.bandwidth reckons
COPYING = 0.18  # copied, into a patch or a panel
TURNING = 0.4  # transposed into a panel
PLANES = 0.6  # the same of whole planes, in a weight gradient: many lines that lie far apart
PIECING = 1.0  # the same in short runs, or strided ones
SHIFTING = 1.8  # the same where each run begins elsewhere in a line: windows of a weight gradient at stride 1
STORING = 0.5  # stored as the tile has it
PUTTING = 0.7  # stored transposed
ZIPPING = 0.3  # put between the other columns' afterwards
SCATTERING = 1.0  # stored between other elements
BYTE = 10  # flops in the time of a byte
ZIP_BYTES = 8 << 20  # of dx at a time, where its columns are computed apart
# A tile of few rows or lanes waits for its own sums, or for its loads
FEW_ROWS = 4
NARROW = 0.6


def why_not(problem: ConvProblem) -> str | None:
    return None


def error_bound(problem: ConvProblem) -> float:
    return sum_bound(problem)


def _whole(problem: ConvProblem, swapped: bool, kernel: Any) -> bool:
    """Are planes turned into runs of channels, a patch at a time, so that rows of A lie along the depth?"""
    line = problem.C // problem.groups * problem.itemsize >= 64
    fits = problem.R * problem.S * problem.itemsize <= kernel.DEPTH_BYTES
    return problem.direction == "forward" and swapped and problem.layout == "NCHW" and line and fits


def _patched(problem: ConvProblem, swapped: bool, kernel: Any) -> bool:
    """Are patches of the image copied? Where windows leave it, or see runs of channels."""
    return any(pad > 0 for axis in problem.padding for pad in axis) or _whole(problem, swapped, kernel)


@dataclass(frozen=True)
class _Product:
    """The product of one group: rows x depth by depth x lanes."""

    swapped: bool
    """Windows are the rows and filters the lanes, not the other way round."""
    rows: int
    lanes: int
    depth: int
    flops: float
    bytes: float


def _product(problem: ConvProblem, swapped: bool, turned: bool, kernel: Any) -> _Product:
    item, filters = problem.itemsize, problem.K // problem.groups
    taps = max(problem.C // problem.groups, 1) * problem.R * problem.S
    pixels = max(problem.N, 1) * problem.P * problem.Q
    last = problem.layout == "NHWC"
    in_place = problem.R * problem.S == 1 and max(problem.stride) == 1  # windows are the image, its rows long runs
    turning = _whole(problem, swapped, kernel)
    if problem.direction == "weight_grad":
        windows, depth, rows_inside = taps, pixels, swapped
        pieces = PIECING if problem.stride[1] > 1 else SHIFTING
        packing = COPYING if last else TURNING if in_place else PLANES if swapped else pieces
    else:
        windows, depth, rows_inside = pixels, taps, swapped and not last
        if swapped:
            packing = COPYING if turned and problem.R * problem.S == 1 else TURNING
        else:
            packing = TURNING if last else COPYING if in_place else PIECING if problem.stride[1] > 1 else 2 * COPYING
    rows, lanes = (windows, filters) if swapped else (filters, windows)
    unit, tile = kernel.UNIT_BYTES // item, kernel.TILE_BYTES // item
    heights, most = -(-rows // kernel.TILE_ROWS), -(-depth * item // kernel.DEPTH_BYTES)
    height = rows / heights
    waiting = FEW_ROWS / height**2 if height < 4 else 0
    waiting += NARROW * (tile / up(lanes, unit) - 1) if lanes < tile else 0
    flops = 2 * rows * up(lanes, unit) * depth * (1 + waiting)
    moved = packing * lanes * depth + (PUTTING if rows_inside else STORING) * rows * lanes * most
    if turned and not swapped:
        moved += (TURNING if problem.R * problem.S == 1 else PIECING) * rows * depth
    if _patched(problem, swapped, kernel):
        image = problem.N * problem.C // problem.groups * problem.H * problem.W
        moved += (TURNING if turning else COPYING) * image
    return _Product(swapped, rows, lanes, depth, flops, moved * item)


def _best_product(problem: ConvProblem, turned: bool, kernel: Any) -> _Product:
    # the order of a sum follows: it must be the same for a sample alone and in a batch
    one = problem if problem.direction == "weight_grad" else replace(problem, N=1)
    both = [_product(one, swapped, turned, kernel) for swapped in (False, True)]
    swapped = min(both, key=lambda p: p.flops + BYTE * p.bytes).swapped
    return _product(problem, swapped, turned, kernel)


def variant(problem: ConvProblem) -> str:
    swapped = _best_product(problem, False, machine.kernels().gemm).swapped
    return "pixels by filters" if swapped else "filters by pixels"


Cut = tuple[int, int, int, int]


def _cut(extents: tuple[int, int, int], most: int) -> Cut:
    """Nested loops in pieces of at most so many elements: (outers, units, unit, pieces), see gemm.pyx."""
    a, b, c = extents
    if b * c <= most:
        return 1, a, b * c, -(-a // (most // (b * c)))
    if c <= most:
        return a, b, c, -(-b // (most // c))
    return a * b, c, 1, -(-c // most)


def _longest(cut: Cut) -> int:
    _, units, unit, pieces = cut
    return -(-units // pieces) * unit


@dataclass(frozen=True)
class _Blocks:
    """How the product is cut, and the scratch of a worker."""

    product: _Product
    row_blocks: int
    lane_blocks: int
    lane_parts: int
    """Of a block, whose panels are packed one after another."""
    patched: bool
    whole: bool
    patch_bytes: int
    worker_bytes: int
    depths: Cut
    """Blocks of the depth: no other cut touches the order of a sum, so this one follows from the problem alone."""
    cut: Cut
    """Pieces of windows for which patches are copied."""


def _blocks(problem: ConvProblem, kernel: Any, workers: int = 1, turned: bool = False) -> _Blocks:
    item, product = problem.itemsize, _best_product(problem, turned, kernel)
    pixels = (max(problem.N, 1), problem.P, problem.Q)
    taps = (max(problem.C // problem.groups, 1), problem.R, problem.S)
    if problem.layout == "NHWC":
        taps = (*taps[1:], taps[0])
    weight_grad = problem.direction == "weight_grad"
    depths = _cut(pixels if weight_grad else taps, kernel.DEPTH_BYTES // item)
    windows = taps if weight_grad else pixels
    whole, patched = _whole(problem, product.swapped, kernel), _patched(problem, product.swapped, kernel)
    most = _most_windows(problem, _longest(depths), whole)
    cut = _cut(windows, most) if patched else (1, math.prod(windows), 1, 1)
    panel_bytes = kernel.TILE_BYTES * (_longest(depths) | 1)  # an odd number of lines: panels share no cache sets
    panels = -(-product.lanes * item // kernel.TILE_BYTES)
    lane_blocks, row_blocks = -(-panels // max(PANELS_BYTES // panel_bytes, 1)), 1
    if problem.groups * lane_blocks % workers:
        # the operand that lies across the cut is packed or copied once more for each unit: the smaller one
        wide = product.rows < product.lanes and panels >= 4 * workers
        by_rows = not wide and lane_blocks <= workers
        if by_rows and product.swapped and patched:  # between patches: as many as give every worker the same
            outers, units, unit, pieces = cut
            pieces = pieces if outers * pieces % workers == 0 else up(pieces, workers)
            if pieces <= units and (units % pieces == 0 or units >= 4 * pieces):
                row_blocks, cut = workers, (outers, units, unit, pieces)
        elif by_rows:
            row_blocks = min(-(-product.rows // kernel.TILE_ROWS), workers)
        if row_blocks < min(workers, panels):
            row_blocks, lane_blocks = 1, min(panels, up(lane_blocks, workers))
    patch_bytes = _patch_bytes(problem, _longest(cut), _longest(depths), whole) if patched else 0
    lane_parts = 1
    if lane_blocks % workers == 0:  # one unit for each worker: what is common to its parts is done once
        lane_blocks, lane_parts = workers, lane_blocks // workers
    together = math.ceil(panels / (lane_blocks * lane_parts))
    worker_bytes = kernel.PANEL_BYTES + together * panel_bytes + patch_bytes
    return _Blocks(product, row_blocks, lane_blocks, lane_parts, patched, whole, patch_bytes, worker_bytes, depths, cut)


def _reach(count: int, extents: tuple[int, int, int]) -> tuple[int, int, int]:
    """How far so many elements reach that begin where a loop of nested ones begins."""
    _, b, c = extents
    if count > b * c:
        return -(-count // (b * c)), b, c
    return (1, -(-count // c), c) if count > c else (1, 1, count)


def _patch_bytes(problem: ConvProblem, windows: int, depth: int, whole: bool) -> int:
    """Of the image under a piece of the windows and a block of the depth."""
    pixels, taps = (depth, windows) if problem.direction == "weight_grad" else (windows, depth)
    n, p, q = _reach(pixels, (max(problem.N, 1), problem.P, problem.Q))
    extents = (max(problem.C // problem.groups, 1), problem.R, problem.S)
    if problem.layout == "NHWC":
        r, s, c = _reach(taps, (*extents[1:], extents[0]))
    else:
        c, r, s = _reach(taps, extents)
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    height, width = (p - 1) * sh + (r - 1) * dh + 1, (q - 1) * sw + (s - 1) * dw + 1
    channels = c * problem.itemsize
    if whole:  # pitch_of in gemm.pyx
        lines = -(-channels // 64)
        channels = (lines + (lines % 16 == 0)) * 64
    return up(n * height * width * channels, 64)


def _most_windows(problem: ConvProblem, depth: int, whole: bool) -> int:
    """Windows of which one patch is copied."""
    low, high = 1, math.prod(problem.y_shape) + math.prod(problem.w_shape)
    while low < high:
        middle = (low + high + 1) // 2
        if _patch_bytes(problem, middle, depth, whole) <= PATCH_BYTES:
            low = middle
        else:
            high = middle - 1
    return low


def _turned_elements(problem: ConvProblem, found: list[phases.Phase], kernel: Any) -> int:
    """Of a copy of the filters whose channels lie side by side, from which several phases take their taps."""
    several = problem.R * problem.S > 1 and len(found) > 1
    wanted = several and any(_best_product(p.problem, True, kernel).swapped for p in found)
    return math.prod(problem.w_shape) if wanted else 0


def _zipped(problem: ConvProblem) -> bool:
    """Are even and odd columns of dx two phases, each computed on its own and put between the other's?"""
    columns = len({phase.out[1].start for phase in phases.phases(problem)})
    return problem.layout == "NCHW" and problem.stride[1] == 2 and columns == 2


def _phases(problem: ConvProblem) -> list[phases.Phase]:
    found, samples = phases.phases(problem), problem.N
    if problem.boundary != "constant":  # one padded plane at a time
        samples = 1
    elif _zipped(problem):
        sample = math.prod(problem.x_shape[1:]) * problem.itemsize
        samples = max((n for n in range(1, samples + 1) if samples % n == 0 and n * sample <= ZIP_BYTES), default=1)
    return [replace(p, problem=replace(p.problem, N=samples, layout=problem.layout)) for p in found]


def cost(problem: ConvProblem, isa: str) -> Cost:
    kernel = machine.kernels(isa).gemm
    if problem.direction == "input_grad":
        several = _phases(problem)
        found = [p.problem for p in several]
        parts = [_cost(p, kernel, True) for p in found]
        shared = _turned_elements(problem, several, kernel) * problem.itemsize
        moved = sum(part.bytes for part in parts) + TURNING * shared
        times = problem.N // found[0].N if found else 1
        if problem.boundary != "constant":
            padded = math.prod(problem.padded_shape[1:]) * problem.itemsize
            shared, moved = shared + padded, moved + 3 * padded
        if _zipped(problem):
            half = max(2 * math.prod(p.y_shape) for p in found) * problem.itemsize
            shared, moved = shared + half, moved + ZIPPING * len(parts) / 2 * half
        elif max(problem.stride) > 1:
            moved += SCATTERING * math.prod(problem.x_shape[1:]) * problem.itemsize
        worker = max((part.worker for part in parts), default=0)
        flops = sum(part.flops for part in parts) * times
        return Cost(flops, moved * times, shared, worker, "gemm", max(len(parts) * times, 1) + 2)  # turning, looking
    return _cost(problem, kernel, False)


def _cost(problem: ConvProblem, kernel: Any, turned: bool) -> Cost:
    blocks = _blocks(problem, kernel, turned=turned)
    moved = (blocks.product.bytes + PRODUCT_BYTES) * problem.groups
    return Cost(blocks.product.flops * problem.groups, moved, 0, blocks.worker_bytes, "gemm")


@dataclass(frozen=True)
class _Tables:
    """What every run of a forward or weight-gradient problem shares."""

    problem: ConvProblem
    kernel: Any
    prefix: str
    geometry: tuple[int, ...]
    cuts: dict[int, tuple[tuple[Any, ...], int]]
    """How the product is cut for so many workers, and the scratch of each."""
    rows: np.ndarray
    columns: np.ndarray
    turned: bool
    """The problem is a phase of an input gradient."""

    def cut(self, workers: int) -> tuple[tuple[Any, ...], int]:
        if workers not in self.cuts:
            p, blocks = self.problem, _blocks(self.problem, self.kernel, workers, self.turned)
            self.cuts[workers] = (
                (
                    blocks.patched, p.layout == "NHWC", blocks.whole, blocks.product.swapped, blocks.row_blocks,
                    blocks.lane_blocks, blocks.lane_parts, blocks.patch_bytes, blocks.depths, blocks.cut,
                ),
                blocks.worker_bytes,
            )  # fmt: skip
        return self.cuts[workers]


def _tables(problem: ConvProblem, isa: str, turned: bool = False) -> _Tables:
    kernel = machine.kernels(isa).gemm
    g = problem.groups
    geometry = (
        g, problem.C // g, problem.K // g, problem.H, problem.W, problem.R, problem.S, problem.P, problem.Q,
        problem.padding[0][0], problem.padding[1][0], *problem.stride, *problem.dilation,
    )  # fmt: skip
    prefix = PREFIX[problem.compute_dtype]
    return _Tables(problem, kernel, prefix, geometry, {}, problem.rows(), problem.columns(), turned)


@dataclass(frozen=True)
class _Phases:
    """What every run of an input gradient shares."""

    parts: list[tuple[phases.Phase, _Tables]]
    elements: int
    """Of a copy of the filters with channels side by side, 0 for none."""
    zipped: bool
    samples: int
    """Of one pass over the phases."""
    padded: bool
    """Zeros beyond dy meet the filters of some phase."""


def prepare(problem: ConvProblem, isa: str) -> Any:
    if problem.direction != "input_grad":
        return _tables(problem, isa)
    found = _phases(problem)
    kernel = machine.kernels(isa).gemm
    parts = [(p, _tables(p.problem, isa, True)) for p in found]
    samples = max(found[0].problem.N, 1) if found else 1
    padded = any(pad > 0 for p in found for axis in p.problem.padding for pad in axis)
    return _Phases(parts, _turned_elements(problem, found, kernel), _zipped(problem), samples, padded)


@dataclass(frozen=True)
class _Turned:
    """The weights of an input gradient: filters of each phase, and those entries that are not finite."""

    filters: list[np.ndarray]
    excess: np.ndarray | None
    checked: bool
    """Is it known which entries are not finite?"""


def pack(plan: Any, w: np.ndarray) -> Any:
    """The product packs weights as it goes: a copy in their own order, or in the turned order."""
    if plan.problem.direction != "input_grad":
        return w.copy()
    if not np.isfinite(w).all():
        return _without_excess(plan, w)
    room = np.empty(plan.tables.elements, w.dtype)
    return replace(_turn(plan, w.copy(), room, 1), checked=True)


def _turn(plan: Any, w: np.ndarray, room: np.ndarray, workers: int) -> _Turned:
    """Views of w, or of a copy in `room`."""
    problem, parts = plan.problem, plan.tables.parts
    if plan.tables.elements:
        view = grouped(w, problem.groups).transpose(0, 2, 1, 3, 4)
        g, c, k, r, s = view.shape
        getattr(parts[0][1].kernel, parts[0][1].prefix + "_turn")(view, room.reshape(g, k, r, s, c), workers)
        w = room.reshape(g * k, r, s, c).transpose(0, 3, 1, 2)
    return _Turned([phases.turned(w, problem.groups, p.taps) for p, _ in parts], None, not plan.tables.padded)


def _without_excess(plan: Any, w: np.ndarray) -> _Turned:
    # The adjoint of padding has no products of zeros with weights, and an infinity times zero would be NaN. So the
    # product takes +-1 for weights that are not finite: that has the sign and the zeros of what they make of dy. What
    # they make is added later, where it is due.
    odd = ~np.isfinite(w)
    excess = np.where(odd, w, 0)
    return replace(pack(plan, np.where(odd, np.where(w < 0, -1, 1).astype(w.dtype), w)), excess=excess)


def _forward(
    tables: _Tables, x: np.ndarray, w: np.ndarray, bias: np.ndarray, y: np.ndarray, workers: int, between: bool
) -> None:
    """``between``: what lies between the elements of y belongs to this call too, and may be written back."""
    cut, worker_bytes = tables.cut(workers)
    with scratch(worker_bytes * workers) as memory:
        getattr(tables.kernel, tables.prefix + "_gemm_forward")(
            x, w, bias, y, tables.problem.compute_cval, tables.geometry, cut, tables.rows, tables.columns,
            memory, worker_bytes, workers, between,
        )  # fmt: skip


def run(plan: Any, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    problem, tables = plan.problem, plan.tables
    if problem.direction == "weight_grad":
        cut, worker_bytes = tables.cut(workers)
        with scratch(worker_bytes * workers) as memory:
            getattr(tables.kernel, tables.prefix + "_gemm_weight_grad")(
                a, b, grouped(out, problem.groups), problem.compute_cval, tables.geometry, cut, tables.rows,
                tables.columns, memory, worker_bytes, workers,
            )  # fmt: skip
        return
    if problem.direction == "forward":
        _forward(tables, a, grouped(b, problem.groups), bias, out, workers, False)
        return
    if not isinstance(b, np.ndarray):
        phases.run(problem, lambda dy, bias, dx: _input_grad(plan, dy, b, b, bias, dx, workers), a, bias, out)
        return
    nbytes = tables.elements * b.itemsize
    with scratch(nbytes) as memory:
        turned = _turn(plan, b, memory[:nbytes].view(b.dtype), workers)
        phases.run(problem, lambda dy, bias, dx: _input_grad(plan, dy, b, turned, bias, dx, workers), a, bias, out)


def _input_grad(
    plan: Any, dy: np.ndarray, w: Any, turned: _Turned, bias: np.ndarray, dx: np.ndarray, workers: int
) -> None:
    found = [(*part, filters) for part, filters in zip(plan.tables.parts, turned.filters, strict=True)]
    dense, samples = dx.strides[3] == dx.itemsize, plan.tables.samples
    for n in range(0, len(dx), samples):
        part, gradient = dx[n : n + samples], dy[n : n + samples]
        if plan.tables.zipped and dense:
            for pair in zip(found[::2], found[1::2], strict=True):  # the columns of one phase of the rows
                _zip(pair, gradient, bias, part, workers)
            continue
        for phase, tables, filters in found:
            to = part[:, :, phase.out[0], phase.out[1]]
            _forward(tables, gradient, filters, bias, to, workers, dense)
    if turned.excess is not None:
        _add_excess(plan.problem, dy, turned.excess, dx)
    elif not turned.checked and not _finite(plan, dx if dx.size < w.size else w) and not np.isfinite(w).all():
        _input_grad(plan, dy, w, _without_excess(plan, w), bias, dx, workers)


def _zip(pair: Any, dy: np.ndarray, bias: np.ndarray, dx: np.ndarray, workers: int) -> None:
    """Two phases that are the even and the odd columns of some rows of dx."""
    even, odd = sorted(pair, key=lambda found: found[0].out[1].start)
    shapes = [found[1].problem.y_shape for found in (even, odd)]
    sizes = [up(math.prod(shape) * dx.itemsize, 64) for shape in shapes]
    with scratch(sum(sizes)) as memory:
        parts = []
        for (_, tables, filters), shape, start in zip((even, odd), shapes, (0, sizes[0]), strict=True):
            part = memory[start : start + math.prod(shape) * dx.itemsize].view(dx.dtype).reshape(shape)
            _forward(tables, dy, filters, bias, part, workers, False)
            parts.append(part)
        getattr(tables.kernel, tables.prefix + "_zip")(*parts, dx[:, :, even[0].out[0]], workers)


def _finite(plan: Any, values: np.ndarray) -> bool:
    tables = plan.tables.parts[0][1]
    if values.flags.c_contiguous:
        values = values.reshape(1, 1, 1, -1)
    elif values.strides[3] != values.itemsize:
        values = values.transpose(0, 2, 3, 1)
    return getattr(tables.kernel, tables.prefix + "_finite")(values)


def _add_excess(problem: ConvProblem, dy: np.ndarray, w: np.ndarray, dx: np.ndarray) -> None:
    """dx += the products of dy with those weights that are not finite; the others are 0 in w."""
    channels, filters = problem.C // problem.groups, problem.K // problem.groups
    before = [axis[0] if problem.boundary == "constant" else 0 for axis in problem.padding]
    extents = (problem.P, problem.Q)
    with np.errstate(invalid="ignore", over="ignore"):
        for k, r, s in np.argwhere((w != 0).any(axis=1)):
            places, sources = [], []
            for axis, tap in enumerate((r, s)):
                first = tap * problem.dilation[axis] - before[axis]
                at = first + problem.stride[axis] * np.arange(extents[axis])
                inside = (at >= 0) & (at < dx.shape[2 + axis])
                places.append(at[inside])
                sources.append(np.flatnonzero(inside))
            odd = np.flatnonzero(w[k, :, r, s])
            part = dy[:, k][:, sources[0][:, None], sources[1]]
            at = np.ix_(np.arange(len(dx)), k // filters * channels + odd, *places)
            dx[at] += part[:, None] * w[k, odd, r, s][:, None, None]
