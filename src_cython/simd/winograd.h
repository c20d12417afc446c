/* The Winograd tiles for both floating-point types. What src_cython/winograd.pyx includes. */
#ifndef FASTCONV_WINOGRAD_H
#define FASTCONV_WINOGRAD_H

#define T f32
#include "transpose.h"
#include "winograd_product.h"
#define POINTS 6
#include "winograd_tile.h"
#undef POINTS
#define POINTS 8
#include "winograd_tile.h"
#undef POINTS
#undef T
#define T f64
#include "transpose.h"
#include "winograd_product.h"
#define POINTS 6
#include "winograd_tile.h"
#undef POINTS
#define POINTS 8
#include "winograd_tile.h"
#undef POINTS
#undef T

#endif
