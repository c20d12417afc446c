"""Convolution as a product of matrices, in all three directions: window extraction, then our own blocked product.

Called by fastconv/algorithms/im2col.py, which decides block sizes. Knows no cost, choice or padding rule.
Summation is over depth blocks in a fixed order, so results do not depend on the number of workers.

    forward        y[k, pq]   = sum_crs w[k, crs] * cols[crs, pq]        cols: windows of x, a block of pixels at a time
    input_grad     cols[crs, pq] = sum_k w[k, crs] * dy[k, pq]           scattered into dx (the adjoint of extraction)
    weight_grad    dw[k, crs] = sum_pq cols[crs, pq] * dy[k, pq]

Each is product(): C (M x N) += A (M x depth) B (depth x N), with

    A packed in panels of GEMM_M rows     a[i / MR][depth][MR], zeros below the last row
    B row by row                          b[depth][ldb], copied into panels of GEMM_N columns that stay in L1
    C row by row                          c[M rounded up][ldc], whole tiles only

Each worker has `worker_bytes` of scratch, 64-byte aligned; workers == 1 never enters a parallel region.
"""

cimport cython
from cython.parallel cimport prange, threadid
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from windows cimport Geometry, gather_windows, scatter_windows, summand

cdef extern from "tiles.h" nogil:
    const int GEMM_M
    const int GEMM_VECTORS
    const int VECTOR_BYTES
    void f32_gemm_tile(ptrdiff_t, const float*, const float*, float*, ptrdiff_t)
    void f64_gemm_tile(ptrdiff_t, const double*, const double*, double*, ptrdiff_t)
    void u64_gemm_tile(ptrdiff_t, const uint64_t*, const uint64_t*, uint64_t*, ptrdiff_t)

cdef Py_ssize_t DEPTH = 256  # of one block: a panel of B is then 32 KiB at most, and a panel of A half of that

TILE_ROWS = GEMM_M
TILE_BYTES = GEMM_VECTORS * VECTOR_BYTES
"""Bytes of one row of a tile."""
DEPTH_BLOCK = DEPTH


cdef struct Task:
    Py_ssize_t groups, C, K  # channels and filters of one group
    Py_ssize_t block_p, block_q, block_c, pieces
    Geometry g


cdef inline Py_ssize_t blocks_of(Py_ssize_t extent, Py_ssize_t block) noexcept nogil:
    return (extent + block - 1) // block


cdef inline Py_ssize_t up(Py_ssize_t extent, Py_ssize_t block) noexcept nogil:
    return (extent + block - 1) // block * block


cdef void pack_panels(const summand* a, Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t depth,
                      summand* panels) noexcept nogil:
    """A matrix of the given strides (in elements) into panels of GEMM_M rows."""
    cdef Py_ssize_t i, k, panel, height
    for panel in range(blocks_of(rows, GEMM_M)):
        height = min(<Py_ssize_t>GEMM_M, rows - panel * GEMM_M)
        for i in range(height):
            for k in range(depth):
                panels[k * GEMM_M + i] = a[i * row + k * column]
        for i in range(height, GEMM_M):
            for k in range(depth):
                panels[k * GEMM_M + i] = 0
        panels += depth * GEMM_M
        a += GEMM_M * row


cdef void product(Py_ssize_t rows, Py_ssize_t depth, Py_ssize_t columns, const summand* a, const summand* b,
                  Py_ssize_t ldb, summand* panel, summand* c, Py_ssize_t ldc) noexcept nogil:
    """c += a b, tile by tile; columns is rounded up to whole tiles. panel: DEPTH * GEMM_N elements of scratch."""
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t i, j, k, k0, kb, kc
    for kb in range(blocks_of(depth, DEPTH)):
        k0 = kb * DEPTH
        kc = min(DEPTH, depth - k0)
        for j in range(blocks_of(columns, width)):
            for k in range(kc):
                memcpy(panel + k * width, b + (k0 + k) * ldb + j * width, width * sizeof(summand))
            for i in range(blocks_of(rows, GEMM_M)):
                if summand is float:
                    f32_gemm_tile(kc, a + (i * depth + k0) * GEMM_M, panel, c + i * GEMM_M * ldc + j * width, ldc)
                elif summand is double:
                    f64_gemm_tile(kc, a + (i * depth + k0) * GEMM_M, panel, c + i * GEMM_M * ldc + j * width, ldc)
                else:
                    u64_gemm_tile(kc, a + (i * depth + k0) * GEMM_M, panel, c + i * GEMM_M * ldc + j * width, ldc)


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


cdef void forward_unit(Py_ssize_t unit, const Task* t, const summand* x, const Py_ssize_t* xs, summand cval,
                       const summand* w, const summand* bias, summand* y, const Py_ssize_t* ys, summand* scratch) noexcept nogil:
    """One block of pixels of all filters of one group and sample. Strides in elements."""
    cdef Block b = pixel_block(unit % pixel_blocks(t), t)
    cdef Py_ssize_t g = unit // pixel_blocks(t) % t.groups, n = unit // pixel_blocks(t) // t.groups
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t depth = t.C * t.g.R * t.g.S, ld = up(b.pixels, width), span = b.q1 - b.q0
    cdef summand* panel = scratch
    cdef summand* cols = panel + DEPTH * width
    cdef summand* sums = cols + depth * ld
    cdef Py_ssize_t i, k, p, q
    cdef summand start
    cdef summand* out
    gather_windows(x + n * xs[0] + g * t.C * xs[1], xs[1], xs[2], xs[3], &t.g, cval, 0, t.C, b.p0, b.p1, b.q0, b.q1,
                   cols, ld)
    for k in range(up(t.K, GEMM_M)):
        start = bias[g * t.K + k] if bias != NULL and k < t.K else 0
        for i in range(ld):
            sums[k * ld + i] = start
    product(t.K, depth, b.pixels, w + g * up(t.K, GEMM_M) * depth, cols, ld, panel, sums, ld)
    for k in range(t.K):
        for p in range(b.p0, b.p1):
            out = y + n * ys[0] + (g * t.K + k) * ys[1] + p * ys[2] + b.q0 * ys[3]
            if ys[3] == 1:
                memcpy(out, sums + k * ld + (p - b.p0) * span, span * sizeof(summand))
            else:
                for q in range(span):
                    out[q * ys[3]] = sums[k * ld + (p - b.p0) * span + q]


cdef void input_unit(Py_ssize_t unit, const Task* t, const summand* dy, const Py_ssize_t* ys, const summand* w,
                     const summand* bias, summand* dx, const Py_ssize_t* xs, summand* scratch) noexcept nogil:
    """The planes of a block of channels of one sample: nobody else writes there."""
    cdef Py_ssize_t c_blocks = blocks_of(t.C, t.block_c)
    cdef Py_ssize_t c0 = unit % c_blocks * t.block_c, g = unit // c_blocks % t.groups, n = unit // c_blocks // t.groups
    cdef Py_ssize_t channels = min(t.block_c, t.C - c0), taps = t.g.R * t.g.S, rows = channels * taps
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t largest = up(t.block_p * t.block_q, width), panel_rows = up(t.block_c * taps, GEMM_M)
    cdef summand* panel = scratch
    cdef summand* dy_block = panel + DEPTH * width
    cdef summand* cols = dy_block + t.K * largest
    cdef summand* planes = dx + n * xs[0] + (g * t.C + c0) * xs[1]
    cdef Py_ssize_t i, j, k, c, h, v, p, ld, span
    cdef Block b
    cdef summand start
    for c in range(channels):
        start = bias[g * t.C + c0 + c] if bias != NULL else 0
        for h in range(t.g.H):
            for v in range(t.g.W):
                planes[c * xs[1] + h * xs[2] + v * xs[3]] = start
    for i in range(pixel_blocks(t)):
        b = pixel_block(i, t)
        ld, span = up(b.pixels, width), b.q1 - b.q0
        for k in range(t.K):
            for p in range(b.p0, b.p1):
                for j in range(span):
                    dy_block[k * ld + (p - b.p0) * span + j] = \
                        dy[n * ys[0] + (g * t.K + k) * ys[1] + p * ys[2] + (b.q0 + j) * ys[3]]
        for j in range(up(rows, GEMM_M) * ld):
            cols[j] = 0
        product(rows, t.K, b.pixels, w + (g * c_blocks + c0 // t.block_c) * panel_rows * t.K, dy_block, ld, panel, cols, ld)
        scatter_windows(planes, xs[1], xs[2], xs[3], &t.g, 0, channels, b.p0, b.p1, b.q0, b.q1, cols, ld)


cdef void weight_unit(Py_ssize_t unit, const Task* t, Py_ssize_t N, const summand* x, const Py_ssize_t* xs, summand cval,
                      const summand* dy, const Py_ssize_t* ys, summand* dw, summand* scratch) noexcept nogil:
    """dw of a block of channels and all filters of one group, summed over the pixel blocks of one piece."""
    cdef Py_ssize_t c_blocks = blocks_of(t.C, t.block_c), blocks = N * pixel_blocks(t)
    cdef Py_ssize_t c0 = unit % c_blocks * t.block_c, g = unit // c_blocks % t.groups, piece = unit // c_blocks // t.groups
    cdef Py_ssize_t channels = min(t.block_c, t.C - c0), rows = channels * t.g.R * t.g.S
    cdef Py_ssize_t width = GEMM_VECTORS * VECTOR_BYTES // sizeof(summand)
    cdef Py_ssize_t largest = t.block_p * t.block_q, panel_rows = up(t.block_c * t.g.R * t.g.S, GEMM_M)
    cdef Py_ssize_t ldk = up(t.K, width)
    cdef summand* panel = scratch
    cdef summand* cols = panel + DEPTH * width  # [rows][pixels]
    cdef summand* packed = cols + t.block_c * t.g.R * t.g.S * largest
    cdef summand* dy_block = packed + panel_rows * largest  # [pixels][K]
    cdef summand* sums = dy_block + largest * ldk  # [rows][K]
    cdef Py_ssize_t i, j, k, n, p, span
    cdef Block b
    for i in range(up(rows, GEMM_M) * ldk):
        sums[i] = 0
    for i in range(blocks * piece // t.pieces, blocks * (piece + 1) // t.pieces):
        n = i // pixel_blocks(t)
        b = pixel_block(i % pixel_blocks(t), t)
        span = b.q1 - b.q0
        gather_windows(x + n * xs[0] + (g * t.C + c0) * xs[1], xs[1], xs[2], xs[3], &t.g, cval, 0, channels, b.p0, b.p1,
                       b.q0, b.q1, cols, b.pixels)
        pack_panels(<const summand*>cols, b.pixels, 1, rows, b.pixels, packed)
        for k in range(t.K):
            for p in range(b.p0, b.p1):
                for j in range(span):
                    dy_block[((p - b.p0) * span + j) * ldk + k] = \
                        dy[n * ys[0] + (g * t.K + k) * ys[1] + p * ys[2] + (b.q0 + j) * ys[3]]
        product(rows, b.pixels, t.K, packed, dy_block, ldk, panel, sums, ldk)
    for k in range(t.K):
        for i in range(rows):
            dw[((piece * t.groups + g) * t.K + k) * t.C * t.g.R * t.g.S + c0 * t.g.R * t.g.S + i] = sums[i * ldk + k]


cdef void forward(Task t, Py_ssize_t N, const summand* x, const Py_ssize_t* xs, summand cval, const summand* w,
                  const summand* bias, summand* y, const Py_ssize_t* ys, char* scratch, Py_ssize_t worker_bytes,
                  int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = N * t.groups * pixel_blocks(&t)
    if workers == 1:
        for unit in range(units):
            forward_unit(unit, &t, x, xs, cval, w, bias, y, ys, <summand*>scratch)
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            forward_unit(unit, &t, x, xs, cval, w, bias, y, ys, <summand*>(scratch + threadid() * worker_bytes))


cdef void input_grad(Task t, Py_ssize_t N, const summand* dy, const Py_ssize_t* ys, const summand* w, const summand* bias,
                     summand* dx, const Py_ssize_t* xs, char* scratch, Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = N * t.groups * blocks_of(t.C, t.block_c)
    if workers == 1:
        for unit in range(units):
            input_unit(unit, &t, dy, ys, w, bias, dx, xs, <summand*>scratch)
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            input_unit(unit, &t, dy, ys, w, bias, dx, xs, <summand*>(scratch + threadid() * worker_bytes))


cdef void weight_grad(Task t, Py_ssize_t N, const summand* x, const Py_ssize_t* xs, summand cval, const summand* dy,
                      const Py_ssize_t* ys, summand* dw, char* scratch, Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = t.pieces * t.groups * blocks_of(t.C, t.block_c)
    if workers == 1:
        for unit in range(units):
            weight_unit(unit, &t, N, x, xs, cval, dy, ys, dw, <summand*>scratch)
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            weight_unit(unit, &t, N, x, xs, cval, dy, ys, dw, <summand*>(scratch + threadid() * worker_bytes))


cdef Task make_task(tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns) except *:
    cdef Task t
    (t.groups, t.C, t.K, t.g.H, t.g.W, t.g.R, t.g.S, t.g.P, t.g.Q, t.g.top, t.g.left, t.g.sh, t.g.sw, t.g.dh,
     t.g.dw) = geometry
    t.block_p, t.block_q, t.block_c, t.pieces = blocks
    t.g.rows, t.g.columns = &rows[0], &columns[0]
    return t


cdef struct Strides:  # in elements
    Py_ssize_t of[4]


cdef inline Strides elements(const Py_ssize_t* strides, Py_ssize_t itemsize) noexcept:
    cdef Strides s
    cdef int i
    for i in range(4):
        s.of[i] = strides[i] // itemsize
    return s


cdef void pack(const char* w, const Py_ssize_t* shape, const Py_ssize_t* ws, bint transposed, Py_ssize_t block_c,
               summand* out) noexcept nogil:
    """w (groups, K, C, R, S) into panels: K rows by C*R*S deep; transposed, blocks of block_c*R*S rows by K deep."""
    cdef Py_ssize_t taps = shape[3] * shape[4], depth = shape[2] * taps
    cdef Py_ssize_t g, k, c, r, s, row, at, panel_rows = up(block_c * taps, GEMM_M)
    for g in range(shape[0]):
        for k in range(up(shape[1], GEMM_M) if not transposed else shape[1]):
            for c in range(shape[2] if not transposed else up(shape[2], block_c)):
                for r in range(shape[3]):
                    for s in range(shape[4]):
                        row = ((c % block_c) * shape[3] + r) * shape[4] + s  # within its block, if transposed
                        if transposed:
                            at = (g * blocks_of(shape[2], block_c) + c // block_c) * panel_rows * shape[1] \
                                + (row // GEMM_M * shape[1] + k) * GEMM_M + row % GEMM_M
                        else:
                            at = g * up(shape[1], GEMM_M) * depth \
                                + (k // GEMM_M * depth + (c * shape[3] + r) * shape[4] + s) * GEMM_M + k % GEMM_M
                        out[at] = (<const summand*>(w + g * ws[0] + k * ws[1] + c * ws[2] + r * ws[3] + s * ws[4]))[0] \
                            if k < shape[1] and c < shape[2] else 0

# One entry for each dtype. x, dy, y, dx: (N, channels, height, width) of any strides; bias: empty for none;
# geometry, blocks and the index vectors as fastconv/algorithms/im2col.py makes them.


def f32_pack(const float[:, :, :, :, :] w, bint transposed, Py_ssize_t block_c, float[::1] out):
    with nogil:
        pack[float](<const char*>&w[0, 0, 0, 0, 0], w.shape, w.strides, transposed, block_c, &out[0])


def f64_pack(const double[:, :, :, :, :] w, bint transposed, Py_ssize_t block_c, double[::1] out):
    with nogil:
        pack[double](<const char*>&w[0, 0, 0, 0, 0], w.shape, w.strides, transposed, block_c, &out[0])


def u64_pack(const uint64_t[:, :, :, :, :] w, bint transposed, Py_ssize_t block_c, uint64_t[::1] out):
    with nogil:
        pack[uint64_t](<const char*>&w[0, 0, 0, 0, 0], w.shape, w.strides, transposed, block_c, &out[0])


def f32_forward(const float[:, :, :, :] x, const float[::1] packed, const float[::1] bias, float[:, :, :, :] y, float cval,
                tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4), ys = elements(y.strides, 4)
    with nogil:
        forward[float](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &packed[0], &bias[0] if bias.shape[0] else NULL,
                       &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], worker_bytes, workers)


def f64_forward(const double[:, :, :, :] x, const double[::1] packed, const double[::1] bias, double[:, :, :, :] y,
                double cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 8), ys = elements(y.strides, 8)
    with nogil:
        forward[double](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &packed[0], &bias[0] if bias.shape[0] else NULL,
                        &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], worker_bytes, workers)


def u64_forward(const uint64_t[:, :, :, :] x, const uint64_t[::1] packed, const uint64_t[::1] bias,
                uint64_t[:, :, :, :] y, uint64_t cval, tuple geometry, tuple blocks, const int64_t[::1] rows,
                const int64_t[::1] columns, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 8), ys = elements(y.strides, 8)
    with nogil:
        forward[uint64_t](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &packed[0], &bias[0] if bias.shape[0] else NULL,
                          &y[0, 0, 0, 0], ys.of, <char*>&scratch[0], worker_bytes, workers)


def f32_input_grad(const float[:, :, :, :] dy, const float[::1] packed, const float[::1] bias, float[:, :, :, :] dx,
                   tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                   uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(dx.strides, 4), ys = elements(dy.strides, 4)
    with nogil:
        input_grad[float](t, dx.shape[0], &dy[0, 0, 0, 0], ys.of, &packed[0], &bias[0] if bias.shape[0] else NULL,
                          &dx[0, 0, 0, 0], xs.of, <char*>&scratch[0], worker_bytes, workers)


def f64_input_grad(const double[:, :, :, :] dy, const double[::1] packed, const double[::1] bias, double[:, :, :, :] dx,
                   tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                   uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(dx.strides, 8), ys = elements(dy.strides, 8)
    with nogil:
        input_grad[double](t, dx.shape[0], &dy[0, 0, 0, 0], ys.of, &packed[0], &bias[0] if bias.shape[0] else NULL,
                           &dx[0, 0, 0, 0], xs.of, <char*>&scratch[0], worker_bytes, workers)


def u64_input_grad(const uint64_t[:, :, :, :] dy, const uint64_t[::1] packed, const uint64_t[::1] bias,
                   uint64_t[:, :, :, :] dx, tuple geometry, tuple blocks, const int64_t[::1] rows,
                   const int64_t[::1] columns, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(dx.strides, 8), ys = elements(dy.strides, 8)
    with nogil:
        input_grad[uint64_t](t, dx.shape[0], &dy[0, 0, 0, 0], ys.of, &packed[0], &bias[0] if bias.shape[0] else NULL,
                             &dx[0, 0, 0, 0], xs.of, <char*>&scratch[0], worker_bytes, workers)


def f32_weight_grad(const float[:, :, :, :] x, const float[:, :, :, :] dy, float[:, :, :, :, ::1] dw, float cval,
                    tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """dw (pieces, K, C/groups, R, S): to be added up by the caller."""
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 4), ys = elements(dy.strides, 4)
    with nogil:
        weight_grad[float](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0],
                           <char*>&scratch[0], worker_bytes, workers)


def f64_weight_grad(const double[:, :, :, :] x, const double[:, :, :, :] dy, double[:, :, :, :, ::1] dw, double cval,
                    tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 8), ys = elements(dy.strides, 8)
    with nogil:
        weight_grad[double](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0],
                            <char*>&scratch[0], worker_bytes, workers)


def u64_weight_grad(const uint64_t[:, :, :, :] x, const uint64_t[:, :, :, :] dy, uint64_t[:, :, :, :, ::1] dw,
                    uint64_t cval, tuple geometry, tuple blocks, const int64_t[::1] rows, const int64_t[::1] columns,
                    uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    cdef Task t = make_task(geometry, blocks, rows, columns)
    cdef Strides xs = elements(x.strides, 8), ys = elements(dy.strides, 8)
    with nogil:
        weight_grad[uint64_t](t, x.shape[0], &x[0, 0, 0, 0], xs.of, cval, &dy[0, 0, 0, 0], ys.of, &dw[0, 0, 0, 0, 0],
                              <char*>&scratch[0], worker_bytes, workers)
