"""Winograd's minimal filtering: tiles of m x m outputs from POINTS x POINTS pixels, products by frequency.

Called by fastconv/algorithms/winograd.py, which decides variant, blocks and order. Transforms and products are in
simd/winograd_tile.h and simd/winograd_product.h. L is the lanes of a vector, F = POINTS*POINTS.

    v   transformed tiles    [F][tiles / part][C / L][part][L]   a part is what one product takes, or a little less
    u   transformed filters  [K / 2L][F][C][2L]
    m   products             [F][tiles][2L]                      of one block of 2L filters

Two orders of the loops, one sum. Tiles outside: filters are transformed once (packed), then each chunk of tiles on its
own: input, products with every block of filters, output. Filters outside, for few tiles and many filters: all tiles are
transformed once, then each block of filters just before its use, a block of channels at a time, so that its u doesn't go
beyond L2.

Tiles are numbered over (n, phases of the dilation, tile row, tile column): a dilated convolution is one at dilation 1
for each phase, and a phase is no more than other index vectors. Consecutive tiles of one tile row are a run, copied to a
patch [POINTS][columns][L] with the channels as lanes. Index vectors reach to the last tile's end: -1 is the constant, -2
zero. Weight gradients use the same tiles of x and tiles of dy, which play the filters' part with lanes k.

At a stride of 2 a filter is four, of its even and its odd taps along each axis: parities. Each is a convolution at stride 1.
Forward, each reads the pixels of its own parity, as if these were channels of their own, and their products add up. In an
input gradient all read the same tiles of dy, and each makes the pixels of its own parity. u, and v if forward, come once for
each parity: v [F][tiles / part][parities][C / L][part][L], u [K / 2L][parities][F][C][2L]. A filter with a tap less than
the longest is 0 where a frequency is infinite, and is left out there.

Each worker has `worker_bytes` of scratch, 64-byte aligned.
"""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset

from fastconv._kernels.team cimport share, unit_function

ctypedef fused real:
    float
    double

cdef extern from "winograd.h" nogil:
    const int VECTOR_BYTES
    const int WINO_TILES
    void prefetch_lines(const void*, ptrdiff_t)
    void f32_load_columns(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, const float*, float*)
    void f64_load_columns(const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, const double*, double*)
    void f32_store_columns(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, float*)
    void f64_store_columns(const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, double*)
    void f32_wino_product(ptrdiff_t, ptrdiff_t, const float*, ptrdiff_t, ptrdiff_t, const float*, float*, int)
    void f64_wino_product(ptrdiff_t, ptrdiff_t, const double*, ptrdiff_t, ptrdiff_t, const double*, double*, int)
    void f32_wino_input(ptrdiff_t, const float*, ptrdiff_t, float*, ptrdiff_t)
    void f32_wino_filter(ptrdiff_t, ptrdiff_t, ptrdiff_t, const float*, ptrdiff_t, ptrdiff_t, float*, ptrdiff_t)
    void f32_wino_output(ptrdiff_t, ptrdiff_t, const float*, ptrdiff_t, const float*, float*, float*, ptrdiff_t, ptrdiff_t)
    void f64_wino_input(ptrdiff_t, const double*, ptrdiff_t, double*, ptrdiff_t)
    void f64_wino_filter(ptrdiff_t, ptrdiff_t, ptrdiff_t, const double*, ptrdiff_t, ptrdiff_t, double*, ptrdiff_t)
    void f64_wino_output(ptrdiff_t, ptrdiff_t, const double*, ptrdiff_t, const double*, double*, double*, ptrdiff_t, ptrdiff_t)
    const int WINO_ROWS_F32 "(WINO_ROWS_OF(f32))"
    const int WINO_ROWS_F64 "(WINO_ROWS_OF(f64))"
    void f32_wino_outer(ptrdiff_t, const float*, const float*, float*, int)
    void f64_wino_outer(ptrdiff_t, const double*, const double*, double*, int)

BYTES = VECTOR_BYTES
TILES = WINO_TILES
"""Tiles of one product: blocks of tiles are best multiples of it."""
cdef Py_ssize_t RUN = 14  # tiles of one run at the most: its patch stays in L1
LONGEST_RUN = RUN
cdef Py_ssize_t FILTERS = 9 * (16 if VECTOR_BYTES == 64 else 8)
# Filter elements of each lane loaded at a time: whole vectors of some channels of 3x3. Where a transform fills half a
# cache line, those of the other half follow before the line leaves L1.
LOADED = FILTERS


cdef struct Plane:  # one image operand: x, or dy in the weight gradient
    const void* first
    Py_ssize_t channels, width
    Py_ssize_t sn, sc, sh, sw  # strides in elements
    const int64_t* rows  # source row of each padded row, up to the last tile's end, for each phase
    const int64_t* columns
    Py_ssize_t row_length, column_length  # of one phase
    Py_ssize_t left, step  # inside the image, column j of phase b has the source b - left + j*step
    const void* end  # one past the last element


cdef struct Strides:  # in elements
    Py_ssize_t of[4]


cdef struct Parity:  # the taps r, r + stride, .. x s, s + stride, .. of a filter
    Py_ssize_t r, s, rows, columns
    Py_ssize_t p, q  # the row and the column of y where the first tile begins; they may lie before it


cdef struct Task:
    Py_ssize_t points, advance  # pixels of a tile along an axis, and from one tile to the next
    Py_ssize_t stride, parities
    bint adding  # products of the parities add up; else each makes pixels of its own
    Parity parity[4]
    Py_ssize_t N, phases_p, phases_q, tiles_p, tiles_q, tiles
    Py_ssize_t chunk, block_k, block_c  # tiles, blocks of 2L filters, channels
    Py_ssize_t C, K, P, Q, dh, dw, taps
    Plane x, dy
    double cval
    const void* w  # filters (K, C, R, R), or where the weight gradient goes
    const void* w_end
    Strides ws
    bint flip
    const void* bias
    void* y
    Strides ys
    void* u  # as in the picture above, where all workers share them; likewise v, d, sums
    void* v
    void* d
    void* sums  # NULL where each worker has its own, since one chunk is all
    Py_ssize_t start, stop  # tiles of the chunk of a weight gradient
    bint* finite  # set to False where a result isn't


cdef inline Py_ssize_t blocks_of(Py_ssize_t extent, Py_ssize_t block) noexcept nogil:
    return (extent + block - 1) // block


cdef inline Py_ssize_t up(Py_ssize_t extent, Py_ssize_t block) noexcept nogil:
    return (extent + block - 1) // block * block


cdef inline Py_ssize_t lanes_of(const real* _) noexcept nogil:
    return VECTOR_BYTES // sizeof(real)


cdef inline Py_ssize_t padded(Py_ssize_t elements, Py_ssize_t lanes) noexcept nogil:
    """A frequency stride: whole lines, and one more, so that the planes don't fall into the same cache sets."""
    return elements + (64 // (VECTOR_BYTES // lanes) if VECTOR_BYTES < 64 else lanes)


cdef inline void load_columns(const real* x, Py_ssize_t channel, Py_ssize_t lanes, Py_ssize_t count, Py_ssize_t step,
                              const void* end, real* out) noexcept nogil:
    if real is float:
        f32_load_columns(x, channel, lanes, count, step, <const float*>end, out)
    else:
        f64_load_columns(x, channel, lanes, count, step, <const double*>end, out)


cdef inline void store_columns(const real* columns, Py_ssize_t count, Py_ssize_t lanes, Py_ssize_t channel,
                               Py_ssize_t step, real* y) noexcept nogil:
    if real is float:
        f32_store_columns(columns, count, lanes, channel, step, y)
    else:
        f64_store_columns(columns, count, lanes, channel, step, y)


cdef inline void transform_input(Py_ssize_t points, const real* d, Py_ssize_t row, real* v, Py_ssize_t frequency) noexcept nogil:
    if real is float:
        f32_wino_input(points, d, row, v, frequency)
    else:
        f64_wino_input(points, d, row, v, frequency)


cdef inline void transform_filter(Py_ssize_t points, Py_ssize_t rows, Py_ssize_t columns, const real* g, Py_ssize_t row,
                                  Py_ssize_t column, real* u, Py_ssize_t frequency) noexcept nogil:
    if real is float:
        f32_wino_filter(points, rows, columns, g, row, column, u, frequency)
    else:
        f64_wino_filter(points, rows, columns, g, row, column, u, frequency)


cdef inline void transform_output(Py_ssize_t points, Py_ssize_t outputs, const real* m, Py_ssize_t frequency,
                                  const real* start, real* zeros, real* y, Py_ssize_t row, Py_ssize_t column) noexcept nogil:
    if real is float:
        f32_wino_output(points, outputs, m, frequency, start, zeros, y, row, column)
    else:
        f64_wino_output(points, outputs, m, frequency, start, zeros, y, row, column)


cdef inline void product(Py_ssize_t tiles, Py_ssize_t part, const real* v, Py_ssize_t step, Py_ssize_t groups, const real* u,
                         real* m, bint more) noexcept nogil:
    if real is float:
        f32_wino_product(tiles, part, v, step, groups, u, m, more)
    else:
        f64_wino_product(tiles, part, v, step, groups, u, m, more)


cdef inline Py_ssize_t outer_rows(const real* _) noexcept nogil:
    return WINO_ROWS_F32 if real is float else WINO_ROWS_F64


cdef inline void outer(Py_ssize_t tiles, const real* v, const real* d, real* w, bint more) noexcept nogil:
    if real is float:
        f32_wino_outer(tiles, v, d, w, more)
    else:
        f64_wino_outer(tiles, v, d, w, more)


# --- tiles -------------------------------------------------------------------------------------------------------------


cdef struct Run:  # consecutive tiles of one tile row
    Py_ssize_t n, a, b, tp, tq, length


cdef inline Run run_at(Py_ssize_t tile, Py_ssize_t last, const Task* t) noexcept nogil:
    cdef Run run
    run.tq, tile, last = tile % t.tiles_q, tile // t.tiles_q, last - tile
    run.length = min(min(t.tiles_q - run.tq, last), RUN)
    run.tp, tile = tile % t.tiles_p, tile // t.tiles_p
    run.b, tile = tile % t.phases_q, tile // t.phases_q
    run.a, run.n = tile % t.phases_p, tile // t.phases_p
    return run


cdef inline Py_ssize_t part_of(Py_ssize_t tiles) noexcept nogil:
    """Tiles of one product: equal parts, 16 tiles as 8 + 8, not 14 + 2."""
    return blocks_of(tiles, blocks_of(tiles, WINO_TILES))


# --- patches -----------------------------------------------------------------------------------------------------------


cdef void load_patch(const real* x, const Plane* plane, real cval, Py_ssize_t lanes, Run run, Py_ssize_t advance, Py_ssize_t rows,
                     Py_ssize_t columns, real* patch) noexcept nogil:
    """patch[i][j][l] = padded[l, u0 + i, v0 + j] for the `lanes` channels from x on; zeros for the other lanes.

    (u0, v0) is where the run begins, in the padded image of its phase.
    """
    cdef Py_ssize_t L = lanes_of(x), i, j, l, h, w, u0 = run.tp * advance, v0 = run.tq * advance
    cdef const int64_t* row_of = plane.rows + run.a * plane.row_length
    cdef const int64_t* column_of = plane.columns + run.b * plane.column_length
    cdef Py_ssize_t origin = run.b - plane.left
    cdef Py_ssize_t inside = min(max(blocks_of(max(-origin, 0), plane.step), v0), v0 + columns)
    cdef Py_ssize_t outside = min(max(blocks_of(max(plane.width - origin, 0), plane.step), inside), v0 + columns)
    cdef Py_ssize_t along = plane.step * plane.sw
    cdef const real* row
    cdef const real* pixel
    cdef real* out
    for i in range(rows):
        out = patch + i * columns * L
        h = row_of[u0 + i]
        if h < 0:
            for j in range(columns):
                w = column_of[v0 + j]
                for l in range(L):
                    out[j * L + l] = cval if l < lanes and h == -1 and w >= -1 else 0
            continue
        row = x + h * plane.sh
        for j in range(columns):
            if v0 + j == inside:  # the middle of the row is done below
                if outside - v0 >= columns:
                    break
            if inside <= v0 + j < outside:
                continue
            w = column_of[v0 + j]
            for l in range(L):
                if l >= lanes or w < -1:
                    out[j * L + l] = 0
                else:
                    out[j * L + l] = cval if w < 0 else row[l * plane.sc + w * plane.sw]
        pixel = row + (origin + inside * plane.step) * plane.sw
        out += (inside - v0) * L
        if 0 < along < L:
            load_columns(pixel, plane.sc, lanes, outside - inside, along, plane.end, out)
        elif plane.sc == 1 and lanes == L:
            for j in range(outside - inside):
                memcpy(out + j * L, pixel + j * along, L * sizeof(real))
        else:
            for j in range(outside - inside):
                for l in range(lanes):
                    out[j * L + l] = pixel[l * plane.sc + j * along]
                for l in range(lanes, L):
                    out[j * L + l] = 0


cdef inline Py_ssize_t groups_of(const Task* t, const real* _) noexcept nogil:
    """Vectors of channels in v."""
    return blocks_of(t.C, lanes_of(_)) * (t.parities if t.adding else 1)


cdef void input_tiles(const Task* t, Py_ssize_t first, Py_ssize_t last, Py_ssize_t base, Py_ssize_t part, real* v,
                      Py_ssize_t frequency, real* patch) noexcept nogil:
    """Transform tiles first..last of all channels; v begins with tile `base`."""
    cdef Py_ssize_t L = lanes_of(v), tile = first, c, i, j, place, groups = groups_of(t, v), own = blocks_of(t.C, L), columns
    cdef Py_ssize_t parity
    cdef const real* x = <const real*>t.x.first
    cdef Run run
    cdef real* to
    while tile < last:
        run = run_at(tile, last, t)
        columns = (run.length - 1) * t.advance + t.points
        for i in range(groups):
            c = i * own // groups  # all parities of some channels, then the next channels
            parity = i - c * (groups // own)
            if t.adding:
                run.a, run.b = t.parity[parity].r, t.parity[parity].s
            load_patch(x + run.n * t.x.sn + c * L * t.x.sc, &t.x, <real>t.cval, min(L, t.C - c * L), run, t.advance,
                       t.points, columns, patch)
            place = (tile - base) % part
            to = v + ((tile - base) // part * groups + parity * own + c) * part * L
            for j in range(run.length):
                transform_input(t.points, <const real*>patch + j * t.advance * L, columns * L, to + place * L, frequency)
                place += 1
                if place == part:
                    place = 0
                    to += groups * part * L
        tile += run.length


cdef void filter_block(const Task* t, const Parity* parity, Py_ssize_t k0, Py_ssize_t c0, Py_ssize_t c1, real* u,
                       Py_ssize_t frequency, real* g) noexcept nogil:
    """Transform filters k0..k0+2L, channels c0..c1 (zeros from C on) to u[.][0..c1-c0][2L].

    Filters are loaded to g [channels][R][R][L], where they lie one after another as many channels at a time as fit there.
    To flip them is to read g from its end.
    """
    cdef Py_ssize_t L = lanes_of(u), R = t.taps, taps = R * R, c = c0, i, r, s, l, f, half, lanes, count
    cdef const Py_ssize_t* ws = &t.ws.of[0]
    cdef bint dense = ws[3] == 1 and ws[2] == R, rows = dense and ws[1] == taps
    cdef Py_ssize_t first = parity.r * R + parity.s, column = t.stride * L
    cdef const real* at
    if t.flip:
        first += ((parity.rows - 1) * R + parity.columns - 1) * t.stride
        column = -column
    while c < c1:
        count = max(min(FILTERS // taps if rows else 1, min(t.C, c1) - c), 1)
        for half in range(2):
            lanes = min(max(t.K - k0 - half * L, 0), L) if c < t.C else 0
            if lanes == 0:
                for f in range(t.points * t.points):
                    for i in range(count):
                        memset(u + f * frequency + (c - c0 + i) * 2 * L + half * L, 0, L * sizeof(real))
                continue
            at = <const real*>t.w + (k0 + half * L) * ws[0] + c * ws[1]
            if dense:
                load_columns(at, ws[0], lanes, count * taps, 1, t.w_end, g)
                if not rows:
                    prefetch_lines(at + 2 * ws[1], L * taps * sizeof(real))
            else:
                for r in range(R):
                    for s in range(R):
                        for l in range(L):
                            g[(r * R + s) * L + l] = at[l * ws[0] + r * ws[2] + s * ws[3]] if l < lanes else 0
            for i in range(count):
                if rows and i < lanes:  # what the next channels of one filter will need
                    prefetch_lines(at + i * ws[0] + count * taps, count * taps * sizeof(real))
                transform_filter(t.points, parity.rows, parity.columns, <const real*>g + (first + i * taps) * L, R * column,
                                 column, u + (c - c0 + i) * 2 * L + half * L, frequency)
        c += count


cdef void output_tiles(const Task* t, const Parity* parity, Py_ssize_t beside, const real* m, Py_ssize_t frequency,
                       Py_ssize_t first, Py_ssize_t last, Py_ssize_t k0, real* rows) noexcept nogil:
    """Tiles first..last of filters k0..k0+2L out to y.

    rows: scratch [2][m][RUN*m*beside][L]. `beside`: parities whose columns lie side by side, each with an m of its own."""
    cdef Py_ssize_t L = lanes_of(m), tile = first, half, halves = 2 if t.K - k0 > L else 1, lanes, i, a, j, p, q, outside
    cdef Py_ssize_t line = RUN * t.advance * beside * L, apart = t.dw // beside, step = apart * t.ys.of[3]
    cdef Py_ssize_t products = t.points * t.points * frequency, left = parity.q
    cdef const Py_ssize_t* ys = &t.ys.of[0]
    cdef const real* bias = <const real*>t.bias
    cdef real start[32]
    cdef real zeros[16]
    cdef Run run
    cdef real* out
    cdef const real* at
    for j in range(2 * L):
        start[j] = bias[k0 + j] if bias != NULL and k0 + j < t.K else 0
    memset(zeros, 0, sizeof(zeros))
    for j in range(beside):
        left = min(left, parity[j].q)
    while tile < last:
        run = run_at(tile, last, t)
        q = run.b + left + run.tq * t.advance * t.dw
        outside = max(blocks_of(-q, apart), 0)  # columns before the first of y
        for i in range(run.length):
            for half in range(halves):
                for j in range(beside):
                    transform_output(t.points, t.advance, m + j * products + (2 * (tile - first + i) + half) * L, frequency,
                                     <const real*>start + half * L, zeros, rows + half * t.advance * line
                                     + (i * t.advance * beside + parity[j].q - left) * L, line, beside * L)
        for half in range(halves):
            lanes = min(t.K - k0 - half * L, L)
            for a in range(t.advance):
                p = run.a + parity.p + (run.tp * t.advance + a) * t.dh
                if p < 0 or p >= t.P:
                    continue
                at = <const real*>rows + (half * t.advance + a) * line
                out = <real*>t.y + run.n * ys[0] + (k0 + half * L) * ys[1] + p * ys[2] + q * ys[3]
                put_row(t, at + outside * L, min(run.length * t.advance * beside, blocks_of(t.Q - q, apart)) - outside, lanes,
                        step, out + outside * step)
        tile += run.length
    report(t, <const real*>zeros)


cdef inline void report(const Task* t, const real* zeros) noexcept nogil:
    """Has anything come out that is not finite? Then these are no zeros."""
    cdef Py_ssize_t l
    for l in range(lanes_of(zeros)):
        if zeros[l] != 0:
            t.finite[0] = False


cdef inline void put_row(const Task* t, const real* row, Py_ssize_t count, Py_ssize_t lanes, Py_ssize_t step,
                         real* out) noexcept nogil:
    cdef Py_ssize_t L = lanes_of(row), j
    if t.ys.of[1] == 1 and lanes == L:
        for j in range(count):
            memcpy(out + j * step, row + j * L, L * sizeof(real))
    else:
        store_columns(row, count, lanes, t.ys.of[1], step, out)


cdef inline Py_ssize_t outputs_of(const Task* t) noexcept nogil:
    """Parities whose products wait for each other, to be put side by side."""
    return 1 if t.adding or t.parities == 1 else 2


cdef inline Py_ssize_t together(const Task* t, Py_ssize_t i) noexcept nogil:
    """Parities from i on whose products make one output: all, or those of one parity of the rows."""
    cdef Py_ssize_t n = 1
    while i + n < t.parities and (t.adding or t.parity[i + n].p == t.parity[i].p):
        n += 1
    return n


cdef inline void products(const Task* t, const Parity* parity, Py_ssize_t tiles, const real* v, Py_ssize_t fv, Py_ssize_t groups,
                          const real* u, Py_ssize_t fu, real* m, Py_ssize_t fm, bint more) noexcept nogil:
    """m (+)= u v for so many groups of channels, at each frequency where the filters of this parity are not 0."""
    cdef Py_ssize_t last = t.points - 1, longest = t.points - t.advance + 1, i, j, f, L = lanes_of(u), part = part_of(tiles)
    for f in range(t.points * t.points):
        i, j = f // t.points, f % t.points
        if (i == last and parity.rows < longest) or (j == last and parity.columns < longest):
            if not more:
                memset(m + f * fm, 0, tiles * 2 * L * sizeof(real))
        else:
            product(tiles, part, v + f * fv, groups_of(t, u) * part * L, groups, u + f * fu, m + f * fm, more)


# --- forward -----------------------------------------------------------------------------------------------------------


cdef void tiles_outside_unit(const Task* t, Py_ssize_t unit, real* scratch) noexcept nogil:
    """One chunk of tiles: input, products with every block of filters, output."""
    cdef Py_ssize_t L = lanes_of(scratch), F = t.points * t.points, first = unit * t.chunk, last = min(first + t.chunk, t.tiles)
    cdef Py_ssize_t own = blocks_of(t.C, L), groups = groups_of(t, scratch), part = part_of(last - first), k, i, j, count
    cdef Py_ssize_t fv = padded(up(t.chunk, WINO_TILES) * groups * L, L)
    cdef Py_ssize_t fu = padded(own * L * 2 * L, L), fm = padded(t.chunk * 2 * L, L)
    cdef const real* u = <const real*>t.u
    cdef real* v = scratch
    cdef real* m = v + F * fv
    cdef real* patch = m + outputs_of(t) * F * fm  # serves input, then output
    input_tiles(t, first, last, first, part, v, fv, patch)
    for k in range(blocks_of(t.K, 2 * L)):
        i = 0
        while i < t.parities:
            count = together(t, i)
            for j in range(i, i + count):
                products(t, &t.parity[j], last - first, <const real*>v + (j * own * part * L if t.adding else 0), fv, own,
                         u + (k * t.parities + j) * F * fu, fu, m + (0 if t.adding else (j - i) * F * fm), fm,
                         t.adding and j > 0)
            output_tiles(t, &t.parity[i], 1 if t.adding else count, <const real*>m, fm, first, last, k * 2 * L, patch)
            i += count


cdef void pack_unit(const Task* t, Py_ssize_t unit, real* scratch) noexcept nogil:
    """The u of one block of filters, of one parity, for tiles_outside_unit."""
    cdef Py_ssize_t L = lanes_of(scratch), c = up(t.C, L), fu = padded(c * 2 * L, L)
    filter_block(t, &t.parity[unit % t.parities], unit // t.parities * 2 * L, 0, c,
                 <real*>t.u + unit * t.points * t.points * fu, fu, scratch)


cdef void input_unit(const Task* t, Py_ssize_t unit, real* scratch) noexcept nogil:
    """RUN tiles into the v that all workers share, for filters_outside_unit."""
    cdef Py_ssize_t L = lanes_of(scratch), first = unit * RUN
    input_tiles(t, first, min(first + RUN, t.tiles), 0, part_of(t.tiles), <real*>t.v,
                padded(up(t.tiles, WINO_TILES) * groups_of(t, scratch) * L, L), scratch)


cdef void filters_outside_unit(const Task* t, Py_ssize_t k, real* scratch) noexcept nogil:
    """One block of filters, transformed by blocks of channels just before their products with all tiles."""
    cdef Py_ssize_t L = lanes_of(scratch), F = t.points * t.points, own = up(t.C, L), part = part_of(t.tiles)
    cdef Py_ssize_t fv = padded(up(t.tiles, WINO_TILES) * groups_of(t, scratch) * L, L)
    cdef Py_ssize_t fu = padded(t.block_c * 2 * L, L), fm = padded(t.tiles * 2 * L, L)
    cdef const real* v = <const real*>t.v
    cdef real* u = scratch
    cdef real* m = u + F * fu
    cdef real* patch = m + outputs_of(t) * F * fm
    cdef Py_ssize_t i, j, count, c0, c1
    i = 0
    while i < t.parities:
        count = together(t, i)
        for j in range(i, i + count):
            c0 = 0
            while c0 < own:
                c1 = min(c0 + t.block_c, own)
                filter_block(t, &t.parity[j], k * 2 * L, c0, c1, u, fu, patch)
                products(t, &t.parity[j], t.tiles, v + ((j * own if t.adding else 0) + c0) * part, fv, (c1 - c0) // L,
                         <const real*>u, fu, m + (0 if t.adding else (j - i) * F * fm), fm, c0 > 0 or (t.adding and j > 0))
                c0 = c1
        output_tiles(t, &t.parity[i], 1 if t.adding else count, <const real*>m, fm, 0, t.tiles, k * 2 * L, patch)
        i += count


# --- weight gradient: dw = A^T [sum over tiles of (B^T x B) * (G dy G^T)] A, dy tiles in the filters' part --------------
#
#     d   transformed tiles of dy   [F][K / 2L][chunk][2L]
#     sums                          [block_k][F][block_c][2L]    of block_k * 2L filters and block_c channels: in L2


cdef void dy_tiles(const Task* t, Py_ssize_t first, Py_ssize_t last, real* patch) noexcept nogil:
    """Transform tiles first..last of all filters of dy; d begins with tile `start`."""
    cdef Py_ssize_t L = lanes_of(patch), tile = first, k, half, i, columns, size
    cdef Py_ssize_t frequency = padded(blocks_of(t.K, 2 * L) * 2 * t.chunk * L, L)
    cdef const real* dy = <const real*>t.dy.first
    cdef real* d = <real*>t.d
    cdef Run run
    cdef real* to
    while tile < last:
        run = run_at(tile, last, t)
        columns = run.length * t.advance
        size = t.advance * columns * L
        for k in range(blocks_of(t.K, 2 * L)):
            for half in range(2):
                load_patch(dy + run.n * t.dy.sn + (2 * k + half) * L * t.dy.sc, &t.dy, <real>0,
                           max(min(L, t.K - (2 * k + half) * L), 0), run, t.advance, t.advance, columns, patch + half * size)
            to = d + (k * t.chunk + tile - t.start) * 2 * L
            for i in range(run.length):
                for half in range(2):
                    transform_filter(t.points, t.advance, t.advance, <const real*>patch + half * size + i * t.advance * L,
                                     columns * L, L, to + (2 * i + half) * L, frequency)
        tile += run.length


cdef void weight_tiles_unit(const Task* t, Py_ssize_t unit, real* scratch) noexcept nogil:
    """RUN tiles of x and of dy."""
    cdef Py_ssize_t L = lanes_of(scratch), first = t.start + unit * RUN, last = min(first + RUN, t.stop)
    input_tiles(t, first, last, t.start, t.chunk, <real*>t.v, padded(blocks_of(t.C, L) * t.chunk * L, L), scratch)
    dy_tiles(t, first, last, scratch)


cdef void weight_sums_unit(const Task* t, Py_ssize_t unit, real* scratch) noexcept nogil:
    """One block of channels and filters: add the tiles of a chunk; after the last, transform to dw."""
    cdef Py_ssize_t L = lanes_of(scratch), F = t.points * t.points, groups = blocks_of(t.C, L), group = t.chunk * L
    cdef Py_ssize_t c_blocks = blocks_of(t.C, t.block_c), c0 = unit % c_blocks * t.block_c
    cdef Py_ssize_t c1 = min(c0 + t.block_c, groups * L), k0 = unit // c_blocks * t.block_k
    cdef Py_ssize_t k1 = min(k0 + t.block_k, blocks_of(t.K, 2 * L)), R = t.taps, fs = padded(t.block_c * 2 * L, L)
    cdef Py_ssize_t fv = padded(groups * group, L), fd = padded(blocks_of(t.K, 2 * L) * 2 * group, L)
    cdef Py_ssize_t f, i, c, k, half, lanes, l, count, step = outer_rows(scratch)
    cdef const Py_ssize_t* ws = &t.ws.of[0]
    cdef const real* v = <const real*>t.v
    cdef const real* d = <const real*>t.d
    cdef real start[16]
    cdef real zeros[16]
    cdef const real* sum
    cdef real* sums = scratch
    cdef real* out
    scratch += t.block_k * F * fs
    if t.sums != NULL:
        sums = <real*>t.sums + unit * t.block_k * F * fs
    for f in range(F):
        for k in range(k0, k1):
            for i in range((c1 - c0) // step):
                c = c0 + i * step
                outer(t.stop - t.start, v + f * fv + c // L * group + c % L, d + f * fd + k * 2 * group,
                      sums + ((k - k0) * F + f) * fs + i * step * 2 * L, t.start > 0)
    if t.stop < t.tiles:
        return
    memset(start, 0, sizeof(start))
    memset(zeros, 0, sizeof(zeros))
    for k in range(2 * k0, 2 * k1):  # vectors of filters
        half = k % 2
        lanes = min(t.K - k * L, L)
        if lanes <= 0:
            break
        for c in range(c0 // L, c1 // L):
            count = min(L, t.C - c * L)
            sum = <const real*>sums + (k // 2 - k0) * F * fs + (c * L - c0) * 2 * L + half * L
            for i in range(count):
                transform_output(t.points, R, sum + i * 2 * L, fs, <const real*>start, zeros, scratch + i * R * R * L, R * L, L)
            out = <real*>t.w + k * L * ws[0] + c * L * ws[1]
            if ws[3] == 1 and ws[2] == R and ws[1] == R * R:
                store_columns(<const real*>scratch, count * R * R, lanes, ws[0], 1, out)
            else:
                for i in range(count * R * R):
                    for l in range(lanes):
                        out[l * ws[0] + i // (R * R) * ws[1] + i // R % R * ws[2] + i % R * ws[3]] = scratch[i * L + l]
    report(t, <const real*>zeros)


# --- entries, one for each dtype. Arrays of any strides; bias: empty for none; sizes and index vectors as --------------
# --- fastconv/algorithms/winograd.py makes them. True: all of the result is finite -------------------------------------


cdef inline Strides elements(const Py_ssize_t* strides, Py_ssize_t itemsize) noexcept:
    cdef Strides s
    cdef int i
    for i in range(4):
        s.of[i] = strides[i] // itemsize
    return s


cdef inline const void* end_of(const void* first, const Py_ssize_t* shape, const Py_ssize_t* strides, Py_ssize_t itemsize) noexcept:
    """One past the highest element: what lies between two elements of an array is memory of its own buffer."""
    cdef const char* end = <const char*>first + itemsize
    cdef int i
    for i in range(4):
        if strides[i] > 0:
            end += (shape[i] - 1) * strides[i]
    return end


cdef Plane make_plane(const void* first, const Py_ssize_t* shape, const Py_ssize_t* strides, Py_ssize_t itemsize,
                      const int64_t[:, ::1] rows, const int64_t[:, ::1] columns, Py_ssize_t left, Py_ssize_t step) except *:
    cdef Plane plane
    cdef Strides s = elements(strides, itemsize)
    plane.first, plane.width = first, shape[3]
    plane.sn, plane.sc, plane.sh, plane.sw = s.of[0], s.of[1], s.of[2], s.of[3]
    plane.rows, plane.columns = &rows[0, 0], &columns[0, 0]
    plane.row_length, plane.column_length = rows.shape[1], columns.shape[1]
    plane.left, plane.step = left, step
    plane.end = end_of(first, shape, strides, itemsize)
    return plane


cdef Task make_task(Py_ssize_t channels, tuple sizes) except *:
    cdef Task t
    cdef Parity* p
    cdef Py_ssize_t i
    (t.points, t.advance, t.N, t.phases_p, t.phases_q, t.tiles_p, t.tiles_q, t.chunk, t.block_k, t.block_c, t.K, t.P,
     t.Q, t.dh, t.dw, t.taps, t.stride, t.adding, parities) = sizes
    t.parities = len(parities)
    for i in range(t.parities):
        p = &t.parity[i]
        p.r, p.s, p.rows, p.columns, p.p, p.q = parities[i]
    t.C, t.tiles = channels, t.N * t.phases_p * t.phases_q * t.tiles_p * t.tiles_q
    return t


cdef inline Py_ssize_t step_of(const Task* t) noexcept:
    """Columns of x from one of a phase, or of a parity, to the next."""
    if t.stride == 1:
        return t.dw
    return t.stride if t.adding else 1


cdef void set_filters(Task* t, const void* w, const Py_ssize_t* shape, const Py_ssize_t* strides, Py_ssize_t itemsize,
                      bint flip) noexcept:
    t.w, t.w_end, t.ws, t.flip = w, end_of(w, shape, strides, itemsize), elements(strides, itemsize), flip


cdef void set_result(Task* t, const real[::1] bias, real[:, :, :, :] y) noexcept:
    t.bias = &bias[0] if bias.shape[0] else NULL
    t.y, t.ys = &y[0, 0, 0, 0], elements(y.strides, sizeof(real))


cdef void pack(const real[:, :, :, :] w, bint flip, tuple sizes, real[::1] u, uint8_t[::1] scratch, Py_ssize_t worker_bytes,
               int workers) except *:
    """w (K, C, R, R) to blocks of 2L transformed filters; flip turns them by 180 degrees."""
    cdef Task t = make_task(w.shape[1], sizes)
    set_filters(&t, &w[0, 0, 0, 0], w.shape, w.strides, sizeof(real), flip)
    t.u = &u[0]
    with nogil:
        share(<unit_function>pack_unit[real], &t, blocks_of(t.K, 2 * VECTOR_BYTES // <Py_ssize_t>sizeof(real)) * t.parities,
              <char*>&scratch[0], worker_bytes, workers)


cdef bint tiles_outside(const real[:, :, :, :] x, const real[::1] u, const real[::1] bias, real[:, :, :, :] y, real cval,
                        tuple sizes, const int64_t[:, ::1] rows, const int64_t[:, ::1] columns, Py_ssize_t left,
                        uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers) except -1:
    cdef Task t = make_task(x.shape[1], sizes)
    cdef bint finite = True
    t.x = make_plane(&x[0, 0, 0, 0], x.shape, x.strides, sizeof(real), rows, columns, left, step_of(&t))
    t.cval, t.u, t.finite = cval, <void*>&u[0], &finite
    set_result(&t, bias, y)
    with nogil:
        share(<unit_function>tiles_outside_unit[real], &t, blocks_of(t.tiles, t.chunk), <char*>&scratch[0], worker_bytes,
              workers)
    return finite


cdef bint filters_outside(const real[:, :, :, :] x, const real[:, :, :, :] w, bint flip, const real[::1] bias,
                          real[:, :, :, :] y, real cval, tuple sizes, const int64_t[:, ::1] rows,
                          const int64_t[:, ::1] columns, Py_ssize_t left, real[::1] v, uint8_t[::1] scratch,
                          Py_ssize_t worker_bytes, int workers) except -1:
    cdef Task t = make_task(x.shape[1], sizes)
    cdef bint finite = True
    t.x = make_plane(&x[0, 0, 0, 0], x.shape, x.strides, sizeof(real), rows, columns, left, step_of(&t))
    t.cval, t.v, t.finite = cval, &v[0], &finite
    set_filters(&t, &w[0, 0, 0, 0], w.shape, w.strides, sizeof(real), flip)
    set_result(&t, bias, y)
    with nogil:
        share(<unit_function>input_unit[real], &t, blocks_of(t.tiles, RUN), <char*>&scratch[0], worker_bytes, workers)
        share(<unit_function>filters_outside_unit[real], &t, blocks_of(t.K, 2 * VECTOR_BYTES // <Py_ssize_t>sizeof(real)),
              <char*>&scratch[0], worker_bytes, workers)
    return finite


cdef bint weight_grad(const real[:, :, :, :] x, const real[:, :, :, :] dy, real[:, :, :, :] dw, real cval, tuple sizes,
                      const int64_t[:, ::1] rows, const int64_t[:, ::1] columns, Py_ssize_t left,
                      const int64_t[:, ::1] dy_rows, const int64_t[:, ::1] dy_columns, real[::1] v, real[::1] d,
                      real[::1] sums, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers) except -1:
    """dw (K, C, R, R) of one group; sums: of problems of several chunks, else one element."""
    cdef Task t = make_task(x.shape[1], sizes)
    cdef bint finite = True
    cdef Py_ssize_t i, pair = 2 * VECTOR_BYTES // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t blocks = blocks_of(t.C, t.block_c) * blocks_of(t.K, t.block_k * pair)
    t.x = make_plane(&x[0, 0, 0, 0], x.shape, x.strides, sizeof(real), rows, columns, left, t.dw)
    t.dy = make_plane(&dy[0, 0, 0, 0], dy.shape, dy.strides, sizeof(real), dy_rows, dy_columns, 0, t.dw)
    t.cval, t.v, t.d, t.sums, t.finite = cval, &v[0], &d[0], &sums[0] if t.chunk < t.tiles else NULL, &finite
    set_filters(&t, &dw[0, 0, 0, 0], dw.shape, dw.strides, sizeof(real), False)
    with nogil:
        for i in range(blocks_of(t.tiles, t.chunk)):
            t.start, t.stop = i * t.chunk, min((i + 1) * t.chunk, t.tiles)
            share(<unit_function>weight_tiles_unit[real], &t, blocks_of(t.stop - t.start, RUN), <char*>&scratch[0],
                  worker_bytes, workers)
            share(<unit_function>weight_sums_unit[real], &t, blocks, <char*>&scratch[0], worker_bytes, workers)
    return finite


def f32_pack(const float[:, :, :, :] w, bint flip, tuple sizes, float[::1] u, uint8_t[::1] scratch,
             Py_ssize_t worker_bytes, int workers):
    pack[float](w, flip, sizes, u, scratch, worker_bytes, workers)


def f32_tiles_outside(const float[:, :, :, :] x, const float[::1] u, const float[::1] bias, float[:, :, :, :] y, float cval,
                      tuple sizes, const int64_t[:, ::1] rows, const int64_t[:, ::1] columns, Py_ssize_t left,
                      uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    return tiles_outside[float](x, u, bias, y, cval, sizes, rows, columns, left, scratch, worker_bytes, workers)


def f32_filters_outside(const float[:, :, :, :] x, const float[:, :, :, :] w, bint flip, const float[::1] bias,
                        float[:, :, :, :] y, float cval, tuple sizes, const int64_t[:, ::1] rows,
                        const int64_t[:, ::1] columns, Py_ssize_t left, float[::1] v, uint8_t[::1] scratch,
                        Py_ssize_t worker_bytes, int workers):
    return filters_outside[float](x, w, flip, bias, y, cval, sizes, rows, columns, left, v, scratch, worker_bytes, workers)


def f32_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :] dw, float cval, tuple sizes,
                    const int64_t[:, ::1] rows, const int64_t[:, ::1] columns, Py_ssize_t left,
                    const int64_t[:, ::1] dy_rows, const int64_t[:, ::1] dy_columns, float[::1] v, float[::1] d,
                    float[::1] sums, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    return weight_grad[float](x, dy, dw, cval, sizes, rows, columns, left, dy_rows, dy_columns, v, d, sums, scratch,
                              worker_bytes, workers)


def f64_pack(const double[:, :, :, :] w, bint flip, tuple sizes, double[::1] u, uint8_t[::1] scratch,
             Py_ssize_t worker_bytes, int workers):
    pack[double](w, flip, sizes, u, scratch, worker_bytes, workers)


def f64_tiles_outside(const double[:, :, :, :] x, const double[::1] u, const double[::1] bias, double[:, :, :, :] y, double cval,
                      tuple sizes, const int64_t[:, ::1] rows, const int64_t[:, ::1] columns, Py_ssize_t left,
                      uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    return tiles_outside[double](x, u, bias, y, cval, sizes, rows, columns, left, scratch, worker_bytes, workers)


def f64_filters_outside(const double[:, :, :, :] x, const double[:, :, :, :] w, bint flip, const double[::1] bias,
                        double[:, :, :, :] y, double cval, tuple sizes, const int64_t[:, ::1] rows,
                        const int64_t[:, ::1] columns, Py_ssize_t left, double[::1] v, uint8_t[::1] scratch,
                        Py_ssize_t worker_bytes, int workers):
    return filters_outside[double](x, w, flip, bias, y, cval, sizes, rows, columns, left, v, scratch, worker_bytes, workers)


def f64_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :] dw, double cval, tuple sizes,
                    const int64_t[:, ::1] rows, const int64_t[:, ::1] columns, Py_ssize_t left,
                    const int64_t[:, ::1] dy_rows, const int64_t[:, ::1] dy_columns, double[::1] v, double[::1] d,
                    double[::1] sums, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    return weight_grad[double](x, dy, dw, cval, sizes, rows, columns, left, dy_rows, dy_columns, v, d, sums, scratch,
                               worker_bytes, workers)
