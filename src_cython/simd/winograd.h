/* The Winograd tiles for both floating-point types, and the choice among them by points, taps and outputs.
 * What src_cython/winograd.pyx includes. */
#ifndef FASTCONV_WINOGRAD_H
#define FASTCONV_WINOGRAD_H

#define WINO_CHOICE(T)                                                                                                            \
    static void T##_wino_input(ptrdiff_t points, const T* d, ptrdiff_t row, T* v, ptrdiff_t frequency) {                          \
        switch (points) {                                                                                                         \
        case 4: T##_wino4_input(d, row, v, frequency); break;                                                                     \
        case 5: T##_wino5_input(d, row, v, frequency); break;                                                                     \
        case 6: T##_wino6_input(d, row, v, frequency); break;                                                                     \
        case 8: T##_wino8_input(d, row, v, frequency); break;                                                                     \
        }                                                                                                                         \
    }                                                                                                                             \
    static void T##_wino_filter(ptrdiff_t points, ptrdiff_t rows, ptrdiff_t columns, const T* g, ptrdiff_t row, ptrdiff_t column, \
                                T* u, ptrdiff_t frequency) {                                                                      \
        switch (100 * points + 10 * rows + columns) {                                                                             \
        case 422: T##_wino4_filter_22(g, row, column, u, frequency); break;                                                       \
        case 433: T##_wino4_filter_33(g, row, column, u, frequency); break;                                                       \
        case 522: T##_wino5_filter_22(g, row, column, u, frequency); break;                                                       \
        case 521: T##_wino5_filter_21(g, row, column, u, frequency); break;                                                       \
        case 512: T##_wino5_filter_12(g, row, column, u, frequency); break;                                                       \
        case 511: T##_wino5_filter_11(g, row, column, u, frequency); break;                                                       \
        case 622: T##_wino6_filter_22(g, row, column, u, frequency); break;                                                       \
        case 623: T##_wino6_filter_23(g, row, column, u, frequency); break;                                                       \
        case 632: T##_wino6_filter_32(g, row, column, u, frequency); break;                                                       \
        case 633: T##_wino6_filter_33(g, row, column, u, frequency); break;                                                       \
        case 644: T##_wino6_filter_44(g, row, column, u, frequency); break;                                                       \
        case 655: T##_wino6_filter_55(g, row, column, u, frequency); break;                                                       \
        case 833: T##_wino8_filter_33(g, row, column, u, frequency); break;                                                       \
        case 844: T##_wino8_filter_44(g, row, column, u, frequency); break;                                                       \
        case 855: T##_wino8_filter_55(g, row, column, u, frequency); break;                                                       \
        case 866: T##_wino8_filter_66(g, row, column, u, frequency); break;                                                       \
        }                                                                                                                         \
    }                                                                                                                             \
    static void T##_wino_output(ptrdiff_t points, ptrdiff_t outputs, const T* m, ptrdiff_t frequency, const T* start, T* zeros,   \
                                T* y, ptrdiff_t row, ptrdiff_t column) {                                                          \
        switch (10 * points + outputs) {                                                                                          \
        case 42: T##_wino4_output_2(m, frequency, start, zeros, y, row, column); break;                                           \
        case 43: T##_wino4_output_3(m, frequency, start, zeros, y, row, column); break;                                           \
        case 54: T##_wino5_output_4(m, frequency, start, zeros, y, row, column); break;                                           \
        case 62: T##_wino6_output_2(m, frequency, start, zeros, y, row, column); break;                                           \
        case 63: T##_wino6_output_3(m, frequency, start, zeros, y, row, column); break;                                           \
        case 64: T##_wino6_output_4(m, frequency, start, zeros, y, row, column); break;                                           \
        case 65: T##_wino6_output_5(m, frequency, start, zeros, y, row, column); break;                                           \
        case 83: T##_wino8_output_3(m, frequency, start, zeros, y, row, column); break;                                           \
        case 84: T##_wino8_output_4(m, frequency, start, zeros, y, row, column); break;                                           \
        case 85: T##_wino8_output_5(m, frequency, start, zeros, y, row, column); break;                                           \
        case 86: T##_wino8_output_6(m, frequency, start, zeros, y, row, column); break;                                           \
        }                                                                                                                         \
    }

#define T f32
#include "transpose.h"
#include "winograd_product.h"
#define POINTS 4
#include "winograd_tile.h"
#undef POINTS
#define POINTS 5
#include "winograd_tile.h"
#undef POINTS
#define POINTS 6
#include "winograd_tile.h"
#undef POINTS
#define POINTS 8
#include "winograd_tile.h"
#undef POINTS
#undef T
WINO_CHOICE(f32)

#define T f64
#include "transpose.h"
#include "winograd_product.h"
#define POINTS 4
#include "winograd_tile.h"
#undef POINTS
#define POINTS 5
#include "winograd_tile.h"
#undef POINTS
#define POINTS 6
#include "winograd_tile.h"
#undef POINTS
#define POINTS 8
#include "winograd_tile.h"
#undef POINTS
#undef T
WINO_CHOICE(f64)

#endif
