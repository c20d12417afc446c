/* Register tiles of the separable method, for one element type T (f32, f64 or u64). No boundary, stride or shape.
 *
 *   T_separable_row        y[i] (+)= sum_t w[t] * x[taps[t] + i]                           0 <= i < length
 *   T_separable_columns    y[b][i]  = start + sum_m sum_r w[m][r] * rows[m][r + b][i]      b < SEPARABLE_LINES
 *   T_separable_column     the same for b = 0 alone
 *
 * Along a row every multiply-add has a load of its own, at any alignment, and the accumulators only hide its latency.
 * Down the columns the lines of a tile share the rows that they both read: row i meets line b under tap i - b.
 */
#include "vector.h"

#ifndef SEPARABLE_LINES
#define SEPARABLE_LINES 4
#define SEPARABLE_WIDTH (VECTOR_REGISTERS == 32 ? 4 : 2) /* vectors of a line: sums + a row of vectors + broadcast */
#endif

#define SEPARABLE_ROW(U)                                                                             \
    {                                                                                                \
        V(T) sum[U];                                                                                 \
        _Pragma("GCC unroll 8") for (int u = 0; u < U; u++)                                          \
            sum[u] = add ? *(const V(T)*)(y + i + u * LANES(T)) : (V(T)){0};                         \
        _Pragma("GCC unroll 8") for (int u = 0; u < U; u++)                                          \
            __builtin_prefetch(next + (i + u * LANES(T)) * pixel);                                   \
        for (ptrdiff_t t = 0; t < ntaps; t++) {                                                      \
            const T* at = x + taps[t] + i;                                                           \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++)                                      \
                sum[u] += w[t] * *(const V(T)*)(at + u * LANES(T));                                  \
        }                                                                                            \
        _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) *(V(T)*)(y + i + u * LANES(T)) = sum[u]; \
    }

/* length is rounded up to two whole vectors: x and y must reach that far; what lies there is arbitrary. Meanwhile the
 * image's next row is fetched, output i's part of it from next + i * pixel. */
static void PASTE(T, separable_row)(const T* x, const ptrdiff_t* taps, ptrdiff_t ntaps, const T* w, T* y,
                                    ptrdiff_t length, int add, const char* next, ptrdiff_t pixel) {
    ptrdiff_t i = 0;
    for (; i + 6 * LANES(T) < length; i += 8 * LANES(T)) SEPARABLE_ROW(8)
    for (; i < length; i += 2 * LANES(T)) SEPARABLE_ROW(2)
}

/* Row r of U vectors, into the sums of the lines from `first` up to `last`. */
#define SEPARABLE_ADD(LINES, U, first, last)                                                                \
    {                                                                                                \
        V(T) v[U];                                                                                   \
        _Pragma("GCC unroll 8") for (int u = 0; u < U; u++)                                          \
            v[u] = *(const V(T)*)(row[r] + i + u * LANES(T));                                        \
        _Pragma("GCC unroll 4") for (int b = 0; b < LINES; b++) /* constant subscripts, whatever r */ \
            if (first <= b && b < last)                                                              \
                _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) sum[b][u] += at[r - b] * v[u];   \
    }

/* One column of the tile: LINES lines of U vectors at position i. The last vector may jut out over the line's end. */
#define SEPARABLE_COLUMN(LINES, U)                                                                   \
    {                                                                                                \
        V(T) sum[LINES][U];                                                                          \
        _Pragma("GCC unroll 4") for (int b = 0; b < LINES; b++)                                      \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) sum[b][u] = start - (V(T)){0};       \
        for (ptrdiff_t m = 0; m < terms; m++) {                                                      \
            const T* const* row = rows + m * (R + LINES - 1);                                        \
            const T* at = w + m * R;                                                                 \
            ptrdiff_t r = 0;                                                                         \
            _Pragma("GCC unroll 4") for (; r < LINES - 1; r++) SEPARABLE_ADD(LINES, U, 0, r + 1)            \
            for (; r < R; r++) {                                                                     \
                __asm__("" : "+r"(at)); /* weights come from memory, not by way of other registers */ \
                SEPARABLE_ADD(LINES, U, 0, LINES)                                                    \
            }                                                                                        \
            _Pragma("GCC unroll 4") for (int k = 1; k < LINES; k++, r++) SEPARABLE_ADD(LINES, U, k, LINES)  \
        }                                                                                            \
        T beyond[LINES][LANES(T)];                                                                   \
        const int inside = i + U * LANES(T) <= length;                                               \
        T* to = inside ? y + i : beyond[0];                                                          \
        const ptrdiff_t step = inside ? ld : LANES(T);                                               \
        _Pragma("GCC unroll 4") for (int b = 0; b < LINES; b++)                                      \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++)                                      \
                *(V(T)*)(to + b * step + u * LANES(T)) = sum[b][u];                                  \
        if (!inside)                                                                                 \
            for (int b = 0; b < LINES; b++) memcpy(y + b * ld + i, beyond[b], (length - i) * sizeof(T)); \
    }

/* rows[terms][R + lines - 1]; R >= lines - 1. Nothing beyond length is written; rows must reach to the last vector's
 * end, what lies there is arbitrary. */
#define SEPARABLE_COLUMNS(name, LINES, WIDTH)                                                        \
    static void PASTE(T, name)(const T* const* rows, ptrdiff_t terms, ptrdiff_t R, const T* w, T start, T* y, \
                               ptrdiff_t ld, ptrdiff_t length) {                                     \
        ptrdiff_t i = 0;                                                                             \
        for (; i + WIDTH * LANES(T) <= length; i += WIDTH * LANES(T)) SEPARABLE_COLUMN(LINES, WIDTH) \
        for (; i < length; i += LANES(T)) SEPARABLE_COLUMN(LINES, 1)                                 \
    }
SEPARABLE_COLUMNS(separable_columns, SEPARABLE_LINES, SEPARABLE_WIDTH)
SEPARABLE_COLUMNS(separable_column, 1, 8)

/* Is no value of the lines NaN or infinite? */
static int PASTE(T, separable_finite)(const T* y, ptrdiff_t ld, ptrdiff_t lines, ptrdiff_t length) {
    V(T) nothing = {0};
    T rest = 0, lane[LANES(T)];
    for (ptrdiff_t b = 0; b < lines; b++) {
        ptrdiff_t i = 0;
        for (; i + LANES(T) <= length; i += LANES(T)) nothing += *(const V(T)*)(y + b * ld + i) * 0;
        for (; i < length; i++) rest += y[b * ld + i] * 0;
    }
    *(V(T)*)lane = nothing;
    for (int l = 0; l < LANES(T); l++) rest += lane[l];
    return rest == 0; /* zero times NaN or an infinity is NaN */
}
