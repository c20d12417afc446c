"""The plain sum over the filter's taps, from small copied blocks of the image.

Any stride, dilation, group, boundary and dtype; some hundred KiB of scratch at the most for each worker. Where each
channel has one filter of its own (images, depthwise), fastconv.algorithms.rows has the tables and kernels; for all
others, kernel src_cython/direct.pyx draws the blocks, and this module chooses their sizes. Input gradients are forward
convolutions, one per output phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms import phases, rows
from fastconv.algorithms.common import KINDS, PREFIX, Cost, add_up, even, sum_bound, up
from fastconv.problem import ConvProblem

NAME = "direct"
SCOPE, ELEMENTWISE = "window", True

RUN = 2048  # outputs of a block
BUNCH = 512  # outputs of a block of a weight gradient, or of several samples: tiles read them once for a few taps each
BLOCK_BYTES = 1 << 16  # of the image copied at a time
ROWS_BYTES = 1 << 14  # of it that the outputs of a row meet: they stay in L1
FEW = 4  # channels that are taken at once
LEAST = 64  # outputs of a row, whatever they meet
SUMS_BYTES = 1 << 18  # of a block and a part of the filters, where they don't go to the result at once: half of L2
DOT_TAPS = 128  # taps whose dot products are gathered at a time, if a channel has fewer
PIECES = 8  # weight gradients of so few filters that workers would idle are cut over the samples
COPYING = 0.8  # of the time that machine.Rates.bandwidth reckons: patches are copied by whole rows
PACKING = 2  # the same: weights are copied one by one
STARTING = 5  # taps in the time in which a tile begins and ends
CALL = 0.7  # of machine.CALL_SECONDS: what a call needs beside arrays is prepared
# Times as long as machine.Rates.direct reckons:
ALONE = 1.6  # a filter that shares no loads of the image with others
DOTS = 1.25  # weight gradients, whose loads all cross cache lines


def why_not(problem: ConvProblem) -> str | None:
    return None


def _by_rows(problem: ConvProblem) -> bool:
    """Has each channel one filter of its own? Several share what is loaded of the image."""
    return problem.C == problem.K and rows.serves(problem)


def variant(problem: ConvProblem) -> str:
    if _by_rows(problem):
        return "rows" if problem.groups == 1 else "depthwise"
    return "blocks of rows"


def reads(problem: ConvProblem) -> tuple[str, ...]:
    return KINDS if _by_rows(problem) else ()


def writes(problem: ConvProblem) -> tuple[str, ...]:
    return ("int64",) if _by_rows(problem) and problem.exact_in is not None else ()


def error_bound(problem: ConvProblem) -> float:
    return sum_bound(problem)


@dataclass(frozen=True)
class _Blocks:
    """Block sizes, as src_cython/direct.pyx takes them, and the scratch they need."""

    sizes: tuple[int, ...]
    """Rows and columns of outputs, channels; slots, pitch, phases of the rows and columns of the patch."""
    block: int
    """Elements of the copied patch, with the slack that whole vectors need."""
    run: int
    """Sums of a filter."""
    parts: int
    """Of the filters."""
    bunch: int
    """Samples of a weight gradient that are summed up together."""
    worker_bytes: int
    pieces: int = 1


def _blocks(problem: ConvProblem, kernel: Any, turned: bool = False) -> _Blocks:
    weight_grad, item, taps = problem.direction == "weight_grad", problem.itemsize, problem.R * problem.S
    channels, filters = problem.C // problem.groups, problem.K // problem.groups
    lanes = kernel.BYTES // item
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    outputs = BUNCH if weight_grad else RUN
    phases_h, phases_w = min(problem.R, sh // math.gcd(sh, dh)), min(problem.S, sw // math.gcd(sw, dw))
    down, across = (problem.R - 1) * dh // sh, (problem.S - 1) * dw // sw
    # Few channels are taken at once, in blocks that are so much smaller: then sums go straight to the result.
    together = channels if channels <= FEW and not weight_grad else 1
    row = ROWS_BYTES // item // (problem.R * phases_w)
    q = even(problem.Q, min(outputs, max(row // together - across, LEAST)))
    pitch = q + across
    slots = BLOCK_BYTES // item // (phases_h * phases_w * pitch * together)
    p = even(problem.P, max(min(outputs // pitch, slots - down), 1))
    slots = p + down
    plane = phases_h * phases_w * slots * pitch
    planes = BLOCK_BYTES // item // plane
    c = even(channels, max(min(planes, row // pitch, DOT_TAPS // taps if weight_grad else channels), 1))
    run, tiles = up((p - 1) * pitch + q, lanes), -(-filters // kernel.FILTERS)
    bunch = pieces = 1
    each = run  # elements that a filter needs
    if weight_grad:
        pieces = max(min(problem.N, PIECES // (problem.groups * tiles * -(-channels // c))), 1)
        bunch = max(min(BUNCH // (p * q), planes // c, -(-problem.N // pieces)), 1)
        each = (c * taps + kernel.POSITIONS) * lanes + bunch * p * up(q, lanes)
    parts = min(-(-filters * each * item // SUMS_BYTES), tiles)
    block = up(bunch * c * plane + 2 * lanes, 16)
    elements = (2 if turned else 1) * block + -(-tiles // parts) * -(-filters // tiles) * each + lanes
    places = bunch * max(p * -(-q // lanes), run // lanes) + kernel.POSITIONS
    sizes = (p, q, c, slots, pitch, phases_h, phases_w)
    return _Blocks(sizes, block, run, parts, bunch, up(elements * item + 16 * places, 64), pieces)


def cost(problem: ConvProblem, isa: str) -> Cost:
    if not _by_rows(problem):
        return _blocks_cost(problem, isa)
    found = rows.cost(problem, isa)
    if problem.direction == "input_grad" and problem.dtype != "int64":  # weights that are not finite
        other = _blocks_cost(problem, isa)
        found = replace(found, shared=found.shared + other.shared, worker=max(found.worker, other.worker))
    return found


def _blocks_cost(problem: ConvProblem, isa: str) -> Cost:
    kernel = machine.kernels(isa).direct
    if problem.direction == "input_grad":
        found = [phase.problem for phase in phases.phases(problem)]
        flops, moved = map(sum, zip(*(_work(part, kernel) for part in found), strict=True)) if found else (0, 0)
        shared = sum(math.prod(part.w_shape) for part in found) * problem.itemsize
        if problem.boundary != "constant":
            padded = math.prod(problem.padded_shape[1:]) * problem.itemsize
            shared, moved = shared + padded, moved + 3 * padded * problem.N
        worker = max((_blocks(part, kernel, True).worker_bytes for part in found), default=0)
        calls = 1 if problem.boundary == "constant" else max(problem.N, 1)
        return Cost(flops, moved, up(shared, 64), worker, "direct", CALL * calls)
    blocks = _blocks(problem, kernel)
    weights = math.prod(problem.w_shape) * problem.itemsize
    shared = up(weights, 64) if problem.direction == "forward" else weights * blocks.pieces * (blocks.pieces > 1)
    return Cost(*_work(problem, kernel), shared, blocks.worker_bytes, "direct", CALL)


def _work(problem: ConvProblem, kernel: Any) -> tuple[float, float]:
    """Flops and bytes."""
    blocks = _blocks(problem, kernel)
    p, q, c, slots, pitch, phases_h, phases_w = blocks.sizes
    g, lanes = problem.groups, kernel.BYTES // problem.itemsize
    filters, channels = problem.K // g, problem.C // g
    q_blocks = -(-problem.Q // q)
    done = problem.P * up(q, lanes) * q_blocks
    if problem.direction != "weight_grad" and q < lanes:
        done = blocks.run * -(-problem.P // p) * q_blocks
    taps = problem.R * problem.S
    flops = 2 * problem.N * g * filters * done * channels * taps * (ALONE if filters == 1 else 1)
    flops *= DOTS if problem.direction == "weight_grad" else 1 + STARTING / (c * taps)
    patches = problem.N * problem.C * -(-problem.P // p) * q_blocks * blocks.parts
    moved = COPYING * patches * phases_h * phases_w * slots * pitch + PACKING * math.prod(problem.w_shape)
    return flops, moved * problem.itemsize


@dataclass(frozen=True)
class _Tables:
    """What every run of a problem shares."""

    kernel: Any
    """direct.pyx's Prepared."""
    worker_bytes: int
    pieces: int
    packed_bytes: int
    """Of weights that come as they are."""
    at_once: bool
    """An input gradient that is one call, all of whose result is written."""


def _part(problem: ConvProblem, blocks: _Blocks, kernel: Any, phase: phases.Phase | None = None) -> tuple:
    """A forward problem or weight gradient as direct.pyx takes it."""
    p, q, c, slots, pitch, phases_h, phases_w = blocks.sizes
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    r, s = np.arange(problem.R), np.arange(problem.S)
    row = (r % phases_h * phases_w * slots + r * dh // sh) * pitch
    column = s % phases_w * slots * pitch + s * dw // sw
    channel = np.arange(c) * (phases_h * phases_w * slots * pitch)
    taps = (channel[:, None, None] + row[:, None] + column).ravel()
    taps = np.pad(taps, (0, kernel.POSITIONS), mode="edge").astype(np.int64)
    g = problem.groups
    out, taken = (0, 0, 1, 1), (0, 0, 1, 1)  # where outputs lie in the result, and taps in the weights
    if phase is not None:
        (h, w), (first_r, first_s) = phase.out, phase.taps
        out = (h.start, w.start, h.step, w.step)
        taken = (
            first_r.start + (problem.R - 1) * first_r.step, first_s.start + (problem.S - 1) * first_s.step,
            -first_r.step, -first_s.step,
        )  # fmt: skip
    numbers = (
        g, problem.C // g, problem.K // g, problem.H, problem.W, problem.R, problem.S, problem.P, problem.Q,
        problem.padding[1][0], sh, sw, dh, dw, p, q, c, slots, pitch, phases_h, phases_w, blocks.block, blocks.run,
        blocks.parts, blocks.bunch, *out, phase is not None, *taken, problem.boundary == "constant",
    )  # fmt: skip
    return numbers, problem.rows(), problem.columns(), taps


def prepare(problem: ConvProblem, isa: str) -> Any:
    return rows.Tables(problem, isa) if _by_rows(problem) else _prepare_blocks(problem, isa)


@lru_cache(maxsize=64)
def _prepare_blocks(problem: ConvProblem, isa: str) -> _Tables:
    kernel = machine.kernels(isa).direct
    at_once = False
    if problem.direction == "input_grad":
        found = phases.phases(problem)
        blocks = [_blocks(phase.problem, kernel, True) for phase in found]
        parts = [_part(p.problem, part_blocks, kernel, p) for p, part_blocks in zip(found, blocks, strict=True)]
        at_once = problem.boundary == "constant" and phases.covers(problem)
        largest = max(blocks, key=lambda b: b.worker_bytes, default=_blocks(problem, kernel, True))
        prepared = kernel.Prepared(PREFIX[problem.compute_dtype], 0, parts)
    else:
        largest = _blocks(problem, kernel)
        parts = [_part(problem, largest, kernel)]
        prepared = kernel.Prepared(PREFIX[problem.compute_dtype], problem.compute_cval, parts)
    return _Tables(prepared, largest.worker_bytes, largest.pieces, up(prepared.packed * problem.itemsize, 64), at_once)


@dataclass(frozen=True)
class _Packed:
    weights: np.ndarray
    finite: bool


def pack(plan: Any, w: np.ndarray) -> Any:
    if isinstance(plan.tables, rows.Tables):
        return _pack_rows(plan, w.copy())
    return _pack(plan.tables, w)


def _pack_rows(plan: Any, w: np.ndarray) -> Any:
    packed = rows.pack(plan.tables, w)
    if packed.finite:
        return packed
    # A gradient ends where dy does, and an infinite weight meets nothing there: `careful` sees to that.
    return _pack(_prepare_blocks(plan.problem, plan.isa), w)


def _pack(tables: _Tables, w: np.ndarray) -> _Packed:
    packed = np.empty(tables.kernel.packed, w.dtype)
    return _Packed(packed, tables.kernel.pack(w, packed))


def _forward(tables: _Tables, x: np.ndarray, w: Any, bias: np.ndarray, y: np.ndarray, workers: int) -> None:
    """w: as it is, or packed."""
    finite = None
    if type(w) is _Packed:
        w, finite = w.weights, w.finite
    memory = machine.take_scratch(tables.packed_bytes + tables.worker_bytes * workers)
    tables.kernel.forward(x, w, finite, bias, y, memory, tables.worker_bytes, workers)
    machine.give_scratch(memory)


def _weight_grad(tables: _Tables, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int) -> None:
    whole = tables.pieces == 1 and dw.flags.c_contiguous
    parts = dw[None] if whole else np.empty((tables.pieces, *dw.shape), dw.dtype)
    memory = machine.take_scratch(tables.worker_bytes * workers)
    tables.kernel.weight_grad(x, dy, parts, memory, tables.worker_bytes, workers)
    machine.give_scratch(memory)
    if not whole:
        add_up(parts, dw)


def run(plan: Any, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    problem, tables = plan.problem, plan.tables
    if type(tables) is rows.Tables:
        if problem.direction == "weight_grad":
            rows.weight_grad(tables, a, b, out, workers)
            return
        packed = _pack_rows(plan, b) if isinstance(b, np.ndarray) else b
        if isinstance(packed, rows.Packed):
            _run_rows(tables, a, packed, bias, out, workers)
            return
        b, tables = packed, _prepare_blocks(problem, plan.isa)
    if problem.direction == "weight_grad":
        _weight_grad(tables, a, b, out, workers)
    elif problem.direction == "forward" or tables.at_once:
        _forward(tables, a, b, bias, out, workers)
    else:
        phases.run(problem, lambda dy, bias, dx: _forward(tables, dy, b, bias, dx, workers), a, bias, out)


def _run_rows(
    tables: rows.Tables, a: np.ndarray, packed: rows.Packed, bias: np.ndarray, out: np.ndarray, workers: int
) -> None:
    if tables.problem.direction == "forward" or tables.covered:
        rows.forward(tables, a, packed, bias, out, workers)
    else:
        phases.run(
            tables.problem, lambda dy, bias, dx: rows.forward(tables, dy, packed, bias, dx, workers), a, bias, out
        )
