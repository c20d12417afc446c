"""The direct method where each output channel sees one input channel: images, depthwise convolutions, their gradients.

Makes the tables of src_cython/rows.pyx, chooses its blocks, and brings arrays to it. Along each axis an output i of
phase t reads, for each of its taps, the source at

    step * i + offset(tap)

A forward convolution has one phase, step = stride and offset = tap*dilation - before. The gradient by the input at
stride s is the same with the taps that reach a phase: its outputs s*i + t read step = 1 and offset = (t + before -
tap*dilation) / s, where that is whole (see also fastconv.algorithms.phases). Phases of rows are calls of their own;
those of columns are computed together and stored side by side.

What the method ``direct`` does with such problems; knows no algorithm.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms.common import KINDS, PREFIX, Cost, add_up, scratch, up
from fastconv.boundary import boundary_edges
from fastconv.problem import ConvProblem

__all__ = ["Packed", "Tables", "cost", "forward", "pack", "serves", "weight_grad"]

COPY_BYTES = 1 << 18  # of copied lines: they stay in L2
CACHE_BYTES = 24576  # in L1 with room to spare
SLICE = 6  # vectors of channels side by side that are taken together, at the most
BUNCH = 4096  # pixels of small planes that are a unit together
COPYING = 0.25  # of the time that machine.Rates.bandwidth reckons: whole lines, measured as those rates were
PIECES = 8  # weight gradients of fewer planes are cut over blocks


def serves(problem: ConvProblem) -> bool:
    return problem.groups == (problem.K if problem.direction == "input_grad" else problem.C)


Taps = list[tuple[int, int]]
"""(tap, offset), offsets ascending."""


def _taps(problem: ConvProblem, axis: int) -> list[Taps]:
    """The taps of each output phase."""
    kernel, stride = (problem.R, problem.S)[axis], problem.stride[axis]
    dilation, before = problem.dilation[axis], problem.padding[axis][0]
    if problem.direction != "input_grad":
        return [[(tap, tap * dilation - before) for tap in range(kernel)]]
    if problem.boundary != "constant":
        before = 0  # the gradient by the padded image
    return [
        [
            (tap, (t + before - tap * dilation) // stride)
            for tap in reversed(range(kernel))
            if (t + before - tap * dilation) % stride == 0
        ]
        for t in range(stride)
    ]


@dataclass(frozen=True)
class _Pixels:
    """How channels lie in lines of the image: one apart from the other, or side by side."""

    planes: int
    pixel: int = 1
    padded: int = 1
    each: bool = False
    """Every element of a pixel has its own weights."""


def _planes(problem: ConvProblem) -> int:
    """Channels of the result."""
    return problem.C if problem.direction == "input_grad" else problem.K


def _pixels(problem: ConvProblem, lanes: int) -> _Pixels:
    if problem.layout != "NHWC" or not problem.C == problem.K == problem.groups or problem.C == 1:
        return _Pixels(_planes(problem))
    whole = [v for v in range(1, SLICE + 1) if problem.C % (v * lanes) == 0]
    vectors = whole[-1] if whole else -(-problem.C // lanes // -(-problem.C // (SLICE * lanes)))
    return _Pixels(-(-problem.C // (vectors * lanes)), vectors * lanes, vectors * lanes, True)


@dataclass(frozen=True)
class _Pass:
    """One call of the kernel: the outputs of one phase of rows."""

    pixels: _Pixels
    numbers: tuple[int, ...]
    tables: np.ndarray
    order: np.ndarray
    """Of the taps r*S + s in the packed weights."""
    worker_bytes: int
    rows: slice
    """Of the result."""
    pieces: int
    lines: int
    """Copied for each block."""


def _pass(problem: ConvProblem, kernel: Any, pixels: _Pixels, phase: int, taps_h: Taps, taps_w: list[Taps]) -> _Pass:
    forward = problem.direction != "input_grad"
    item, lanes = problem.itemsize, kernel.BYTES // problem.itemsize
    (sh, sw), dh = problem.stride, problem.dilation[0]
    step_h, step_w = (sh, sw) if forward else (1, 1)
    if forward:
        H, W, P, Q = problem.H, problem.W, problem.P, problem.Q
    else:
        H, W = problem.P, problem.Q
        P, Q = problem.x_shape[2:] if problem.boundary == "constant" else problem.padded_shape[2:]
        P = -(-(P - phase) // sh)
    spread = dh // math.gcd(sh, dh)
    # Chunks: rows of taps whose lines are spread*step_h apart.
    apart = step_h // math.gcd(step_h, dh)
    chunks = []
    for start in range(min(apart, len(taps_h))):
        group = taps_h[start::apart]
        count = -(-len(group) // kernel.TAPS)
        ends = [len(group) * i // count for i in range(count + 1)]
        chunks += [group[a:b] for a, b in itertools.pairwise(ends)]
    first_h, last_h = taps_h[0][1], taps_h[-1][1]
    offsets = [offset for taps in taps_w for _, offset in taps]
    first_w = min(offsets, default=0) // step_w
    reach_w = max(offsets, default=0) // step_w - first_w
    residues = sorted({offset % step_w for offset in offsets}) or [0]
    order = [r * problem.S + s for taps in taps_w for chunk in chunks for s, _ in taps for r, _ in chunk]
    block_p, block_q, plane, line = _blocks(
        P, -(-Q // len(taps_w)), step_h, last_h - first_h, reach_w, spread, len(residues), pixels.padded, kernel, item
    )
    lines = step_h * (block_p - 1) + last_h - first_h + 1
    stage = up(block_q * pixels.padded, 16) + 16
    whole = block_p >= P and block_q * len(taps_w) >= Q
    bunch = max(BUNCH // (P * Q * pixels.padded), 1) if whole else 1
    columns = [
        (residues.index(offset % step_w) * plane + offset // step_w - first_w) * pixels.padded
        for taps in taps_w
        for _, offset in taps
    ]
    begins = np.cumsum([0, *map(len, taps_w)])
    tables = [*residues, *map(len, chunks), *(chunk[0][1] for chunk in chunks), *begins, *columns]
    numbers = (
        pixels.planes, _planes(problem) // problem.groups, _planes(problem), pixels.pixel, pixels.padded, pixels.each,
        H, W, P, Q, len(taps_w), step_h, step_w, spread, first_h, last_h - first_h, first_w, reach_w,
        block_p, block_q, plane, len(residues), bunch, lines, line, stage, len(chunks), len(taps_h),
    )  # fmt: skip
    elements, pieces = (lines + 2) * line + lanes, 1
    if problem.direction == "weight_grad":
        elements += block_p * stage + len(order) * max(pixels.padded, lanes)
        pointers = lines + kernel.LINES
        blocks = problem.N * -(-P // block_p) * -(-Q // block_q)
        pieces = max(min(PIECES // pixels.planes, blocks), 1)
    else:
        elements += (len(taps_w) * kernel.M + 1) * stage
        pointers = lines + len(chunks) * kernel.LINES
    return _Pass(
        pixels, numbers, np.array(tables, np.int64), np.array(order, np.intp), up(elements * item + 8 * pointers, 64),
        slice(phase, None, 1 if forward else sh), pieces, lines,
    )  # fmt: skip


def _blocks(
    P: int, Q: int, step: int, reach_h: int, reach_w: int, spread: int, residues: int, pixel: int, kernel: Any,
    item: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Rows and columns of outputs in a block; pixels of a phase and elements of a line in its copy.

    Lines as long as the image are copied fastest; a dozen rows of outputs is enough of them.
    """

    def line(columns: int) -> int:
        elements = up(residues * (columns + reach_w) * pixel + 32, 16)  # room to align, and for a vector
        return elements + (16 if elements * item % 1024 == 0 else 0)  # lines don't share cache sets

    least = kernel.M * spread
    fit = COPY_BYTES // item // (step * (min(least, P) - 1) + reach_h + 1)
    q_blocks = -(-line(Q) // max(fit, 1))
    block_q = Q
    if q_blocks > 1:
        block_q = min(up(max(-(-Q // q_blocks), 128 // pixel), 16), Q)
    length, block_p = line(block_q) * item, least
    while block_p < P:
        nbytes = (step * (2 * block_p - 1) + reach_h + 1) * length
        if nbytes > (COPY_BYTES if block_p < 2 * least else CACHE_BYTES):
            break
        block_p *= 2
    block_p = min(up(-(-P // -(-P // block_p)), least), P)
    return block_p, block_q, block_q + reach_w, line(block_q)


@dataclass(frozen=True)
class Tables:
    """What every run of a problem shares."""

    problem: ConvProblem
    isa: str
    _others: dict[int, list[_Pass]] = field(default_factory=dict)

    @cached_property
    def kernel(self) -> Any:
        return machine.kernels(self.isa).rows

    @cached_property
    def lanes(self) -> int:
        return self.kernel.BYTES // self.problem.itemsize

    @cached_property
    def kinds(self) -> dict[np.dtype, int]:
        """Numbers of dtypes, 0 for that of the sums."""
        others = {np.dtype(name): kind for kind, name in enumerate(KINDS, 1)}
        return others | {np.dtype(self.problem.compute_dtype): 0}

    @cached_property
    def entry(self) -> Any:
        """The kernel's function."""
        name = "_weight_grad" if self.problem.direction == "weight_grad" else "_forward"
        return getattr(self.kernel, PREFIX[self.problem.compute_dtype] + name)

    @cached_property
    def cval(self) -> float | int:
        return 0 if self.problem.direction == "input_grad" else self.problem.compute_cval

    @cached_property
    def pixels(self) -> _Pixels:
        return _pixels(self.problem, self.lanes)

    @cached_property
    def passes(self) -> list[_Pass]:
        return self._passes(self.pixels)

    def _passes(self, pixels: _Pixels) -> list[_Pass]:
        taps_h, taps_w = _taps(self.problem, 0), _taps(self.problem, 1)
        extent = self.problem.out_shape[2] if self.problem.direction == "input_grad" else 1
        if self.problem.direction == "input_grad" and self.problem.boundary != "constant":
            extent = self.problem.padded_shape[2]
        return [
            _pass(self.problem, self.kernel, pixels, phase, taps, taps_w)
            for phase, taps in enumerate(taps_h)
            if taps and phase < extent
        ]

    def together(self, images: int) -> list[_Pass]:
        """For planes, that of one pixel being as many images side by side (1: none are)."""
        if images not in self._others:
            self._others[images] = self._passes(_Pixels(_planes(self.problem), images, images))
        return self._others[images]

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray, int, int]:
        """What rows and columns beyond the image repeat, and how many of them come before it."""
        problem = self.problem
        if problem.direction == "input_grad" or problem.boundary == "constant":
            none = np.empty(0, np.int64)
            return none, none, 0, 0
        (top, bottom), (left, right) = problem.padding
        return (
            boundary_edges(problem.H, top, bottom, problem.boundary),
            boundary_edges(problem.W, left, right, problem.boundary), top, left,
        )  # fmt: skip


def cost(problem: ConvProblem, isa: str) -> Cost:
    tables = Tables(problem, isa)
    pixels, item, lanes = tables.pixels, problem.itemsize, tables.lanes
    flops = moved = worker = shared = 0
    for one in tables.passes:
        P, Q, column_phases = one.numbers[8:11]
        block_p, block_q = one.numbers[18:20]
        columns = -(-Q // column_phases)
        blocks = problem.N * pixels.planes * -(-P // block_p) * -(-columns // block_q)
        run = columns * pixels.padded if pixels.each else up(columns, lanes)
        flops += 2 * problem.N * pixels.planes * P * run * len(one.order)
        line = one.numbers[24]
        moved += 2 * blocks * one.lines * line * item
        worker = max(worker, one.worker_bytes)
        shared += len(one.order) * pixels.planes * pixels.padded * item * one.pieces
    if problem.direction == "input_grad" and problem.boundary != "constant":
        padded = math.prod(problem.padded_shape[1:]) * item
        shared, moved = shared + padded, moved + 3 * padded * problem.N
    return Cost(flops, COPYING * moved, shared, worker, "rows", max(len(tables.passes), 1))


@dataclass(frozen=True)
class Packed:
    """Weights (planes, taps) as given, and in the order of each pass."""

    weights: np.ndarray
    passes: list[np.ndarray]
    finite: bool


def pack(tables: Tables, w: np.ndarray) -> Packed:
    flat = np.ascontiguousarray(w).reshape(w.shape[0] * w.shape[1], -1)
    finite = True
    if tables.problem.direction == "input_grad" and flat.dtype.kind == "f":
        finite = bool(np.isfinite(flat).all())
    return Packed(flat, [_in_order(one, flat, tables.lanes) for one in tables.passes], finite)


def _in_order(one: _Pass, flat: np.ndarray, lanes: int) -> np.ndarray:
    """(planes, taps), or (slices, vectors, taps, lanes) where every element of a pixel has its own weights."""
    packed, pixels = flat[:, one.order], one.pixels
    if not pixels.each:
        return packed.reshape(-1)
    filled = np.zeros((pixels.planes * pixels.padded, packed.shape[1]), packed.dtype)
    filled[: len(packed)] = packed
    split = filled.reshape(pixels.planes, pixels.padded // lanes, lanes, -1)
    return np.ascontiguousarray(split.swapaxes(2, 3)).reshape(-1)


def _side_by_side(array: np.ndarray, axis: int) -> bool:
    """Does an axis lie innermost, with the columns right around it?"""
    return array.strides[axis] == array.itemsize and array.strides[3] == array.shape[axis] * array.itemsize


def _layout(tables: Tables, a: np.ndarray, b: np.ndarray) -> tuple[list[_Pass], np.ndarray, np.ndarray]:
    """The passes that suit how two arrays of images lie, and the arrays as the kernel takes them."""
    if tables.pixels.each:
        if all(array.strides[1] == array.itemsize for array in (a, b)):
            return tables.passes, a, b
        return tables.together(1), a, b
    n = a.shape[0]
    if n > 1 and a.shape[1] == b.shape[1] == 1 and _side_by_side(a, 0) and _side_by_side(b, 0):
        return tables.together(n), a[:1], b[:1]
    return tables.passes, a, b


def forward(tables: Tables, x: np.ndarray, packed: Packed, bias: np.ndarray, y: np.ndarray, workers: int) -> None:
    """The result of a forward problem or of an input gradient; of the latter, the rows that windows reach."""
    passes, x, y = _layout(tables, x, y)
    weights = packed.passes
    if passes is not tables.passes and tables.pixels.each:
        weights = [_in_order(one, packed.weights, tables.lanes) for one in passes]
    kinds = tables.kinds
    for one, taps in zip(passes, weights, strict=True):
        with scratch(one.worker_bytes * workers) as memory:
            tables.entry(
                x, kinds[x.dtype], taps, bias, y[:, :, one.rows], kinds[y.dtype], tables.cval, one.numbers,
                *tables.edges, one.tables, memory, one.worker_bytes, workers,
            )  # fmt: skip


def weight_grad(tables: Tables, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int) -> None:
    (one,), x, dy = _layout(tables, x, dy)
    parts = np.empty((one.pieces, dw.shape[0], len(one.order)), tables.problem.compute_dtype)
    with scratch(one.worker_bytes * workers) as memory:
        tables.entry(
            x, tables.kinds[x.dtype], dy, parts, tables.cval, one.numbers, *tables.edges, one.tables, memory,
            one.worker_bytes, workers,
        )  # fmt: skip
    if one.pieces > 1:
        add_up(parts, parts[0])
    flat = np.empty_like(parts[0])
    flat[:, one.order] = parts[0]
    dw[...] = flat.reshape(dw.shape)
