"""The direct method: every output as the plain sum over the filter's taps, from a small copied block of the image.

Called by fastconv/algorithms/direct.py, which decides block sizes and taps. Knows no cost, choice or padding rule.

A block of `block_p` x `block_q` outputs needs a patch of the padded image. It is copied in polyphase order, one plane
per (channel, row phase, column phase), `slots` rows of `pitch` elements each. Phase a holds the rows u = a*dh mod sh,
so that only phases with taps exist; there are phases_h = min(R, sh / gcd(sh, dh)) of them, and likewise of columns:

    block[c][a][b][i][j] = padded[c0 + c, (p0 + i)*sh + a*dh % sh, (q0 + j)*sw + b*dw % sw]

In it the pixel under tap (r, s) of output (p, q) lies at  taps[c, r, s] + p*pitch + q  for every stride and dilation.
So a vector of outputs is a place in the block, and one in y; a tile of simd/direct_tile.h takes a list of them:

    at[i] = (p*pitch + q, p*(row of y) + q)    q = 0, lanes, ...; the last vector of a row ends where the row ends

Where that can't be (rows of y shorter than a vector, or not in one piece) or the channels take several blocks, the
outputs of a block are computed as one run of (block_p - 1)*pitch + block_q sums, in which pitch - block_q entries of
each row are computed in vain, and stored from there.

    packed weights   w[g][tile][c][r][s][filters of the tile]     K filters in tiles of at most DIRECT_K, evenly
    sums             sums[filter][run]

The gradient of the input is this same forward operation, for each output phase (fastconv/algorithms/phases.py), but for
one thing: dy is not padded with zeros, it ends, so an infinite weight meets nothing there and makes no NaN. `careful`
sees to that. Each worker has scratch of its own, 64-byte aligned.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastconv._kernels.team cimport share, unit_function
from windows cimport first_inside, summand

cdef extern from "tiles.h" nogil:
    const int DIRECT_K
    const int DIRECT_MOST
    int DIRECT_U(int)
    const int VECTOR_BYTES
    void f32_direct_tile(int, const float*, const ptrdiff_t*, ptrdiff_t, const float*, const float*, float*, ptrdiff_t,
                         const ptrdiff_t*, ptrdiff_t)
    void f64_direct_tile(int, const double*, const ptrdiff_t*, ptrdiff_t, const double*, const double*, double*, ptrdiff_t,
                         const ptrdiff_t*, ptrdiff_t)
    void u64_direct_tile(int, const uint64_t*, const ptrdiff_t*, ptrdiff_t, const uint64_t*, const uint64_t*, uint64_t*,
                         ptrdiff_t, const ptrdiff_t*, ptrdiff_t)
    void f32_direct_dots(int, const float*, const ptrdiff_t*, const float*, ptrdiff_t, const ptrdiff_t*, ptrdiff_t,
                         ptrdiff_t, const float*, float*)
    void f64_direct_dots(int, const double*, const ptrdiff_t*, const double*, ptrdiff_t, const ptrdiff_t*, ptrdiff_t,
                         ptrdiff_t, const double*, double*)
    void u64_direct_dots(int, const uint64_t*, const ptrdiff_t*, const uint64_t*, ptrdiff_t, const ptrdiff_t*, ptrdiff_t,
                         ptrdiff_t, const uint64_t*, uint64_t*)
    void f32_copy(const float*, ptrdiff_t, float*)
    void f64_copy(const double*, ptrdiff_t, double*)
    void u64_copy(const uint64_t*, ptrdiff_t, uint64_t*)
    void f32_copy_padded(const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, float, float*)
    void f64_copy_padded(const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t, double, double*)
    void u64_copy_padded(const uint64_t*, ptrdiff_t, ptrdiff_t, ptrdiff_t, uint64_t, uint64_t*)
    void f32_copy_every_2(const float*, ptrdiff_t, float*)
    void f64_copy_every_2(const double*, ptrdiff_t, double*)
    void u64_copy_every_2(const uint64_t*, ptrdiff_t, uint64_t*)

FILTERS = DIRECT_K
"""Filters of one forward tile, at the most."""
POSITIONS = DIRECT_MOST
"""Vectors of outputs of one forward tile, at the most: that many more places than there are may be read."""
BYTES = VECTOR_BYTES
"""Bytes of one vector: blocks are read and computed up to the next whole one."""


cdef struct Task:
    Py_ssize_t groups, C, K  # channels and filters of one group
    Py_ssize_t H, W, R, S, P, Q
    Py_ssize_t left, sh, sw, dh, dw
    Py_ssize_t block_p, block_q, block_c, slots, pitch, phases_h, phases_w
    Py_ssize_t block, run  # elements of the copied patch, and of the sums of a filter, with slack
    Py_ssize_t parts  # of the filters, if there are units enough
    Py_ssize_t bunch  # samples that are summed up together
    Py_ssize_t y_h, y_w, y_sh, y_sw  # where in y the outputs lie, and how far apart
    bint turned  # weights (inputs, outputs, R, S), and infinite ones meet nothing beyond the image
    Py_ssize_t w_r, w_s, w_dr, w_ds  # the first tap in w, and how far apart they are
    Py_ssize_t padded_h, padded_w
    bint constant  # beyond the edge
    const int64_t* rows
    const int64_t* columns
    const int64_t* taps
    Py_ssize_t ntaps  # of a whole channel block


cdef struct Call:
    const Task* tasks
    int workers
    const Py_buffer* x
    const Py_buffer* y  # or dy
    const Py_buffer* dw
    const void* cval
    const void* w  # packed
    const void* bias
    bint finite  # are the weights, where that matters?


cdef inline void tile(int filters, const summand* x, const Task* t, Py_ssize_t ntaps, const summand* w,
                      const summand* start, summand* y, Py_ssize_t ld, const ptrdiff_t* at, Py_ssize_t positions) noexcept nogil:
    cdef const ptrdiff_t* taps = <const ptrdiff_t*>t.taps
    if summand is float:
        f32_direct_tile(filters, x, taps, ntaps, w, start, y, ld, at, positions)
    elif summand is double:
        f64_direct_tile(filters, x, taps, ntaps, w, start, y, ld, at, positions)
    else:
        u64_direct_tile(filters, x, taps, ntaps, w, start, y, ld, at, positions)


cdef inline void dots(int filters, const summand* x, const ptrdiff_t* taps, const summand* dy, Py_ssize_t ld,
                      const ptrdiff_t* at, Py_ssize_t whole, Py_ssize_t positions, const summand* mask,
                      summand* dot) noexcept nogil:
    if summand is float:
        f32_direct_dots(filters, x, taps, dy, ld, at, whole, positions, mask, dot)
    elif summand is double:
        f64_direct_dots(filters, x, taps, dy, ld, at, whole, positions, mask, dot)
    else:
        u64_direct_dots(filters, x, taps, dy, ld, at, whole, positions, mask, dot)


cdef inline void copy(const summand* x, Py_ssize_t step, Py_ssize_t n, summand* out) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1:
        if summand is float:
            f32_copy(x, n, out)
        elif summand is double:
            f64_copy(x, n, out)
        else:
            u64_copy(x, n, out)
    elif step == 2:
        if summand is float:
            f32_copy_every_2(x, n, out)
        elif summand is double:
            f64_copy_every_2(x, n, out)
        else:
            u64_copy_every_2(x, n, out)
    else:
        for i in range(n):
            out[i] = x[i * step]


cdef inline void copy_padded(const summand* x, Py_ssize_t before, Py_ssize_t n, Py_ssize_t after, summand value,
                             summand* out) noexcept nogil:
    if summand is float:
        f32_copy_padded(x, before, n, after, value, out)
    elif summand is double:
        f64_copy_padded(x, before, n, after, value, out)
    else:
        u64_copy_padded(x, before, n, after, value, out)


cdef inline void fill(summand* out, Py_ssize_t n, summand value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = value


cdef inline void beyond(const summand* row, Py_ssize_t step, const Task* t, summand cval, Py_ssize_t v0, Py_ssize_t begin,
                        Py_ssize_t end, summand* out) noexcept nogil:
    """out[j] = the padded row at column v0 + j*sw, for those j that lie beyond the image."""
    cdef Py_ssize_t j, v, w
    for j in range(begin, end):
        v = v0 + j * t.sw
        w = t.columns[v] if v < t.padded_w else -1
        out[j] = row[w * step] if w >= 0 else cval


cdef void load_block(const char* x, Py_ssize_t xc, Py_ssize_t xh, Py_ssize_t xw, const Task* t, summand cval,
                     Py_ssize_t channels, Py_ssize_t p0, Py_ssize_t q0, Py_ssize_t rows, Py_ssize_t columns,
                     summand* block) noexcept nogil:
    """Copy the patch under rows x columns outputs at (p0, q0) in the order of the picture above. Strides in bytes.

    Places beyond the padded image, which no output meets, hold anything."""
    cdef Py_ssize_t c, a, b, u, h, v0, inside, outside, _i, step = xw // <Py_ssize_t>sizeof(summand)
    cdef Py_ssize_t slots = rows + (t.R - 1) * t.dh // t.sh, width = columns + (t.S - 1) * t.dw // t.sw
    cdef const summand* row
    cdef summand* out
    for b in range(t.phases_w):
        v0 = q0 * t.sw + b * t.dw % t.sw
        inside = first_inside(v0 - t.left, t.sw, 0, width)
        outside = first_inside(v0 - t.left - t.W, t.sw, inside, width)
        for c in range(channels):
            for a in range(t.phases_h):
                out = block + ((c * t.phases_h + a) * t.phases_w + b) * t.slots * t.pitch
                u = p0 * t.sh + a * t.dh % t.sh
                for _i in range(slots):
                    if u >= t.padded_h:
                        break
                    h = t.rows[u]
                    row = <const summand*>(x + c * xc + h * xh) + (inside * t.sw + v0 - t.left) * step
                    if h < 0:
                        fill(out, width, cval)
                    elif t.constant and t.sw * step == 1:
                        copy_padded(row, inside, outside - inside, width - outside, cval, out)
                    else:
                        copy(row, t.sw * step, outside - inside, out + inside)
                        row = <const summand*>(x + c * xc + h * xh)
                        beyond(row, step, t, cval, v0, 0, inside, out)
                        beyond(row, step, t, cval, v0, outside, width, out)
                    out += t.pitch
                    u += t.sh


cdef void careful_tile(int filters, const summand* x, const summand* inside, const Task* t, Py_ssize_t ntaps,
                       const summand* w, const summand* start, summand* y, Py_ssize_t ld, const ptrdiff_t* at,
                       Py_ssize_t positions) noexcept nogil:
    """The tile for weights that are not all finite, without the products that the adjoint of padding doesn't have."""
    cdef Py_ssize_t i, lane, tap, x_at, lanes = VECTOR_BYTES // sizeof(summand)
    cdef int k
    cdef summand total
    for i in range(positions):
        for lane in range(lanes):
            x_at = at[2 * i] + lane
            for k in range(filters):
                total = start[k] if start != NULL else y[k * ld + at[2 * i + 1] + lane]
                for tap in range(ntaps):
                    if inside[t.taps[tap] + x_at] != 0:
                        total += w[tap * filters + k] * x[t.taps[tap] + x_at]
                y[k * ld + at[2 * i + 1] + lane] = total


cdef inline Py_ssize_t packed_elements(const Task* t) noexcept nogil:
    return t.groups * t.K * t.C * t.R * t.S


cdef inline Py_ssize_t tile_count(const Task* t) noexcept nogil:
    return (t.K + DIRECT_K - 1) // DIRECT_K


cdef Py_ssize_t find_rows(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t lanes, Py_ssize_t pitch, Py_ssize_t y_row,
                          ptrdiff_t* at) noexcept nogil:
    """The places of the vectors of a block whose rows go to y as they are."""
    cdef Py_ssize_t p, q, i = 0
    for p in range(rows):
        for q in range((columns + lanes - 1) // lanes):
            q = min(q * lanes, columns - lanes)
            at[2 * i], at[2 * i + 1] = p * pitch + q, p * y_row + q
            i += 1
    return i


cdef Py_ssize_t find_run(Py_ssize_t run, Py_ssize_t lanes, ptrdiff_t* at) noexcept nogil:
    cdef Py_ssize_t i, count = (run + lanes - 1) // lanes
    for i in range(count):
        at[2 * i] = at[2 * i + 1] = i * lanes
    return count


cdef Py_ssize_t block_count(const Task* t, Py_ssize_t N) noexcept nogil:
    return N * t.groups * ((t.P + t.block_p - 1) // t.block_p) * ((t.Q + t.block_q - 1) // t.block_q)


cdef Py_ssize_t part_count(const Task* t, Py_ssize_t units, int workers) noexcept nogil:
    """Parts of the filters, so that workers have something to do: what is cut by their number isn't a sum."""
    return t.parts if workers == 1 else max(t.parts, min((4 * workers + units - 1) // units, tile_count(t)))


cdef void forward_unit(const Call* call, Py_ssize_t unit, summand* scratch) noexcept nogil:
    """One block of outputs of a part of the filters of one sample, in one of several problems."""
    cdef const Task* t = call.tasks
    cdef const summand* w = <const summand*>call.w
    cdef const summand* bias = <const summand*>call.bias
    cdef Py_ssize_t N = call.x.shape[0], blocks = block_count(t, N), parts = part_count(t, blocks, call.workers)
    while unit >= blocks * parts:
        unit -= blocks * parts
        w += packed_elements(t)
        t += 1
        blocks = block_count(t, N)
        parts = part_count(t, blocks, call.workers)
    cdef summand one = 1
    cdef summand[8] start  # DIRECT_K of them at the most
    cdef Py_ssize_t item = sizeof(summand), lanes = VECTOR_BYTES // item, tiles = tile_count(t)
    cdef Py_ssize_t q_blocks = (t.Q + t.block_q - 1) // t.block_q, p_blocks = (t.P + t.block_p - 1) // t.block_p
    cdef Py_ssize_t part = unit % parts, rest = unit // parts
    cdef Py_ssize_t q0 = rest % q_blocks * t.block_q
    cdef Py_ssize_t p0 = rest // q_blocks % p_blocks * t.block_p
    cdef Py_ssize_t g = rest // q_blocks // p_blocks % t.groups
    cdef Py_ssize_t n = rest // q_blocks // p_blocks // t.groups
    cdef Py_ssize_t rows = min(t.block_p, t.P - p0), columns = min(t.block_q, t.Q - q0)
    cdef Py_ssize_t first = part * tiles // parts, last = (part + 1) * tiles // parts
    cdef Py_ssize_t k0 = t.K * first // tiles, filters = t.K * last // tiles - k0
    cdef Py_ssize_t taps = t.R * t.S, j, k, i, p, q, c0, channels, size, ld, positions
    cdef const Py_ssize_t* xs = call.x.strides
    cdef const Py_ssize_t* ys = call.y.strides
    cdef Py_ssize_t y_row = ys[2] * t.y_sh, y_step = ys[3] * t.y_sw
    cdef bint whole = t.C <= t.block_c and columns >= lanes and y_step == item, careful = t.turned and not call.finite
    cdef summand* block = scratch
    cdef summand* inside = block + t.block
    cdef summand* sums = inside + (t.block if t.turned else 0)
    cdef ptrdiff_t* at = <ptrdiff_t*>(sums + (filters * t.run if not whole else 0))
    cdef summand* out
    cdef const summand* weights
    cdef const char* x = <const char*>call.x.buf + n * xs[0] + g * t.C * xs[1]
    cdef char* y = <char*>call.y.buf + n * ys[0] + (g * t.K + k0) * ys[1] + t.y_h * ys[2] + t.y_w * ys[3]
    y += p0 * y_row + q0 * y_step
    if whole:
        out, ld = <summand*>y, ys[1] // item
        positions = find_rows(rows, columns, lanes, t.pitch, y_row // item, at)
    else:
        out, ld = sums, t.run
        positions = find_run((rows - 1) * t.pitch + columns, lanes, at)
    for i in range(2 * positions, 2 * (positions + DIRECT_MOST)):  # a tile may take the last one again
        at[i] = at[i - 2]
    c0 = 0
    while c0 < t.C:
        channels = min(t.block_c, t.C - c0)
        load_block(x + c0 * xs[1], xs[1], xs[2], xs[3], t, (<const summand*>call.cval)[0], channels, p0, q0, rows, columns,
                   block)
        if careful:
            load_block(<const char*>&one, 0, 0, 0, t, <summand>0, channels, p0, q0, rows, columns, inside)
        for j in range(first, last):
            k = t.K * j // tiles
            size = t.K * (j + 1) // tiles - k
            weights = w + ((g * t.K + k) * t.C + c0 * size) * taps
            for i in range(size):
                start[i] = bias[g * t.K + k + i] if bias != NULL else 0
            if careful:
                careful_tile(<int>size, <const summand*>block, <const summand*>inside, t, channels * taps, weights,
                             <const summand*>start if c0 == 0 else NULL, out + (k - k0) * ld, ld, <const ptrdiff_t*>at,
                             positions)
            else:
                tile(<int>size, <const summand*>block, t, channels * taps, weights,
                     <const summand*>start if c0 == 0 else NULL, out + (k - k0) * ld, ld, <const ptrdiff_t*>at, positions)
        c0 += channels
    if whole:
        return
    for k in range(filters):
        for p in range(rows):
            if y_step == item:
                copy(<const summand*>(sums + k * ld + p * t.pitch), 1, columns, <summand*>(y + k * ys[1] + p * y_row))
            else:
                for q in range(columns):
                    (<summand*>(y + k * ys[1] + p * y_row + q * y_step))[0] = sums[k * ld + p * t.pitch + q]


cdef Py_ssize_t find_dots(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t lanes, Py_ssize_t samples, Py_ssize_t x_sample,
                          Py_ssize_t pitch, Py_ssize_t y_sample, Py_ssize_t y_row, bint whole, ptrdiff_t* at) noexcept nogil:
    """The places of the whole vectors of dy's rows, or of the last ones, which end where the rows do."""
    cdef Py_ssize_t n, p, q, count = 0
    cdef Py_ssize_t begin = 0 if whole else max(columns - lanes, 0)
    cdef Py_ssize_t end = columns - columns % lanes if whole else begin + (columns % lanes != 0)
    for n in range(samples):
        for p in range(rows):
            q = begin
            while q < end:
                at[2 * count], at[2 * count + 1] = n * x_sample + p * pitch + q, n * y_sample + p * y_row + q
                count += 1
                q += lanes
    return count


cdef void weight_unit(const Call* call, Py_ssize_t unit, summand* scratch) noexcept nogil:
    """dw of a part of the filters and a block of channels, summed over the samples of one piece."""
    cdef const Task* t = call.tasks
    cdef const Py_ssize_t* xs = call.x.strides
    cdef const Py_ssize_t* ys = call.y.strides
    cdef Py_ssize_t N = call.x.shape[0], pieces = call.dw.shape[0]
    cdef Py_ssize_t item = sizeof(summand), lanes = VECTOR_BYTES // item, tiles = tile_count(t)
    cdef Py_ssize_t c_blocks = (t.C + t.block_c - 1) // t.block_c, q_blocks = (t.Q + t.block_q - 1) // t.block_q
    cdef Py_ssize_t parts = part_count(t, pieces * t.groups * c_blocks, call.workers)
    cdef Py_ssize_t c0 = unit % c_blocks * t.block_c, rest = unit // c_blocks
    cdef Py_ssize_t part = rest % parts, g = rest // parts % t.groups, piece = rest // parts // t.groups
    cdef Py_ssize_t first = part * tiles // parts, last = (part + 1) * tiles // parts
    cdef Py_ssize_t k0 = t.K * first // tiles, filters = t.K * last // tiles - k0
    cdef Py_ssize_t channels = min(t.block_c, t.C - c0), taps = channels * t.R * t.S
    cdef Py_ssize_t length = (t.block_q + lanes - 1) // lanes * lanes
    cdef Py_ssize_t x_sample = t.block_c * t.phases_h * t.phases_w * t.slots * t.pitch
    cdef Py_ssize_t i, j, k, m, n, p, q, p0, q0, rows, columns, samples, tap, size, width, ld, row, y_sample, whole, places
    cdef summand* block = scratch
    cdef summand* dot = block + t.block
    cdef summand* mask = dot + filters * (taps + DIRECT_MOST) * lanes
    cdef summand* copied = mask + lanes
    cdef ptrdiff_t* at = <ptrdiff_t*>(copied + filters * t.bunch * t.block_p * length)
    cdef summand* dw = <summand*>call.dw.buf + piece * t.groups * t.K * t.C * t.R * t.S
    cdef const char* x = <const char*>call.x.buf + (g * t.C + c0) * xs[1]
    cdef const char* dy = <const char*>call.y.buf + (g * t.K + k0) * ys[1]
    cdef summand cval = (<const summand*>call.cval)[0]
    cdef summand* sums
    cdef const char* start
    cdef const summand* gradient
    cdef summand total
    memset(dot, 0, filters * (taps + DIRECT_MOST) * lanes * item)
    n = N * piece // pieces
    while n < N * (piece + 1) // pieces:
        samples = min(t.bunch, N * (piece + 1) // pieces - n)
        for i in range((t.P + t.block_p - 1) // t.block_p * q_blocks):
            p0, q0 = i // q_blocks * t.block_p, i % q_blocks * t.block_q
            rows, columns = min(t.block_p, t.P - p0), min(t.block_q, t.Q - q0)
            for m in range(samples):
                load_block(x + (n + m) * xs[0], xs[1], xs[2], xs[3], t, cval, channels, p0, q0, rows, columns,
                           block + m * x_sample)
            start = dy + n * ys[0] + p0 * ys[2] + q0 * ys[3]
            gradient, y_sample, ld, row = <const summand*>start, ys[0] // item, ys[1] // item, ys[2] // item
            if ys[3] != item or columns < lanes:
                gradient, y_sample, ld, row = copied, t.block_p * length, t.bunch * t.block_p * length, length
                for k in range(filters):
                    for m in range(samples):
                        for p in range(rows):
                            copy(<const summand*>(start + m * ys[0] + k * ys[1] + p * ys[2]), ys[3] // item, columns,
                                 copied + k * ld + m * y_sample + p * row)
            whole = find_dots(rows, columns, lanes, samples, x_sample, t.pitch, y_sample, row, True, at)
            places = whole + find_dots(rows, columns, lanes, samples, x_sample, t.pitch, y_sample, row, False,
                                       at + 2 * whole)
            memset(mask, 0, lanes * item)  # without the lanes that were there already, or lie beyond the row
            memset(mask + (lanes - columns % lanes if columns > lanes else 0), 255, columns % lanes * item)
            sums = dot
            for j in range(first, last):
                k = t.K * j // tiles
                size = t.K * (j + 1) // tiles - k
                width = DIRECT_U(<int>size)
                tap = 0
                while tap < taps:
                    dots(<int>size, <const summand*>block, <const ptrdiff_t*>t.taps + tap, gradient + (k - k0) * ld, ld,
                         <const ptrdiff_t*>at, whole, places, <const summand*>mask, sums)
                    sums += size * width * lanes
                    tap += width
        n += samples
    sums = dot
    for j in range(first, last):
        size = t.K * (j + 1) // tiles - t.K * j // tiles
        width = DIRECT_U(<int>size)
        tap = 0
        while tap < taps:
            for k in range(t.K * j // tiles, t.K * j // tiles + size):
                for q in range(min(width, taps - tap)):
                    total = 0
                    for i in range(lanes):
                        total += sums[q * lanes + i]
                    dw[((g * t.K + k) * t.C + c0) * t.R * t.S + tap + q] = total
                sums += width * lanes
            tap += width


cdef void weight_grad(const Task* t, const Py_buffer* b, summand cval, Py_ssize_t worker_bytes, int workers) noexcept nogil:
    """b: x, dy, dw, scratch."""
    cdef Call call
    cdef Py_ssize_t units = b[2].shape[0] * t.groups * ((t.C + t.block_c - 1) // t.block_c)
    call.tasks, call.workers, call.x, call.y, call.dw, call.cval = t, workers, &b[0], &b[1], &b[2], &cval
    share(<unit_function>weight_unit[summand], &call, units * part_count(t, units, workers), <char*>b[3].buf,
          worker_bytes, workers)


cdef void pack(const Task* t, const char* w, const Py_ssize_t* ws, summand* out) noexcept nogil:
    """w of any strides into the packed order of the picture above."""
    cdef Py_ssize_t k, k0, k1, j, c, r, tiles = tile_count(t), _g, _s
    cdef Py_ssize_t w_k = ws[1] if t.turned else ws[0], w_c = ws[0] if t.turned else ws[1]
    cdef const char* at
    w += t.w_r * ws[2] + t.w_s * ws[3]
    for _g in range(t.groups):
        for j in range(tiles):
            k0, k1 = t.K * j // tiles, t.K * (j + 1) // tiles
            for c in range(t.C):
                for r in range(t.R):
                    at = w + k0 * w_k + c * w_c + r * t.w_dr * ws[2]
                    for _s in range(t.S):
                        for k in range(k1 - k0):
                            out[k] = (<const summand*>(at + k * w_k))[0]
                        out += k1 - k0
                        at += t.w_ds * ws[3]
        w += (t.C if t.turned else t.K) * ws[0]


cdef bint all_finite(const summand* x, Py_ssize_t n) noexcept nogil:
    cdef summand[8] nothing  # NaN for an infinity or NaN; several sums don't wait for each other
    cdef Py_ssize_t i, j
    for j in range(8):
        nothing[j] = 0
    for i in range(n // 8):
        for j in range(8):
            nothing[j] += x[8 * i + j] * 0
    for i in range(n // 8 * 8, n):
        nothing[0] += x[i] * 0
    for j in range(1, 8):
        nothing[0] += nothing[j]
    return nothing[0] == 0


cdef bint pack_parts(const Task* tasks, Py_ssize_t count, const char* w, const Py_ssize_t* ws, summand* out) noexcept nogil:
    """The weights of every part, one after the other. Are all of them finite, where that matters?"""
    cdef Py_ssize_t i
    cdef bint finite = True
    for i in range(count):
        pack(&tasks[i], w, ws, out)
        if tasks[i].turned:
            finite = all_finite(<const summand*>out, packed_elements(&tasks[i])) and finite
        out += packed_elements(&tasks[i])
    return finite


cdef void forward_parts(Prepared self, const Py_buffer* b, summand cval, bint packed, bint finite, Py_ssize_t worker_bytes,
                        int workers) noexcept nogil:
    """b: x, w, bias, y, scratch."""
    cdef Call call
    cdef Py_ssize_t i, blocks, units = 0
    cdef char* scratch = <char*>b[4].buf
    call.tasks, call.workers, call.x, call.y, call.cval = self.tasks, workers, &b[0], &b[3], &cval
    call.w, call.bias, call.finite = b[1].buf, b[2].buf if b[2].shape[0] else NULL, finite
    if not packed:
        call.w = scratch
        call.finite = pack_parts(self.tasks, self.count, <const char*>b[1].buf, b[1].strides, <summand*>scratch)
        scratch += (self.packed * sizeof(summand) + 63) // 64 * 64
    for i in range(self.count):
        blocks = block_count(&self.tasks[i], b[0].shape[0])
        units += blocks * part_count(&self.tasks[i], blocks, workers)
    share(<unit_function>forward_unit[summand], &call, units, scratch, worker_bytes, workers)


cdef class Prepared:
    """All of a problem but its arrays: several forward problems that write parts of one result, or a weight gradient.

    ``parts``: for each of them numbers in the order of Task, and the index vectors rows, columns and taps.
    """
    cdef Task* tasks
    cdef Py_ssize_t count
    cdef int kind  # of the sums: float32, float64, or uint64
    cdef double cval
    cdef uint64_t whole_cval
    cdef object tables
    cdef readonly Py_ssize_t packed
    """Elements of all packed weights."""

    def __cinit__(self, str kind, cval, list parts):
        cdef const int64_t[::1] rows, columns, taps
        cdef Task* t
        self.kind = ("f32", "f64", "u64").index(kind)
        if self.kind == 2:
            self.whole_cval = cval
        else:
            self.cval = cval
        self.tables = [tables for _, *tables in parts]
        self.tasks = <Task*>calloc(max(len(parts), 1), sizeof(Task))
        if self.tasks == NULL:
            raise MemoryError
        for numbers, rows, columns, taps in parts:
            t = &self.tasks[self.count]
            (t.groups, t.C, t.K, t.H, t.W, t.R, t.S, t.P, t.Q, t.left, t.sh, t.sw, t.dh, t.dw, t.block_p, t.block_q,
             t.block_c, t.slots, t.pitch, t.phases_h, t.phases_w, t.block, t.run, t.parts, t.bunch, t.y_h, t.y_w, t.y_sh, t.y_sw,
             t.turned, t.w_r, t.w_s, t.w_dr, t.w_ds, t.constant) = numbers
            t.rows, t.columns, t.taps = &rows[0], &columns[0], &taps[0]
            t.padded_h, t.padded_w, t.ntaps = rows.shape[0], columns.shape[0], t.block_c * t.R * t.S
            self.count += 1
            self.packed += packed_elements(t)

    def __dealloc__(self):
        free(self.tasks)

    def pack(self, w, out):
        """w (K, C/groups, R, S) of any strides into the order of the tiles. Are all of them finite, where that matters?"""
        cdef Py_buffer[2] b
        cdef int held = 0
        cdef bint finite
        try:
            for array in (w, out):
                PyObject_GetBuffer(array, &b[held], PyBUF_STRIDES)
                held += 1
            if self.kind == 0:
                finite = pack_parts(self.tasks, self.count, <const char*>b[0].buf, b[0].strides, <float*>b[1].buf)
            elif self.kind == 1:
                finite = pack_parts(self.tasks, self.count, <const char*>b[0].buf, b[0].strides, <double*>b[1].buf)
            else:
                finite = pack_parts(self.tasks, self.count, <const char*>b[0].buf, b[0].strides, <uint64_t*>b[1].buf)
        finally:
            for i in range(held):
                PyBuffer_Release(&b[i])
        return finite

    def forward(self, x, w, finite, bias, y, scratch, Py_ssize_t worker_bytes, int workers):
        """y of x, of any strides. w as ``pack`` takes it if ``finite`` is None, else packed; bias: empty for none.

        Scratch: ``packed`` elements for w, up to whole multiples of 64 bytes, then ``worker_bytes`` for each worker.
        """
        cdef Py_buffer[5] b
        cdef int held = 0
        cdef bint packed = finite is not None, sure = packed and finite
        try:
            for array in (x, w, bias, y, scratch):
                PyObject_GetBuffer(array, &b[held], PyBUF_STRIDES | PyBUF_WRITABLE if held > 2 else PyBUF_STRIDES)
                held += 1
            with nogil:
                if self.kind == 0:
                    forward_parts[float](self, b, <float>self.cval, packed, sure, worker_bytes, workers)
                elif self.kind == 1:
                    forward_parts[double](self, b, self.cval, packed, sure, worker_bytes, workers)
                else:
                    forward_parts[uint64_t](self, b, self.whole_cval, packed, sure, worker_bytes, workers)
        finally:
            for i in range(held):
                PyBuffer_Release(&b[i])

    def weight_grad(self, x, dy, dw, scratch, Py_ssize_t worker_bytes, int workers):
        """dw (pieces, K, C/groups, R, S), in one piece of memory: to be added up by the caller."""
        cdef Py_buffer[4] b
        cdef int held = 0
        try:
            for array in (x, dy, dw, scratch):
                PyObject_GetBuffer(array, &b[held], PyBUF_STRIDES | PyBUF_WRITABLE if held > 1 else PyBUF_STRIDES)
                held += 1
            with nogil:
                if self.kind == 0:
                    weight_grad[float](self.tasks, b, <float>self.cval, worker_bytes, workers)
                elif self.kind == 1:
                    weight_grad[double](self.tasks, b, self.cval, worker_bytes, workers)
                else:
                    weight_grad[uint64_t](self.tasks, b, self.whole_cval, worker_bytes, workers)
        finally:
            for i in range(held):
                PyBuffer_Release(&b[i])
