/* Register tiles of the direct method, for one element type T (f32, f64 or u64). No boundary, stride or shape:
 * src_cython/direct.pyx lays the image out so that every filter tap is one offset (see its picture).
 *
 *   T_direct_tile       y[k*ld + at[i].y] = start[k] + sum_t w[t][k] * x[taps[t] + at[i].x]     k < filters
 *                       or += the sum, if start is NULL; one vector for each i < positions
 *   T_direct_dots       dot[k][t] += sum_i dy[k*ld + at[i].y] * x[taps[t] + at[i].x]     k < filters, t < DIRECT_U(filters)
 *                       lane by lane, i < positions; from i = whole on, of the lanes of the mask alone
 *
 * K filters x DIRECT_U(K) vectors of sums stay in registers while all taps pass by: each vector of x that is loaded
 * meets K weights, and each weight as many vectors. So do the dot products of K filters by as many taps.
 */
#include "vector.h"

#ifndef DIRECT_K
#define DIRECT_K (VECTOR_REGISTERS == 32 ? 8 : 4) /* filters of one tile, at the most */
#define DIRECT_MOST 8                             /* vectors of one filter, at the most: each has a pointer */
#if defined(__FMA__) || VECTOR_REGISTERS == 32
#define DIRECT_REST 1 /* registers beside the sums and a vector of x for each column of them: a weight */
#else
#define DIRECT_REST 2 /* and a product */
#endif
#define DIRECT_FIT(K) ((VECTOR_REGISTERS - DIRECT_REST) / (K + 1))
#define DIRECT_U(K) (DIRECT_FIT(K) < DIRECT_MOST ? DIRECT_FIT(K) : DIRECT_MOST)
/* The tile of K filters; a last one that isn't full reads places beyond `positions`, which repeat the last. */
#define DIRECT_TILE(K, U)                                                                            \
    for (ptrdiff_t i = 0; i < positions; i += U) {                                                   \
        V(T) sum[K][U];                                                                              \
        ptrdiff_t from[U];                                                                           \
        T* to[U];                                                                                    \
        _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) {                                        \
            from[u] = at[2 * (i + u)];                                                               \
            to[u] = y + at[2 * (i + u) + 1];                                                         \
        }                                                                                            \
        _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)                                          \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++)                                      \
                if (start) sum[k][u] = start[k] - (V(T)){0};                                         \
                else sum[k][u] = *(const V(T)*)(to[u] + k * ld);                                     \
        for (ptrdiff_t t = 0; t < ntaps; t++) {                                                      \
            const T* at_tap = x + taps[t];                                                           \
            V(T) v[U];                                                                               \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) v[u] = *(const V(T)*)(at_tap + from[u]);\
            _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)                                      \
                _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) sum[k][u] += w[t * K + k] * v[u];\
        }                                                                                            \
        _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)                                          \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) *(V(T)*)(to[u] + k * ld) = sum[k][u];\
    }

/* There is no register left for the mask: so the compiler must not know that it is the same each time. */
static inline const u32_vector* in_memory(const u32_vector* mask) {
    __asm__ volatile("" : "+r"(mask));
    return mask;
}

/* MASK(v): v, or the lanes of it that count. */
#define DIRECT_DOT(MASK)                                                                             \
    {                                                                                                \
        const T *x_at = x + at[2 * i], *dy_at = dy + at[2 * i + 1];                                  \
        _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) v[u] = MASK(*(const V(T)*)(x_at + taps[u]));\
        _Pragma("GCC unroll 8") for (int k = 0; k < K; k++) {                                        \
            const V(T) d = MASK(*(const V(T)*)(dy_at + k * ld));                                     \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++) sum[k][u] += d * v[u];               \
        }                                                                                            \
    }

#define DIRECT_DOTS(K_, U_)                                                                          \
    {                                                                                                \
        enum { K = K_, U = U_ };                                                                     \
        V(T) sum[K][U], v[U];                                                                        \
        ptrdiff_t i = 0;                                                                             \
        _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)                                          \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++)                                      \
                sum[k][u] = *(const V(T)*)(dot + (k * U + u) * LANES(T));                            \
        for (; i < whole; i++) DIRECT_DOT(DIRECT_WHOLE)                                              \
        for (; i < positions; i++) DIRECT_DOT(DIRECT_LANES)                                          \
        _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)                                          \
            _Pragma("GCC unroll 8") for (int u = 0; u < U; u++)                                      \
                *(V(T)*)(dot + (k * U + u) * LANES(T)) = sum[k][u];                                  \
    }

#define DIRECT_SUMS(K) case K: DIRECT_TILE(K, DIRECT_U(K)) break;
#define DIRECT_DOTS_OF(K) case K: DIRECT_DOTS(K, DIRECT_U(K)) break;
#define DIRECT_WHOLE(v) (v)
#define DIRECT_LANES(v) (V(T))(*(const u32_vector*)&(v) & *in_memory(lanes))
#if VECTOR_REGISTERS == 32
#define DIRECT_EACH(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#else
#define DIRECT_EACH(CASE) CASE(1) CASE(2) CASE(3) CASE(4)
#endif
#endif

static void PASTE(T, direct_tile)(int filters, const T* x, const ptrdiff_t* taps, ptrdiff_t ntaps, const T* w,
                                  const T* start, T* y, ptrdiff_t ld, const ptrdiff_t* at, ptrdiff_t positions) {
    switch (filters) {
        DIRECT_EACH(DIRECT_SUMS)
    }
}

static void PASTE(T, direct_dots)(int filters, const T* x, const ptrdiff_t* taps, const T* dy, ptrdiff_t ld,
                                  const ptrdiff_t* at, ptrdiff_t whole, ptrdiff_t positions, const T* mask, T* dot) {
    const u32_vector* lanes = (const u32_vector*)mask;
    switch (filters) {
        DIRECT_EACH(DIRECT_DOTS_OF)
    }
}
