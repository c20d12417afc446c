/* The tiles of the row kernels, for every element type. What rows.pyx includes. */
#ifndef FASTCONV_ROWS_H
#define FASTCONV_ROWS_H

#define T f32
#include "rows_tile.h"
#undef T
#define T f64
#include "rows_tile.h"
#undef T
#define T u64
#include "rows_tile.h"
#undef T

#endif
