/* Register tiles of the row kernels, for one element type T (f32, f64 or u64): convolution along lines of an image,
 * each output from one channel. src_cython/rows.pyx says what lines and taps are; no shape, stride or boundary here.
 *
 *   T_rows_tile_UxW   y[m][g] = start + sum_{chunk, s, j} w[chunk][s][j] * x[chunk][m + j][g + columns[s]]
 *   T_rows_dots       dot[s][j] += sum_{m, g} dy[m][g] * x[m + j][g + columns[s]]
 *
 * Every vector of x, once loaded, meets all taps j of its column in up to `taps` rows of outputs: (M + taps - 1) loads
 * for M * taps multiply-adds. Vectors of 32 bytes at most: their misaligned loads and stores cross cache lines half as
 * often as those of 64, and 16 of them as sums hide the latency of the multiply-add all the same.
 */
#include "vector.h"

#ifndef ROWS_TAPS
#define ROWS_BYTES (VECTOR_BYTES < 32 ? VECTOR_BYTES : 32)
#define ROWS_TAPS 5 /* most taps of a chunk: rows of a filter column taken together */
#define ROWS_M (VECTOR_REGISTERS == 32 ? 8 : 4) /* rows of outputs */
#define ROWS_LINES (ROWS_M + ROWS_TAPS - 1) /* lines of x that a chunk reads */
#define DOTS_M 4 /* rows of dy */
#define DOTS_S (VECTOR_REGISTERS == 32 ? 3 : 2) /* columns of taps */
#define ROWS_AHEAD 4096 /* bytes: lines are copied between tiles, which lets the processor's own prefetching run dry */
#define ROWS_LANES(T) ((ptrdiff_t)(ROWS_BYTES / sizeof(T)))

typedef f32 f32_line __attribute__((vector_size(ROWS_BYTES), aligned(4), may_alias));
typedef f64 f64_line __attribute__((vector_size(ROWS_BYTES), aligned(8), may_alias));
typedef u64 u64_line __attribute__((vector_size(ROWS_BYTES), aligned(8), may_alias));
typedef uint32_t u32_line __attribute__((vector_size(ROWS_BYTES), aligned(4), may_alias));
#define LINE(type) PASTE(type, line)

/* Lanes of two vectors in pairs: ROWS_<name>_<type> says which. */
#if ROWS_BYTES == 32
#define ROWS_EVEN_f32 0, 2, 4, 6, 8, 10, 12, 14
#define ROWS_ODD_f32 1, 3, 5, 7, 9, 11, 13, 15
#define ROWS_LOW_f32 0, 8, 1, 9, 2, 10, 3, 11
#define ROWS_HIGH_f32 4, 12, 5, 13, 6, 14, 7, 15
#define ROWS_EVEN_f64 0, 2, 4, 6
#define ROWS_ODD_f64 1, 3, 5, 7
#define ROWS_LOW_f64 0, 4, 1, 5
#define ROWS_HIGH_f64 2, 6, 3, 7
#else
#define ROWS_EVEN_f32 0, 2, 4, 6
#define ROWS_ODD_f32 1, 3, 5, 7
#define ROWS_LOW_f32 0, 4, 1, 5
#define ROWS_HIGH_f32 2, 6, 3, 7
#define ROWS_EVEN_f64 0, 2
#define ROWS_ODD_f64 1, 3
#define ROWS_LOW_f64 0, 2
#define ROWS_HIGH_f64 1, 3
#endif
#define ROWS_EVEN_u64 ROWS_EVEN_f64
#define ROWS_ODD_u64 ROWS_ODD_f64
#define ROWS_LOW_u64 ROWS_LOW_f64
#define ROWS_HIGH_u64 ROWS_HIGH_f64
#define ROWS_SHUFFLE_(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define ROWS_SHUFFLE(name, type, a, b) ROWS_SHUFFLE_(a, b, PASTE(ROWS_##name, type))

/* A call's constants. Distances in elements. */
typedef struct {
    ptrdiff_t chunks;         /* of the filter's rows */
    const ptrdiff_t* taps;    /* of each chunk: 1 to ROWS_TAPS */
    ptrdiff_t ncolumns;       /* columns of taps */
    const ptrdiff_t* columns; /* where each reads, from the output's place */
    ptrdiff_t x_step, y_step; /* from one vector to the next */
} RowsTile;
/* One tile of M rows x U vectors: all taps of all chunks pass by while the sums stay in registers. */
#define ROWS_CHUNK(M, U, N, W, X)                                                                          \
    for (ptrdiff_t s = 0; s < t->ncolumns; s++) {                                                          \
        const ptrdiff_t place = t->columns[s] + x_at;                                                      \
        __asm__("" : "+r"(lines)); /* read the pointers again: they would crowd out of the registers */    \
        LINE(T) weight[N];                                                                                 \
        X##_BEGIN(U)                                                                                       \
        _Pragma("GCC unroll 5") for (int j = 0; j < N; j++) weight[j] = W(weights, j);                     \
        weights += N * W##_SIZE;                                                                           \
        _Pragma("GCC unroll 12") for (int i = 0; i < M + N - 1; i++) {                                     \
            const T* line = lines[i] + place;                                                              \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) {                                          \
                const LINE(T) v = X(line + u * x_step, u);                                                 \
                _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                        \
                    if (i - j >= 0 && i - j < M) sum[i - j][u] += weight[j] * v;                           \
            }                                                                                              \
        }                                                                                                  \
    }

#define ROWS_TILE(M, U, W, X)                                                                              \
    {                                                                                                      \
        const T* weights = w;                                                                              \
        const T* const* lines = x;                                                                         \
        LINE(T) sum[M][U];                                                                                 \
        _Pragma("GCC unroll 8") for (int m = 0; m < M; m++)                                                \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) sum[m][u] = first;                         \
        for (ptrdiff_t chunk = 0; chunk < t->chunks; chunk++, lines += ROWS_LINES) switch (t->taps[chunk]) { \
            case 1: ROWS_CHUNK(M, U, 1, W, X) break;                                                       \
            case 2: ROWS_CHUNK(M, U, 2, W, X) break;                                                       \
            case 3: ROWS_CHUNK(M, U, 3, W, X) break;                                                       \
            case 4: ROWS_CHUNK(M, U, 4, W, X) break;                                                       \
            default: ROWS_CHUNK(M, U, 5, W, X)                                                             \
        }                                                                                                  \
        _Pragma("GCC unroll 8") for (int m = 0; m < M; m++)                                                \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++)                                            \
                *(LINE(T)*)(y[m] + y_at + u * t->y_step) = sum[m][u];                                      \
    }

/* One weight for all lanes, or one for each lane. */
#define ROWS_ONE(w, j) ((w)[j] - (LINE(T)){0})
#define ROWS_ONE_SIZE 1
#define ROWS_EACH(w, j) (*(const LINE(T)*)((w) + (j) * ROWS_LANES(T)))
#define ROWS_EACH_SIZE ROWS_LANES(T)

/* x as it lies, or with zeros where the mask has them: NaN and infinities too become zeros there. */
#define ROWS_PLAIN(x, u) (*(const LINE(T)*)(x))
#define ROWS_PLAIN_BEGIN(U)
#define ROWS_MASKED(x, u) ((LINE(T))(*(const u32_line*)(x) & mask[u]))
#define ROWS_MASKED_BEGIN(U)                                                                               \
    u32_line mask[U];                                                                                      \
    _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) mask[u] = *(const u32_line*)(t_mask + place + u * x_step);

#define ROWS_FUNCTION(name, M, W, X)                                                                       \
    static void PASTE(T, name)(const RowsTile* t, const T* const* x, const T* t_mask, const T* w,          \
                               const T* start, ptrdiff_t at, ptrdiff_t vectors, T* const* y) {             \
        const ptrdiff_t x_step = t->x_step;                                                                \
        const LINE(T) first = *(const LINE(T)*)start;                                                      \
        ptrdiff_t x_at = at, y_at = at;                                                                    \
        for (; vectors >= 2; vectors -= 2, x_at += 2 * x_step, y_at += 2 * t->y_step) ROWS_TILE(M, 2, W, X) \
        if (vectors) ROWS_TILE(M, 1, W, X)                                                                 \
    }

/* dot[s][j] += sum_{m, g} dy[m][g] * x[m + j][g + columns[s]], lane by lane. Of the last vector only `rest` lanes are
 * summed: both are masked there, for zero times NaN is NaN. */
#define ROWS_DOTS(M, N, S)                                                                                 \
    {                                                                                                      \
        LINE(T) sum[S][N];                                                                                 \
        _Pragma("GCC unroll 3") for (int s = 0; s < S; s++)                                                \
            _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                            \
                sum[s][j] = *(const LINE(T)*)(dot + (s * N + j) * ROWS_LANES(T));                          \
        for (ptrdiff_t g = 0; g < vectors; g++) {                                                          \
            const u32_line below = g < vectors - 1 ? ~(u32_line){0} : last;                                \
            LINE(T) d[M];                                                                                  \
            _Pragma("GCC unroll 4") for (int m = 0; m < M; m++)                                            \
                d[m] = (LINE(T))(*(const u32_line*)(dy[m] + at + g * t->y_step) & below);                  \
            _Pragma("GCC unroll 3") for (int s = 0; s < S; s++) {                                          \
                const ptrdiff_t place = t->columns[s] + at + g * t->x_step;                                \
                u32_line inside = below;                                                                   \
                if (t_mask) inside &= *(const u32_line*)(t_mask + place);                                  \
                _Pragma("GCC unroll 8") for (int i = 0; i < M + N - 1; i++) {                              \
                    const LINE(T) v = (LINE(T))(*(const u32_line*)(x[i] + place) & inside);                \
                    _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                    \
                        if (i - j >= 0 && i - j < M) sum[s][j] += d[i - j] * v;                            \
                }                                                                                          \
            }                                                                                              \
        }                                                                                                  \
        _Pragma("GCC unroll 3") for (int s = 0; s < S; s++)                                                \
            _Pragma("GCC unroll 5") for (int j = 0; j < N; j++)                                            \
                *(LINE(T)*)(dot + (s * N + j) * ROWS_LANES(T)) = sum[s][j];                                \
    }
#define ROWS_DOTS_S(M, N)                                 \
    switch (t->ncolumns) {                                \
        case 1: ROWS_DOTS(M, N, 1) break;                 \
        case 2: ROWS_DOTS(M, N, 2) break;                 \
        default: ROWS_DOTS(M, N, DOTS_S)                  \
    }                                                     \
    break;
#define ROWS_DOTS_N(M)                                    \
    switch (t->taps[0]) {                                 \
        case 1: ROWS_DOTS_S(M, 1)                         \
        case 2: ROWS_DOTS_S(M, 2)                         \
        case 3: ROWS_DOTS_S(M, 3)                         \
        case 4: ROWS_DOTS_S(M, 4)                         \
        default: ROWS_DOTS_S(M, 5)                        \
    }

#endif

ROWS_FUNCTION(rows_one, ROWS_M, ROWS_ONE, ROWS_PLAIN)
ROWS_FUNCTION(rows_one_half, ROWS_M / 2, ROWS_ONE, ROWS_PLAIN)
ROWS_FUNCTION(rows_masked, ROWS_M, ROWS_ONE, ROWS_MASKED)
ROWS_FUNCTION(rows_masked_half, ROWS_M / 2, ROWS_ONE, ROWS_MASKED)
ROWS_FUNCTION(rows_each, ROWS_M, ROWS_EACH, ROWS_PLAIN)
ROWS_FUNCTION(rows_each_half, ROWS_M / 2, ROWS_EACH, ROWS_PLAIN)

/* Up to ROWS_M rows of outputs; y holds as many lines as the tile has rows, ROWS_M / 2 if these are enough.
 * mask: NULL, or a line of zeros and of ones in every bit, read at the places where x is. */
static void PASTE(T, rows_tile)(const RowsTile* t, int each, ptrdiff_t rows, const T* const* x, const T* mask, const T* w,
                                const T* start, ptrdiff_t at, ptrdiff_t vectors, T* const* y) {
    if (rows > ROWS_M / 2)
        (each ? PASTE(T, rows_each) : mask ? PASTE(T, rows_masked) : PASTE(T, rows_one))(t, x, mask, w, start, at,
                                                                                         vectors, y);
    else
        (each ? PASTE(T, rows_each_half) : mask ? PASTE(T, rows_masked_half) : PASTE(T, rows_one_half))(
            t, x, mask, w, start, at, vectors, y);
}

/* One chunk of rows and at most DOTS_S columns of taps, for 1 or DOTS_M rows of dy. */
static void PASTE(T, rows_dots)(const RowsTile* t, const T* const* x, const T* t_mask, const T* const* dy, ptrdiff_t rows,
                                ptrdiff_t at, ptrdiff_t vectors, ptrdiff_t rest, T* dot) {
    uint32_t lanes[ROWS_BYTES / 4];
    for (ptrdiff_t b = 0; b < ROWS_BYTES / 4; b++) lanes[b] = b * 4 < rest * (ptrdiff_t)sizeof(T) ? UINT32_MAX : 0;
    const u32_line last = *(const u32_line*)lanes;
    if (rows == DOTS_M)
        ROWS_DOTS_N(DOTS_M)
    else
        ROWS_DOTS_N(1)
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
        *(LINE(T)*)(even + i) = ROWS_SHUFFLE(EVEN, T, a, b);
        *(LINE(T)*)(odd + i) = ROWS_SHUFFLE(ODD, T, a, b);
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

/* out[2 * i] = even[i], out[2 * i + 1] = odd[i] */
static inline void PASTE(T, rows_zip)(const T* even, const T* odd, ptrdiff_t n, T* out) {
    const ptrdiff_t lanes = ROWS_LANES(T);
    if (n < lanes) {
        for (ptrdiff_t i = 0; i < n; i++) out[2 * i] = even[i], out[2 * i + 1] = odd[i];
        return;
    }
    for (ptrdiff_t i = 0;; i = i + lanes < n - lanes ? i + lanes : n - lanes) {
        const LINE(T) a = *(const LINE(T)*)(even + i), b = *(const LINE(T)*)(odd + i);
        *(LINE(T)*)(out + 2 * i) = ROWS_SHUFFLE(LOW, T, a, b);
        *(LINE(T)*)(out + 2 * i + lanes) = ROWS_SHUFFLE(HIGH, T, a, b);
        if (i == n - lanes) return;
    }
}
