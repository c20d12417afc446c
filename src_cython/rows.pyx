"""The direct method where each output channel sees one input channel: images and depthwise convolutions.

Called by fastconv/algorithms/direct.py, which decides block sizes and makes the tables. Knows no cost, choice or
padding rule. Every output is a sum over taps of one plane; along each axis it reads

    source(i, tap) = step * i + offset(tap)        forward: step = stride, offset = tap*dilation - before
                                                   input gradient: step = 1, one output phase: see direct.py

and an output is worth as many loads as there are rows of it in a tile: a vector of a line of x, once loaded, meets all
taps of its column in ROWS_M rows of outputs (simd/rows_tile.h). The rows of outputs in a tile are `spread` apart, so
that a chunk's taps read lines of x that are equally far apart, whatever stride and dilation.

Where x has columns next to each other and nothing but zeros lies beyond its edge, lines are read as they lie, and a mask
makes zeros of what a vector reads to the left and right of its row; never of what lies outside of x. Otherwise a unit
copies the lines of its block, the whole width of the image where that fits the second cache, so that nothing but the
copying knows of edges and types of x. A line, for each column phase in use:

    line[phase][i] = source column step_w*(pick*q0 + i + first) + phase,   of `pixel` elements each
    output q0 + q reads i = pick*q, and so many more as `columns` says; stride = pick*step_w

At stride 2, where lines are read in place, `pick` is 2: there is one phase, and tiles pick every second element in
registers.

A pixel is one element; or, where channels lie side by side (NHWC), a slice of them with a weight for each, filled up
to whole vectors (`each`); or the channels of a photo, which share their weights: then lines are longer, that is all.

Outputs go straight to y where its rows lie in one piece of the right type, else by way of a stage. The phases of an input
gradient's columns are results of their own, with a list of taps each; two of them a tile computes together and stores
side by side (`zip`), more of them meet when the stage is stored.

    weights          w[channel][tap], gathered for each plane or slice, in the order in which they are summed:
                     [column phase][chunk][column of taps][tap of the chunk], of one lane or, `each`, of all
    dw               dw[piece][channel][tap]

x and y come through the buffer protocol, since their types may differ from that of the sums: `x_kind` and `y_kind`
number them as simd/convert.h does.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from fastconv._kernels.team cimport share, unit_function
from windows cimport first_inside, summand

cdef extern from "rows.h" nogil:
    const int ROWS_BYTES
    const int ROWS_TAPS
    const int ROWS_M
    const int ROWS_PLAIN, ROWS_MASKED, ROWS_PICKED, ROWS_ZIPPED, ROWS_EACH
    ctypedef struct RowsTile:
        ptrdiff_t chunks
        const ptrdiff_t* taps
        const ptrdiff_t* firsts
        const ptrdiff_t* begins
        const ptrdiff_t* columns
        ptrdiff_t x_first
        ptrdiff_t x_step
        ptrdiff_t y_step
    void f32_rows_tile(const RowsTile*, int, ptrdiff_t, const float**, const float*, const float*, const float*, ptrdiff_t,
                       float*, ptrdiff_t)
    void f64_rows_tile(const RowsTile*, int, ptrdiff_t, const double**, const double*, const double*, const double*,
                       ptrdiff_t, double*, ptrdiff_t)
    void u64_rows_tile(const RowsTile*, int, ptrdiff_t, const uint64_t**, const uint64_t*, const uint64_t*,
                       const uint64_t*, ptrdiff_t, uint64_t*, ptrdiff_t)
    void f32_rows_dots(const RowsTile*, bint, const float**, const float*, const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                       ptrdiff_t, float*)
    void f64_rows_dots(const RowsTile*, bint, const double**, const double*, const double*, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                       ptrdiff_t, double*)
    void u64_rows_dots(const RowsTile*, bint, const uint64_t**, const uint64_t*, const uint64_t*, ptrdiff_t, ptrdiff_t,
                       ptrdiff_t, ptrdiff_t, uint64_t*)
    void f32_rows_unzip(const float*, ptrdiff_t, float*, float*)
    void f64_rows_unzip(const double*, ptrdiff_t, double*, double*)
    void u64_rows_unzip(const uint64_t*, ptrdiff_t, uint64_t*, uint64_t*)
    void f32_rows_take(const char*, ptrdiff_t, int, ptrdiff_t, float*)
    void f64_rows_take(const char*, ptrdiff_t, int, ptrdiff_t, double*)
    void u64_rows_take(const char*, ptrdiff_t, int, ptrdiff_t, uint64_t*)
    void f32_rows_give(const float*, ptrdiff_t, int, char*, ptrdiff_t)
    void f64_rows_give(const double*, ptrdiff_t, int, char*, ptrdiff_t)
    void u64_rows_give(const uint64_t*, ptrdiff_t, int, char*, ptrdiff_t)

PASSES = 8
"""Of one call, at the most."""
TAPS, M = ROWS_TAPS, ROWS_M
"""Rows of taps in a chunk, rows of outputs in a tile."""
BYTES = ROWS_BYTES
"""Bytes of one vector."""


cdef struct Axis:
    Py_ssize_t extent  # of the source
    Py_ssize_t before, after  # places beyond the source that may repeat it
    const int64_t* edge  # the source index of each of them, or -1


cdef struct View:
    char* first
    Py_ssize_t strides[4]
    Py_ssize_t item  # bytes of one
    int kind


cdef struct Task:
    Py_ssize_t planes, multiplier  # planes of the result (or slices of channels), filters a channel
    Py_ssize_t channels  # of all slices
    Py_ssize_t pixel, padded  # elements of a pixel, and room for one in the copy
    bint each
    Axis h, w
    Py_ssize_t P, Q, phases  # of the result; column phases of the result
    Py_ssize_t zip, lists  # phases that a tile computes together and stores side by side: 1 or 2; phases / zip
    Py_ssize_t step_h, step_w  # step_w: of the copy
    Py_ssize_t pick  # pixels of a line from one output to the next
    Py_ssize_t spread
    Py_ssize_t first_h, reach_h  # the least row offset, and how far the largest is from it
    Py_ssize_t first_w, reach_w  # the same of columns, in steps
    Py_ssize_t block_p, block_q, plane, source_phases  # a line's phases are `plane` pixels apart
    Py_ssize_t bunch  # planes of a unit
    Py_ssize_t lines, group  # of a block, at the most; room for the pointers of those that are step_h*spread apart
    Py_ssize_t line, stage  # elements from one line to the next, in the copy and in the stage
    Py_ssize_t chunks, taps  # taps: all rows of taps together
    Py_ssize_t row, row_step  # of the result: the first one, and how far the next is
    Py_ssize_t weights, kernel  # room for those of a plane or a slice, or for its sums; weights that a channel has
    bint in_place  # lines are read as they lie in x, where nothing but zeros is beyond the edge
    const char* x_begin
    const char* x_end
    const char* y_end
    const int64_t* residues  # the column phases of the source that are in use
    const int64_t* sizes  # of chunks
    const int64_t* firsts  # the lines of the chunks' first taps, for each of the `spread` first rows of outputs
    const int64_t* begins  # columns[begins[t]:begins[t + 1]] are those of column phase t of the result
    const int64_t* columns
    const int64_t* order  # the place of each tap among the weights as they are given
    int way  # of the tiles
    Py_ssize_t N
    View x, y  # y: the rows of this pass; or dy
    const void* cval
    const void* filters  # or where their gradient goes, in so many pieces
    Py_ssize_t pieces
    const void* bias


cdef struct Passes:
    Py_ssize_t count
    Task tasks[8]


cdef struct Place:  # the block of a unit
    Py_ssize_t n, p0, q0, rows, columns


cdef inline Py_ssize_t inside(const Axis* a, Py_ssize_t i) noexcept nogil:
    """The source index of a place on the axis, or -1 where the constant stands."""
    if 0 <= i < a.extent:
        return i
    if i < -a.before or i >= a.extent + a.after:
        return -1
    return a.edge[a.before + (i if i < 0 else i - a.extent)]


cdef inline void take(const char* x, Py_ssize_t step, int kind, Py_ssize_t n, summand* out) noexcept nogil:
    if summand is float:
        f32_rows_take(x, step, kind, n, out)
    elif summand is double:
        f64_rows_take(x, step, kind, n, out)
    else:
        u64_rows_take(x, step, kind, n, out)


cdef inline void give(const summand* x, Py_ssize_t n, int kind, char* out, Py_ssize_t step) noexcept nogil:
    if summand is float:
        f32_rows_give(x, n, kind, out, step)
    elif summand is double:
        f64_rows_give(x, n, kind, out, step)
    else:
        u64_rows_give(x, n, kind, out, step)


cdef inline void unzip(const summand* x, Py_ssize_t n, summand* even, summand* odd) noexcept nogil:
    if summand is float:
        f32_rows_unzip(x, n, even, odd)
    elif summand is double:
        f64_rows_unzip(x, n, even, odd)
    else:
        u64_rows_unzip(x, n, even, odd)


cdef inline void tile(const RowsTile* shape, int way, Py_ssize_t rows, const summand** lines, const summand* mask,
                      const summand* w, const summand* start, Py_ssize_t run, summand* y, Py_ssize_t y_pitch) noexcept nogil:
    if summand is float:
        f32_rows_tile(shape, way, rows, lines, mask, w, start, run, y, y_pitch)
    elif summand is double:
        f64_rows_tile(shape, way, rows, lines, mask, w, start, run, y, y_pitch)
    else:
        u64_rows_tile(shape, way, rows, lines, mask, w, start, run, y, y_pitch)


cdef inline void dots(const RowsTile* shape, bint picked, const summand** lines, const summand* mask, const summand* dy,
                      Py_ssize_t dy_pitch, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t rest,
                      summand* dot) noexcept nogil:
    if summand is float:
        f32_rows_dots(shape, picked, lines, mask, dy, dy_pitch, rows, vectors, rest, dot)
    elif summand is double:
        f64_rows_dots(shape, picked, lines, mask, dy, dy_pitch, rows, vectors, rest, dot)
    else:
        u64_rows_dots(shape, picked, lines, mask, dy, dy_pitch, rows, vectors, rest, dot)


# --- lines -----------------------------------------------------------------------------------------


cdef void load_pixels(const Task* t, const View* view, const char* row, Py_ssize_t step, Py_ssize_t elements, Py_ssize_t n,
                      summand* out) noexcept nogil:
    """Every step-th pixel of a row, n of them, each of `elements` elements."""
    cdef Py_ssize_t i
    step *= view.strides[3]
    if t.pixel == 1:
        take(row, step, view.kind, n, out)
    elif step == t.padded * view.item and elements == t.padded:
        take(row, view.item, view.kind, n * elements, out)
    else:
        for i in range(n):
            take(row + i * step, view.item, view.kind, elements, out + i * t.padded)


cdef inline void fill(summand* out, Py_ssize_t n, summand value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = value


cdef void load_beyond(const Task* t, const char* row, Py_ssize_t elements, Py_ssize_t first, Py_ssize_t begin,
                      Py_ssize_t end, summand* out) noexcept nogil:
    """Pixels begin..end of a line's phase, one by one: inside the row or beyond it."""
    cdef Py_ssize_t i, w, xw = t.x.strides[3]
    cdef summand cval = (<const summand*>t.cval)[0]
    if t.w.edge == NULL and (first + begin * t.step_w >= t.w.extent or first + (end - 1) * t.step_w < 0):
        fill(out + begin * t.padded, (end - begin) * t.padded, cval)
        return
    for i in range(begin, end):
        w = inside(&t.w, first + i * t.step_w)
        if w < 0:
            fill(out + i * t.padded, t.padded, cval)
        elif t.x.kind == 0 and t.pixel == 1:
            out[i] = (<const summand*>(row + w * xw))[0]
        else:
            take(row + w * xw, t.x.item, t.x.kind, elements, out + i * t.padded)


cdef inline void load_phase(const Task* t, const char* row, Py_ssize_t elements, Py_ssize_t first, Py_ssize_t begin,
                            Py_ssize_t end, Py_ssize_t width, summand* out) noexcept nogil:
    """One phase of a line: pixels `first` and every step_w-th one after it; begin..end are inside the row."""
    if begin > 0:
        load_beyond(t, row, elements, first, 0, begin, out)
    if begin < end:
        load_pixels(t, &t.x, row + (first + begin * t.step_w) * t.x.strides[3], t.step_w, elements, end - begin,
                    out + begin * t.padded)
    if end < width:
        load_beyond(t, row, elements, first, end, width, out)


cdef inline void load_pair(const Task* t, const char* row, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t end,
                           Py_ssize_t width, summand* out) noexcept nogil:
    """Both phases of a line at step 2: begin..end are inside the row for both."""
    cdef summand* odd = out + t.plane
    if begin > 0:
        load_beyond(t, row, 1, first, 0, begin, out)
        load_beyond(t, row, 1, first + 1, 0, begin, odd)
    unzip(<const summand*>row + first + 2 * begin, end - begin, out + begin, odd + begin)
    if end < width:
        load_beyond(t, row, 1, first, end, width, out)
        load_beyond(t, row, 1, first + 1, end, width, odd)


cdef inline Py_ssize_t reach(const Task* t, Py_ssize_t columns) noexcept nogil:
    """Pixels of a line (of each phase) that so many outputs read."""
    return t.pick * (columns - 1) + 1 + t.reach_w


cdef inline Py_ssize_t count_lines(const Task* t, const Place* at) noexcept nogil:
    return t.step_h * (at.rows - 1) + t.reach_h + 1


cdef inline void point(const Task* t, const char* first, Py_ssize_t pitch, Py_ssize_t begin, Py_ssize_t end,
                       const Place* at, const summand* zeros, const summand** lines) noexcept nogil:
    """Where the lines under a block are: those from `begin` to `end` lie `pitch` bytes apart, all others are zeros.
    Those of a tile are neighbours in the table: lines[u % apart][u // apart], and any for rows that it has too many."""
    cdef Py_ssize_t apart = t.step_h * t.spread, count = count_lines(t, at), i, u, group
    cdef const char* line
    for group in range(min(apart, count)):
        u, i = group, 0
        while u < begin:
            lines[i] = zeros
            u, i = u + apart, i + 1
        line = first + u * pitch
        while u < end:
            lines[i] = <const summand*>line
            u, i, line = u + apart, i + 1, line + apart * pitch
        while u < count:
            lines[i] = zeros
            u, i = u + apart, i + 1
        if at.rows < t.spread * ROWS_M:
            for i in range(i, i + ROWS_M):
                lines[i] = zeros
        lines += t.group


cdef void load_block(const Task* t, const char* x, Py_ssize_t elements, const Place* at, const summand** lines,
                     summand* copy) noexcept nogil:
    """The lines under a block of outputs, and where they are: what is inside the image begins at a multiple of 64."""
    cdef Py_ssize_t i, h, first, begin, end, phase, h0 = t.step_h * at.p0 + t.first_h
    cdef Py_ssize_t count = count_lines(t, at), width = reach(t, at.columns), left = t.pick * at.q0 + t.first_w
    cdef bint paired = (t.step_w == 2 and t.source_phases == 2 and t.pixel == 1 and t.x.kind == 0
                        and t.x.strides[3] == t.x.item)
    cdef const char* row
    cdef summand* out
    cdef summand cval = (<const summand*>t.cval)[0]
    copy += -first_inside(t.step_w * left, t.step_w, 0, 16) * t.padded & 15
    point(t, <const char*>copy, t.line * <Py_ssize_t>sizeof(summand), 0, count, at, copy, lines)
    for phase in range(1 if paired else t.source_phases):
        first = t.step_w * left + t.residues[phase]
        begin = first_inside(first, t.step_w, 0, width)
        end = first_inside(first + paired - t.w.extent, t.step_w, begin, width)
        for i in range(count):
            h = inside(&t.h, h0 + i)
            row = x + h * t.x.strides[2]
            out = copy + i * t.line + phase * t.plane * t.padded
            if h < 0:
                fill(out, (1 + paired) * t.plane * t.padded, cval)
            elif paired:
                load_pair(t, row, first, begin, end, width, out)
            else:
                load_phase(t, row, elements, first, begin, end, width, out)


cdef inline bint find_block(const Task* t, const char* x, const Place* at, const summand* zeros,
                            const summand** lines) noexcept nogil:
    """The same lines as they lie in x, with zeros above and below; not if anything beyond x had to be read."""
    cdef Py_ssize_t item = sizeof(summand), lanes = ROWS_BYTES // item, h0 = t.step_h * at.p0 + t.first_h
    cdef Py_ssize_t count = count_lines(t, at), columns = (at.columns + lanes - 1) // lanes * lanes
    cdef Py_ssize_t begin = first_inside(h0, 1, 0, count), end = first_inside(h0 - t.h.extent, 1, begin, count)
    cdef Py_ssize_t pitch = t.x.strides[2]
    cdef const char* row = x + (h0 + begin) * pitch + (t.pick * at.q0 + t.first_w) * item
    cdef const char* last = row + (end - 1 - begin) * pitch
    if begin < end and (min(row, last) < t.x_begin
                        or max(row, last) + (t.pick * columns + t.reach_w) * item > t.x_end):
        return False
    point(t, row - begin * pitch, pitch, begin, end, at, zeros, lines)
    return True


cdef void make_masks(const Task* t, const Place* at, summand* zeros) noexcept nogil:
    """A line of zeros and the mask of what is inside, both as long as what a block's tiles may read. A line in the copy
    is all inside, but where zeros are beyond the edge the mask does no harm."""
    cdef Py_ssize_t item = sizeof(summand), first = t.pick * at.q0 + t.first_w, begin = 0, end = t.line
    if t.in_place:
        begin = first_inside(first, 1, 0, t.line)
        end = first_inside(first - t.w.extent, 1, begin, t.line)
    memset(zeros, 0, 2 * t.line * item)
    memset(zeros + t.line + begin, 255, (end - begin) * item)


cdef inline RowsTile make_shape(const Task* t) noexcept nogil:
    cdef RowsTile shape
    shape.chunks, shape.taps, shape.firsts = t.chunks, <const ptrdiff_t*>t.sizes, <const ptrdiff_t*>t.firsts
    shape.begins, shape.columns = <const ptrdiff_t*>t.begins, <const ptrdiff_t*>t.columns
    shape.x_first, shape.x_step, shape.y_step = 0, t.pick * t.padded, t.padded
    return shape


# --- forward ---------------------------------------------------------------------------------------


cdef inline Py_ssize_t list_columns(const Task* t, Py_ssize_t phase, const Place* at) noexcept nogil:
    """Outputs that one list of taps makes in a row of a block."""
    if t.lists == 1:
        return min(at.columns * t.zip, t.Q - at.q0 * t.zip)
    return min(at.columns, (t.Q - phase + t.phases - 1) // t.phases - at.q0)


cdef inline void store(const Task* t, const summand* stage, Py_ssize_t rows, char* y, Py_ssize_t elements,
                       const Place* at) noexcept nogil:
    """Rows of a tile from the stage [phase][row] to y, `spread` rows apart."""
    cdef Py_ssize_t phase, n, j, step = t.lists * t.y.strides[3], pitch = t.spread * t.y.strides[2], _m
    cdef const summand* line
    cdef char* out
    for phase in range(t.lists):
        n = list_columns(t, phase, at)
        line = stage + phase * ROWS_M * t.stage
        out = y + phase * t.y.strides[3]
        for _m in range(rows):
            if t.pixel == 1:
                give(line, n, t.y.kind, out, step)
            else:
                for j in range(n):
                    give(line + j * t.padded, elements, t.y.kind, out + j * step, t.y.item)
            line += t.stage
            out += pitch


cdef inline void get_weights(const Task* t, const summand* w, Py_ssize_t lanes, summand* packed) noexcept nogil:
    """The weights of a channel, `lanes` apart, in the order in which taps are summed."""
    cdef Py_ssize_t i
    for i in range(t.taps * t.begins[t.phases]):
        packed[i * lanes] = w[t.order[i]]


cdef inline void plane_block(const Task* t, const Place* at, RowsTile* shape, bint apart, Py_ssize_t k,
                             summand* scratch) noexcept nogil:
    """One block of outputs of one plane of one sample."""
    cdef Py_ssize_t item = sizeof(summand), run = at.columns * t.pixel
    cdef const Py_ssize_t* ys = &t.y.strides[0]
    cdef const char* x = t.x.first + at.n * t.x.strides[0] + k // t.multiplier * t.x.strides[1]
    cdef summand* zeros = scratch
    cdef summand* packed = zeros + 2 * t.line
    cdef summand* stage = packed + t.weights
    cdef summand* copy = stage + t.lists * ROWS_M * t.stage
    cdef const summand** lines = <const summand**>(copy + t.lines * t.line + ROWS_BYTES // item)
    cdef const summand* start = <const summand*>t.bias + k if t.bias != NULL else zeros
    cdef char* y = t.y.first + at.n * ys[0] + k * ys[1] + at.p0 * ys[2] + t.phases * at.q0 * ys[3]
    cdef Py_ssize_t r, m, list, rows, left
    cdef char* corner
    if not (t.in_place and find_block(t, x, at, zeros, lines)):
        load_block(t, x, t.pixel, at, lines, copy)
    get_weights(t, <const summand*>t.filters + k * t.kernel, 1, packed)
    for r in range(min(t.spread, at.rows)):
        shape.firsts = <const ptrdiff_t*>t.firsts + r * t.chunks
        left = at.rows if t.spread == 1 else (at.rows - r + t.spread - 1) // t.spread
        m = 0
        while m < left:
            rows = ROWS_M if left >= ROWS_M and left - m > ROWS_M // 2 else ROWS_M // 2
            m = max(min(m, left - rows), 0)
            corner = y + (r + t.spread * m) * ys[2]
            shape.begins = <const ptrdiff_t*>t.begins
            if apart or left < rows:
                for list in range(t.lists):
                    tile(shape, t.way, rows, lines + m, zeros + t.line, packed + t.taps * shape.begins[0], start, run,
                         stage + list * ROWS_M * t.stage, t.stage)
                    shape.begins += 1
                store(t, stage, min(rows, left), corner, t.pixel, at)
            else:
                tile(shape, t.way, rows, lines + m, zeros + t.line, packed, start, run, <summand*>corner,
                     t.spread * ys[2] // item)
            m += rows


cdef void slice_block(const Task* t, const Place* at, RowsTile* shape, Py_ssize_t k, summand* scratch) noexcept nogil:
    """One block of outputs of one slice of channels of one sample: every lane is a channel."""
    cdef Py_ssize_t item = sizeof(summand), lanes = ROWS_BYTES // item, channel = k * t.pixel
    cdef Py_ssize_t elements = min(t.pixel, t.channels - channel), count = t.taps * t.begins[t.phases]
    cdef const Py_ssize_t* xs = &t.x.strides[0]
    cdef const Py_ssize_t* ys = &t.y.strides[0]
    cdef const summand* w = <const summand*>t.filters + channel * t.kernel
    cdef const summand* bias = <const summand*>t.bias
    cdef summand* zeros = scratch
    cdef summand* packed = zeros + 2 * t.line
    cdef summand* stage = packed + t.weights
    cdef summand* copy = stage + t.lists * ROWS_M * t.stage
    cdef const summand** lines = <const summand**>(copy + t.lines * t.line + lanes)
    cdef bint staged, apart = t.y.kind != 0 or elements < t.padded or ys[1] != t.y.item
    cdef Py_ssize_t r, m, i, v, list, rows, left
    cdef summand start[8]
    cdef char* corner
    cdef summand* out
    cdef char* y = t.y.first + at.n * ys[0] + channel * ys[1] + at.p0 * ys[2] + t.phases * at.q0 * ys[3]
    load_block(t, t.x.first + at.n * xs[0] + channel * xs[1], elements, at, lines, copy)
    for i in range(elements):
        get_weights(t, w + i * t.kernel, lanes, packed + i // lanes * count * lanes + i % lanes)
    for r in range(min(t.spread, at.rows)):
        shape.firsts = <const ptrdiff_t*>t.firsts + r * t.chunks
        left = (at.rows - r + t.spread - 1) // t.spread
        m = 0
        while m < left:
            rows = ROWS_M if left >= ROWS_M and left - m > ROWS_M // 2 else ROWS_M // 2
            m = max(min(m, left - rows), 0)
            corner = y + (r + t.spread * m) * ys[2]
            staged = apart or left < rows
            shape.y_step = t.padded if staged else t.phases * ys[3] // item
            for v in range(t.padded // lanes):
                shape.x_first, shape.begins = v * lanes, <const ptrdiff_t*>t.begins
                for i in range(lanes):
                    start[i] = bias[channel + v * lanes + i] if bias != NULL and v * lanes + i < elements else 0
                for list in range(t.lists):
                    out = stage + list * ROWS_M * t.stage if staged else <summand*>(corner + list * ys[3])
                    tile(shape, ROWS_EACH, rows, lines + m, zeros, packed + (v * count + t.taps * shape.begins[0]) * lanes,
                         <const summand*>start, list_columns(t, list, at), out + v * lanes,
                         t.stage if staged else t.spread * ys[2] // item)
                    shape.begins += 1
            if staged:
                store(t, stage, min(rows, left), corner, elements, at)
            m += rows


cdef void forward_unit(const Task* t, Py_ssize_t unit, summand* scratch) noexcept nogil:
    """The same block of a few planes of one sample."""
    cdef Py_ssize_t columns_all = (t.Q + t.phases - 1) // t.phases
    cdef Py_ssize_t q_blocks = (columns_all + t.block_q - 1) // t.block_q, p_blocks = (t.P + t.block_p - 1) // t.block_p
    cdef Py_ssize_t bunches = (t.planes + t.bunch - 1) // t.bunch
    cdef Py_ssize_t rest = unit // q_blocks, k, first
    cdef Place at
    cdef RowsTile shape = make_shape(t)
    cdef bint apart
    at.q0, at.p0 = unit % q_blocks * t.block_q, rest % p_blocks * t.block_p
    first, at.n = rest // p_blocks % bunches * t.bunch, rest // p_blocks // bunches
    at.rows, at.columns = min(t.block_p, t.P - at.p0), min(t.block_q, columns_all - at.q0)
    make_masks(t, &at, scratch)
    apart = (t.y.kind != 0 or t.lists > 1 or t.y.strides[3] != t.pixel * t.y.item or t.zip * (at.q0 + at.columns) > t.Q
             or at.columns * t.pixel < ROWS_BYTES // <Py_ssize_t>sizeof(summand))
    for k in range(first, min(first + t.bunch, t.planes)):
        if t.each:
            slice_block(t, &at, &shape, k, scratch)
        else:
            plane_block(t, &at, &shape, apart, k, scratch)


cdef inline Py_ssize_t units(const Task* t) noexcept nogil:
    return (t.N * ((t.planes + t.bunch - 1) // t.bunch) * ((t.P + t.block_p - 1) // t.block_p)
            * (((t.Q + t.phases - 1) // t.phases + t.block_q - 1) // t.block_q))


cdef void passes_unit(const Passes* passes, Py_ssize_t unit, summand* scratch) noexcept nogil:
    """One unit of every pass: phases of rows, while what they read and write is in the cache."""
    cdef Py_ssize_t i
    for i in range(passes.count):
        if unit < units(&passes.tasks[i]):
            forward_unit(&passes.tasks[i], unit, scratch)


# --- weight gradient -------------------------------------------------------------------------------


cdef void plane_dots(const Task* t, const Place* at, Py_ssize_t k, summand* dot, summand* scratch) noexcept nogil:
    """Adds what one block of one plane, or one slice of channels, gives to dot[vector][tap][lane]."""
    cdef Py_ssize_t lanes = ROWS_BYTES // <Py_ssize_t>sizeof(summand), item = sizeof(summand)
    cdef Py_ssize_t channel = k * t.pixel if t.each else k
    cdef Py_ssize_t elements = min(t.pixel, t.channels - channel) if t.each else t.pixel
    cdef Py_ssize_t run = at.columns * t.pixel, steps = at.columns if t.each else (run + lanes - 1) // lanes
    cdef Py_ssize_t rest = lanes if t.each else run - (steps - 1) * lanes, pitch = t.stage
    cdef const Py_ssize_t* xs = &t.x.strides[0]
    cdef const Py_ssize_t* ys = &t.y.strides[0]
    cdef const char* x = t.x.first + at.n * xs[0] + (channel if t.each else k // t.multiplier) * xs[1]
    cdef const char* dy = t.y.first + at.n * ys[0] + channel * ys[1] + at.p0 * ys[2] + at.q0 * ys[3]
    cdef summand* zeros = scratch
    cdef summand* copy = zeros + 2 * t.line
    cdef summand* dy_copy = copy + t.lines * t.line + lanes
    cdef const summand** block = <const summand**>(dy_copy + t.block_p * t.stage)
    cdef const summand* rows = dy_copy
    cdef RowsTile shape = make_shape(t)
    cdef Py_ssize_t i, r, v
    if not (t.in_place and find_block(t, x, at, zeros, block)):
        load_block(t, x, elements, at, block, copy)
    if not t.each:
        shape.x_step, shape.y_step = t.pick * lanes, lanes
    if (elements == t.padded and ys[1] == item if t.each else
            t.pixel == 1 and ys[3] == item and dy + max((at.rows - 1) * ys[2], 0) + steps * lanes * item <= t.y_end):
        rows, pitch = <const summand*>dy, ys[2] // item
        if t.each:
            shape.y_step = ys[3] // item
    else:
        for i in range(at.rows):
            load_pixels(t, &t.y, dy + i * ys[2], 1, elements, at.columns, dy_copy + i * t.stage)
    for r in range(min(t.spread, at.rows)):
        shape.firsts = <const ptrdiff_t*>t.firsts + r * t.chunks
        for v in range(t.padded // lanes if t.each else 1):
            shape.x_first = v * lanes
            dots(&shape, not t.each and t.pick > 1, block, zeros + t.line if t.in_place else NULL,
                 rows + r * pitch + v * lanes, t.spread * pitch, (at.rows - r + t.spread - 1) // t.spread, steps, rest,
                 dot + v * t.taps * t.begins[1] * lanes)


cdef void weight_unit(const Task* t, Py_ssize_t unit, summand* scratch) noexcept nogil:
    """dw of a few planes, or slices of channels, summed over the blocks of one piece."""
    cdef Py_ssize_t lanes = ROWS_BYTES // <Py_ssize_t>sizeof(summand)
    cdef Py_ssize_t q_blocks = (t.Q + t.block_q - 1) // t.block_q, p_blocks = (t.P + t.block_p - 1) // t.block_p
    cdef Py_ssize_t bunches = (t.planes + t.bunch - 1) // t.bunch
    cdef Py_ssize_t first = unit % bunches * t.bunch, piece = unit // bunches, blocks = t.N * p_blocks * q_blocks
    cdef Py_ssize_t count = t.taps * t.begins[1], vectors = t.padded // lanes if t.each else 1
    cdef Py_ssize_t k, b, i, j, v, channel
    cdef summand* dot = scratch
    cdef summand* out
    cdef summand total
    cdef Place at
    scratch += t.weights
    at.columns = -1
    for k in range(first, min(first + t.bunch, t.planes)):
        memset(dot, 0, vectors * count * lanes * sizeof(summand))
        for b in range(blocks * piece // t.pieces, blocks * (piece + 1) // t.pieces):
            i = b % q_blocks * t.block_q
            if at.columns < 0 or at.q0 != i:
                at.q0, at.columns = i, min(t.block_q, t.Q - i)
                make_masks(t, &at, scratch)
            at.n, at.p0 = b // q_blocks // p_blocks, b // q_blocks % p_blocks * t.block_p
            at.rows = min(t.block_p, t.P - at.p0)
            plane_dots(t, &at, k, dot, scratch)
        channel = k * t.pixel if t.each else k
        out = <summand*>t.filters + (piece * t.channels + channel) * count
        if t.each:  # lanes are channels
            for v in range(vectors):
                for i in range(min(lanes, t.channels - channel - v * lanes)):
                    for j in range(count):
                        out[(v * lanes + i) * count + t.order[j]] = dot[(v * count + j) * lanes + i]
        else:  # lanes are one sum
            for j in range(count):
                total = 0
                for i in range(lanes):
                    total += dot[j * lanes + i]
                out[t.order[j]] = total


# --- what Python calls -----------------------------------------------------------------------------


cdef View view_of(const void* first, const Py_ssize_t* strides, Py_ssize_t item, int kind) noexcept:
    cdef View view
    view.first, view.item, view.kind = <char*>first, item, kind
    memcpy(view.strides, strides, sizeof(view.strides))
    return view


cdef Task make_task(tuple numbers, const int64_t[::1] tables, const int64_t[::1] rows, const int64_t[::1] columns,
                    Py_ssize_t before_h, Py_ssize_t before_w, const Py_buffer* x, int x_kind, bint zero) except *:
    """`numbers` in the order of Task; rows and columns: `edge`s; tables: residues, sizes, firsts, begins, columns,
    order; zero: cval is."""
    cdef Task t
    cdef const int64_t* table = &tables[0]
    (t.planes, t.multiplier, t.channels, t.pixel, t.padded, t.each, t.h.extent, t.w.extent, t.P, t.Q, t.phases, t.zip,
     t.step_h, t.step_w, t.pick, t.spread, t.first_h, t.reach_h, t.first_w, t.reach_w, t.block_p, t.block_q, t.plane,
     t.source_phases, t.bunch, t.lines, t.group, t.line, t.stage, t.chunks,
     t.taps, t.weights, t.kernel, t.row, t.row_step) = numbers
    t.h.before, t.h.after, t.h.edge = before_h, rows.shape[0] - before_h, &rows[0] if rows.shape[0] else NULL
    t.w.before, t.w.after, t.w.edge = before_w, columns.shape[0] - before_w, &columns[0] if columns.shape[0] else NULL
    t.residues, t.sizes = table, table + t.source_phases
    t.firsts, t.begins = t.sizes + t.chunks, t.sizes + (1 + t.spread) * t.chunks
    t.columns = t.begins + t.phases + 1
    t.order = t.columns + t.begins[t.phases]
    t.lists = t.phases // t.zip
    t.N, t.x = x.shape[0], view_of(x.buf, x.strides, x.itemsize, x_kind)
    t.in_place = zero and lies_well(&t)
    t.way = (ROWS_EACH if t.each else ROWS_ZIPPED if t.zip > 1 else ROWS_PICKED if t.pick > 1
             else ROWS_MASKED if t.in_place else ROWS_PLAIN)
    t.x_begin = bound(<const char*>x.buf, x.shape, x.strides, x.itemsize, True)
    t.x_end = bound(<const char*>x.buf, x.shape, x.strides, x.itemsize, False)
    return t


cdef bint lies_well(const Task* t) noexcept nogil:
    """May lines be read in place? If all that lies beyond the edge is zeros, columns are next to each other, and the
    lines of a tile don't crowd into the same sets of the first cache (8 ways of 4 KiB)."""
    cdef Py_ssize_t pitch = t.x.strides[2] if t.x.strides[2] > 0 else -t.x.strides[2], sets = 4096
    if t.h.edge != NULL or t.w.edge != NULL or t.each or t.pixel > 1 or t.x.kind != 0 or t.step_w != 1:
        return False
    while pitch % sets:
        sets //= 2
    return t.x.strides[3] == t.x.item and (2 * ROWS_M + t.reach_h) * sets <= 8 * 4096


cdef const char* bound(const char* buf, const Py_ssize_t* shape, const Py_ssize_t* strides, Py_ssize_t item,
                       bint lower) noexcept nogil:
    """Where the elements of an array of four axes begin, or end."""
    cdef Py_ssize_t i, reach
    for i in range(4):
        reach = (shape[i] - 1) * strides[i]
        buf += min(reach, 0) if lower else max(reach, 0)
    return buf if lower else buf + item


cdef void forward(x, int x_kind, const summand[:, ::1] w, const summand[::1] bias, y, int y_kind, summand cval, list passes,
                  const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                  uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers) except *:
    """y (N, planes, P, Q) of x (N, channels, H, W), any strides; up to PASSES passes, (numbers, tables) each."""
    cdef Passes p
    cdef Task* t
    cdef Py_buffer a, b
    cdef Py_ssize_t count = 0
    p.count = 0
    PyObject_GetBuffer(x, &a, PyBUF_STRIDES)
    try:
        PyObject_GetBuffer(y, &b, PyBUF_STRIDES | PyBUF_WRITABLE)
        try:
            for numbers, tables in passes:
                t = &p.tasks[p.count]
                t[0] = make_task(numbers, tables, rows, columns, before_h, before_w, &a, x_kind, cval == 0)
                t.y = view_of(<char*>b.buf + t.row * b.strides[2], b.strides, b.itemsize, y_kind)
                t.y.strides[2] *= t.row_step
                t.filters, t.bias, t.cval = &w[0, 0], &bias[0] if bias.shape[0] else NULL, &cval
                p.count, count = p.count + 1, max(count, units(t))
            with nogil:
                share(<unit_function>passes_unit[summand], &p, count, <char*>&scratch[0], worker_bytes, workers)
        finally:
            PyBuffer_Release(&b)
    finally:
        PyBuffer_Release(&a)


cdef void weight_grad(x, int x_kind, const summand[:, :, :, :] dy, summand[:, :, ::1] dw, summand cval, tuple numbers,
                      const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                      const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers) except *:
    """dw (pieces, channels, taps), to be added up by the caller."""
    cdef Task t
    cdef Py_buffer a
    cdef const char* first = <const char*>&dy[0, 0, 0, 0]
    PyObject_GetBuffer(x, &a, PyBUF_STRIDES)
    try:
        t = make_task(numbers, tables, rows, columns, before_h, before_w, &a, x_kind, cval == 0)
        t.y, t.y_end = view_of(first, dy.strides, sizeof(summand), 0), bound(first, dy.shape, dy.strides, sizeof(summand), False)
        t.filters, t.pieces, t.cval = &dw[0, 0, 0], dw.shape[0], &cval
        with nogil:
            share(<unit_function>weight_unit[summand], &t, t.pieces * ((t.planes + t.bunch - 1) // t.bunch),
                  <char*>&scratch[0], worker_bytes, workers)
    finally:
        PyBuffer_Release(&a)


def f32_forward(x, int x_kind, const float[:, ::1] w, const float[::1] bias, y, int y_kind, float cval, list passes,
                const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    forward[float](x, x_kind, w, bias, y, y_kind, cval, passes, rows, columns, before_h, before_w, scratch, worker_bytes, workers)


def f32_weight_grad(x, int x_kind, const float[:, :, :, :] dy, float[:, :, ::1] dw, float cval, tuple numbers,
                    const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                    const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    weight_grad[float](x, x_kind, dy, dw, cval, numbers, rows, columns, before_h, before_w, tables, scratch, worker_bytes,
                      workers)


def f64_forward(x, int x_kind, const double[:, ::1] w, const double[::1] bias, y, int y_kind, double cval, list passes,
                const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    forward[double](x, x_kind, w, bias, y, y_kind, cval, passes, rows, columns, before_h, before_w, scratch, worker_bytes, workers)


def f64_weight_grad(x, int x_kind, const double[:, :, :, :] dy, double[:, :, ::1] dw, double cval, tuple numbers,
                    const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                    const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    weight_grad[double](x, x_kind, dy, dw, cval, numbers, rows, columns, before_h, before_w, tables, scratch, worker_bytes,
                      workers)


def u64_forward(x, int x_kind, const uint64_t[:, ::1] w, const uint64_t[::1] bias, y, int y_kind, uint64_t cval, list passes,
                const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    forward[uint64_t](x, x_kind, w, bias, y, y_kind, cval, passes, rows, columns, before_h, before_w, scratch, worker_bytes, workers)


def u64_weight_grad(x, int x_kind, const uint64_t[:, :, :, :] dy, uint64_t[:, :, ::1] dw, uint64_t cval, tuple numbers,
                    const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                    const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    weight_grad[uint64_t](x, x_kind, dy, dw, cval, numbers, rows, columns, before_h, before_w, tables, scratch, worker_bytes,
                      workers)
