/* The tiles of the row kernels, for every element type. What rows.pyx includes. */
#ifndef FASTCONV_ROWS_H
#define FASTCONV_ROWS_H

#define T f32
#include "convert.h"
#include "rows_tile.h"
#undef T
#define T f64
#include "convert.h"
#include "rows_tile.h"
#undef T
#define ROWS_INTEGERS /* fewer ways: nothing of theirs is fast, and every tile takes long to compile */
#define T u64
#include "convert.h"
#include "rows_tile.h"
#undef T

#endif
