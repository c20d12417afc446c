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

Each worker has `worker_bytes` of scratch, 64-byte aligned.
"""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset

from fastconv._kernels.team cimport share, unit_function

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


cdef struct Plane:  # one operand: its pixels, and which of them is where in a tile
    void* first
    Py_ssize_t channels  # of a group
    Py_ssize_t sn, sc, sh, sw  # strides in elements
    double beyond  # stands where an index is -1
    Places rows, columns
    Py_ssize_t pitch  # elements from one block of rows of a tile to the next


cdef struct Task:
    Axis rows, columns
    Py_ssize_t groups
    Py_ssize_t sources, results  # with their phases
    Py_ssize_t chunk  # units at a time
    Py_ssize_t halves_down, halves_across, units_down, units_across  # halves of a unit; units of a sample
    bint in_place  # one source, result and unit
    Plane x, y, w  # sources, results (or dy), filters (or their gradient)
    Py_ssize_t N, K  # samples; filters of a group
    Py_ssize_t pieces, part  # of the weight gradient; elements from one piece, or one group of filters, to the next
    bint of_sources  # phases of taps count with sources
    void* spectra
    const void* bias


cdef inline Py_ssize_t lanes_of(const real* _) noexcept nogil:
    return VECTOR_BYTES // sizeof(real)


cdef inline Py_ssize_t odd(Py_ssize_t n) noexcept nogil:
    return n | 1


cdef inline Py_ssize_t spectra_size(const Task* t) noexcept nogil:
    """Elements of one group's filters."""
    return t.rows.n * t.columns.n * 2 * odd(t.results * t.sources)


cdef inline Py_ssize_t chunks_of(const Task* t) noexcept nogil:
    """Of one group's units, those of all samples counted through."""
    return (t.N * t.units_down * t.units_across + t.chunk - 1) // t.chunk


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


cdef void load(const real* x, const Plane* plane, Py_ssize_t down, Py_ssize_t across, Py_ssize_t phase, real* tile,
               Py_ssize_t pitch) noexcept nogil:
    """One part of a tile: the pixels of strips `down` and `across`, `phase` counting along both axes."""
    cdef Py_ssize_t L = lanes_of(x), i, j, l, h, w
    cdef const Places* rows = &plane.rows
    cdef const Places* columns = &plane.columns
    cdef const int64_t* row_at = places_at(rows, down, phase // columns.phases)
    cdef const int64_t* column_at = places_at(columns, across, phase % columns.phases)
    cdef const int64_t* run = run_at(columns, across, phase % columns.phases)
    cdef real beyond = <real>plane.beyond
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


cdef void store(const real* tile, Py_ssize_t pitch, real scale, real start, Py_ssize_t down, Py_ssize_t across,
                Py_ssize_t phase, real* y, const Plane* plane) noexcept nogil:
    """One part of a tile to the pixels of strips `down` and `across`: y = tile * scale + start."""
    cdef Py_ssize_t L = lanes_of(tile), i, j, l
    cdef const Places* rows = &plane.rows
    cdef const Places* columns = &plane.columns
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


cdef void load_units(const Task* t, const Plane* plane, Py_ssize_t group, Py_ssize_t first, Py_ssize_t count, real* tiles,
                     real* buffer) noexcept nogil:
    """A group's channels with their phases of units first..first+count, their columns transformed."""
    cdef Py_ssize_t units = t.units_down * t.units_across, phases = plane.rows.phases * plane.columns.phases
    cdef Py_ssize_t u, c, phase, down, across
    cdef const real* x
    for u in range(first, first + count):
        down = u % units // t.units_across * t.halves_down
        across = u % t.units_across * t.halves_across
        for c in range(group * plane.channels, (group + 1) * plane.channels):
            x = <const real*>plane.first + u // units * plane.sn + c * plane.sc
            for phase in range(phases):
                load(x, plane, down, across, phase, tiles, plane.pitch)
                load(x, plane, down + t.halves_down - 1, across + t.halves_across - 1, phase, tiles + lanes_of(x), plane.pitch)
                columns_forward(t, tiles, plane.pitch, t.columns.n, buffer)
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


cdef void filter_unit(const Task* t, Py_ssize_t unit, real* tile) noexcept nogil:
    """The spectra of one channel of a filter, one for each phase of its taps, which counts with sources or results."""
    cdef Py_ssize_t L = lanes_of(tile), row = t.columns.n * 2 * L, phases = t.w.rows.phases * t.w.columns.phases
    cdef Py_ssize_t C = t.w.channels, c = unit % C, k = unit // C % t.K, g = unit // C // t.K, blocks = t.rows.n // L
    cdef Py_ssize_t pitch = row + LINE // sizeof(real)  # of the one tile
    cdef Py_ssize_t apart = odd(t.results * t.sources) * 2 * L, phase, i, j
    cdef const real* w = <const real*>t.w.first + g * t.part + k * t.w.sn + c * t.w.sc
    cdef real* spectra = <real*>t.spectra + g * spectra_size(t)
    for phase in range(phases):
        memset(tile, 0, blocks * pitch * sizeof(real))
        load(w, &t.w, 0, 0, phase, tile, pitch)
        columns_forward(t, tile, pitch, t.w.columns.length, tile + blocks * pitch)
        i = k * t.sources + c * phases + phase if t.of_sources else (k * phases + phase) * t.sources + c
        for j in range(blocks):
            forward(&t.columns, tile + j * pitch, spectra + j * t.columns.n * apart + i * 2 * L, apart)


# --- forward and input gradient ----------------------------------------------------------------------------------------


cdef void correlate_unit(const Task* t, Py_ssize_t unit, real* tiles) noexcept nogil:
    """A chunk of one group's units."""
    cdef Py_ssize_t L = lanes_of(tiles), row = t.columns.n * 2 * L, blocks = t.rows.n // L
    cdef Py_ssize_t units = t.units_down * t.units_across, group = unit // chunks_of(t), first = unit % chunks_of(t) * t.chunk
    cdef Py_ssize_t count = min(t.chunk, t.N * units - first), slots = count * t.sources, kept = count * t.results
    cdef Py_ssize_t phases = t.y.rows.phases * t.y.columns.phases, i, j, u, k, down, across, half
    cdef const real* spectra = <const real*>t.spectra + group * spectra_size(t)
    cdef const real* bias = <const real*>t.bias
    cdef real* results = tiles if t.in_place else tiles + blocks * t.x.pitch
    cdef real* buffer = results + blocks * t.y.pitch
    cdef real* x_rows = buffer + t.rows.n * 2 * L
    cdef real* sums = x_rows + odd(t.chunk * t.sources) * row
    cdef real* result
    cdef real scale = (<real>1) / (t.rows.n * t.columns.n)
    load_units(t, &t.x, group, first, count, tiles, buffer)
    for j in range(blocks):
        if t.in_place:
            x_rows = sums = tiles + j * t.x.pitch
        for i in range(slots):
            forward(&t.columns, tiles + j * t.x.pitch + i * row, x_rows + i * 2 * L, odd(slots) * 2 * L)
        products(t.columns.n, count, t.results, t.sources, <const real*>x_rows, spectra + j * row * odd(t.results * t.sources),
                 sums)
        for i in range(kept):
            back(&t.columns, <const real*>sums + i * 2 * L, odd(kept) * 2 * L, results + j * t.y.pitch + i * row)
    for i in range(kept):
        u, k = first + i // t.results, group * t.results + i % t.results
        result = results + i * row
        columns_back(t, result, t.y.pitch, t.y.columns.length, buffer)
        for half in range(2):
            down = u % units // t.units_across * t.halves_down + half * (t.halves_down - 1)
            across = u % t.units_across * t.halves_across + half * (t.halves_across - 1)
            store(<const real*>result + half * L, t.y.pitch, scale, bias[k // phases] if bias != NULL else 0, down, across,
                  k % phases, <real*>t.y.first + u // units * t.y.sn + k // phases * t.y.sc, &t.y)


# --- weight gradient ---------------------------------------------------------------------------------------------------


cdef void weight_unit(const Task* t, Py_ssize_t number, real* sums) noexcept nogil:
    """dw of one group by one piece: an equal share of the units of all samples."""
    cdef Py_ssize_t L = lanes_of(sums), row = t.columns.n * 2 * L, blocks = t.rows.n // L
    cdef Py_ssize_t all = t.results * t.sources, apart = odd(all) * 2 * L, block = t.columns.n * apart
    cdef Py_ssize_t phases = t.w.rows.phases * t.w.columns.phases, units = t.N * t.units_down * t.units_across
    cdef Py_ssize_t piece = number % t.pieces, group = number // t.pieces
    cdef Py_ssize_t first = units * piece // t.pieces, last = units * (piece + 1) // t.pieces, unit = first, count, i, j
    cdef real* dw = <real*>t.w.first + piece * t.part + group * t.results * t.w.sn
    cdef real* tiles = sums + blocks * block
    cdef real* dy_tiles = tiles + blocks * t.x.pitch
    cdef real* buffer = dy_tiles + blocks * t.y.pitch
    cdef real* x_rows = buffer + t.rows.n * 2 * L
    cdef real* dy_rows = x_rows + odd(t.chunk * t.sources) * row
    cdef real scale = (<real>1) / (t.rows.n * t.columns.n)
    while unit < last:
        count = min(t.chunk, last - unit)
        load_units(t, &t.x, group, unit, count, tiles, buffer)
        load_units(t, &t.y, group, unit, count, dy_tiles, buffer)
        for j in range(blocks):
            for i in range(count * t.sources):
                forward(&t.columns, tiles + j * t.x.pitch + i * row, x_rows + i * 2 * L, odd(count * t.sources) * 2 * L)
            for i in range(count * t.results):
                forward(&t.columns, dy_tiles + j * t.y.pitch + i * row, dy_rows + i * 2 * L, odd(count * t.results) * 2 * L)
            outer_products(t.columns.n, count, t.results, t.sources, <const real*>x_rows, <const real*>dy_rows,
                           sums + j * block, unit > first)
        unit += count
    for i in range(all):
        for j in range(blocks):
            back(&t.columns, <const real*>sums + j * block + i * 2 * L, apart, tiles + j * t.x.pitch)
        columns_back(t, tiles, t.x.pitch, t.w.columns.length, buffer)
        store(<const real*>tiles, t.x.pitch, scale, <real>0, 0, 0, i % t.sources % phases,
              dw + i // t.sources * t.w.sn + i % t.sources // phases * t.w.sc, &t.w)


# --- from Python -------------------------------------------------------------------------------------------------------


cdef Places make_places(tuple places) except *:
    """From (index [strips][phases][length], runs [strips][phases][2])."""
    cdef const int64_t[:, :, ::1] index = places[0], runs = places[1]
    cdef Places p
    p.index, p.runs = &index[0, 0, 0], &runs[0, 0, 0]
    p.phases, p.length = index.shape[1], index.shape[2]
    return p


cdef Axis make_axis(tuple axis) except *:
    """From (n, radices, twiddles of the kernel's dtype, ...)."""
    cdef const int64_t[::1] radices = axis[1]
    cdef const uint8_t[::1] twiddles = axis[2]
    cdef Axis a
    a.n, a.passes, a.radices, a.twiddles = axis[0], radices.shape[0], &radices[0], &twiddles[0]
    return a


cdef Task make_task(tuple axes, tuple sizes) except *:
    """axes: of rows and of columns (n, radices, twiddles, places of sources, of results, of taps); they outlive the task."""
    cdef Task t
    t.rows, t.columns = make_axis(axes[0]), make_axis(axes[1])
    t.x.rows, t.y.rows, t.w.rows = make_places(axes[0][3]), make_places(axes[0][4]), make_places(axes[0][5])
    t.x.columns, t.y.columns, t.w.columns = make_places(axes[1][3]), make_places(axes[1][4]), make_places(axes[1][5])
    (t.groups, t.sources, t.results, t.chunk, t.halves_down, t.halves_across, t.units_down, t.units_across, t.x.pitch,
     t.y.pitch, t.in_place) = sizes
    return t


cdef void set_pixels(Plane* p, const void* first, Py_ssize_t channels, const Py_ssize_t* strides, Py_ssize_t itemsize,
                     double beyond) noexcept:
    p.first, p.channels, p.beyond = <void*>first, channels, beyond
    p.sn, p.sc, p.sh, p.sw = strides[0] // itemsize, strides[1] // itemsize, strides[2] // itemsize, strides[3] // itemsize


def f32_filters(const float[:, :, :, :, :] w, tuple axes, tuple sizes, bint of_sources, float[::1] spectra,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """Spectra of filters w (groups, results, sources, R, S), whose phases count with the sources or with the results."""
    cdef Task t = make_task(axes, sizes)
    set_pixels(&t.w, &w[0, 0, 0, 0, 0], w.shape[2], w.strides + 1, 4, 0)
    t.K, t.part, t.of_sources, t.spectra = w.shape[1], w.strides[0] // 4, of_sources, &spectra[0]
    with nogil:
        share(<unit_function>filter_unit[float], &t, t.groups * t.K * t.w.channels, <char*>&scratch[0], worker_bytes, workers)


def f32_correlate(const float[:, :, :, :] x, const float[::1] spectra, const float[::1] bias, float[:, :, :, :] y, float beyond,
                  tuple axes, tuple sizes, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """y (N, K, P, Q) from x (N, C, H, W) and the spectra of each group."""
    cdef Task t = make_task(axes, sizes)
    set_pixels(&t.x, &x[0, 0, 0, 0], x.shape[1] // t.groups, x.strides, 4, beyond)
    set_pixels(&t.y, &y[0, 0, 0, 0], y.shape[1] // t.groups, y.strides, 4, 0)
    t.N, t.spectra, t.bias = x.shape[0], <void*>&spectra[0], &bias[0] if bias.shape[0] else NULL
    with nogil:
        share(<unit_function>correlate_unit[float], &t, t.groups * chunks_of(&t), <char*>&scratch[0], worker_bytes, workers)


def f32_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :, ::1] parts, float beyond, tuple axes,
                    tuple sizes, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """parts (pieces, K, C / groups, R, S), to be added up."""
    cdef Task t = make_task(axes, sizes)
    set_pixels(&t.x, &x[0, 0, 0, 0], x.shape[1] // t.groups, x.strides, 4, beyond)
    set_pixels(&t.y, &dy[0, 0, 0, 0], dy.shape[1] // t.groups, dy.strides, 4, 0)
    set_pixels(&t.w, &parts[0, 0, 0, 0, 0], parts.shape[2], parts.strides + 1, 4, 0)
    t.N, t.pieces, t.part = x.shape[0], parts.shape[0], parts.strides[0] // 4
    with nogil:
        share(<unit_function>weight_unit[float], &t, t.groups * t.pieces, <char*>&scratch[0], worker_bytes, workers)


def f64_filters(const double[:, :, :, :, :] w, tuple axes, tuple sizes, bint of_sources, double[::1] spectra,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """Spectra of filters w (groups, results, sources, R, S), whose phases count with the sources or with the results."""
    cdef Task t = make_task(axes, sizes)
    set_pixels(&t.w, &w[0, 0, 0, 0, 0], w.shape[2], w.strides + 1, 8, 0)
    t.K, t.part, t.of_sources, t.spectra = w.shape[1], w.strides[0] // 8, of_sources, &spectra[0]
    with nogil:
        share(<unit_function>filter_unit[double], &t, t.groups * t.K * t.w.channels, <char*>&scratch[0], worker_bytes, workers)


def f64_correlate(const double[:, :, :, :] x, const double[::1] spectra, const double[::1] bias, double[:, :, :, :] y, double beyond,
                  tuple axes, tuple sizes, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """y (N, K, P, Q) from x (N, C, H, W) and the spectra of each group."""
    cdef Task t = make_task(axes, sizes)
    set_pixels(&t.x, &x[0, 0, 0, 0], x.shape[1] // t.groups, x.strides, 8, beyond)
    set_pixels(&t.y, &y[0, 0, 0, 0], y.shape[1] // t.groups, y.strides, 8, 0)
    t.N, t.spectra, t.bias = x.shape[0], <void*>&spectra[0], &bias[0] if bias.shape[0] else NULL
    with nogil:
        share(<unit_function>correlate_unit[double], &t, t.groups * chunks_of(&t), <char*>&scratch[0], worker_bytes, workers)


def f64_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :, ::1] parts, double beyond, tuple axes,
                    tuple sizes, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """parts (pieces, K, C / groups, R, S), to be added up."""
    cdef Task t = make_task(axes, sizes)
    set_pixels(&t.x, &x[0, 0, 0, 0], x.shape[1] // t.groups, x.strides, 8, beyond)
    set_pixels(&t.y, &dy[0, 0, 0, 0], dy.shape[1] // t.groups, dy.strides, 8, 0)
    set_pixels(&t.w, &parts[0, 0, 0, 0, 0], parts.shape[2], parts.strides + 1, 8, 0)
    t.N, t.pieces, t.part = x.shape[0], parts.shape[0], parts.strides[0] // 8
    with nogil:
        share(<unit_function>weight_unit[double], &t, t.groups * t.pieces, <char*>&scratch[0], worker_bytes, workers)
