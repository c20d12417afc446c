"""Implicit GEMM: convolution as a product of matrices, one of which is the windows of x, packed piece by piece.

Any stride, dilation, group, boundary, layout and dtype; weights are read as they lie; a few hundred KiB of scratch.
Kernel: src_cython/gemm.pyx, which draws the product; this module chooses which operand is which, and the block sizes.
Input gradients are forward convolutions, one per output phase. (S. Chetlur et al., cuDNN: Efficient Primitives for
Deep Learning, 2014, for packing windows within the product.)
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

PANELS_BYTES = 512 << 10  # packed lanes of a unit of work: half of the second cache
PACKING = 0.35  # of the time that machine.Rates.bandwidth reckons: packing moves whole vectors
FEW_ROWS = 5  # a tile of few rows takes as long as rows + FEW_ROWS / rows: its sums wait for each other
PRODUCT_BYTES = 4096  # that could be moved while the product of one group is set up
PATCH_BYTES = 128 << 10  # of the image copied at a time, at the least


def why_not(problem: ConvProblem) -> str | None:
    return None


def variant(problem: ConvProblem) -> str:
    return "pixels by filters" if _swapped(problem) else "filters by pixels"


def error_bound(problem: ConvProblem) -> float:
    return sum_bound(problem)


def _swapped(problem: ConvProblem) -> bool:
    """Is the product computed transposed, windows by filters, so that it is written along the filters?"""
    if problem.direction == "weight_grad":
        return problem.R * problem.S > 1 or _patched(problem)
    if problem.layout == "NHWC":
        return True
    # Few pixels fill vectors badly: then the filters do.
    pixels = problem.N * problem.P * problem.Q
    return problem.R * problem.S == 1 and pixels < 64 and pixels % 16 != 0 and not _patched(problem)


def _padded(problem: ConvProblem) -> bool:
    """Do windows leave the image?"""
    return any(pad > 0 for axis in problem.padding for pad in axis)


def _patched(problem: ConvProblem) -> bool:
    """Are windows packed by way of copied patches of the image, or straight from it?"""
    strided = problem.stride[1] > 1 and problem.R * problem.S > 1
    return problem.layout == "NCHW" and (_padded(problem) or strided)


@dataclass(frozen=True)
class _Blocks:
    """How the product is cut, and the scratch of a worker."""

    rows: int
    """The product is rows x depth by depth x lanes."""
    lanes: int
    depth: int
    row_blocks: int
    lane_blocks: int
    patch_bytes: int
    worker_bytes: int


def _blocks(problem: ConvProblem, kernel: Any, workers: int = 1) -> _Blocks:
    """Every element is summed in the same order however the product is cut: the cut may depend on the workers."""
    g, item = problem.groups, problem.itemsize
    filters, taps = problem.K // g, max(problem.C // g, 1) * problem.R * problem.S
    pixels = max(problem.N, 1) * problem.P * problem.Q
    rows, lanes, depth = (filters, taps, pixels) if problem.direction == "weight_grad" else (filters, pixels, taps)
    rows, lanes, depth = (max(extent, 1) for extent in (rows, lanes, depth))  # no samples, or no channels
    if _swapped(problem):
        rows, lanes = lanes, rows
    most_depth = kernel.DEPTH_BYTES // item
    depth_block = up(-(-depth // -(-depth // most_depth)), 16)
    panel_bytes = kernel.TILE_BYTES * depth_block
    panels, heights = -(-lanes * item // kernel.TILE_BYTES), -(-rows // kernel.TILE_ROWS)
    lane_blocks, row_blocks = -(-panels // max(PANELS_BYTES // panel_bytes, 1)), 1
    if g * lane_blocks % workers:
        # the operand that lies across the cut is packed once more for each unit: the smaller one
        if (rows < lanes and panels >= 4 * workers) or lane_blocks > workers:
            lane_blocks = min(panels, up(lane_blocks, workers))
        else:
            row_blocks = min(heights, workers)
    lane_panels = -(-panels // lane_blocks)
    patch_bytes = 0
    if _patched(problem):
        weight_grad = problem.direction == "weight_grad"
        patch_bytes = _patch_bytes(problem, depth_block if weight_grad else lane_panels * kernel.TILE_BYTES // item)
    worker_bytes = kernel.PANEL_BYTES + lane_panels * panel_bytes + patch_bytes
    return _Blocks(rows, lanes, depth, row_blocks, lane_blocks, patch_bytes, worker_bytes)


def _patch_bytes(problem: ConvProblem, pixels: int) -> int:
    """Room for the patch under that many pixels of one channel, or for more channels."""
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    samples = min(-(-(pixels - 1) // (problem.P * problem.Q)) + 1, problem.N)
    rows = min(-(-(pixels - 1) // problem.Q) + 1, problem.P) + (problem.R - 1) * dh // sh
    pitch = problem.Q + (problem.S - 1) * dw // sw
    plane = min(problem.R, sh // math.gcd(sh, dh)) * min(problem.S, sw // math.gcd(sw, dw)) * rows * pitch
    return up(max(samples * plane * problem.itemsize, PATCH_BYTES), 64)


def _weights_elements(phase: ConvProblem) -> int:
    """Of the turned filters that a phase of an input gradient needs a copy of."""
    return math.prod(phase.w_shape) if phase.R * phase.S > 1 or _padded(phase) else 0


def _phases(problem: ConvProblem) -> list[phases.Phase]:
    found = phases.phases(problem)
    if problem.boundary != "constant":  # one padded plane at a time
        found = [replace(p, problem=replace(p.problem, N=1)) for p in found]
    return [replace(p, problem=replace(p.problem, layout=problem.layout)) for p in found]


def cost(problem: ConvProblem, isa: str) -> Cost:
    kernel = machine.kernels(isa).gemm
    if problem.direction == "input_grad":
        found = [p.problem for p in _phases(problem)]
        parts = [cost(p, isa) for p in found]
        shared = sum(_weights_elements(p) for p in found) * problem.itemsize
        times, moved = 1, sum(part.bytes for part in parts) + 4 * shared
        if problem.boundary != "constant":
            padded = math.prod(problem.padded_shape[1:]) * problem.itemsize
            shared, moved, times = shared + padded, moved + 3 * padded, max(problem.N, 1)
        if max(problem.stride) > 1:  # phases are stored element by element
            moved += 3 * math.prod(problem.x_shape[1:]) * problem.itemsize
        worker = max((part.worker for part in parts), default=0)
        flops = sum(part.flops for part in parts) * times
        return Cost(flops, moved * times, shared, worker, "gemm", max(len(parts) * times, 1))
    blocks = _blocks(problem, kernel)
    item, panel = problem.itemsize, kernel.TILE_BYTES // problem.itemsize
    lanes = up(blocks.lanes, panel // kernel.TILE_VECTORS)
    flops = 2 * problem.groups * (blocks.rows + FEW_ROWS / max(blocks.rows, 1)) * lanes * blocks.depth
    moved = blocks.depth * (blocks.rows * blocks.lane_blocks + up(blocks.lanes, panel)) + blocks.rows * blocks.lanes
    if problem.direction == "weight_grad":
        moved += 4 * blocks.rows * blocks.lanes  # dw is read and written once for each block of the depth, and far away
    moved = (PACKING * moved * item + PRODUCT_BYTES) * problem.groups
    return Cost(flops, moved, 0, blocks.worker_bytes, "gemm")


@dataclass(frozen=True)
class _Tables:
    """What every run of a forward or weight-gradient problem shares."""

    problem: ConvProblem
    kernel: Any
    prefix: str
    geometry: tuple[int, ...]
    cuts: dict[int, tuple[tuple[int, ...], int]]
    """How the product is cut for so many workers, and the scratch of each."""
    rows: np.ndarray
    columns: np.ndarray

    def cut(self, workers: int) -> tuple[tuple[int, ...], int]:
        if workers not in self.cuts:
            p, blocks = self.problem, _blocks(self.problem, self.kernel, workers)
            kind = (_padded(p), _patched(p), p.layout == "NHWC", _swapped(p))
            self.cuts[workers] = (
                (*kind, blocks.row_blocks, blocks.lane_blocks, blocks.patch_bytes),
                blocks.worker_bytes,
            )
        return self.cuts[workers]


def _tables(problem: ConvProblem, isa: str) -> _Tables:
    kernel = machine.kernels(isa).gemm
    g = problem.groups
    geometry = (
        g, problem.C // g, problem.K // g, problem.H, problem.W, problem.R, problem.S, problem.P, problem.Q,
        problem.padding[0][0], problem.padding[1][0], *problem.stride, *problem.dilation,
    )  # fmt: skip
    prefix = PREFIX[problem.compute_dtype]
    return _Tables(problem, kernel, prefix, geometry, {}, problem.rows(), problem.columns())


def prepare(problem: ConvProblem, isa: str) -> Any:
    if problem.direction == "input_grad":
        return [(phase, _tables(phase.problem, isa)) for phase in _phases(problem)]
    return _tables(problem, isa)


@dataclass(frozen=True)
class _Turned:
    """The weights of an input gradient: filters of each phase, and those entries that are not finite."""

    filters: list[np.ndarray]
    excess: np.ndarray | None


def pack(plan: Any, w: np.ndarray) -> Any:
    """The product packs weights as it goes: a copy in their own order, or in the turned order."""
    return _turn(plan, w, True) if plan.problem.direction == "input_grad" else w.copy()


def _turn(plan: Any, w: np.ndarray, keep: bool) -> _Turned:
    filters, finite = [], True
    for phase, tables in plan.tables:
        view = phases.turned(w, plan.problem.groups, phase.taps)
        if _weights_elements(phase.problem) or keep:
            copy = np.empty(view.shape, w.dtype)
            finite &= getattr(tables.kernel, tables.prefix + "_turn")(view, copy)
            view = copy
        filters.append(view)
    if finite:
        return _Turned(filters, None)
    # The adjoint of padding has no products of zeros with weights, and an infinity times zero would be NaN. So the
    # product takes +-1 for weights that are not finite: that has the sign and the zeros of what they make of dy. What
    # they make is added later, where it is due.
    odd = ~np.isfinite(w)
    excess = np.where(odd, w, 0)
    return _Turned(_turn(plan, np.where(odd, np.where(w < 0, -1, 1).astype(w.dtype), w), True).filters, excess)


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
    turned = _turn(plan, b, False) if isinstance(b, np.ndarray) else b
    phases.run(problem, lambda dy, bias, dx: _input_grad(plan, dy, turned, bias, dx, workers), a, bias, out)


def _input_grad(plan: Any, dy: np.ndarray, turned: _Turned, bias: np.ndarray, dx: np.ndarray, workers: int) -> None:
    for (phase, tables), filters in zip(plan.tables, turned.filters, strict=True):
        rows, columns = phase.out
        _forward(tables, dy, filters, bias, dx[:, :, rows, columns], workers, dx.strides[3] == dx.itemsize)
    if turned.excess is not None:
        _add_excess(plan.problem, dy, turned.excess, dx)


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
