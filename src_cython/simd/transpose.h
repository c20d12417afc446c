/* L x L transposes in registers and what they are for: L channels of a plane-by-plane image as vectors of channels,
 * for one element type T, L = LANES(T).
 *
 *   T_load_columns     out[j][l] = x[l*channel + j*step]      j < count, l < lanes; zeros for lanes <= l < L; step > 0
 *   T_store_columns    y[l*channel + j*step] = in[j][l]       j < count, l < lanes
 *
 * Nothing is written beyond count and lanes; reading may go on to `end`, one past the last element of x's buffer, so
 * that short rows still load as whole vectors. A transpose is log2(L) rounds, in place: in round s every two vectors s
 * apart exchange blocks of s lanes. Knows no convolution.
 */
#include "vector.h"

#ifndef FASTCONV_TRANSPOSE
#define FASTCONV_TRANSPOSE
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
#define PASTE__(a, b) PASTE(a, b)
/* Lane l of the two vectors a, b (L lanes each) that exchange their off-diagonal blocks of s lanes. */
#define UPPER(L, s, l) ((l) & (s) ? (L) + (l) - (s) : (l))
#define LOWER(L, s, l) ((l) & (s) ? (L) + (l) : ((l) + (s)) % (L))
#define ALL_2(lane, s) lane(2, s, 0), lane(2, s, 1)
#define ALL_4(lane, s) lane(4, s, 0), lane(4, s, 1), lane(4, s, 2), lane(4, s, 3)
#define ALL_8(lane, s) lane(8, s, 0), lane(8, s, 1), lane(8, s, 2), lane(8, s, 3), lane(8, s, 4), lane(8, s, 5), lane(8, s, 6), lane(8, s, 7)
#define ALL_16(lane, s)                                                                                             \
    lane(16, s, 0), lane(16, s, 1), lane(16, s, 2), lane(16, s, 3), lane(16, s, 4), lane(16, s, 5), lane(16, s, 6), \
        lane(16, s, 7), lane(16, s, 8), lane(16, s, 9), lane(16, s, 10), lane(16, s, 11), lane(16, s, 12),          \
        lane(16, s, 13), lane(16, s, 14), lane(16, s, 15)
#define COLUMN(L, j, l) x[(l) * channel + (j)]
#define EVERY_2(L, s, l) (2 * (l))
#define EXCHANGE(s)                                                                              \
    if (s < LANES(T)) _Pragma("GCC unroll 16") for (int i = 0; i < LANES(T); i++) if (!(i & s)) { \
        const V(T) a = v[i], b = v[(i + s) % LANES(T)];                                          \
        v[i] = __builtin_shufflevector(a, b, PASTE__(ALL, PASTE__(LANES, T))(UPPER, s));         \
        v[(i + s) % LANES(T)] = __builtin_shufflevector(a, b, PASTE__(ALL, PASTE__(LANES, T))(LOWER, s)); \
    }
#endif

static inline __attribute__((always_inline)) void PASTE(T, transpose)(V(T) * v) {
    EXCHANGE(8)
    EXCHANGE(4)
    EXCHANGE(2)
    EXCHANGE(1)
}

/* One block of `width` columns. Inlined with whole extents, too: then the rows go straight into registers. */
static inline __attribute__((always_inline)) void PASTE(T, load_block)(const T* x, ptrdiff_t channel, ptrdiff_t lanes,
                                                                       ptrdiff_t width, const T* end, T* out) {
    V(T) v[PASTE__(LANES, T)];
    _Pragma("GCC unroll 16") for (ptrdiff_t l = 0; l < LANES(T); l++) {
        if (l >= lanes)
            v[l] = (V(T)){0};
        else if (width == LANES(T) || end - (x + l * channel) >= LANES(T))
            v[l] = *(const V(T)*)(x + l * channel);
        else {
            T rest[PASTE__(LANES, T)] = {0};
            for (ptrdiff_t i = 0; i < width; i++) rest[i] = x[l * channel + i];
            v[l] = *(const V(T)*)rest;
        }
    }
    PASTE(T, transpose)(v);
    _Pragma("GCC unroll 16") for (ptrdiff_t i = 0; i < LANES(T); i++)
        if (i < width) *(V(T)*)(out + i * LANES(T)) = v[i];
}

static inline __attribute__((always_inline)) void PASTE(T, store_block)(const T* in, ptrdiff_t width, ptrdiff_t inside,
                                                                        ptrdiff_t lanes, ptrdiff_t channel, T* y) {
    V(T) v[PASTE__(LANES, T)];
    _Pragma("GCC unroll 16") for (ptrdiff_t i = 0; i < LANES(T); i++)
        v[i] = *(const V(T)*)(in + (i < inside ? i : 0) * LANES(T));
    PASTE(T, transpose)(v);
    _Pragma("GCC unroll 16") for (ptrdiff_t l = 0; l < LANES(T); l++) {
        if (l >= lanes) continue;
        if (width == LANES(T))
            *(V(T)*)(y + l * channel) = v[l];
        else
            memcpy(y + l * channel, &v[l], width * sizeof(T));
    }
}

/* A block of every second column. */
static inline void PASTE(T, load_every_2)(const T* x, ptrdiff_t channel, T* out) {
    V(T) v[PASTE__(LANES, T)];
    _Pragma("GCC unroll 16") for (ptrdiff_t l = 0; l < LANES(T); l++) {
        const T* row = x + l * channel;
        const V(T) a = *(const V(T)*)row, b = *(const V(T)*)(row + LANES(T));
        v[l] = __builtin_shufflevector(a, b, PASTE__(ALL, PASTE__(LANES, T))(EVERY_2, 0));
    }
    PASTE(T, transpose)(v);
    _Pragma("GCC unroll 16") for (ptrdiff_t i = 0; i < LANES(T); i++) *(V(T)*)(out + i * LANES(T)) = v[i];
}

static void PASTE(T, load_columns)(const T* x, ptrdiff_t channel, ptrdiff_t lanes, ptrdiff_t count, ptrdiff_t step,
                                  const T* end, T* out) {
    const T* last = x + (channel > 0 ? (LANES(T) - 1) * channel : 0); /* the row that ends last */
    for (; step == 2 && lanes == LANES(T) && count >= LANES(T) && end - last >= 2 * LANES(T); count -= LANES(T)) {
        PASTE(T, load_every_2)(x, channel, out);
        x += 2 * LANES(T), last += 2 * LANES(T), out += LANES(T) * LANES(T);
    }
    if (step > 1) { /* blocks of columns as they lie, of which every step-th is wanted */
        T block[PASTE__(LANES, T) * PASTE__(LANES, T)];
        for (ptrdiff_t j = 0; j < count; out += LANES(T), j++) {
            const ptrdiff_t i = j % ((LANES(T) - 1) / step + 1) * step, rest = (count - 1 - j) * step + 1;
            if (i == 0) PASTE(T, load_block)(x + j * step, channel, lanes, rest < LANES(T) ? rest : LANES(T), end, block);
            memcpy(out, block + i * LANES(T), sizeof(V(T)));
        }
        return;
    }
    for (ptrdiff_t j = 0; j < count; j += LANES(T)) {
        if (count - j == 1 && lanes == LANES(T)) { /* as of nine taps: not worth a block */
            *(V(T)*)(out + j * LANES(T)) = (V(T)){PASTE__(ALL, PASTE__(LANES, T))(COLUMN, j)};
            break;
        }
        if (count - j < LANES(T) && count >= LANES(T)) j = count - LANES(T); /* the last block overlaps */
        if (count - j >= LANES(T) && lanes == LANES(T))
            PASTE(T, load_block)(x + j, channel, LANES(T), LANES(T), end, out + j * LANES(T));
        else
            PASTE(T, load_block)(x + j, channel, lanes, count - j < LANES(T) ? count - j : LANES(T), end, out + j * LANES(T));
    }
}

static void PASTE(T, store_columns)(const T* in, ptrdiff_t count, ptrdiff_t lanes, ptrdiff_t channel, ptrdiff_t step,
                                   T* y) {
    for (ptrdiff_t j = 0; j < count; j += LANES(T)) {
        if (count - j < LANES(T) && count >= LANES(T)) j = count - LANES(T);
        const ptrdiff_t width = count - j < LANES(T) ? count - j : LANES(T);
        if (step != 1) {
            T block[PASTE__(LANES, T) * PASTE__(LANES, T)];
            PASTE(T, store_block)(in + j * LANES(T), LANES(T), width, LANES(T), LANES(T), block);
            for (ptrdiff_t l = 0; l < lanes; l++)
                for (ptrdiff_t i = 0; i < width; i++) y[l * channel + (j + i) * step] = block[l * LANES(T) + i];
        } else if (width == LANES(T) && lanes == LANES(T))
            PASTE(T, store_block)(in + j * LANES(T), LANES(T), LANES(T), LANES(T), channel, y + j);
        else
            PASTE(T, store_block)(in + j * LANES(T), width, width, lanes, channel, y + j);
    }
}
