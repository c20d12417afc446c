"""The direct method: every output as the plain sum over the filter's taps, from a small copied block of the image.

Called by fastconv/algorithms/direct.py, which decides block sizes and taps. Knows no cost, choice or padding rule.

A block of `block_p` x `block_q` outputs needs a patch of the padded image. It is copied in polyphase order, one plane
per (channel, row phase, column phase), `slots` rows of `pitch` elements each. Phase a holds the rows u = a*dh mod sh,
so that only phases with taps exist; there are phases_h = min(R, sh / gcd(sh, dh)) of them, and likewise of columns:

    block[c][a][b][i][j] = padded[c0 + c, (p0 + i)*sh + a*dh % sh, (q0 + j)*sw + b*dw % sw]

In it the pixel under tap (r, s) of output (p, q) lies at  taps[c, r, s] + p*pitch + q  for every stride and dilation, so
the outputs of a block are one run of length (block_p - 1)*pitch + block_q, in which pitch - block_q entries of each row
are computed in vain. The tiles in simd/direct_tile.h work on such runs.

    packed weights   w[g][k / DK][c][r][s][DK]   DK filters side by side, zeros where a group has no more
    accumulators     acc[DK][run]

The gradient of the input is this same forward operation (fastconv/algorithms/phases.py), but for one thing: dy is not
padded with zeros, it ends, so an infinite weight meets nothing there and makes no NaN. `careful` sees to that.
Each worker has `worker_bytes` of scratch, 64-byte aligned; workers == 1 never enters a parallel region.
"""

from cython.parallel cimport prange, threadid
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from windows cimport first_inside, summand

cdef extern from "tiles.h" nogil:
    const int DIRECT_K
    const int DIRECT_T
    const int DIRECT_D
    const int VECTOR_BYTES
    void f32_direct_tile(const float*, const ptrdiff_t*, ptrdiff_t, const float*, float*, ptrdiff_t, ptrdiff_t)
    void f64_direct_tile(const double*, const ptrdiff_t*, ptrdiff_t, const double*, double*, ptrdiff_t, ptrdiff_t)
    void u64_direct_tile(const uint64_t*, const ptrdiff_t*, ptrdiff_t, const uint64_t*, uint64_t*, ptrdiff_t, ptrdiff_t)
    void f32_direct_tile_1(const float*, const ptrdiff_t*, ptrdiff_t, const float*, float*, ptrdiff_t, ptrdiff_t)
    void f64_direct_tile_1(const double*, const ptrdiff_t*, ptrdiff_t, const double*, double*, ptrdiff_t, ptrdiff_t)
    void u64_direct_tile_1(
        const uint64_t*, const ptrdiff_t*, ptrdiff_t, const uint64_t*, uint64_t*, ptrdiff_t, ptrdiff_t)
    void f32_direct_dots(const float*, const ptrdiff_t*, ptrdiff_t, const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                         ptrdiff_t, float*)
    void f64_direct_dots(const double*, const ptrdiff_t*, ptrdiff_t, const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                         ptrdiff_t, double*)
    void u64_direct_dots(const uint64_t*, const ptrdiff_t*, ptrdiff_t, const uint64_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                         ptrdiff_t, uint64_t*)

FILTERS = DIRECT_K
"""Filters of one forward tile (a group of one filter has a tile of its own)."""
DOT_FILTERS, DOT_TAPS = DIRECT_D, DIRECT_T
"""Rows of dy and taps of one weight-gradient tile."""
BYTES = VECTOR_BYTES
"""Bytes of one vector: blocks are read and computed up to the next whole one."""


cdef struct Task:
    Py_ssize_t groups, C, K  # channels and filters of one group
    Py_ssize_t H, W, R, S, P, Q
    Py_ssize_t left, sh, sw, dh, dw
    Py_ssize_t filters, block_p, block_q, block_c, slots, pitch, phases_h, phases_w
    Py_ssize_t padded_h, padded_w
    const int64_t* rows
    const int64_t* columns
    const int64_t* taps
    Py_ssize_t ntaps  # of a whole channel block
    bint careful


cdef inline void tile(summand* x, const Task* t, Py_ssize_t ntaps, const summand* w, summand* acc, Py_ssize_t ld,
                      Py_ssize_t run) noexcept nogil:
    cdef const ptrdiff_t* taps = <const ptrdiff_t*>t.taps
    if t.filters == 1:
        if summand is float:
            f32_direct_tile_1(x, taps, ntaps, w, acc, ld, run)
        elif summand is double:
            f64_direct_tile_1(x, taps, ntaps, w, acc, ld, run)
        else:
            u64_direct_tile_1(x, taps, ntaps, w, acc, ld, run)
    elif summand is float:
        f32_direct_tile(x, taps, ntaps, w, acc, ld, run)
    elif summand is double:
        f64_direct_tile(x, taps, ntaps, w, acc, ld, run)
    else:
        u64_direct_tile(x, taps, ntaps, w, acc, ld, run)


cdef inline void dots(const summand* x, const ptrdiff_t* taps, Py_ssize_t pitch, const summand* dy, Py_ssize_t dy_filter,
                      Py_ssize_t dy_row, Py_ssize_t rows, Py_ssize_t columns, summand* dot) noexcept nogil:
    if summand is float:
        f32_direct_dots(x, taps, pitch, dy, dy_filter, dy_row, rows, columns, dot)
    elif summand is double:
        f64_direct_dots(x, taps, pitch, dy, dy_filter, dy_row, rows, columns, dot)
    else:
        u64_direct_dots(x, taps, pitch, dy, dy_filter, dy_row, rows, columns, dot)


cdef void load_row(const summand* row, Py_ssize_t step, const Task* t, summand cval, Py_ssize_t v0, Py_ssize_t width,
                   summand* out) noexcept nogil:
    """out[j] = the padded row at column v0 + j*sw, j < width; 0 beyond its end. row == NULL: the constant."""
    cdef Py_ssize_t j, w, last = min(width, (t.padded_w - v0 + t.sw - 1) // t.sw) if v0 < t.padded_w else 0
    cdef Py_ssize_t inside, outside, offset = v0 - t.left
    if row == NULL:
        for j in range(last):
            out[j] = cval
    else:
        inside = first_inside(offset, t.sw, 0, last)
        outside = first_inside(offset - t.W, t.sw, inside, last)
        for j in range(inside):
            w = t.columns[v0 + j * t.sw]
            out[j] = row[w * step] if w >= 0 else cval
        if step == 1 and t.sw == 1:
            memcpy(out + inside, row + inside + offset, (outside - inside) * sizeof(summand))
        elif step == 1 and t.sw == 2:  # a constant step lets the compiler vectorise
            for j in range(inside, outside):
                out[j] = row[2 * j + offset]
        else:
            for j in range(inside, outside):
                out[j] = row[(j * t.sw + offset) * step]
        for j in range(outside, last):
            w = t.columns[v0 + j * t.sw]
            out[j] = row[w * step] if w >= 0 else cval
    for j in range(last, width):
        out[j] = 0


cdef void load_block(const char* x, Py_ssize_t xc, Py_ssize_t xh, Py_ssize_t xw, const Task* t, summand cval,
                     Py_ssize_t channels, Py_ssize_t p0, Py_ssize_t q0, Py_ssize_t rows, Py_ssize_t columns,
                     summand* block) noexcept nogil:
    """Copy the patch under rows x columns outputs at (p0, q0) in the order of the picture above. Strides in bytes."""
    cdef Py_ssize_t c, a, b, i, u, h
    cdef Py_ssize_t slots = rows + (t.R - 1) * t.dh // t.sh, width = columns + (t.S - 1) * t.dw // t.sw
    cdef const char* row
    for c in range(channels):
        for a in range(t.phases_h):
            for i in range(slots):
                u = (p0 + i) * t.sh + a * t.dh % t.sh
                if u >= t.padded_h:
                    break
                h = t.rows[u]
                row = x + c * xc + h * xh if h >= 0 else NULL
                for b in range(t.phases_w):
                    load_row(<const summand*>row, xw // <Py_ssize_t>sizeof(summand), t, cval,
                             q0 * t.sw + b * t.dw % t.sw, width,
                             block + (((c * t.phases_h + a) * t.phases_w + b) * t.slots + i) * t.pitch)


cdef void careful_tile(const summand* x, const summand* inside, const Task* t, Py_ssize_t ntaps, const summand* w,
                       summand* acc, Py_ssize_t ld, Py_ssize_t run) noexcept nogil:
    """The tile for weights that are not all finite, without the products that the adjoint of padding doesn't have."""
    cdef Py_ssize_t k, i, tap
    for tap in range(ntaps):
        for k in range(t.filters):
            for i in range(run):
                if inside[t.taps[tap] + i] != 0:
                    acc[k * ld + i] += w[tap * t.filters + k] * x[t.taps[tap] + i]


cdef void forward_unit(Py_ssize_t unit, const Task* t, const char* x, const Py_ssize_t* xs, summand cval,
                       const summand* w, const summand* bias, char* y, const Py_ssize_t* ys, char* scratch) noexcept nogil:
    """One block of outputs of `filters` filters of one sample."""
    cdef summand one = 1
    cdef Py_ssize_t k_blocks = (t.K + t.filters - 1) // t.filters
    cdef Py_ssize_t q_blocks = (t.Q + t.block_q - 1) // t.block_q, p_blocks = (t.P + t.block_p - 1) // t.block_p
    cdef Py_ssize_t k_block = unit % k_blocks, rest = unit // k_blocks
    cdef Py_ssize_t q0 = rest % q_blocks * t.block_q
    cdef Py_ssize_t p0 = rest // q_blocks % p_blocks * t.block_p
    cdef Py_ssize_t g = rest // q_blocks // p_blocks % t.groups
    cdef Py_ssize_t n = rest // q_blocks // p_blocks // t.groups
    cdef Py_ssize_t rows = min(t.block_p, t.P - p0), columns = min(t.block_q, t.Q - q0)
    cdef Py_ssize_t k0 = k_block * t.filters, filters = min(t.filters, t.K - k0)
    cdef Py_ssize_t lanes = VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t run = (rows - 1) * t.pitch + columns, ld = (run + lanes - 1) // lanes * lanes
    cdef summand* acc = <summand*>scratch
    cdef summand* block = acc + t.filters * (((t.block_p - 1) * t.pitch + t.block_q + lanes - 1) // lanes * lanes)
    cdef summand* inside = block + t.block_c * t.phases_h * t.phases_w * t.slots * t.pitch + 2 * lanes  # if careful
    cdef Py_ssize_t i, k, p, q, c0, channels
    cdef summand start
    cdef char* out
    w += (g * k_blocks + k_block) * t.C * t.R * t.S * t.filters
    for k in range(t.filters):
        start = bias[g * t.K + k0 + k] if bias != NULL and k < filters else 0
        for i in range(ld):
            acc[k * ld + i] = start
    for i in range((t.C + t.block_c - 1) // t.block_c):
        c0 = i * t.block_c
        channels = min(t.block_c, t.C - c0)
        load_block(x + n * xs[0] + (g * t.C + c0) * xs[1], xs[1], xs[2], xs[3], t, cval, channels, p0, q0, rows, columns,
                   block)
        if t.careful:
            load_block(<const char*>&one, 0, 0, 0, t, <summand>0, channels, p0, q0, rows, columns, inside)
            careful_tile(<const summand*>block, <const summand*>inside, t, channels * t.R * t.S,
                         w + c0 * t.R * t.S * t.filters, acc, ld, run)
        else:
            tile(block, t, channels * t.R * t.S, w + c0 * t.R * t.S * t.filters, acc, ld, run)
    for k in range(filters):
        for p in range(rows):
            out = y + n * ys[0] + (g * t.K + k0 + k) * ys[1] + (p0 + p) * ys[2] + q0 * ys[3]
            if ys[3] == sizeof(summand):
                memcpy(out, acc + k * ld + p * t.pitch, columns * sizeof(summand))
            else:
                for q in range(columns):
                    (<summand*>(out + q * ys[3]))[0] = acc[k * ld + p * t.pitch + q]


cdef void forward(Task t, Py_ssize_t N, const char* x, const Py_ssize_t* xs, summand cval, const summand* w,
                  const summand* bias, char* y, const Py_ssize_t* ys, char* scratch, Py_ssize_t worker_bytes,
                  int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = (N * t.groups * ((t.K + t.filters - 1) // t.filters)
                                   * ((t.P + t.block_p - 1) // t.block_p) * ((t.Q + t.block_q - 1) // t.block_q))
    if workers == 1:
        for unit in range(units):
            forward_unit(unit, &t, x, xs, cval, w, bias, y, ys, scratch)
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            forward_unit(unit, &t, x, xs, cval, w, bias, y, ys, scratch + threadid() * worker_bytes)


cdef void weight_unit(Py_ssize_t unit, const Task* t, Py_ssize_t N, Py_ssize_t pieces, const char* x, const Py_ssize_t* xs,
                      summand cval, const char* dy, const Py_ssize_t* ys, summand* dw, char* scratch) noexcept nogil:
    """dw of `filters` filters and a block of channels, summed over the samples of one piece."""
    cdef Py_ssize_t k_blocks = (t.K + t.filters - 1) // t.filters, c_blocks = (t.C + t.block_c - 1) // t.block_c
    cdef Py_ssize_t c0 = unit % c_blocks * t.block_c, rest = unit // c_blocks
    cdef Py_ssize_t k0 = rest % k_blocks * t.filters
    cdef Py_ssize_t g = rest // k_blocks % t.groups, piece = rest // k_blocks // t.groups
    cdef Py_ssize_t channels = min(t.block_c, t.C - c0), filters = min(t.filters, t.K - k0)
    cdef Py_ssize_t lanes = VECTOR_BYTES // sizeof(summand), taps = channels * t.R * t.S
    cdef Py_ssize_t row_length = (t.block_q + lanes - 1) // lanes * lanes, dots_size = t.filters * DIRECT_T * lanes
    cdef Py_ssize_t tap_groups = (taps + DIRECT_T - 1) // DIRECT_T, q_blocks = (t.Q + t.block_q - 1) // t.block_q
    cdef summand* dot = <summand*>scratch
    cdef summand* dy_block = dot + (t.ntaps + DIRECT_T - 1) // DIRECT_T * dots_size
    cdef summand* block = dy_block + t.filters * t.block_p * row_length
    cdef Py_ssize_t i, n, k, p, q, p0, q0, rows, columns, tap
    cdef const char* row
    cdef summand total
    memset(dot, 0, tap_groups * dots_size * sizeof(summand))
    memset(dy_block, 0, t.filters * t.block_p * row_length * sizeof(summand))
    for n in range(N * piece // pieces, N * (piece + 1) // pieces):
        for i in range(((t.P + t.block_p - 1) // t.block_p) * q_blocks):
            p0, q0 = i // q_blocks * t.block_p, i % q_blocks * t.block_q
            rows, columns = min(t.block_p, t.P - p0), min(t.block_q, t.Q - q0)
            load_block(x + n * xs[0] + (g * t.C + c0) * xs[1], xs[1], xs[2], xs[3], t, cval, channels, p0, q0, rows,
                       columns, block)
            for k in range(filters):
                for p in range(rows):
                    row = dy + n * ys[0] + (g * t.K + k0 + k) * ys[1] + (p0 + p) * ys[2] + q0 * ys[3]
                    for q in range(columns):
                        dy_block[(k * t.block_p + p) * row_length + q] = (<const summand*>(row + q * ys[3]))[0]
                    for q in range(columns, row_length):  # a wider block may have left something there
                        dy_block[(k * t.block_p + p) * row_length + q] = 0
            for tap in range(tap_groups):
                dots(<const summand*>block, <const ptrdiff_t*>t.taps + tap * DIRECT_T, t.pitch, <const summand*>dy_block,
                     t.block_p * row_length, row_length, rows, columns, dot + tap * dots_size)
    for k in range(filters):
        for tap in range(taps):
            total = 0
            for i in range(lanes):
                total += dot[tap // DIRECT_T * dots_size + (k * DIRECT_T + tap % DIRECT_T) * lanes + i]
            dw[((piece * t.groups * t.K + g * t.K + k0 + k) * t.C + c0) * t.R * t.S + tap] = total


cdef void weight_grad(Task t, Py_ssize_t N, Py_ssize_t pieces, const char* x, const Py_ssize_t* xs, summand cval,
                      const char* dy, const Py_ssize_t* ys, summand* dw, char* scratch, Py_ssize_t worker_bytes,
                      int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = (pieces * t.groups * ((t.K + t.filters - 1) // t.filters)
                                   * ((t.C + t.block_c - 1) // t.block_c))
    if workers == 1:
        for unit in range(units):
            weight_unit(unit, &t, N, pieces, x, xs, cval, dy, ys, dw, scratch)
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            weight_unit(unit, &t, N, pieces, x, xs, cval, dy, ys, dw, scratch + threadid() * worker_bytes)


cdef bint pack(const char* w, const Py_ssize_t* shape, const Py_ssize_t* ws, Py_ssize_t filters, summand* out) noexcept nogil:
    """w (groups, K, C, R, S) of any strides into the packed order of the picture above. Are all of them finite?"""
    cdef Py_ssize_t g, k, block, c, r, s
    cdef summand nothing = 0
    for g in range(shape[0]):
        for block in range((shape[1] + filters - 1) // filters):
            for c in range(shape[2]):
                for r in range(shape[3]):
                    for s in range(shape[4]):
                        for k in range(block * filters, (block + 1) * filters):
                            out[0] = (<const summand*>(w + g * ws[0] + k * ws[1] + c * ws[2] + r * ws[3] + s * ws[4]))[0] \
                                if k < shape[1] else 0
                            nothing += out[0] * 0  # NaN for an infinity or NaN
                            out += 1
    return nothing == 0


cdef Task make_task(tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    const int64_t[::1] taps) except *:
    cdef Task t
    t.groups, t.C, t.K, t.H, t.W, t.R, t.S, t.P, t.Q, t.left, t.sh, t.sw, t.dh, t.dw = geometry
    t.filters, t.block_p, t.block_q, t.block_c, t.slots, t.pitch, t.phases_h, t.phases_w = blocks
    t.rows, t.columns, t.taps = &rows[0], &columns[0], &taps[0]
    t.padded_h, t.padded_w, t.ntaps = rows.shape[0], columns.shape[0], t.block_c * t.R * t.S
    return t

# One entry for each dtype. x, dy, y: (N, channels, height, width) of any strides; bias: empty for none;
# geometry, blocks and the index vectors as fastconv/algorithms/direct.py makes them.


def f32_pack(const float[:, :, :, :, :] w, Py_ssize_t filters, float[::1] out):
    cdef bint finite
    with nogil:
        finite = pack[float](<const char*>&w[0, 0, 0, 0, 0], w.shape, w.strides, filters, &out[0])
    return finite


def f64_pack(const double[:, :, :, :, :] w, Py_ssize_t filters, double[::1] out):
    cdef bint finite
    with nogil:
        finite = pack[double](<const char*>&w[0, 0, 0, 0, 0], w.shape, w.strides, filters, &out[0])
    return finite


def u64_pack(const uint64_t[:, :, :, :, :] w, Py_ssize_t filters, uint64_t[::1] out):
    cdef bint finite
    with nogil:
        finite = pack[uint64_t](<const char*>&w[0, 0, 0, 0, 0], w.shape, w.strides, filters, &out[0])
    return finite


def f32_forward(const float[:, :, :, :] x, const float[::1] packed, const float[::1] bias, float[:, :, :, :] y, float cval,
                tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                const int64_t[::1] taps, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers, bint careful=False):
    cdef Task t = make_task(geometry, blocks, rows, columns, taps)
    t.careful = careful
    with nogil:
        forward[float](t, x.shape[0], <const char*>&x[0, 0, 0, 0], x.strides, cval, &packed[0],
                       &bias[0] if bias.shape[0] else NULL, <char*>&y[0, 0, 0, 0], y.strides, <char*>&scratch[0],
                       worker_bytes, workers)


def f64_forward(const double[:, :, :, :] x, const double[::1] packed, const double[::1] bias, double[:, :, :, :] y,
                double cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                const int64_t[::1] taps, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers, bint careful=False):
    cdef Task t = make_task(geometry, blocks, rows, columns, taps)
    t.careful = careful
    with nogil:
        forward[double](t, x.shape[0], <const char*>&x[0, 0, 0, 0], x.strides, cval, &packed[0],
                        &bias[0] if bias.shape[0] else NULL, <char*>&y[0, 0, 0, 0], y.strides, <char*>&scratch[0],
                        worker_bytes, workers)


def u64_forward(const uint64_t[:, :, :, :] x, const uint64_t[::1] packed, const uint64_t[::1] bias,
                uint64_t[:, :, :, :] y, uint64_t cval, tuple geometry, tuple blocks, const int64_t[::1] rows,
                const int64_t[::1] columns, const int64_t[::1] taps, uint8_t[::1] scratch, Py_ssize_t worker_bytes,
                int workers, bint careful=False):
    cdef Task t = make_task(geometry, blocks, rows, columns, taps)
    t.careful = careful
    with nogil:
        forward[uint64_t](t, x.shape[0], <const char*>&x[0, 0, 0, 0], x.strides, cval, &packed[0],
                          &bias[0] if bias.shape[0] else NULL, <char*>&y[0, 0, 0, 0], y.strides, <char*>&scratch[0],
                          worker_bytes, workers)


def f32_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :, ::1] dw, float cval,
                    tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    const int64_t[::1] taps, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """dw (pieces, K, C/groups, R, S): to be added up by the caller."""
    cdef Task t = make_task(geometry, blocks, rows, columns, taps)
    with nogil:
        weight_grad[float](t, x.shape[0], dw.shape[0], <const char*>&x[0, 0, 0, 0], x.strides, cval,
                           <const char*>&dy[0, 0, 0, 0], dy.strides, &dw[0, 0, 0, 0, 0], <char*>&scratch[0],
                           worker_bytes, workers)


def f64_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :, ::1] dw, double cval,
                    tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    const int64_t[::1] taps, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns, taps)
    with nogil:
        weight_grad[double](t, x.shape[0], dw.shape[0], <const char*>&x[0, 0, 0, 0], x.strides, cval,
                            <const char*>&dy[0, 0, 0, 0], dy.strides, &dw[0, 0, 0, 0, 0], <char*>&scratch[0],
                            worker_bytes, workers)


def u64_weight_grad(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :] dy, uint64_t[:, :, :, :, ::1] dw,
                    uint64_t cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    const int64_t[::1] taps, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns, taps)
    with nogil:
        weight_grad[uint64_t](t, x.shape[0], dw.shape[0], <const char*>&x[0, 0, 0, 0], x.strides, cval,
                              <const char*>&dy[0, 0, 0, 0], dy.strides, &dw[0, 0, 0, 0, 0], <char*>&scratch[0],
                              worker_bytes, workers)
