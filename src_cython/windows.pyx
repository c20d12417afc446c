"""im2col and col2im. Compiled once: they move bytes, and no instruction set makes memory faster.

Every function takes the geometry as one tuple (R, S, P, Q, top, left, sh, sw, dh, dw), with strides and
dilations no longer than the padded image, and the boundary's two index vectors. Arguments are trusted.

    im2col    cols[n, (c*R + r)*S + s, p*Q + q]  = x[n, c, rows[p*sh + r*dh], columns[q*sw + s*dw]]
    col2im    x[n, c, rows[p*sh + r*dh], columns[q*sw + s*dw]] += cols[n, (c*R + r)*S + s, p*Q + q]

x has any strides (N, C, H, W order); cols has contiguous pixels, and contiguous rows where it is written.
"""

from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from windows cimport Geometry, element, gather_windows, scatter_windows, summand

cdef enum:
    BLOCK_BYTES = 65536  # of one window row: the image rows that it needs stay in the caches near the core


cdef Geometry geometry_of(
    tuple numbers, Py_ssize_t H, Py_ssize_t W, const int64_t[::1] rows, const int64_t[::1] columns
) except *:
    cdef Geometry g
    g.H, g.W = H, W
    g.R, g.S, g.P, g.Q, g.top, g.left, g.sh, g.sw, g.dh, g.dw = numbers
    g.rows, g.columns = &rows[0], &columns[0]
    return g


cdef inline Py_ssize_t rows_per_block(const Geometry* g, size_t itemsize) noexcept nogil:
    return max(1, min(g.P, BLOCK_BYTES // <Py_ssize_t>(g.Q * itemsize)))


cdef inline void im2col_piece(
    const element* x, Py_ssize_t xn, Py_ssize_t xc, Py_ssize_t xh, Py_ssize_t xw,
    const Geometry* g, element cval, Py_ssize_t C, Py_ssize_t blocks, Py_ssize_t height,
    element* cols, Py_ssize_t piece,
) noexcept nogil:
    """Piece (n*blocks + block)*C + c: one block of output rows of one channel."""
    cdef Py_ssize_t c = piece % C, n = piece // C // blocks, p = piece // C % blocks * height, pixels = g.P * g.Q
    gather_windows(
        x + n * xn + c * xc, xc, xh, xw, g, cval, 0, 1, p, min(p + height, g.P), 0, g.Q,
        cols + (n * C + c) * g.R * g.S * pixels + p * g.Q, pixels,
    )


cdef void im2col(
    const element* x, Py_ssize_t xn, Py_ssize_t xc, Py_ssize_t xh, Py_ssize_t xw,
    Geometry g, element cval, Py_ssize_t N, Py_ssize_t C, element* cols, int workers,
) noexcept nogil:
    """Channels innermost: with channels last (xc == 1) they share the cache lines of a block's image rows."""
    cdef Py_ssize_t size = sizeof(element), height = rows_per_block(&g, size), blocks = (g.P + height - 1) // height
    cdef Py_ssize_t piece
    xn, xc, xh, xw = xn // size, xc // size, xh // size, xw // size
    if workers == 1:
        for piece in range(N * blocks * C):
            im2col_piece(x, xn, xc, xh, xw, &g, cval, C, blocks, height, cols, piece)
    else:
        for piece in prange(N * blocks * C, num_threads=workers, schedule="static"):
            im2col_piece(x, xn, xc, xh, xw, &g, cval, C, blocks, height, cols, piece)


cdef inline void col2im_plane(
    summand* x, const Geometry* g, Py_ssize_t C, const summand* cols, Py_ssize_t cn, Py_ssize_t ld, Py_ssize_t plane
) noexcept nogil:
    """Plane n*C + c, a block of window rows at a time and always in the same order."""
    cdef Py_ssize_t block, p, height = rows_per_block(g, sizeof(summand))
    cols += plane // C * cn + plane % C * g.R * g.S * ld
    for block in range((g.P + height - 1) // height):
        p = block * height
        scatter_windows(
            x + plane * g.H * g.W, 0, g.W, 1, g, 0, 1, p, min(p + height, g.P), 0, g.Q, cols + p * g.Q, ld
        )


cdef void col2im(
    summand* x, Geometry g, Py_ssize_t N, Py_ssize_t C,
    const summand* cols, Py_ssize_t cn, Py_ssize_t ld, int workers,
) noexcept nogil:
    cdef Py_ssize_t size = sizeof(summand), plane
    cn, ld = cn // size, ld // size
    if workers == 1:
        for plane in range(N * C):
            col2im_plane(x, &g, C, cols, cn, ld, plane)
    else:
        for plane in prange(N * C, num_threads=workers, schedule="static"):
            col2im_plane(x, &g, C, cols, cn, ld, plane)


# One function per item size (im2col moves bytes) or dtype (col2im adds).

def im2col_8(
    const uint8_t[:, :, :, :] x, uint8_t cval, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint8_t[:, :, ::1] cols, int workers,
):
    cdef Geometry g = geometry_of(geometry, x.shape[2], x.shape[3], rows, columns)
    with nogil:
        im2col(&x[0, 0, 0, 0], x.strides[0], x.strides[1], x.strides[2], x.strides[3], g, cval, x.shape[0], x.shape[1],
               &cols[0, 0, 0], workers)


def im2col_16(
    const uint16_t[:, :, :, :] x, uint16_t cval, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint16_t[:, :, ::1] cols, int workers,
):
    cdef Geometry g = geometry_of(geometry, x.shape[2], x.shape[3], rows, columns)
    with nogil:
        im2col(&x[0, 0, 0, 0], x.strides[0], x.strides[1], x.strides[2], x.strides[3], g, cval, x.shape[0], x.shape[1],
               &cols[0, 0, 0], workers)


def im2col_32(
    const uint32_t[:, :, :, :] x, uint32_t cval, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint32_t[:, :, ::1] cols, int workers,
):
    cdef Geometry g = geometry_of(geometry, x.shape[2], x.shape[3], rows, columns)
    with nogil:
        im2col(&x[0, 0, 0, 0], x.strides[0], x.strides[1], x.strides[2], x.strides[3], g, cval, x.shape[0], x.shape[1],
               &cols[0, 0, 0], workers)


def im2col_64(
    const uint64_t[:, :, :, :] x, uint64_t cval, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint64_t[:, :, ::1] cols, int workers,
):
    cdef Geometry g = geometry_of(geometry, x.shape[2], x.shape[3], rows, columns)
    with nogil:
        im2col(&x[0, 0, 0, 0], x.strides[0], x.strides[1], x.strides[2], x.strides[3], g, cval, x.shape[0], x.shape[1],
               &cols[0, 0, 0], workers)


def col2im_float32(
    const float[:, :, :] cols, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    float[:, :, :, ::1] x, int workers,
):
    """Adds to x, which comes filled with zeros."""
    cdef Geometry g = geometry_of(geometry, x.shape[2], x.shape[3], rows, columns)
    with nogil:
        col2im(&x[0, 0, 0, 0], g, x.shape[0], x.shape[1], &cols[0, 0, 0], cols.strides[0], cols.strides[1], workers)


def col2im_float64(
    const double[:, :, :] cols, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    double[:, :, :, ::1] x, int workers,
):
    cdef Geometry g = geometry_of(geometry, x.shape[2], x.shape[3], rows, columns)
    with nogil:
        col2im(&x[0, 0, 0, 0], g, x.shape[0], x.shape[1], &cols[0, 0, 0], cols.strides[0], cols.strides[1], workers)


def col2im_uint64(
    const uint64_t[:, :, :] cols, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint64_t[:, :, :, ::1] x, int workers,
):
    cdef Geometry g = geometry_of(geometry, x.shape[2], x.shape[3], rows, columns)
    with nogil:
        col2im(&x[0, 0, 0, 0], g, x.shape[0], x.shape[1], &cols[0, 0, 0], cols.strides[0], cols.strides[1], workers)
