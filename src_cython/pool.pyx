"""Pooling: the largest or the mean pixel of every window, their gradients, and unpooling.

    window (p, q), tap (r, s)  ->  pixel (h, w) = (p*sh + r*dh - top, q*sw + s*dw - left)

    max   y[n,c,p,q] = max_{r,s} x[n,c,h,w]
    avg   y[n,c,p,q] = sum_{r,s} x[n,c,h,w] / (rows[p] * columns[q])

over the pixels inside the image; padding takes no part. Arrays come in the order n, c, h, w with any strides,
aligned.

A *lane* is one of the outputs that are worked on at once. Taps are outermost and lanes innermost, so that the
loop over lanes has no bounds check and no branch, and becomes vector code:

    lanes along a row (NCHW)                      lanes across channels (NHWC)
    tap (r, s): x[h, s'], x[h, s'+sw], ...        tap (r, s): x[h, w, 0], x[h, w, 1], ...
                  |        |                                     |           |
    lane:        q0      q0+1      ...            lane:        c0         c0+1     ...

Taps are visited in row-major order and a later one wins only by being larger: the first maximum wins a tie.
Every output element belongs to one row, and every row to one unit; where windows write to pixels, a unit is whole
planes, in order.
"""

from libc.math cimport INFINITY
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from fastconv._kernels.team cimport share, unit_function
from windows cimport Geometry, first_inside

cdef extern from *:
    const int __ATOMIC_RELAXED
    void __atomic_store_n(int* to, int value, int order) noexcept nogil

cdef extern from "max_lanes.h" nogil:
    void max_lanes_f32(
        const float* x, Py_ssize_t step, Py_ssize_t n, float* lane, int32_t* at, int32_t tap
    ) noexcept
    void max_lanes_f64(
        const double* x, Py_ssize_t step, Py_ssize_t n, double* lane, int64_t* at, int64_t tap
    ) noexcept

cdef enum:
    LANES = 128  # outputs worked on at once: scratch that stays in L1, on the stack of each thread
    UNIT = 64  # taps of up to LANES outputs, at 10 to 20 ns each, that a unit has at least

cdef enum Operation:
    MAXIMUM  # lane = max(lane, pixel)
    TOTAL    # lane += pixel
    SPREAD   # pixel += lane

ctypedef fused value:
    float
    double
    int64_t
    uint64_t

ctypedef fused real:
    float
    double

ctypedef fused place:  # where a lane's maximum lies; as wide as the value where it fits, for vectors' sake
    uint8_t  # stands for "not wanted"
    int32_t
    int64_t

ctypedef fused index_type:
    uint8_t
    uint16_t
    int64_t

cdef struct View:
    void* first
    Py_ssize_t n, c, h, w  # strides in elements

cdef struct Pooling:
    Geometry g  # without boundary vectors
    bint by_channel  # lanes across channels
    Py_ssize_t width  # windows of a row worked on at once
    Py_ssize_t N, C
    Py_ssize_t rows, unit_rows  # of outputs, each of one channel or of LANES channels: all, and those of a unit
    View x, y, index
    Py_ssize_t index_size  # bytes
    # What is recorded for tap (r, s) of window (p, q): start + p*per_p + q*per_q + r*per_r + s*per_s.
    Py_ssize_t start, per_p, per_q, per_r, per_s
    bint small  # r*per_r + s*per_s is below 2**31 for every tap
    Operation operation  # of the mean
    const void* row_counts
    const void* column_counts
    const int64_t* tap_rows
    const int64_t* tap_columns
    Py_ssize_t taps
    bint add  # what is routed; else put
    int* failed  # to route: an index names no pixel

cdef struct Row:  # of outputs, of channels from c on
    Py_ssize_t n, c, p, channels


cdef inline View view_of(const void* first, const Py_ssize_t* strides, Py_ssize_t itemsize) noexcept nogil:
    return View(
        <void*>first, strides[0] // itemsize, strides[1] // itemsize, strides[2] // itemsize, strides[3] // itemsize
    )


cdef Pooling pooling_of(
    tuple window, bint by_channel, Py_ssize_t itemsize,
    const void* x, const Py_ssize_t* x_shape, const Py_ssize_t* x_strides,
    const void* y, const Py_ssize_t* y_shape, const Py_ssize_t* y_strides,
):
    """window: R, S, sh, sw, dh, dw, top, left. What isn't set here is zero."""
    cdef Pooling pool
    memset(&pool, 0, sizeof(pool))
    pool.g.R, pool.g.S, pool.g.sh, pool.g.sw, pool.g.dh, pool.g.dw, pool.g.top, pool.g.left = window
    pool.N, pool.C, pool.g.H, pool.g.W = x_shape[0], x_shape[1], x_shape[2], x_shape[3]
    pool.g.P, pool.g.Q = y_shape[2], y_shape[3]
    pool.by_channel, pool.width = by_channel, 1 if by_channel else LANES
    pool.x, pool.y = view_of(x, x_strides, itemsize), view_of(y, y_strides, itemsize)
    return pool


cdef inline Py_ssize_t channel_cuts(const Pooling* pool) noexcept nogil:
    """How many pieces the channels of a sample make: LANES of them at once, or one by one."""
    return (pool.C + LANES - 1) // LANES if pool.by_channel else pool.C


cdef void run(unit_function unit, Pooling* pool, Py_ssize_t taps, bint planes, int workers) noexcept:
    """Rows to units, each of whole planes if `planes`; no choice depends on the workers."""
    cdef Py_ssize_t P = pool.g.P, work = taps * ((pool.g.Q + pool.width - 1) // pool.width)
    pool.rows = pool.N * channel_cuts(pool) * P
    pool.unit_rows = (UNIT + work - 1) // work
    if planes:
        pool.unit_rows = (pool.unit_rows + P - 1) // P * P
    with nogil:
        share(unit, pool, (pool.rows + pool.unit_rows - 1) // pool.unit_rows, NULL, 0, workers)


cdef inline Row row_at(const Pooling* pool, Py_ssize_t number) noexcept nogil:
    """Rows of a plane follow each other."""
    cdef Py_ssize_t cuts = channel_cuts(pool), plane = number // pool.g.P, c = plane % cuts
    if pool.by_channel:
        return Row(plane // cuts, c * LANES, number % pool.g.P, min(LANES, pool.C - c * LANES))
    return Row(plane // cuts, c, number % pool.g.P, 1)


cdef inline Py_ssize_t offset_of(const View* v, Row row, Py_ssize_t q) noexcept nogil:
    return row.n * v.n + row.c * v.c + row.p * v.h + q * v.w


cdef inline Py_ssize_t first_outside(
    Py_ssize_t offset, Py_ssize_t step, Py_ssize_t extent, Py_ssize_t i0, Py_ssize_t i1
) noexcept nogil:
    """The least i in [i0, i1] with i*step + offset >= extent. Divides at an edge only."""
    return i1 if (i1 - 1) * step + offset < extent else first_inside(offset - extent, step, i0, i1)


cdef inline value lowest(value* _) noexcept nogil:
    if value is float or value is double:
        return -INFINITY
    elif value is int64_t:
        return INT64_MIN
    else:
        return 0


cdef inline void touch_lanes(
    Operation operation, value* pixel, Py_ssize_t step, Py_ssize_t lanes, value* lane, place* at, place tap
) noexcept nogil:
    """One tap of every lane; lane i meets pixel[i*step]. Inlined with constant operation and step."""
    cdef Py_ssize_t i
    cdef bint wins
    if operation == TOTAL:
        for i in range(lanes):
            lane[i] += pixel[i * step]
    elif operation == SPREAD:
        for i in range(lanes):
            pixel[i * step] += lane[i]
    elif value is float and place is int32_t:
        max_lanes_f32(pixel, step, lanes, lane, at, tap)
    elif value is float and place is uint8_t:
        max_lanes_f32(pixel, step, lanes, lane, NULL, 0)
    elif value is double and place is int64_t:
        max_lanes_f64(pixel, step, lanes, lane, at, tap)
    elif value is double and place is uint8_t:
        max_lanes_f64(pixel, step, lanes, lane, NULL, 0)
    else:  # integers, and planes too large for 32 bits
        for i in range(lanes):
            wins = pixel[i * step] > lane[i]
            if value is float or value is double:
                wins |= (pixel[i * step] != pixel[i * step]) & (lane[i] == lane[i])
            lane[i] = pixel[i * step] if wins else lane[i]
            if place is not uint8_t:
                at[i] = tap if wins else at[i]


cdef inline void walk_taps(
    Operation operation, const Pooling* pool, value* plane,
    Py_ssize_t p, Py_ssize_t q0, Py_ssize_t q1, Py_ssize_t lanes, value* lane, place* at,
) noexcept nogil:
    """All taps inside the image of the windows (p, q0..q1): q1 - q0 lanes, or the channels of one window."""
    cdef const Geometry* g = &pool.g
    cdef Py_ssize_t r, s, offset, a, b, step, count
    cdef Py_ssize_t r0 = first_inside(p * g.sh - g.top, g.dh, 0, g.R)
    cdef Py_ssize_t r1 = first_outside(p * g.sh - g.top, g.dh, g.H, r0, g.R)
    cdef Py_ssize_t s0 = first_inside((q1 - 1) * g.sw - g.left, g.dw, 0, g.S)
    cdef Py_ssize_t s1 = first_outside(q0 * g.sw - g.left, g.dw, g.W, s0, g.S)
    cdef value* row
    cdef value* pixel
    cdef place tap
    for r in range(r0, r1):
        row = plane + (p * g.sh - g.top + r * g.dh) * pool.x.h
        for s in range(s0, s1):
            offset = s * g.dw - g.left
            a = first_inside(offset, g.sw, q0, q1)
            b = first_outside(offset, g.sw, g.W, a, q1)
            if a >= b:  # a dilated tap can step over the image
                continue
            pixel = row + (a * g.sw + offset) * pool.x.w
            tap = <place>(r * pool.per_r + s * pool.per_s)
            if pool.by_channel:
                step, count, a = pool.x.c, lanes, q0
            else:
                step, count = g.sw * pool.x.w, b - a
            if step == 1:
                touch_lanes(operation, pixel, 1, count, lane + (a - q0), at + (a - q0), tap)
            elif step == 2:
                touch_lanes(operation, pixel, 2, count, lane + (a - q0), at + (a - q0), tap)
            else:
                touch_lanes(operation, pixel, step, count, lane + (a - q0), at + (a - q0), tap)


# --- maximum ---------------------------------------------------------------------------------------

cdef inline void first_taps(
    const Pooling* pool, Py_ssize_t p, Py_ssize_t q0, Py_ssize_t q1, Py_ssize_t lanes, place* at
) noexcept nogil:
    """The first tap inside the image, for every lane: the maximum of a window of nothing but -inf."""
    cdef const Geometry* g = &pool.g
    cdef Py_ssize_t i, q, r = first_inside(p * g.sh - g.top, g.dh, 0, g.R)
    for i in range(lanes):
        at[i] = <place>(r * pool.per_r)
    for i in range(lanes):
        q = q0 if pool.by_channel else q0 + i
        if q * g.sw >= g.left:
            break
        at[i] += <place>(first_inside(q * g.sw - g.left, g.dw, 0, g.S) * pool.per_s)


cdef inline void write_index(
    index_type* index, Py_ssize_t step, Py_ssize_t lanes, const place* at,
    Py_ssize_t start, Py_ssize_t per_lane,
) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1:
        for i in range(lanes):
            index[i] = <index_type>(start + i * per_lane + at[i])
    else:
        for i in range(lanes):
            index[i * step] = <index_type>(start + i * per_lane + at[i])


cdef void max_lanes(const Pooling* pool, Row row, Py_ssize_t q0, value* _, place* at) noexcept nogil:
    cdef value lane[LANES]
    cdef Py_ssize_t q1 = min(q0 + pool.width, pool.g.Q), lanes = row.channels if pool.by_channel else q1 - q0
    cdef Py_ssize_t i, where, start, per_lane
    cdef Py_ssize_t step = pool.y.c if pool.by_channel else pool.y.w
    cdef value least = lowest(_)
    cdef value* x = <value*>pool.x.first + row.n * pool.x.n + row.c * pool.x.c
    cdef value* y = <value*>pool.y.first + offset_of(&pool.y, row, q0)
    for i in range(lanes):
        lane[i] = least
    if place is not uint8_t:
        first_taps(pool, row.p, q0, q1, lanes, at)
    walk_taps(MAXIMUM, pool, x, row.p, q0, q1, lanes, lane, at)
    if step == 1:
        for i in range(lanes):
            y[i] = lane[i]
    else:
        for i in range(lanes):
            y[i * step] = lane[i]
    if place is not uint8_t:
        where = offset_of(&pool.index, row, q0)
        step = pool.index.c if pool.by_channel else pool.index.w
        start = pool.start + row.p * pool.per_p + q0 * pool.per_q
        per_lane = 0 if pool.by_channel else pool.per_q
        if pool.index_size == 1:
            write_index(<uint8_t*>pool.index.first + where, step, lanes, at, start, per_lane)
        elif pool.index_size == 2:
            write_index(<uint16_t*>pool.index.first + where, step, lanes, at, start, per_lane)
        else:
            write_index(<int64_t*>pool.index.first + where, step, lanes, at, start, per_lane)


cdef void max_rows(const Pooling* pool, Py_ssize_t unit, value* scratch, place kind) noexcept nogil:
    cdef place at[LANES]
    cdef Py_ssize_t i, q
    cdef Row row
    for i in range(unit * pool.unit_rows, min((unit + 1) * pool.unit_rows, pool.rows)):
        row = row_at(pool, i)
        q = 0
        while q < pool.g.Q:
            max_lanes(pool, row, q, scratch, at)
            q += pool.width


cdef void max_unit(const Pooling* pool, Py_ssize_t unit, value* scratch) noexcept nogil:
    if pool.index.first == NULL:
        max_rows(pool, unit, scratch, <uint8_t>0)
    elif value is float and pool.small:
        max_rows(pool, unit, scratch, <int32_t>0)
    else:
        max_rows(pool, unit, scratch, <int64_t>0)


cdef void record(Pooling* pool, uint8_t[:, :, :, :, :] index, tuple places, bint small) except *:
    """Where indices go (bytes of uint8, uint16 or int64 along the last axis), and what they count."""
    pool.start, pool.per_p, pool.per_q, pool.per_r, pool.per_s = places
    pool.small = small
    if index is not None:
        pool.index_size = index.shape[4]
        pool.index = view_of(&index[0, 0, 0, 0, 0], index.strides, index.shape[4])


def max_f32(
    const float[:, :, :, :] x, float[:, :, :, :] y, uint8_t[:, :, :, :, :] index,
    tuple window, tuple places, bint small, bint by_channel, int workers,
):
    """y and, unless None, index (its bytes). small: r*per_r + s*per_s is below 2**31 for every tap."""
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(float), &x[0, 0, 0, 0], x.shape, x.strides, &y[0, 0, 0, 0], y.shape, y.strides
    )
    record(&pool, index, places, small)
    run(<unit_function>max_unit[float], &pool, pool.g.R * pool.g.S, False, workers)


def max_f64(
    const double[:, :, :, :] x, double[:, :, :, :] y, uint8_t[:, :, :, :, :] index,
    tuple window, tuple places, bint small, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(double), &x[0, 0, 0, 0], x.shape, x.strides, &y[0, 0, 0, 0], y.shape, y.strides
    )
    record(&pool, index, places, small)
    run(<unit_function>max_unit[double], &pool, pool.g.R * pool.g.S, False, workers)


def max_i64(
    const int64_t[:, :, :, :] x, int64_t[:, :, :, :] y, uint8_t[:, :, :, :, :] index,
    tuple window, tuple places, bint small, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(int64_t), &x[0, 0, 0, 0], x.shape, x.strides, &y[0, 0, 0, 0], y.shape, y.strides
    )
    record(&pool, index, places, small)
    run(<unit_function>max_unit[int64_t], &pool, pool.g.R * pool.g.S, False, workers)


def max_u64(
    const uint64_t[:, :, :, :] x, uint64_t[:, :, :, :] y, uint8_t[:, :, :, :, :] index,
    tuple window, tuple places, bint small, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(uint64_t), &x[0, 0, 0, 0], x.shape, x.strides, &y[0, 0, 0, 0], y.shape, y.strides
    )
    record(&pool, index, places, small)
    run(<unit_function>max_unit[uint64_t], &pool, pool.g.R * pool.g.S, False, workers)


# --- mean ------------------------------------------------------------------------------------------

cdef void mean_lanes(const Pooling* pool, Row row, Py_ssize_t q0, real* _) noexcept nogil:
    """TOTAL: y = sum of x / (rows * columns). SPREAD, its adjoint: x += y / (rows * columns)."""
    cdef real lane[LANES]
    cdef Py_ssize_t q1 = min(q0 + pool.width, pool.g.Q), lanes = row.channels if pool.by_channel else q1 - q0, i
    cdef Py_ssize_t step = pool.y.c if pool.by_channel else pool.y.w
    cdef Py_ssize_t next_column = 0 if pool.by_channel else 1
    cdef real* x = <real*>pool.x.first + row.n * pool.x.n + row.c * pool.x.c
    cdef real* y = <real*>pool.y.first + offset_of(&pool.y, row, q0)
    cdef const real* rows = <const real*>pool.row_counts
    cdef const real* columns = <const real*>pool.column_counts
    if pool.operation == TOTAL:
        for i in range(lanes):
            lane[i] = 0
        walk_taps(TOTAL, pool, x, row.p, q0, q1, lanes, lane, <uint8_t*>NULL)
        for i in range(lanes):
            y[i * step] = lane[i] / (rows[row.p] * columns[q0 + i * next_column])
    else:
        for i in range(lanes):
            lane[i] = y[i * step] / (rows[row.p] * columns[q0 + i * next_column])
        walk_taps(SPREAD, pool, x, row.p, q0, q1, lanes, lane, <uint8_t*>NULL)


cdef void mean_unit(const Pooling* pool, Py_ssize_t unit, real* scratch) noexcept nogil:
    cdef Py_ssize_t i, q
    cdef Row row
    for i in range(unit * pool.unit_rows, min((unit + 1) * pool.unit_rows, pool.rows)):
        row = row_at(pool, i)
        q = 0
        while q < pool.g.Q:
            mean_lanes(pool, row, q, scratch)
            q += pool.width


def avg_f32(
    const float[:, :, :, :] x, float[:, :, :, :] y, const float[::1] rows, const float[::1] columns,
    tuple window, bint by_channel, int workers,
):
    """y[n,c,p,q] = sum of the window's pixels / (rows[p] * columns[q])."""
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(float), &x[0, 0, 0, 0], x.shape, x.strides, &y[0, 0, 0, 0], y.shape, y.strides
    )
    pool.operation, pool.row_counts, pool.column_counts = TOTAL, &rows[0], &columns[0]
    run(<unit_function>mean_unit[float], &pool, pool.g.R * pool.g.S, False, workers)


def avg_f64(
    const double[:, :, :, :] x, double[:, :, :, :] y, const double[::1] rows, const double[::1] columns,
    tuple window, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(double), &x[0, 0, 0, 0], x.shape, x.strides, &y[0, 0, 0, 0], y.shape, y.strides
    )
    pool.operation, pool.row_counts, pool.column_counts = TOTAL, &rows[0], &columns[0]
    run(<unit_function>mean_unit[double], &pool, pool.g.R * pool.g.S, False, workers)


def avg_grad_f32(
    float[:, :, :, :] dx, const float[:, :, :, :] dy, const float[::1] rows, const float[::1] columns,
    tuple window, bint by_channel, int workers,
):
    """Adds to dx, in every window, dy[n,c,p,q] / (rows[p] * columns[q])."""
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(float), &dx[0, 0, 0, 0], dx.shape, dx.strides, &dy[0, 0, 0, 0], dy.shape, dy.strides
    )
    pool.operation, pool.row_counts, pool.column_counts = SPREAD, &rows[0], &columns[0]
    run(<unit_function>mean_unit[float], &pool, pool.g.R * pool.g.S, True, workers)


def avg_grad_f64(
    double[:, :, :, :] dx, const double[:, :, :, :] dy, const double[::1] rows, const double[::1] columns,
    tuple window, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(double), &dx[0, 0, 0, 0], dx.shape, dx.strides, &dy[0, 0, 0, 0], dy.shape, dy.strides
    )
    pool.operation, pool.row_counts, pool.column_counts = SPREAD, &rows[0], &columns[0]
    run(<unit_function>mean_unit[double], &pool, pool.g.R * pool.g.S, True, workers)


# --- routing by index ------------------------------------------------------------------------------

ctypedef fused moved:  # what is routed: added up, or (by its size alone) put in place
    float
    double
    uint64_t
    uint32_t
    uint16_t
    uint8_t


cdef inline bint route(
    const Pooling* pool, moved* plane, moved v, index_type index, Py_ssize_t p, Py_ssize_t q
) noexcept nogil:
    """Add or put v at an index of the plane (int64), or at that tap of window (p, q). False: no such pixel."""
    cdef const Geometry* g = &pool.g
    cdef Py_ssize_t h, w, k = <Py_ssize_t>index
    if index_type is int64_t:
        if k < 0 or k >= g.H * g.W:
            return False
    else:
        if k >= pool.taps:
            return False
        h, w = p * g.sh - g.top + pool.tap_rows[k], q * g.sw - g.left + pool.tap_columns[k]
        if h < 0 or h >= g.H or w < 0 or w >= g.W:
            return False
        k = h * g.W + w
    k *= pool.x.w if g.W > 1 else pool.x.h  # NumPy may export any stride for an axis of length 1
    plane[k] = <moved>(plane[k] + v) if pool.add else v
    return True


cdef void route_planes(const Pooling* shared, Py_ssize_t unit, moved* _, const index_type* index) noexcept nogil:
    """Windows of each plane, or of LANES channels, in row-major order."""
    cdef Pooling pool = shared[0]  # the loops keep its numbers in registers
    cdef Py_ssize_t planes = pool.unit_rows // pool.g.P, plane, p, q, c
    cdef bint good = True
    cdef Row row
    cdef moved* x
    cdef const moved* y
    cdef const index_type* at
    for plane in range(unit * planes, min((unit + 1) * planes, pool.rows // pool.g.P)):
        row = row_at(&pool, plane * pool.g.P)
        x = <moved*>pool.x.first + offset_of(&pool.x, row, 0)
        for p in range(pool.g.P):
            y = <const moved*>pool.y.first + offset_of(&pool.y, row, 0) + p * pool.y.h
            at = index + offset_of(&pool.index, row, 0) + p * pool.index.h
            if pool.by_channel:
                for q in range(pool.g.Q):
                    for c in range(row.channels):
                        good &= route(
                            &pool, x + c * pool.x.c, y[q * pool.y.w + c * pool.y.c],
                            at[q * pool.index.w + c * pool.index.c], p, q,
                        )
            else:
                for q in range(pool.g.Q):
                    good &= route(&pool, x, y[q * pool.y.w], at[q * pool.index.w], p, q)
    if not good:
        __atomic_store_n(pool.failed, 1, __ATOMIC_RELAXED)


cdef void route_unit(const Pooling* pool, Py_ssize_t unit, moved* scratch) noexcept nogil:
    if pool.index_size == 8:
        route_planes(pool, unit, scratch, <const int64_t*>pool.index.first)
    elif moved is float or moved is double or moved is uint64_t:
        if pool.index_size == 1:
            route_planes(pool, unit, scratch, <const uint8_t*>pool.index.first)
        else:
            route_planes(pool, unit, scratch, <const uint16_t*>pool.index.first)


cdef bint max_grad(
    unit_function unit, Pooling* pool, const uint8_t[:, :, :, :, :] index, const int64_t[:, ::1] taps, int workers
):
    cdef int failed = False
    pool.index, pool.index_size = view_of(&index[0, 0, 0, 0, 0], index.strides, index.shape[4]), index.shape[4]
    pool.taps, pool.tap_rows, pool.tap_columns = taps.shape[1], &taps[0, 0], &taps[1, 0]
    pool.add, pool.failed = True, &failed
    run(unit, pool, 1, True, workers)
    return not failed


def max_grad_f32(
    float[:, :, :, :] dx, const float[:, :, :, :] dy, const uint8_t[:, :, :, :, :] index,
    const int64_t[:, ::1] taps, tuple window, bint by_channel, int workers,
):
    """Add every dy to the pixel of dx that its index names; False if one names none (dx is then in between).

    index: the bytes of each along the last axis; int64 are flat in the plane, whose pixels are evenly spaced in
    dx; uint8 and uint16 count taps, whose rows and columns relative to the window's corner are taps[0], taps[1].
    """
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(float), &dx[0, 0, 0, 0], dx.shape, dx.strides, &dy[0, 0, 0, 0], dy.shape, dy.strides
    )
    return max_grad(<unit_function>route_unit[float], &pool, index, taps, workers)


def max_grad_f64(
    double[:, :, :, :] dx, const double[:, :, :, :] dy, const uint8_t[:, :, :, :, :] index,
    const int64_t[:, ::1] taps, tuple window, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(double), &dx[0, 0, 0, 0], dx.shape, dx.strides, &dy[0, 0, 0, 0], dy.shape, dy.strides
    )
    return max_grad(<unit_function>route_unit[double], &pool, index, taps, workers)


def max_grad_u64(
    uint64_t[:, :, :, :] dx, const uint64_t[:, :, :, :] dy, const uint8_t[:, :, :, :, :] index,
    const int64_t[:, ::1] taps, tuple window, bint by_channel, int workers,
):
    """Integers modulo 2**64."""
    cdef Pooling pool = pooling_of(
        window, by_channel, sizeof(uint64_t), &dx[0, 0, 0, 0], dx.shape, dx.strides, &dy[0, 0, 0, 0], dy.shape, dy.strides
    )
    return max_grad(<unit_function>route_unit[uint64_t], &pool, index, taps, workers)


def unpool(
    uint8_t[:, :, :, :, :] x, const uint8_t[:, :, :, :, :] y, const int64_t[:, :, :, :] index, bint by_channel
):
    """Put every y at its index in the plane of x, in row-major order; False if an index names no pixel.

    x and y: the bytes of each element along the last axis, 1, 2, 4 or 8.
    """
    cdef Py_ssize_t size = x.shape[4]
    cdef int failed = False
    cdef Pooling pool = pooling_of(
        (1, 1, 1, 1, 1, 1, 0, 0), by_channel, size,
        &x[0, 0, 0, 0, 0], x.shape, x.strides, &y[0, 0, 0, 0, 0], y.shape, y.strides,
    )
    cdef unit_function unit = <unit_function>route_unit[uint64_t]
    if size == 1:
        unit = <unit_function>route_unit[uint8_t]
    elif size == 2:
        unit = <unit_function>route_unit[uint16_t]
    elif size == 4:
        unit = <unit_function>route_unit[uint32_t]
    pool.index, pool.index_size = view_of(&index[0, 0, 0, 0], index.strides, sizeof(int64_t)), sizeof(int64_t)
    pool.failed = &failed
    run(unit, &pool, 1, True, 1)
    return not failed
