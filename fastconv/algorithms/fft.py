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
the one inverse transform.

A tile is made of two halves, side by side or one below the other, which are transformed together: z = a + i*b. Filters
are real, so the product of z's spectrum by a filter's is the spectrum of (a's result) + i*(b's result): nothing has to
be split. A rounding error, NaN, infinity or overflow of one half reaches the other, so the tile is the two together.

Kernel: src_cython/fft.pyx, which draws the layouts; this module chooses how a problem is cut, and says by index vectors
which pixel is where in a tile. Tiles and blocks don't depend on the batch or on the number of workers, so neither do a
sample's bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv import machine
from fastconv.algorithms import phases
from fastconv.algorithms.common import PREFIX, Cost, add_up, grouped, scratch, up
from fastconv.boundary import most_repeats
from fastconv.problem import ConvProblem

NAME = "fft"
SCOPE, ELEMENTWISE = "tile", False

GRAIN = 16  # lengths of transforms are multiples of it: of the lanes of a vector, whatever the instruction set
LENGTHS = tuple(sorted(odd << a for odd in (1, 3, 5) for a in range(GRAIN.bit_length() - 1, 40)))
LONGEST = 1024  # no longer ones than this, unless the taps need it
FILTER_BYTES = 16 << 20  # of one group's filters' spectra (weight gradients: of the sums) at a time
GROUP_BYTES = 2 << 20  # of those of several groups
CHUNK, CHUNK_BYTES = 8, 2 << 20  # tiles done at a time, where the filters' spectra leave the cache; bytes of spectra
NEAR_BYTES = 512 << 10  # of filters' spectra that stay in the cache
SMALL_BYTES = 16 << 10  # of Python objects
PIECES = 4  # of a weight gradient's tiles, so that several workers have something to do

# What things cost beside the transforms' 5*n*log2(n), in flops at machine.Rates.fft: fitted to the times of 37 problems
# (one to 256 channels, 28 to 2048 pixels, filters of 3 to 127, all directions), most of them to within a tenth.
TILE_FLOPS = 80  # an element of a tile: loaded, turned, stored
EDGE_FLOPS = 900  # a row or column of a tile, which is copied on its own
PRODUCT_FLOPS = 9  # an element of a product of two spectra
FAR_BYTES = 4 << 20  # tiles slow down towards this; images or spectra larger than this cost by the byte, too
FAR_FLOPS = 12  # a byte, in the choice of tiles
TRANSFORM_ERROR = 4.0  # see error_bound


def why_not(problem: ConvProblem) -> str | None:
    if problem.dtype == "int64":
        return "spectra are rounded, and integer results are exact"
    return None


def variant(problem: ConvProblem) -> str:
    rows, columns = _tiling(problem).cuts
    return f"tiles of {rows.length}x{columns.length}"


def error_bound(problem: ConvProblem) -> float:
    """e of |y - exact| <= e * sum_j ||a_j||_2 ||b_j||_2, the norms over a tile (weight gradients: the padded plane).

    With every transform off by eps relative to the 2-norm of its result, the sum over j of products is off by at most
    (2*eps + gamma) * sum_j ||a_j|| ||b_j|| after an exact inverse transform (Cauchy-Schwarz and Parseval; gamma:
    products and additions of the terms), and the inverse adds its own error. Higham (Accuracy and Stability of
    Numerical Algorithms, 2002, theorem 24.2) proves eps = log2(n) * 7u for n points, and errors grow like
    u*sqrt(log2(n)) in practice; TRANSFORM_ERROR * log2(n) * u for all three transforms together is measured: the
    largest error found (random, positive, alternating, constant data, single large elements; 16 to 512 points along an
    axis; float32 and float64; AVX-512 and baseline, against transforms of twice the precision) is 0.29 of
    log2(n) * u, less than a twelfth of it.
    """
    tiling = _tiling(problem)
    u = float(np.finfo(problem.compute_dtype).eps) / 2
    terms, points = tiling.terms.sources, tiling.points
    repeats = math.sqrt(2)  # where the halves overlap, they hold a value of the tile twice
    if problem.direction == "weight_grad":
        terms = problem.N * tiling.tiles
        # x's tiles overlap: the sum of their norms' products is larger than the product of the planes' norms
        repeats = math.sqrt(math.prod(-(-cut.length // cut.extent) for cut in tiling.cuts))
    elif _folds(problem):
        repeats *= most_repeats(problem.rows()) * most_repeats(problem.columns())  # results that meet in one pixel
    e = repeats * (TRANSFORM_ERROR * math.log2(points) + terms + 4 + repeats) * u
    return e if problem.dtype != "float16" else e + 2.0**-11 * (1 + e)


# --- how a problem is cut --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """One axis as plain correlations: the module's first equation."""

    windows: int
    kernel: int
    stride: int
    dilation: int
    kept: range
    """Padded rows of an input gradient that are kept."""

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

    def results(self, direction: str, e: int) -> range:
        """What the tiles of a window phase must cover (weight gradients: of dy); empty where no kept row is reached."""
        windows = self.window_count(e)
        if direction != "input_grad":
            return range(windows)
        step, start = math.lcm(self.stride, self.dilation), e * self.stride
        first = -(-(self.kept.start - start - (self.tap_phases - 1) * self.dilation) // step)
        end = -(-(self.kept.stop - start) // step)
        return range(max(first, 0), min(end, windows + self.taps - 1))


def _axes(problem: ConvProblem) -> tuple[_Axis, _Axis]:
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    (top, _), (left, _) = problem.padding
    rows, columns = range(top, top + problem.H), range(left, left + problem.W)
    if _folds(problem):
        rows, columns = range(problem.padded_shape[2]), range(problem.padded_shape[3])
    return _Axis(problem.P, problem.R, sh, dh, rows), _Axis(problem.Q, problem.S, sw, dw, columns)


class _Cut(NamedTuple):
    """An axis in tiles of ``length`` values, ``extent`` results each; a halved axis' tile is two of them."""

    length: int
    extent: int
    units: int


def _cuts(axis: _Axis, direction: str, halves: int) -> list[_Cut]:
    """What is worth trying: the shortest transform for each number of tiles."""
    results = [len(axis.results(direction, e)) for e in range(axis.window_phases)]
    largest = max(1, *results)
    cuts: list[_Cut] = []
    for length in LENGTHS:
        longest = length - axis.taps + 1
        if longest < 1:
            continue
        most = up(-(-largest // longest), halves if largest > 1 else 1)
        extent = -(-largest // most)  # all alike: none nearly empty
        units = sum(-(-r // (extent * halves)) for r in results)
        if not cuts or units < cuts[-1].units:
            cuts.append(_Cut(length, extent, units))
        if extent * halves >= largest or (length >= LONGEST and 2 * axis.taps <= length):
            break
    return cuts


class _Terms(NamedTuple):
    """What is summed over and what is kept, within one group. A forward problem's tap phases are more sources of each
    channel, an input gradient's are more results of each. For weight gradients: the channels of x and of dy."""

    channels: int
    sources: int
    """With their phases."""
    filters: int
    results: int
    """With their phases."""


def _terms(problem: ConvProblem, axes: tuple[_Axis, _Axis]) -> _Terms:
    phases = axes[0].tap_phases * axes[1].tap_phases
    channels, filters = problem.C // problem.groups, problem.K // problem.groups
    if problem.direction == "input_grad":
        return _Terms(filters, filters, channels, channels * phases)
    return _Terms(channels, channels * phases, filters, filters)


@dataclass(frozen=True)
class _Tiling:
    """How a problem is cut. Nothing here depends on N."""

    cuts: tuple[_Cut, _Cut]
    halves: tuple[int, int]
    """Halves of a tile along both axes: (2, 1) or (1, 2)."""
    terms: _Terms
    itemsize: int

    @property
    def tiles(self) -> int:
        """Of one sample."""
        return self.cuts[0].units * self.cuts[1].units

    @property
    def points(self) -> int:
        return self.cuts[0].length * self.cuts[1].length

    @property
    def plane(self) -> int:
        """Bytes of a spectrum."""
        return 2 * self.points * self.itemsize

    @cached_property
    def filter_blocks(self) -> int:
        """Blocks of filters, one after the other, so that their spectra take FILTER_BYTES."""
        phases = self.terms.results // self.terms.filters
        at_once = FILTER_BYTES // (phases * self.terms.sources * self.plane)
        return -(-self.terms.filters // max(at_once, 1))

    @cached_property
    def filter_block(self) -> int:
        return -(-self.terms.filters // self.filter_blocks)

    @cached_property
    def results(self) -> int:
        """Of a block of filters, with their phases."""
        return self.filter_block * self.terms.results // self.terms.filters

    @cached_property
    def group_block(self) -> int:
        """Groups done at a time."""
        return max(min(GROUP_BYTES, FILTER_BYTES) // (self.terms.sources * self.terms.results * self.plane), 1)

    @cached_property
    def chunk(self) -> int:
        """Tiles done at a time: several for each reading of the filters, where these leave the cache."""
        if self.terms.sources * self.results * self.plane <= NEAR_BYTES:
            return 1
        return max(min(CHUNK, CHUNK_BYTES // ((self.terms.sources + self.results) * self.plane)), 1)

    def spectra(self, filters: int) -> int:
        """Elements of the spectra of so many filters."""
        results = filters * self.terms.results // self.terms.filters
        return _odd(results * self.terms.sources) * 2 * self.points


@lru_cache(maxsize=512)
def _tiling(problem: ConvProblem) -> _Tiling:
    """The tiles that take a sample the least time."""
    best, least, axes = None, math.inf, _axes(problem)
    terms = _terms(problem, axes)
    for halves in ((1, 2), (2, 1)):
        cuts = (_cuts(axis, problem.direction, half) for axis, half in zip(axes, halves, strict=True))
        for rows, columns in itertools.product(*cuts):
            tiling = _Tiling((rows, columns), halves, terms, problem.itemsize)
            flops, moved = _work(problem, tiling, 1)
            if flops + moved * FAR_FLOPS < least:
                best, least = tiling, flops + moved * FAR_FLOPS
    assert best is not None
    return best


def _work(problem: ConvProblem, tiling: _Tiling, samples: int) -> tuple[float, float]:
    """Floating-point operations, and bytes that come from memory, half of them: it is read ahead."""
    terms, points, tiles = tiling.terms, tiling.points, samples * tiling.tiles
    blocks, plane = tiling.filter_blocks, tiling.plane
    transform = points * (5 * math.log2(points) + TILE_FLOPS) + math.sqrt(points) * EDGE_FLOPS
    transform *= 1 + min(plane / FAR_BYTES, 1)
    spectra = terms.sources * terms.results
    transforms = tiles * (terms.sources * blocks + terms.results)
    transforms += spectra * (_pieces(problem, tiling) if problem.direction == "weight_grad" else 1)
    flops = problem.groups * (transforms * transform + tiles * spectra * points * PRODUCT_FLOPS)
    images = samples * (math.prod(problem.x_shape[1:]) + math.prod(problem.y_shape[1:])) * problem.itemsize
    moved = images if images > FAR_BYTES else 0
    if spectra * plane > FAR_BYTES:
        moved += problem.groups * spectra * plane * (1 + -(-tiles // tiling.chunk))
    return flops, moved / 2


def _pieces(problem: ConvProblem, tiling: _Tiling) -> int:
    return max(min(PIECES, problem.N * tiling.tiles), 1)


def cost(problem: ConvProblem, isa: str) -> Cost:
    tiling = _tiling(problem)
    groups = min(tiling.group_block, problem.groups)
    shared = groups * tiling.spectra(tiling.filter_block)
    if problem.direction == "weight_grad":
        shared = _pieces(problem, tiling) * groups * tiling.filter_block * tiling.terms.channels * problem.R * problem.S
    elif _folds(problem):
        shared += math.prod(problem.padded_shape[1:])
    calls = 2 * -(-problem.groups // groups) * tiling.filter_blocks * (problem.N if _folds(problem) else 1)
    flops, moved = _work(problem, tiling, problem.N)
    worker = _sizes(problem, tiling, isa, tiling.results, tiling.chunk).worker
    return Cost(flops, moved, shared * problem.itemsize + SMALL_BYTES, worker, "fft", calls)


class _Sizes(NamedTuple):
    """How a worker's scratch is laid out, as the kernel takes it."""

    pitch: int
    sums_pitch: int
    in_place: bool
    worker: int
    """Bytes."""


def _odd(planes: int) -> int:
    """Spectra that are kept frequency by frequency take room for so many."""
    return planes | 1


def _sizes(problem: ConvProblem, tiling: _Tiling, isa: str, results: int, chunk: int) -> _Sizes:
    lanes = machine.kernels(isa).fft.BYTES // problem.itemsize
    (n0, *_), (n1, *_) = tiling.cuts
    planes = [chunk * tiling.terms.sources, chunk * results]
    # A line more, so that blocks of rows don't fall into the same sets of the cache
    pitch, sums_pitch = (count * n1 * 2 * lanes + 64 // problem.itemsize for count in planes)
    weight_grad = problem.direction == "weight_grad"
    in_place = sum(planes) == 2 and not weight_grad
    elements = n0 // lanes * (pitch if in_place else pitch + sums_pitch) + n0 * 2 * lanes
    elements += 0 if in_place else sum(map(_odd, planes)) * n1 * 2 * lanes
    if weight_grad:
        elements += _odd(results * tiling.terms.sources) * 2 * tiling.points
    return _Sizes(pitch, sums_pitch, in_place, up(elements * problem.itemsize, 64))


# --- tiles and where they lie ----------------------------------------------------------------------


class _Places(NamedTuple):
    """Which pixel of an axis is at each place of a tile; -1: the constant, -2: zero, or not kept."""

    pixels: np.ndarray
    """(strips, phases, places)"""
    runs: np.ndarray
    """(strips, phases, 2): the longest run of places that count up by one, first and end."""


def _places(pixels: np.ndarray) -> _Places:
    places = np.arange(pixels.shape[-1])
    starts = np.ones(pixels.shape, bool)
    starts[..., 1:] = (np.diff(pixels) != 1) | (pixels[..., :-1] < 0)
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=-1)  # of the run that each place is in
    last = (places - first).argmax(axis=-1)[..., None]
    runs = np.concatenate([np.take_along_axis(first, last, -1), last + 1], axis=-1)
    return _Places(pixels, runs.astype(np.int64))


class _Strip(NamedTuple):
    """A half tile along one axis: results ``first`` to ``end`` of window phase ``e``; none where it has no partner."""

    e: int
    first: int
    end: int


class _Lane(NamedTuple):
    """One axis of a tiling: what the kernel needs to know of it."""

    sources: _Places
    results: _Places
    taps: _Places


def _lane(problem: ConvProblem, axis: _Axis, cut: _Cut, halves: int, padded: np.ndarray) -> _Lane:
    """``padded``: the axis' boundary index; of an input gradient, which place of the result a padded one is."""
    strips = []
    for e in range(axis.window_phases):
        results = axis.results(problem.direction, e)
        for first in range(results.start, results.start + up(len(results), cut.extent * halves), cut.extent):
            strips.append(_Strip(e, min(first, results.stop), min(first + cut.extent, results.stop)))
    taps = range(axis.tap_phases)
    forward = problem.direction != "input_grad"
    kept = cut.length if problem.direction == "weight_grad" else cut.extent
    sources = np.full((len(strips), len(taps) if forward else 1, cut.length), -2, np.int64)
    writes = np.full((len(strips), 1 if forward else len(taps), kept), -2, np.int64)
    for strip, source, result in zip(strips, sources, writes, strict=True):
        e, first, end = strip
        count = end - first
        if count == 0:
            continue
        if forward:
            result[0, :count] = e + axis.window_step * np.arange(first, end)
            for t in taps:
                read = padded[axis.rows(e, t, first, count + axis.tap_count(t) - 1)]
                source[t, : len(read)] = read
        else:  # from J - 1 before the first result on
            windows = axis.window_count(e)
            m = np.arange(first - axis.taps + 1, end)
            source[0, : len(m)] = np.where((m >= 0) & (m < windows), e + axis.window_step * m, -2)
            for t in taps:
                reached = max(min(end, windows + axis.tap_count(t) - 1) - first, 0)
                result[t, :reached] = padded[axis.rows(e, t, first, reached)]
    held = np.full((1, len(taps), up(axis.taps, GRAIN)), -2, np.int64)
    for t in taps:
        tap = t + axis.tap_step * np.arange(axis.tap_count(t))
        if forward:
            held[0, t, : len(tap)] = tap
        else:  # turned, and to the right of the longest phase's, where all phases read the same tile
            held[0, t, axis.taps - len(tap) : axis.taps] = tap[::-1]
    return _Lane(_places(sources), _places(writes), _places(held))


@dataclass(frozen=True)
class _Tables:
    tiling: _Tiling
    lanes: tuple[_Lane, _Lane]
    axes: tuple[tuple, tuple]
    """As the kernel takes them."""
    kernel: Any
    prefix: str
    isa: str


def prepare(problem: ConvProblem, isa: str) -> _Tables:
    tiling, axes = _tiling(problem), _axes(problem)
    padded = [problem.rows(), problem.columns()]
    if _folds(problem):
        padded = [np.arange(len(index)) for index in padded]  # the gradient of the padded image
    rows, columns = (_lane(problem, *of_axis) for of_axis in zip(axes, tiling.cuts, tiling.halves, padded, strict=True))
    for_kernel = [
        (cut.length, *_passes(cut.length, problem.compute_dtype), *map(tuple, lane))
        for cut, lane in zip(tiling.cuts, (rows, columns), strict=True)
    ]
    kernel, prefix = machine.kernels(isa).fft, PREFIX[problem.compute_dtype]
    return _Tables(tiling, (rows, columns), (for_kernel[0], for_kernel[1]), kernel, prefix, isa)


@lru_cache(maxsize=64)
def _passes(length: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Radices of the passes of a transform, first to last, and the bytes of their twiddle factors, to the last bit:
    exp(-2*pi*i*j*q/n) for j = 1..n/r-1, q = 1..r-1, n the length of the pass' blocks and r its radix."""
    even = length & -length
    eights, rest = divmod(even.bit_length() - 1, 3)
    radices = [length // even] * (length > even) + [[8] * eights, [8] * (eights - 1) + [4, 4], [8] * eights + [4]][rest]
    factors, pi = [np.empty(0, dtype)], np.arccos(np.longdouble(-1))
    for radix in radices:
        turns = np.outer(np.arange(1, length // radix), np.arange(1, radix)) % length
        angles = -2 * pi * turns.astype(np.longdouble) / length
        factors.append(np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(dtype).ravel())
        length //= radix
    return np.array(radices, np.int64), np.concatenate(factors).view(np.uint8)


def tile_extents(problem: ConvProblem) -> tuple[int, int]:
    if _folds(problem):
        return problem.H, problem.W
    tiling = _tiling(problem)
    rows, columns = (
        min(cut.extent * halves, max(1, *(len(axis.results(problem.direction, e)) for e in range(axis.window_phases))))
        for cut, halves, axis in zip(tiling.cuts, tiling.halves, _axes(problem), strict=True)
    )
    return rows, columns


def tiles(plan: Any) -> tuple[list[slice], list[slice]]:
    if _folds(plan.problem):
        return [slice(0, plan.problem.H, 1)], [slice(0, plan.problem.W, 1)]
    rows, columns = (
        [
            _slice(kept)
            for index in zip(*(lane.results.pixels[i::halves] for i in range(halves)), strict=True)
            for of_phase in np.concatenate(index, axis=-1)
            if (kept := of_phase[of_phase >= 0]).size
        ]
        for lane, halves in zip(plan.tables.lanes, plan.tables.tiling.halves, strict=True)
    )
    return rows, columns


def _slice(index: np.ndarray) -> slice:
    """The slice of evenly spaced places."""
    first, step = int(index[0]), int(index[1] - index[0]) if len(index) > 1 else 1
    return slice(first, int(index[-1]) + step, step)


def _folds(problem: ConvProblem) -> bool:
    """Do results of several tiles meet in one pixel?"""
    return problem.direction == "input_grad" and problem.boundary != "constant"


# --- running ---------------------------------------------------------------------------------------


def pack(plan: Any, w: np.ndarray) -> np.ndarray:
    """All filters' spectra: (groups, blocks of filters, elements), which fft.pyx draws."""
    tiling: _Tiling = plan.tables.tiling
    packed = np.empty((plan.problem.groups, tiling.filter_blocks, tiling.spectra(tiling.filter_block)), w.dtype)
    for turn in _turns(plan):
        _filter_spectra(plan, turn, _filters(plan, w), packed[turn.groups, turn.block].reshape(-1), 1)
    return packed


class _Turn(NamedTuple):
    """What one call of the kernel does: a block of filters of one group, or all of several groups."""

    groups: slice
    block: int
    filters: slice
    """Of each group."""


def _turns(plan: Any) -> Iterator[_Turn]:
    tiling: _Tiling = plan.tables.tiling
    for group in range(0, plan.problem.groups, tiling.group_block):
        groups = slice(group, min(group + tiling.group_block, plan.problem.groups))
        for block in range(tiling.filter_blocks):
            first = block * tiling.filter_block
            yield _Turn(groups, block, slice(first, min(first + tiling.filter_block, tiling.terms.filters)))


def _channels(groups: slice, kept: slice, of_group: int) -> slice:
    """Those ``kept`` of one group or all of several, all groups' counted through."""
    return slice(groups.start * of_group + kept.start, (groups.stop - 1) * of_group + kept.stop)


def _filters(plan: Any, w: np.ndarray) -> np.ndarray:
    """(groups, results, sources, R, S), a view."""
    weights = grouped(w, plan.problem.groups)
    return weights.swapaxes(1, 2) if plan.problem.direction == "input_grad" else weights


def _task(plan: Any, turn: _Turn, samples: int, workers: int) -> tuple[tuple[int, ...], int]:
    """Sizes of a turn as the kernel takes them, and bytes of each worker."""
    tables: _Tables = plan.tables
    tiling = tables.tiling
    units = samples * tiling.tiles
    chunks = up(-(-units // tiling.chunk), workers)  # so that all have the same to do
    chunk = -(-units // chunks)
    results = (turn.filters.stop - turn.filters.start) * tiling.terms.results // tiling.terms.filters
    pitch, sums_pitch, in_place, worker = _sizes(plan.problem, tiling, tables.isa, results, chunk)
    counts = turn.groups.stop - turn.groups.start, tiling.terms.sources, results, chunk
    return (*counts, *tiling.halves, *(cut.units for cut in tiling.cuts), pitch, sums_pitch, in_place), worker


def _filter_spectra(plan: Any, turn: _Turn, filters: np.ndarray, spectra: np.ndarray, workers: int) -> None:
    """Spectra of a turn's filters, of all filters (groups, results, sources, R, S)."""
    tables: _Tables = plan.tables
    sizes, worker = _task(plan, turn, 1, 1)
    with scratch(worker * workers) as memory:
        getattr(tables.kernel, tables.prefix + "_filters")(
            filters[turn.groups, turn.filters], tables.axes, sizes, plan.problem.direction == "forward", spectra,
            memory, worker, workers,
        )  # fmt: skip


def _correlate(plan: Any, source: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    """Forward, and the input gradient: the same correlation from x to y and from dy to dx."""
    problem, tables = plan.problem, plan.tables
    tiling: _Tiling = tables.tiling
    terms = tiling.terms
    beyond = problem.compute_cval if problem.direction == "forward" else 0.0
    packed = b.ndim == 3
    room_bytes = min(tiling.group_block, problem.groups) * tiling.spectra(tiling.filter_block) * out.itemsize
    with scratch(0 if packed else room_bytes) as room:
        for turn in _turns(plan):
            if packed:
                spectra = b[turn.groups, turn.block].reshape(-1)
            else:
                spectra = room[:room_bytes].view(out.dtype)
                _filter_spectra(plan, turn, _filters(plan, b), spectra, workers)
            sources = source[:, _channels(turn.groups, slice(0, terms.channels), terms.channels)]
            kept = _channels(turn.groups, turn.filters, terms.filters)
            sizes, worker = _task(plan, turn, len(source), workers)
            with scratch(worker * workers) as memory:
                getattr(tables.kernel, tables.prefix + "_correlate")(
                    sources, spectra, bias[kept], out[:, kept], beyond, tables.axes, sizes, memory, worker, workers
                )


def _input_grad(plan: Any, dy: np.ndarray, b: np.ndarray, bias: np.ndarray, dx: np.ndarray, workers: int) -> None:
    problem = plan.problem
    if _folds(problem):
        padded = np.zeros((1, *problem.padded_shape[1:]), dx.dtype)
        for n in range(problem.N):
            _correlate(plan, dy[n : n + 1], b, bias, padded, workers)
            phases.fold(padded, problem, dx[n : n + 1])
        return
    dx[...] = bias[:, None, None] if bias.size else 0  # pixels that no window reaches
    if plan.tables.tiling.tiles:
        _correlate(plan, dy, b, bias, dx, workers)


def _weight_grad(plan: Any, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int) -> None:
    problem, tables = plan.problem, plan.tables
    tiling: _Tiling = tables.tiling
    terms, pieces = tiling.terms, _pieces(problem, tiling)
    room = np.empty((pieces * min(tiling.group_block, problem.groups) * tiling.filter_block, *dw.shape[1:]), dw.dtype)
    for turn in _turns(plan):
        kept = _channels(turn.groups, turn.filters, terms.filters)
        parts = room[: pieces * (kept.stop - kept.start)].reshape(pieces, -1, *dw.shape[1:])
        sizes, worker = _task(plan, turn, len(x), pieces)
        with scratch(worker * workers) as memory:
            getattr(tables.kernel, tables.prefix + "_weight_grad")(
                x[:, _channels(turn.groups, slice(0, terms.channels), terms.channels)], dy[:, kept], parts,
                problem.compute_cval, tables.axes, sizes, memory, worker, workers,
            )  # fmt: skip
        add_up(parts, dw[kept])


def run(plan: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    if plan.problem.direction == "weight_grad":
        _weight_grad(plan, a, b, out, workers)
    elif plan.problem.direction == "input_grad":
        _input_grad(plan, a, b, bias, out, workers)
    else:
        _correlate(plan, a, b, bias, out, workers)
