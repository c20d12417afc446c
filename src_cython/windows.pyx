"""im2col and col2im. Compiled once: they move bytes, and no instruction set makes memory faster.

Every function takes the geometry as one tuple (R, S, P, Q, top, left, sh, sw, dh, dw), with strides and
dilations no longer than the padded image, and the boundary's two index vectors. Arguments are trusted.

    im2col    cols[n, (c*R + r)*S + s, p*Q + q]  = x[n, c, rows[p*sh + r*dh], columns[q*sw + s*dw]]
    col2im    x[n, c, rows[p*sh + r*dh], columns[q*sw + s*dw]] += cols[n, (c*R + r)*S + s, p*Q + q]

x has any strides (N, C, H, W order), and is contiguous where it is written; cols has contiguous pixels.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastconv._kernels.team cimport share, unit_function
from windows cimport Geometry, element, gather_windows, scatter_windows, summand

cdef enum:
    BLOCK_BYTES = 65536  # of one window row: the image rows that it needs stay in the caches near the core


cdef struct Task:
    Geometry g
    void* x
    void* cols
    const void* cval
    Py_ssize_t N, C, height, blocks  # output rows of a block, and the blocks of a plane
    Py_ssize_t xn, xc, xh, xw, cn, ld  # strides in elements


cdef Task make_task(
    const element[:, :, :, :] x, const element[:, :, :] cols, const int64_t[::1] rows, const int64_t[::1] columns,
    tuple geometry,
) except *:
    cdef Task t
    cdef Py_ssize_t size = sizeof(element)
    t.g.R, t.g.S, t.g.P, t.g.Q, t.g.top, t.g.left, t.g.sh, t.g.sw, t.g.dh, t.g.dw = geometry
    t.g.rows, t.g.columns = &rows[0], &columns[0]
    t.x, t.cols, t.cval = <void*>&x[0, 0, 0, 0], <void*>&cols[0, 0, 0], NULL
    t.N, t.C, t.g.H, t.g.W = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    t.xn, t.xc, t.xh, t.xw = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size, x.strides[3] // size
    t.cn, t.ld = cols.strides[0] // size, cols.strides[1] // size
    t.height = max(1, min(t.g.P, BLOCK_BYTES // (t.g.Q * size)))
    t.blocks = (t.g.P + t.height - 1) // t.height
    return t


cdef void im2col_unit(const Task* t, Py_ssize_t unit, element* scratch) noexcept nogil:
    """Unit (n*blocks + block)*C + c: one block of output rows of one channel.

    Channels innermost: with channels last (xc == 1) they share the cache lines of a block's image rows.
    """
    cdef Py_ssize_t c = unit % t.C, n = unit // t.C // t.blocks, p = unit // t.C % t.blocks * t.height
    gather_windows(
        <const element*>t.x + n * t.xn + c * t.xc, t.xc, t.xh, t.xw, &t.g, (<const element*>t.cval)[0], 0, 1,
        p, min(p + t.height, t.g.P), 0, t.g.Q, <element*>t.cols + n * t.cn + c * t.g.R * t.g.S * t.ld + p * t.g.Q, t.ld,
    )


cdef void col2im_unit(const Task* t, Py_ssize_t plane, summand* scratch) noexcept nogil:
    """Plane n*C + c, a block of window rows at a time and always in the same order."""
    cdef Geometry g = t.g  # a copy: what is stored to x cannot change it
    cdef Py_ssize_t p = 0
    cdef summand* x = <summand*>t.x + plane * g.H * g.W
    cdef const summand* cols = <const summand*>t.cols + plane // t.C * t.cn + plane % t.C * g.R * g.S * t.ld
    while p < g.P:
        scatter_windows(x, 0, g.W, 1, &g, 0, 1, p, min(p + t.height, g.P), 0, g.Q, cols + p * g.Q, t.ld)
        p += t.height


# One function per item size (im2col moves bytes) or dtype (col2im adds).

def im2col_8(
    const uint8_t[:, :, :, :] x, uint8_t cval, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint8_t[:, :, ::1] cols, int workers,
):
    cdef Task t = make_task[uint8_t](x, cols, rows, columns, geometry)
    t.cval = &cval
    with nogil:
        share(<unit_function>im2col_unit[uint8_t], &t, t.N * t.blocks * t.C, NULL, 0, workers)


def im2col_16(
    const uint16_t[:, :, :, :] x, uint16_t cval, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint16_t[:, :, ::1] cols, int workers,
):
    cdef Task t = make_task[uint16_t](x, cols, rows, columns, geometry)
    t.cval = &cval
    with nogil:
        share(<unit_function>im2col_unit[uint16_t], &t, t.N * t.blocks * t.C, NULL, 0, workers)


def im2col_32(
    const uint32_t[:, :, :, :] x, uint32_t cval, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint32_t[:, :, ::1] cols, int workers,
):
    cdef Task t = make_task[uint32_t](x, cols, rows, columns, geometry)
    t.cval = &cval
    with nogil:
        share(<unit_function>im2col_unit[uint32_t], &t, t.N * t.blocks * t.C, NULL, 0, workers)


def im2col_64(
    const uint64_t[:, :, :, :] x, uint64_t cval, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint64_t[:, :, ::1] cols, int workers,
):
    cdef Task t = make_task[uint64_t](x, cols, rows, columns, geometry)
    t.cval = &cval
    with nogil:
        share(<unit_function>im2col_unit[uint64_t], &t, t.N * t.blocks * t.C, NULL, 0, workers)


def col2im_float32(
    const float[:, :, :] cols, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    float[:, :, :, ::1] x, int workers,
):
    """Adds to x, which comes filled with zeros."""
    cdef Task t = make_task[float](x, cols, rows, columns, geometry)
    with nogil:
        share(<unit_function>col2im_unit[float], &t, t.N * t.C, NULL, 0, workers)


def col2im_float64(
    const double[:, :, :] cols, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    double[:, :, :, ::1] x, int workers,
):
    cdef Task t = make_task[double](x, cols, rows, columns, geometry)
    with nogil:
        share(<unit_function>col2im_unit[double], &t, t.N * t.C, NULL, 0, workers)


def col2im_uint64(
    const uint64_t[:, :, :] cols, const int64_t[::1] rows, const int64_t[::1] columns, tuple geometry,
    uint64_t[:, :, :, ::1] x, int workers,
):
    cdef Task t = make_task[uint64_t](x, cols, rows, columns, geometry)
    with nogil:
        share(<unit_function>col2im_unit[uint64_t], &t, t.N * t.C, NULL, 0, workers)
