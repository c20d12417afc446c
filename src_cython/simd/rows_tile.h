/* Register tiles of the row kernels, for one element type T (f32, f64 or u64): convolution along lines of an image,
 * each output from one channel. src_cython/rows.pyx says what lines and taps are; no shape or boundary here.
 *
 *   T_rows_tile   y[m][i] = start + sum_{chunk, s, j} w[chunk][s][j] * line(chunk, m + j)[columns[s] + x_step * i]
 *   T_rows_dots   dot[chunk][s][j] += sum_{m, i} dy[m][i] * line(chunk, m + j)[columns[s] + x_step * i]
 *
 * where line(chunk, i) = lines[firsts[chunk] + i]. Every vector of x, once loaded, meets all taps j of its
 * column in up to `taps` rows of outputs: (M + taps - 1) loads for M * taps multiply-adds. Vectors of 32 bytes at most:
 * their misaligned loads and stores cross cache lines half as often as those of 64, and 16 of them as sums hide the
 * latency of the multiply-add all the same.
 */
#include "vector.h"

#ifndef ROWS_TAPS
#define ROWS_BYTES (VECTOR_BYTES < 32 ? VECTOR_BYTES : 32)
#define ROWS_TAPS 5 /* most taps of a chunk: rows of a filter column taken together */
#define ROWS_M (VECTOR_REGISTERS == 32 ? 8 : 4) /* rows of outputs */
#define DOTS_M 4 /* rows of dy */
#define DOTS_S(N) (VECTOR_REGISTERS == 32 || N <= 3 ? 3 : 2) /* columns of N taps */
#define ROWS_AHEAD 4096 /* bytes: where there is much to load for each sum, the processor's own prefetching runs dry */
#define ROWS_LANES(T) ((ptrdiff_t)(ROWS_BYTES / sizeof(T)))

typedef f32 f32_line __attribute__((vector_size(ROWS_BYTES), aligned(4), may_alias));
typedef f64 f64_line __attribute__((vector_size(ROWS_BYTES), aligned(8), may_alias));
typedef u64 u64_line __attribute__((vector_size(ROWS_BYTES), aligned(8), may_alias));
typedef uint32_t u32_line __attribute__((vector_size(ROWS_BYTES), aligned(4), may_alias));
#define LINE(type) PASTE(type, line)

/* Keeps the compiler from loading all lines of a tile first, for which there aren't the registers: `pointer` is known
 * when `vector` is. No instruction. */
#if defined(__x86_64__)
#define ROWS_AFTER(pointer, vector) __asm__("" : "+r"(pointer) : "x"(vector))
#elif defined(__aarch64__)
#define ROWS_AFTER(pointer, vector) __asm__("" : "+r"(pointer) : "w"(vector))
#else
#define ROWS_AFTER(pointer, vector)
#endif

/* Lanes of two vectors a and b. PICK, ODD: every second one, in whatever order takes one instruction; ORDER puts these
 * in their order, and is its own inverse. LOW and HIGH: a0 b0 a1 b1 ... */
#if ROWS_BYTES == 32
#define ROWS_PICK_f32 0, 2, 8, 10, 4, 6, 12, 14
#define ROWS_ODD_f32 1, 3, 9, 11, 5, 7, 13, 15
#define ROWS_ORDER_f32 0, 1, 4, 5, 2, 3, 6, 7
#define ROWS_LOW_f32 0, 8, 1, 9, 2, 10, 3, 11
#define ROWS_HIGH_f32 4, 12, 5, 13, 6, 14, 7, 15
#define ROWS_PICK_f64 0, 4, 2, 6
#define ROWS_ODD_f64 1, 5, 3, 7
#define ROWS_ORDER_f64 0, 2, 1, 3
#define ROWS_LOW_f64 0, 4, 1, 5
#define ROWS_HIGH_f64 2, 6, 3, 7
#else
#define ROWS_PICK_f32 0, 2, 4, 6
#define ROWS_ODD_f32 1, 3, 5, 7
#define ROWS_ORDER_f32 0, 1, 2, 3
#define ROWS_LOW_f32 0, 4, 1, 5
#define ROWS_HIGH_f32 2, 6, 3, 7
#define ROWS_PICK_f64 0, 2
#define ROWS_ODD_f64 1, 3
#define ROWS_ORDER_f64 0, 1
#define ROWS_LOW_f64 0, 2
#define ROWS_HIGH_f64 1, 3
#endif
#define ROWS_PICK_u64 ROWS_PICK_f64
#define ROWS_ODD_u64 ROWS_ODD_f64
#define ROWS_ORDER_u64 ROWS_ORDER_f64
#define ROWS_LOW_u64 ROWS_LOW_f64
#define ROWS_HIGH_u64 ROWS_HIGH_f64
#define ROWS_SHUFFLE_(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define ROWS_SHUFFLE(name, type, a, b) ROWS_SHUFFLE_(a, b, PASTE(ROWS_##name, type))

/* A call's constants. Distances in elements. */
typedef struct {
    ptrdiff_t chunks;         /* of the filter's rows */
    const ptrdiff_t* taps;    /* of each chunk: 1 to ROWS_TAPS */
    const ptrdiff_t* firsts;  /* of each chunk: the first line that it reads */
    const ptrdiff_t* begins;  /* columns[begins[0]:begins[1]] are those of the outputs; zipped: begins[1:3] of the odd */
    const ptrdiff_t* columns; /* where each column of taps reads, from the output's place */
    ptrdiff_t x_first;        /* where the first output is, in a line */
    ptrdiff_t x_step, y_step; /* `each`: from one output to the next; dots: from one vector to the next */
} RowsTile;

/* How lines are read and written. */
enum {
    ROWS_PLAIN,  /* as they lie */
    ROWS_MASKED, /* with zeros where the mask has them: NaN and infinities too become zeros there */
    ROWS_PICKED, /* masked, and of every second element: x_step is 2 */
    ROWS_ZIPPED, /* masked, and y has even columns from one list of taps, odd ones from another: y_step is 2 */
    ROWS_EACH,   /* a vector is one output, each lane with a weight of its own */
};

/* All taps of a chunk pass by while the sums stay in registers: M rows, U vectors from sum[m][FIRST] on, for the columns
 * of list FIRST. */
#define ROWS_CHUNK(M, U, FIRST, N, W, X)                                                                   \
    for (const ptrdiff_t *column = columns + begins[FIRST], *last = columns + begins[FIRST + 1]; column < last; column++) { \
        const ptrdiff_t place = *column + x_at;                                                            \
        __asm__("" : "+r"(next)); /* read the pointers again: they would crowd out of the registers */     \
        LINE(T) weight[N];                                                                                 \
        X##_BEGIN(U)                                                                                       \
        _Pragma("GCC unroll 5") for (int j = 0; j < N; j++) weight[j] = W(weights, j);                     \
        weights += N * W##_SIZE;                                                                           \
        _Pragma("GCC unroll 12") for (int i = 0; i < M + N - 1; i++) {                                     \
            const T* line = next[i] + place;                                                               \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) {                                          \
                const LINE(T) v = X(line + u * x_step, u);                                                 \
                _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                        \
                    if (i - j >= 0 && i - j < M) sum[i - j][FIRST + u] += weight[j] * v;                   \
            }                                                                                              \
        }                                                                                                  \
    }

/* The same for vectors of every second element: two neighbouring columns share their loads. */
#define ROWS_PICKED_COLUMNS(M, U, N, S)                                                                    \
    {                                                                                                      \
        const ptrdiff_t place = *column + x_at;                                                            \
        LINE(T) weight[S][N];                                                                              \
        u32_line inside[S][U];                                                                             \
        _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) {                                              \
            const LINE(T) *x = (const LINE(T)*)(mask + place + u * x_step);                                \
            _Pragma("GCC unroll 2") for (int s = 0; s < S; s++) inside[s][u] = (u32_line)ROWS_SECOND(s, x); \
        }                                                                                                  \
        _Pragma("GCC unroll 2") for (int s = 0; s < S; s++)                                                \
            _Pragma("GCC unroll 5") for (int j = 0; j < N; j++) weight[s][j] = ROWS_ONE(weights, s * N + j); \
        weights += S * N;                                                                                  \
        column += S;                                                                                       \
        _Pragma("GCC unroll 12") for (int i = 0; i < M + N - 1; i++) {                                     \
            const T* line = next[i] + place;                                                               \
            if (i) ROWS_AFTER(line, sum[i > M ? M - 1 : i - 1][0]);                                        \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) {                                          \
                const LINE(T) *x = (const LINE(T)*)(line + u * x_step);                                    \
                if (S == 2) __builtin_prefetch((const char*)x + ROWS_AHEAD);                               \
                _Pragma("GCC unroll 2") for (int s = 0; s < S; s++) {                                      \
                    const LINE(T) v = (LINE(T))((u32_line)ROWS_SECOND(s, x) & inside[s][u]);               \
                    _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                    \
                        if (i - j >= 0 && i - j < M) sum[i - j][u] += weight[s][j] * v;                    \
                }                                                                                          \
            }                                                                                              \
        }                                                                                                  \
    }
#define ROWS_SECOND(s, x) ((s) ? ROWS_SHUFFLE(ODD, T, (x)[0], (x)[1]) : ROWS_SHUFFLE(PICK, T, (x)[0], (x)[1]))
#define ROWS_PICKED_CHUNK(M, U, FIRST, N, W, X)                                                            \
    for (const ptrdiff_t *column = columns + begins[0], *last = columns + begins[1]; column < last;) {     \
        __asm__("" : "+r"(next)); /* as above */                                                           \
        if (last - column > 1 && column[1] == column[0] + 1)                                               \
            ROWS_PICKED_COLUMNS(M, U, N, 2)                                                                \
        else                                                                                               \
            ROWS_PICKED_COLUMNS(M, U, N, 1)                                                                \
    }

#define ROWS_SUMS(M, U, W, X)                                                                       \
    {                                                                                                      \
        const ptrdiff_t begins[2] = {t->begins[0], t->begins[1]};                                          \
        for (ptrdiff_t chunk = 0; chunk < chunks; chunk++) {                                               \
            const T* const* next = lines + t->firsts[chunk];                                               \
            const ptrdiff_t* columns = t->columns;                                                         \
            switch (t->taps[chunk]) {                                                                      \
                case 1: X##_CHUNK(M, U, 0, 1, W, X) break;                                            \
                case 2: X##_CHUNK(M, U, 0, 2, W, X) break;                                            \
                case 3: X##_CHUNK(M, U, 0, 3, W, X) break;                                            \
                case 4: X##_CHUNK(M, U, 0, 4, W, X) break;                                            \
                default: X##_CHUNK(M, U, 0, 5, W, X)                                                  \
            }                                                                                              \
        }                                                                                                  \
    }

/* One tile of M rows x U vectors, `step` outputs apart, the first at output `at`. */
#define ROWS_TILE(M, U, W, X)                                                                              \
    {                                                                                                      \
        const T* weights = w;                                                                              \
        const ptrdiff_t x_at = t->x_first + at * x_scale, x_step = step * x_scale, y_step = step * y_scale;             \
        LINE(T) sum[M][U];                                                                                 \
        _Pragma("GCC unroll 8") for (int m = 0; m < M; m++)                                                \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) sum[m][u] = first;                         \
        ROWS_SUMS(M, U, W, X)                                                                           \
        T* out = y + at * y_scale;                                                                         \
        _Pragma("GCC unroll 8") for (int m = 0; m < M; m++, out += y_pitch)                                \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++)                                            \
                *(LINE(T)*)(out + u * y_step) = X##_PUT(sum[m][u]);                                        \
    }

/* One weight for all lanes, or one for each lane. */
#define ROWS_ONE(w, j) ((w)[j] - (LINE(T)){0})
#define ROWS_ONE_SIZE 1
#define ROWS_ONE_LANES ROWS_LANES(T)
#define ROWS_ONE_SCALE 1
#define ROWS_LANE(w, j) (*(const LINE(T)*)((w) + (j) * ROWS_LANES(T)))
#define ROWS_LANE_SIZE ROWS_LANES(T)
#define ROWS_LANE_LANES 1
#define ROWS_LANE_SCALE t->y_step

/* A vector of x, how it is stored, and elements from one output to the next. */
#define ROWS_LOAD(x, u) (*(const LINE(T)*)(x))
#define ROWS_LOAD_BEGIN(U)
#define ROWS_LOAD_PUT(v) v
#define ROWS_LOAD_SCALE 1
#define ROWS_LOAD_CHUNK ROWS_CHUNK
#define ROWS_PIXEL(x, u) ROWS_LOAD(x, u)
#define ROWS_PIXEL_BEGIN(U)
#define ROWS_PIXEL_PUT(v) v
#define ROWS_PIXEL_SCALE t->x_step
#define ROWS_PIXEL_CHUNK ROWS_CHUNK
#define ROWS_MASK(x, u) ((LINE(T))(*(const u32_line*)(x) & inside[u]))
#define ROWS_MASK_BEGIN(U)                                                                                 \
    u32_line inside[U];                                                                                    \
    _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) inside[u] = *(const u32_line*)(mask + place + u * x_step);
#define ROWS_MASK_PUT(v) v
#define ROWS_MASK_SCALE 1
#define ROWS_MASK_CHUNK ROWS_CHUNK
#define ROWS_IN_ORDER(v) ROWS_SHUFFLE(ORDER, T, v, v)
#define ROWS_PICKED_PUT ROWS_IN_ORDER
#define ROWS_PICKED_SCALE 2

/* M rows of `run` outputs, U vectors at a time: 2, or 1 where each takes two of x. The last vectors are computed from where
 * they are whole, and store the same bytes again; a shorter run writes one vector. */
#define ROWS_FUNCTION(name, M, U, W, X)                                                                     \
    static void PASTE(T, name)(const RowsTile* t, const T* const* lines, const T* mask, const T* w,        \
                               const T* start, ptrdiff_t run, T* y, ptrdiff_t y_pitch) {                   \
        const ptrdiff_t chunks = t->chunks, x_scale = X##_SCALE, y_scale = W##_SCALE;                      \
        const ptrdiff_t lanes = W##_LANES;                                                                 \
        const LINE(T) first = W(start, 0);                                                                 \
        ptrdiff_t at = 0, step = lanes;                                                                    \
        while (U == 2 && run - at > lanes) {                                                               \
            if (run - at < 2 * lanes) {                                                                    \
                step = run < 2 * lanes ? run - lanes : lanes;                                              \
                at = run - lanes - step;                                                                   \
            }                                                                                              \
            ROWS_TILE(M, U, W, X)                                                                          \
            at += step + lanes;                                                                            \
        }                                                                                                  \
        for (; at < run; at += lanes) {                                                                    \
            if (run - at < lanes && run > lanes) at = run - lanes;                                         \
            ROWS_TILE(M, 1, W, X)                                                                          \
        }                                                                                                  \
    }

/* The same for `run` pairs of outputs, one vector of pairs at a time, with a single chunk of N taps. */
#define ROWS_ZIPPED_TILES(M, N)                                                                            \
    for (ptrdiff_t x_at = 0; x_at < run; x_at += lanes) {                                                  \
        if (run - x_at < lanes && run > lanes) x_at = run - lanes;                                         \
        const T* weights = w;                                                                              \
        LINE(T) sum[M][2];                                                                                 \
        _Pragma("GCC unroll 8") for (int m = 0; m < M; m++) sum[m][0] = sum[m][1] = first;                 \
        ROWS_CHUNK(M, 1, 0, N, ROWS_ONE, ROWS_MASK)                                                        \
        ROWS_CHUNK(M, 1, 1, N, ROWS_ONE, ROWS_MASK)                                                        \
        T* out = y + 2 * x_at;                                                                             \
        _Pragma("GCC unroll 8") for (int m = 0; m < M; m++, out += y_pitch) {                              \
            *(LINE(T)*)out = ROWS_SHUFFLE(LOW, T, sum[m][0], sum[m][1]);                                   \
            *(LINE(T)*)(out + lanes) = ROWS_SHUFFLE(HIGH, T, sum[m][0], sum[m][1]);                        \
        }                                                                                                  \
    }
#define ROWS_ZIPPED_FUNCTION(name, M)                                                                      \
    static void PASTE(T, name)(const RowsTile* t, const T* const* lines, const T* mask, const T* w,        \
                               const T* start, ptrdiff_t run, T* y, ptrdiff_t y_pitch) {                   \
        enum { x_step = 0 };                                                                               \
        const ptrdiff_t lanes = ROWS_LANES(T);                                                             \
        const ptrdiff_t begins[3] = {t->begins[0], t->begins[1], t->begins[2]}, *columns = t->columns;     \
        const LINE(T) first = ROWS_ONE(start, 0);                                                          \
        const T* const* next = lines + t->firsts[0];                                                       \
        switch (t->taps[0]) {                                                                              \
            case 1: ROWS_ZIPPED_TILES(M, 1) break;                                                         \
            case 2: ROWS_ZIPPED_TILES(M, 2) break;                                                         \
            case 3: ROWS_ZIPPED_TILES(M, 3) break;                                                         \
            case 4: ROWS_ZIPPED_TILES(M, 4) break;                                                         \
            default: ROWS_ZIPPED_TILES(M, 5)                                                               \
        }                                                                                                  \
    }

/* M rows of dy, met by N taps of S columns, or of two neighbouring ones that share their loads (PAIRED). Of the last
 * vector only `rest` lanes are summed: both are masked there, for zero times NaN is NaN. */
#define DOTS_ROWS(M, N, S, ORDERED, LOAD, PAIRED)                                                          \
    {                                                                                                      \
        for (ptrdiff_t g = 0; g < vectors; g++) {                                                          \
            u32_line below = g < vectors - 1 ? ~(u32_line){0} : last;                                      \
            LINE(T) d[M];                                                                                  \
            _Pragma("GCC unroll 4") for (int m = 0; m < M; m++)                                            \
                d[m] = ORDERED((LINE(T))(*(const u32_line*)(dy_row + m * dy_pitch + g * t->y_step) & below)); \
            below = (u32_line)ORDERED((LINE(T))below);                                                     \
            _Pragma("GCC unroll 3") for (int c = 0; c < (PAIRED ? 1 : S); c++) {                           \
                const ptrdiff_t place = t->x_first + columns[c] + g * t->x_step;                           \
                u32_line inside[2] = {below, below};                                                       \
                if (mask) {                                                                                \
                    const LINE(T)* v = (const LINE(T)*)(mask + place);                                     \
                    inside[0] &= (u32_line)LOAD(0, v);                                                     \
                    if (PAIRED) inside[1] &= (u32_line)LOAD(1, v);                                         \
                }                                                                                          \
                __asm__("" : "+r"(row)); /* as above */                                                    \
                _Pragma("GCC unroll 8") for (int i = 0; i < M + N - 1; i++) {                              \
                    const LINE(T)* v = (const LINE(T)*)(row[i] + place);                                   \
                    if (PAIRED) __builtin_prefetch((const char*)v + ROWS_AHEAD);                           \
                    _Pragma("GCC unroll 2") for (int s = c; s <= c + PAIRED; s++) {                        \
                        const LINE(T) one = (LINE(T))((u32_line)LOAD(s - c, v) & inside[s - c]);           \
                        _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                \
                            if (i - j >= 0 && i - j < M) sum[s][j] += d[i - j] * one;                      \
                    }                                                                                      \
                }                                                                                          \
            }                                                                                              \
        }                                                                                                  \
        row += M;                                                                                          \
        dy_row += M * dy_pitch;                                                                            \
    }

#define DOTS_COLUMNS(N, S, ORDERED, LOAD, PAIRED)                                                          \
    {                                                                                                      \
        const T* const* row = lines + t->firsts[chunk];                                                    \
        const T* dy_row = dy;                                                                              \
        LINE(T) sum[S][N];                                                                                 \
        _Pragma("GCC unroll 3") for (int s = 0; s < S; s++)                                                \
            _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                            \
                sum[s][j] = *(const LINE(T)*)(dot + (s * N + j) * ROWS_LANES(T));                          \
        for (ptrdiff_t m = rows; m >= DOTS_M; m -= DOTS_M) DOTS_ROWS(DOTS_M, N, S, ORDERED, LOAD, PAIRED)  \
        if (rows & 2) DOTS_ROWS(2, N, S, ORDERED, LOAD, PAIRED)                                            \
        if (rows & 1) DOTS_ROWS(1, N, S, ORDERED, LOAD, PAIRED)                                            \
        _Pragma("GCC unroll 3") for (int s = 0; s < S; s++)                                                \
            _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                            \
                *(LINE(T)*)(dot + (s * N + j) * ROWS_LANES(T)) = sum[s][j];                                \
        dot += S * N * ROWS_LANES(T);                                                                      \
        columns += S;                                                                                      \
    }

#define DOTS_PLAIN(N)                                                                                      \
    if (end - columns == 1)                                                                                \
        DOTS_COLUMNS(N, 1, DOTS_AS_IS, DOTS_LOAD, 0)                                                    \
    else if (end - columns == 2)                                                                           \
        DOTS_COLUMNS(N, 2, DOTS_AS_IS, DOTS_LOAD, 0)                                                    \
    else                                                                                                   \
        DOTS_COLUMNS(N, DOTS_S(N), DOTS_AS_IS, DOTS_LOAD, 0)
#define DOTS_PICKED(N)                                                                                     \
    if (end - columns > 1 && columns[1] == columns[0] + 1)                                                 \
        DOTS_COLUMNS(N, 2, ROWS_IN_ORDER, ROWS_SECOND, 1)                                                \
    else                                                                                                   \
        DOTS_COLUMNS(N, 1, ROWS_IN_ORDER, ROWS_SECOND, 0)
#define DOTS_AS_IS(v) v
#define DOTS_LOAD(s, x) (x)[0]

#define DOTS_FUNCTION(name, WAY)                                                                           \
    static void PASTE(T, name)(const RowsTile* t, const T* const* lines, const T* mask, const T* dy,       \
                               ptrdiff_t dy_pitch, ptrdiff_t rows, ptrdiff_t vectors, ptrdiff_t rest, T* dot) { \
        uint32_t lanes[ROWS_BYTES / 4];                                                                    \
        for (ptrdiff_t b = 0; b < ROWS_BYTES / 4; b++) lanes[b] = b * 4 < rest * (ptrdiff_t)sizeof(T) ? UINT32_MAX : 0; \
        const u32_line last = *(const u32_line*)lanes;                                                     \
        for (ptrdiff_t chunk = 0; chunk < t->chunks; chunk++)                                              \
            for (const ptrdiff_t *columns = t->columns, *end = columns + t->begins[1]; columns < end;)     \
                switch (t->taps[chunk]) {                                                                  \
                    case 1: WAY(1) break;                                                                  \
                    case 2: WAY(2) break;                                                                  \
                    case 3: WAY(3) break;                                                                  \
                    case 4: WAY(4) break;                                                                  \
                    default: WAY(5)                                                                        \
                }                                                                                          \
    }

#endif

ROWS_FUNCTION(rows_plain, ROWS_M, 2, ROWS_ONE, ROWS_LOAD)
ROWS_FUNCTION(rows_plain_half, ROWS_M / 2, 2, ROWS_ONE, ROWS_LOAD)
ROWS_FUNCTION(rows_masked, ROWS_M, 2, ROWS_ONE, ROWS_MASK)
ROWS_FUNCTION(rows_masked_half, ROWS_M / 2, 2, ROWS_ONE, ROWS_MASK)
ROWS_FUNCTION(rows_each, ROWS_M, 2, ROWS_LANE, ROWS_PIXEL)
ROWS_FUNCTION(rows_each_half, ROWS_M / 2, 2, ROWS_LANE, ROWS_PIXEL)
#ifndef ROWS_INTEGERS
ROWS_FUNCTION(rows_picked, ROWS_M, 1, ROWS_ONE, ROWS_PICKED)
ROWS_FUNCTION(rows_picked_half, ROWS_M / 2, 1, ROWS_ONE, ROWS_PICKED)
ROWS_ZIPPED_FUNCTION(rows_zipped, ROWS_M)
ROWS_ZIPPED_FUNCTION(rows_zipped_half, ROWS_M / 2)
#endif

/* ROWS_M or ROWS_M / 2 rows of outputs, y_pitch elements apart. `lines` are those of the first row; `mask` is a line of
 * zeros and of ones in every bit, read at the places where x is. */
static void PASTE(T, rows_tile)(const RowsTile* t, int way, ptrdiff_t rows, const T* const* lines, const T* mask,
                                const T* w, const T* start, ptrdiff_t run, T* y, ptrdiff_t y_pitch) {
#define ROWS_CALL(name) (rows == ROWS_M ? PASTE(T, name) : PASTE(T, name##_half))(t, lines, mask, w, start, run, y, y_pitch)
    switch (way) {
        case ROWS_PLAIN: ROWS_CALL(rows_plain); break;
        case ROWS_MASKED: ROWS_CALL(rows_masked); break;
#ifndef ROWS_INTEGERS
        case ROWS_PICKED: ROWS_CALL(rows_picked); break;
        case ROWS_ZIPPED: ROWS_CALL(rows_zipped); break;
#endif
        default: ROWS_CALL(rows_each);
    }
#undef ROWS_CALL
}

DOTS_FUNCTION(rows_dots_plain, DOTS_PLAIN)
#ifndef ROWS_INTEGERS
DOTS_FUNCTION(rows_dots_picked, DOTS_PICKED)
#endif

/* Of any number of rows of dy, dy_pitch elements apart. `mask` may be NULL; the last of the vectors of a row holds `rest`
 * outputs. `picked`: x_step is 2 (floats only). */
static void PASTE(T, rows_dots)(const RowsTile* t, int picked, const T* const* lines, const T* mask, const T* dy,
                                ptrdiff_t dy_pitch, ptrdiff_t rows, ptrdiff_t vectors, ptrdiff_t rest, T* dot) {
#ifndef ROWS_INTEGERS
    if (picked) {
        PASTE(T, rows_dots_picked)(t, lines, mask, dy, dy_pitch, rows, vectors, rest, dot);
        return;
    }
#endif
    PASTE(T, rows_dots_plain)(t, lines, mask, dy, dy_pitch, rows, vectors, rest, dot);
}

/* memcpy without a call, for lines are short: whole vectors, the last of them overlapping the one before. */
static inline void PASTE(T, rows_copy)(const T* x, ptrdiff_t n, T* out) {
    const ptrdiff_t lanes = ROWS_LANES(T), four = 16 / sizeof(T), two = 8 / sizeof(T);
    if (n >= lanes) {
        for (ptrdiff_t i = 0; i < n - lanes; i += lanes) *(LINE(T)*)(out + i) = *(const LINE(T)*)(x + i);
        *(LINE(T)*)(out + n - lanes) = *(const LINE(T)*)(x + n - lanes);
    } else if (n >= four) {
        memcpy(out, x, 16);
        memcpy(out + n - four, x + n - four, 16);
    } else if (n >= two) {
        memcpy(out, x, 8);
        memcpy(out + n - two, x + n - two, 8);
    } else if (n == 1)
        *out = *x;
}

/* even[i] = x[2 * i], odd[i] = x[2 * i + 1] */
static inline void PASTE(T, rows_unzip)(const T* x, ptrdiff_t n, T* even, T* odd) {
    const ptrdiff_t lanes = ROWS_LANES(T);
    if (n < lanes) {
        for (ptrdiff_t i = 0; i < n; i++) even[i] = x[2 * i], odd[i] = x[2 * i + 1];
        return;
    }
    for (ptrdiff_t i = 0;; i = i + lanes < n - lanes ? i + lanes : n - lanes) {
        __builtin_prefetch((const char*)(x + 2 * i) + ROWS_AHEAD);
        const LINE(T) a = *(const LINE(T)*)(x + 2 * i), b = *(const LINE(T)*)(x + 2 * i + lanes);
        *(LINE(T)*)(even + i) = ROWS_IN_ORDER(ROWS_SHUFFLE(PICK, T, a, b));
        *(LINE(T)*)(odd + i) = ROWS_IN_ORDER(ROWS_SHUFFLE(ODD, T, a, b));
        if (i == n - lanes) return;
    }
}

/* The conversions of convert.h; rows that need none are copied by vectors, with the rows after them asked for. */
static void PASTE(T, rows_take)(const char* x, ptrdiff_t step, int kind, ptrdiff_t n, T* restrict out) {
    if (kind == TAKE_SAME && step == sizeof(T))
        PASTE(T, rows_copy)((const T*)x, n, out);
    else
        PASTE(T, take)(x, step, kind, n, out);
}

static void PASTE(T, rows_give)(const T* restrict x, ptrdiff_t n, int kind, char* out, ptrdiff_t step) {
    if (kind == TAKE_I64)
        PASTE(T, give)(x, n, out, step);
    else if (step == sizeof(T))
        PASTE(T, rows_copy)(x, n, (T*)out);
    else
        for (ptrdiff_t i = 0; i < n; i++) *(T*)(out + i * step) = x[i];
}
