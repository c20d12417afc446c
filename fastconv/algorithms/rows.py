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
from fastconv.algorithms import phases
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
    """The outputs of one phase of rows."""

    pixels: _Pixels
    numbers: tuple[int, ...]
    tables: np.ndarray
    order: np.ndarray
    """Of the taps r*S + s in a sum."""
    worker_bytes: int
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
    # Channels side by side are vectors, whatever their distance. Of lines that are read in place, few columns of taps
    # pick every second element in registers; more of them are worth a copy. Integers modulo 2**64 have no such tiles.
    floats = problem.compute_dtype != "uint64"
    in_place = floats and problem.boundary == "constant" and problem.compute_cval == 0 and pixels.pixel == 1
    pick = step_w if pixels.each or (in_place and step_w == 2 and problem.S <= kernel.TAPS) else 1
    step_w //= pick
    zipped = 2 if floats and len(taps_w) == 2 and len(chunks) == pixels.pixel == 1 else 1
    offsets = [offset for taps in taps_w for _, offset in taps]
    first_w = min(offsets, default=0) // step_w
    reach_w = max(offsets, default=0) // step_w - first_w
    residues = sorted({offset % step_w for offset in offsets}) or [0]
    order = [r * problem.S + s for taps in taps_w for chunk in chunks for s, _ in taps for r, _ in chunk]
    block_p, block_q, plane, line = _blocks(
        P, -(-Q // len(taps_w)), step_h, last_h - first_h, pick, reach_w, spread, len(residues), pixels.padded,
        kernel, item,
    )  # fmt: skip
    lines = step_h * (block_p - 1) + last_h - first_h + 1
    alike = 1 if problem.direction != "weight_grad" else lanes
    weights = up(len(order) * (pixels.padded if pixels.each else alike), 16)
    stage = up(zipped * block_q * pixels.padded, 16) + 16
    whole = block_p >= P and block_q * len(taps_w) >= Q
    samples = max(problem.N, 1) if problem.direction == "weight_grad" else 1  # of a unit
    bunch = max(BUNCH // (samples * P * Q * pixels.padded), 1) if whole else 1
    columns = [
        (residues.index(offset % step_w) * plane + offset // step_w - first_w) * pixels.padded
        for taps in taps_w
        for _, offset in taps
    ]
    begins = np.cumsum([0, *map(len, taps_w)])
    # Pointers to lines stand in the table lines[u % apart][u // apart].
    group = -(-lines // (step_h * spread)) + kernel.M
    starts = [step_h * r + chunk[0][1] - first_h for r in range(spread) for chunk in chunks]
    firsts = [u % (step_h * spread) * group + u // (step_h * spread) for u in starts]
    tables = [*residues, *map(len, chunks), *firsts, *begins, *columns, *order]
    numbers = (
        pixels.planes, _planes(problem) // problem.groups, _planes(problem), pixels.pixel, pixels.padded, pixels.each,
        H, W, P, Q, len(taps_w), zipped, step_h, step_w, pick, spread, first_h, last_h - first_h, first_w, reach_w,
        block_p, block_q, plane, len(residues), bunch, lines, group, line, stage, len(chunks), len(taps_h),
        weights, problem.R * problem.S, phase, 1 if forward else sh,
    )  # fmt: skip
    elements, pieces, pointers = weights + (lines + 2) * line + lanes, 1, step_h * spread * group
    if problem.direction == "weight_grad":
        elements += block_p * stage
        blocks = problem.N * -(-P // block_p) * -(-Q // block_q)
        pieces = max(min(PIECES // pixels.planes, blocks), 1)
    else:
        elements += len(taps_w) // zipped * kernel.M * stage
    return _Pass(
        pixels, numbers, np.array(tables, np.int64), np.array(order, np.intp), up(elements * item + 8 * pointers, 64),
        pieces, lines,
    )  # fmt: skip


def _blocks(
    P: int, Q: int, step: int, reach_h: int, pick: int, reach_w: int, spread: int, residues: int, pixel: int,
    kernel: Any, item: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Rows and columns of outputs in a block; pixels of a phase and elements of a line in its copy.

    Lines as long as the image are copied fastest; a dozen rows of outputs is enough of them.
    """

    def width(columns: int) -> int:
        return pick * (columns - 1) + 1 + reach_w

    def line(columns: int) -> int:
        elements = up(residues * width(columns) * pixel + 32, 16)  # room to align, and for a vector
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
    return block_p, block_q, width(block_q), line(block_q)


class _Passes(list[_Pass]):
    """All of a problem, and what the kernel takes of them in each call."""

    def __init__(self, passes: list[_Pass], at_once: int) -> None:
        super().__init__(passes)
        self.worker_bytes = max((one.worker_bytes for one in passes), default=0)
        taken = [(one.numbers, one.tables) for one in passes]
        self.calls = [taken[i : i + at_once] for i in range(0, len(taken), at_once)]


@dataclass(frozen=True)
class Tables:
    """What every run of a problem shares."""

    problem: ConvProblem
    isa: str
    _others: dict[int, _Passes] = field(default_factory=dict)

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
    def covered(self) -> bool:
        """Is dx what the passes write, no more and no less?"""
        return self.problem.boundary == "constant" and phases.covers(self.problem)

    @cached_property
    def passes(self) -> _Passes:
        return self._passes(self.pixels)

    def _passes(self, pixels: _Pixels) -> _Passes:
        taps_h, taps_w = _taps(self.problem, 0), _taps(self.problem, 1)
        extent = self.problem.out_shape[2] if self.problem.direction == "input_grad" else 1
        if self.problem.direction == "input_grad" and self.problem.boundary != "constant":
            extent = self.problem.padded_shape[2]
        found = [
            _pass(self.problem, self.kernel, pixels, phase, taps, taps_w)
            for phase, taps in enumerate(taps_h)
            if taps and phase < extent
        ]
        return _Passes(found, self.kernel.PASSES)

    def together(self, images: int) -> _Passes:
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
        block_p, block_q = one.numbers[20:22]
        columns = -(-Q // column_phases)
        blocks = problem.N * pixels.planes * -(-P // block_p) * -(-columns // block_q)
        run = columns * pixels.padded if pixels.each else up(columns, lanes)
        flops += 2 * problem.N * pixels.planes * P * run * len(one.order)
        line = one.numbers[27]
        moved += 2 * blocks * one.lines * line * item
        worker = max(worker, one.worker_bytes)
        shared += len(one.order) * pixels.planes * pixels.padded * item * one.pieces
    if problem.direction == "input_grad" and problem.boundary != "constant":
        padded = math.prod(problem.padded_shape[1:]) * item
        shared, moved = shared + padded, moved + 3 * padded * problem.N
    return Cost(flops, COPYING * moved, shared, worker, "rows", max(len(tables.passes), 1))


@dataclass(frozen=True)
class Packed:
    """Weights (planes, taps)."""

    weights: np.ndarray
    finite: bool


def pack(tables: Tables, w: np.ndarray) -> Packed:
    """A view of w where it lies so already."""
    flat, finite = np.ascontiguousarray(w).reshape(w.shape[0] * w.shape[1], -1), True
    if tables.problem.direction == "input_grad" and flat.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(flat, axis=None)  # finite only if all weights are
        finite = math.isfinite(total) or bool(np.isfinite(flat).all())
    return Packed(flat, finite)


def _side_by_side(array: np.ndarray, axis: int) -> bool:
    """Does an axis lie innermost, with the columns right around it?"""
    return array.strides[axis] == array.itemsize and array.strides[3] == array.shape[axis] * array.itemsize


def _layout(tables: Tables, a: np.ndarray, b: np.ndarray) -> tuple[_Passes, np.ndarray, np.ndarray]:
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
    kinds = tables.kinds
    with scratch(passes.worker_bytes * workers) as memory:
        for several in passes.calls:
            tables.entry(
                x, kinds[x.dtype], packed.weights, bias, y, kinds[y.dtype], tables.cval, several, *tables.edges,
                memory, passes.worker_bytes, workers,
            )  # fmt: skip


def weight_grad(tables: Tables, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int) -> None:
    (one,), x, dy = _layout(tables, x, dy)
    whole = one.pieces == 1 and dw.flags.c_contiguous and dw.dtype == tables.problem.compute_dtype
    shape = (one.pieces, dw.shape[0], len(one.order))
    parts = dw.reshape(shape) if whole else np.empty(shape, tables.problem.compute_dtype)
    with scratch(one.worker_bytes * workers) as memory:
        tables.entry(
            x, tables.kinds[x.dtype], dy, parts, tables.cval, one.numbers, *tables.edges, one.tables, memory,
            one.worker_bytes, workers,
        )  # fmt: skip
    if one.pieces > 1:
        add_up(parts, parts[0])
    if not whole:
        dw[...] = parts[0].reshape(dw.shape)
