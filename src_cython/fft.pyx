"""Correlations by products of spectra, in tiles (overlap-save). All three directions of fastconv/algorithms/fft.py.

A tile has n0 x n1 places, multiples of L, the lanes of a vector. Two real tiles, the halves of a unit, are the real and
the imaginary part of one complex tile: its spectrum times that of a real filter is the spectrum of both results, so
neither is ever taken apart. Each axis is transformed with the other one along the lanes (simd/fft_tile.h), and a tile
is kept in blocks of L x L complex numbers that are turned in their place, from lanes along the columns to lanes along
the rows. A worker does a chunk of units at a time:

    tiles [n0 / L][units][sources][n1 / L][L][2][L]      row, column, part, lane: before the columns' transform
                                                         column, row, part, lane: after it
    x [n1][units][sources][2][L]     sums [n1][units][results][2][L]       of one block of rows
    filters [n0 / L][n1][results][sources][2][L]

In the last three, frequencies lie an `odd` number of complex vectors apart, so that they don't share cache sets.
One correlation: `load` copies the pixels of both halves; `columns_forward` transforms L columns at a time, by way of a
buffer [n0][2][L] in L1, and turns them; then, for each block of L rows, all sources' rows are transformed to x,
multiplied by the conjugate spectra of the filters, and the sums transformed back into tiles of results; `columns_back`
and `store` end it. With one source, result and unit all that happens in place. A spectrum is never sorted. A weight
gradient is the same with dy in the filters' place: the product of two complex tiles, one conjugated, is the spectrum of
the sum of their halves' correlations in the real part (and of nothing of use in the imaginary one), so spectra are
summed over units, sums [n0 / L][n1][results][sources][2][L], before one transform back.

Which place holds which pixel is said by index vectors: `Places` along one axis, by strip (a tile along that axis) and
phase. In an image -1 is the constant and -2 zero; in a result a negative place is not kept. The columns between `begin`
and `end` count up by one.

Each worker has `worker_bytes` of scratch, 64-byte aligned; workers == 1 never enters a parallel region.
"""

from cython.parallel cimport prange, threadid
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset

ctypedef fused real:
    float
    double

cdef extern from *:
    void __builtin_prefetch(const void*) noexcept nogil

cdef extern from "fft.h" nogil:
    const int VECTOR_BYTES
    void f32_fft(ptrdiff_t, ptrdiff_t, const int64_t*, const float*, float*, float*, ptrdiff_t)
    void f64_fft(ptrdiff_t, ptrdiff_t, const int64_t*, const double*, double*, double*, ptrdiff_t)
    void f32_fft_back(ptrdiff_t, ptrdiff_t, const int64_t*, const float*, const float*, ptrdiff_t, float*)
    void f64_fft_back(ptrdiff_t, ptrdiff_t, const int64_t*, const double*, const double*, ptrdiff_t, double*)
    void f32_fft_turn(const float*, float*)
    void f64_fft_turn(const double*, double*)
    void f32_fft_products(ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                          const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, int)
    void f64_fft_products(ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                          const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t, double*, ptrdiff_t, ptrdiff_t, ptrdiff_t, int)
    void f32_fft_put(const float*, float, float, float*)
    void f64_fft_put(const double*, double, double, double*)

BYTES = VECTOR_BYTES
cdef Py_ssize_t LINE = 64  # bytes of cache
cdef Py_ssize_t AHEAD = 3  # rows: loaded into the cache before they are needed


cdef struct Places:  # along one axis
    const int64_t* index  # [strips][phases][length]
    const int64_t* runs  # [strips][phases]: begin, end
    Py_ssize_t phases, length


cdef struct Axis:
    Py_ssize_t n, passes
    const int64_t* radices
    const void* twiddles
    Places source, result, taps


cdef struct Task:
    Axis rows, columns
    Py_ssize_t groups
    Py_ssize_t sources, results  # with their phases
    Py_ssize_t chunk  # units at a time
    Py_ssize_t halves_down, halves_across, units_down, units_across  # halves of a unit; units of a sample
    Py_ssize_t pitch, sums_pitch  # elements from one block of rows to the next, of tiles of sources and of results
    bint in_place  # one source, result and unit


cdef struct Plane:
    Py_ssize_t sn, sc, sh, sw  # strides in elements


cdef inline Py_ssize_t lanes_of(const real* _) noexcept nogil:
    return VECTOR_BYTES // sizeof(real)


cdef inline Py_ssize_t odd(Py_ssize_t n) noexcept nogil:
    return n | 1


cdef inline Py_ssize_t spectra_size(const Task* t) noexcept nogil:
    """Elements of one group's filters."""
    return t.rows.n * t.columns.n * 2 * odd(t.results * t.sources)


cdef inline void forward(const Axis* a, real* x, real* y, Py_ssize_t stride) noexcept nogil:
    if real is float:
        f32_fft(a.n, a.passes, a.radices, <const float*>a.twiddles, x, y, stride)
    else:
        f64_fft(a.n, a.passes, a.radices, <const double*>a.twiddles, x, y, stride)


cdef inline void back(const Axis* a, const real* y, Py_ssize_t stride, real* x) noexcept nogil:
    if real is float:
        f32_fft_back(a.n, a.passes, a.radices, <const float*>a.twiddles, y, stride, x)
    else:
        f64_fft_back(a.n, a.passes, a.radices, <const double*>a.twiddles, y, stride, x)


cdef inline void turn(const real* x, real* out) noexcept nogil:
    if real is float:
        f32_fft_turn(x, out)
    else:
        f64_fft_turn(x, out)


cdef inline void products(Py_ssize_t n, Py_ssize_t units, Py_ssize_t results, Py_ssize_t sources, const real* x,
                          const real* w, real* sums) noexcept nogil:
    """sums[j][u][k] = sum_c x[j][u][c] * conj(w[j][k][c]), j < n"""
    if real is float:
        f32_fft_products(n, units, results, sources, x, odd(units * sources), sources, 1, w, odd(results * sources),
                         sources, 1, sums, odd(units * results), results, 1, False)
    else:
        f64_fft_products(n, units, results, sources, x, odd(units * sources), sources, 1, w, odd(results * sources),
                         sources, 1, sums, odd(units * results), results, 1, False)


cdef inline void outer_products(Py_ssize_t n, Py_ssize_t units, Py_ssize_t results, Py_ssize_t sources, const real* x,
                                const real* dy, real* sums, bint more) noexcept nogil:
    """sums[j][k][c] (+)= sum_u x[j][u][c] * conj(dy[j][u][k]), j < n"""
    if real is float:
        f32_fft_products(n, sources, results, units, x, odd(units * sources), 1, sources, dy, odd(units * results), 1,
                         results, sums, odd(results * sources), 1, sources, more)
    else:
        f64_fft_products(n, sources, results, units, x, odd(units * sources), 1, sources, dy, odd(units * results), 1,
                         results, sums, odd(results * sources), 1, sources, more)


cdef inline void put(const real* x, real scale, real start, real* y) noexcept nogil:
    if real is float:
        f32_fft_put(x, scale, start, y)
    else:
        f64_fft_put(x, scale, start, y)


# --- tiles -------------------------------------------------------------------------------------------------------------


cdef inline const int64_t* places_at(const Places* p, Py_ssize_t strip, Py_ssize_t phase) noexcept nogil:
    return p.index + (strip * p.phases + phase) * p.length


cdef inline const int64_t* run_at(const Places* p, Py_ssize_t strip, Py_ssize_t phase) noexcept nogil:
    return p.runs + (strip * p.phases + phase) * 2


cdef void load(const real* x, const Plane* plane, real beyond, const Places* rows, const Places* columns,
               Py_ssize_t down, Py_ssize_t across, Py_ssize_t phase, real* tile, Py_ssize_t pitch) noexcept nogil:
    """One part of a tile: the pixels of strips `down` and `across`, `phase` counting along both axes."""
    cdef Py_ssize_t L = lanes_of(x), i, j, l, h, w
    cdef const int64_t* row_at = places_at(rows, down, phase // columns.phases)
    cdef const int64_t* column_at = places_at(columns, across, phase % columns.phases)
    cdef const int64_t* run = run_at(columns, across, phase % columns.phases)
    cdef const real* row
    cdef const real* ahead
    cdef real* out
    for i in range(rows.length):
        h = row_at[i]
        row = x + h * plane.sh if h >= 0 else x
        ahead = x + max(row_at[min(i + AHEAD, rows.length - 1)], 0) * plane.sh
        out = tile + i // L * pitch + i % L * 2 * L
        j = 0
        while j < columns.length:
            if h == -2:
                memset(out, 0, VECTOR_BYTES)
            elif h >= 0 and plane.sw == 1 and run[0] <= j and j + L <= run[1]:
                memcpy(out, row + column_at[j], VECTOR_BYTES)
                __builtin_prefetch(ahead + column_at[j])
            else:
                for l in range(L):
                    w = column_at[j + l]
                    if h >= 0 and w >= 0:
                        out[l] = row[w * plane.sw]
                    else:
                        out[l] = beyond if w != -2 else 0
            out += 2 * L * L
            j += L


cdef void store(const real* tile, Py_ssize_t pitch, real scale, real start, const Places* rows, const Places* columns,
                Py_ssize_t down, Py_ssize_t across, Py_ssize_t phase, real* y, const Plane* plane) noexcept nogil:
    """One part of a tile to the pixels of strips `down` and `across`: y = tile * scale + start."""
    cdef Py_ssize_t L = lanes_of(tile), i, j, l
    cdef const int64_t* row_at = places_at(rows, down, phase // columns.phases)
    cdef const int64_t* column_at = places_at(columns, across, phase % columns.phases)
    cdef const int64_t* run = run_at(columns, across, phase % columns.phases)
    cdef const real* at
    cdef real* row
    for i in range(rows.length):
        if row_at[i] < 0:
            continue
        row = y + row_at[i] * plane.sh
        at = tile + i // L * pitch + i % L * 2 * L
        j = 0
        while j < columns.length:
            if plane.sw == 1 and run[0] <= j and j + L <= run[1]:
                put(at, scale, start, row + column_at[j])
            else:
                for l in range(min(L, columns.length - j)):
                    if column_at[j + l] >= 0:
                        row[column_at[j + l] * plane.sw] = at[l] * scale + start
            at += 2 * L * L
            j += L


cdef void columns_forward(const Task* t, real* tile, Py_ssize_t pitch, Py_ssize_t used, real* buffer) noexcept nogil:
    """Transform the first `used` columns, the others being zero, and turn their blocks."""
    cdef Py_ssize_t L = lanes_of(tile), block = 2 * L * L, i, j
    cdef real* at
    for j in range(used // L):
        at = tile + j * block
        for i in range(t.rows.n // L):
            memcpy(buffer + i * block, at + i * pitch, block * sizeof(real))
        forward(&t.rows, buffer, buffer, 2 * L)
        for i in range(t.rows.n // L):
            turn(<const real*>buffer + i * block, at + i * pitch)


cdef void load_units(const Task* t, const real* x, const Plane* plane, real beyond, const Places* rows,
                     const Places* columns, Py_ssize_t channels, Py_ssize_t first, Py_ssize_t count, real* tiles,
                     Py_ssize_t pitch, real* buffer) noexcept nogil:
    """All sources (channels with their phases) of units first..first+count, their columns transformed."""
    cdef Py_ssize_t units = t.units_down * t.units_across, phases = rows.phases * columns.phases, u, c, phase, down, across
    cdef const real* at
    for u in range(first, first + count):
        down = u % units // t.units_across * t.halves_down
        across = u % t.units_across * t.halves_across
        for c in range(channels):
            at = x + u // units * plane.sn + c * plane.sc
            for phase in range(phases):
                load(at, plane, beyond, rows, columns, down, across, phase, tiles, pitch)
                load(at, plane, beyond, rows, columns, down + t.halves_down - 1, across + t.halves_across - 1, phase,
                     tiles + lanes_of(x), pitch)
                columns_forward(t, tiles, pitch, t.columns.n, buffer)
                tiles += t.columns.n * 2 * lanes_of(x)


cdef void columns_back(const Task* t, real* tile, Py_ssize_t pitch, Py_ssize_t kept, real* buffer) noexcept nogil:
    """Turn the blocks and transform back the first `kept` columns."""
    cdef Py_ssize_t L = lanes_of(tile), block = 2 * L * L, i, j
    cdef real* at
    for j in range((kept + L - 1) // L):
        at = tile + j * block
        for i in range(t.rows.n // L):
            turn(<const real*>at + i * pitch, buffer + i * block)
        back(&t.rows, <const real*>buffer, 2 * L, buffer)
        for i in range(t.rows.n // L):
            memcpy(at + i * pitch, buffer + i * block, block * sizeof(real))


# --- filters -----------------------------------------------------------------------------------------------------------


cdef void filter_unit(const Task* t, const real* w, Py_ssize_t group, const Plane* ws, Py_ssize_t K, Py_ssize_t C,
                      bint of_sources, Py_ssize_t unit, real* spectra, real* tile) noexcept nogil:
    """The spectra of one channel of a filter, one for each phase of its taps, which counts with sources or results."""
    cdef Py_ssize_t L = lanes_of(w), row = t.columns.n * 2 * L, phases = t.rows.taps.phases * t.columns.taps.phases
    cdef Py_ssize_t c = unit % C, k = unit // C % K, g = unit // C // K, blocks = t.rows.n // L
    cdef Py_ssize_t pitch = row + LINE // sizeof(real)  # of the one tile
    cdef Py_ssize_t apart = odd(t.results * t.sources) * 2 * L, phase, i, j
    spectra += g * spectra_size(t)
    for phase in range(phases):
        memset(tile, 0, blocks * pitch * sizeof(real))
        load(w + g * group + k * ws.sn + c * ws.sc, ws, <real>0, &t.rows.taps, &t.columns.taps, 0, 0, phase, tile, pitch)
        columns_forward(t, tile, pitch, t.columns.taps.length, tile + blocks * pitch)
        i = k * t.sources + c * phases + phase if of_sources else (k * phases + phase) * t.sources + c
        for j in range(blocks):
            forward(&t.columns, tile + j * pitch, spectra + j * t.columns.n * apart + i * 2 * L, apart)


cdef void filters(Task t, const real* w, Py_ssize_t group, Plane ws, Py_ssize_t K, Py_ssize_t C, bint of_sources,
                  real* spectra, char* memory, Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit
    if workers == 1:
        for unit in range(t.groups * K * C):
            filter_unit(&t, w, group, &ws, K, C, of_sources, unit, spectra, <real*>memory)
    else:
        for unit in prange(t.groups * K * C, num_threads=workers, schedule="static"):
            filter_unit(&t, w, group, &ws, K, C, of_sources, unit, spectra, <real*>(memory + threadid() * worker_bytes))


# --- forward and input gradient ----------------------------------------------------------------------------------------


cdef void correlate_chunk(const Task* t, const real* x, const Plane* xs, real beyond, const real* spectra,
                          const real* bias, real* y, const Plane* ys, Py_ssize_t N, Py_ssize_t number,
                          real* tiles) noexcept nogil:
    """A chunk of one group's units, those of all samples counted through."""
    cdef Py_ssize_t L = lanes_of(x), row = t.columns.n * 2 * L, blocks = t.rows.n // L
    cdef Py_ssize_t units = t.units_down * t.units_across, chunks = (N * units + t.chunk - 1) // t.chunk
    cdef Py_ssize_t group = number // chunks, first = number % chunks * t.chunk, count = min(t.chunk, N * units - first)
    cdef Py_ssize_t slots = count * t.sources, kept = count * t.results
    cdef Py_ssize_t channels = t.sources // (t.rows.source.phases * t.columns.source.phases)
    cdef Py_ssize_t phases = t.rows.result.phases * t.columns.result.phases
    cdef Py_ssize_t i, j, u, k, down, across, half
    cdef real* results = tiles if t.in_place else tiles + blocks * t.pitch
    cdef real* buffer = results + blocks * t.sums_pitch
    cdef real* x_rows = buffer + t.rows.n * 2 * L
    cdef real* sums = x_rows + odd(t.chunk * t.sources) * row
    cdef real* result
    cdef real scale = (<real>1) / (t.rows.n * t.columns.n)
    spectra += group * spectra_size(t)
    load_units(t, x + group * channels * xs.sc, xs, beyond, &t.rows.source, &t.columns.source, channels, first, count,
               tiles, t.pitch, buffer)
    for j in range(blocks):
        if t.in_place:
            x_rows = sums = tiles + j * t.pitch
        for i in range(slots):
            forward(&t.columns, tiles + j * t.pitch + i * row, x_rows + i * 2 * L, odd(slots) * 2 * L)
        products(t.columns.n, count, t.results, t.sources, <const real*>x_rows, spectra + j * row * odd(t.results * t.sources),
                 sums)
        for i in range(kept):
            back(&t.columns, <const real*>sums + i * 2 * L, odd(kept) * 2 * L, results + j * t.sums_pitch + i * row)
    for i in range(kept):
        u, k = first + i // t.results, group * t.results + i % t.results
        result = results + i * row
        columns_back(t, result, t.sums_pitch, t.columns.result.length, buffer)
        for half in range(2):
            down = u % units // t.units_across * t.halves_down + half * (t.halves_down - 1)
            across = u % t.units_across * t.halves_across + half * (t.halves_across - 1)
            store(<const real*>result + half * L, t.sums_pitch, scale, bias[k // phases] if bias != NULL else 0,
                  &t.rows.result, &t.columns.result, down, across, k % phases,
                  y + u // units * ys.sn + k // phases * ys.sc, ys)


cdef void correlate(Task t, const real* x, Plane xs, real beyond, const real* spectra, const real* bias, real* y,
                    Plane ys, Py_ssize_t N, char* memory, Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t i, chunks = t.groups * ((N * t.units_down * t.units_across + t.chunk - 1) // t.chunk)
    if workers == 1:
        for i in range(chunks):
            correlate_chunk(&t, x, &xs, beyond, spectra, bias, y, &ys, N, i, <real*>memory)
    else:
        for i in prange(chunks, num_threads=workers, schedule="static"):
            correlate_chunk(&t, x, &xs, beyond, spectra, bias, y, &ys, N, i, <real*>(memory + threadid() * worker_bytes))


# --- weight gradient ---------------------------------------------------------------------------------------------------


cdef void weight_piece(const Task* t, const real* x, const Plane* xs, real beyond, const real* dy, const Plane* dys,
                       real* dw, Py_ssize_t part, const Plane* ws, Py_ssize_t N, Py_ssize_t pieces,
                       Py_ssize_t number, real* sums) noexcept nogil:
    """dw of one group by one piece: an equal share of the units of all samples."""
    cdef Py_ssize_t L = lanes_of(x), row = t.columns.n * 2 * L, blocks = t.rows.n // L
    cdef Py_ssize_t all = t.results * t.sources, apart = odd(all) * 2 * L, block = t.columns.n * apart
    cdef Py_ssize_t phases = t.rows.source.phases * t.columns.source.phases, channels = t.sources // phases
    cdef Py_ssize_t units = N * t.units_down * t.units_across, piece = number % pieces, group = number // pieces
    cdef Py_ssize_t first = units * piece // pieces, last = units * (piece + 1) // pieces, unit = first, count, i, j
    cdef real* tiles = sums + blocks * block
    cdef real* dy_tiles = tiles + blocks * t.pitch
    cdef real* buffer = dy_tiles + blocks * t.sums_pitch
    cdef real* x_rows = buffer + t.rows.n * 2 * L
    cdef real* dy_rows = x_rows + odd(t.chunk * t.sources) * row
    cdef real scale = (<real>1) / (t.rows.n * t.columns.n)
    x += group * channels * xs.sc
    dy += group * t.results * dys.sc
    dw += piece * part + group * t.results * ws.sn
    while unit < last:
        count = min(t.chunk, last - unit)
        load_units(t, x, xs, beyond, &t.rows.source, &t.columns.source, channels, unit, count, tiles,
                   t.pitch, buffer)
        load_units(t, dy, dys, <real>0, &t.rows.result, &t.columns.result, t.results, unit, count, dy_tiles,
                   t.sums_pitch, buffer)
        for j in range(blocks):
            for i in range(count * t.sources):
                forward(&t.columns, tiles + j * t.pitch + i * row, x_rows + i * 2 * L, odd(count * t.sources) * 2 * L)
            for i in range(count * t.results):
                forward(&t.columns, dy_tiles + j * t.sums_pitch + i * row, dy_rows + i * 2 * L,
                        odd(count * t.results) * 2 * L)
            outer_products(t.columns.n, count, t.results, t.sources, <const real*>x_rows, <const real*>dy_rows,
                           sums + j * block, unit > first)
        unit += count
    for i in range(all):
        for j in range(blocks):
            back(&t.columns, <const real*>sums + j * block + i * 2 * L, apart, tiles + j * t.pitch)
        columns_back(t, tiles, t.pitch, t.columns.taps.length, buffer)
        store(<const real*>tiles, t.pitch, scale, <real>0, &t.rows.taps, &t.columns.taps, 0, 0, i % t.sources % phases,
              dw + i // t.sources * ws.sn + i % t.sources // phases * ws.sc, ws)


cdef void weight_grad(Task t, const real* x, Plane xs, real beyond, const real* dy, Plane dys, real* dw, Py_ssize_t part,
                      Plane ws, Py_ssize_t N, Py_ssize_t pieces, char* memory, Py_ssize_t worker_bytes,
                      int workers) noexcept nogil:
    cdef Py_ssize_t i
    if workers == 1:
        for i in range(t.groups * pieces):
            weight_piece(&t, x, &xs, beyond, dy, &dys, dw, part, &ws, N, pieces, i, <real*>memory)
    else:
        for i in prange(t.groups * pieces, num_threads=workers, schedule="static"):
            weight_piece(&t, x, &xs, beyond, dy, &dys, dw, part, &ws, N, pieces, i,
                         <real*>(memory + threadid() * worker_bytes))


# --- from Python -------------------------------------------------------------------------------------------------------


cdef Plane plane_of(const Py_ssize_t* strides, Py_ssize_t itemsize) noexcept:
    cdef Plane p
    p.sn, p.sc, p.sh, p.sw = strides[0] // itemsize, strides[1] // itemsize, strides[2] // itemsize, strides[3] // itemsize
    return p


cdef Places make_places(tuple places) except *:
    """From (index [strips][phases][length], runs [strips][phases][2])."""
    cdef const int64_t[:, :, ::1] index = places[0], runs = places[1]
    cdef Places p
    p.index, p.runs = &index[0, 0, 0], &runs[0, 0, 0]
    p.phases, p.length = index.shape[1], index.shape[2]
    return p


cdef Axis make_axis(tuple axis) except *:
    """From (n, radices, twiddles of the kernel's dtype, places of sources, of results, of taps)."""
    cdef const int64_t[::1] radices = axis[1]
    cdef const uint8_t[::1] twiddles = axis[2]
    cdef Axis a
    a.n, a.passes, a.radices, a.twiddles = axis[0], radices.shape[0], &radices[0], &twiddles[0]
    a.source, a.result, a.taps = make_places(axis[3]), make_places(axis[4]), make_places(axis[5])
    return a


cdef Task make_task(tuple axes, tuple sizes) except *:
    """The axes' arrays must outlive the task."""
    cdef Task t
    t.rows, t.columns = make_axis(axes[0]), make_axis(axes[1])
    (t.groups, t.sources, t.results, t.chunk, t.halves_down, t.halves_across, t.units_down, t.units_across, t.pitch,
     t.sums_pitch, t.in_place) = sizes
    return t


def f32_filters(const float[:, :, :, :, :] w, tuple axes, tuple sizes, bint of_sources, float[::1] spectra,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """Spectra of filters w (groups, results, sources, R, S), whose phases count with the sources or with the results."""
    cdef Task t = make_task(axes, sizes)
    cdef Plane ws = plane_of(w.strides + 1, 4)
    with nogil:
        filters[float](t, &w[0, 0, 0, 0, 0], w.strides[0] // 4, ws, w.shape[1], w.shape[2], of_sources, &spectra[0],
                     <char*>&scratch[0], worker_bytes, workers)


def f64_filters(const double[:, :, :, :, :] w, tuple axes, tuple sizes, bint of_sources, double[::1] spectra,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """Spectra of filters w (groups, results, sources, R, S), whose phases count with the sources or with the results."""
    cdef Task t = make_task(axes, sizes)
    cdef Plane ws = plane_of(w.strides + 1, 8)
    with nogil:
        filters[double](t, &w[0, 0, 0, 0, 0], w.strides[0] // 8, ws, w.shape[1], w.shape[2], of_sources, &spectra[0],
                     <char*>&scratch[0], worker_bytes, workers)


def f32_correlate(const float[:, :, :, :] x, const float[::1] spectra, const float[::1] bias, float[:, :, :, :] y, float beyond,
                  tuple axes, tuple sizes, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """y (N, K, P, Q) from x (N, C, H, W) and the spectra of each group."""
    cdef Task t = make_task(axes, sizes)
    cdef Plane xs = plane_of(x.strides, 4), ys = plane_of(y.strides, 4)
    with nogil:
        correlate[float](t, &x[0, 0, 0, 0], xs, beyond, &spectra[0], &bias[0] if bias.shape[0] else NULL, &y[0, 0, 0, 0],
                       ys, x.shape[0], <char*>&scratch[0], worker_bytes, workers)


def f64_correlate(const double[:, :, :, :] x, const double[::1] spectra, const double[::1] bias, double[:, :, :, :] y, double beyond,
                  tuple axes, tuple sizes, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """y (N, K, P, Q) from x (N, C, H, W) and the spectra of each group."""
    cdef Task t = make_task(axes, sizes)
    cdef Plane xs = plane_of(x.strides, 8), ys = plane_of(y.strides, 8)
    with nogil:
        correlate[double](t, &x[0, 0, 0, 0], xs, beyond, &spectra[0], &bias[0] if bias.shape[0] else NULL, &y[0, 0, 0, 0],
                       ys, x.shape[0], <char*>&scratch[0], worker_bytes, workers)


def f32_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :, ::1] parts, float beyond, tuple axes,
                    tuple sizes, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """parts (pieces, K, C / groups, R, S), to be added up."""
    cdef Task t = make_task(axes, sizes)
    cdef Plane xs = plane_of(x.strides, 4), dys = plane_of(dy.strides, 4), ws = plane_of(parts.strides + 1, 4)
    with nogil:
        weight_grad[float](t, &x[0, 0, 0, 0], xs, beyond, &dy[0, 0, 0, 0], dys, &parts[0, 0, 0, 0, 0],
                         parts.strides[0] // 4, ws, x.shape[0], parts.shape[0], <char*>&scratch[0], worker_bytes, workers)


def f64_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :, ::1] parts, double beyond, tuple axes,
                    tuple sizes, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """parts (pieces, K, C / groups, R, S), to be added up."""
    cdef Task t = make_task(axes, sizes)
    cdef Plane xs = plane_of(x.strides, 8), dys = plane_of(dy.strides, 8), ws = plane_of(parts.strides + 1, 8)
    with nogil:
        weight_grad[double](t, &x[0, 0, 0, 0], xs, beyond, &dy[0, 0, 0, 0], dys, &parts[0, 0, 0, 0, 0],
                         parts.strides[0] // 8, ws, x.shape[0], parts.shape[0], <char*>&scratch[0], worker_bytes, workers)
