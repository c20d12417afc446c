"""Convolution as a product of matrices, in all three directions: implicit GEMM, and the textbook's im2col beside it.

Called by fastconv/algorithms/gemm.py and im2col.py, which decide block sizes. Knows no cost, choice or padding rule.

Every array is a matrix over two axes, and an axis is three nested loops, each with a stride:

    filters   (k)          channels and taps   (c, r, s), or (r, s, c) where channels lie side by side
    pixels    (n, p, q)

    forward       y[k, npq]  = sum_crs w[k, crs] * windows[crs, npq]
    weight_grad   dw[k, crs] = sum_npq dy[k, npq] * windows[crs, npq]
    input_grad    forward with turned filters (fastconv/algorithms/phases.py)

The windows are a matrix as well: element (c, r, s; n, p, q) is x[n, c, rows[p*sh + r*dh], columns[q*sw + s*dw]] or the
constant. They never exist as a whole: where they stay inside the image, they are the image, with other strides; where
they leave it, a patch of it is copied with its padding, as much as is needed at a time, and they are that. So each
element of each matrix lies at an offset along one axis plus an offset along the other. multiply() cuts a product
C (rows x lanes) = A (rows x depth) B (depth x lanes) as

    for a block of the depth:          b: panels [depth][GEMM_N] of a part of the lanes, packed
        for a group of the rows:       A is read where it lies, along the depth; other rows are copied (copy_rows)
            for a panel of lanes:      the tile of simd/gemm_tile.h, straight into C where C's lanes lie side by side,
                                       else by way of put, transposed where its rows do

Which operand is A and which is B is the caller's choice: a product and its transpose add up the same terms in the same
order. Each element of C is summed in depth blocks, which the problem alone settles, so its bytes depend neither on how
C is cut into units of work nor on the other elements.

Each worker has `worker_bytes` of scratch, 64-byte aligned.
"""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastconv._kernels.team cimport share, unit_function
from windows cimport Geometry, gather_windows, scatter_windows, summand

cdef extern from "tiles.h" nogil:
    const int GEMM_M
    const int GEMM_VECTORS
    const int GEMM_UNIT
    const int GEMM_GROUP
    const int GEMM_DEPTH_BYTES
    const int VECTOR_BYTES
    void prefetch(const void*, ptrdiff_t)
    void prefetch_to_write(const void*, ptrdiff_t)
    void f32_gemm_tile(ptrdiff_t, ptrdiff_t, ptrdiff_t, const float*, const ptrdiff_t*, const ptrdiff_t*, const float*,
                       const float*, float*, const ptrdiff_t*)
    void f32_copy(const float*, ptrdiff_t, float*)
    void f32_copy_padded(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, float, float*)
    void f32_add(const float*, ptrdiff_t, float*)
    int f32_run_finite "f32_finite"(const float*, ptrdiff_t)
    void f32_put_every_2(const float*, ptrdiff_t, float*, int)
    void f32_copy_runs(const float*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, float*)
    void f32_zip_row(const float*, ptrdiff_t, const float*, ptrdiff_t, float*)
    void f32_put_turned(const float*, ptrdiff_t, ptrdiff_t, const float*, float*, ptrdiff_t)
    void f32_transpose_rows(const float*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, const float*, float*,
                            const ptrdiff_t*)
    void f64_gemm_tile(ptrdiff_t, ptrdiff_t, ptrdiff_t, const double*, const ptrdiff_t*, const ptrdiff_t*, const double*,
                       const double*, double*, const ptrdiff_t*)
    void f64_copy(const double*, ptrdiff_t, double*)
    void f64_copy_padded(const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t, double, double*)
    void f64_add(const double*, ptrdiff_t, double*)
    int f64_run_finite "f64_finite"(const double*, ptrdiff_t)
    void f64_put_every_2(const double*, ptrdiff_t, double*, int)
    void f64_copy_runs(const double*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, double*)
    void f64_zip_row(const double*, ptrdiff_t, const double*, ptrdiff_t, double*)
    void f64_put_turned(const double*, ptrdiff_t, ptrdiff_t, const double*, double*, ptrdiff_t)
    void f64_transpose_rows(const double*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, const double*, double*,
                            const ptrdiff_t*)
    void u64_gemm_tile(ptrdiff_t, ptrdiff_t, ptrdiff_t, const uint64_t*, const ptrdiff_t*, const ptrdiff_t*, const uint64_t*,
                       const uint64_t*, uint64_t*, const ptrdiff_t*)
    void u64_copy(const uint64_t*, ptrdiff_t, uint64_t*)
    void u64_copy_padded(const uint64_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, uint64_t, uint64_t*)
    void u64_add(const uint64_t*, ptrdiff_t, uint64_t*)
    int u64_run_finite "u64_finite"(const uint64_t*, ptrdiff_t)
    void u64_put_every_2(const uint64_t*, ptrdiff_t, uint64_t*, int)
    void u64_copy_runs(const uint64_t*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, uint64_t*)
    void u64_zip_row(const uint64_t*, ptrdiff_t, const uint64_t*, ptrdiff_t, uint64_t*)
    void u64_put_turned(const uint64_t*, ptrdiff_t, ptrdiff_t, const uint64_t*, uint64_t*, ptrdiff_t)
    void u64_transpose_rows(const uint64_t*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, const uint64_t*, uint64_t*,
                            const ptrdiff_t*)

TILE_ROWS, TILE_VECTORS = GEMM_M, GEMM_VECTORS
TILE_BYTES = GEMM_VECTORS * VECTOR_BYTES
"""Bytes of one row of a tile."""
UNIT_BYTES = GEMM_UNIT
"""Bytes of which a narrower tile's row is a multiple."""
DEPTH_BYTES = GEMM_DEPTH_BYTES
"""Bytes of one row of a block of the depth, at the most."""
cdef enum:
    MOST_ROWS = 128  # of a group: GEMM_GROUP with what is left of the rows
    MOST_LANES = 64  # of a panel
    TURNED = 64  # channels, and taps, of a piece of turned filters
    COPIES = 4  # panels of lanes that are worth a copy of rows, where these don't lie along the depth
cdef Py_ssize_t DEPTHS = GEMM_DEPTH_BYTES // 4, SUMS_BYTES = MOST_ROWS * GEMM_VECTORS * VECTOR_BYTES
cdef Py_ssize_t OFFSETS_BYTES = (2 * DEPTHS + 2 * MOST_ROWS) * sizeof(ptrdiff_t)
cdef Py_ssize_t GROUP_BYTES = 256 << 10  # of a group of rows of a: half of the second cache
cdef Py_ssize_t COPIES_BYTES = GROUP_BYTES + 16 * GEMM_DEPTH_BYTES  # of such a group copied, with its gaps
PANEL_BYTES = OFFSETS_BYTES + 2 * SUMS_BYTES + COPIES_BYTES
"""Scratch of a product beside the panels of b and a patch: offsets, tiles of c in both orders, copied rows of a."""


cdef inline Py_ssize_t blocks_of(Py_ssize_t extent, Py_ssize_t block) noexcept nogil:
    return (extent + block - 1) // block


# --- matrices --------------------------------------------------------------------------------------


cdef struct Axis:  # nested loops, the innermost last
    Py_ssize_t extent[3]
    Py_ssize_t stride[3]  # in elements


cdef struct Cut:  # of an axis, outers * units * unit long, into outers * pieces
    Py_ssize_t outers, units, unit, pieces


cdef struct Matrix:
    char* data
    Axis item  # filters, pixels or taps: a row of A, a lane of B
    Axis depth  # what is summed over
    Py_ssize_t origin  # the offset that stands for data
    const char* end  # what lies before may be read; NULL: unknown
    bint whole  # a block of the depth of its own, channels innermost
    bint patched  # windows of which patches are copied; the rest is theirs
    bint in_patch  # such a patch
    bint deep  # pixels are the depth
    bint channels_last
    Cut cut  # of the items: what a patch is copied for
    Geometry g
    Py_ssize_t sample, channel, row, column  # strides of x


cdef struct Place:
    Py_ssize_t i[3]


cdef inline void set_level(Axis* a, int level, Py_ssize_t extent, Py_ssize_t stride) noexcept nogil:
    a.extent[level], a.stride[level] = extent, stride


cdef inline bint one_run(const Axis* a, int level) noexcept nogil:
    """Do the loops `level` and `level` + 1 together count up as one?"""
    cdef Py_ssize_t n = a.extent[level + 1]
    return a.extent[level] == 1 or n == 1 or a.stride[level] == n * a.stride[level + 1]


cdef inline void fold(Axis* a, int level) noexcept nogil:
    """The loops `level` and `level` + 1 as one."""
    if a.extent[level + 1] == 1:
        set_level(a, level + 1, a.extent[level], a.stride[level])
    else:
        a.extent[level + 1] *= a.extent[level]
    set_level(a, level, 1, 0)


cdef void merge(Axis* a) noexcept nogil:
    """The same axis in as few and as long loops as can be; the outer ones have an extent of 1."""
    if one_run(a, 0):
        fold(a, 0)
    if one_run(a, 1):
        fold(a, 1)
        set_level(a, 1, a.extent[0], a.stride[0])
        set_level(a, 0, 1, 0)
        if one_run(a, 1):
            fold(a, 1)


cdef inline Py_ssize_t size_of(const Axis* a) noexcept nogil:
    return a.extent[0] * a.extent[1] * a.extent[2]


cdef inline Place place_of(const Axis* a, Py_ssize_t index) noexcept nogil:
    cdef Place p
    cdef Py_ssize_t rest = index // a.extent[2]
    p.i[2] = index - rest * a.extent[2]
    p.i[0] = rest // a.extent[1]
    p.i[1] = rest - p.i[0] * a.extent[1]
    return p


cdef inline void move(const Axis* a, Place* p, Py_ssize_t count) noexcept nogil:
    """Forward, at most to the end of the innermost loop."""
    p.i[2] += count
    if p.i[2] == a.extent[2]:
        p.i[2] = 0
        p.i[1] += 1
        if p.i[1] == a.extent[1]:
            p.i[1] = 0
            p.i[0] += 1


cdef inline Py_ssize_t dot(const Axis* a, const Place* p) noexcept nogil:
    return a.stride[0] * p.i[0] + a.stride[1] * p.i[1] + a.stride[2] * p.i[2]


cdef void list_offsets(const Axis* a, Py_ssize_t first, Py_ssize_t count, ptrdiff_t* offsets) noexcept nogil:
    cdef Place p = place_of(a, first)
    cdef Py_ssize_t i, n, offset, stride = a.stride[2]
    while count > 0:
        n, offset = min(count, a.extent[2] - p.i[2]), dot(a, &p)
        for i in range(n):
            offsets[i] = offset + i * stride
        move(a, &p, n)
        offsets += n
        count -= n


cdef inline Py_ssize_t cut_at(const Cut* cut, Py_ssize_t i) noexcept nogil:
    """Where piece i begins, and the one before it ends."""
    return (i // cut.pieces * cut.units + cut.units * (i % cut.pieces) // cut.pieces) * cut.unit


cdef inline Cut whole(Py_ssize_t extent) noexcept nogil:
    cdef Cut cut
    cut.outers, cut.units, cut.unit, cut.pieces = 1, extent, 1, 1
    return cut


cdef inline void count_up(Py_ssize_t n, Py_ssize_t step, ptrdiff_t* offsets) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        offsets[i] = i * step


cdef inline void transpose_rows(const summand* source, const ptrdiff_t* offsets, Py_ssize_t rows, Py_ssize_t next,
                                Py_ssize_t columns, const char* end, summand* out, const ptrdiff_t* to) noexcept nogil:
    if summand is float:
        f32_transpose_rows(source, offsets, rows, next, columns, <const float*>end, out, to)
    elif summand is double:
        f64_transpose_rows(source, offsets, rows, next, columns, <const double*>end, out, to)
    else:
        u64_transpose_rows(source, offsets, rows, next, columns, <const uint64_t*>end, out, to)


# --- scratch ---------------------------------------------------------------------------------------


cdef struct Room:  # a worker's scratch
    ptrdiff_t* steps  # offsets of the depth
    ptrdiff_t* to  # where they go
    ptrdiff_t* rows  # offsets of rows, or of lanes
    ptrdiff_t* places  # of rows in the result
    char* sums  # tiles of the product
    char* turned  # the same, transposed
    char* a  # copied rows
    char* patch
    char* b  # the panels of lanes


cdef inline Room room_of(char* scratch, Py_ssize_t patch_bytes) noexcept nogil:
    cdef Room room
    room.steps = <ptrdiff_t*>scratch
    room.to = room.steps + DEPTHS
    room.rows = room.to + DEPTHS
    room.places = room.rows + MOST_ROWS
    room.sums = scratch + OFFSETS_BYTES
    room.turned = room.sums + SUMS_BYTES
    room.a = room.turned + SUMS_BYTES
    room.patch = room.a + COPIES_BYTES
    room.b = room.patch + patch_bytes
    return room


# --- patches ---------------------------------------------------------------------------------------


cdef struct Span:  # the loops of a piece of an axis: from first to last, inclusive
    Place first, last


cdef inline Span span_of(const Axis* a, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    cdef Span s
    cdef int level, inner
    s.first, s.last = place_of(a, start), place_of(a, end - 1)
    for level in range(2):
        if s.first.i[level] != s.last.i[level]:
            for inner in range(level + 1, 3):
                s.first.i[inner], s.last.i[inner] = 0, a.extent[inner] - 1
            break
    return s


cdef inline void copy(const summand* source, Py_ssize_t step, Py_ssize_t n, summand* out) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1:
        if summand is float:
            f32_copy(source, n, out)
        elif summand is double:
            f64_copy(source, n, out)
        else:
            u64_copy(source, n, out)
    else:
        for i in range(n):
            out[i] = source[i * step]


cdef inline void fill(summand value, Py_ssize_t n, summand* out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = value


cdef inline void copy_padded(const summand* source, Py_ssize_t before, Py_ssize_t n, Py_ssize_t after, summand value,
                             summand* out) noexcept nogil:
    if summand is float:
        f32_copy_padded(source, before, n, after, value, out)
    elif summand is double:
        f64_copy_padded(source, before, n, after, value, out)
    else:
        u64_copy_padded(source, before, n, after, value, out)


cdef inline void copy_pixels(const summand* row, Py_ssize_t column, Py_ssize_t channel, const Geometry* g, summand cval,
                             Py_ssize_t v0, Py_ssize_t inside, Py_ssize_t outside, Py_ssize_t width, bint looking,
                             Py_ssize_t channels, Py_ssize_t pitch, summand* out) noexcept nogil:
    """Columns v0.. of a padded row, `pitch` apart, all channels of each side by side; those from inside to outside lie
    in the image.

    `looking`: the others may repeat the image. row == NULL: the constant."""
    cdef Py_ssize_t i
    cdef const summand* first = row + (v0 + inside - g.left) * column
    if row == NULL:
        fill(cval, width * pitch, out)
    elif channels == 1 and pitch == 1 and column == 1:
        copy_padded(first, inside, outside - inside, width - outside, cval, out)
    elif channels == 1 and pitch == 1:
        fill(cval, width, out)
        copy(first, column, outside - inside, out + inside)
    elif channel == 1 and column == channels and pitch == channels:
        copy_padded(first, inside * channels, (outside - inside) * channels, (width - outside) * channels, cval, out)
    else:
        fill(cval, width * pitch, out)
        for i in range(outside - inside):
            copy(first + i * column, channel, channels, out + (inside + i) * pitch)
    if row != NULL and looking:
        for i in range(inside):
            look_up(row, column, channel, g.columns[v0 + i], cval, channels, out + i * pitch)
        for i in range(outside, width):
            look_up(row, column, channel, g.columns[v0 + i], cval, channels, out + i * pitch)


cdef inline void look_up(const summand* row, Py_ssize_t column, Py_ssize_t channel, Py_ssize_t w, summand cval,
                         Py_ssize_t channels, summand* out) noexcept nogil:
    if w < 0:
        fill(cval, channels, out)
    else:
        copy(row + w * column, channel, channels, out)


cdef void turn_pixels(const summand* row, Py_ssize_t channel, Py_ssize_t channels, Py_ssize_t width, const char* end,
                      summand* out, Py_ssize_t pitch, Room* room) noexcept nogil:
    """Pixels of all channels, whose planes lie apart, as runs of channels."""
    cdef Py_ssize_t i, v
    cdef ptrdiff_t to[TURNED]
    count_up(channels, channel, room.steps)
    count_up(TURNED, pitch, to)
    for i in range(blocks_of(width, TURNED)):
        v = i * TURNED
        transpose_rows(row + v, room.steps, channels, 0, min(width - v, TURNED), end, out + v * pitch,
                       <const ptrdiff_t*>to)


cdef inline Py_ssize_t pitch_of(Py_ssize_t channels, Py_ssize_t itemsize) noexcept nogil:
    """Elements from one pixel of turned planes to the next: whole lines, that don't fall on few sets of a cache."""
    cdef Py_ssize_t lines = blocks_of(channels * itemsize, 64)
    return (lines + (lines % 16 == 0)) * 64 // itemsize


cdef Matrix copy_patch(const Matrix* m, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t d0, Py_ssize_t d1, summand cval,
                       Room* room) noexcept nogil:
    """The windows i0..i1 x d0..d1 as a matrix in memory: the image under them, with its padding."""
    cdef Matrix out = m[0]
    cdef Span items = span_of(&m.item, i0, i1), depths = span_of(&m.depth, d0, d1)
    cdef Span pixels = depths if m.deep else items, taps = items if m.deep else depths
    cdef Axis* pixel = &out.depth if m.deep else &out.item
    cdef Axis* tap = &out.item if m.deep else &out.depth
    cdef int at_c = 2 if m.channels_last else 0, at_r = 0 if m.channels_last else 1, at_s = at_r + 1
    cdef const Geometry* g = &m.g
    cdef Py_ssize_t u0 = pixels.first.i[1] * g.sh + taps.first.i[at_r] * g.dh
    cdef Py_ssize_t v0 = pixels.first.i[2] * g.sw + taps.first.i[at_s] * g.dw
    cdef Py_ssize_t c0 = taps.first.i[at_c], channels = taps.last.i[at_c] + 1 - c0
    cdef Py_ssize_t height = pixels.last.i[1] * g.sh + taps.last.i[at_r] * g.dh + 1 - u0
    cdef Py_ssize_t width = pixels.last.i[2] * g.sw + taps.last.i[at_s] * g.dw + 1 - v0
    # columns inside the image count up: only the others are looked up
    cdef Py_ssize_t inside = min(max(g.left - v0, 0), width), outside = min(max(g.left + g.W - v0, inside), width)
    cdef Py_ssize_t n, c, u, row, column, channel, sample
    cdef const summand* source
    cdef const summand* line
    cdef summand* patch = <summand*>room.patch
    cdef summand* to
    cdef bint looking = False, turning = m.whole and m.column == 1
    for u in range(width):
        if (u < inside or u >= outside) and g.columns[v0 + u] >= 0:
            looking = True
    if m.channels_last:
        channel, column = 1, pitch_of(channels, sizeof(summand)) if m.whole else channels
        row = width * column
        sample = height * row
    else:
        column, row = 1, width
        channel = height * width
        sample = channels * channel
    for n in range(pixels.first.i[0], pixels.last.i[0] + 1):
        for c in range(1 if m.channels_last else channels):
            source = <const summand*>m.data + n * m.sample + (c0 + c) * m.channel
            for u in range(height):
                if not m.channels_last and c + 1 < channels and m.column == 1 and g.rows[u0 + u] >= 0:
                    prefetch(source + m.channel + g.rows[u0 + u] * m.row + max(v0 - g.left, 0),
                             min(width, g.W) * <Py_ssize_t>sizeof(summand))
                to = patch + (n - pixels.first.i[0]) * sample + c * channel + u * row
                line = source + g.rows[u0 + u] * m.row if g.rows[u0 + u] >= 0 else NULL
                if line != NULL and turning and not looking:
                    turn_pixels(line + v0 + inside - g.left, m.channel, channels, outside - inside, m.end,
                                to + inside * column, column, room)
                    fill(cval, inside * column, to)
                    fill(cval, (width - outside) * column, to + outside * column)
                else:
                    copy_pixels(line, m.column, m.channel, g, cval, v0, inside, outside, width, looking,
                                channels if m.channels_last else 1, column if m.channels_last else 1, to)
    out.data, out.end, out.patched, out.in_patch = <char*>patch, room.b, False, True
    pixel.stride[0], pixel.stride[1], pixel.stride[2] = sample, g.sh * row, g.sw * column
    tap.stride[at_c], tap.stride[at_r], tap.stride[at_s] = channel, g.dh * row, g.dw * column
    out.origin = dot(&out.item, &items.first) + dot(&out.depth, &depths.first)
    return out


# --- packing ---------------------------------------------------------------------------------------


cdef inline Py_ssize_t step_of(const Axis* a) noexcept nogil:
    """Elements from one place of the innermost loop to the next: the fewer, the better to run along."""
    return a.stride[2] if a.stride[2] >= 0 else -a.stride[2]


cdef inline bint along_items(const Matrix* m) noexcept nogil:
    """Are elements nearer to each other along the items than along the depth?"""
    if m.item.extent[2] < 4 or m.depth.extent[2] < 4:  # too short to run along
        return m.item.extent[2] > m.depth.extent[2]
    return step_of(&m.item) <= step_of(&m.depth)


cdef inline void copy_runs(const summand* source, const ptrdiff_t* offsets, Py_ssize_t count, Py_ssize_t step, Py_ssize_t n,
                           Py_ssize_t lane, Py_ssize_t kc, summand* b) noexcept nogil:
    if summand is float:
        f32_copy_runs(source, offsets, count, step, n, lane, kc, b)
    elif summand is double:
        f64_copy_runs(source, offsets, count, step, n, lane, kc, b)
    else:
        u64_copy_runs(source, offsets, count, step, n, lane, kc, b)


cdef bint pack_spans(const Matrix* m, Py_ssize_t j0, Py_ssize_t j1, Py_ssize_t kc, summand* b,
                     Room* room) noexcept nogil:
    """Lanes j0..j1 whose taps, or channels and taps, are a run of memory in another order; False if they aren't."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand), span = 1, low = 0, level, i, k, place
    cdef Py_ssize_t apart = m.depth.stride[2], inner = 1, depth = size_of(&m.depth), distance, reach, lanes, next
    cdef const summand* source = <const summand*>m.data - m.origin
    cdef Place at
    for level in range(2):
        distance = (m.depth.extent[level] - 1) * m.depth.stride[level]
        span += max(distance, -distance)
        low += min(distance, 0)
    if 0 < apart <= span:  # channels follow each other without a gap
        inner = m.depth.extent[2]
        span += (inner - 1) * apart
    if span != depth // m.depth.extent[2] * inner:  # something lies between
        return False
    for i in range(span):
        room.to[i] = -1
    for i in range(depth):
        at = place_of(&m.depth, i)
        if at.i[2] < inner:
            place = dot(&m.depth, &at) - low
            if room.to[place] >= 0:
                return False
            room.to[place] = i * width
    while j0 < j1:
        lanes = min(width, j1 - j0)
        list_offsets(&m.item, j0, min(2 * width, j1 - j0), room.rows)
        reach = room.rows[lanes - 1] - room.rows[0]
        next = min(width, j1 - j0 - lanes) if inner > 1 else 0
        for k in range(m.depth.extent[2] // inner):
            if inner == 1 and k + 4 < m.depth.extent[2]:
                prefetch(source + low + room.rows[0] + min(reach, 0) + (k + 4) * apart,
                         (max(reach, -reach) + span) * <Py_ssize_t>sizeof(summand))
            transpose_rows(source + low + k * apart, room.rows, lanes, next, span, m.end, b + k * width, room.to)
        b += width * kc
        j0 += lanes
    return True


cdef void pack_lanes(const Matrix* m, Py_ssize_t j0, Py_ssize_t j1, Py_ssize_t d, Py_ssize_t depth, Py_ssize_t lane,
                     Py_ssize_t kc, summand* b, Room* room) noexcept nogil:
    """Lanes j0..j1 at depths d.. to b[(lane + j - j0) / GEMM_N][depth][(lane + j - j0) % GEMM_N], kc rows each."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand), i, k, n, lanes, done
    cdef const summand* source = <const summand*>m.data - m.origin
    cdef summand* panel
    cdef Place at
    if m.whole and m.item.stride[2] != 1 and m.depth.stride[2] != 1 and pack_spans(m, j0, j1, kc, b, room):
        return
    if along_items(m) or lane % width != 0:
        list_offsets(&m.depth, d, depth, room.steps)
        at = place_of(&m.item, j0)
        while j0 < j1:
            n = min(j1 - j0, m.item.extent[2] - at.i[2])
            copy_runs(source + dot(&m.item, &at), room.steps, depth, m.item.stride[2], n, lane, kc, b)
            move(&m.item, &at, n)
            lane += n
            j0 += n
        return
    count_up(depth, width, room.to)
    while j0 < j1:
        panel = b + lane * kc
        lanes, done = min(width, j1 - j0), 0
        list_offsets(&m.item, j0, min(2 * width, j1 - j0), room.rows)
        at = place_of(&m.depth, d)
        while done < depth:
            n = min(depth - done, m.depth.extent[2] - at.i[2])
            if m.depth.stride[2] == 1:
                transpose_rows(source + dot(&m.depth, &at), room.rows, lanes, min(width, j1 - j0 - lanes), n, m.end,
                               panel + done * width, room.to)
            else:
                for k in range(n):
                    for i in range(lanes):
                        panel[(done + k) * width + i] = source[dot(&m.depth, &at) + k * m.depth.stride[2] + room.rows[i]]
            move(&m.depth, &at, n)
            done += n
        lane += lanes
        j0 += lanes


cdef void pack_panels(const Matrix* m, Py_ssize_t j0, Py_ssize_t j1, Py_ssize_t d, Py_ssize_t depth, Py_ssize_t kc,
                      summand cval, Room* room) noexcept nogil:
    """The panels of B: lanes j0..j1, zeros beyond the last one."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand), unit = GEMM_UNIT // sizeof(summand)
    cdef Py_ssize_t rest = (j1 - j0) % width, j = j0, i, piece, end
    cdef summand* b = <summand*>room.b
    cdef Matrix windows
    if m.patched:
        for piece in range(m.cut.outers * m.cut.pieces):
            end = min(cut_at(&m.cut, piece + 1), j1)
            if end <= j:
                continue
            windows = copy_patch(m, j, end, d, d + depth, cval, room)
            pack_lanes(&windows, j, end, d, depth, j - j0, kc, b, room)
            j = end
            if j == j1:
                break
    else:
        pack_lanes(m, j0, j1, d, depth, 0, kc, b, room)
    if rest % unit:  # tiles are whole units wide
        b += (j1 - j0 - rest) * kc
        for i in range(depth):
            fill(<summand>0, unit - rest % unit, b + i * width + rest)


cdef void copy_rows(const Matrix* m, Py_ssize_t count, Py_ssize_t d, Py_ssize_t depth, Room* room,
                    summand kind) noexcept nogil:
    """Rows of A that don't lie along the depth, or that would fall on the same lines of the first cache, copied."""
    cdef Py_ssize_t ld = (blocks_of(depth * sizeof(summand), 64) + 1 | 1) * 64 // sizeof(summand), i, n, done
    cdef const summand* source = <const summand*>m.data - m.origin
    cdef summand* a = <summand*>room.a
    cdef Place at
    count_up(count, ld, room.to)
    if m.item.stride[2] == 1 and room.rows[count - 1] - room.rows[0] == count - 1:
        list_offsets(&m.depth, d, depth, room.steps)
        transpose_rows(source + room.rows[0], room.steps, depth, 0, count, <const char*>NULL, a, room.to)
    else:
        for i in range(count):
            at, done = place_of(&m.depth, d), 0
            while done < depth:
                n = min(depth - done, m.depth.extent[2] - at.i[2])
                copy(source + room.rows[i] + dot(&m.depth, &at), m.depth.stride[2], n, a + i * ld + done)
                move(&m.depth, &at, n)
                done += n
    count_up(depth, 1, room.steps)
    count_up(count, ld, room.rows)


# --- the product -----------------------------------------------------------------------------------


cdef struct Output:
    char* data
    Axis row
    Axis lane
    const char* bias  # of each row, or of each lane; NULL for none
    bint lane_bias
    bint add  # to what is there
    bint between  # elements between those written are the call's own: they may be read and written back


cdef inline void tile(Py_ssize_t height, Py_ssize_t width, Py_ssize_t depth, const summand* a, const ptrdiff_t* rows,
                      const ptrdiff_t* steps, const summand* b, const summand* start, summand* c,
                      const ptrdiff_t* to) noexcept nogil:
    if summand is float:
        f32_gemm_tile(height, width, depth, a, rows, steps, b, start, c, to)
    elif summand is double:
        f64_gemm_tile(height, width, depth, a, rows, steps, b, start, c, to)
    else:
        u64_gemm_tile(height, width, depth, a, rows, steps, b, start, c, to)


cdef inline void add_run(const summand* sums, Py_ssize_t n, summand* out, Py_ssize_t step, bint add,
                         bint between) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1 and add:
        if summand is float:
            f32_add(sums, n, out)
        elif summand is double:
            f64_add(sums, n, out)
        else:
            u64_add(sums, n, out)
    elif step == 1:
        copy(sums, 1, n, out)
    elif step == 2 and between:
        if summand is float:
            f32_put_every_2(sums, n, out, add)
        elif summand is double:
            f64_put_every_2(sums, n, out, add)
        else:
            u64_put_every_2(sums, n, out, add)
    elif add:
        for i in range(n):
            out[i * step] += sums[i]
    else:
        for i in range(n):
            out[i * step] = sums[i]


cdef inline bint rows_inside(const Output* c) noexcept nogil:
    """Do the rows of C lie side by side rather than its lanes?"""
    return c.row.extent[2] > 1 and (step_of(&c.row) < step_of(&c.lane) or c.lane.extent[2] == 1)


cdef inline void put_turned(const summand* sums, Py_ssize_t rows, Py_ssize_t lanes, const summand* bias, summand* out,
                            Py_ssize_t ld) noexcept nogil:
    if summand is float:
        f32_put_turned(sums, rows, lanes, bias, out, ld)
    elif summand is double:
        f64_put_turned(sums, rows, lanes, bias, out, ld)
    else:
        u64_put_turned(sums, rows, lanes, bias, out, ld)


cdef void put(const Output* c, Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t j0, Py_ssize_t lanes, bint fresh,
              Room* room, summand kind) noexcept nogil:
    """c = bias + sums, or c += sums, for tiles that don't lie in c as they are."""
    cdef Py_ssize_t ld = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand), i, j, n, outer_first = i0, inner_first = j0
    cdef summand* sums = <summand*>room.sums
    cdef const Axis* outer = &c.row
    cdef const Axis* inner = &c.lane
    cdef const summand* bias = <const summand*>c.bias
    cdef Place at, along, first
    cdef ptrdiff_t starts[MOST_ROWS]
    cdef ptrdiff_t to[MOST_LANES]
    cdef summand no_bias[MOST_LANES]
    at, along = place_of(&c.row, i0), place_of(&c.lane, j0)
    if (c.row.stride[2] == 1 and c.lane.stride[2] != 1 and at.i[2] + rows <= c.row.extent[2]
            and along.i[2] + lanes <= c.lane.extent[2] and (c.lane_bias or bias == NULL or not fresh)):
        fill(<summand>0, lanes, no_bias)
        if not fresh:
            bias = NULL
        elif bias == NULL:
            bias = <const summand*>no_bias
        else:
            bias += j0
        put_turned(<const summand*>sums, rows, lanes, bias,
                   <summand*>c.data + dot(&c.row, &at) + dot(&c.lane, &along), c.lane.stride[2])
        return
    if fresh and bias != NULL:
        for i in range(rows):
            if c.lane_bias:
                for j in range(lanes):
                    sums[i * ld + j] += bias[j0 + j]
            else:
                for j in range(lanes):
                    sums[i * ld + j] += bias[i0 + i]
    if rows_inside(c):
        count_up(rows, ld, starts)
        count_up(lanes, MOST_ROWS, to)
        transpose_rows(<const summand*>sums, <const ptrdiff_t*>starts, rows, 0, lanes, <const char*>NULL,
                       <summand*>room.turned, <const ptrdiff_t*>to)
        sums, ld, outer, inner, outer_first, inner_first = <summand*>room.turned, MOST_ROWS, &c.lane, &c.row, j0, i0
        rows, lanes = lanes, rows
    at, first = place_of(outer, outer_first), place_of(inner, inner_first)
    for i in range(rows):
        along, j = first, 0
        while j < lanes:
            n = min(lanes - j, inner.extent[2] - along.i[2])
            add_run(sums + i * ld + j, n, <summand*>c.data + dot(outer, &at) + dot(inner, &along), inner.stride[2],
                    not fresh, c.between)
            move(inner, &along, n)
            j += n
        move(outer, &at, 1)


cdef void multiply_rows(const Matrix* ma, const Output* c, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1,
                        Py_ssize_t d, Py_ssize_t depth, Py_ssize_t kc, bint fresh, Room* room,
                        summand kind) noexcept nogil:
    """Rows i0..i1 of A, in memory, by the panels of B, at depths d.."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand), unit = GEMM_UNIT // sizeof(summand)
    cdef Py_ssize_t group = GEMM_GROUP if GEMM_GROUP * depth <= GROUP_BYTES // sizeof(summand) else GEMM_GROUP // 2
    cdef Py_ssize_t panels, p, i = i0, j, l, lanes, height, rows, done, reach
    cdef const summand* a = <const summand*>ma.data - ma.origin
    cdef const summand* starts
    cdef const summand* panel
    cdef summand* to
    cdef summand start[MOST_ROWS]
    cdef summand nothing[16]
    cdef ptrdiff_t local[MOST_ROWS]
    cdef bint turned = rows_inside(c), direct, copied
    cdef Place row, lane
    copied = (ma.item.stride[2] * <Py_ssize_t>sizeof(summand)) % 4096 == 0 and ma.item.extent[2] > 1
    if not ma.in_patch and ma.depth.stride[2] != 1 and blocks_of(j1 - j0, width) >= COPIES:
        copied = True
    fill(<summand>0, 16, nothing)
    count_up(MOST_ROWS, width, local)
    if not copied:
        list_offsets(&ma.depth, d, depth, room.steps)
    while i < i1:
        row = place_of(&c.row, i)
        rows = i1 - i
        if turned and c.row.extent[2] >= group // 2:  # groups of one run are stored faster
            rows = min(rows, c.row.extent[2] - row.i[2])
        rows = rows if rows <= group + GEMM_M // 2 else group
        panels = blocks_of(rows, GEMM_M)
        list_offsets(&ma.item, i, rows, room.rows)
        list_offsets(&c.row, i, rows, room.places)
        if copied:
            copy_rows(ma, rows, d, depth, room, kind)
            a = <const summand*>room.a
        for p in range(rows):
            start[p] = (<const summand*>c.bias)[i + p] if c.bias != NULL and not c.lane_bias else 0
        starts = <const summand*>start if fresh and not c.lane_bias else NULL
        reach = (rows - 1) * step_of(&c.row) + 1 if step_of(&c.row) <= 2 else 1
        j, lane = j0, place_of(&c.lane, j0)
        while j < j1:
            lanes = min(width, j1 - j)
            direct = (not turned and c.lane.stride[2] == 1 and lane.i[2] + lanes <= c.lane.extent[2]
                      and lanes % unit == 0)
            panel = <const summand*>room.b + (j - j0) * kc
            to = <summand*>c.data + dot(&c.lane, &lane)
            if direct and fresh and c.lane_bias:
                for p in range(rows):
                    copy(<const summand*>c.bias + j, 1, lanes, to + room.places[p])
            done = l = 0
            for p in range(panels):
                height = rows // panels + (p < rows % panels)
                if direct:
                    tile(height, lanes // unit, depth, a, room.rows + done, room.steps, panel,
                         starts + done if starts != NULL else NULL, to, room.places + done)
                else:
                    while turned and l * panels < lanes * (p + 1):  # lines that will be written soon
                        prefetch_to_write(to + room.places[0] + l * c.lane.stride[2],
                                          reach * <Py_ssize_t>sizeof(summand))
                        l += 1
                    tile(height, blocks_of(lanes, unit), depth, a, room.rows + done, room.steps, panel,
                         <const summand*>nothing, <summand*>room.sums, <const ptrdiff_t*>local + done)
                done += height
            if not direct:
                put(c, i, rows, j, lanes, fresh, room, kind)
            j += lanes
            if lane.i[2] + lanes <= c.lane.extent[2]:
                move(&c.lane, &lane, lanes)
            elif j < j1:
                lane = place_of(&c.lane, j)
        i += rows


cdef void multiply_patches(const Matrix* a, const Output* c, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1,
                           Py_ssize_t d, Py_ssize_t depth, Py_ssize_t kc, bint fresh, Room* room,
                           summand cval) noexcept nogil:
    """The same for windows, a patch at a time."""
    cdef Py_ssize_t piece, first, last
    cdef Matrix windows
    for piece in range(a.cut.outers * a.cut.pieces):
        first, last = max(cut_at(&a.cut, piece), i0), min(cut_at(&a.cut, piece + 1), i1)
        if first < last:
            windows = copy_patch(a, first, last, d, d + depth, cval, room)
            multiply_rows(&windows, c, first, last, j0, j1, d, depth, kc, fresh, room, cval)


cdef inline Matrix depths_of(const Matrix* m, Py_ssize_t d, Py_ssize_t depth, summand kind) noexcept nogil:
    """Whole channels of the depth (c, r, s) as a matrix of its own, in the order (r, s, c)."""
    cdef Matrix out = m[0]
    cdef Py_ssize_t taps = m.depth.extent[1] * m.depth.extent[2]
    out.data = <char*>(<summand*>m.data + d // taps * m.depth.stride[0])
    set_level(&out.depth, 0, m.depth.extent[1], m.depth.stride[1])
    set_level(&out.depth, 1, m.depth.extent[2], m.depth.stride[2])
    set_level(&out.depth, 2, depth // taps, m.depth.stride[0])
    return out


cdef void multiply(const Matrix* ma, const Matrix* mb, const Output* c, const Cut* depths, Py_ssize_t i0, Py_ssize_t i1,
                   Py_ssize_t j0, Py_ssize_t j1, Py_ssize_t parts, summand cval, summand* scratch,
                   Py_ssize_t patch_bytes) noexcept nogil:
    """Rows i0..i1 and lanes j0..j1 of c, whose panels are packed in so many parts."""
    cdef Room room = room_of(<char*>scratch, patch_bytes)
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand), panels = blocks_of(j1 - j0, width)
    cdef Py_ssize_t d, depth, db, part, j, end, kc = blocks_of(depths.units, depths.pieces) * depths.unit | 1
    cdef Matrix a = ma[0], b = mb[0], windows
    cdef bint fresh, once = ma.patched and ma.cut.outers * ma.cut.pieces == 1  # one patch serves all lanes
    for db in range(depths.outers * depths.pieces):
        d = cut_at(depths, db)
        depth = cut_at(depths, db + 1) - d
        fresh = db == 0 and not c.add
        if ma.whole:
            a, b, d = depths_of(ma, d, depth, cval), depths_of(mb, d, depth, cval), 0
        if once:
            windows = copy_patch(&a, i0, i1, d, d + depth, cval, &room)
        for part in range(parts):
            j, end = j0 + panels * part // parts * width, min(j0 + panels * (part + 1) // parts * width, j1)
            pack_panels(&b, j, end, d, depth, kc, cval, &room)
            if once:
                multiply_rows(&windows, c, i0, i1, j, end, d, depth, kc, fresh, &room, cval)
            elif a.patched:
                multiply_patches(&a, c, i0, i1, j, end, d, depth, kc, fresh, &room, cval)
            else:
                multiply_rows(&a, c, i0, i1, j, end, d, depth, kc, fresh, &room, cval)


# --- convolution: implicit GEMM --------------------------------------------------------------------


cdef struct Strides:  # in elements
    Py_ssize_t of[5]


cdef struct Task:
    Py_ssize_t N, groups, C, K  # channels and filters of one group
    Geometry g
    void* x  # these three are operands, or the result: in a gradient's place stands the gradient
    void* w
    void* y
    Strides xs, ws, ys
    const void* bias  # NULL for none
    const void* cval
    bint patched, channels_last, swapped, between
    bint whole  # blocks of the depth are whole channels, and channels are innermost in them
    Py_ssize_t row_blocks, lane_blocks, lane_parts, patch_bytes
    Cut depths, cut  # of the depth, and of the windows' items
    Py_ssize_t block_p, block_q, block_c, cols_bytes  # of im2col, which has none of the above from `patched` on


cdef inline Strides elements(const Py_ssize_t* strides, int n, Py_ssize_t itemsize) noexcept:
    cdef Strides s
    cdef int i
    for i in range(n):
        s.of[i] = strides[i] // itemsize
    return s


cdef inline Axis filters_axis(Py_ssize_t extent, Py_ssize_t stride) noexcept nogil:
    cdef Axis a
    set_level(&a, 0, 1, 0)
    set_level(&a, 1, 1, 0)
    set_level(&a, 2, extent, stride)
    return a


cdef inline Axis pixels_axis(const Task* t, Py_ssize_t n, Py_ssize_t p, Py_ssize_t q) noexcept nogil:
    cdef Axis a
    set_level(&a, 0, t.N, n)
    set_level(&a, 1, t.g.P, p)
    set_level(&a, 2, t.g.Q, q)
    return a


cdef inline Axis taps_axis(const Task* t, Py_ssize_t c, Py_ssize_t r, Py_ssize_t s) noexcept nogil:
    cdef Axis a
    set_level(&a, 0 if not t.channels_last else 2, t.C, c)
    set_level(&a, 1 if not t.channels_last else 0, t.g.R, r)
    set_level(&a, 2 if not t.channels_last else 1, t.g.S, s)
    return a


cdef inline Matrix plain(const summand* data, Axis item, Axis depth) noexcept nogil:
    cdef Matrix m
    m.data, m.item, m.depth, m.origin = <char*>data, item, depth, 0
    m.end, m.whole, m.patched, m.in_patch = NULL, False, False, False
    merge(&m.item)
    merge(&m.depth)
    return m


cdef Matrix windows_of(const Task* t, const summand* x, bint deep) noexcept nogil:
    """The windows of one group of x; deep: pixels are the depth, otherwise taps."""
    cdef const Geometry* g = &t.g
    cdef const Py_ssize_t* xs = &t.xs.of[0]
    cdef Axis taps = taps_axis(t, xs[1], g.dh * xs[2], g.dw * xs[3])
    cdef Axis pixels = pixels_axis(t, xs[0], g.sh * xs[2], g.sw * xs[3])
    cdef Matrix m
    if not t.patched:
        # padding isn't positive: windows begin inside the image, or at its edge
        return plain(x - g.top * xs[2] - g.left * xs[3], taps if deep else pixels, pixels if deep else taps)
    m.data, m.g, m.patched, m.deep, m.cut = <char*>x, g[0], True, deep, t.cut
    m.channels_last, m.whole, m.in_patch = t.channels_last or t.whole, t.whole, False
    m.sample, m.channel, m.row, m.column = xs[0], xs[1], xs[2], xs[3]
    if (t.whole and g.P == g.H and g.Q == g.W and g.R * g.S * g.sh * g.sw == 1 and g.top == 0 and g.left == 0
            and xs[2] == g.W * xs[3]):
        # one long row: it is turned in fewer, longer pieces
        set_level(&pixels, 1, 1, 0)
        set_level(&pixels, 2, g.P * g.Q, xs[3])
        m.g.H, m.g.W = 1, g.H * g.W
    m.item, m.depth, m.origin = taps if deep else pixels, pixels if deep else taps, 0
    if min(min(xs[0], xs[1]), min(xs[2], xs[3])) >= 0 and t.N > 0:
        m.end = <const char*>(x + (t.N - 1) * xs[0] + (t.C - 1) * xs[1] + (g.H - 1) * xs[2] + (g.W - 1) * xs[3] + 1)
    else:
        m.end = NULL
    return m


cdef inline Output into(summand* data, Axis row, Axis lane, const summand* bias, bint add) noexcept nogil:
    cdef Output c
    c.data, c.row, c.lane, c.bias, c.lane_bias, c.add = <char*>data, row, lane, <const char*>bias, False, add
    c.between = False
    merge(&c.row)
    merge(&c.lane)
    return c


cdef void run_unit(const Task* t, const Matrix* a, const Matrix* b, const Output* c, Py_ssize_t unit,
                   summand* scratch) noexcept nogil:
    """One of row_blocks * lane_blocks parts of c: whole panels of lanes; rows cut as patches are."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t i = unit % t.row_blocks, j = unit // t.row_blocks, pieces = t.cut.outers * t.cut.pieces
    cdef Py_ssize_t rows = size_of(&c.row), lanes = size_of(&c.lane), panels = blocks_of(lanes, width)
    cdef Py_ssize_t first = rows * i // t.row_blocks, last = rows * (i + 1) // t.row_blocks
    if a.patched:
        first, last = cut_at(&t.cut, pieces * i // t.row_blocks), cut_at(&t.cut, pieces * (i + 1) // t.row_blocks)
    multiply(a, b, c, &t.depths, first, last, panels * j // t.lane_blocks * width,
             min(panels * (j + 1) // t.lane_blocks * width, lanes), t.lane_parts, (<const summand*>t.cval)[0], scratch,
             t.patch_bytes)


cdef void forward_unit(const Task* t, Py_ssize_t unit, summand* scratch) noexcept nogil:
    cdef Py_ssize_t g = unit % t.groups
    cdef const Py_ssize_t* ws = &t.ws.of[0]
    cdef const Py_ssize_t* ys = &t.ys.of[0]
    cdef const summand* bias = <const summand*>t.bias
    cdef Matrix windows = windows_of(t, <const summand*>t.x + g * t.C * t.xs.of[1], False)
    cdef Axis taps = taps_axis(t, ws[2], ws[3], ws[4])
    cdef Matrix weights = plain(<const summand*>t.w + g * ws[0], filters_axis(t.K, ws[1]), taps)
    cdef Axis filters = filters_axis(t.K, ys[1]), pixels = pixels_axis(t, ys[0], ys[2], ys[3])
    cdef Output out = into(<summand*>t.y + g * t.K * ys[1], pixels if t.swapped else filters,
                           filters if t.swapped else pixels, bias + g * t.K if bias != NULL else NULL, False)
    out.lane_bias, out.between = t.swapped and bias != NULL, t.between
    if t.whole:
        weights.whole, weights.depth = True, taps
    if t.swapped:
        run_unit(t, &windows, &weights, &out, unit // t.groups, scratch)
    else:
        run_unit(t, &weights, &windows, &out, unit // t.groups, scratch)


cdef void weight_unit(const Task* t, Py_ssize_t unit, summand* scratch) noexcept nogil:
    cdef Py_ssize_t g = unit % t.groups
    cdef const Py_ssize_t* ws = &t.ws.of[0]
    cdef const Py_ssize_t* ys = &t.ys.of[0]
    cdef Matrix windows = windows_of(t, <const summand*>t.x + g * t.C * t.xs.of[1], True)
    cdef Matrix gradient = plain(<const summand*>t.y + g * t.K * ys[1], filters_axis(t.K, ys[1]),
                                 pixels_axis(t, ys[0], ys[2], ys[3]))
    cdef Axis filters = filters_axis(t.K, ws[1]), taps = taps_axis(t, ws[2], ws[3], ws[4])
    cdef Output out = into(<summand*>t.w + g * ws[0], taps if t.swapped else filters, filters if t.swapped else taps,
                           <const summand*>NULL, False)
    if t.swapped:
        run_unit(t, &windows, &gradient, &out, unit // t.groups, scratch)
    else:
        run_unit(t, &gradient, &windows, &out, unit // t.groups, scratch)


cdef Cut cut_of(tuple numbers) except *:
    cdef Cut cut
    cut.outers, cut.units, cut.unit, cut.pieces = numbers
    return cut


cdef Task make_task(const summand[:, :, :, :] x, const summand[:, :, :, :, :] w, const summand[:, :, :, :] y,
                    const summand* cval, tuple geometry, const int64_t[::1] rows, const int64_t[::1] columns) except *:
    cdef Task t
    (t.groups, t.C, t.K, t.g.H, t.g.W, t.g.R, t.g.S, t.g.P, t.g.Q, t.g.top, t.g.left, t.g.sh, t.g.sw, t.g.dh,
     t.g.dw) = geometry
    t.g.rows, t.g.columns = &rows[0], &columns[0]
    t.N, t.cval = x.shape[0], cval
    t.x, t.w, t.y = <void*>&x[0, 0, 0, 0], <void*>&w[0, 0, 0, 0, 0], <void*>&y[0, 0, 0, 0]
    t.xs, t.ys = elements(x.strides, 4, sizeof(summand)), elements(y.strides, 4, sizeof(summand))
    t.ws = elements(w.strides, 5, sizeof(summand))
    return t


cdef Py_ssize_t set_blocks(Task* t, tuple blocks) except -1:
    """The number of units."""
    (t.patched, t.channels_last, t.whole, t.swapped, t.row_blocks, t.lane_blocks, t.lane_parts, t.patch_bytes, depths,
     cut) = blocks
    t.depths, t.cut = cut_of(depths), cut_of(cut)
    return t.groups * t.row_blocks * t.lane_blocks


cdef struct Planes:
    const void* even
    const void* odd
    void* out
    Py_ssize_t evens, odds, C, rows
    Strides strides


cdef void zip_unit(const Planes* t, Py_ssize_t plane, summand* scratch) noexcept nogil:
    """One plane of out[..., ::2] = even, out[..., 1::2] = odd; both are dense, and rows of out too."""
    cdef Py_ssize_t evens = t.evens, odds = t.odds, step = t.strides.of[2], row
    cdef const summand* even = <const summand*>t.even + plane * t.rows * evens
    cdef const summand* odd = <const summand*>t.odd + plane * t.rows * odds
    cdef summand* out = <summand*>t.out + plane // t.C * t.strides.of[0] + plane % t.C * t.strides.of[1]
    for row in range(t.rows):
        prefetch_to_write(out + (row + 8) * step, (evens + odds) * <Py_ssize_t>sizeof(summand))
        if summand is float:
            f32_zip_row(even + row * evens, evens, odd + row * odds, odds, out + row * step)
        elif summand is double:
            f64_zip_row(even + row * evens, evens, odd + row * odds, odds, out + row * step)
        else:
            u64_zip_row(even + row * evens, evens, odd + row * odds, odds, out + row * step)


cdef Planes planes_of(const summand[:, :, :, ::1] even, const summand[:, :, :, ::1] odd,
                      summand[:, :, :, :] out) noexcept:
    cdef Planes t
    t.even, t.odd, t.out = &even[0, 0, 0, 0], &odd[0, 0, 0, 0], &out[0, 0, 0, 0]
    t.evens, t.odds, t.C, t.rows = even.shape[3], odd.shape[3], out.shape[1], out.shape[2]
    t.strides = elements(out.strides, 4, sizeof(summand))
    return t


cdef struct Turning:
    const void* w  # (groups, C, K, R, S) of any strides
    void* out
    Py_ssize_t shape[5]
    Strides ws


cdef Turning turning_of(const summand[:, :, :, :, :] w, summand[:, :, :, :, ::1] out) noexcept:
    cdef Turning t
    cdef int i
    t.w, t.out, t.ws = &w[0, 0, 0, 0, 0], &out[0, 0, 0, 0, 0], elements(w.strides, 5, sizeof(summand))
    for i in range(5):
        t.shape[i] = w.shape[i]
    return t


cdef void turn_unit(const Turning* turning, Py_ssize_t unit, summand* scratch) noexcept nogil:
    """One k of one group of a copy of w in the order (groups, K, R, S, C): the taps of many c at a time."""
    cdef const Py_ssize_t* shape = &turning.shape[0]
    cdef const Py_ssize_t* ws = &turning.ws.of[0]
    cdef Py_ssize_t C = shape[1], taps = shape[3] * shape[4], c, i, t, count, piece
    cdef Py_ssize_t low = min(ws[3], 0) * (shape[3] - 1) + min(ws[4], 0) * (shape[4] - 1)  # its first tap in memory
    cdef Py_ssize_t span = max(ws[3], 0) * (shape[3] - 1) + max(ws[4], 0) * (shape[4] - 1) - low + 1
    cdef const summand* w = <const summand*>turning.w
    cdef const summand* end = w + 1
    cdef const summand* source = w + unit // shape[2] * ws[0] + unit % shape[2] * ws[2]
    cdef summand* to = <summand*>turning.out + unit * taps * C
    cdef ptrdiff_t offsets[TURNED]
    cdef ptrdiff_t places[TURNED]
    cdef summand rows[TURNED * TURNED]
    for i in range(5):
        end += max(ws[i], 0) * (shape[i] - 1)
    count_up(TURNED, ws[1], offsets)
    count_up(TURNED, TURNED, places)
    for piece in range(blocks_of(C, TURNED)):
        c = piece * TURNED
        count = min(C - c, TURNED)
        if span <= TURNED:
            transpose_rows(source + c * ws[1] + low, <const ptrdiff_t*>offsets, count, 0, span, <const char*>end,
                           <summand*>rows, <const ptrdiff_t*>places)
        for t in range(taps):
            i = t // shape[4] * ws[3] + t % shape[4] * ws[4]
            if span <= TURNED:
                copy(<const summand*>rows + (i - low) * TURNED, 1, count, to + t * C + c)
            else:
                copy(source + c * ws[1] + i, ws[1], count, to + t * C + c)


cdef inline bint run_finite(const summand* values, Py_ssize_t n) noexcept nogil:
    if summand is float:
        return f32_run_finite(values, n)
    elif summand is double:
        return f64_run_finite(values, n)
    else:
        return u64_run_finite(values, n)


cdef bint all_finite(const summand* values, const Py_ssize_t* shape, const Py_ssize_t* strides) noexcept nogil:
    cdef Py_ssize_t row, i, n = shape[3]
    cdef const summand* run
    for row in range(shape[0] * shape[1] * shape[2]):
        run = (values + row % shape[2] * strides[2] + row // shape[2] % shape[1] * strides[1]
               + row // shape[2] // shape[1] * strides[0])
        if strides[3] == 1:
            if not run_finite(run, n):
                return False
        else:
            for i in range(n):
                if not run_finite(run + i * strides[3], 1):
                    return False
    return True


# --- convolution: im2col ---------------------------------------------------------------------------
#
# The textbook's form on the same product: a block of windows is written out as a matrix, then multiplied.


cdef struct Block:  # a rectangle of output pixels
    Py_ssize_t p0, p1, q0, q1, pixels


cdef inline Block pixel_block(Py_ssize_t i, const Task* t) noexcept nogil:
    cdef Block b
    cdef Py_ssize_t across = blocks_of(t.g.Q, t.block_q)
    b.p0, b.q0 = i // across * t.block_p, i % across * t.block_q
    b.p1, b.q1 = min(b.p0 + t.block_p, t.g.P), min(b.q0 + t.block_q, t.g.Q)
    b.pixels = (b.p1 - b.p0) * (b.q1 - b.q0)
    return b


cdef inline Py_ssize_t pixel_blocks(const Task* t) noexcept nogil:
    return blocks_of(t.g.P, t.block_p) * blocks_of(t.g.Q, t.block_q)


cdef inline Axis rectangle(Block b, Py_ssize_t p, Py_ssize_t q) noexcept nogil:
    cdef Axis a
    set_level(&a, 0, 1, 0)
    set_level(&a, 1, b.p1 - b.p0, p)
    set_level(&a, 2, b.q1 - b.q0, q)
    return a


cdef inline Axis window_rows(const Task* t, Py_ssize_t channels) noexcept nogil:
    cdef Axis a
    set_level(&a, 0, channels, t.ws.of[2])
    set_level(&a, 1, t.g.R, t.ws.of[3])
    set_level(&a, 2, t.g.S, t.ws.of[4])
    return a


cdef void columns_product(const Task* t, const Matrix* a, const Matrix* b, const Output* c,
                          summand* scratch) noexcept nogil:
    """All of c. The worker's scratch begins with the matrix of windows."""
    cdef Cut cut = whole(size_of(&a.depth))
    cut.pieces = blocks_of(cut.units, GEMM_DEPTH_BYTES // sizeof(summand))
    multiply(a, b, c, &cut, 0, size_of(&c.row), 0, size_of(&c.lane), 1, <summand>0,
             <summand*>(<char*>scratch + t.cols_bytes), 0)


cdef void columns_forward(const Task* t, Py_ssize_t unit, summand* cols) noexcept nogil:
    """One block of pixels of all filters of one group and sample."""
    cdef Block b = pixel_block(unit % pixel_blocks(t), t)
    cdef Py_ssize_t g = unit // pixel_blocks(t) % t.groups, n = unit // pixel_blocks(t) // t.groups
    cdef const Py_ssize_t* xs = &t.xs.of[0]
    cdef const Py_ssize_t* ys = &t.ys.of[0]
    cdef const summand* bias = <const summand*>t.bias
    cdef Matrix weights = plain(<const summand*>t.w + g * t.ws.of[0], filters_axis(t.K, t.ws.of[1]), window_rows(t, t.C))
    cdef Matrix windows = plain(<const summand*>cols, filters_axis(b.pixels, 1),
                                filters_axis(t.C * t.g.R * t.g.S, b.pixels))
    cdef Output out = into(<summand*>t.y + n * ys[0] + g * t.K * ys[1] + b.p0 * ys[2] + b.q0 * ys[3],
                           filters_axis(t.K, ys[1]), rectangle(b, ys[2], ys[3]),
                           bias + g * t.K if bias != NULL else NULL, False)
    gather_windows(<const summand*>t.x + n * xs[0] + g * t.C * xs[1], xs[1], xs[2], xs[3], &t.g,
                   (<const summand*>t.cval)[0], 0, t.C, b.p0, b.p1, b.q0, b.q1, cols, b.pixels)
    columns_product(t, &weights, &windows, &out, cols)


cdef void columns_input(const Task* t, Py_ssize_t unit, summand* cols) noexcept nogil:
    """The planes of a block of channels of one sample: nobody else writes there."""
    cdef Py_ssize_t c_blocks = blocks_of(t.C, t.block_c)
    cdef Py_ssize_t c0 = unit % c_blocks * t.block_c, g = unit // c_blocks % t.groups, n = unit // c_blocks // t.groups
    cdef Py_ssize_t channels = min(t.block_c, t.C - c0)
    cdef const Py_ssize_t* xs = &t.xs.of[0]
    cdef const Py_ssize_t* ws = &t.ws.of[0]
    cdef const Py_ssize_t* ys = &t.ys.of[0]
    cdef const summand* bias = <const summand*>t.bias
    cdef summand* planes = <summand*>t.x + n * xs[0] + (g * t.C + c0) * xs[1]
    cdef Matrix weights = plain(<const summand*>t.w + g * ws[0] + c0 * ws[2], window_rows(t, channels),
                                filters_axis(t.K, ws[1]))
    cdef Matrix gradient
    cdef Output out
    cdef Py_ssize_t i, c, h, v
    cdef Block b
    cdef summand start
    for c in range(channels):
        start = bias[g * t.C + c0 + c] if bias != NULL else 0
        for h in range(t.g.H):
            for v in range(t.g.W):
                planes[c * xs[1] + h * xs[2] + v * xs[3]] = start
    for i in range(pixel_blocks(t)):
        b = pixel_block(i, t)
        gradient = plain(<const summand*>t.y + n * ys[0] + g * t.K * ys[1] + b.p0 * ys[2] + b.q0 * ys[3],
                         rectangle(b, ys[2], ys[3]), filters_axis(t.K, ys[1]))
        out = into(cols, filters_axis(channels * t.g.R * t.g.S, b.pixels), filters_axis(b.pixels, 1),
                   <const summand*>NULL, False)
        columns_product(t, &weights, &gradient, &out, cols)
        scatter_windows(planes, xs[1], xs[2], xs[3], &t.g, 0, channels, b.p0, b.p1, b.q0, b.q1, <const summand*>cols,
                        b.pixels)


cdef void columns_weight(const Task* t, Py_ssize_t unit, summand* cols) noexcept nogil:
    """dw of a block of channels and all filters of one group."""
    cdef Py_ssize_t c_blocks = blocks_of(t.C, t.block_c), blocks = pixel_blocks(t)
    cdef Py_ssize_t c0 = unit % c_blocks * t.block_c, g = unit // c_blocks, channels = min(t.block_c, t.C - c0), i, n
    cdef const Py_ssize_t* xs = &t.xs.of[0]
    cdef const Py_ssize_t* ws = &t.ws.of[0]
    cdef const Py_ssize_t* ys = &t.ys.of[0]
    cdef Matrix windows, gradient
    cdef Output out
    cdef Block b
    for i in range(t.N * blocks):
        n = i // blocks
        b = pixel_block(i % blocks, t)
        gather_windows(<const summand*>t.x + n * xs[0] + (g * t.C + c0) * xs[1], xs[1], xs[2], xs[3], &t.g,
                       (<const summand*>t.cval)[0], 0, channels, b.p0, b.p1, b.q0, b.q1, cols, b.pixels)
        windows = plain(<const summand*>cols, filters_axis(channels * t.g.R * t.g.S, b.pixels), filters_axis(b.pixels, 1))
        gradient = plain(<const summand*>t.y + n * ys[0] + g * t.K * ys[1] + b.p0 * ys[2] + b.q0 * ys[3],
                         filters_axis(t.K, ys[1]), rectangle(b, ys[2], ys[3]))
        out = into(<summand*>t.w + g * ws[0] + c0 * ws[2], window_rows(t, channels), filters_axis(t.K, ws[1]),
                   <const summand*>NULL, i > 0)
        columns_product(t, &windows, &gradient, &out, cols)


cdef int set_columns(Task* t, tuple blocks, Py_ssize_t cols_bytes) except -1:
    t.block_p, t.block_q, t.block_c = blocks
    t.cols_bytes = cols_bytes
    return 0


# One entry for each dtype. x, dy, y, dx: (N, channels, height, width), w and dw: (groups, K/groups, C/groups, R, S), all of
# any strides; bias: empty for none; geometry, blocks and the index vectors as fastconv/algorithms makes them.


def f32_gemm_forward(const float[:, :, :, :] x, const float[:, :, :, :, :] w, const float[::1] bias, float[:, :, :, :] y,
                     float cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                     uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers, bint between):
    cdef Task t = make_task[float](x, w, y, &cval, geometry, rows, columns)
    cdef Py_ssize_t units = set_blocks(&t, blocks)
    t.bias, t.between = &bias[0] if bias.shape[0] else NULL, between
    with nogil:
        share(<unit_function>forward_unit[float], &t, units, <char*>&scratch[0], worker_bytes, workers)


def f32_gemm_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :, :] dw, float cval,
                         tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                         uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[float](x, dw, dy, &cval, geometry, rows, columns)
    cdef Py_ssize_t units = set_blocks(&t, blocks)
    with nogil:
        share(<unit_function>weight_unit[float], &t, units, <char*>&scratch[0], worker_bytes, workers)


def f32_zip(const float[:, :, :, ::1] even, const float[:, :, :, ::1] odd, float[:, :, :, :] out, int workers):
    """out[..., ::2] = even, out[..., 1::2] = odd; rows of out are dense."""
    cdef Planes t = planes_of[float](even, odd, out)
    with nogil:
        share(<unit_function>zip_unit[float], &t, out.shape[0] * out.shape[1], NULL, 0, workers)


def f32_turn(const float[:, :, :, :, :] w, float[:, :, :, :, ::1] out, int workers):
    """out (groups, K, R, S, C) = w (groups, C, K, R, S)."""
    cdef Turning t = turning_of[float](w, out)
    with nogil:
        share(<unit_function>turn_unit[float], &t, w.shape[0] * w.shape[2], NULL, 0, workers)


def f32_finite(const float[:, :, :, :] values):
    """Is every element finite?"""
    cdef Strides strides = elements(values.strides, 4, 4)
    cdef bint finite
    with nogil:
        finite = all_finite[float](&values[0, 0, 0, 0], values.shape, strides.of)
    return finite


def f32_forward(const float[:, :, :, :] x, const float[:, :, :, :, :] w, const float[::1] bias, float[:, :, :, :] y,
                float cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[float](x, w, y, &cval, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    t.bias = &bias[0] if bias.shape[0] else NULL
    with nogil:
        share(<unit_function>columns_forward[float], &t, t.N * t.groups * pixel_blocks(&t), <char*>&scratch[0],
              worker_bytes, workers)


def f32_input_grad(const float[:, :, :, :] dy, const float[:, :, :, :, :] w, const float[::1] bias, float[:, :, :, :] dx,
                   tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                   uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[float](dx, w, dy, NULL, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    t.bias = &bias[0] if bias.shape[0] else NULL
    with nogil:
        share(<unit_function>columns_input[float], &t, t.N * t.groups * blocks_of(t.C, t.block_c), <char*>&scratch[0],
              worker_bytes, workers)


def f32_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :, :] dw, float cval,
                    tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[float](x, dw, dy, &cval, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    with nogil:
        share(<unit_function>columns_weight[float], &t, t.groups * blocks_of(t.C, t.block_c), <char*>&scratch[0],
              worker_bytes, workers)


def f64_gemm_forward(const double[:, :, :, :] x, const double[:, :, :, :, :] w, const double[::1] bias, double[:, :, :, :] y,
                     double cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                     uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers, bint between):
    cdef Task t = make_task[double](x, w, y, &cval, geometry, rows, columns)
    cdef Py_ssize_t units = set_blocks(&t, blocks)
    t.bias, t.between = &bias[0] if bias.shape[0] else NULL, between
    with nogil:
        share(<unit_function>forward_unit[double], &t, units, <char*>&scratch[0], worker_bytes, workers)


def f64_gemm_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :, :] dw, double cval,
                         tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                         uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[double](x, dw, dy, &cval, geometry, rows, columns)
    cdef Py_ssize_t units = set_blocks(&t, blocks)
    with nogil:
        share(<unit_function>weight_unit[double], &t, units, <char*>&scratch[0], worker_bytes, workers)


def f64_zip(const double[:, :, :, ::1] even, const double[:, :, :, ::1] odd, double[:, :, :, :] out, int workers):
    """out[..., ::2] = even, out[..., 1::2] = odd; rows of out are dense."""
    cdef Planes t = planes_of[double](even, odd, out)
    with nogil:
        share(<unit_function>zip_unit[double], &t, out.shape[0] * out.shape[1], NULL, 0, workers)


def f64_turn(const double[:, :, :, :, :] w, double[:, :, :, :, ::1] out, int workers):
    """out (groups, K, R, S, C) = w (groups, C, K, R, S)."""
    cdef Turning t = turning_of[double](w, out)
    with nogil:
        share(<unit_function>turn_unit[double], &t, w.shape[0] * w.shape[2], NULL, 0, workers)


def f64_finite(const double[:, :, :, :] values):
    """Is every element finite?"""
    cdef Strides strides = elements(values.strides, 4, 8)
    cdef bint finite
    with nogil:
        finite = all_finite[double](&values[0, 0, 0, 0], values.shape, strides.of)
    return finite


def f64_forward(const double[:, :, :, :] x, const double[:, :, :, :, :] w, const double[::1] bias, double[:, :, :, :] y,
                double cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[double](x, w, y, &cval, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    t.bias = &bias[0] if bias.shape[0] else NULL
    with nogil:
        share(<unit_function>columns_forward[double], &t, t.N * t.groups * pixel_blocks(&t), <char*>&scratch[0],
              worker_bytes, workers)


def f64_input_grad(const double[:, :, :, :] dy, const double[:, :, :, :, :] w, const double[::1] bias, double[:, :, :, :] dx,
                   tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                   uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[double](dx, w, dy, NULL, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    t.bias = &bias[0] if bias.shape[0] else NULL
    with nogil:
        share(<unit_function>columns_input[double], &t, t.N * t.groups * blocks_of(t.C, t.block_c), <char*>&scratch[0],
              worker_bytes, workers)


def f64_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :, :] dw, double cval,
                    tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[double](x, dw, dy, &cval, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    with nogil:
        share(<unit_function>columns_weight[double], &t, t.groups * blocks_of(t.C, t.block_c), <char*>&scratch[0],
              worker_bytes, workers)


def u64_gemm_forward(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :, :] w, const uint64_t[::1] bias,
                     uint64_t[:, :, :, :] y, uint64_t cval, tuple geometry, tuple blocks, const int64_t[::1] rows,
                     const int64_t[::1] columns, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers, bint between):
    cdef Task t = make_task[uint64_t](x, w, y, &cval, geometry, rows, columns)
    cdef Py_ssize_t units = set_blocks(&t, blocks)
    t.bias, t.between = &bias[0] if bias.shape[0] else NULL, between
    with nogil:
        share(<unit_function>forward_unit[uint64_t], &t, units, <char*>&scratch[0], worker_bytes, workers)


def u64_gemm_weight_grad(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :] dy, uint64_t[:, :, :, :, :] dw,
                         uint64_t cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                         uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[uint64_t](x, dw, dy, &cval, geometry, rows, columns)
    cdef Py_ssize_t units = set_blocks(&t, blocks)
    with nogil:
        share(<unit_function>weight_unit[uint64_t], &t, units, <char*>&scratch[0], worker_bytes, workers)


def u64_zip(const uint64_t[:, :, :, ::1] even, const uint64_t[:, :, :, ::1] odd, uint64_t[:, :, :, :] out, int workers):
    """out[..., ::2] = even, out[..., 1::2] = odd; rows of out are dense."""
    cdef Planes t = planes_of[uint64_t](even, odd, out)
    with nogil:
        share(<unit_function>zip_unit[uint64_t], &t, out.shape[0] * out.shape[1], NULL, 0, workers)


def u64_turn(const uint64_t[:, :, :, :, :] w, uint64_t[:, :, :, :, ::1] out, int workers):
    """out (groups, K, R, S, C) = w (groups, C, K, R, S)."""
    cdef Turning t = turning_of[uint64_t](w, out)
    with nogil:
        share(<unit_function>turn_unit[uint64_t], &t, w.shape[0] * w.shape[2], NULL, 0, workers)


def u64_finite(const uint64_t[:, :, :, :] values):
    """Is every element finite?"""
    cdef Strides strides = elements(values.strides, 4, 8)
    cdef bint finite
    with nogil:
        finite = all_finite[uint64_t](&values[0, 0, 0, 0], values.shape, strides.of)
    return finite


def u64_forward(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :, :] w, const uint64_t[::1] bias,
                uint64_t[:, :, :, :] y, uint64_t cval, tuple geometry, tuple blocks, const int64_t[::1] rows,
                const int64_t[::1] columns, uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes,
                int workers):
    cdef Task t = make_task[uint64_t](x, w, y, &cval, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    t.bias = &bias[0] if bias.shape[0] else NULL
    with nogil:
        share(<unit_function>columns_forward[uint64_t], &t, t.N * t.groups * pixel_blocks(&t), <char*>&scratch[0],
              worker_bytes, workers)


def u64_input_grad(const uint64_t[:, :, :, :] dy, const uint64_t[:, :, :, :, :] w, const uint64_t[::1] bias,
                   uint64_t[:, :, :, :] dx, tuple geometry, tuple blocks, const int64_t[::1] rows,
                   const int64_t[::1] columns, uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes,
                   int workers):
    cdef Task t = make_task[uint64_t](dx, w, dy, NULL, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    t.bias = &bias[0] if bias.shape[0] else NULL
    with nogil:
        share(<unit_function>columns_input[uint64_t], &t, t.N * t.groups * blocks_of(t.C, t.block_c), <char*>&scratch[0],
              worker_bytes, workers)


def u64_weight_grad(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :] dy, uint64_t[:, :, :, :, :] dw, uint64_t cval,
                    tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task[uint64_t](x, dw, dy, &cval, geometry, rows, columns)
    set_columns(&t, blocks, cols_bytes)
    with nogil:
        share(<unit_function>columns_weight[uint64_t], &t, t.groups * blocks_of(t.C, t.block_c), <char*>&scratch[0],
              worker_bytes, workers)
