"""Convolution as a product of matrices, in all three directions: implicit GEMM, and the textbook's im2col beside it.

Called by fastconv/algorithms/gemm.py and im2col.py, which decide block sizes. Knows no cost, choice or padding rule.

Every array is a matrix over two axes, and an axis is three nested loops, each with a stride:

    filters   (k)          channels and taps   (c, r, s), or (r, s, c) where channels lie side by side
    pixels    (n, p, q)

    forward       y[k, npq]  = sum_crs w[k, crs] * windows[crs, npq]
    weight_grad   dw[k, crs] = sum_npq dy[k, npq] * windows[crs, npq]
    input_grad    forward with turned filters (fastconv/algorithms/phases.py)

The windows are a matrix as well: element (c, r, s; n, p, q) is x[n, c, rows[p*sh + r*dh], columns[q*sw + s*dw]] or the
constant. They never exist as a whole. multiply() cuts a product C (rows x lanes) = A (rows x depth) B (depth x lanes) as

    for a block of the depth:          b: panels [depth][GEMM_N] of all lanes, in the second cache
        for a panel of rows:           a: [height][GEMM_LDA], in the first cache
            for a panel of lanes:      the tile of simd/gemm_tile.h, straight into C where its rows lie in one piece

and fetch() fills panels of any matrix. Which operand is A and which is B is the caller's choice: a product and its
transpose add up the same terms in the same order. Each element of C is summed in depth blocks, which the depth alone
settles, so its bytes depend neither on how C is cut into units of work nor on the other elements.

Each worker has `worker_bytes` of scratch, 64-byte aligned; workers == 1 never enters a parallel region.
"""

from cython.parallel cimport prange, threadid
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from windows cimport Geometry, gather_windows, scatter_windows, summand

cdef extern from "tiles.h" nogil:
    const int GEMM_M
    const int GEMM_VECTORS
    const int GEMM_DEPTH_BYTES
    const int VECTOR_BYTES
    void prefetch(const void*, ptrdiff_t)
    void f32_gemm_tile(ptrdiff_t, ptrdiff_t, ptrdiff_t, const float*, const float*, const float*, float*, ptrdiff_t)
    void f32_copy(const float*, ptrdiff_t, float*)
    void f32_copy_every_2(const float*, ptrdiff_t, float*)
    void f32_add(const float*, ptrdiff_t, float*)
    void f32_put_every_2(const float*, ptrdiff_t, float*, int)
    void f32_copy_runs(const float*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, float*, ptrdiff_t)
    void f32_transpose(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, float*, ptrdiff_t)
    void f64_gemm_tile(ptrdiff_t, ptrdiff_t, ptrdiff_t, const double*, const double*, const double*, double*, ptrdiff_t)
    void f64_copy(const double*, ptrdiff_t, double*)
    void f64_copy_every_2(const double*, ptrdiff_t, double*)
    void f64_add(const double*, ptrdiff_t, double*)
    void f64_put_every_2(const double*, ptrdiff_t, double*, int)
    void f64_copy_runs(const double*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, double*, ptrdiff_t)
    void f64_transpose(const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t, double*, ptrdiff_t)
    void u64_gemm_tile(ptrdiff_t, ptrdiff_t, ptrdiff_t, const uint64_t*, const uint64_t*, const uint64_t*, uint64_t*, ptrdiff_t)
    void u64_copy(const uint64_t*, ptrdiff_t, uint64_t*)
    void u64_copy_every_2(const uint64_t*, ptrdiff_t, uint64_t*)
    void u64_add(const uint64_t*, ptrdiff_t, uint64_t*)
    void u64_put_every_2(const uint64_t*, ptrdiff_t, uint64_t*, int)
    void u64_copy_runs(const uint64_t*, const ptrdiff_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, uint64_t*, ptrdiff_t)
    void u64_transpose(const uint64_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, uint64_t*, ptrdiff_t)

TILE_ROWS, TILE_VECTORS = GEMM_M, GEMM_VECTORS
TILE_BYTES = GEMM_VECTORS * VECTOR_BYTES
"""Bytes of one row of a tile."""
DEPTH_BYTES = GEMM_DEPTH_BYTES
"""Bytes of one row of a block of the depth, at the most."""
cdef Py_ssize_t OFFSETS_BYTES = GEMM_DEPTH_BYTES // 4 * sizeof(ptrdiff_t)
PANEL_BYTES = OFFSETS_BYTES + (16 + 32) * (GEMM_DEPTH_BYTES + 64) + 16 * GEMM_VECTORS * VECTOR_BYTES
"""Scratch of a product beside the panels of b and a patch: offsets, a, 32 rows to be transposed, and a tile of c."""


cdef inline Py_ssize_t blocks_of(Py_ssize_t extent, Py_ssize_t block) noexcept nogil:
    return (extent + block - 1) // block


cdef inline Py_ssize_t up(Py_ssize_t extent, Py_ssize_t block) noexcept nogil:
    return (extent + block - 1) // block * block


# --- matrices --------------------------------------------------------------------------------------


cdef struct Axis:  # nested loops, the innermost last
    Py_ssize_t extent[3]
    Py_ssize_t stride[3]  # in elements
    Py_ssize_t down[3]  # windows only: rows and columns of the padded image
    Py_ssize_t right[3]


cdef struct Matrix:
    char* data
    Axis item  # filters or pixels: a row of A, a lane of B
    Axis depth  # what is summed over
    bint padded  # windows that may leave the image
    bint patched  # windows packed by way of a copied patch of the image
    Geometry g  # of windows
    Py_ssize_t channels
    Py_ssize_t sample, channel, row, column  # strides of x


cdef struct Place:
    Py_ssize_t i[3]


cdef inline void set_level(Axis* a, int level, Py_ssize_t extent, Py_ssize_t stride) noexcept nogil:
    a.extent[level], a.stride[level], a.down[level], a.right[level] = extent, stride, 0, 0


cdef inline void copy_level(Axis* a, int source, int target) noexcept nogil:
    a.extent[target], a.stride[target] = a.extent[source], a.stride[source]
    a.down[target], a.right[target] = a.down[source], a.right[source]


cdef inline bint one_run(const Axis* a, int level) noexcept nogil:
    """Do the loops `level` and `level` + 1 together count up as one?"""
    cdef Py_ssize_t n = a.extent[level + 1]
    return (a.extent[level] == 1 or n == 1 or (a.stride[level] == n * a.stride[level + 1]
            and a.down[level] == n * a.down[level + 1] and a.right[level] == n * a.right[level + 1]))


cdef inline void fold(Axis* a, int level) noexcept nogil:
    """The loops `level` and `level` + 1 as one."""
    if a.extent[level + 1] == 1:
        copy_level(a, level, level + 1)
    else:
        a.extent[level + 1] *= a.extent[level]
    set_level(a, level, 1, 0)


cdef void merge(Axis* a) noexcept nogil:
    """The same axis in as few and as long loops as can be; the outer ones have an extent of 1."""
    if one_run(a, 0):
        fold(a, 0)
    if one_run(a, 1):
        fold(a, 1)
        copy_level(a, 0, 1)
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


cdef inline Py_ssize_t dot(const Py_ssize_t* steps, const Place* p) noexcept nogil:
    return steps[0] * p.i[0] + steps[1] * p.i[1] + steps[2] * p.i[2]


# --- filling panels --------------------------------------------------------------------------------


cdef inline void copy(const summand* source, Py_ssize_t step, Py_ssize_t n, summand* out) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1:
        if summand is float:
            f32_copy(source, n, out)
        elif summand is double:
            f64_copy(source, n, out)
        else:
            u64_copy(source, n, out)
    elif step == 2:
        if summand is float:
            f32_copy_every_2(source, n, out)
        elif summand is double:
            f64_copy_every_2(source, n, out)
        else:
            u64_copy_every_2(source, n, out)
    else:
        for i in range(n):
            out[i] = source[i * step]


cdef inline void fill(summand value, Py_ssize_t n, summand* out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = value


cdef inline void window_piece(const Matrix* m, const summand* source, Py_ssize_t u, Py_ssize_t v, Py_ssize_t stride,
                              Py_ssize_t down, Py_ssize_t right, summand cval, Py_ssize_t n, summand* out) noexcept nogil:
    """n elements of one loop of the windows, from the padded position (u, v) on."""
    cdef Py_ssize_t i, h, w, inside, outside, offset
    if down != 0:
        for i in range(n):
            h, w = m.g.rows[u + i * down], m.g.columns[v + i * right]
            out[i] = source[i * stride + h * m.row + w * m.column] if h >= 0 and w >= 0 else cval
        return
    h = m.g.rows[u]
    if h < 0:
        fill(cval, n, out)
        return
    source += h * m.row
    if right == 0:
        w = m.g.columns[v]
        if w < 0:
            fill(cval, n, out)
        else:
            copy(source + w * m.column, stride, n, out)
        return
    offset = v - m.g.left  # columns inside the image count up: only the others are looked up
    inside, outside = 0, n
    if offset < 0:
        inside = min((right - 1 - offset) // right, n)
    if offset + (n - 1) * right >= m.g.W:
        outside = max((m.g.W - offset + right - 1) // right, inside) if offset < m.g.W else inside
    for i in range(inside):
        w = m.g.columns[v + i * right]
        out[i] = source[i * stride + w * m.column] if w >= 0 else cval
    copy(source + inside * stride + (inside * right + offset) * m.column, stride + right * m.column, outside - inside,
         out + inside)
    for i in range(outside, n):
        w = m.g.columns[v + i * right]
        out[i] = source[i * stride + w * m.column] if w >= 0 else cval


cdef inline void fetch(const Matrix* m, const Axis* fixed, const Place* at, const Axis* run, Place start,
                       Py_ssize_t count, summand cval, summand* out) noexcept nogil:
    """out[i] = m at `at` on one axis and i places after `start` on the other."""
    cdef Py_ssize_t n, u = 0, v = 0
    cdef const summand* source = <const summand*>m.data + dot(fixed.stride, at)
    if m.padded:
        u, v = dot(fixed.down, at), dot(fixed.right, at)
    while count > 0:
        n = min(count, run.extent[2] - start.i[2])
        if m.padded:
            window_piece(m, source + dot(run.stride, &start), u + dot(run.down, &start), v + dot(run.right, &start),
                         run.stride[2], run.down[2], run.right[2], cval, n, out)
        else:
            copy(source + dot(run.stride, &start), run.stride[2], n, out)
        move(run, &start, n)
        out += n
        count -= n


cdef inline Py_ssize_t step_of(const Matrix* m, const Axis* a) noexcept nogil:
    """Elements from one place of the innermost loop to the next: the shorter, the better to run along."""
    cdef Py_ssize_t step = a.stride[2] + a.right[2] * m.column + a.down[2] * m.row
    return step if step > 0 else -step


cdef inline bint against_the_grain(const Matrix* m) noexcept nogil:
    """Are elements nearer to each other along the items than along the depth?"""
    if m.item.extent[2] < 4 or m.depth.extent[2] < 4:  # too short to run along
        return m.item.extent[2] > m.depth.extent[2]
    return step_of(m, &m.item) < step_of(m, &m.depth)


cdef inline void transpose(const summand* source, Py_ssize_t ld_source, Py_ssize_t rows, Py_ssize_t columns, summand* out,
                           Py_ssize_t ld) noexcept nogil:
    if summand is float:
        f32_transpose(source, ld_source, rows, columns, out, ld)
    elif summand is double:
        f64_transpose(source, ld_source, rows, columns, out, ld)
    else:
        u64_transpose(source, ld_source, rows, columns, out, ld)


# Most matrices are plain: an element's address is an offset along one axis plus an offset along the other. Offsets along
# one axis are put in a table, and pieces of the other, which lie in one run, are copied for all of them.


cdef inline void copy_runs(const summand* source, const ptrdiff_t* offsets, Py_ssize_t count, Py_ssize_t step, Py_ssize_t n,
                           summand* out, Py_ssize_t ld) noexcept nogil:
    if summand is float:
        f32_copy_runs(source, offsets, count, step, n, out, ld)
    elif summand is double:
        f64_copy_runs(source, offsets, count, step, n, out, ld)
    else:
        u64_copy_runs(source, offsets, count, step, n, out, ld)


cdef inline void list_offsets(const Axis* a, Place start, Py_ssize_t count, ptrdiff_t* offsets) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        offsets[i] = dot(a.stride, &start)
        move(a, &start, 1)


cdef void fetch_all(const Matrix* m, const Axis* fixed, Place at, Py_ssize_t count, const Axis* run, Place start,
                    Py_ssize_t length, summand cval, ptrdiff_t* offsets, summand* out, Py_ssize_t ld) noexcept nogil:
    """out[k][i] = m at k places after `at` on one axis, i places after `start` on the other."""
    cdef Py_ssize_t k, n
    if m.padded:
        for k in range(count):
            fetch(m, fixed, &at, run, start, length, cval, out + k * ld)
            move(fixed, &at, 1)
        return
    list_offsets(fixed, at, count, offsets)
    while length > 0:
        n = min(length, run.extent[2] - start.i[2])
        copy_runs(<const summand*>m.data + dot(run.stride, &start), offsets, count, run.stride[2], n, out, ld)
        move(run, &start, n)
        out += n
        length -= n


# Windows that leave the image, or are strided, become plain by way of a patch: the image under a range of pixels and
# channels, padded and in polyphase order (src_cython/direct.pyx draws it), one part for each sample. In it, tap (c, r, s)
# of pixel (n, p, q) lies at the sum of an offset of the tap and an offset of the pixel, and q counts up by one.


cdef struct Patch:
    Py_ssize_t j0, j1, c0, c1  # what it holds; c1 == 0: nothing
    Py_ssize_t first_n, first_p, slots, pitch, phases_h, phases_w, plane
    Py_ssize_t elements  # room


cdef inline Py_ssize_t gcd(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef void copy_patch(const Matrix* m, Patch* t, Py_ssize_t j0, Py_ssize_t j1, Py_ssize_t c0, Py_ssize_t channels,
                     summand cval, summand* patch) noexcept nogil:
    """The image under pixels j0..j1, from channel c0 on, as many channels as there is room for."""
    cdef const Geometry* g = &m.g
    cdef Py_ssize_t first = j0 // g.Q, last = (j1 - 1) // g.Q, n, c, a, b, i, u, v, p0, rows
    cdef Py_ssize_t last_n = last // g.P, below = (g.R - 1) * g.dh // g.sh, samples
    cdef const summand* source
    t.first_n, t.first_p = first // g.P, first % g.P
    samples = last_n - t.first_n + 1
    rows = last - first + 1 if samples == 1 else g.P if samples > 2 else max(g.P - t.first_p, last % g.P + 1)
    t.phases_h, t.phases_w = min(g.R, g.sh // gcd(g.sh, g.dh)), min(g.S, g.sw // gcd(g.sw, g.dw))
    t.slots, t.pitch = rows + below, g.Q + (g.S - 1) * g.dw // g.sw
    t.plane = t.phases_h * t.phases_w * t.slots * t.pitch
    t.j0, t.j1, t.c0 = j0, j1, c0
    t.c1 = c0 + max(min(channels, t.elements // (t.plane * samples)), 1)
    for n in range(samples):
        p0 = t.first_p if n == 0 else 0
        rows = (last % g.P + 1 if n == samples - 1 else g.P) - p0 + below
        for c in range(c0, t.c1):
            source = <const summand*>m.data + (t.first_n + n) * m.sample + c * m.channel
            for a in range(t.phases_h):
                for i in range(rows):
                    u = (p0 + i) * g.sh + a * g.dh % g.sh
                    if u > (g.P - 1) * g.sh + (g.R - 1) * g.dh:
                        break
                    if g.rows[u] >= 0 and m.column == 1 and c + 1 < t.c1:
                        prefetch(source + m.channel + g.rows[u] * m.row, g.W * sizeof(summand))
                    for b in range(t.phases_w):
                        v = b * g.dw % g.sw
                        window_piece(
                            m, source, u, v, 0, 0, g.sw, cval,
                            min(t.pitch, ((g.Q - 1) * g.sw + (g.S - 1) * g.dw - v) // g.sw + 1),
                            patch + (n * (t.c1 - c0) + c - c0) * t.plane + ((a * t.phases_w + b) * t.slots + i) * t.pitch)


cdef void list_taps(const Matrix* m, const Patch* t, Py_ssize_t first, Py_ssize_t count, ptrdiff_t* offsets) noexcept nogil:
    """Where taps (c, r, s) lie in the patch, from the one of index `first` on."""
    cdef const Geometry* g = &m.g
    cdef Py_ssize_t c = first // (g.R * g.S), r = first // g.S % g.R, s = first % g.S, i, row
    row = tap_row(g, t, c, r)
    for i in range(count):
        offsets[i] = row + s % t.phases_w * t.slots * t.pitch + s * g.dw // g.sw
        s += 1
        if s == g.S:
            s = 0
            r += 1
            if r == g.R:
                r = 0
                c += 1
            row = tap_row(g, t, c, r)


cdef inline Py_ssize_t tap_row(const Geometry* g, const Patch* t, Py_ssize_t c, Py_ssize_t r) noexcept nogil:
    return (c - t.c0) * t.plane + (r % t.phases_h * t.phases_w * t.slots + r * g.dh // g.sh) * t.pitch


cdef void copy_pixels(const Matrix* m, const Patch* t, const summand* patch, const ptrdiff_t* offsets, Py_ssize_t count,
                      Py_ssize_t j, Py_ssize_t length, summand* out, Py_ssize_t ld) noexcept nogil:
    """out[k][i] = tap k of pixel j + i."""
    cdef Py_ssize_t q = j % m.g.Q, p = j // m.g.Q % m.g.P, n = j // m.g.Q // m.g.P - t.first_n, piece
    while length > 0:
        piece = min(length, m.g.Q - q)
        copy_runs(patch + n * (t.c1 - t.c0) * t.plane + (p - (t.first_p if n == 0 else 0)) * t.pitch + q, offsets, count, 1,
                  piece, out, ld)
        out += piece
        length -= piece
        q = 0
        p += 1
        if p == m.g.P:
            p = 0
            n += 1


cdef struct Room:  # a worker's scratch
    char* a  # a panel of rows
    char* room  # 32 rows to be transposed
    char* sums  # a tile of the product
    ptrdiff_t* offsets
    char* patch
    char* b  # the panels of lanes
    Patch held


cdef void pack_rows(const Matrix* m, Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t d0, Py_ssize_t depth, summand cval,
                    Room* room) noexcept nogil:
    """A panel of A: a[i][d], rows one GEMM_LDA apart."""
    cdef Py_ssize_t lda = (GEMM_DEPTH_BYTES + 64) // sizeof(summand), taps = m.g.R * m.g.S, done = 0, n
    cdef Place item = place_of(&m.item, i0), deep = place_of(&m.depth, d0)
    cdef summand* a = <summand*>room.a
    cdef Patch* held = &room.held
    if m.patched:
        while done < rows:
            n = (i0 + done) // taps
            if held.j0 != d0 or n < held.c0 or n >= held.c1:
                copy_patch(m, held, d0, d0 + depth, n, m.channels - n, cval, <summand*>room.patch)
            n = min(rows - done, held.c1 * taps - i0 - done)
            list_taps(m, held, i0 + done, n, room.offsets)
            copy_pixels(m, held, <const summand*>room.patch, room.offsets, n, d0, depth, a + done * lda, lda)
            done += n
    elif against_the_grain(m):
        fetch_all(m, &m.depth, deep, depth, &m.item, item, rows, cval, room.offsets, <summand*>room.room, 16)
        transpose(<const summand*>room.room, 16, depth, rows, a, lda)
    else:
        fetch_all(m, &m.item, item, rows, &m.depth, deep, depth, cval, room.offsets, a, lda)


cdef inline void foresee_rows(const Matrix* m, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t d, Py_ssize_t depth,
                              summand kind) noexcept nogil:
    """Rows i0..i1 will be packed soon."""
    cdef Py_ssize_t i
    cdef Place item, deep
    if m.patched or m.padded or m.depth.stride[2] != 1:
        return
    deep = place_of(&m.depth, d)
    for i in range(i0, i1):
        item = place_of(&m.item, i)
        prefetch(<const summand*>m.data + dot(m.item.stride, &item) + dot(m.depth.stride, &deep),
                 min(depth, m.depth.extent[2] - deep.i[2]) * sizeof(summand))


cdef inline void foresee_lanes(const Matrix* m, Py_ssize_t j0, Py_ssize_t j1, Py_ssize_t d0, Py_ssize_t d1,
                               summand kind) noexcept nogil:
    """Lanes j0..j1 of depths d0..d1 will be packed soon."""
    cdef Py_ssize_t d
    cdef Place item, deep
    if m.patched or m.padded or m.item.stride[2] != 1 or j0 >= j1:
        return
    item = place_of(&m.item, j0)
    for d in range(d0, d1):
        deep = place_of(&m.depth, d)
        prefetch(<const summand*>m.data + dot(m.item.stride, &item) + dot(m.depth.stride, &deep),
                 min(j1 - j0, m.item.extent[2] - item.i[2]) * sizeof(summand))


cdef void pack_lanes(const Matrix* m, Py_ssize_t j0, Py_ssize_t j1, Py_ssize_t d0, Py_ssize_t depth, Py_ssize_t kc,
                     summand cval, Room* room) noexcept nogil:
    """The panels of B: b[j / GEMM_N][d][j % GEMM_N], kc rows each, zeros beyond the last lane."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand), taps = m.g.R * m.g.S
    cdef Py_ssize_t lda = (GEMM_DEPTH_BYTES + 64) // sizeof(summand), i, j, jb, lanes, done = 0, n
    cdef Place item, deep
    cdef Patch* held = &room.held
    cdef summand* b = <summand*>room.b
    cdef bint along = not m.patched and against_the_grain(m)
    while m.patched and done < depth:
        n = (d0 + done) // taps
        copy_patch(m, held, j0, j1, n, m.channels - n, cval, <summand*>room.patch)
        n = min(depth - done, held.c1 * taps - d0 - done)
        list_taps(m, held, d0 + done, n, room.offsets)
        for jb in range(blocks_of(j1 - j0, width)):
            j = j0 + jb * width
            copy_pixels(m, held, <const summand*>room.patch, room.offsets, n, j, min(width, j1 - j),
                        b + (jb * kc + done) * width, width)
        done += n
    while along and done < depth:  # a few rows of all panels at a time: they are long runs of the array
        n = min(depth - done, 16)
        deep = place_of(&m.depth, d0 + done)
        for jb in range(blocks_of(j1 - j0, width)):
            j = j0 + jb * width
            if jb > 0 and not m.padded and m.item.stride[2] == 1:  # offsets are as they were: the next panel's runs
                item = place_of(&m.item, min(j + width, j1 - 1))
                for i in range(n):
                    prefetch(<const summand*>m.data + room.offsets[i] + dot(m.item.stride, &item), width * sizeof(summand))
            fetch_all(m, &m.depth, deep, n, &m.item, place_of(&m.item, j), min(width, j1 - j), cval, room.offsets,
                      b + (jb * kc + done) * width, width)
        done += n
    for jb in range(blocks_of(j1 - j0, width)):
        j, b = j0 + jb * width, <summand*>room.b + jb * kc * width
        lanes = min(width, j1 - j)
        if not along and not m.patched:
            item, deep = place_of(&m.item, j), place_of(&m.depth, d0)
            fetch_all(m, &m.item, item, lanes, &m.depth, deep, depth, cval, room.offsets, <summand*>room.room, lda)
            transpose(<const summand*>room.room, lda, lanes, depth, b, width)
        if lanes < width:
            for i in range(depth):
                fill(<summand>0, width - lanes, b + i * width + lanes)


# --- the product -----------------------------------------------------------------------------------


cdef struct Output:
    char* data
    Axis row
    Axis lane
    const char* bias  # of each row, or of each lane; NULL for none
    bint lane_bias
    bint add  # to what is there
    bint between  # elements between those written are the call's own: they may be read and written back


cdef inline void tile(Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t depth, const summand* a, const summand* b,
                      const summand* start, summand* c, Py_ssize_t ld) noexcept nogil:
    if summand is float:
        f32_gemm_tile(rows, vectors, depth, a, b, start, c, ld)
    elif summand is double:
        f64_gemm_tile(rows, vectors, depth, a, b, start, c, ld)
    else:
        u64_gemm_tile(rows, vectors, depth, a, b, start, c, ld)


cdef void put(const Output* c, Place row, Place lane, Py_ssize_t rows, Py_ssize_t lanes, const summand* start,
              const summand* lane_start, summand* sums, summand* room) noexcept nogil:
    """c = start + sums, or c += sums where start is NULL, for a tile that doesn't lie in c in one piece."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t i, j, n, step, ld = width, count = lanes
    cdef const Axis* outer = &c.row
    cdef const Axis* inner = &c.lane
    cdef Place at, along, first = lane
    cdef summand* out
    if start != NULL and c.bias != NULL:
        for i in range(rows):
            for j in range(lanes):
                sums[i * width + j] += lane_start[j] if c.lane_bias else start[i]
    at = row
    if c.row.stride[2] == 1 and c.lane.stride[2] != 1:
        transpose(<const summand*>sums, width, rows, lanes, room, 16)
        sums, ld, outer, inner, at, first = room, 16, &c.lane, &c.row, lane, row
        rows, count = lanes, rows
    step = inner.stride[2]
    for i in range(rows):
        along, j = first, 0
        while j < count:
            n = min(count - j, inner.extent[2] - along.i[2])
            out = <summand*>c.data + dot(outer.stride, &at) + dot(inner.stride, &along)
            add_piece(sums + i * ld + j, n, out, step, start == NULL, c.between)
            move(inner, &along, n)
            j += n
        move(outer, &at, 1)


cdef inline void add_piece(const summand* sums, Py_ssize_t n, summand* out, Py_ssize_t step, bint add,
                           bint between) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1:
        if add:
            if summand is float:
                f32_add(sums, n, out)
            elif summand is double:
                f64_add(sums, n, out)
            else:
                u64_add(sums, n, out)
        else:
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


cdef inline Py_ssize_t depth_block(Py_ssize_t depth, Py_ssize_t itemsize) noexcept nogil:
    """Of blocks as even as can be, whole cache lines."""
    cdef Py_ssize_t most = GEMM_DEPTH_BYTES // itemsize
    return up(blocks_of(depth, blocks_of(depth, most)), 16)


cdef inline Room room_of(summand* scratch, Py_ssize_t patch_bytes, summand kind) noexcept nogil:
    cdef Room room
    room.offsets = <ptrdiff_t*>scratch
    room.a = <char*>scratch + OFFSETS_BYTES
    room.room = room.a + 16 * (GEMM_DEPTH_BYTES + 64)
    room.sums = room.room + 32 * (GEMM_DEPTH_BYTES + 64)
    room.patch = room.sums + 16 * GEMM_VECTORS * VECTOR_BYTES
    room.b = room.patch + patch_bytes
    room.held.c1, room.held.elements = 0, patch_bytes // sizeof(summand)
    return room


cdef void multiply(const Matrix* ma, const Matrix* mb, const Output* c, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0,
                   Py_ssize_t j1, summand cval, summand* scratch, Py_ssize_t patch_bytes) noexcept nogil:
    """Rows i0..i1 and lanes j0..j1 of c."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand), lanes_of = VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t depth = size_of(&ma.depth), kc = depth_block(depth, sizeof(summand))
    cdef Py_ssize_t panels = blocks_of(i1 - i0, GEMM_M), lane_panels = blocks_of(j1 - j0, width)
    cdef Room room = room_of(scratch, patch_bytes, cval)
    cdef const summand* panel
    cdef Py_ssize_t d, i, j, k, db, ib, jb, height, lanes, ahead, later, done
    cdef summand start[16]
    cdef summand lane_start[64]
    cdef summand nothing[16]
    cdef bint fresh
    cdef Place row, lane
    fill(<summand>0, 16, nothing)
    for db in range(blocks_of(depth, kc)):
        d = db * kc
        k = min(kc, depth - d)
        ahead = d + k  # the depths that come next
        later = min(kc, depth - ahead)
        fresh = d == 0 and not c.add
        pack_lanes(mb, j0, j1, d, k, kc, cval, &room)
        for ib in range(panels):
            i = i0 + (i1 - i0) * ib // panels
            height = i0 + (i1 - i0) * (ib + 1) // panels - i
            pack_rows(ma, i, height, d, k, cval, &room)
            row = place_of(&c.row, i)
            bias_of(c, i, height, not c.lane_bias, start)
            for jb in range(lane_panels):
                j, panel = j0 + jb * width, <const summand*>room.b + jb * width * kc
                lanes = min(width, j1 - j)
                lane = place_of(&c.lane, j)
                foresee_rows(ma, i + height + height * jb // lane_panels,
                             min(i + height + height * (jb + 1) // lane_panels, i1), d, k, cval)
                if ahead < depth:
                    done = ib * lane_panels + jb
                    foresee_lanes(mb, j0, j1, ahead + later * done // (panels * lane_panels),
                                  ahead + later * (done + 1) // (panels * lane_panels), cval)
                if (c.lane.stride[2] == 1 and lane.i[2] + lanes <= c.lane.extent[2] and lanes % lanes_of == 0
                        and row.i[2] + height <= c.row.extent[2] and not c.lane_bias):
                    tile(height, lanes // lanes_of, k, <const summand*>room.a, panel,
                         <const summand*>start if fresh else NULL,
                         <summand*>c.data + dot(c.row.stride, &row) + dot(c.lane.stride, &lane), c.row.stride[2])
                else:
                    bias_of(c, j, lanes, c.lane_bias, lane_start)
                    tile(height, blocks_of(lanes, lanes_of), k, <const summand*>room.a, panel,
                         <const summand*>nothing, <summand*>room.sums, width)
                    put(c, row, lane, height, lanes, <const summand*>start if fresh else NULL, <const summand*>lane_start,
                        <summand*>room.sums, <summand*>room.room)


cdef inline void bias_of(const Output* c, Py_ssize_t first, Py_ssize_t n, bint wanted, summand* out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = (<const summand*>c.bias)[first + i] if wanted and c.bias != NULL else 0


# --- convolution: implicit GEMM --------------------------------------------------------------------


cdef struct Task:
    Py_ssize_t N, groups, C, K  # channels and filters of one group
    Geometry g
    bint padded, patched, channels_last, swapped, between
    Py_ssize_t row_blocks, lane_blocks, patch_bytes


cdef struct Strides:  # in elements
    Py_ssize_t of[5]


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


cdef void set_windows(Matrix* m, Axis* taps, Axis* pixels, const Task* t, const summand* x, const Py_ssize_t* xs) noexcept nogil:
    """The windows of one group of x, as a matrix over the axes `taps` and `pixels` (both are parts of m)."""
    cdef const Geometry* g = &t.g
    cdef bint whole = not t.padded  # then every window lies inside the image, and strides are all there is
    m.data, m.g, m.channels = <char*>x, g[0], t.C
    m.padded, m.patched = t.padded, t.patched
    m.sample, m.channel, m.row, m.column = xs[0], xs[1], xs[2], xs[3]
    if whole:
        taps[0] = taps_axis(t, xs[1], g.dh * xs[2], g.dw * xs[3])
        pixels[0] = pixels_axis(t, xs[0], g.sh * xs[2], g.sw * xs[3])
        if not t.patched:
            m.data = <char*>(x - g.top * xs[2] - g.left * xs[3])
    else:
        taps[0] = taps_axis(t, xs[1], 0, 0)
        taps.down[1 if not t.channels_last else 0] = g.dh
        taps.right[2 if not t.channels_last else 1] = g.dw
        pixels[0] = pixels_axis(t, xs[0], 0, 0)
        pixels.down[1], pixels.right[2] = g.sh, g.sw
    merge(taps)
    merge(pixels)


cdef void run_unit(const Task* t, const Matrix* a, const Matrix* b, const Output* c, Py_ssize_t unit, summand cval,
                   summand* scratch) noexcept nogil:
    """One of row_blocks * lane_blocks pieces of c: whole panels of lanes, rows cut evenly."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t i = unit % t.row_blocks, j = unit // t.row_blocks
    cdef Py_ssize_t rows = size_of(&c.row), lanes = size_of(&c.lane), panels = blocks_of(lanes, width)
    multiply(a, b, c, rows * i // t.row_blocks, rows * (i + 1) // t.row_blocks, panels * j // t.lane_blocks * width,
             min(panels * (j + 1) // t.lane_blocks * width, lanes), cval, scratch, t.patch_bytes)


cdef void forward_unit(Py_ssize_t unit, const Task* t, const summand* x, const Py_ssize_t* xs, summand cval,
                       const summand* w, const Py_ssize_t* ws, const summand* bias, summand* y, const Py_ssize_t* ys,
                       summand* scratch) noexcept nogil:
    cdef Py_ssize_t g = unit % t.groups
    cdef Matrix windows, weights
    cdef Output out
    set_windows(&windows, &windows.depth, &windows.item, t, x + g * t.C * xs[1], xs)
    weights.data, weights.padded, weights.patched = <char*>(w + g * ws[0]), False, False
    weights.item, weights.depth = filters_axis(t.K, ws[1]), taps_axis(t, ws[2], ws[3], ws[4])
    merge(&weights.depth)
    out.data, out.add, out.lane_bias = <char*>(y + g * t.K * ys[1]), False, t.swapped and bias != NULL
    out.bias = <const char*>(bias + g * t.K) if bias != NULL else NULL
    out.between = t.between
    out.row, out.lane = filters_axis(t.K, ys[1]), pixels_axis(t, ys[0], ys[2], ys[3])
    merge(&out.lane)
    if t.swapped:
        out.row, out.lane = out.lane, out.row
        run_unit(t, &windows, &weights, &out, unit // t.groups, cval, scratch)
    else:
        run_unit(t, &weights, &windows, &out, unit // t.groups, cval, scratch)


cdef void weight_unit(Py_ssize_t unit, const Task* t, const summand* x, const Py_ssize_t* xs, summand cval,
                      const summand* dy, const Py_ssize_t* ys, summand* dw, const Py_ssize_t* ws,
                      summand* scratch) noexcept nogil:
    cdef Py_ssize_t g = unit % t.groups
    cdef Matrix windows, gradient
    cdef Output out
    set_windows(&windows, &windows.item, &windows.depth, t, x + g * t.C * xs[1], xs)
    gradient.data, gradient.padded, gradient.patched = <char*>(dy + g * t.K * ys[1]), False, False
    gradient.item, gradient.depth = filters_axis(t.K, ys[1]), pixels_axis(t, ys[0], ys[2], ys[3])
    merge(&gradient.depth)
    out.data, out.add, out.lane_bias, out.bias = <char*>(dw + g * ws[0]), False, False, NULL
    out.between = False
    out.row, out.lane = filters_axis(t.K, ws[1]), taps_axis(t, ws[2], ws[3], ws[4])
    merge(&out.lane)
    if t.swapped:
        out.row, out.lane = out.lane, out.row
        run_unit(t, &windows, &gradient, &out, unit // t.groups, cval, scratch)
    else:
        run_unit(t, &gradient, &windows, &out, unit // t.groups, cval, scratch)


cdef void gemm_forward(Task t, const summand* x, const Py_ssize_t* xs, summand cval, const summand* w,
                       const Py_ssize_t* ws, const summand* bias, summand* y, const Py_ssize_t* ys, char* scratch,
                       Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = t.groups * t.row_blocks * t.lane_blocks
    if workers == 1:
        for unit in range(units):
            forward_unit(unit, &t, x, xs, cval, w, ws, bias, y, ys, <summand*>scratch)
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            forward_unit(unit, &t, x, xs, cval, w, ws, bias, y, ys, <summand*>(scratch + threadid() * worker_bytes))


cdef void gemm_weight_grad(Task t, const summand* x, const Py_ssize_t* xs, summand cval, const summand* dy,
                           const Py_ssize_t* ys, summand* dw, const Py_ssize_t* ws, char* scratch,
                           Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = t.groups * t.row_blocks * t.lane_blocks
    if workers == 1:
        for unit in range(units):
            weight_unit(unit, &t, x, xs, cval, dy, ys, dw, ws, <summand*>scratch)
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            weight_unit(unit, &t, x, xs, cval, dy, ys, dw, ws, <summand*>(scratch + threadid() * worker_bytes))


cdef Task gemm_task(Py_ssize_t N, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns) except *:
    cdef Task t
    t.N, t.between = N, False
    (t.groups, t.C, t.K, t.g.H, t.g.W, t.g.R, t.g.S, t.g.P, t.g.Q, t.g.top, t.g.left, t.g.sh, t.g.sw, t.g.dh,
     t.g.dw) = geometry
    t.padded, t.patched, t.channels_last, t.swapped, t.row_blocks, t.lane_blocks, t.patch_bytes = blocks
    t.g.rows, t.g.columns = &rows[0], &columns[0]
    return t


cdef void turn(const summand* w, const Py_ssize_t* shape, const Py_ssize_t* ws, summand* out) noexcept nogil:
    """A copy of w (groups, C, K, R, S) of any strides in that order; a few k at a time, which lie far apart in w."""
    cdef Py_ssize_t g, c, k, kb, r, s, taps = shape[3] * shape[4]
    cdef bint one_run = ws[3] == shape[4] * ws[4]
    cdef const summand* source
    cdef summand* to
    for g in range(shape[0]):
        for kb in range(blocks_of(shape[2], 16)):
            for c in range(shape[1]):
                for k in range(kb * 16, min(kb * 16 + 16, shape[2])):
                    source = w + g * ws[0] + c * ws[1] + k * ws[2]
                    to = out + ((g * shape[1] + c) * shape[2] + k) * taps
                    if one_run:
                        if ws[4] == -1:  # constant steps are quicker
                            for s in range(taps):
                                to[s] = source[-s]
                        else:
                            for s in range(taps):
                                to[s] = source[s * ws[4]]
                        continue
                    for r in range(shape[3]):
                        for s in range(shape[4]):
                            to[r * shape[4] + s] = source[r * ws[3] + s * ws[4]]


cdef bint all_finite(const summand* values, Py_ssize_t n) noexcept nogil:
    cdef summand nothing[64]
    cdef summand total = 0
    cdef Py_ssize_t i, j
    for j in range(64):
        nothing[j] = 0
    for i in range(n // 64):
        for j in range(64):
            nothing[j] += values[i * 64 + j] * 0  # NaN for an infinity or NaN
    for i in range(n - n % 64, n):
        total += values[i] * 0
    for j in range(64):
        total += nothing[j]
    return total == 0


# --- convolution: im2col ---------------------------------------------------------------------------
#
# The textbook's form on the same product: a block of windows is written out as a matrix, then multiplied.


cdef struct Columns:
    Py_ssize_t groups, C, K  # channels and filters of one group
    Py_ssize_t block_p, block_q, block_c
    Geometry g


cdef struct Block:  # a rectangle of output pixels
    Py_ssize_t p0, p1, q0, q1, pixels


cdef inline Block pixel_block(Py_ssize_t i, const Columns* t) noexcept nogil:
    cdef Block b
    cdef Py_ssize_t across = blocks_of(t.g.Q, t.block_q)
    b.p0, b.q0 = i // across * t.block_p, i % across * t.block_q
    b.p1, b.q1 = min(b.p0 + t.block_p, t.g.P), min(b.q0 + t.block_q, t.g.Q)
    b.pixels = (b.p1 - b.p0) * (b.q1 - b.q0)
    return b


cdef inline Py_ssize_t pixel_blocks(const Columns* t) noexcept nogil:
    return blocks_of(t.g.P, t.block_p) * blocks_of(t.g.Q, t.block_q)


cdef inline Axis rectangle(Block b, Py_ssize_t p, Py_ssize_t q) noexcept nogil:
    cdef Axis a
    set_level(&a, 0, 1, 0)
    set_level(&a, 1, b.p1 - b.p0, p)
    set_level(&a, 2, b.q1 - b.q0, q)
    merge(&a)
    return a


cdef inline Axis window_rows(const Columns* t, Py_ssize_t channels, const Py_ssize_t* ws) noexcept nogil:
    cdef Axis a
    set_level(&a, 0, channels, ws[2])
    set_level(&a, 1, t.g.R, ws[3])
    set_level(&a, 2, t.g.S, ws[4])
    merge(&a)
    return a


cdef inline Matrix plain(const summand* data, Axis item, Axis depth) noexcept nogil:
    cdef Matrix m
    m.data, m.item, m.depth, m.padded, m.patched = <char*>data, item, depth, False, False
    return m


cdef inline Output into(summand* data, Axis row, Axis lane, const summand* bias, bint add) noexcept nogil:
    cdef Output c
    c.data, c.row, c.lane, c.bias, c.lane_bias, c.add = <char*>data, row, lane, <const char*>bias, False, add
    c.between = False
    return c


cdef void columns_forward(Py_ssize_t unit, const Columns* t, const summand* x, const Py_ssize_t* xs, summand cval,
                          const summand* w, const Py_ssize_t* ws, const summand* bias, summand* y, const Py_ssize_t* ys,
                          summand* cols, summand* scratch) noexcept nogil:
    """One block of pixels of all filters of one group and sample."""
    cdef Block b = pixel_block(unit % pixel_blocks(t), t)
    cdef Py_ssize_t g = unit // pixel_blocks(t) % t.groups, n = unit // pixel_blocks(t) // t.groups
    cdef Py_ssize_t depth = t.C * t.g.R * t.g.S
    cdef Matrix weights = plain(w + g * ws[0], filters_axis(t.K, ws[1]), window_rows(t, t.C, ws))
    cdef Matrix windows = plain(<const summand*>cols, filters_axis(b.pixels, 1), filters_axis(depth, b.pixels))
    cdef Output out = into(y + n * ys[0] + g * t.K * ys[1] + b.p0 * ys[2] + b.q0 * ys[3], filters_axis(t.K, ys[1]),
                           rectangle(b, ys[2], ys[3]), bias + g * t.K if bias != NULL else NULL, False)
    gather_windows(x + n * xs[0] + g * t.C * xs[1], xs[1], xs[2], xs[3], &t.g, cval, 0, t.C, b.p0, b.p1, b.q0, b.q1,
                   cols, b.pixels)
    multiply(&weights, &windows, &out, 0, t.K, 0, b.pixels, cval, scratch, 0)


cdef void columns_input(Py_ssize_t unit, const Columns* t, const summand* dy, const Py_ssize_t* ys, const summand* w,
                        const Py_ssize_t* ws, const summand* bias, summand* dx, const Py_ssize_t* xs, summand* cols,
                        summand* scratch) noexcept nogil:
    """The planes of a block of channels of one sample: nobody else writes there."""
    cdef Py_ssize_t c_blocks = blocks_of(t.C, t.block_c)
    cdef Py_ssize_t c0 = unit % c_blocks * t.block_c, g = unit // c_blocks % t.groups, n = unit // c_blocks // t.groups
    cdef Py_ssize_t channels = min(t.block_c, t.C - c0), rows = channels * t.g.R * t.g.S
    cdef summand* planes = dx + n * xs[0] + (g * t.C + c0) * xs[1]
    cdef Matrix weights = plain(w + g * ws[0] + c0 * ws[2], window_rows(t, channels, ws), filters_axis(t.K, ws[1]))
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
        gradient = plain(dy + n * ys[0] + g * t.K * ys[1] + b.p0 * ys[2] + b.q0 * ys[3], rectangle(b, ys[2], ys[3]),
                         filters_axis(t.K, ys[1]))
        out = into(cols, filters_axis(rows, b.pixels), filters_axis(b.pixels, 1), <const summand*>NULL, False)
        multiply(&weights, &gradient, &out, 0, rows, 0, b.pixels, <summand>0, scratch, 0)
        scatter_windows(planes, xs[1], xs[2], xs[3], &t.g, 0, channels, b.p0, b.p1, b.q0, b.q1, <const summand*>cols,
                        b.pixels)


cdef void columns_weight(Py_ssize_t unit, const Columns* t, Py_ssize_t N, const summand* x, const Py_ssize_t* xs,
                         summand cval, const summand* dy, const Py_ssize_t* ys, summand* dw, const Py_ssize_t* ws,
                         summand* cols, summand* scratch) noexcept nogil:
    """dw of a block of channels and all filters of one group."""
    cdef Py_ssize_t c_blocks = blocks_of(t.C, t.block_c), blocks = pixel_blocks(t)
    cdef Py_ssize_t c0 = unit % c_blocks * t.block_c, g = unit // c_blocks
    cdef Py_ssize_t channels = min(t.block_c, t.C - c0), rows = channels * t.g.R * t.g.S
    cdef Py_ssize_t i, n
    cdef Matrix windows, gradient
    cdef Output out
    cdef Block b
    for i in range(N * blocks):
        n = i // blocks
        b = pixel_block(i % blocks, t)
        gather_windows(x + n * xs[0] + (g * t.C + c0) * xs[1], xs[1], xs[2], xs[3], &t.g, cval, 0, channels, b.p0, b.p1,
                       b.q0, b.q1, cols, b.pixels)
        windows = plain(<const summand*>cols, filters_axis(rows, b.pixels), filters_axis(b.pixels, 1))
        gradient = plain(dy + n * ys[0] + g * t.K * ys[1] + b.p0 * ys[2] + b.q0 * ys[3], filters_axis(t.K, ys[1]),
                         rectangle(b, ys[2], ys[3]))
        out = into(dw + g * ws[0] + c0 * ws[2], window_rows(t, channels, ws), filters_axis(t.K, ws[1]),
                   <const summand*>NULL, i > 0)
        multiply(&windows, &gradient, &out, 0, rows, 0, t.K, cval, scratch, 0)


cdef void forward(Columns t, Py_ssize_t N, const summand* x, const Py_ssize_t* xs, summand cval, const summand* w,
                  const Py_ssize_t* ws, const summand* bias, summand* y, const Py_ssize_t* ys, char* scratch,
                  Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = N * t.groups * pixel_blocks(&t)
    cdef char* own
    if workers == 1:
        for unit in range(units):
            columns_forward(unit, &t, x, xs, cval, w, ws, bias, y, ys, <summand*>scratch, <summand*>(scratch + cols_bytes))
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            own = scratch + threadid() * worker_bytes
            columns_forward(unit, &t, x, xs, cval, w, ws, bias, y, ys, <summand*>own, <summand*>(own + cols_bytes))


cdef void input_grad(Columns t, Py_ssize_t N, const summand* dy, const Py_ssize_t* ys, const summand* w,
                     const Py_ssize_t* ws, const summand* bias, summand* dx, const Py_ssize_t* xs, char* scratch,
                     Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = N * t.groups * blocks_of(t.C, t.block_c)
    cdef char* own
    if workers == 1:
        for unit in range(units):
            columns_input(unit, &t, dy, ys, w, ws, bias, dx, xs, <summand*>scratch, <summand*>(scratch + cols_bytes))
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            own = scratch + threadid() * worker_bytes
            columns_input(unit, &t, dy, ys, w, ws, bias, dx, xs, <summand*>own, <summand*>(own + cols_bytes))


cdef void weight_grad(Columns t, Py_ssize_t N, const summand* x, const Py_ssize_t* xs, summand cval, const summand* dy,
                      const Py_ssize_t* ys, summand* dw, const Py_ssize_t* ws, char* scratch, Py_ssize_t cols_bytes,
                      Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = t.groups * blocks_of(t.C, t.block_c)
    cdef char* own
    if workers == 1:
        for unit in range(units):
            columns_weight(unit, &t, N, x, xs, cval, dy, ys, dw, ws, <summand*>scratch, <summand*>(scratch + cols_bytes))
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            own = scratch + threadid() * worker_bytes
            columns_weight(unit, &t, N, x, xs, cval, dy, ys, dw, ws, <summand*>own, <summand*>(own + cols_bytes))


cdef Columns columns_task(tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns) except *:
    cdef Columns t
    (t.groups, t.C, t.K, t.g.H, t.g.W, t.g.R, t.g.S, t.g.P, t.g.Q, t.g.top, t.g.left, t.g.sh, t.g.sw, t.g.dh,
     t.g.dw) = geometry
    t.block_p, t.block_q, t.block_c = blocks
    t.g.rows, t.g.columns = &rows[0], &columns[0]
    return t

# One entry for each dtype. x, dy, y, dx: (N, channels, height, width), w and dw: (groups, K/groups, C/groups, R, S), all of
# any strides; bias: empty for none; geometry, blocks and the index vectors as fastconv/algorithms makes them.


def f32_gemm_forward(const float[:, :, :, :] x, const float[:, :, :, :, :] w, const float[::1] bias, float[:, :, :, :] y, float cval,
                     tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                     uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers, bint between):
    cdef Task t = gemm_task(x.shape[0], geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 4), ys = elements(y.strides, 4, 4), ws = elements(w.strides, 5, 4)
    t.between = between
    with nogil:
        gemm_forward[float](t, &x[0, 0, 0, 0], xs.of, cval, &w[0, 0, 0, 0, 0], ws.of, &bias[0] if bias.shape[0] else NULL,
                     &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], worker_bytes, workers)


def f32_gemm_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :, :] dw, float cval, tuple geometry,
                         tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                         Py_ssize_t worker_bytes, int workers):
    cdef Task t = gemm_task(x.shape[0], geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 4), ys = elements(dy.strides, 4, 4), ws = elements(dw.strides, 5, 4)
    with nogil:
        gemm_weight_grad[float](t, &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0], ws.of,
                         <char*>&scratch[0], worker_bytes, workers)


def f32_turn(const float[:, :, :, :, :] w, float[:, :, :, :, ::1] out):
    """out = w; is every weight finite?"""
    cdef Strides ws = elements(w.strides, 5, 4)
    cdef bint finite
    with nogil:
        turn[float](&w[0, 0, 0, 0, 0], w.shape, ws.of, &out[0, 0, 0, 0, 0])
        finite = all_finite[float](&out[0, 0, 0, 0, 0],
                                 out.shape[0] * out.shape[1] * out.shape[2] * out.shape[3] * out.shape[4])
    return finite


def f32_forward(const float[:, :, :, :] x, const float[:, :, :, :, :] w, const float[::1] bias, float[:, :, :, :] y, float cval,
                tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 4), ys = elements(y.strides, 4, 4), ws = elements(w.strides, 5, 4)
    with nogil:
        forward[float](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &w[0, 0, 0, 0, 0], ws.of,
                &bias[0] if bias.shape[0] else NULL, &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], cols_bytes, worker_bytes,
                workers)


def f32_input_grad(const float[:, :, :, :] dy, const float[:, :, :, :, :] w, const float[::1] bias, float[:, :, :, :] dx,
                   tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                   uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(dx.strides, 4, 4), ys = elements(dy.strides, 4, 4), ws = elements(w.strides, 5, 4)
    with nogil:
        input_grad[float](t, dx.shape[0], &dy[0, 0, 0, 0], ys.of, &w[0, 0, 0, 0, 0], ws.of,
                   &bias[0] if bias.shape[0] else NULL, &dx[0, 0, 0, 0], xs.of, <char*>&scratch[0], cols_bytes,
                   worker_bytes, workers)


def f32_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :, :] dw, float cval, tuple geometry,
                    tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                    Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 4), ys = elements(dy.strides, 4, 4), ws = elements(dw.strides, 5, 4)
    with nogil:
        weight_grad[float](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0], ws.of,
                    <char*>&scratch[0], cols_bytes, worker_bytes, workers)


def f64_gemm_forward(const double[:, :, :, :] x, const double[:, :, :, :, :] w, const double[::1] bias, double[:, :, :, :] y, double cval,
                     tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                     uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers, bint between):
    cdef Task t = gemm_task(x.shape[0], geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 8), ys = elements(y.strides, 4, 8), ws = elements(w.strides, 5, 8)
    t.between = between
    with nogil:
        gemm_forward[double](t, &x[0, 0, 0, 0], xs.of, cval, &w[0, 0, 0, 0, 0], ws.of, &bias[0] if bias.shape[0] else NULL,
                     &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], worker_bytes, workers)


def f64_gemm_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :, :] dw, double cval, tuple geometry,
                         tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                         Py_ssize_t worker_bytes, int workers):
    cdef Task t = gemm_task(x.shape[0], geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 8), ys = elements(dy.strides, 4, 8), ws = elements(dw.strides, 5, 8)
    with nogil:
        gemm_weight_grad[double](t, &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0], ws.of,
                         <char*>&scratch[0], worker_bytes, workers)


def f64_turn(const double[:, :, :, :, :] w, double[:, :, :, :, ::1] out):
    """out = w; is every weight finite?"""
    cdef Strides ws = elements(w.strides, 5, 8)
    cdef bint finite
    with nogil:
        turn[double](&w[0, 0, 0, 0, 0], w.shape, ws.of, &out[0, 0, 0, 0, 0])
        finite = all_finite[double](&out[0, 0, 0, 0, 0],
                                 out.shape[0] * out.shape[1] * out.shape[2] * out.shape[3] * out.shape[4])
    return finite


def f64_forward(const double[:, :, :, :] x, const double[:, :, :, :, :] w, const double[::1] bias, double[:, :, :, :] y, double cval,
                tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 8), ys = elements(y.strides, 4, 8), ws = elements(w.strides, 5, 8)
    with nogil:
        forward[double](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &w[0, 0, 0, 0, 0], ws.of,
                &bias[0] if bias.shape[0] else NULL, &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], cols_bytes, worker_bytes,
                workers)


def f64_input_grad(const double[:, :, :, :] dy, const double[:, :, :, :, :] w, const double[::1] bias, double[:, :, :, :] dx,
                   tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                   uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(dx.strides, 4, 8), ys = elements(dy.strides, 4, 8), ws = elements(w.strides, 5, 8)
    with nogil:
        input_grad[double](t, dx.shape[0], &dy[0, 0, 0, 0], ys.of, &w[0, 0, 0, 0, 0], ws.of,
                   &bias[0] if bias.shape[0] else NULL, &dx[0, 0, 0, 0], xs.of, <char*>&scratch[0], cols_bytes,
                   worker_bytes, workers)


def f64_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :, :] dw, double cval, tuple geometry,
                    tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                    Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 8), ys = elements(dy.strides, 4, 8), ws = elements(dw.strides, 5, 8)
    with nogil:
        weight_grad[double](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0], ws.of,
                    <char*>&scratch[0], cols_bytes, worker_bytes, workers)


def u64_gemm_forward(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :, :] w, const uint64_t[::1] bias, uint64_t[:, :, :, :] y, uint64_t cval,
                     tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                     uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers, bint between):
    cdef Task t = gemm_task(x.shape[0], geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 8), ys = elements(y.strides, 4, 8), ws = elements(w.strides, 5, 8)
    t.between = between
    with nogil:
        gemm_forward[uint64_t](t, &x[0, 0, 0, 0], xs.of, cval, &w[0, 0, 0, 0, 0], ws.of, &bias[0] if bias.shape[0] else NULL,
                     &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], worker_bytes, workers)


def u64_gemm_weight_grad(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :] dy, uint64_t[:, :, :, :, :] dw, uint64_t cval, tuple geometry,
                         tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                         Py_ssize_t worker_bytes, int workers):
    cdef Task t = gemm_task(x.shape[0], geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 8), ys = elements(dy.strides, 4, 8), ws = elements(dw.strides, 5, 8)
    with nogil:
        gemm_weight_grad[uint64_t](t, &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0], ws.of,
                         <char*>&scratch[0], worker_bytes, workers)


def u64_turn(const uint64_t[:, :, :, :, :] w, uint64_t[:, :, :, :, ::1] out):
    """out = w; is every weight finite?"""
    cdef Strides ws = elements(w.strides, 5, 8)
    cdef bint finite
    with nogil:
        turn[uint64_t](&w[0, 0, 0, 0, 0], w.shape, ws.of, &out[0, 0, 0, 0, 0])
        finite = all_finite[uint64_t](&out[0, 0, 0, 0, 0],
                                 out.shape[0] * out.shape[1] * out.shape[2] * out.shape[3] * out.shape[4])
    return finite


def u64_forward(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :, :] w, const uint64_t[::1] bias, uint64_t[:, :, :, :] y, uint64_t cval,
                tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 8), ys = elements(y.strides, 4, 8), ws = elements(w.strides, 5, 8)
    with nogil:
        forward[uint64_t](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &w[0, 0, 0, 0, 0], ws.of,
                &bias[0] if bias.shape[0] else NULL, &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], cols_bytes, worker_bytes,
                workers)


def u64_input_grad(const uint64_t[:, :, :, :] dy, const uint64_t[:, :, :, :, :] w, const uint64_t[::1] bias, uint64_t[:, :, :, :] dx,
                   tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                   uint8_t[::1] scratch, Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(dx.strides, 4, 8), ys = elements(dy.strides, 4, 8), ws = elements(w.strides, 5, 8)
    with nogil:
        input_grad[uint64_t](t, dx.shape[0], &dy[0, 0, 0, 0], ys.of, &w[0, 0, 0, 0, 0], ws.of,
                   &bias[0] if bias.shape[0] else NULL, &dx[0, 0, 0, 0], xs.of, <char*>&scratch[0], cols_bytes,
                   worker_bytes, workers)


def u64_weight_grad(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :] dy, uint64_t[:, :, :, :, :] dw, uint64_t cval, tuple geometry,
                    tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns, uint8_t[::1] scratch,
                    Py_ssize_t cols_bytes, Py_ssize_t worker_bytes, int workers):
    cdef Columns t = columns_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4, 8), ys = elements(dy.strides, 4, 8), ws = elements(dw.strides, 5, 8)
    with nogil:
        weight_grad[uint64_t](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0], ws.of,
                    <char*>&scratch[0], cols_bytes, worker_bytes, workers)
