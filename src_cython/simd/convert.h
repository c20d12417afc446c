/* Rows of numbers of one type, as another: conversion in passing, for one element type T (f32, f64 or u64).
 *
 *   T_take      out[i] = x[i]     from `kind`; x is `step` bytes apart
 *   T_give      out[i] = x[i]     to int64; out is `step` bytes apart; x holds whole numbers
 *
 * Loops of a constant step are loops that the compiler turns into vectors.
 */
#include "vector.h"

#ifndef FASTCONV_CONVERT_H
#define FASTCONV_CONVERT_H
enum { TAKE_SAME, TAKE_U8, TAKE_I8, TAKE_U16, TAKE_I16, TAKE_U32, TAKE_I32, TAKE_U64, TAKE_I64 };

#define TAKE(type, step)                                                                             \
    for (ptrdiff_t i = 0; i < n; i++) out[i] = (T)*(const type*)(x + i * (step))
#define TAKE_CASE(kind, type)                                                                        \
    case kind:                                                                                       \
        if (step == sizeof(type))                                                                    \
            TAKE(type, sizeof(type));                                                                \
        else                                                                                         \
            TAKE(type, step);                                                                        \
        break;

/* Whole numbers of float32, up to 2**24, by way of int32: every instruction set has vectors for that. */
#define GIVEN(v) _Generic((v), f32: (int64_t)(int32_t)(v), default: (int64_t)(v))
#endif

static void PASTE(T, take)(const char* x, ptrdiff_t step, int kind, ptrdiff_t n, T* restrict out) {
    switch (kind) {
        TAKE_CASE(TAKE_U8, uint8_t)
        TAKE_CASE(TAKE_I8, int8_t)
        TAKE_CASE(TAKE_U16, uint16_t)
        TAKE_CASE(TAKE_I16, int16_t)
        TAKE_CASE(TAKE_U32, uint32_t)
        TAKE_CASE(TAKE_I32, int32_t)
        TAKE_CASE(TAKE_U64, uint64_t)
        TAKE_CASE(TAKE_I64, int64_t)
        case TAKE_SAME:
            if (step == sizeof(T))
                memcpy(out, x, n * sizeof(T));
            else if (step == 2 * sizeof(T))
                TAKE(T, 2 * sizeof(T));
            else
                TAKE(T, step);
    }
}

static void PASTE(T, give)(const T* restrict x, ptrdiff_t n, char* restrict out, ptrdiff_t step) {
    if (step == sizeof(int64_t))
        for (ptrdiff_t i = 0; i < n; i++) ((int64_t*)out)[i] = GIVEN(x[i]);
    else
        for (ptrdiff_t i = 0; i < n; i++) *(int64_t*)(out + i * step) = GIVEN(x[i]);
}
