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
copying knows of edges, strides and types of x. A line in the copy, for each column phase in use:

    line[phase][i] = source column step*(q0 + i + first) + phase,   of `pixel` elements each

A pixel is one element; or, where channels lie side by side (NHWC), a slice of them with a weight for each, filled up
to whole vectors (`each`); or the channels of a photo, which share their weights: then lines are longer, that is all.

Outputs go straight to y where its rows lie in one piece of the right type, else by way of a stage: there the phases
of an input gradient's columns meet before they are stored, side by side.

    packed weights   w[plane or slice][vector of the slice][column phase][chunk][column of taps][tap of the chunk]
    dw               dw[piece][channel][chunk][columns of taps, DOTS_S at a time][column][tap of the chunk]

x and y come through the buffer protocol, since their types may differ from that of the sums: `x_kind` and `y_kind`
number them as simd/convert.h does.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.parallel cimport prange, threadid
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset

from windows cimport first_inside, summand

cdef extern from "rows.h" nogil:
    const int ROWS_BYTES
    const int ROWS_TAPS
    const int ROWS_M
    const int ROWS_LINES
    const int DOTS_M
    const int DOTS_S
    ctypedef struct RowsTile:
        ptrdiff_t chunks
        const ptrdiff_t* taps
        ptrdiff_t ncolumns
        const ptrdiff_t* columns
        ptrdiff_t x_step
        ptrdiff_t y_step
    void f32_rows_tile(const RowsTile*, int, ptrdiff_t, const float**, const float*, const float*, const float*, ptrdiff_t,
                       ptrdiff_t, float**)
    void f64_rows_tile(const RowsTile*, int, ptrdiff_t, const double**, const double*, const double*, const double*,
                       ptrdiff_t, ptrdiff_t, double**)
    void u64_rows_tile(const RowsTile*, int, ptrdiff_t, const uint64_t**, const uint64_t*, const uint64_t*,
                       const uint64_t*, ptrdiff_t, ptrdiff_t, uint64_t**)
    void f32_rows_dots(const RowsTile*, const float**, const float*, const float**, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                       ptrdiff_t, float*)
    void f64_rows_dots(const RowsTile*, const double**, const double*, const double**, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                       ptrdiff_t, double*)
    void u64_rows_dots(const RowsTile*, const uint64_t**, const uint64_t*, const uint64_t**, ptrdiff_t, ptrdiff_t,
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
    void f32_rows_zip(const float*, const float*, ptrdiff_t, float*)
    void f64_rows_zip(const double*, const double*, ptrdiff_t, double*)
    void u64_rows_zip(const uint64_t*, const uint64_t*, ptrdiff_t, uint64_t*)

TAPS, M, LINES = ROWS_TAPS, ROWS_M, ROWS_LINES
"""Rows of taps in a chunk, rows of outputs in a tile, lines of x that they read."""
DOT_ROWS, DOT_COLUMNS = DOTS_M, DOTS_S
"""Rows of dy and columns of taps of one weight-gradient tile."""
BYTES = ROWS_BYTES
"""Bytes of one vector."""


cdef struct Axis:
    Py_ssize_t extent  # of the source
    Py_ssize_t before, after  # places beyond the source that may repeat it
    const int64_t* edge  # the source index of each of them, or -1


cdef struct Task:
    Py_ssize_t planes, multiplier  # planes of the result (or slices of channels), filters a channel
    Py_ssize_t channels  # of all slices
    Py_ssize_t pixel, padded  # elements of a pixel, and room for one in the copy
    bint each
    Axis h, w
    Py_ssize_t P, Q, phases  # of the result; column phases of the result
    Py_ssize_t step_h, step_w, spread
    Py_ssize_t first_h, reach_h  # the least row offset, and how far the largest is from it
    Py_ssize_t first_w, reach_w  # in steps
    Py_ssize_t block_p, block_q, plane, source_phases  # a line's phases are `plane` pixels apart
    Py_ssize_t bunch  # planes of a unit
    Py_ssize_t lines  # of a block, at the most
    Py_ssize_t line, stage  # elements from one line to the next, in the copy and in the stage
    Py_ssize_t chunks, taps  # taps: all rows of taps together
    bint in_place  # lines are read as they lie in x, where nothing but zeros is beyond the edge
    const char* x_begin
    const char* x_end
    const char* y_end
    const int64_t* residues  # the column phases of the source that are in use
    const int64_t* sizes  # of chunks
    const int64_t* bases  # row offsets of the chunks' first taps
    const int64_t* begins  # columns[begins[t]:begins[t + 1]] are those of column phase t of the result
    const int64_t* columns


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


cdef inline void tile(const RowsTile* shape, bint each, Py_ssize_t rows, const summand** x, const summand* mask,
                      const summand* w, const summand* start, Py_ssize_t at, Py_ssize_t vectors, summand** y) noexcept nogil:
    if summand is float:
        f32_rows_tile(shape, each, rows, x, mask, w, start, at, vectors, y)
    elif summand is double:
        f64_rows_tile(shape, each, rows, x, mask, w, start, at, vectors, y)
    else:
        u64_rows_tile(shape, each, rows, x, mask, w, start, at, vectors, y)


cdef inline void dots(const RowsTile* shape, const summand** x, const summand* mask, const summand** dy, Py_ssize_t rows,
                      Py_ssize_t at, Py_ssize_t vectors, Py_ssize_t rest, summand* dot) noexcept nogil:
    if summand is float:
        f32_rows_dots(shape, x, mask, dy, rows, at, vectors, rest, dot)
    elif summand is double:
        f64_rows_dots(shape, x, mask, dy, rows, at, vectors, rest, dot)
    else:
        u64_rows_dots(shape, x, mask, dy, rows, at, vectors, rest, dot)


# --- lines -----------------------------------------------------------------------------------------


cdef void load_pixels(const char* x, Py_ssize_t xw, Py_ssize_t item, int kind, const Task* t, Py_ssize_t elements,
                      Py_ssize_t n, summand* out) noexcept nogil:
    """n pixels of a row, xw bytes apart, each of `elements` elements."""
    cdef Py_ssize_t i
    if t.pixel == 1:
        take(x, xw, kind, n, out)
    elif xw == t.padded * item and elements == t.padded:
        take(x, item, kind, n * elements, out)
    else:
        for i in range(n):
            take(x + i * xw, item, kind, elements, out + i * t.padded)


cdef inline void fill(summand* out, Py_ssize_t n, summand value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = value


cdef void load_beyond(const char* row, Py_ssize_t xw, Py_ssize_t item, int kind, const Task* t, summand cval,
                      Py_ssize_t elements, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t end, summand* out) noexcept nogil:
    """Pixels begin..end of a line's phase, one by one: inside the row or beyond it."""
    cdef Py_ssize_t i, w
    if t.w.edge == NULL and (first + begin * t.step_w >= t.w.extent or first + (end - 1) * t.step_w < 0):
        fill(out + begin * t.padded, (end - begin) * t.padded, cval)
        return
    for i in range(begin, end):
        w = inside(&t.w, first + i * t.step_w)
        if w < 0:
            fill(out + i * t.padded, t.padded, cval)
        elif kind == 0 and t.pixel == 1:
            out[i] = (<const summand*>(row + w * xw))[0]
        else:
            take(row + w * xw, item, kind, elements, out + i * t.padded)


cdef inline void load_phase(const char* row, Py_ssize_t xw, Py_ssize_t item, int kind, const Task* t, summand cval,
                     Py_ssize_t elements, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t width,
                     summand* out) noexcept nogil:
    """One phase of a line: pixels `first` and every step_w-th one after it; begin..end are inside the row."""
    if begin > 0:
        load_beyond(row, xw, item, kind, t, cval, elements, first, 0, begin, out)
    if begin < end:
        load_pixels(row + (first + begin * t.step_w) * xw, t.step_w * xw, item, kind, t, elements, end - begin,
                    out + begin * t.padded)
    if end < width:
        load_beyond(row, xw, item, kind, t, cval, elements, first, end, width, out)


cdef inline void load_pair(const char* row, Py_ssize_t item, const Task* t, summand cval, Py_ssize_t first, Py_ssize_t begin,
                    Py_ssize_t end, Py_ssize_t width, summand* out) noexcept nogil:
    """Both phases of a line at step 2: begin..end are inside the row for both."""
    cdef summand* odd = out + t.plane
    if begin > 0:
        load_beyond(row, item, item, 0, t, cval, 1, first, 0, begin, out)
        load_beyond(row, item, item, 0, t, cval, 1, first + 1, 0, begin, odd)
    unzip(<const summand*>(row + (first + 2 * begin) * item), end - begin, out + begin, odd + begin)
    if end < width:
        load_beyond(row, item, item, 0, t, cval, 1, first, end, width, out)
        load_beyond(row, item, item, 0, t, cval, 1, first + 1, end, width, odd)


cdef void load_block(const char* x, const Py_ssize_t* xs, Py_ssize_t item, int kind, const Task* t, summand cval,
                     Py_ssize_t elements, const Place* at, const summand** lines, summand* copy) noexcept nogil:
    """The lines under a block of outputs, and where they are: what is inside the image begins at a multiple of 64."""
    cdef Py_ssize_t i, h, first, begin, end, phase, h0 = t.step_h * at.p0 + t.first_h
    cdef Py_ssize_t count = t.step_h * (at.rows - 1) + t.reach_h + 1, width = at.columns + t.reach_w
    cdef bint paired = t.step_w == 2 and t.source_phases == 2 and t.pixel == 1 and kind == 0 and xs[3] == item
    copy += -first_inside(t.step_w * (at.q0 + t.first_w), t.step_w, 0, 16) * t.padded & 15
    for i in range(count):
        lines[i] = copy + i * t.line
    for phase in range(1 if paired else t.source_phases):
        first = t.step_w * (at.q0 + t.first_w) + t.residues[phase]
        begin = first_inside(first, t.step_w, 0, width)
        end = first_inside(first + paired - t.w.extent, t.step_w, begin, width)
        for i in range(count):
            h = inside(&t.h, h0 + i)
            if h < 0:
                fill(copy + i * t.line + phase * t.plane * t.padded, (1 + paired) * t.plane * t.padded, cval)
            elif paired:
                load_pair(x + h * xs[2], item, t, cval, first, begin, end, width, copy + i * t.line)
            else:
                load_phase(x + h * xs[2], xs[3], item, kind, t, cval, elements, first, begin, end, width,
                           copy + i * t.line + phase * t.plane * t.padded)


cdef void make_mask(const Task* t, const Place* at, summand* zeros) noexcept nogil:
    """A line of zeros and the mask of what is inside, both as long as what a block's tiles may read."""
    cdef Py_ssize_t item = sizeof(summand), first = at.q0 + t.first_w
    cdef Py_ssize_t begin = first_inside(first, 1, 0, t.line), end = first_inside(first - t.w.extent, 1, begin, t.line)
    memset(zeros, 0, 2 * t.line * item)
    memset(zeros + t.line + begin, 255, (end - begin) * item)


cdef bint find_block(const char* x, const Py_ssize_t* xs, const Task* t, const Place* at, const summand* zeros,
                     const summand** lines) noexcept nogil:
    """The same lines as they lie in x, with zeros above and below; not if anything beyond x had to be read."""
    cdef Py_ssize_t i, item = sizeof(summand), h0 = t.step_h * at.p0 + t.first_h
    cdef Py_ssize_t count = t.step_h * (at.rows - 1) + t.reach_h + 1
    cdef Py_ssize_t begin = first_inside(h0, 1, 0, count), end = first_inside(h0 - t.h.extent, 1, begin, count)
    cdef const char* row = x + (h0 + begin) * xs[2] + (at.q0 + t.first_w) * item
    cdef const char* last = row + (end - 1 - begin) * xs[2]
    if begin < end and (min(row, last) < t.x_begin
                        or max(row, last) + (at.columns + t.reach_w + ROWS_BYTES // item) * item > t.x_end):
        return False
    for i in range(begin):
        lines[i] = zeros
    for i in range(begin, end):
        lines[i] = <const summand*>row
        row += xs[2]
    for i in range(end, count):
        lines[i] = zeros
    return True


cdef inline void point(const Task* t, const summand** all_lines, Py_ssize_t r, Py_ssize_t rows, Py_ssize_t m,
                       Py_ssize_t chunk, const summand** lines) noexcept nogil:
    """The lines that a chunk reads for outputs r + spread*m, r + spread*(m + 1), ...; any one beyond the last of them."""
    cdef Py_ssize_t i, step = t.step_h * t.spread, u = t.step_h * r + t.bases[chunk] - t.first_h
    cdef Py_ssize_t last = t.step_h * (rows - 1) + t.reach_h
    for i in range(m + t.sizes[chunk] - 1):
        lines[i] = all_lines[min(u, last)]
        u += step


# --- forward ---------------------------------------------------------------------------------------


cdef void store(const Task* t, const summand* stage, Py_ssize_t rows, char* y, const Py_ssize_t* ys, Py_ssize_t item,
                int kind, Py_ssize_t elements, Py_ssize_t q0, Py_ssize_t columns) noexcept nogil:
    """Rows of a tile from the stage [phase][row] to y, ys[2] bytes apart times `spread`."""
    cdef Py_ssize_t m, phase, n, j
    cdef const summand* line
    cdef char* out
    for m in range(rows):
        out = y + m * t.spread * ys[2] + q0 * t.phases * ys[3]
        if (t.phases == 2 and t.pixel == 1 and kind == 0 and ys[3] == item and t.Q >= (q0 + columns) * 2):
            line = stage + m * t.stage
            if summand is float:
                f32_rows_zip(line, line + ROWS_M * t.stage, columns, <float*>out)
            elif summand is double:
                f64_rows_zip(line, line + ROWS_M * t.stage, columns, <double*>out)
            else:
                u64_rows_zip(line, line + ROWS_M * t.stage, columns, <uint64_t*>out)
            continue
        for phase in range(t.phases):
            line = stage + (phase * ROWS_M + m) * t.stage
            n = min(columns, (t.Q - phase + t.phases - 1) // t.phases - q0)
            if t.pixel == 1:
                give(line, n, kind, out + phase * ys[3], t.phases * ys[3])
            else:
                for j in range(n):
                    give(line + j * t.padded, elements, kind, out + (phase + j * t.phases) * ys[3], item)


cdef void plane_block(const Task* t, const Place* at, Py_ssize_t k, const char* x, const Py_ssize_t* xs, Py_ssize_t x_item,
                      int x_kind, summand cval, const summand* w, const summand* bias, char* y, const Py_ssize_t* ys,
                      Py_ssize_t y_item, int y_kind, bint masked, char* scratch) noexcept nogil:
    """One block of outputs of one plane, or one slice of channels, of one sample."""
    cdef Py_ssize_t lanes = ROWS_BYTES // <Py_ssize_t>sizeof(summand)
    cdef Py_ssize_t channel = k * t.pixel if t.each else k
    cdef Py_ssize_t elements = min(t.pixel, t.channels - channel) if t.each else t.pixel
    cdef Py_ssize_t run = at.columns * t.pixel  # of a line, where weights are shared
    cdef Py_ssize_t vectors = t.padded // lanes if t.each else 1
    cdef Py_ssize_t weights = t.taps * (lanes if t.each else 1)  # of a column of taps
    cdef bint staged, apart = (t.phases > 1 or y_kind != 0 or ys[3] != t.pixel * y_item and not t.each
                               or (elements < t.padded if t.each else run < lanes))
    cdef summand* zeros = <summand*>scratch
    cdef summand* copy = zeros + 2 * t.line
    cdef summand* stage = copy + t.lines * t.line + lanes
    cdef summand* spare = stage + t.phases * ROWS_M * t.stage
    cdef const summand** block = <const summand**>(spare + t.stage)
    cdef const summand** lines = block + t.lines
    cdef const summand* mask = NULL
    cdef summand start[8]
    cdef summand* out[16]
    cdef RowsTile shape
    cdef Py_ssize_t r, m, i, phase, chunk, left, size, v
    cdef const summand* packed
    cdef char* corner
    x += at.n * xs[0] + (channel if t.each else (k if t.multiplier == 1 else k // t.multiplier)) * xs[1]
    if masked and find_block(x, xs, t, at, zeros, block):
        mask = zeros + t.line
    else:
        load_block(x, xs, x_item, x_kind, t, cval, elements, at, block, copy)
    y += at.n * ys[0] + channel * ys[1] + at.p0 * ys[2]
    w += k * t.begins[t.phases] * weights * vectors
    shape.chunks, shape.taps = t.chunks, <const ptrdiff_t*>t.sizes
    shape.x_step = t.padded if t.each else lanes
    for i in range(lanes):
        start[i] = bias[k] if bias != NULL and not t.each else 0
    for r in range(min(t.spread, at.rows)):
        left = at.rows if t.spread == 1 else (at.rows - r + t.spread - 1) // t.spread
        m = 0
        while m < left:
            size = min(left - m, ROWS_M)
            staged = apart or t.each and size != ROWS_M and size != ROWS_M // 2  # `spare` has no room for a row of y
            shape.y_step = shape.x_step if staged or not t.each else ys[3] // y_item
            for chunk in range(t.chunks):
                point(t, block, r + t.spread * m, at.rows, ROWS_M if size > ROWS_M // 2 else ROWS_M // 2, chunk,
                      lines + chunk * ROWS_LINES)
            corner = y + (r + t.spread * m) * ys[2]
            packed = w
            for v in range(vectors):
                if t.each:
                    for i in range(lanes):
                        start[i] = bias[channel + v * lanes + i] if bias != NULL and v * lanes + i < elements else 0
                for phase in range(t.phases):
                    for i in range(ROWS_M):
                        if staged:
                            out[i] = stage + (phase * ROWS_M + i) * t.stage
                        elif i < size:
                            out[i] = <summand*>(corner + t.spread * i * ys[2] + at.q0 * ys[3])
                        else:
                            out[i] = spare
                    shape.ncolumns = t.begins[phase + 1] - t.begins[phase]
                    shape.columns = <const ptrdiff_t*>t.columns + t.begins[phase]
                    if t.each:
                        tile(&shape, True, size, lines, mask, packed, <const summand*>start, v * lanes, at.columns, out)
                    elif staged:
                        tile(&shape, False, size, lines, mask, packed, <const summand*>start, 0,
                             (run + lanes - 1) // lanes, out)
                    else:
                        tile(&shape, False, size, lines, mask, packed, <const summand*>start, 0, run // lanes, out)
                        if run % lanes:  # the last vector once more, from where it is whole
                            tile(&shape, False, size, lines, mask, packed, <const summand*>start, run - lanes, 1, out)
                    packed += shape.ncolumns * weights
            if staged:
                store(t, <const summand*>stage, size, corner, ys, y_item, y_kind, elements, at.q0, at.columns)
            m += ROWS_M


cdef void forward_unit(Py_ssize_t unit, const Task* t, const char* x, const Py_ssize_t* xs, Py_ssize_t x_item, int x_kind,
                       summand cval, const summand* w, const summand* bias, char* y, const Py_ssize_t* ys,
                       Py_ssize_t y_item, int y_kind, char* scratch) noexcept nogil:
    """The same block of a few planes of one sample."""
    cdef Py_ssize_t columns_all = (t.Q + t.phases - 1) // t.phases
    cdef Py_ssize_t q_blocks = (columns_all + t.block_q - 1) // t.block_q, p_blocks = (t.P + t.block_p - 1) // t.block_p
    cdef Py_ssize_t bunches = (t.planes + t.bunch - 1) // t.bunch
    cdef Py_ssize_t rest = unit // q_blocks, k, first
    cdef Place at
    cdef bint masked = t.in_place
    at.q0, at.p0 = unit % q_blocks * t.block_q, rest % p_blocks * t.block_p
    first, at.n = rest // p_blocks % bunches * t.bunch, rest // p_blocks // bunches
    at.rows, at.columns = min(t.block_p, t.P - at.p0), min(t.block_q, columns_all - at.q0)
    if masked:
        make_mask(t, &at, <summand*>scratch)
    for k in range(first, min(first + t.bunch, t.planes)):
        plane_block(t, &at, k, x, xs, x_item, x_kind, cval, w, bias, y, ys, y_item, y_kind, masked, scratch)


cdef void forward(Task t, Py_ssize_t N, const char* x, const Py_ssize_t* xs, Py_ssize_t x_item, int x_kind, summand cval,
                  const summand* w, const summand* bias, char* y, const Py_ssize_t* ys, Py_ssize_t y_item, int y_kind,
                  char* scratch, Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit, units = (N * ((t.planes + t.bunch - 1) // t.bunch) * ((t.P + t.block_p - 1) // t.block_p)
                                   * (((t.Q + t.phases - 1) // t.phases + t.block_q - 1) // t.block_q))
    if workers == 1:
        for unit in range(units):
            forward_unit(unit, &t, x, xs, x_item, x_kind, cval, w, bias, y, ys, y_item, y_kind, scratch)
    else:
        for unit in prange(units, num_threads=workers, schedule="static"):
            forward_unit(unit, &t, x, xs, x_item, x_kind, cval, w, bias, y, ys, y_item, y_kind,
                         scratch + threadid() * worker_bytes)


# --- weight gradient -------------------------------------------------------------------------------


cdef void weight_unit(Py_ssize_t unit, const Task* t, Py_ssize_t N, Py_ssize_t pieces, const char* x,
                      const Py_ssize_t* xs, Py_ssize_t x_item, int x_kind, summand cval, const char* dy,
                      const Py_ssize_t* ys, summand* dw, char* scratch) noexcept nogil:
    """dw of one plane, or one slice of channels, summed over the blocks of one piece."""
    cdef Py_ssize_t lanes = ROWS_BYTES // <Py_ssize_t>sizeof(summand), item = sizeof(summand)
    cdef Py_ssize_t q_blocks = (t.Q + t.block_q - 1) // t.block_q, p_blocks = (t.P + t.block_p - 1) // t.block_p
    cdef Py_ssize_t k = unit % t.planes, piece = unit // t.planes, blocks = N * p_blocks * q_blocks
    cdef Py_ssize_t channel = k * t.pixel if t.each else k
    cdef Py_ssize_t elements = min(t.pixel, t.channels - channel) if t.each else t.pixel
    cdef Py_ssize_t vectors = t.padded // lanes if t.each else 1
    cdef Py_ssize_t ncolumns = t.begins[1], count = t.taps * ncolumns
    cdef summand* zeros = <summand*>scratch
    cdef summand* copy = zeros + 2 * t.line
    cdef summand* dy_copy = copy + t.lines * t.line + lanes
    cdef summand* dot = dy_copy + t.block_p * t.stage
    cdef const summand** block = <const summand**>(dot + vectors * count * lanes)
    cdef const summand** lines = block + t.lines
    cdef const summand* mask
    cdef const char* plane
    cdef Place at
    cdef bint dy_in_place
    cdef const summand* dy_lines[4]
    cdef RowsTile shape
    cdef Py_ssize_t b, run, r, m, i, v, s, chunk, left, size, c, steps, rest
    cdef const char* row
    cdef const char* corner
    cdef summand* sums
    cdef summand total
    memset(dot, 0, vectors * count * lanes * item)
    shape.chunks = 1
    shape.x_step = shape.y_step = t.padded if t.each else lanes
    for b in range(blocks * piece // pieces, blocks * (piece + 1) // pieces):
        at.n, at.p0, at.q0 = b // q_blocks // p_blocks, b // q_blocks % p_blocks * t.block_p, b % q_blocks * t.block_q
        at.rows, at.columns = min(t.block_p, t.P - at.p0), min(t.block_q, t.Q - at.q0)
        run = at.columns * t.pixel
        steps = at.columns if t.each else (run + lanes - 1) // lanes
        rest = lanes if t.each else run - (steps - 1) * lanes
        plane = x + at.n * xs[0] + (channel if t.each else k // t.multiplier) * xs[1]
        mask = NULL
        if t.in_place:
            make_mask(t, &at, zeros)
        if t.in_place and find_block(plane, xs, t, &at, zeros, block):
            mask = zeros + t.line
        else:
            load_block(plane, xs, x_item, x_kind, t, cval, elements, &at, block, copy)
        corner = dy + at.n * ys[0] + channel * ys[1] + at.p0 * ys[2] + at.q0 * ys[3]
        row = corner + max((at.rows - 1) * ys[2], 0)
        dy_in_place = t.pixel == 1 and ys[3] == item and row + steps * lanes * item <= t.y_end
        if not dy_in_place:
            for i in range(at.rows):
                load_pixels(corner + i * ys[2], ys[3], item, 0, t, elements, at.columns, dy_copy + i * t.stage)
        for r in range(min(t.spread, at.rows)):
            left, m = (at.rows - r + t.spread - 1) // t.spread, 0
            while m < left:
                size = DOTS_M if left - m >= DOTS_M else 1
                for i in range(size):
                    s = r + t.spread * (m + i)
                    dy_lines[i] = <const summand*>(corner + s * ys[2]) if dy_in_place else dy_copy + s * t.stage
                sums = dot
                for chunk in range(t.chunks):
                    point(t, block, r + t.spread * m, at.rows, size, chunk, lines)
                    shape.taps = <const ptrdiff_t*>t.sizes + chunk
                    for s in range((ncolumns + DOTS_S - 1) // DOTS_S):
                        s *= DOTS_S
                        shape.columns, shape.ncolumns = <const ptrdiff_t*>t.columns + s, min(DOTS_S, ncolumns - s)
                        for v in range(vectors):
                            dots(&shape, lines, mask, dy_lines, size, v * lanes, steps, rest, sums)
                            sums += shape.ncolumns * t.sizes[chunk] * lanes
                m += size
    # The order is that of `sums`: chunk, columns of taps, vector; lanes are one sum, or channels.
    sums = dot
    dw += piece * t.channels * count
    c = 0  # taps before
    for chunk in range(t.chunks):
        for s in range((ncolumns + DOTS_S - 1) // DOTS_S):
            s *= DOTS_S
            size = min(DOTS_S, ncolumns - s) * t.sizes[chunk]
            for v in range(vectors):
                for m in range(size):
                    if t.each:
                        for i in range(min(lanes, elements - v * lanes)):
                            dw[(channel + v * lanes + i) * count + c + m] = sums[i]
                    else:
                        total = 0
                        for i in range(lanes):
                            total += sums[i]
                        dw[channel * count + c + m] = total
                    sums += lanes
            c += size


cdef void weight_grad(Task t, Py_ssize_t N, Py_ssize_t pieces, const char* x, const Py_ssize_t* xs, Py_ssize_t x_item,
                      int x_kind, summand cval, const char* dy, const Py_ssize_t* ys, summand* dw, char* scratch,
                      Py_ssize_t worker_bytes, int workers) noexcept nogil:
    cdef Py_ssize_t unit
    if workers == 1:
        for unit in range(pieces * t.planes):
            weight_unit(unit, &t, N, pieces, x, xs, x_item, x_kind, cval, dy, ys, dw, scratch)
    else:
        for unit in prange(pieces * t.planes, num_threads=workers, schedule="static"):
            weight_unit(unit, &t, N, pieces, x, xs, x_item, x_kind, cval, dy, ys, dw, scratch + threadid() * worker_bytes)


# --- what Python calls -----------------------------------------------------------------------------


cdef Task make_task(tuple numbers, const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h,
                    Py_ssize_t before_w, const int64_t[::1] tables) except *:
    """`numbers` in the order of Task; rows and columns: `edge`s; tables: residues, sizes, bases, begins and columns."""
    cdef Task t
    cdef const int64_t* table = &tables[0]
    (t.planes, t.multiplier, t.channels, t.pixel, t.padded, t.each, t.h.extent, t.w.extent, t.P, t.Q, t.phases, t.step_h,
     t.step_w, t.spread, t.first_h, t.reach_h, t.first_w, t.reach_w, t.block_p, t.block_q, t.plane, t.source_phases,
     t.bunch, t.lines, t.line, t.stage, t.chunks, t.taps) = numbers
    t.h.before, t.h.after, t.h.edge = before_h, rows.shape[0] - before_h, &rows[0] if rows.shape[0] else NULL
    t.w.before, t.w.after, t.w.edge = before_w, columns.shape[0] - before_w, &columns[0] if columns.shape[0] else NULL
    t.residues, t.sizes = table, table + t.source_phases
    t.bases, t.begins = t.sizes + t.chunks, t.sizes + 2 * t.chunks
    t.columns = t.begins + t.phases + 1
    t.in_place = False
    return t


cdef void place(Task* t, const Py_buffer* x, int kind, bint zero) noexcept nogil:
    """May lines be read in place? If all that lies beyond the edge is zeros, columns are next to each other, and the
    lines of a tile don't crowd into the same sets of the first cache (8 ways of 4 KiB)."""
    cdef Py_ssize_t pitch = x.strides[2] if x.strides[2] > 0 else -x.strides[2], sets = 4096
    if t.each or t.pixel > 1 or kind != 0 or t.step_w != 1 or x.strides[3] != x.itemsize or not zero:
        return
    while pitch % sets:
        sets //= 2
    if (2 * ROWS_M + t.reach_h) * sets > 8 * 4096:
        return
    t.in_place = True
    t.x_begin = bound(<const char*>x.buf, x.shape, x.strides, x.itemsize, True)
    t.x_end = bound(<const char*>x.buf, x.shape, x.strides, x.itemsize, False)


cdef const char* bound(const char* buf, const Py_ssize_t* shape, const Py_ssize_t* strides, Py_ssize_t item,
                       bint lower) noexcept nogil:
    """Where the elements of an array of four axes begin, or end."""
    cdef Py_ssize_t i, reach
    for i in range(4):
        reach = (shape[i] - 1) * strides[i]
        buf += min(reach, 0) if lower else max(reach, 0)
    return buf if lower else buf + item


def f32_forward(x, int x_kind, const float[::1] packed, const float[::1] bias, y, int y_kind, float cval, tuple numbers,
                const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """y (N, planes, P, Q) of x (N, channels, H, W), any strides."""
    cdef Task t = make_task(numbers, rows, columns, before_h, before_w, tables)
    cdef Py_buffer a, b
    PyObject_GetBuffer(x, &a, PyBUF_STRIDES)
    place(&t, &a, x_kind, cval == 0 and t.h.edge == NULL and t.w.edge == NULL)
    try:
        PyObject_GetBuffer(y, &b, PyBUF_STRIDES | PyBUF_WRITABLE)
        with nogil:
            forward[float](t, a.shape[0], <const char*>a.buf, a.strides, a.itemsize, x_kind, cval, &packed[0],
                           &bias[0] if bias.shape[0] else NULL, <char*>b.buf, b.strides, b.itemsize, y_kind, <char*>&scratch[0],
                           worker_bytes, workers)
        PyBuffer_Release(&b)
    finally:
        PyBuffer_Release(&a)


def f64_forward(x, int x_kind, const double[::1] packed, const double[::1] bias, y, int y_kind, double cval, tuple numbers,
                const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """y (N, planes, P, Q) of x (N, channels, H, W), any strides."""
    cdef Task t = make_task(numbers, rows, columns, before_h, before_w, tables)
    cdef Py_buffer a, b
    PyObject_GetBuffer(x, &a, PyBUF_STRIDES)
    place(&t, &a, x_kind, cval == 0 and t.h.edge == NULL and t.w.edge == NULL)
    try:
        PyObject_GetBuffer(y, &b, PyBUF_STRIDES | PyBUF_WRITABLE)
        with nogil:
            forward[double](t, a.shape[0], <const char*>a.buf, a.strides, a.itemsize, x_kind, cval, &packed[0],
                           &bias[0] if bias.shape[0] else NULL, <char*>b.buf, b.strides, b.itemsize, y_kind, <char*>&scratch[0],
                           worker_bytes, workers)
        PyBuffer_Release(&b)
    finally:
        PyBuffer_Release(&a)


def u64_forward(x, int x_kind, const uint64_t[::1] packed, const uint64_t[::1] bias, y, int y_kind, uint64_t cval, tuple numbers,
                const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """y (N, planes, P, Q) of x (N, channels, H, W), any strides."""
    cdef Task t = make_task(numbers, rows, columns, before_h, before_w, tables)
    cdef Py_buffer a, b
    PyObject_GetBuffer(x, &a, PyBUF_STRIDES)
    place(&t, &a, x_kind, cval == 0 and t.h.edge == NULL and t.w.edge == NULL)
    try:
        PyObject_GetBuffer(y, &b, PyBUF_STRIDES | PyBUF_WRITABLE)
        with nogil:
            forward[uint64_t](t, a.shape[0], <const char*>a.buf, a.strides, a.itemsize, x_kind, cval, &packed[0],
                           &bias[0] if bias.shape[0] else NULL, <char*>b.buf, b.strides, b.itemsize, y_kind, <char*>&scratch[0],
                           worker_bytes, workers)
        PyBuffer_Release(&b)
    finally:
        PyBuffer_Release(&a)


def f32_weight_grad(x, int x_kind, const float[:, :, :, :] dy, float[:, :, ::1] dw, float cval, tuple numbers,
                    const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                    const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """dw (pieces, channels, taps), to be added up and put in order by the caller."""
    cdef Task t = make_task(numbers, rows, columns, before_h, before_w, tables)
    cdef Py_buffer a
    PyObject_GetBuffer(x, &a, PyBUF_STRIDES)
    place(&t, &a, x_kind, cval == 0 and t.h.edge == NULL and t.w.edge == NULL)
    t.y_end = bound(<const char*>&dy[0, 0, 0, 0], dy.shape, dy.strides, sizeof(dy[0, 0, 0, 0]), False)
    with nogil:
        weight_grad[float](t, a.shape[0], dw.shape[0], <const char*>a.buf, a.strides, a.itemsize, x_kind, cval,
                           <const char*>&dy[0, 0, 0, 0], dy.strides, &dw[0, 0, 0], <char*>&scratch[0], worker_bytes, workers)
    PyBuffer_Release(&a)


def f64_weight_grad(x, int x_kind, const double[:, :, :, :] dy, double[:, :, ::1] dw, double cval, tuple numbers,
                    const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                    const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """dw (pieces, channels, taps), to be added up and put in order by the caller."""
    cdef Task t = make_task(numbers, rows, columns, before_h, before_w, tables)
    cdef Py_buffer a
    PyObject_GetBuffer(x, &a, PyBUF_STRIDES)
    place(&t, &a, x_kind, cval == 0 and t.h.edge == NULL and t.w.edge == NULL)
    t.y_end = bound(<const char*>&dy[0, 0, 0, 0], dy.shape, dy.strides, sizeof(dy[0, 0, 0, 0]), False)
    with nogil:
        weight_grad[double](t, a.shape[0], dw.shape[0], <const char*>a.buf, a.strides, a.itemsize, x_kind, cval,
                           <const char*>&dy[0, 0, 0, 0], dy.strides, &dw[0, 0, 0], <char*>&scratch[0], worker_bytes, workers)
    PyBuffer_Release(&a)


def u64_weight_grad(x, int x_kind, const uint64_t[:, :, :, :] dy, uint64_t[:, :, ::1] dw, uint64_t cval, tuple numbers,
                    const int64_t[::1] rows, const int64_t[::1] columns, Py_ssize_t before_h, Py_ssize_t before_w,
                    const int64_t[::1] tables, uint8_t[::1] scratch, Py_ssize_t worker_bytes, int workers):
    """dw (pieces, channels, taps), to be added up and put in order by the caller."""
    cdef Task t = make_task(numbers, rows, columns, before_h, before_w, tables)
    cdef Py_buffer a
    PyObject_GetBuffer(x, &a, PyBUF_STRIDES)
    place(&t, &a, x_kind, cval == 0 and t.h.edge == NULL and t.w.edge == NULL)
    t.y_end = bound(<const char*>&dy[0, 0, 0, 0], dy.shape, dy.strides, sizeof(dy[0, 0, 0, 0]), False)
    with nogil:
        weight_grad[uint64_t](t, a.shape[0], dw.shape[0], <const char*>a.buf, a.strides, a.itemsize, x_kind, cval,
                           <const char*>&dy[0, 0, 0, 0], dy.strides, &dw[0, 0, 0], <char*>&scratch[0], worker_bytes, workers)
    PyBuffer_Release(&a)
