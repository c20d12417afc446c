"""The separable method: each row of the image filtered by the kernel's rows, these sums by its columns.

    t[m][u, q] = sum_s rows[m, s] * padded[u, q*sw + s*dw]            once for each padded row u and term m
    y[p, q]    = bias + sum_m sum_r columns[m, r] * t[m][p*sh + r*dh, q]

Called by fastconv/algorithms/separable.py, which decides block sizes and taps. Knows no cost, choice or padding rule.

Rows p of y that are dh / g apart, g = gcd(sh, dh), read rows of t that are dh apart, each sh / g rows further down. So
y falls into dh / g classes of rows, each a filtering with stride `step` = sh / g without dilation:

    line j of class a    p = a + j*spread            spread = dh / g, step = sh / g
    row  i of class a    u = a*sh + i*dh             line j reads the rows i = j*step + r

A unit is a band of `block_j` lines of one class by `block_q` columns. It walks down the band with the rows of t that
are still needed in a ring, in cache; the image is read once and y is written once:

                block_q                    row     the padded row under the block, in polyphase order: one plane for
    ring  +-----------------+  row             each column phase b, row[b][k] = padded[u, (q0 + k)*sw + b*dw % sw], so
    i     | t[0][i]  t[1]...|              that taps[s] + q is the place of the pixel under tap s of output q
    i + 1 | ...             |              ring    `slots` rows of `terms` lines of `pitch` elements; row i of the
          +-----------------+                  class lies in slot i % slots

At step 1 SEPARABLE_LINES lines are summed at a time: they share all rows but the first and the last few.

Sums of several terms can be NaN or overflow where the kernel's own sum isn't or doesn't. Given the kernel itself (`w`),
lines that aren't finite are computed again by it, row by row of its taps. Each worker has `worker_bytes` of scratch,
64-byte aligned.
"""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastconv._kernels.team cimport share, unit_function
from windows cimport first_inside, summand

cdef extern from "tiles.h" nogil:
    const int SEPARABLE_LINES
    const int VECTOR_BYTES
    void f32_separable_row(const float*, const ptrdiff_t*, ptrdiff_t, const float*, float*, ptrdiff_t, bint,
                           const char*, ptrdiff_t)
    void f64_separable_row(const double*, const ptrdiff_t*, ptrdiff_t, const double*, double*, ptrdiff_t, bint,
                           const char*, ptrdiff_t)
    void u64_separable_row(const uint64_t*, const ptrdiff_t*, ptrdiff_t, const uint64_t*, uint64_t*, ptrdiff_t, bint,
                           const char*, ptrdiff_t)
    void f32_separable_columns(const float**, ptrdiff_t, ptrdiff_t, const float*, float, float*, ptrdiff_t, ptrdiff_t)
    void f64_separable_columns(const double**, ptrdiff_t, ptrdiff_t, const double*, double, double*, ptrdiff_t,
                               ptrdiff_t)
    void u64_separable_columns(const uint64_t**, ptrdiff_t, ptrdiff_t, const uint64_t*, uint64_t, uint64_t*, ptrdiff_t,
                               ptrdiff_t)
    void f32_separable_column(const float**, ptrdiff_t, ptrdiff_t, const float*, float, float*, ptrdiff_t, ptrdiff_t)
    void f64_separable_column(const double**, ptrdiff_t, ptrdiff_t, const double*, double, double*, ptrdiff_t,
                              ptrdiff_t)
    void u64_separable_column(const uint64_t**, ptrdiff_t, ptrdiff_t, const uint64_t*, uint64_t, uint64_t*, ptrdiff_t,
                              ptrdiff_t)
    void f32_take(const char*, ptrdiff_t, int, ptrdiff_t, float*)
    void f64_take(const char*, ptrdiff_t, int, ptrdiff_t, double*)
    void u64_take(const char*, ptrdiff_t, int, ptrdiff_t, uint64_t*)
    void f32_give(const float*, ptrdiff_t, char*, ptrdiff_t)
    void f64_give(const double*, ptrdiff_t, char*, ptrdiff_t)
    void u64_give(const uint64_t*, ptrdiff_t, char*, ptrdiff_t)
    bint f32_separable_finite(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t)
    bint f64_separable_finite(const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t)
    bint u64_separable_finite(const uint64_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t)

LINES = SEPARABLE_LINES
"""Lines summed at a time where they read each other's rows."""
BYTES = VECTOR_BYTES
"""Bytes of one vector: rows are read up to the next two whole ones, written to the ring likewise."""


cdef struct Task:
    Py_ssize_t C, W, R, S, P, Q
    Py_ssize_t left, sh, sw, dh, dw, spread, step, classes
    Py_ssize_t terms, block_j, block_q, slots, pitch, phases, row_pitch
    Py_ssize_t padded_h, padded_w
    int kind  # of x: its number in simd/convert.h, 0 for that of the sums
    bint integers  # y is int64, whatever the sums are
    const int64_t* rows
    const int64_t* columns
    const int64_t* taps
    const char* x
    const Py_ssize_t* xs  # strides in bytes
    const void* cval
    const void* by_columns
    const void* by_rows
    const void* w  # NULL where lines that aren't finite are right
    const void* bias
    char* y
    const Py_ssize_t* ys


cdef inline void row_tile(const summand* x, const Task* t, const summand* w, summand* y, Py_ssize_t length,
                          bint add, const char* next_row, Py_ssize_t pixel) noexcept nogil:
    if summand is float:
        f32_separable_row(x, <const ptrdiff_t*>t.taps, t.S, w, y, length, add, next_row, pixel)
    elif summand is double:
        f64_separable_row(x, <const ptrdiff_t*>t.taps, t.S, w, y, length, add, next_row, pixel)
    else:
        u64_separable_row(x, <const ptrdiff_t*>t.taps, t.S, w, y, length, add, next_row, pixel)


cdef inline void column_tile(const summand** rows, const Task* t, const summand* w, summand start, summand* y,
                             Py_ssize_t ld, Py_ssize_t lines, Py_ssize_t length) noexcept nogil:
    if summand is float:
        if lines == 1:
            f32_separable_column(rows, t.terms, t.R, w, start, y, ld, length)
        else:
            f32_separable_columns(rows, t.terms, t.R, w, start, y, ld, length)
    elif summand is double:
        if lines == 1:
            f64_separable_column(rows, t.terms, t.R, w, start, y, ld, length)
        else:
            f64_separable_columns(rows, t.terms, t.R, w, start, y, ld, length)
    else:
        if lines == 1:
            u64_separable_column(rows, t.terms, t.R, w, start, y, ld, length)
        else:
            u64_separable_columns(rows, t.terms, t.R, w, start, y, ld, length)


cdef inline bint finite(const summand* y, Py_ssize_t ld, Py_ssize_t lines, Py_ssize_t length) noexcept nogil:
    if summand is float:
        return f32_separable_finite(y, ld, lines, length)
    elif summand is double:
        return f64_separable_finite(y, ld, lines, length)
    else:
        return u64_separable_finite(y, ld, lines, length)


cdef inline void take(const char* x, Py_ssize_t step, int kind, Py_ssize_t n, summand* out) noexcept nogil:
    if summand is float:
        f32_take(x, step, kind, n, out)
    elif summand is double:
        f64_take(x, step, kind, n, out)
    else:
        u64_take(x, step, kind, n, out)


cdef inline void give(const summand* x, Py_ssize_t n, char* out, Py_ssize_t step) noexcept nogil:
    if summand is float:
        f32_give(x, n, out, step)
    elif summand is double:
        f64_give(x, n, out, step)
    else:
        u64_give(x, n, out, step)


cdef inline void load_places(const Task* t, const char* image, Py_ssize_t v0, Py_ssize_t begin, Py_ssize_t end,
                             summand* row) noexcept nogil:
    """row[k] = the padded row at v0 + k*sw, place by place. image == NULL: the constant."""
    cdef Py_ssize_t k, w, step = t.xs[3]
    cdef summand cval = (<const summand*>t.cval)[0]
    for k in range(begin, end):
        w = t.columns[v0 + k * t.sw]
        if image == NULL or w < 0:
            row[k] = cval
        else:
            take(image + w * step, step, t.kind, 1, row + k)


cdef void load_row(const Task* t, const char* x, Py_ssize_t u, Py_ssize_t q0, Py_ssize_t columns, summand* row) noexcept nogil:
    """Padded row u under the outputs from q0 on, in the order of the picture above."""
    cdef Py_ssize_t b, v0, last, offset, inside, outside, width = columns + (t.S - 1) * t.dw // t.sw
    cdef const char* image = x + t.rows[u] * t.xs[2] if t.rows[u] >= 0 else NULL
    for b in range(t.phases):
        v0 = q0 * t.sw + b * t.dw % t.sw
        last = min(width, (t.padded_w - v0 + t.sw - 1) // t.sw)
        offset = v0 - t.left
        inside = first_inside(offset, t.sw, 0, last) if image != NULL else last
        outside = first_inside(offset - t.W, t.sw, inside, last)
        load_places(t, image, v0, 0, inside, row)
        if inside < outside:
            take(image + (inside * t.sw + offset) * t.xs[3], t.sw * t.xs[3], t.kind, outside - inside, row + inside)
        load_places(t, image, v0, outside, last, row)
        row += t.row_pitch


cdef inline void store(const summand* line, const Task* t, Py_ssize_t n, char* y, Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t k
    if t.integers:
        give(line, n, y, step)
    else:
        for k in range(n):
            (<summand*>(y + k * step))[0] = line[k]


cdef void forward_unit(const Task* t, Py_ssize_t unit, summand* scratch) noexcept nogil:
    """One band of lines of one class, one block of columns, of one channel of one sample."""
    cdef Py_ssize_t q_blocks = (t.Q + t.block_q - 1) // t.block_q
    cdef Py_ssize_t j_blocks = ((t.P + t.spread - 1) // t.spread + t.block_j - 1) // t.block_j
    cdef Py_ssize_t q0 = unit % q_blocks * t.block_q, rest = unit // q_blocks
    cdef Py_ssize_t j0 = rest % j_blocks * t.block_j, a = rest // j_blocks % t.classes
    cdef Py_ssize_t c = rest // j_blocks // t.classes % t.C, n = rest // j_blocks // t.classes // t.C
    cdef Py_ssize_t j1 = min(j0 + t.block_j, (t.P - a + t.spread - 1) // t.spread)
    cdef Py_ssize_t width = min(t.block_q, t.Q - q0), item = sizeof(summand)
    cdef summand* ring = scratch
    cdef summand* row = ring + t.slots * t.terms * t.pitch
    cdef summand* bounce = row + t.phases * t.row_pitch  # lines of y, where it isn't written as it is summed
    cdef const summand** sources = <const summand**>(bounce + SEPARABLE_LINES * t.pitch)
    cdef const Py_ssize_t* xs = t.xs
    cdef const Py_ssize_t* ys = t.ys
    cdef const char* x = t.x + n * xs[0] + c * xs[1]
    cdef const char* ahead = x  # the row that is read next
    cdef const summand* columns = <const summand*>t.by_columns + c * t.terms * t.R
    cdef const summand* rows = <const summand*>t.by_rows + c * t.terms * t.S
    cdef const summand* w = <const summand*>t.w
    cdef Py_ssize_t pixel = t.sw * xs[3]
    cdef Py_ssize_t j = j0, i, next_row = 0, h, m, r, lines, ld, b, k
    cdef bint again, bounced = t.integers or ys[3] != item
    cdef summand start = (<const summand*>t.bias)[c] if t.bias != NULL else 0
    cdef summand* out
    cdef char* y = t.y + n * ys[0] + c * ys[1] + a * ys[2] + q0 * ys[3]
    cdef char* to
    if w != NULL:
        w += c * t.R * t.S
    while j < j1:
        lines = SEPARABLE_LINES if t.slots > t.R and j + SEPARABLE_LINES <= j1 else 1
        for i in range(max(next_row, j * t.step), (j + lines - 1) * t.step + t.R):
            load_row(t, x, a * t.sh + i * t.dh, q0, width, row)
            h = t.rows[min(a * t.sh + (i + 1) * t.dh, t.padded_h - 1)]
            ahead = x + max(h, 0) * xs[2] + max(q0 * t.sw - t.left, 0) * xs[3]
            for m in range(t.terms):
                row_tile(row, t, rows + m * t.S, ring + (i % t.slots * t.terms + m) * t.pitch, width, False, ahead, pixel)
        next_row = (j + lines - 1) * t.step + t.R
        for m in range(t.terms):
            for r in range(t.R + lines - 1):
                sources[m * (t.R + lines - 1) + r] = ring + ((j * t.step + r) % t.slots * t.terms + m) * t.pitch
        to = y + j * t.spread * ys[2]
        out, ld = bounce, t.pitch
        if not bounced:
            out, ld = <summand*>to, t.spread * ys[2] // item
        column_tile(sources, t, columns, start, out, ld, lines, width)
        again = w != NULL and not finite(out, ld, lines, width)
        for b in range(lines if again or bounced else 0):
            if again:
                for k in range(width):
                    bounce[b * t.pitch + k] = start
                for r in range(t.R):
                    load_row(t, x, a * t.sh + ((j + b) * t.step + r) * t.dh, q0, width, row)
                    row_tile(row, t, w + r * t.S, bounce + b * t.pitch, width, True, x, 0)
            store(bounce + b * t.pitch, t, width, to + b * t.spread * ys[2], ys[3])
        j += lines


# One entry for each dtype of the sums. x: (N, C, height, width, bytes of a number of `kind`, see simd/convert.h), any
# strides; y: likewise, of the sums' dtype or, `integers`, of int64. by_columns (C, terms, R), by_rows (C, terms, S);
# w (C, R, S), empty where lines that aren't finite are right; bias: empty for none; geometry, blocks and the index
# vectors as fastconv/algorithms/separable.py makes them.


cdef void forward(const uint8_t[:, :, :, :, :] x, int kind, const summand[:, :, ::1] by_columns,
                  const summand[:, :, ::1] by_rows, const summand[:, :, ::1] w, const summand[::1] bias,
                  uint8_t[:, :, :, :, :] y, bint integers, summand cval, tuple geometry, tuple blocks,
                  const int64_t[::1] rows, const int64_t[::1] columns, const int64_t[::1] taps, uint8_t[::1] scratch,
                  Py_ssize_t worker_bytes, int workers) except *:
    cdef Task t
    cdef Py_ssize_t units
    t.C, t.W, t.R, t.S, t.P, t.Q, t.left, t.sh, t.sw, t.dh, t.dw, t.spread, t.step, t.terms = geometry
    t.block_j, t.block_q, t.slots, t.pitch, t.phases, t.row_pitch = blocks
    t.classes = min(t.spread, t.P)
    t.rows, t.columns, t.taps, t.padded_h, t.padded_w = (
        &rows[0], &columns[0], &taps[0], rows.shape[0], columns.shape[0])
    t.x, t.xs, t.kind, t.cval = <const char*>&x[0, 0, 0, 0, 0], x.strides, kind, &cval
    t.y, t.ys, t.integers = <char*>&y[0, 0, 0, 0, 0], y.strides, integers
    t.by_columns, t.by_rows = &by_columns[0, 0, 0], &by_rows[0, 0, 0]
    t.w, t.bias = &w[0, 0, 0] if w.shape[0] else NULL, &bias[0] if bias.shape[0] else NULL
    units = x.shape[0] * t.C * t.classes * (((t.P + t.spread - 1) // t.spread + t.block_j - 1) // t.block_j)
    units *= (t.Q + t.block_q - 1) // t.block_q
    with nogil:
        share(<unit_function>forward_unit[summand], &t, units, <char*>&scratch[0], worker_bytes, workers)


def f32_forward(const uint8_t[:, :, :, :, :] x, int kind, const float[:, :, ::1] by_columns,
                const float[:, :, ::1] by_rows, const float[:, :, ::1] w, const float[::1] bias,
                uint8_t[:, :, :, :, :] y, bint integers, float cval, tuple geometry, tuple blocks,
                const int64_t[::1] rows, const int64_t[::1] columns, const int64_t[::1] taps, uint8_t[::1] scratch,
                Py_ssize_t worker_bytes, int workers):
    forward[float](x, kind, by_columns, by_rows, w, bias, y, integers, cval, geometry, blocks, rows, columns, taps,
                  scratch, worker_bytes, workers)


def f64_forward(const uint8_t[:, :, :, :, :] x, int kind, const double[:, :, ::1] by_columns,
                const double[:, :, ::1] by_rows, const double[:, :, ::1] w, const double[::1] bias,
                uint8_t[:, :, :, :, :] y, bint integers, double cval, tuple geometry, tuple blocks,
                const int64_t[::1] rows, const int64_t[::1] columns, const int64_t[::1] taps, uint8_t[::1] scratch,
                Py_ssize_t worker_bytes, int workers):
    forward[double](x, kind, by_columns, by_rows, w, bias, y, integers, cval, geometry, blocks, rows, columns, taps,
                  scratch, worker_bytes, workers)


def u64_forward(const uint8_t[:, :, :, :, :] x, int kind, const uint64_t[:, :, ::1] by_columns,
                const uint64_t[:, :, ::1] by_rows, const uint64_t[:, :, ::1] w, const uint64_t[::1] bias,
                uint8_t[:, :, :, :, :] y, bint integers, uint64_t cval, tuple geometry, tuple blocks,
                const int64_t[::1] rows, const int64_t[::1] columns, const int64_t[::1] taps, uint8_t[::1] scratch,
                Py_ssize_t worker_bytes, int workers):
    forward[uint64_t](x, kind, by_columns, by_rows, w, bias, y, integers, cval, geometry, blocks, rows, columns, taps,
                  scratch, worker_bytes, workers)
