"""The plain sum over the filter's taps, from small copied blocks of the image.

Any stride, dilation, group, boundary and dtype; a few KiB of scratch. Where each output channel sees one input channel
(images, depthwise), fastconv.algorithms.rows has the tables and kernels; for all others, kernel src_cython/direct.pyx
draws the blocks, and this module chooses their sizes. Input gradients are forward convolutions, one per output phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms import phases, rows
from fastconv.algorithms.common import KINDS, PREFIX, Cost, add_up, grouped, scratch, sum_bound, up
from fastconv.problem import ConvProblem

NAME = "direct"
SCOPE, ELEMENTWISE = "window", True

RUN = 512  # outputs of a block: its sums stay in L1
COPYING = 0.4  # of the time that machine.Rates.bandwidth reckons: patches are copied by whole rows
BLOCK = 12288  # elements of the image copied at a time
DOT_TAPS = 64  # taps whose dot products are gathered at a time, if a channel has fewer
PIECES = 8  # weight gradients of so few filters that workers would idle are cut over the samples


def why_not(problem: ConvProblem) -> str | None:
    return None


def variant(problem: ConvProblem) -> str:
    if rows.serves(problem):
        return "rows" if problem.groups == 1 else "depthwise"
    return "blocks of rows"


def reads(problem: ConvProblem) -> tuple[str, ...]:
    return KINDS if rows.serves(problem) else ()


def writes(problem: ConvProblem) -> tuple[str, ...]:
    return ("int64",) if rows.serves(problem) and problem.exact_in is not None else ()


def error_bound(problem: ConvProblem) -> float:
    return sum_bound(problem)


@dataclass(frozen=True)
class _Blocks:
    """Block sizes, as src_cython/direct.pyx takes them, and the scratch they need."""

    sizes: tuple[int, ...]
    block: int
    """Elements of the copied patch, with the slack that whole vectors need."""
    worker_bytes: int
    pieces: int = 1


def _blocks(problem: ConvProblem, kernel: Any) -> _Blocks:
    forward = problem.direction == "forward"
    channels, filters_all = problem.C // problem.groups, problem.K // problem.groups
    lanes = kernel.BYTES // problem.itemsize
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    filters = (1 if filters_all == 1 else kernel.FILTERS) if forward else kernel.DOT_FILTERS
    q = -(-problem.Q // -(-problem.Q // RUN))
    pitch = q + (problem.S - 1) * dw // sw
    p = min(max(RUN // pitch, 1), problem.P)
    slots = p + (problem.R - 1) * dh // sh
    phases_h, phases_w = min(problem.R, sh // math.gcd(sh, dh)), min(problem.S, sw // math.gcd(sw, dw))
    plane = phases_h * phases_w * slots * pitch
    c = max(BLOCK // plane, 1)
    if not forward:
        c = min(c, max(DOT_TAPS // (problem.R * problem.S), 1))
    c = min(c, channels)
    block = c * plane + 2 * lanes
    sizes = (filters, p, q, c, slots, pitch, phases_h, phases_w)
    if forward:
        elements, pieces = filters * up((p - 1) * pitch + q, lanes) + 2 * block, 1
    else:
        taps = up(c * problem.R * problem.S, kernel.DOT_TAPS)
        elements = taps * filters * lanes + filters * p * up(q, lanes) + block
        units = problem.groups * -(-filters_all // filters) * -(-channels // c)
        pieces = max(min(problem.N, PIECES // units), 1)
    return _Blocks(sizes, block, up(elements * problem.itemsize, 64), pieces)


def _packed_elements(problem: ConvProblem, filters: int) -> int:
    g = problem.groups
    return g * up(problem.K // g, filters) * (problem.C // g) * problem.R * problem.S


def cost(problem: ConvProblem, isa: str) -> Cost:
    if not rows.serves(problem):
        return _blocks_cost(problem, isa)
    found = rows.cost(problem, isa)
    if problem.direction == "input_grad" and problem.dtype != "int64":  # weights that are not finite
        other = _blocks_cost(problem, isa)
        found = replace(found, shared=found.shared + other.shared, worker=max(found.worker, other.worker))
    return found


def _blocks_cost(problem: ConvProblem, isa: str) -> Cost:
    kernel = machine.kernels(isa).direct
    if problem.direction == "input_grad":
        parts = [(phase, _blocks_cost(phase.problem, isa)) for phase in phases.phases(problem)]
        shared = sum(part.shared for _, part in parts)
        moved = sum(part.bytes for _, part in parts)
        if problem.boundary != "constant":
            padded = math.prod(problem.padded_shape[1:]) * problem.itemsize
            shared, moved = shared + padded, moved + 3 * padded * problem.N
        worker = max((part.worker for _, part in parts), default=0)
        calls = len(parts) * (1 if problem.boundary == "constant" else max(problem.N, 1))
        return Cost(sum(part.flops for _, part in parts), moved, shared, worker, "direct", max(calls, 1))
    blocks = _blocks(problem, kernel)
    filters, p, q, *_, slots, pitch, phases_h, phases_w = blocks.sizes
    g, lanes = problem.groups, kernel.BYTES // problem.itemsize
    filters_done = up(problem.K // g, filters) * g
    if problem.direction == "forward":
        run = up((p - 1) * pitch + q, lanes)
        done = run * -(-problem.P // p) * -(-problem.Q // q)
        shared = _packed_elements(problem, filters) * problem.itemsize
    else:
        done = problem.P * up(q, lanes) * -(-problem.Q // q)
        shared = (blocks.pieces if blocks.pieces > 1 else 0) * math.prod(problem.w_shape) * problem.itemsize
    flops = 2 * problem.N * filters_done * done * (problem.C // g) * problem.R * problem.S
    patches = problem.N * problem.C * -(-problem.P // p) * -(-problem.Q // q) * filters_done / g / filters
    patch = phases_h * phases_w * slots * pitch * problem.itemsize
    return Cost(flops, COPYING * 2 * patches * patch, shared, blocks.worker_bytes, "direct")


@dataclass(frozen=True)
class _Tables:
    """What every run of a forward or weight-gradient problem shares."""

    problem: ConvProblem
    kernel: Any
    prefix: str
    geometry: tuple[int, ...]
    blocks: _Blocks
    rows: np.ndarray
    columns: np.ndarray
    taps: np.ndarray


def _tables(problem: ConvProblem, isa: str) -> _Tables:
    kernel = machine.kernels(isa).direct
    blocks = _blocks(problem, kernel)
    _, _, _, c, slots, pitch, phases_h, phases_w = blocks.sizes
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    r, s = np.arange(problem.R), np.arange(problem.S)
    row = (r % phases_h * phases_w * slots + r * dh // sh) * pitch
    column = s % phases_w * slots * pitch + s * dw // sw
    channel = np.arange(c) * (phases_h * phases_w * slots * pitch)
    taps = (channel[:, None, None] + row[:, None] + column).ravel()
    taps = np.pad(taps, (0, -taps.size % kernel.DOT_TAPS), mode="edge").astype(np.int64)
    g = problem.groups
    geometry = (
        g, problem.C // g, problem.K // g, problem.H, problem.W, problem.R, problem.S, problem.P, problem.Q,
        problem.padding[1][0], sh, sw, dh, dw,
    )  # fmt: skip
    prefix = PREFIX[problem.compute_dtype]
    return _Tables(problem, kernel, prefix, geometry, blocks, problem.rows(), problem.columns(), taps)


def prepare(problem: ConvProblem, isa: str) -> Any:
    return rows.Tables(problem, isa) if rows.serves(problem) else _prepare_blocks(problem, isa)


@lru_cache(maxsize=64)
def _prepare_blocks(problem: ConvProblem, isa: str) -> Any:
    if problem.direction == "input_grad":
        return [(phase, _tables(phase.problem, isa)) for phase in phases.phases(problem)]
    return _tables(problem, isa)


@dataclass(frozen=True)
class _Packed:
    weights: np.ndarray
    finite: bool


def _pack(tables: _Tables, weights: np.ndarray) -> _Packed:
    packed = np.empty(_packed_elements(tables.problem, tables.blocks.sizes[0]), weights.dtype)
    finite = getattr(tables.kernel, tables.prefix + "_pack")(weights, tables.blocks.sizes[0], packed)
    return _Packed(packed, finite)


def pack(plan: Any, w: np.ndarray) -> Any:
    if isinstance(plan.tables, rows.Tables):
        packed = rows.pack(plan.tables, w)
        if packed.finite:
            return packed
        # A gradient ends where dy does, and an infinite weight meets nothing there: `careful` sees to that.
        return _pack_blocks(plan.problem, _prepare_blocks(plan.problem, plan.isa), w)
    return _pack_blocks(plan.problem, plan.tables, w)


def _pack_blocks(problem: ConvProblem, tables: Any, w: np.ndarray) -> Any:
    groups = problem.groups
    if problem.direction == "input_grad":
        return [_pack(table, phases.turned(w, groups, phase.taps)) for phase, table in tables]
    return _pack(tables, grouped(w, groups))


def _forward(
    tables: _Tables, x: np.ndarray, packed: _Packed, bias: np.ndarray, y: np.ndarray, workers: int, careful: bool
) -> None:
    blocks = tables.blocks
    with scratch(blocks.worker_bytes * workers) as memory:
        getattr(tables.kernel, tables.prefix + "_forward")(
            x, packed.weights, bias, y, tables.problem.compute_cval, tables.geometry, blocks.sizes, tables.rows,
            tables.columns, tables.taps, memory, blocks.worker_bytes, workers, careful,
        )  # fmt: skip


def _weight_grad(tables: _Tables, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int) -> None:
    blocks = tables.blocks
    whole = blocks.pieces == 1 and dw.flags.c_contiguous
    parts = dw[None] if whole else np.empty((blocks.pieces, *dw.shape), dw.dtype)
    with scratch(blocks.worker_bytes * workers) as memory:
        getattr(tables.kernel, tables.prefix + "_weight_grad")(
            x, dy, parts, tables.problem.compute_cval, tables.geometry, blocks.sizes, tables.rows, tables.columns,
            tables.taps, memory, blocks.worker_bytes, workers,
        )  # fmt: skip
    if not whole:
        add_up(parts, dw)


def run(plan: Any, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    problem, tables = plan.problem, plan.tables
    by_rows = isinstance(tables, rows.Tables)
    if problem.direction == "weight_grad":
        (rows.weight_grad if by_rows else _weight_grad)(tables, a, b, out, workers)
        return
    packed = pack(plan, b) if isinstance(b, np.ndarray) else b
    by_rows = isinstance(packed, rows.Packed)
    if problem.direction == "forward":
        if by_rows:
            rows.forward(tables, a, packed, bias, out, workers)
        else:
            _forward(tables, a, packed, bias, out, workers, False)
        return

    def one(dy: np.ndarray, bias: np.ndarray, dx: np.ndarray) -> None:
        if by_rows:
            rows.forward(tables, dy, packed, bias, dx, workers)
            return
        for (phase, table), weights in zip(_prepare_blocks(problem, plan.isa), packed, strict=True):
            part = dx[:, :, phase.out[0], phase.out[1]]
            _forward(table, dy, weights, bias, part, workers, not weights.finite)

    phases.run(problem, one, a, bias, out)
