"""Window extraction and its adjoint on one sample: the loops that im2col, col2im and the gemm kernels share.

Inline functions on pointers: no memoryview, no Python, no choice. Included at compile time (cimport).

    window row (c, r, s), pixel (p, q):   cols[(c*R + r)*S + s][(p - p0)*(q1 - q0) + q - q0]
                                            = x[c, rows[p*sh + r*dh], columns[q*sw + s*dw]]

`rows` and `columns` are the boundary's index vectors (fastconv/boundary.py): the source index of each padded
position, or -1 where the constant cval stands. Inside the image they count up by one, so that part of a row is
copied without looking.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

ctypedef fused element:  # what is moved: only the size matters
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double

ctypedef fused summand:  # what is added; uint64_t is int64 modulo 2**64
    float
    double
    uint64_t

cdef struct Geometry:
    Py_ssize_t H, W, R, S, P, Q
    Py_ssize_t top, left
    Py_ssize_t sh, sw, dh, dw
    const int64_t* rows
    const int64_t* columns


cdef inline Py_ssize_t first_inside(Py_ssize_t offset, Py_ssize_t step, Py_ssize_t q0, Py_ssize_t q1) noexcept nogil:
    """The least q in [q0, q1] with q*step + offset >= 0."""
    cdef Py_ssize_t q = 0 if offset >= 0 else (-offset + step - 1) // step
    return min(max(q, q0), q1)


cdef inline void gather_windows(
    const element* x, Py_ssize_t xc, Py_ssize_t xh, Py_ssize_t xw,  # strides in elements
    const Geometry* g, element cval,
    Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t q0, Py_ssize_t q1,
    element* cols, Py_ssize_t ld,  # elements from one window row to the next
) noexcept nogil:
    """Rows of (p1-p0)*(q1-q0) pixels: the windows of channels c0..c1 at output rows p0..p1, columns q0..q1."""
    cdef Py_ssize_t c, r, s, p, q, h, inside, outside, offset, width = q1 - q0
    cdef const element* row
    cdef element* out
    for c in range(c0, c1):
        for r in range(g.R):
            for s in range(g.S):
                offset = s * g.dw - g.left
                inside = first_inside(offset, g.sw, q0, q1)
                outside = first_inside(offset - g.W, g.sw, inside, q1)
                for p in range(p0, p1):
                    out = cols + (((c - c0) * g.R + r) * g.S + s) * ld + (p - p0) * width - q0
                    h = g.rows[p * g.sh + r * g.dh]
                    if h < 0:
                        for q in range(q0, q1):
                            out[q] = cval
                        continue
                    row = x + c * xc + h * xh
                    for q in range(q0, inside):
                        h = g.columns[q * g.sw + s * g.dw]
                        out[q] = row[h * xw] if h >= 0 else cval
                    if xw == 1 and g.sw == 1:
                        memcpy(out + inside, row + inside + offset, (outside - inside) * sizeof(element))
                    else:
                        for q in range(inside, outside):
                            out[q] = row[(q * g.sw + offset) * xw]
                    for q in range(outside, q1):
                        h = g.columns[q * g.sw + s * g.dw]
                        out[q] = row[h * xw] if h >= 0 else cval


cdef inline void scatter_windows(
    summand* x, Py_ssize_t xc, Py_ssize_t xh, Py_ssize_t xw,
    const Geometry* g,
    Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t q0, Py_ssize_t q1,
    const summand* cols, Py_ssize_t ld,
) noexcept nogil:
    """The adjoint of gather_windows: adds every entry of cols to the pixel it came from."""
    cdef Py_ssize_t c, r, s, p, q, h, inside, outside, offset, width = q1 - q0
    cdef summand* row
    cdef const summand* column
    for c in range(c0, c1):
        for r in range(g.R):
            for s in range(g.S):
                offset = s * g.dw - g.left
                inside = first_inside(offset, g.sw, q0, q1)
                outside = first_inside(offset - g.W, g.sw, inside, q1)
                for p in range(p0, p1):
                    h = g.rows[p * g.sh + r * g.dh]
                    if h < 0:
                        continue
                    column = cols + (((c - c0) * g.R + r) * g.S + s) * ld + (p - p0) * width - q0
                    row = x + c * xc + h * xh
                    for q in range(q0, inside):
                        h = g.columns[q * g.sw + s * g.dw]
                        if h >= 0:
                            row[h * xw] += column[q]
                    if xw == 1 and g.sw == 1:
                        for q in range(inside, outside):
                            row[q + offset] += column[q]
                    else:
                        for q in range(inside, outside):
                            row[(q * g.sw + offset) * xw] += column[q]
                    for q in range(outside, q1):
                        h = g.columns[q * g.sw + s * g.dw]
                        if h >= 0:
                            row[h * xw] += column[q]
