/* Register tiles of the direct method, for one element type T (f32, f64 or u64). No boundary, stride or shape:
 * src_cython/direct.pyx lays the image out so that every filter tap is one offset (see its picture).
 *
 *   T_direct_tile       acc[k][i] += sum_t w[t][k] * x[taps[t] + i]      k < DIRECT_K, 0 <= i < length
 *   T_direct_tile_1     the same for one filter
 *   T_direct_dots       dot[k][t] += sum_{p,q} dy[k][p*Q' + q] * x[taps[t] + p*pitch + q]
 *
 * DIRECT_K filters x 2 vectors of accumulators stay in registers while all taps pass by.
 */
#include "vector.h"

#ifndef DIRECT_K
#define DIRECT_K (VECTOR_REGISTERS == 32 ? 8 : 4) /* filters of one tile */
#define DIRECT_T (VECTOR_REGISTERS == 32 ? 4 : 2) /* taps of one weight-gradient tile, by DIRECT_D rows of dy */
#define DIRECT_D 4
#endif

/* One column of the tile: K filters x U vectors at position i. */
#define DIRECT_COLUMN(K, U)                                                                          \
    {                                                                                                \
        V(T) sum[K][U];                                                                              \
        _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)                                          \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++)                                      \
                sum[k][u] = *(const V(T)*)(acc + k * ld + i + u * LANES(T));                         \
        for (ptrdiff_t t = 0; t < ntaps; t++) {                                                      \
            const T* at = x + taps[t] + i;                                                           \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++) {                                    \
                const V(T) v = *(const V(T)*)(at + u * LANES(T));                                    \
                _Pragma("GCC unroll 8") for (int k = 0; k < K; k++) sum[k][u] += w[t * K + k] * v;   \
            }                                                                                        \
        }                                                                                            \
        _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)                                          \
            _Pragma("GCC unroll 2") for (int u = 0; u < U; u++)                                      \
                *(V(T)*)(acc + k * ld + i + u * LANES(T)) = sum[k][u];                               \
    }

/* length is rounded up to whole vectors: acc and x must reach that far; what lies there is arbitrary. */
static void PASTE(T, direct_tile)(const T* x, const ptrdiff_t* taps, ptrdiff_t ntaps, const T* w, T* acc,
                                  ptrdiff_t ld, ptrdiff_t length) {
    ptrdiff_t i = 0;
    for (; i + LANES(T) < length; i += 2 * LANES(T)) DIRECT_COLUMN(DIRECT_K, 2)
    if (i < length) DIRECT_COLUMN(DIRECT_K, 1)
}

static void PASTE(T, direct_tile_1)(const T* x, const ptrdiff_t* taps, ptrdiff_t ntaps, const T* w, T* acc,
                                    ptrdiff_t ld, ptrdiff_t length) {
    ptrdiff_t i = 0;
    for (; i + LANES(T) < length; i += 2 * LANES(T)) DIRECT_COLUMN(1, 2)
    if (i < length) DIRECT_COLUMN(1, 1)
}

/* dot (vectors, [DIRECT_D][DIRECT_T]): partial sums, lane by lane. dy rows are zero beyond Q; x there may hold
 * anything, NaN too, so its last vector is masked. `rest` is the mask of the lanes below Q in that vector. */
static void PASTE(T, direct_dots)(const T* x, const ptrdiff_t* taps, ptrdiff_t pitch, const T* dy, ptrdiff_t dy_filter,
                                  ptrdiff_t dy_row, ptrdiff_t rows, ptrdiff_t columns, T* dot) {
    V(T) sum[DIRECT_D][DIRECT_T];
    uint32_t lanes[VECTOR_BYTES / 4];
    const ptrdiff_t whole = (columns - 1) / LANES(T) * LANES(T);
    for (ptrdiff_t b = 0; b < VECTOR_BYTES / 4; b++)
        lanes[b] = b * 4 < (columns - whole) * (ptrdiff_t)sizeof(T) ? UINT32_MAX : 0;
    const u32_vector rest = *(const u32_vector*)lanes;
    _Pragma("GCC unroll 4") for (int k = 0; k < DIRECT_D; k++)
        _Pragma("GCC unroll 4") for (int t = 0; t < DIRECT_T; t++)
            sum[k][t] = *(const V(T)*)(dot + (k * DIRECT_T + t) * LANES(T));
    for (ptrdiff_t p = 0; p < rows; p++)
        for (ptrdiff_t q = 0; q <= whole; q += LANES(T)) {
            V(T) v[DIRECT_T];
            const u32_vector mask = q < whole ? ~(u32_vector){0} : rest;
            _Pragma("GCC unroll 4") for (int t = 0; t < DIRECT_T; t++)
                v[t] = (V(T))(*(const u32_vector*)(x + taps[t] + p * pitch + q) & mask);
            _Pragma("GCC unroll 4") for (int k = 0; k < DIRECT_D; k++) {
                const V(T) d = *(const V(T)*)(dy + k * dy_filter + p * dy_row + q);
                _Pragma("GCC unroll 4") for (int t = 0; t < DIRECT_T; t++) sum[k][t] += d * v[t];
            }
        }
    _Pragma("GCC unroll 4") for (int k = 0; k < DIRECT_D; k++)
        _Pragma("GCC unroll 4") for (int t = 0; t < DIRECT_T; t++)
            *(V(T)*)(dot + (k * DIRECT_T + t) * LANES(T)) = sum[k][t];
}
