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
Every output element belongs to one task, whatever the number of workers.
"""

from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from windows cimport Geometry, first_inside

cdef extern from "max_lanes.h" nogil:
    void max_lanes_f32(
        const float* x, Py_ssize_t step, Py_ssize_t n, float* lane, int32_t* at, int32_t tap
    ) noexcept
    void max_lanes_f64(
        const double* x, Py_ssize_t step, Py_ssize_t n, double* lane, int64_t* at, int64_t tap
    ) noexcept

cdef enum:
    LANES = 128  # outputs worked on at once: scratch that stays in L1, on the stack of each thread

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

cdef struct Strides:  # in elements
    Py_ssize_t n, c, h, w

cdef struct Pooling:
    Geometry g  # without boundary vectors
    bint by_channel  # lanes across channels
    Py_ssize_t N, C
    Strides x, y, index
    # What is recorded for tap (r, s) of window (p, q): start + p*per_p + q*per_q + r*per_r + s*per_s.
    Py_ssize_t start, per_p, per_q, per_r, per_s


cdef inline Strides strides_of(const Py_ssize_t* strides, Py_ssize_t itemsize) noexcept nogil:
    return Strides(
        strides[0] // itemsize, strides[1] // itemsize, strides[2] // itemsize, strides[3] // itemsize
    )


cdef Pooling pooling_of(tuple window, const Py_ssize_t* x, const Py_ssize_t* y, bint by_channel):
    """window: R, S, sh, sw, dh, dw, top, left; x and y: the shapes."""
    cdef Pooling pool
    pool.g.R, pool.g.S, pool.g.sh, pool.g.sw, pool.g.dh, pool.g.dw, pool.g.top, pool.g.left = window
    pool.N, pool.C, pool.g.H, pool.g.W = x[0], x[1], x[2], x[3]
    pool.g.P, pool.g.Q = y[2], y[3]
    pool.g.rows = pool.g.columns = NULL
    pool.by_channel = by_channel
    return pool


cdef inline Py_ssize_t blocks(Py_ssize_t n) noexcept nogil:
    return (n + LANES - 1) // LANES


cdef inline Py_ssize_t channel_cuts(const Pooling* pool) noexcept nogil:
    """How many pieces the channels of a sample make: LANES of them at once, or one by one."""
    return blocks(pool.C) if pool.by_channel else pool.C


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


cdef void max_lanes(
    const Pooling* pool, const value* x, value* y, void* index, Py_ssize_t index_size,
    Py_ssize_t n, Py_ssize_t c, Py_ssize_t p, Py_ssize_t q0, Py_ssize_t q1, Py_ssize_t lanes, place* at,
) noexcept nogil:
    cdef value lane[LANES]
    cdef Py_ssize_t i, where, start, per_lane
    cdef Py_ssize_t step = pool.y.c if pool.by_channel else pool.y.w
    cdef value least = lowest(<value*>NULL)
    for i in range(lanes):
        lane[i] = least
    if place is not uint8_t:
        first_taps(pool, p, q0, q1, lanes, at)
    walk_taps(MAXIMUM, pool, <value*>x + n * pool.x.n + c * pool.x.c, p, q0, q1, lanes, lane, at)
    y += n * pool.y.n + c * pool.y.c + p * pool.y.h + q0 * pool.y.w
    if step == 1:
        for i in range(lanes):
            y[i] = lane[i]
    else:
        for i in range(lanes):
            y[i * step] = lane[i]
    if place is not uint8_t:
        where = n * pool.index.n + c * pool.index.c + p * pool.index.h + q0 * pool.index.w
        step = pool.index.c if pool.by_channel else pool.index.w
        start = pool.start + p * pool.per_p + q0 * pool.per_q
        per_lane = 0 if pool.by_channel else pool.per_q
        if index_size == 1:
            write_index(<uint8_t*>index + where, step, lanes, at, start, per_lane)
        elif index_size == 2:
            write_index(<uint16_t*>index + where, step, lanes, at, start, per_lane)
        else:
            write_index(<int64_t*>index + where, step, lanes, at, start, per_lane)


cdef void max_task(
    const Pooling* pool, const value* x, value* y, void* index, Py_ssize_t index_size, Py_ssize_t task,
    place kind,
) noexcept nogil:
    """One output row of one channel, or of LANES channels."""
    cdef place at[LANES]
    cdef Py_ssize_t P = pool.g.P, Q = pool.g.Q, q, c, block
    cdef Py_ssize_t cuts = channel_cuts(pool)
    cdef Py_ssize_t p = task % P, cut = task // P % cuts, n = task // P // cuts
    if pool.by_channel:
        c = cut * LANES
        for q in range(Q):
            max_lanes(pool, x, y, index, index_size, n, c, p, q, q + 1, min(LANES, pool.C - c), at)
    else:
        for block in range(blocks(Q)):
            q = block * LANES
            max_lanes(pool, x, y, index, index_size, n, cut, p, q, min(q + LANES, Q), min(LANES, Q - q), at)


cdef void max_pool(
    const Pooling* pool, const value* x, value* y, void* index, Py_ssize_t index_size, place kind, int workers
) noexcept:
    cdef Py_ssize_t task, tasks = pool.N * channel_cuts(pool) * pool.g.P
    with nogil:
        if workers == 1:
            for task in range(tasks):
                max_task(pool, x, y, index, index_size, task, kind)
        else:
            for task in prange(tasks, num_threads=workers, schedule="static"):
                max_task(pool, x, y, index, index_size, task, kind)


cdef void* record(Pooling* pool, uint8_t[:, :, :, :, :] index, tuple places) except? NULL:
    """Where indices go (bytes of uint8, uint16 or int64 along the last axis), and what they count."""
    pool.start, pool.per_p, pool.per_q, pool.per_r, pool.per_s = places
    if index is None:
        return NULL
    pool.index = strides_of(index.strides, index.shape[4])
    return &index[0, 0, 0, 0, 0]


def max_f32(
    const float[:, :, :, :] x, float[:, :, :, :] y, uint8_t[:, :, :, :, :] index,
    tuple window, tuple places, bint small, bint by_channel, int workers,
):
    """y and, unless None, index (its bytes). small: r*per_r + s*per_s is below 2**31 for every tap."""
    cdef Pooling pool = pooling_of(window, x.shape, y.shape, by_channel)
    pool.x, pool.y = strides_of(x.strides, sizeof(float)), strides_of(y.strides, sizeof(float))
    cdef void* where = record(&pool, index, places)
    if where == NULL:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, 0, <uint8_t>0, workers)
    elif small:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, index.shape[4], <int32_t>0, workers)
    else:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, index.shape[4], <int64_t>0, workers)


def max_f64(
    const double[:, :, :, :] x, double[:, :, :, :] y, uint8_t[:, :, :, :, :] index,
    tuple window, tuple places, bint small, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(window, x.shape, y.shape, by_channel)
    pool.x, pool.y = strides_of(x.strides, sizeof(double)), strides_of(y.strides, sizeof(double))
    cdef void* where = record(&pool, index, places)
    if where == NULL:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, 0, <uint8_t>0, workers)
    else:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, index.shape[4], <int64_t>0, workers)


def max_i64(
    const int64_t[:, :, :, :] x, int64_t[:, :, :, :] y, uint8_t[:, :, :, :, :] index,
    tuple window, tuple places, bint small, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(window, x.shape, y.shape, by_channel)
    pool.x, pool.y = strides_of(x.strides, sizeof(int64_t)), strides_of(y.strides, sizeof(int64_t))
    cdef void* where = record(&pool, index, places)
    if where == NULL:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, 0, <uint8_t>0, workers)
    else:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, index.shape[4], <int64_t>0, workers)


def max_u64(
    const uint64_t[:, :, :, :] x, uint64_t[:, :, :, :] y, uint8_t[:, :, :, :, :] index,
    tuple window, tuple places, bint small, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(window, x.shape, y.shape, by_channel)
    pool.x, pool.y = strides_of(x.strides, sizeof(uint64_t)), strides_of(y.strides, sizeof(uint64_t))
    cdef void* where = record(&pool, index, places)
    if where == NULL:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, 0, <uint8_t>0, workers)
    else:
        max_pool(&pool, &x[0, 0, 0, 0], &y[0, 0, 0, 0], where, index.shape[4], <int64_t>0, workers)


# --- mean ------------------------------------------------------------------------------------------

cdef void mean_lanes(
    const Pooling* pool, Operation operation, real* x, real* y, const real* rows, const real* columns,
    Py_ssize_t n, Py_ssize_t c, Py_ssize_t p, Py_ssize_t q0, Py_ssize_t q1, Py_ssize_t lanes,
) noexcept nogil:
    """TOTAL: y = sum of x / (rows * columns). SPREAD, its adjoint: x += y / (rows * columns)."""
    cdef real lane[LANES]
    cdef Py_ssize_t i
    cdef Py_ssize_t step = pool.y.c if pool.by_channel else pool.y.w
    cdef Py_ssize_t next_column = 0 if pool.by_channel else 1
    x += n * pool.x.n + c * pool.x.c
    y += n * pool.y.n + c * pool.y.c + p * pool.y.h + q0 * pool.y.w
    if operation == TOTAL:
        for i in range(lanes):
            lane[i] = 0
        walk_taps(TOTAL, pool, x, p, q0, q1, lanes, lane, <uint8_t*>NULL)
        for i in range(lanes):
            y[i * step] = lane[i] / (rows[p] * columns[q0 + i * next_column])
    else:
        for i in range(lanes):
            lane[i] = y[i * step] / (rows[p] * columns[q0 + i * next_column])
        walk_taps(SPREAD, pool, x, p, q0, q1, lanes, lane, <uint8_t*>NULL)


cdef void mean_row(
    const Pooling* pool, Operation operation, real* x, real* y, const real* rows, const real* columns,
    Py_ssize_t n, Py_ssize_t cut, Py_ssize_t p,
) noexcept nogil:
    cdef Py_ssize_t Q = pool.g.Q, q, c, block
    if pool.by_channel:
        c = cut * LANES
        for q in range(Q):
            mean_lanes(pool, operation, x, y, rows, columns, n, c, p, q, q + 1, min(LANES, pool.C - c))
    else:
        for block in range(blocks(Q)):
            q = block * LANES
            mean_lanes(
                pool, operation, x, y, rows, columns, n, cut, p, q, min(q + LANES, Q), min(LANES, Q - q)
            )


cdef void mean_task(
    const Pooling* pool, Operation operation, real* x, real* y, const real* rows, const real* columns,
    Py_ssize_t task,
) noexcept nogil:
    """TOTAL: one output row. SPREAD: all rows of a plane, in order, since their windows overlap."""
    cdef Py_ssize_t cuts = channel_cuts(pool)
    cdef Py_ssize_t P = pool.g.P, p
    if operation == TOTAL:
        mean_row(pool, TOTAL, x, y, rows, columns, task // P // cuts, task // P % cuts, task % P)
    else:
        for p in range(P):
            mean_row(pool, SPREAD, x, y, rows, columns, task // cuts, task % cuts, p)


cdef void mean_pool(
    const Pooling* pool, Operation operation, real* x, real* y, const real* rows, const real* columns,
    int workers,
) noexcept:
    cdef Py_ssize_t task, tasks = pool.N * channel_cuts(pool)
    if operation == TOTAL:
        tasks *= pool.g.P
    with nogil:
        if workers == 1:
            for task in range(tasks):
                mean_task(pool, operation, x, y, rows, columns, task)
        else:
            for task in prange(tasks, num_threads=workers, schedule="static"):
                mean_task(pool, operation, x, y, rows, columns, task)


def avg_f32(
    const float[:, :, :, :] x, float[:, :, :, :] y, const float[::1] rows, const float[::1] columns,
    tuple window, bint by_channel, int workers,
):
    """y[n,c,p,q] = sum of the window's pixels / (rows[p] * columns[q])."""
    cdef Pooling pool = pooling_of(window, x.shape, y.shape, by_channel)
    pool.x, pool.y = strides_of(x.strides, sizeof(float)), strides_of(y.strides, sizeof(float))
    mean_pool(&pool, TOTAL, <float*>&x[0, 0, 0, 0], &y[0, 0, 0, 0], &rows[0], &columns[0], workers)


def avg_f64(
    const double[:, :, :, :] x, double[:, :, :, :] y, const double[::1] rows, const double[::1] columns,
    tuple window, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(window, x.shape, y.shape, by_channel)
    pool.x, pool.y = strides_of(x.strides, sizeof(double)), strides_of(y.strides, sizeof(double))
    mean_pool(&pool, TOTAL, <double*>&x[0, 0, 0, 0], &y[0, 0, 0, 0], &rows[0], &columns[0], workers)


def avg_grad_f32(
    float[:, :, :, :] dx, const float[:, :, :, :] dy, const float[::1] rows, const float[::1] columns,
    tuple window, bint by_channel, int workers,
):
    """Adds to dx, in every window, dy[n,c,p,q] / (rows[p] * columns[q])."""
    cdef Pooling pool = pooling_of(window, dx.shape, dy.shape, by_channel)
    pool.x, pool.y = strides_of(dx.strides, sizeof(float)), strides_of(dy.strides, sizeof(float))
    mean_pool(&pool, SPREAD, &dx[0, 0, 0, 0], <float*>&dy[0, 0, 0, 0], &rows[0], &columns[0], workers)


def avg_grad_f64(
    double[:, :, :, :] dx, const double[:, :, :, :] dy, const double[::1] rows, const double[::1] columns,
    tuple window, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(window, dx.shape, dy.shape, by_channel)
    pool.x, pool.y = strides_of(dx.strides, sizeof(double)), strides_of(dy.strides, sizeof(double))
    mean_pool(&pool, SPREAD, &dx[0, 0, 0, 0], <double*>&dy[0, 0, 0, 0], &rows[0], &columns[0], workers)


# --- routing by index ------------------------------------------------------------------------------

ctypedef fused moved:  # what is routed: added up, or (by its size alone) put in place
    float
    double
    uint64_t
    uint32_t
    uint16_t
    uint8_t


cdef inline bint route(
    const Pooling* pool, moved* plane, moved v, Py_ssize_t k, Py_ssize_t p, Py_ssize_t q,
    const int64_t* tap_rows, const int64_t* tap_columns, Py_ssize_t taps, bint add,
) noexcept nogil:
    """Add or put v at index k of the plane or, where taps > 0, tap k of window (p, q). False: no such pixel."""
    cdef const Geometry* g = &pool.g
    cdef Py_ssize_t h, w
    if taps > 0:
        if k >= taps:
            return False
        h, w = p * g.sh - g.top + tap_rows[k], q * g.sw - g.left + tap_columns[k]
        if h < 0 or h >= g.H or w < 0 or w >= g.W:
            return False
        k = h * g.W + w
    elif k < 0 or k >= g.H * g.W:
        return False
    k *= pool.x.w if g.W > 1 else pool.x.h  # NumPy may export any stride for an axis of length 1
    plane[k] = <moved>(plane[k] + v) if add else v
    return True


cdef bint route_task(
    const Pooling* pool, moved* x, const moved* y, const index_type* index,
    const int64_t* tap_rows, const int64_t* tap_columns, Py_ssize_t taps, bint add, Py_ssize_t task,
) noexcept nogil:
    """One plane, or LANES channels; windows in row-major order. False: an index names no pixel."""
    cdef Py_ssize_t cuts = channel_cuts(pool)
    cdef Py_ssize_t n = task // cuts, cut = task % cuts, p, q, c, c1
    cdef bint good = True
    if pool.by_channel:
        c1 = min(cut * LANES + LANES, pool.C)
        x += n * pool.x.n
        y += n * pool.y.n
        index += n * pool.index.n
        for p in range(pool.g.P):
            for q in range(pool.g.Q):
                for c in range(cut * LANES, c1):
                    good &= route(
                        pool, x + c * pool.x.c, y[c * pool.y.c + p * pool.y.h + q * pool.y.w],
                        <Py_ssize_t>index[c * pool.index.c + p * pool.index.h + q * pool.index.w],
                        p, q, tap_rows, tap_columns, taps, add,
                    )
    else:
        x += n * pool.x.n + cut * pool.x.c
        y += n * pool.y.n + cut * pool.y.c
        index += n * pool.index.n + cut * pool.index.c
        for p in range(pool.g.P):
            for q in range(pool.g.Q):
                good &= route(
                    pool, x, y[p * pool.y.h + q * pool.y.w],
                    <Py_ssize_t>index[p * pool.index.h + q * pool.index.w],
                    p, q, tap_rows, tap_columns, taps, add,
                )
    return good


cdef bint route_all(
    const Pooling* pool, moved* x, const moved* y, const index_type* index,
    const int64_t* tap_rows, const int64_t* tap_columns, Py_ssize_t taps, bint add, int workers,
) noexcept:
    cdef Py_ssize_t task, tasks = pool.N * channel_cuts(pool)
    cdef Py_ssize_t failed = 0
    with nogil:
        if workers == 1:
            for task in range(tasks):
                failed += not route_task(pool, x, y, index, tap_rows, tap_columns, taps, add, task)
        else:
            for task in prange(tasks, num_threads=workers, schedule="static"):
                failed += not route_task(pool, x, y, index, tap_rows, tap_columns, taps, add, task)
    return failed == 0


cdef bint max_grad(
    Pooling* pool, moved* dx, const moved* dy, const uint8_t[:, :, :, :, :] index,
    const int64_t[:, ::1] taps, int workers,
):
    cdef const void* where = &index[0, 0, 0, 0, 0]
    cdef Py_ssize_t count = taps.shape[1]
    pool.index = strides_of(index.strides, index.shape[4])
    if index.shape[4] == 1:
        return route_all(pool, dx, dy, <const uint8_t*>where, &taps[0, 0], &taps[1, 0], count, True, workers)
    if index.shape[4] == 2:
        return route_all(pool, dx, dy, <const uint16_t*>where, &taps[0, 0], &taps[1, 0], count, True, workers)
    return route_all(pool, dx, dy, <const int64_t*>where, NULL, NULL, 0, True, workers)


def max_grad_f32(
    float[:, :, :, :] dx, const float[:, :, :, :] dy, const uint8_t[:, :, :, :, :] index,
    const int64_t[:, ::1] taps, tuple window, bint by_channel, int workers,
):
    """Add every dy to the pixel of dx that its index names; False if one names none (dx is then in between).

    index: the bytes of each along the last axis; int64 are flat in the plane, whose pixels are evenly spaced in
    dx; uint8 and uint16 count taps, whose rows and columns relative to the window's corner are taps[0], taps[1].
    """
    cdef Pooling pool = pooling_of(window, dx.shape, dy.shape, by_channel)
    pool.x, pool.y = strides_of(dx.strides, sizeof(float)), strides_of(dy.strides, sizeof(float))
    return max_grad(&pool, &dx[0, 0, 0, 0], &dy[0, 0, 0, 0], index, taps, workers)


def max_grad_f64(
    double[:, :, :, :] dx, const double[:, :, :, :] dy, const uint8_t[:, :, :, :, :] index,
    const int64_t[:, ::1] taps, tuple window, bint by_channel, int workers,
):
    cdef Pooling pool = pooling_of(window, dx.shape, dy.shape, by_channel)
    pool.x, pool.y = strides_of(dx.strides, sizeof(double)), strides_of(dy.strides, sizeof(double))
    return max_grad(&pool, &dx[0, 0, 0, 0], &dy[0, 0, 0, 0], index, taps, workers)


def max_grad_u64(
    uint64_t[:, :, :, :] dx, const uint64_t[:, :, :, :] dy, const uint8_t[:, :, :, :, :] index,
    const int64_t[:, ::1] taps, tuple window, bint by_channel, int workers,
):
    """Integers modulo 2**64."""
    cdef Pooling pool = pooling_of(window, dx.shape, dy.shape, by_channel)
    pool.x, pool.y = strides_of(dx.strides, sizeof(uint64_t)), strides_of(dy.strides, sizeof(uint64_t))
    return max_grad(&pool, &dx[0, 0, 0, 0], &dy[0, 0, 0, 0], index, taps, workers)


def unpool(
    uint8_t[:, :, :, :, :] x, const uint8_t[:, :, :, :, :] y, const int64_t[:, :, :, :] index, bint by_channel
):
    """Put every y at its index in the plane of x, in row-major order; False if an index names no pixel.

    x and y: the bytes of each element along the last axis, 1, 2, 4 or 8.
    """
    cdef Py_ssize_t size = x.shape[4]
    cdef Pooling pool = pooling_of((1, 1, 1, 1, 1, 1, 0, 0), x.shape, y.shape, by_channel)
    pool.x, pool.y = strides_of(x.strides, size), strides_of(y.strides, size)
    pool.index = strides_of(index.strides, sizeof(int64_t))
    cdef void* to = &x[0, 0, 0, 0, 0]
    cdef const void* source = &y[0, 0, 0, 0, 0]
    cdef const int64_t* at = &index[0, 0, 0, 0]
    if size == 1:
        return route_all(&pool, <uint8_t*>to, <const uint8_t*>source, at, NULL, NULL, 0, False, 1)
    if size == 2:
        return route_all(&pool, <uint16_t*>to, <const uint16_t*>source, at, NULL, NULL, 0, False, 1)
    if size == 4:
        return route_all(&pool, <uint32_t*>to, <const uint32_t*>source, at, NULL, NULL, 0, False, 1)
    return route_all(&pool, <uint64_t*>to, <const uint64_t*>source, at, NULL, NULL, 0, False, 1)
