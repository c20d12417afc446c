"""Filtering by rows and columns: kernels that are sums of few outer products, sum_i columns[i] rows[i]^T.

    t[i, u, q] = sum_s rows[i, s] * x[u, q*sw + s*dw]              once for each row and term
    y[p, q]    = sum_i sum_r columns[i, r] * t[i, p*sh + r*dh, q]

R + S products a pixel and term in place of R * S. Both sums are made in one walk down a band of rows, so that what
lies between them never leaves the cache. Input gradients are forward convolutions, one per output phase, whose filters
are parts of the factors. A photo's channels are filtered as one image whose taps lie that many pixels apart. Kernel:
src_cython/separable.pyx, which draws the bands; this module chooses their sizes.

A term spreads NaN and infinities over the window they are in, as the direct sum does; but several terms can turn an
infinity into NaN, or overflow where their sum wouldn't: lines that aren't finite are then computed again directly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms import phases
from fastconv.algorithms.common import KINDS, PREFIX, Cost, scratch, up
from fastconv.boundary import most_repeats
from fastconv.errors import UnsupportedError
from fastconv.factors import GROWTH, TOLERANCE, Factors, factors
from fastconv.problem import ConvProblem

NAME = "separable"
SCOPE, ELEMENTWISE = "window", False

RING_BYTES = 256 << 10  # rows of t that are still needed: they stay in a level-2 cache
LINES = 64  # of a band, at the least; its first R - 1 rows are computed in the band above, too
BAND = 16  # times as many lines as those rows
CHANNELS = 4  # of a photo that are filtered side by side, at the most
ROW = 1.5  # times as long takes a multiply-add along a row as one down the columns, for its load
COPYING = 0.5  # of the time that machine.Rates.bandwidth reckons: rows are read and written once, as they lie


def why_not(problem: ConvProblem) -> str | None:
    if problem.direction == "weight_grad":
        return "the gradient by the kernel is no filtering by a separable kernel"
    if not problem.C == problem.K == problem.groups:
        return "it takes one image or one filter for each channel (C = K = groups)"
    if problem.rank is None:
        return "the kernel's rank is not known: only its values tell"
    if problem.rank == 0:
        return "the kernel isn't the sum of so few outer products" + (
            " of integers" if problem.dtype == "int64" else ""
        )
    return None


def reads(problem: ConvProblem) -> tuple[str, ...]:
    return KINDS if problem.compute_dtype != "uint64" else KINDS[:6]


def writes(problem: ConvProblem) -> tuple[str, ...]:
    return ("int64",) if problem.dtype == "int64" else ()


def variant(problem: ConvProblem) -> str:
    return f"rank {problem.rank}"


def error_bound(problem: ConvProblem) -> float:
    """What the factors miss the kernel by, then the sums of S and of R * rank products.

    Cauchy's inequality makes one norm of sum_i |columns[i]| |rows[i]|, which is at most ``growth`` kernels large.
    """
    if problem.dtype == "int64":
        return 0.0
    assert problem.rank is not None
    eps = float(np.finfo(problem.compute_dtype).eps)
    growth = 1.0 if problem.rank == 1 else GROWTH * problem.rank
    n = (problem.S + problem.R * problem.rank + 4) * eps / 2
    if n >= 0.5:
        return math.inf
    e = TOLERANCE * eps + (1 + TOLERANCE * eps) * growth * (n / (1 - n) + (problem.rank + 1) * eps)
    if problem.direction == "input_grad" and problem.boundary != "constant":
        repeats = most_repeats(problem.rows()) * most_repeats(problem.columns())
        e = repeats * (e + repeats * eps)
    return e if problem.dtype != "float16" else e + 2.0**-11 * (1 + e)


@dataclass(frozen=True)
class _Blocks:
    """Sizes as src_cython/separable.pyx takes them, and the scratch they need."""

    spread: int
    """Lines of y that far apart make a class, which has no dilation down the columns."""
    step: int
    """Its stride."""
    sizes: tuple[int, ...]
    worker_bytes: int


def _blocks(problem: ConvProblem, kernel: Any) -> _Blocks:
    assert problem.rank
    (sh, sw), (dh, dw), item = problem.stride, problem.dilation, problem.itemsize
    common, lanes = math.gcd(sh, dh), kernel.BYTES // item
    spread, step = dh // common, sh // common
    slots = problem.R + (kernel.LINES - 1 if step == 1 and problem.R >= kernel.LINES - 1 else 0)
    reach, phases_w = (problem.S - 1) * dw // sw, min(problem.S, sw // math.gcd(sw, dw))
    width = max(RING_BYTES // (slots * problem.rank * item), 8 * lanes, reach)
    q = up(-(-problem.Q // -(-problem.Q // width)), 2 * lanes)
    height = -(-problem.P // spread)
    bands = -(-height // max(LINES, BAND * (problem.R - 1) // step))
    j = up(-(-height // bands), kernel.LINES)
    row = up(reach + q, lanes)
    pitch = q + 64 // item  # rows a cache line more than their size apart don't share cache sets
    elements = (slots * problem.rank + kernel.LINES) * pitch + phases_w * row
    pointers = problem.rank * (problem.R + kernel.LINES - 1) * 8
    return _Blocks(spread, step, (j, q, slots, pitch, phases_w, row), up(elements * item + pointers, 64))


@dataclass(frozen=True)
class _Tables:
    """What every run of a forward problem shares."""

    problem: ConvProblem
    forward: Any
    """The kernel."""
    geometry: tuple[int, ...]
    blocks: _Blocks
    rows: np.ndarray
    columns: np.ndarray
    taps: np.ndarray
    photo: _Tables | None
    """For images whose pixels lie side by side."""


def _photo(problem: ConvProblem) -> ConvProblem | None:
    """The images as channels of one photo (H, W, N): a single image N times as wide, and so are its taps' distances."""
    n, (before, after), (dh, dw) = problem.N, problem.padding[1], problem.dilation
    if problem.C > 1 or not 1 < n <= CHANNELS or problem.stride[1] > 1:
        return None
    wide = problem.padding[0], (before * n, after * n)
    return replace(problem, N=1, W=problem.W * n, padding=wide, dilation=(dh, dw * n))


def _tables(problem: ConvProblem, isa: str) -> _Tables:
    assert problem.rank
    kernel = machine.kernels(isa).separable
    blocks = _blocks(problem, kernel)
    *_, phases_w, row = blocks.sizes
    (sh, sw), (dh, dw), s = problem.stride, problem.dilation, np.arange(problem.S)
    geometry = (
        problem.C, problem.W, problem.R, problem.S, problem.P, problem.Q, problem.padding[1][0], sh, sw, dh, dw,
        blocks.spread, blocks.step, problem.rank,
    )  # fmt: skip
    forward = getattr(kernel, PREFIX[problem.compute_dtype] + "_forward")
    taps = (s % phases_w * row + s * dw // sw).astype(np.int64)
    columns, photo = problem.columns(), None
    wide = _photo(problem)
    if wide is not None:
        each = np.where(columns[:, None] < 0, -1, columns[:, None] * problem.N + np.arange(problem.N))
        photo = replace(_tables(wide, isa), columns=each.ravel())
    return _Tables(problem, forward, geometry, blocks, problem.rows(), columns, taps, photo)


def _phases(problem: ConvProblem) -> list[phases.Phase]:
    return [replace(phase, problem=replace(phase.problem, rank=problem.rank)) for phase in phases.phases(problem)]


def prepare(problem: ConvProblem, isa: str) -> Any:
    if problem.direction == "input_grad":
        return [(phase, _tables(phase.problem, isa)) for phase in _phases(problem)]
    return _tables(problem, isa)


def cost(problem: ConvProblem, isa: str) -> Cost:
    assert problem.rank
    kernel = machine.kernels(isa).separable
    if problem.direction == "input_grad":
        parts = [cost(phase.problem, isa) for phase in _phases(problem)]
        shared, moved = sum(part.shared for part in parts), sum(part.bytes for part in parts)
        if problem.boundary != "constant":
            padded = math.prod(problem.padded_shape[1:]) * problem.itemsize
            shared, moved = shared + padded, moved + 3 * padded * problem.N
        worker = max((part.worker for part in parts), default=0)
        calls = len(parts) * (1 if problem.boundary == "constant" else max(problem.N, 1))
        return Cost(sum(part.flops for part in parts), moved, shared, worker, "separable", max(calls, 1))
    blocks = _blocks(problem, kernel)
    lines, width, *_, row = blocks.sizes
    planes, lanes = problem.N * problem.C, kernel.BYTES // problem.itemsize
    q = problem.Q // width * width + up(problem.Q % width, 2 * lanes)
    bands = -(-problem.P // lines)
    rows = problem.P * min(blocks.step, problem.R) + bands * max(problem.R - blocks.step, 0)
    flops = 2 * planes * q * problem.rank * (ROW * rows * problem.S + problem.P * problem.R)
    moved = planes * problem.itemsize * (-(-problem.Q // width) * rows * row + problem.P * problem.Q)
    shared = problem.C * (problem.rank * (problem.R + problem.S) + problem.R * problem.S) * problem.itemsize
    wide = _photo(problem)
    worker = max(blocks.worker_bytes, _blocks(wide, kernel).worker_bytes if wide is not None else 0)
    return Cost(flops, COPYING * moved, shared, worker, "separable")


# --- weights and runs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Packed:
    columns: np.ndarray
    """(C, terms, R)"""
    rows: np.ndarray
    """(C, terms, S)"""
    kernels: np.ndarray
    """(C, R, S) where lines that aren't finite must be computed again, else (0, R, S)."""


def pack(plan: Any, w: np.ndarray) -> Any:
    kernels = w[:, 0].astype(np.int64) if plan.problem.dtype == "int64" else w[:, 0]
    return pack_factors(plan, w, factors(kernels, plan.problem.rank))


def pack_factors(plan: Any, w: np.ndarray, found: Factors) -> Any:
    problem, terms = plan.problem, found.rank
    if not 1 <= terms <= problem.rank:
        raise UnsupportedError(f"w: got a kernel that isn't of rank {problem.rank}, for which the plan was made")
    columns, rows = found.columns, found.rows
    if terms < problem.rank:
        rest = (0, 0), (0, problem.rank - terms), (0, 0)
        columns, rows = np.pad(columns, rest), np.pad(rows, rest)
    columns, rows = np.ascontiguousarray(columns, w.dtype), np.ascontiguousarray(rows, w.dtype)
    kernels = w[:, 0] if not found.same_signs or terms < problem.rank else w[:0, 0]
    if problem.direction == "forward":
        return _Packed(columns, rows, np.ascontiguousarray(kernels))
    return [
        _Packed(*(np.ascontiguousarray(part) for part in (
            columns[..., phase.taps[0]][..., ::-1], rows[..., phase.taps[1]][..., ::-1],
            kernels[..., phase.taps[0], phase.taps[1]][..., ::-1, ::-1],
        )))
        for phase, _ in plan.tables
    ]  # fmt: skip


def run(plan: Any, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    packed = pack(plan, b) if isinstance(b, np.ndarray) else b
    if plan.problem.direction == "forward":
        _forward(plan.tables, a, packed, bias, out, workers)
        return

    def one(dy: np.ndarray, bias: np.ndarray, dx: np.ndarray) -> None:
        for (phase, tables), weights in zip(plan.tables, packed, strict=True):
            rows, columns = phase.out
            _forward(tables, dy, weights, bias, dx[:, :, rows, columns], workers)

    phases.run(plan.problem, one, a, bias, out)


def _forward(tables: _Tables, x: np.ndarray, packed: _Packed, bias: np.ndarray, y: np.ndarray, workers: int) -> None:
    # Not where lines may be computed again: another channel's bytes must not depend on that.
    if tables.photo is not None and not packed.kernels.size and _side_by_side(x) and _side_by_side(y):
        tables, x, y = tables.photo, _as_one(x), _as_one(y)
    blocks, own = tables.blocks, bias.dtype
    kind = KINDS.index(x.dtype.name) + 1 if x.dtype != own else 0
    with scratch(blocks.worker_bytes * workers) as memory:
        tables.forward(
            _bytes(x), kind, packed.columns, packed.rows, packed.kernels, bias, _bytes(y), y.dtype != own,
            tables.problem.compute_cval, tables.geometry, blocks.sizes, tables.rows, tables.columns, tables.taps,
            memory, blocks.worker_bytes, workers,
        )  # fmt: skip


def _side_by_side(images: np.ndarray) -> bool:
    """Do the images (N, 1, H, W) lie as the channels of a photo (H, W, N) do?"""
    n, item = len(images), images.itemsize
    return images.strides[0] == item and images.strides[3] == n * item


def _as_one(images: np.ndarray) -> np.ndarray:
    """A view of them as (1, 1, H, W * N)."""
    return images.transpose(1, 2, 3, 0).reshape(1, 1, images.shape[2], -1)


def _bytes(array: np.ndarray) -> np.ndarray:
    return array[..., None].view(np.uint8)
