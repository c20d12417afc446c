/* One tap of a row of maxima: lane[i] = max(lane[i], x[i*step]), the first NaN above all; at[i] = tap where it
   won.

   Compilers turn the plain loop into vectors too, but leave its rest, and the end of a strided load, to scalar
   code whose branches can't be predicted. Here the last vector overlaps the one before (to meet a pixel twice is
   no harm), and fewer lanes than a vector holds go by a shorter one. Nothing beyond x[(n-1)*step] is read.
   32 bytes are the widest vector on every machine: rows are short, and overlapping or misaligned ones of 64 bytes
   cost more than they save.

   step 2, four lanes: the second load starts one pixel early, so as not to reach beyond the last lane's pixel.

       x        0 1 2 3 4 5 6
       loads   [0 1 2 3]                  even places of the first, odd ones of the second:  0 2 4 6
                     [3 4 5 6]
*/
#ifndef FASTCONV_MAX_LANES_H
#define FASTCONV_MAX_LANES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __clang__
#define PICK(index, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(index, a, b, ...) __builtin_shuffle(a, b, (index){__VA_ARGS__})
#endif

/* name, value, integer of its width, lanes L, and the places of x[0], x[2], ... in the two loads */
#define DEFINE_MAX_VECTOR(name, T, I, L, ...) \
    typedef T name##_value __attribute__((vector_size((L) * sizeof(T)), aligned(sizeof(T)), may_alias)); \
    typedef I name##_bits __attribute__((vector_size((L) * sizeof(T)), aligned(sizeof(T)), may_alias)); \
    static inline __attribute__((always_inline)) void name##_meet( \
        const T *x, ptrdiff_t step, T *lane, I *at, I tap) \
    { \
        name##_value v, best = *(const name##_value *)lane; \
        if (step == 1) \
            v = *(const name##_value *)x; \
        else if (step == 2) \
            v = PICK(name##_bits, *(const name##_value *)x, *(const name##_value *)(x + (L) - 1), __VA_ARGS__); \
        else \
            for (int i = 0; i < (L); i++) \
                v[i] = x[i * step]; \
        name##_bits wins = ~(v <= best) & (best == best); \
        *(name##_bits *)lane = (wins & (name##_bits)v) | (~wins & (name##_bits)best); \
        if (at) \
            *(name##_bits *)at = (wins & tap) | (~wins & *(const name##_bits *)at); \
    } \
    static inline __attribute__((always_inline)) void name##_row( \
        const T *x, ptrdiff_t step, ptrdiff_t n, T *lane, I *at, I tap) /* n >= L */ \
    { \
        for (ptrdiff_t i = 0; i < n - (L); i += (L)) \
            name##_meet(x + i * step, step, lane + i, at ? at + i : NULL, tap); \
        name##_meet(x + (n - (L)) * step, step, lane + n - (L), at ? at + n - (L) : NULL, tap); \
    }

DEFINE_MAX_VECTOR(f32x4, float, int32_t, 4, 0, 2, 5, 7)
DEFINE_MAX_VECTOR(f64x2, double, int64_t, 2, 0, 3)
#ifdef __AVX2__
DEFINE_MAX_VECTOR(f32x8, float, int32_t, 8, 0, 2, 4, 6, 9, 11, 13, 15)
DEFINE_MAX_VECTOR(f64x4, double, int64_t, 4, 0, 2, 5, 7)
#endif

/* Inlined with constant step, and at either NULL or not. */
static inline __attribute__((always_inline)) void max_lanes_f32(
    const float *x, ptrdiff_t step, ptrdiff_t n, float *lane, int32_t *at, int32_t tap)
{
#ifdef __AVX2__
    if (n >= 8) {
        f32x8_row(x, step, n, lane, at, tap);
        return;
    }
#endif
    if (n >= 4) {
        f32x4_row(x, step, n, lane, at, tap);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        if (!(x[i * step] <= lane[i]) && lane[i] == lane[i]) {
            lane[i] = x[i * step];
            if (at)
                at[i] = tap;
        }
}

static inline __attribute__((always_inline)) void max_lanes_f64(
    const double *x, ptrdiff_t step, ptrdiff_t n, double *lane, int64_t *at, int64_t tap)
{
#ifdef __AVX2__
    if (n >= 4) {
        f64x4_row(x, step, n, lane, at, tap);
        return;
    }
#endif
    if (n >= 2) {
        f64x2_row(x, step, n, lane, at, tap);
        return;
    }
    if (n == 1 && !(x[0] <= lane[0]) && lane[0] == lane[0]) {
        lane[0] = x[0];
        if (at)
            at[0] = tap;
    }
}

#endif
