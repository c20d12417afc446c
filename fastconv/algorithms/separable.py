"""Filtering by columns and rows: kernels that are sums of few outer products, sum_i columns[i] rows[i]^T.

    t[i, p, v] = sum_r columns[i, r] * x[p*sh + r*dh, v]           one filter of R x 1 for each term
    y[p, q]    = sum_i sum_s rows[i, s] * t[i, p, q*sw + s*dw]     one filter of 1 x S over the terms as channels

R + S products a pixel and term in place of R * S. A band of rows at a time, so that t stays in the cache. What lies
beyond the left and right edge is put into t: boundaries that repeat pixels commute with the sums along columns, and
of a constant there remains cval * sum_r columns[i, r]. Input gradients are forward convolutions, one per output phase,
whose filters are parts of the factors. Kernel: src_cython/direct.pyx; this module chooses bands and block sizes.

A term spreads NaN and infinities over the window they are in, as the direct sum does; but several terms can turn an
infinity into NaN, or overflow where their sum wouldn't: a band that isn't finite is then computed again directly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms import phases
from fastconv.algorithms.common import PREFIX, Cost, scratch, up
from fastconv.boundary import most_repeats
from fastconv.errors import UnsupportedError
from fastconv.factors import GROWTH, TOLERANCE, factors
from fastconv.problem import ConvProblem

NAME = "separable"
SCOPE, ELEMENTWISE = "window", False

BAND_BYTES = 1 << 19  # of t: half a level-2 cache
BLOCK_BYTES = 24576  # of a copied patch and its sums: they stay in L1
COLUMN_BYTES = 512  # of a patch's rows, where filters are columns
ROW = 512  # outputs of a block, where filters are rows


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


def variant(problem: ConvProblem) -> str:
    return f"rank {problem.rank}"


def error_bound(problem: ConvProblem) -> float:
    """What the factors miss the kernel by, then the sums of R and of S * rank products.

    Cauchy's inequality makes one norm of sum_i |columns[i]| |rows[i]|, which is at most ``growth`` kernels large.
    """
    if problem.dtype == "int64":
        return 0.0
    assert problem.rank is not None
    eps = float(np.finfo(problem.compute_dtype).eps)
    growth = 1.0 if problem.rank == 1 else GROWTH * problem.rank
    n = (problem.R + problem.S * problem.rank + 4) * eps / 2
    if n >= 0.5:
        return math.inf
    e = TOLERANCE * eps + (1 + TOLERANCE * eps) * growth * (n / (1 - n) + (problem.rank + 1) * eps)
    if problem.direction == "input_grad" and problem.boundary != "constant":
        repeats = most_repeats(problem.rows()) * most_repeats(problem.columns())
        e = repeats * (e + repeats * eps)
    return e if problem.dtype != "float16" else e + 2.0**-11 * (1 + e)


# --- one pass --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pass:
    """The direct kernel with filters of R x S taps over a band of any number of rows."""

    prefix: str
    kernel: Any
    groups: int
    channels: int
    """Of a group, as the filters."""
    filters: int
    extents: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    sizes: tuple[int, ...]
    taps: np.ndarray
    worker_bytes: int

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Weights (groups, filters, channels, R, S) as the kernel reads them."""
        side = self.sizes[0]
        packed = np.empty(self.groups * up(self.filters, side) * weights[0, 0].size, weights.dtype)
        getattr(self.kernel, self.prefix + "_pack")(weights, side, packed)
        return packed

    def run(
        self, x: np.ndarray, packed: np.ndarray, y: np.ndarray, cval: float, rows: np.ndarray, columns: np.ndarray,
        left: int, workers: int,
    ) -> None:  # fmt: skip
        geometry = (
            self.groups, self.channels, self.filters, x.shape[2], x.shape[3], *self.extents, y.shape[2], y.shape[3],
            left, *self.stride, *self.dilation,
        )  # fmt: skip
        with scratch(self.worker_bytes * workers) as memory:
            getattr(self.kernel, self.prefix + "_forward")(
                x, packed, packed[:0], y, cval, geometry, self.sizes, rows, columns, self.taps, memory,
                self.worker_bytes, workers,
            )  # fmt: skip


def _pass(
    problem: ConvProblem, isa: str, channels: int, filters: int, columns: bool, rows: bool, height: int, width: int
) -> _Pass:
    """A pass over the problem's columns, its rows or both, of at most height x width outputs at a time."""
    kernel, item = machine.kernels(isa).direct, problem.itemsize
    lanes = kernel.BYTES // item
    r, s = problem.R if columns else 1, problem.S if rows else 1
    sh, dh = (problem.stride[0], problem.dilation[0]) if columns else (1, 1)
    sw, dw = (problem.stride[1], problem.dilation[1]) if rows else (1, 1)
    side = 1 if filters == 1 else kernel.FILTERS
    phases_h, phases_w = min(r, sh // math.gcd(sh, dh)), min(s, sw // math.gcd(sw, dw))
    reach_h, reach_w = (r - 1) * dh // sh, (s - 1) * dw // sw
    q = min(width, ROW if rows else COLUMN_BYTES // item)
    pitch = q + reach_w
    room = BLOCK_BYTES // item // pitch  # rows of patch and sums together
    p = min(max((room - phases_h * phases_w * reach_h) // (phases_h * phases_w + side), 8 if columns else 1), height)
    slots = p + reach_h
    plane = phases_h * phases_w * slots * pitch
    c = min(max((room - p) * pitch // plane, 1), channels)
    sizes = (side, p, q, c, slots, pitch, phases_h, phases_w)
    at_row = (np.arange(r) % phases_h * phases_w * slots + np.arange(r) * dh // sh) * pitch
    at_column = np.arange(s) % phases_w * slots * pitch + np.arange(s) * dw // sw
    taps = (np.arange(c)[:, None, None] * plane + at_row[:, None] + at_column).ravel()
    elements = side * up((p - 1) * pitch + q, lanes) + c * plane + 2 * lanes
    return _Pass(
        PREFIX[problem.compute_dtype], kernel, problem.groups, channels, filters, (r, s), (sh, sw), (dh, dw), sizes,
        taps.astype(np.int64), up(elements * item, 64),
    )  # fmt: skip


# --- forward ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Forward:
    """What every run of a forward problem shares."""

    problem: ConvProblem
    by_columns: _Pass
    by_rows: _Pass
    direct: _Pass
    rows: np.ndarray
    columns: np.ndarray
    band: tuple[int, int]
    """Samples and output rows of t at a time."""

    @property
    def t_bytes(self) -> int:
        samples, height = self.band
        return samples * self.problem.C * self.by_columns.filters * height * len(self.columns) * self.problem.itemsize


def _tables(problem: ConvProblem, isa: str, terms: int) -> _Forward:
    padded = problem.padded_shape[3]
    row_bytes = problem.C * terms * padded * problem.itemsize
    height = min(max(BAND_BYTES // row_bytes, 1), problem.P)
    samples = min(max(BAND_BYTES // (row_bytes * height), 1), max(problem.N, 1))
    return _Forward(
        problem,
        _pass(problem, isa, 1, terms, True, False, height, problem.W),
        _pass(problem, isa, terms, 1, False, True, height, problem.Q),
        _pass(problem, isa, 1, 1, True, True, height, problem.Q),
        problem.rows(),
        problem.columns(),
        (samples, height),
    )


@dataclass(frozen=True)
class _Packed:
    by_columns: np.ndarray
    by_rows: np.ndarray
    direct: np.ndarray | None
    """The kernel itself, where a band that isn't finite must be computed again."""
    beyond: np.ndarray
    """(C * terms, 1): what the constant beyond the edge adds up to along columns."""


def _pack(tables: _Forward, columns: np.ndarray, rows: np.ndarray, w: np.ndarray, same_signs: bool) -> _Packed:
    """From factors (C, terms, R) and (C, terms, S) and the kernel w (C, 1, R, S)."""
    cval = columns.dtype.type(tables.problem.compute_cval)
    with np.errstate(all="ignore"):
        beyond = (columns * cval).sum(axis=2, dtype=columns.dtype)
    return _Packed(
        tables.by_columns.pack(columns[:, :, None, :, None]),
        tables.by_rows.pack(rows[:, None, :, None, :]),
        None if same_signs else tables.direct.pack(w[:, None]),
        beyond.reshape(-1, 1),
    )


def _bands(tables: _Forward) -> Iterator[tuple[slice, slice]]:
    samples, height = tables.band
    for n in range(0, tables.problem.N, samples):
        for p in range(0, tables.problem.P, height):
            yield slice(n, n + samples), slice(p, min(p + height, tables.problem.P))


def _forward(tables: _Forward, x: np.ndarray, packed: _Packed, y: np.ndarray, workers: int) -> None:
    problem, columns = tables.problem, tables.columns
    left, padded = problem.padding[1][0], len(columns)
    start = min(max(left, 0), padded)  # of the image's columns in t; paddings of gradients may be negative: crop
    stop = min(max(left + problem.W, start), padded)
    every = np.arange(max(tables.band[1], padded))  # row or column, as it is
    margins = np.concatenate((every[:start], every[stop:padded]))
    sources = columns[margins]
    (sh, _), (dh, _) = problem.stride, problem.dilation
    with scratch(tables.t_bytes) as memory:
        for n, p in _bands(tables):
            band, out = x[n], y[n, :, p]
            rows = tables.rows[p.start * sh : (p.stop - 1) * sh + (problem.R - 1) * dh + 1]
            shape = (len(band), problem.C * tables.by_columns.filters, p.stop - p.start, padded)
            t = memory[: math.prod(shape) * x.itemsize].view(x.dtype).reshape(shape)
            middle = t[..., start:stop]
            if start < stop:
                tables.by_columns.run(
                    band[..., start - left : stop - left], packed.by_columns, middle, problem.compute_cval, rows,
                    every[: stop - start], 0, workers,
                )  # fmt: skip
            if problem.boundary == "constant":
                t[..., :start] = t[..., stop:] = packed.beyond[:, None]
            else:
                t[..., margins] = middle[..., sources]
            tables.by_rows.run(t, packed.by_rows, out, 0, every[: shape[2]], every[:padded], 0, workers)
            if packed.direct is not None and not np.isfinite(out).all():
                for i in np.flatnonzero(~np.isfinite(out).all(axis=(1, 2, 3))):  # whatever else is in the batch
                    one = slice(i, i + 1)
                    tables.direct.run(
                        band[one], packed.direct, out[one], problem.compute_cval, rows, columns, left, workers
                    )


# --- the algorithm ---------------------------------------------------------------------------------


def prepare(problem: ConvProblem, isa: str) -> Any:
    assert problem.rank is not None
    if problem.direction == "input_grad":
        return [(phase, _tables(phase.problem, isa, problem.rank)) for phase in phases.phases(problem)]
    return _tables(problem, isa, problem.rank)


def cost(problem: ConvProblem, isa: str) -> Cost:
    assert problem.rank is not None
    terms = problem.rank
    if problem.direction == "input_grad":
        tables = [table for _, table in prepare(problem, isa)]
    else:
        tables = [prepare(problem, isa)]
    flops = moved = calls = t_bytes = 0
    for table in tables:
        part, padded = table.problem, len(table.columns)
        planes = part.N * part.C * terms * part.itemsize
        side = up(terms, table.by_columns.sizes[0])
        flops += 2 * part.N * part.C * part.P * (side * part.W * part.R + terms * part.Q * part.S)
        moved += planes * part.P * (3 * padded + 2 * part.Q) + part.N * part.C * part.H * part.W * part.itemsize
        calls += 2 * -(-part.N // table.band[0]) * -(-part.P // table.band[1])
        t_bytes = max(t_bytes, table.t_bytes)
    worker = max((max(t.by_columns.worker_bytes, t.by_rows.worker_bytes, t.direct.worker_bytes) for t in tables),
                 default=0)  # fmt: skip
    shared = t_bytes + len(tables) * problem.C * (terms + 1) * (problem.R + problem.S) * problem.itemsize
    if problem.direction == "input_grad" and problem.boundary != "constant":
        image = math.prod(problem.padded_shape[1:]) * problem.itemsize
        shared, moved = shared + image, moved + 3 * image * problem.N
    return Cost(flops, moved, shared, worker, "direct", max(calls, 1))


def pack(plan: Any, w: np.ndarray) -> Any:
    problem = plan.problem
    columns = np.zeros((problem.C, problem.rank, problem.R), w.dtype)
    rows = np.zeros((problem.C, problem.rank, problem.S), w.dtype)
    same_signs = True
    for c in range(problem.C):
        found = factors(w[c, 0].view(np.int64) if w.dtype.kind == "u" else w[c, 0], problem.rank)
        if found is None:
            raise UnsupportedError(f"w: got a kernel that isn't of rank {problem.rank}, for which the plan was made")
        terms = len(found.columns)
        columns[c, :terms], rows[c, :terms] = found.columns.view(w.dtype), found.rows.view(w.dtype)
        same_signs &= found.same_signs and terms == problem.rank
    if problem.direction == "forward":
        return _pack(plan.tables, columns, rows, w, same_signs)
    return [
        _pack(
            tables, columns[..., phase.taps[0]][..., ::-1], rows[..., phase.taps[1]][..., ::-1],
            w[..., phase.taps[0], phase.taps[1]][..., ::-1, ::-1], same_signs,
        )
        for phase, tables in plan.tables
    ]  # fmt: skip


def run(plan: Any, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    problem = plan.problem
    packed = pack(plan, b) if isinstance(b, np.ndarray) else b
    if problem.direction == "forward":
        _forward(plan.tables, a, packed, out, workers)
    elif problem.boundary == "constant":
        if not phases.covers(problem):
            out[...] = 0
        _input_grad(plan, a, packed, out, workers)
    else:
        padded = np.zeros((1, *problem.padded_shape[1:]), out.dtype)
        for n in range(problem.N):
            _input_grad(plan, a[n : n + 1], packed, padded, workers)
            phases.fold(padded, problem, out[n : n + 1])
    if bias.size:
        out += bias[:, None, None]


def _input_grad(plan: Any, dy: np.ndarray, packed: list, dx: np.ndarray, workers: int) -> None:
    for (phase, tables), weights in zip(plan.tables, packed, strict=True):
        _forward(tables, dy, weights, dx[:, :, phase.out[0], phase.out[1]], workers)
