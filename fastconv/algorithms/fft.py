"""Products of spectra, tile by tile: what large filters cost least with.

Stride and dilation first come apart into plain correlations. Along one axis, with g = gcd(s, d), the windows
p = e + (d/g)*m and the taps r = t + (s/g)*j read the padded rows

    p*s + r*d = e*s + t*d + (m + j)*step,  step = lcm(s, d),  e < d/g,  t < s/g

so for each e, y_e[m] = sum_{t,j} x_{e,t}[m+j] w_t[j]: the tap phase t is one more index to sum over beside the
channels, nothing is computed that the stride skips, and no transform holds the zeros of a dilated filter. Likewise

    dx_{e,t}[i] = sum_j dy_e[i-j] w_t[j]          correlations with turned filters
    dw_t[j]     = sum_{e,m} x_{e,t}[m+j] dy_e[m]  correlations with dy

Each runs in tiles (overlap-save: T. Stockham, High-speed convolution and correlation, 1966): L results from
T = L + J - 1 values by circular correlation of length T, J being the number of taps, so that none of the L results
wraps around. Spectra are multiplied and added up over channels (for weight gradients, over tiles and samples) before
the one inverse transform. NaN, infinities and overflow spread over their tile.

The transforms are scipy.fft's, imported when first needed. A worker takes whole tiles, so every number is computed in
the same way however many there are; tiles and blocks don't depend on the batch, so neither do a sample's bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv.algorithms.common import Cost, grouped, scratch, up
from fastconv.boundary import most_repeats
from fastconv.problem import ConvProblem

NAME = "fft"
SCOPE, ELEMENTWISE = "tile", False

LEAST_RESULTS = (16, 32, 64, 96, 128, 192, 256, 384, 512)  # of a tile along one axis: the candidates
FILTER_BYTES = 16 << 20  # of the filters' spectra (weight gradients: of the sums) at a time
SOURCE_BYTES = 1 << 20  # of channels transformed at a time
CACHED_BYTES = 2 << 20  # planes larger than this are transformed at half the speed
SMALL_BYTES = 32 << 10  # of Python objects and transform plans
ALIGNED = 64  # bytes
PIECES = 4  # of a weight gradient's tiles, so that several workers have something to do
CALL_FLOPS = 1e5  # what could be computed while one small array is handled
TRANSFORM_ERROR = 4.0  # see error_bound


def why_not(problem: ConvProblem) -> str | None:
    if problem.dtype == "int64":
        return "spectra are rounded, and integer results are exact"
    return None


def variant(problem: ConvProblem) -> str:
    rows, columns = _tiling(problem).lengths
    return f"tiles of {rows}x{columns}"


def error_bound(problem: ConvProblem) -> float:
    """e of |y - exact| <= e * sum_j ||a_j||_2 ||b_j||_2, the norms over a tile (weight gradients: the padded plane).

    With every transform off by eps relative to the 2-norm of its result, the sum over j of products is off by at most
    (2*eps + gamma) * sum_j ||a_j|| ||b_j|| after an exact inverse transform (Cauchy-Schwarz and Parseval; gamma:
    products and additions of the terms), and the inverse adds its own error. Higham (Accuracy and Stability of
    Numerical Algorithms, 2002, theorem 24.2) proves eps = log2(n) * 7u for n points, and errors grow like
    u*sqrt(log2(n)) in practice; TRANSFORM_ERROR * log2(n) * u for all three transforms together is measured: the
    largest error found in tests (random, positive, alternating, single large elements; 16 to 512 points along an
    axis) is below an eighth of it.
    """
    tiling = _tiling(problem)
    u = float(np.finfo(problem.compute_dtype).eps) / 2
    terms = tiling.sources * tiling.source_phases
    repeats: float = 1
    if problem.direction == "weight_grad":
        terms = problem.N * tiling.tiles
        # x's tiles overlap: the sum of their norms' products is larger than the product of the planes' norms
        repeats = math.sqrt(math.prod(-(-t // n) for t, n in zip(tiling.lengths, tiling.extents, strict=True)))
    elif _folds(problem):
        repeats = most_repeats(problem.rows()) * most_repeats(problem.columns())  # results that meet in one pixel
    e = repeats * (TRANSFORM_ERROR * math.log2(math.prod(tiling.lengths)) + terms + 4 + repeats) * u
    return e if problem.dtype != "float16" else e + 2.0**-11 * (1 + e)


# --- how a problem is cut --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """One axis as plain correlations: the module's first equation."""

    windows: int
    kernel: int
    stride: int
    dilation: int

    @cached_property
    def window_step(self) -> int:
        return self.dilation // math.gcd(self.stride, self.dilation)

    @cached_property
    def tap_step(self) -> int:
        return self.stride // math.gcd(self.stride, self.dilation)

    @property
    def window_phases(self) -> int:
        return min(self.window_step, self.windows)

    @property
    def tap_phases(self) -> int:
        return min(self.tap_step, self.kernel)

    def window_count(self, e: int) -> int:
        return len(range(e, self.windows, self.window_step))

    def tap_count(self, t: int) -> int:
        return len(range(t, self.kernel, self.tap_step))

    @cached_property
    def taps(self) -> int:
        """J: of the longest phase."""
        return self.tap_count(0)

    def rows(self, e: int, t: int, first: int, count: int) -> slice:
        """The padded rows x_{e,t}[first : first + count]."""
        step = math.lcm(self.stride, self.dilation)
        start = e * self.stride + t * self.dilation + first * step
        return slice(start, start + count * step, step)

    def results(self, direction: str, e: int = 0) -> int:
        """What the tiles of a window phase must cover (weight gradients: of dy); phase 0 has the most."""
        return self.window_count(e) + (self.taps - 1 if direction == "input_grad" else 0)


def _axes(problem: ConvProblem) -> tuple[_Axis, _Axis]:
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    return _Axis(problem.P, problem.R, sh, dh), _Axis(problem.Q, problem.S, sw, dw)


@lru_cache(maxsize=4096)
def _fast_length(least: int) -> int:
    """The smallest 2^a 3^b 5^c not below ``least``: transforms of such lengths are quick."""
    best = 1 << (least - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            best = min(best, three << (-(-least // three) - 1).bit_length())
            three *= 3
        five *= 5
    return best


@dataclass(frozen=True)
class _Tiling:
    """How a problem is cut. Nothing here depends on N.

    ``sources`` are summed over, ``results`` kept, within one group; a forward problem's tap phases are more sources
    of each channel, an input gradient's are more results of each. For weight gradients: those of x and of dy.
    """

    lengths: tuple[int, int]
    """T of both axes."""
    extents: tuple[int, int]
    """L of both axes."""
    tiles: int
    """Of one sample."""
    sources: int
    results: int
    source_phases: int
    result_phases: int
    source_block: int
    """Sources transformed at a time."""
    result_block: int
    """Results computed from one transform of the sources."""
    result_blocks: int
    shared: int
    """Bytes, but for a weight gradient's pieces."""
    room: int
    """Bytes of a worker's arrays that are used again and again."""
    worker: int
    flops: float
    """Of one tile."""
    calls: float
    """Of one tile."""

    @property
    def spectrum(self) -> tuple[int, int]:
        return self.lengths[0], self.lengths[1] // 2 + 1


@lru_cache(maxsize=512)
def _tiling(problem: ConvProblem) -> _Tiling:
    """The tiles that take a sample the least time."""
    best, least_cost, axes = None, math.inf, _axes(problem)
    previous = None
    for least in LEAST_RESULTS:
        lengths, extents, tiles = [], [], 1
        for axis in axes:
            results = axis.results(problem.direction)
            longest = _fast_length(least + axis.taps - 1) - axis.taps + 1
            even = -(-results // -(-results // longest))  # an axis' tiles all alike: none nearly empty
            lengths.append(_fast_length(even + axis.taps - 1))
            extents.append(min(lengths[-1] - axis.taps + 1, results))
            tiles *= sum(-(-axis.results(problem.direction, e) // extents[-1]) for e in range(axis.window_phases))
        if lengths == previous:
            continue
        previous = lengths
        tiling = _blocks(problem, axes, (lengths[0], lengths[1]), (extents[0], extents[1]), tiles)
        flops, calls = _work(problem, tiling, 1)
        if flops + calls * CALL_FLOPS < least_cost:
            best, least_cost = tiling, flops + calls * CALL_FLOPS
    assert best is not None
    return best


def _blocks(
    problem: ConvProblem, axes: tuple[_Axis, _Axis], lengths: tuple[int, int], extents: tuple[int, int], tiles: int
) -> _Tiling:
    phases = axes[0].tap_phases * axes[1].tap_phases
    sources, results = problem.C // problem.groups, problem.K // problem.groups
    source_phases, result_phases = phases, 1
    if problem.direction == "input_grad":
        sources, results, source_phases, result_phases = results, sources, 1, phases
    item, taps, width = problem.itemsize, (axes[0].taps, axes[1].taps), lengths[1] // 2 + 1
    real, plane = lengths[0] * lengths[1] * item, lengths[0] * width * 2 * item
    source_block = max(min(sources, SOURCE_BYTES // plane), 1)
    products = sources * phases  # for each result
    result_blocks = max(-(-results // max(FILTER_BYTES // max(products * plane, 1), 1)), 1)
    result_block = max(-(-results // result_blocks), 1)
    kept = result_block * result_phases
    if problem.direction == "weight_grad":
        shared = 0
        room = max(source_block, kept) * real + kept * plane + 2 * ALIGNED
        sums, inverse = kept * products * plane, products * taps[0] * lengths[1] * item
        worker = sums + room + kept * plane + max((source_block + kept) * plane, source_block * 2 * plane, 2 * inverse)
        # transforms of a tile: of the results' dy, and of x anew for each block of them
        transforms: float = results + products * result_blocks
        calls = result_blocks * (3 + 4 * -(-sources // source_block) * phases + products / 2)
    else:
        shared = kept * products * plane // result_phases
        room = source_block * real + 2 * kept * plane + 3 * ALIGNED
        stage = 2 * source_block * taps[0] * width * item + plane
        inverse = kept * extents[0] * lengths[1] * item
        worker = max(room + source_block * 2 * plane + inverse, room + stage)
        transforms = sources * source_phases * result_blocks + results * result_phases
        reads = 4 * -(-sources // source_block) * source_phases
        calls = result_blocks * (3 + reads + result_phases + sources * source_phases / 2)
    # Where NumPy buffers operands of multiply and add, where vectors of rows or columns are transformed, and the rest.
    worker += 3 * min(np.getbufsize() * 2 * item, kept * plane) + 64 * max(lengths) * item + SMALL_BYTES
    flops = problem.groups * (transforms * _transform_flops(lengths, plane) + products * results * plane / item * 4)
    return _Tiling(
        lengths, extents, tiles, sources, results, source_phases, result_phases, source_block, result_block,
        result_blocks, shared, room, worker, flops, problem.groups * calls,
    )  # fmt: skip


def _transform_flops(lengths: tuple[int, int], plane: int) -> float:
    """Of one real transform, either way; more than are done where the plane leaves the cache."""
    points = math.prod(lengths)
    return (2.5 if plane <= CACHED_BYTES else 5) * points * math.log2(max(points, 2))


def _work(problem: ConvProblem, tiling: _Tiling, samples: int) -> tuple[float, float]:
    """Floating-point operations and calls: of the tiles, and of the filters' transforms, there or back."""
    filters = problem.groups * tiling.sources * tiling.results * tiling.source_phases * tiling.result_phases
    if problem.direction == "weight_grad":
        filters *= _pieces(problem, tiling)
    plane = 2 * math.prod(tiling.spectrum) * problem.itemsize
    flops = samples * tiling.tiles * tiling.flops + filters * _transform_flops(tiling.lengths, plane)
    rows = problem.groups * tiling.results * tiling.source_phases * tiling.result_phases
    return flops, samples * tiling.tiles * tiling.calls + 3 * rows * -(-max(tiling.sources, 1) // tiling.source_block)


def _pieces(problem: ConvProblem, tiling: _Tiling) -> int:
    return max(min(PIECES, problem.N * tiling.tiles), 1)


def cost(problem: ConvProblem, isa: str) -> Cost:
    tiling = _tiling(problem)
    flops, calls = _work(problem, tiling, problem.N)
    planes = tiling.sources * tiling.source_phases * tiling.result_blocks + tiling.results * tiling.result_phases
    moved = problem.N * tiling.tiles * problem.groups * planes * math.prod(tiling.lengths) * problem.itemsize
    shared = tiling.shared
    if problem.direction == "weight_grad":
        shared += (
            _pieces(problem, tiling) * tiling.result_block * tiling.sources * problem.R * problem.S * problem.itemsize
        )
    return Cost(flops, moved, shared, tiling.worker, "fft", math.ceil(calls))


# --- tiles and where they lie ----------------------------------------------------------------------


class _Run(NamedTuple):
    """Consecutive places ``at`` of a tile that are places ``of`` of an axis: evenly spaced ones, or one repeated."""

    at: slice
    of: slice | None
    """None: beyond the edge."""
    repeated: bool


def _runs(index: np.ndarray) -> tuple[_Run, ...]:
    """An index vector (-1: beyond the edge) as few slices."""
    places, runs, first = index.tolist(), [], 0
    while first < len(places):
        start = places[first]
        ahead = places[first + 1] if first + 1 < len(places) else -1
        step = ahead - start if min(start, ahead) >= 0 else int(start >= 0)
        end = first + 1
        while end < len(places) and places[end] == places[end - 1] + step and (places[end] < 0) == (start < 0):
            end += 1
        of = None
        if start >= 0:
            stop = places[end - 1] + (step or 1)
            of = slice(start, stop if stop >= 0 else None, step or 1)
        runs.append(_Run(slice(first, end), of, step == 0))
        first = end
    return tuple(runs)


Runs = tuple[_Run, ...]


class _Strip(NamedTuple):
    """A tile along one axis: what it reads and what it gives, for each tap phase where that differs."""

    reads: tuple[Runs, ...]
    writes: tuple[Runs, ...]


def _strips(problem: ConvProblem, axis: _Axis, extent: int, padded: np.ndarray) -> list[_Strip]:
    """All tiles along an axis; ``padded`` is its boundary index.

    Forward and weight gradient: reads of x for each tap phase, writes of y (or reads of dy). Input gradient: reads of
    dy from J - 1 before the first result, zeros beyond its ends; writes of dx for each tap phase.
    """
    strips, phases = [], range(axis.tap_phases)
    for e in range(axis.window_phases):
        windows, results = axis.window_count(e), axis.results(problem.direction, e)
        for first in range(0, results, extent):
            end = min(first + extent, results)
            if problem.direction == "input_grad":
                m = np.arange(first - axis.taps + 1, end)
                reads = [np.where((m >= 0) & (m < windows), e + axis.window_step * m, -1)]
                ends = [min(end, windows + axis.tap_count(t) - 1) for t in phases]
                writes = [padded[axis.rows(e, t, first, max(ends[t] - first, 0))] for t in phases]
            else:
                reads = [padded[axis.rows(e, t, first, end - first + axis.tap_count(t) - 1)] for t in phases]
                writes = [e + axis.window_step * np.arange(first, end)]
            strips.append(_Strip(tuple(map(_runs, reads)), tuple(map(_runs, writes))))
    return strips


def _gather(tile: np.ndarray, array: np.ndarray, rows: Runs, columns: Runs, beyond: float) -> None:
    """tile[..., i, j] = array[..., rows of i, columns of j]; zero where no run reaches."""
    tile.fill(0)
    for h, w in itertools.product(rows, columns):
        tile[..., h.at, w.at] = beyond if h.of is None or w.of is None else array[..., h.of, w.of]


def _scatter(array: np.ndarray, tile: np.ndarray, rows: Runs, columns: Runs) -> None:
    """The adjoint of gathering: array[..., rows of i, columns of j] += tile[..., i, j]."""
    for h, w in itertools.product(rows, columns):
        if h.of is not None and w.of is not None:
            part = tile[..., h.at, w.at]
            if h.repeated:
                part = part.sum(axis=-2, keepdims=True)
            if w.repeated:
                part = part.sum(axis=-1, keepdims=True)
            array[..., h.of, w.of] += part


# --- transforms ------------------------------------------------------------------------------------


def _transform(tile: np.ndarray) -> np.ndarray:
    """Spectra of the last two axes; the columns of the spectrum are half of the tile's, its rows all."""
    from scipy import fft

    return fft.fft(fft.rfft(tile, workers=1), axis=-2, overwrite_x=True, workers=1)


def _back(spectra: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The first rows of the inverse transforms, ``columns`` wide. Destroys the spectra."""
    from scipy import fft

    return fft.irfft(fft.ifft(spectra, axis=-2, overwrite_x=True, workers=1)[..., :rows, :], n=columns, workers=1)


def _each(task: Callable[[int, np.ndarray], None], count: int, workers: int, nbytes: int) -> None:
    """Do the tasks 0 to count - 1 by so many threads, each with so many bytes of scratch."""

    def some(first: int) -> None:
        # NaN, infinities and overflow are results like others
        with np.errstate(all="ignore"), scratch(nbytes) as memory:
            for i in range(first, count, workers):
                task(i, memory)

    workers = max(min(workers, count), 1)
    if workers == 1:
        some(0)
        return
    from concurrent.futures import ThreadPoolExecutor  # not at the top: it would make every import slower

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(some, first) for first in range(workers)]:
            done.result()


def _arrays(memory: np.ndarray, *wanted: tuple[tuple[int, ...], np.dtype]) -> Iterator[np.ndarray]:
    """Arrays of these shapes and dtypes, one after the other in scratch memory, contents arbitrary."""
    start = 0
    for shape, dtype in wanted:
        nbytes = math.prod(shape) * dtype.itemsize
        yield memory[start : start + nbytes].view(dtype).reshape(shape)
        start += up(nbytes, ALIGNED)


# --- the operations --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tables:
    tiling: _Tiling
    axes: tuple[_Axis, _Axis]
    strips: tuple[list[_Strip], list[_Strip]]
    """Of both axes; the tiles are all pairs."""
    taps: list[tuple[slice, slice]]
    """Of each tap phase."""


def prepare(problem: ConvProblem, isa: str) -> _Tables:
    tiling, axes = _tiling(problem), _axes(problem)
    padded = problem.rows(), problem.columns()
    rows, columns = (_strips(problem, *of_axis) for of_axis in zip(axes, tiling.extents, padded, strict=True))
    row_taps, column_taps = ([slice(t, None, axis.tap_step) for t in range(axis.tap_phases)] for axis in axes)
    return _Tables(tiling, axes, (rows, columns), list(itertools.product(row_taps, column_taps)))


def _tile(tables: _Tables, i: int) -> tuple[int, _Strip, _Strip]:
    """Sample, rows and columns of tile i of the batch, sample by sample."""
    rows, columns = tables.strips
    rest, column = divmod(i, len(columns))
    n, row = divmod(rest, len(rows))
    return n, rows[row], columns[column]


def tile_extents(problem: ConvProblem) -> tuple[int, int]:
    return (problem.H, problem.W) if _folds(problem) else _tiling(problem).extents


def tiles(plan: Any) -> tuple[list[slice], list[slice]]:
    if _folds(plan.problem):
        return [slice(0, plan.problem.H, 1)], [slice(0, plan.problem.W, 1)]
    rows, columns = (
        [run.of for strip in strips for runs in strip.writes for run in runs if run.of is not None]
        for strips in plan.tables.strips
    )
    return rows, columns


def _folds(problem: ConvProblem) -> bool:
    """Do results of several tiles meet in one pixel?"""
    return problem.direction == "input_grad" and problem.boundary != "constant"


def pack(plan: Any, w: np.ndarray) -> np.ndarray:
    """All filters' spectra: (groups, results of each phase, sources of each phase, rows, columns)."""
    tiling, g = plan.tables.tiling, plan.problem.groups
    shape = (tiling.results * tiling.result_phases, tiling.sources * tiling.source_phases, *tiling.spectrum)
    packed = np.empty((g, *shape), np.result_type(w.dtype, np.complex64))
    for group, spectra in zip(_filters(plan, w), packed, strict=True):
        _filter_spectra(plan, group, spectra, 1)
    return packed


def _filters(plan: Any, w: np.ndarray) -> np.ndarray:
    """(groups, results, sources, R, S), a view."""
    weights = grouped(w, plan.problem.groups)
    return weights.swapaxes(1, 2) if plan.problem.direction == "input_grad" else weights


def _filter_spectra(plan: Any, filters: np.ndarray, spectra: np.ndarray, workers: int) -> None:
    """Conjugate spectra of filters (results, sources, R, S): multiplying by them correlates."""
    from scipy import fft

    tables: _Tables = plan.tables
    tiling, turned = tables.tiling, plan.problem.direction == "input_grad"
    rows, columns = (axis.taps for axis in tables.axes)
    blocks = -(-tiling.sources // tiling.source_block)
    spectra = spectra.reshape(
        len(filters), tiling.result_phases, tiling.sources, tiling.source_phases, *spectra.shape[2:]
    )

    def one(i: int, memory: np.ndarray) -> None:
        k, first = divmod(i, blocks)
        block = slice(first * tiling.source_block, (first + 1) * tiling.source_block)
        for t, taps in enumerate(tables.taps):
            part = filters[k, block, taps[0], taps[1]]
            (stage,) = _arrays(memory, ((len(part), rows, tiling.lengths[1]), part.dtype))
            stage.fill(0)
            if turned:  # to the right of the longest phase's taps, where all phases read the same tile
                stage[:, rows - part.shape[1] :, columns - part.shape[2] : columns] = part[..., ::-1, ::-1]
            else:
                stage[:, : part.shape[1], : part.shape[2]] = part
            target = spectra[k, t, block, 0] if turned else spectra[k, 0, block, t]
            target[:, :rows] = fft.rfft(stage, workers=1)
            target[:, rows:] = 0
            np.conjugate(fft.fft(target, axis=-2, overwrite_x=True, workers=1), out=target)

    _each(one, len(filters) * blocks, workers, tiling.room)


def _correlate(
    plan: Any, source: np.ndarray, spectra: np.ndarray, rows: _Strip, columns: _Strip, memory: np.ndarray
) -> np.ndarray:
    """One tile of one sample: each result the sum over sources and their tap phases."""
    problem, tiling = plan.problem, plan.tables.tiling
    beyond = problem.compute_cval if problem.direction == "forward" else 0.0
    shape = (len(spectra), *tiling.spectrum)
    tiles, sums, products = _arrays(
        memory,
        ((tiling.source_block, *tiling.lengths), source.dtype),
        (shape, spectra.dtype),
        (shape, spectra.dtype),
    )
    for first in range(0, tiling.sources, tiling.source_block):
        block = source[first : first + tiling.source_block]
        tile = tiles[: len(block)]
        for t, (h, w) in enumerate(itertools.product(rows.reads, columns.reads)):
            _gather(tile, block, h, w, beyond)
            for i, spectrum in enumerate(_transform(tile), first):
                filters = spectra[:, i * tiling.source_phases + t]
                if i == t == 0:
                    np.multiply(spectrum, filters, out=sums)
                else:
                    np.multiply(spectrum, filters, out=products)
                    np.add(sums, products, out=sums)
    return _back(sums, tiling.extents[0], tiling.lengths[1])


def _convolve(plan: Any, source: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    """Forward, and the input gradient: the same correlation from x to y and from dy to dx."""
    problem, tables = plan.problem, plan.tables
    tiling, phases = tables.tiling, tables.tiling.result_phases
    out[...] = bias[:, None, None] if bias.size else 0
    filters = None if np.iscomplexobj(b) else _filters(plan, b)
    shape = (tiling.result_block * phases, tiling.sources * tiling.source_phases, *tiling.spectrum)
    with scratch(0 if filters is None else tiling.shared) as memory:
        if filters is not None:
            (room,) = _arrays(memory, (shape, np.result_type(out.dtype, np.complex64)))
        for g, first in itertools.product(range(problem.groups), range(0, tiling.results, tiling.result_block)):
            last = min(first + tiling.result_block, tiling.results)
            if filters is None:
                spectra = b[g, first * phases : last * phases]
            else:
                spectra = room[: (last - first) * phases]
                _filter_spectra(plan, filters[g, first:last], spectra, workers)
            sources = source[:, g * tiling.sources : (g + 1) * tiling.sources]
            results = out[:, g * tiling.results + first : g * tiling.results + last]
            _add_correlations(plan, sources, spectra, results, workers)


def _add_correlations(plan: Any, sources: np.ndarray, spectra: np.ndarray, results: np.ndarray, workers: int) -> None:
    """Add to the results of a block of filters the correlations of all samples and tiles."""
    problem, tables = plan.problem, plan.tables
    tiles = tables.tiling.tiles

    def tile(i: int, memory: np.ndarray) -> None:
        n, rows, columns = _tile(tables, i)
        values = _correlate(plan, sources[n], spectra, rows, columns, memory)
        for t, (h, w) in enumerate(itertools.product(rows.writes, columns.writes)):
            _scatter(results[n], values[t :: tables.tiling.result_phases], h, w)

    def sample(n: int, memory: np.ndarray) -> None:
        for i in range(n * tiles, (n + 1) * tiles):
            tile(i, memory)

    if _folds(problem):
        _each(sample, problem.N, workers, tables.tiling.room)  # its tiles meet in pixels of the border
    else:
        _each(tile, problem.N * tiles, workers, tables.tiling.room)


def _weight_grad(plan: Any, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int) -> None:
    problem, tiling = plan.problem, plan.tables.tiling
    channels, filters, block = tiling.sources, tiling.results, tiling.result_block
    memory = np.empty((_pieces(problem, tiling), block, *dw.shape[1:]), dw.dtype)
    for g, first in itertools.product(range(problem.groups), range(0, filters, block)):
        last = min(first + block, filters)
        sources = x[:, g * channels : (g + 1) * channels]
        gradients = dy[:, g * filters + first : g * filters + last]
        parts = memory[:, : last - first]
        _weight_grad_parts(plan, sources, gradients, parts, workers)
        total = parts[0]
        for part in parts[1:]:  # in a fixed order
            total += part
        dw[g * filters + first : g * filters + last] = total


def _weight_grad_parts(plan: Any, x: np.ndarray, dy: np.ndarray, parts: np.ndarray, workers: int) -> None:
    """Each part the gradient of a block of filters by an equal share of all samples' tiles."""
    tables: _Tables = plan.tables
    tiling, pieces = tables.tiling, len(parts)
    tiles = len(x) * tiling.tiles

    def piece(i: int, memory: np.ndarray) -> None:
        products = tiling.sources * tiling.source_phases
        sums = np.zeros((dy.shape[1], products, *tiling.spectrum), np.result_type(dy.dtype, np.complex64))
        for j in range(tiles * i // pieces, tiles * (i + 1) // pieces):
            n, rows, columns = _tile(tables, j)
            _add_tile(plan, x[n], dy[n], sums, rows, columns, memory)
        for k, spectra in enumerate(sums):
            values = _back(spectra, tables.axes[0].taps, tiling.lengths[1])
            for t, (h, w) in enumerate(tables.taps):
                target = parts[i, k, :, h, w]
                target[...] = values[t :: tiling.source_phases, : target.shape[1], : target.shape[2]]

    _each(piece, pieces, workers, tiling.room)


def _add_tile(
    plan: Any, x: np.ndarray, dy: np.ndarray, sums: np.ndarray, rows: _Strip, columns: _Strip, memory: np.ndarray
) -> None:
    """Add the products of one tile's spectra to the sums over tiles."""
    problem, tiling = plan.problem, plan.tables.tiling
    largest = max(tiling.source_block, tiling.result_block)
    tiles, products = _arrays(memory, ((largest, *tiling.lengths), dy.dtype), ((len(dy), *tiling.spectrum), sums.dtype))
    tile = tiles[: len(dy)]
    _gather(tile, dy, rows.writes[0], columns.writes[0], 0)
    other = _transform(tile)
    np.conjugate(other, out=other)
    for first in range(0, tiling.sources, tiling.source_block):
        block = x[first : first + tiling.source_block]
        tile = tiles[: len(block)]
        for t, (h, w) in enumerate(itertools.product(rows.reads, columns.reads)):
            _gather(tile, block, h, w, problem.compute_cval)
            for i, spectrum in enumerate(_transform(tile), first):
                np.multiply(spectrum, other, out=products)
                sums[:, i * tiling.source_phases + t] += products


@np.errstate(all="ignore")
def run(plan: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    if plan.problem.direction == "weight_grad":
        _weight_grad(plan, a, b, out, workers)
    else:
        _convolve(plan, a, b, bias, out, workers)
