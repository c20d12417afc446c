/* The products of Winograd's frequencies, for one element type T (f32 or f64).
 *
 *   T_wino_product    m[t][k] (+)= sum_c v[c][t] * u[c][k]           t < tiles, k < 2 vectors
 *       v   tiles in parts of at most WINO_TILES, channels in groups of L = LANES(T):
 *           v[t / part * step + (c / L * part + t % part) * L + c % L]   (as the transform left them)
 *       u   u[c*2L + k]        m   m[t*2L + k]
 *
 *   T_wino_outer      w[c][k] (+)= sum_t v[t][c] * d[t][k]             c < WINO_ROWS lanes of one group, k < 2 vectors
 *       v   v[t*L + c]         d   d[t*2L + k]                       w   w[c*2L + k]
 *
 * Sums run in one fixed order over c (over t), wherever a block of them begins. Knows no convolution.
 */
#include "vector.h"

#ifndef WINO_TILES
#define WINO_TILES (VECTOR_REGISTERS == 32 ? 14 : 6)
#endif
#define WINO_GROUPS (16384 / (2 * LANES(T) * VECTOR_BYTES)) /* groups of channels whose u fills half of L1 */
#define WINO_ROWS_OF(type) (LANES(type) >= 8 && VECTOR_REGISTERS == 32 ? 8 : LANES(type) >= 4 ? 4 : 2)
#define WINO_ROWS WINO_ROWS_OF(T)

#define WINO_PRODUCT_OF(N)                                                                                  \
    static void PASTE(T, wino_product_##N)(const T* v, ptrdiff_t group, ptrdiff_t groups, const T* u, T* m, int more) { \
        V(T) sum[N][2];                                                                                     \
        _Pragma("GCC unroll 14") for (int t = 0; t < N; t++) {                                              \
            sum[t][0] = more ? *(const V(T)*)(m + t * 2 * LANES(T)) : (V(T)){0};                            \
            sum[t][1] = more ? *(const V(T)*)(m + (t * 2 + 1) * LANES(T)) : (V(T)){0};                      \
        }                                                                                                   \
        for (; groups > 0; groups--, v += group)                                                            \
            for (ptrdiff_t c = 0; c < LANES(T); c++, u += 2 * LANES(T)) {                                   \
                const V(T) u0 = *(const V(T)*)u, u1 = *(const V(T)*)(u + LANES(T));                         \
                _Pragma("GCC unroll 14") for (int t = 0; t < N; t++) {                                      \
                    sum[t][0] += v[t * LANES(T) + c] * u0;                                                  \
                    sum[t][1] += v[t * LANES(T) + c] * u1;                                                  \
                }                                                                                           \
            }                                                                                               \
        _Pragma("GCC unroll 14") for (int t = 0; t < N; t++) {                                              \
            *(V(T)*)(m + t * 2 * LANES(T)) = sum[t][0];                                                     \
            *(V(T)*)(m + (t * 2 + 1) * LANES(T)) = sum[t][1];                                               \
        }                                                                                                   \
    }
WINO_PRODUCT_OF(1)
WINO_PRODUCT_OF(2)
WINO_PRODUCT_OF(3)
WINO_PRODUCT_OF(4)
WINO_PRODUCT_OF(5)
WINO_PRODUCT_OF(6)
#if VECTOR_REGISTERS == 32
WINO_PRODUCT_OF(7)
WINO_PRODUCT_OF(8)
WINO_PRODUCT_OF(9)
WINO_PRODUCT_OF(10)
WINO_PRODUCT_OF(11)
WINO_PRODUCT_OF(12)
WINO_PRODUCT_OF(13)
WINO_PRODUCT_OF(14)
#endif
#undef WINO_PRODUCT_OF

static void PASTE(T, wino_product)(ptrdiff_t tiles, ptrdiff_t part, const T* v, ptrdiff_t step, ptrdiff_t groups, const T* u,
                                   T* m, int more) {
    static void (*const of[])(const T*, ptrdiff_t, ptrdiff_t, const T*, T*, int) = {
        PASTE(T, wino_product_1), PASTE(T, wino_product_2), PASTE(T, wino_product_3), PASTE(T, wino_product_4),
        PASTE(T, wino_product_5), PASTE(T, wino_product_6),
#if VECTOR_REGISTERS == 32
        PASTE(T, wino_product_7), PASTE(T, wino_product_8), PASTE(T, wino_product_9), PASTE(T, wino_product_10),
        PASTE(T, wino_product_11), PASTE(T, wino_product_12), PASTE(T, wino_product_13), PASTE(T, wino_product_14),
#endif
    };
    for (ptrdiff_t g = 0, some; g < groups; g += some) {
        some = groups - g < WINO_GROUPS ? groups - g : WINO_GROUPS;
        for (ptrdiff_t t = 0; t < tiles; t += part)
            of[(tiles - t < part ? tiles - t : part) - 1](v + t / part * step + g * part * LANES(T), part * LANES(T), some,
                                                          u + g * 2 * LANES(T) * LANES(T), m + t * 2 * LANES(T), more || g);
    }
}

static void PASTE(T, wino_outer)(ptrdiff_t tiles, const T* v, const T* d, T* w, int more) {
    V(T) sum[WINO_ROWS][2];
    _Pragma("GCC unroll 8") for (int c = 0; c < WINO_ROWS; c++) {
        sum[c][0] = more ? *(const V(T)*)(w + c * 2 * LANES(T)) : (V(T)){0};
        sum[c][1] = more ? *(const V(T)*)(w + (c * 2 + 1) * LANES(T)) : (V(T)){0};
    }
    for (; tiles > 0; tiles--, v += LANES(T), d += 2 * LANES(T)) {
        const V(T) d0 = *(const V(T)*)d, d1 = *(const V(T)*)(d + LANES(T));
        _Pragma("GCC unroll 8") for (int c = 0; c < WINO_ROWS; c++) {
            sum[c][0] += v[c] * d0;
            sum[c][1] += v[c] * d1;
        }
    }
    _Pragma("GCC unroll 8") for (int c = 0; c < WINO_ROWS; c++) {
        *(V(T)*)(w + c * 2 * LANES(T)) = sum[c][0];
        *(V(T)*)(w + (c * 2 + 1) * LANES(T)) = sum[c][1];
    }
}
