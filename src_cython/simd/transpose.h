/* L x L transposes in registers and what they are for: L channels of a plane-by-plane image as vectors of channels,
 * for one element type T, L = LANES(T).
 *
 *   T_load_columns     out[j][l] = x[l*channel + j]      j < count, l < lanes; zeros for lanes <= l < L
 *   T_store_columns    y[l*channel + j] = in[j][l]       j < count, l < lanes
 *
 * Nothing is written beyond count and lanes; reading may go on to `end`, one past the last element of x's buffer, so
 * that short rows still load as whole vectors. A transpose is log2(L) rounds of the same zip of the upper and the lower
 * half. Knows no convolution.
 */
#include "vector.h"

#ifndef FASTCONV_ZIP
#define LOW_2 0, 2
#define HIGH_2 1, 3
#define LOW_4 0, 4, 1, 5
#define HIGH_4 2, 6, 3, 7
#define LOW_8 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_8 4, 12, 5, 13, 6, 14, 7, 15
#define LOW_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#if VECTOR_BYTES == 64
#define LANES_f32 16
#define LANES_f64 8
#define LANES_u64 8
#elif VECTOR_BYTES == 32
#define LANES_f32 8
#define LANES_f64 4
#define LANES_u64 4
#else
#define LANES_f32 4
#define LANES_f64 2
#define LANES_u64 2
#endif
#define FASTCONV_ZIP(half, a, b) FASTCONV_ZIP_(half, PASTE__(LANES, T), a, b)
#define PASTE__(a, b) PASTE(a, b)
#define FASTCONV_ZIP_(half, lanes, a, b) FASTCONV_ZIP__(PASTE(half, lanes), a, b)
#define FASTCONV_ZIP__(order, a, b) __builtin_shufflevector(a, b, order)
#endif

static inline __attribute__((always_inline)) void PASTE(T, transpose)(V(T) * v) {
    V(T) zipped[PASTE__(LANES, T)];
    _Pragma("GCC unroll 4") for (int round = 1; round < LANES(T); round *= 2) {
        _Pragma("GCC unroll 8") for (int i = 0; i < LANES(T) / 2; i++) {
            zipped[2 * i] = FASTCONV_ZIP(LOW, v[i], v[i + LANES(T) / 2]);
            zipped[2 * i + 1] = FASTCONV_ZIP(HIGH, v[i], v[i + LANES(T) / 2]);
        }
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES(T); i++) v[i] = zipped[i];
    }
}

static void PASTE(T, load_columns)(const T* x, ptrdiff_t channel, ptrdiff_t lanes, ptrdiff_t count, const T* end,
                                  T* out) {
    V(T) v[PASTE__(LANES, T)];
    for (ptrdiff_t j = 0; j < count; j += LANES(T)) {
        if (count - j < LANES(T) && count >= LANES(T)) j = count - LANES(T); /* the last block overlaps */
        const ptrdiff_t width = count - j < LANES(T) ? count - j : LANES(T);
        for (ptrdiff_t l = 0; l < LANES(T); l++) {
            if (l >= lanes)
                v[l] = (V(T)){0};
            else if (width == LANES(T) || end - (x + l * channel + j) >= LANES(T))
                v[l] = *(const V(T)*)(x + l * channel + j);
            else {
                T rest[PASTE__(LANES, T)] = {0};
                for (ptrdiff_t i = 0; i < width; i++) rest[i] = x[l * channel + j + i];
                v[l] = *(const V(T)*)rest;
            }
        }
        PASTE(T, transpose)(v);
        for (ptrdiff_t i = 0; i < width; i++) *(V(T)*)(out + (j + i) * LANES(T)) = v[i];
    }
}

static void PASTE(T, store_columns)(const T* in, ptrdiff_t count, ptrdiff_t lanes, ptrdiff_t channel, T* y) {
    V(T) v[PASTE__(LANES, T)];
    for (ptrdiff_t j = 0; j < count; j += LANES(T)) {
        if (count - j < LANES(T) && count >= LANES(T)) j = count - LANES(T);
        const ptrdiff_t width = count - j < LANES(T) ? count - j : LANES(T);
        for (ptrdiff_t i = 0; i < LANES(T); i++) v[i] = *(const V(T)*)(in + (j + (i < width ? i : 0)) * LANES(T));
        PASTE(T, transpose)(v);
        for (ptrdiff_t l = 0; l < lanes; l++) {
            if (width == LANES(T))
                *(V(T)*)(y + l * channel + j) = v[l];
            else
                memcpy(y + l * channel + j, &v[l], width * sizeof(T));
        }
    }
}
