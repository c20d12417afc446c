"""Checks that the public functions share: operands, dtypes, ``out``, exact integers, narrowing.

Called by the other modules of ``ops`` only, before any work. Knows arrays and dtypes, no algorithm.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from fastconv.errors import ShapeError
from fastconv.problem import LAYOUTS, check_size, integer, pair, transposed_padding

__all__ = [
    "as_operand", "channels_first", "check_cval", "check_flag", "check_layout", "check_out", "check_rank",
    "check_same_shape", "image_axes", "integer", "largest", "magnitude", "narrow", "new_array", "normal", "pair",
    "promote", "shape_of_four", "transposed_padding",
]  # fmt: skip

INT64_LARGEST = 2**63 - 1
_SERVED = "?bBhHiIlLqQefd"
"""Type characters of bool, the integers and the floats of at most 64 bits."""


def as_operand(value: object, name: str) -> np.ndarray:
    """``np.asarray``, refused unless bool, integer, or float of 16, 32 or 64 bits."""
    array = np.asarray(value)
    if array.dtype.char in _SERVED:
        return array
    raise TypeError(f"{name}: got dtype {array.dtype}; must be bool, an integer, float16, float32 or float64")


def promote(*dtypes: np.dtype) -> np.dtype:
    """NumPy's promotion of the operands' dtypes, in native byte order; int64 of uint64 with signed integers."""
    promoted = np.result_type(*dtypes).newbyteorder("=")
    if promoted.kind == "f" and all(dtype.kind in "biu" for dtype in dtypes):
        return np.dtype(np.int64)  # NumPy says float64; ours are exact
    return promoted


def normal(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array itself where it is aligned and of this native dtype, else a copy that is."""
    if array.dtype == dtype and array.flags.aligned:
        return array
    return array.astype(dtype, order="C")


def check_rank(array: np.ndarray, name: str, axes: str) -> None:
    """``axes`` names the expected ones, as in "N, C, H, W"."""
    rank = axes.count(",") + 1
    if array.ndim != rank:
        raise ShapeError(f"{name}: got shape {array.shape}; must have {rank} axes ({axes})")


def check_same_shape(array: np.ndarray, name: str, shape: tuple[int, ...], why: str) -> None:
    if array.shape != tuple(shape):
        raise ShapeError(f"{name}: got shape {array.shape}; must be {tuple(shape)} ({why})")


def shape_of_four(shape: object, name: str, least: int = 0) -> tuple[int, int, int, int]:
    """A shape given as an argument: four integers, none below ``least``, its bytes countable."""
    try:
        extents = tuple(integer(n, name, least) for n in shape)  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError(f"{name}: got {shape!r}; must be four integers") from None
    if len(extents) != 4:
        raise ShapeError(f"{name}: got {shape!r}; must have four extents")
    check_size(name, extents)
    return extents


def check_layout(layout: object) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f"layout: got {layout!r}; must be 'NCHW' or 'NHWC'")
    return str(layout)


def channels_first(array: np.ndarray, layout: str) -> np.ndarray:
    """A view in the order N, C, H, W."""
    return array.transpose(0, 3, 1, 2) if layout == "NHWC" else array


def check_flag(value: object, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {value!r}; must be True or False")
    return bool(value)


def check_cval(cval: object, integers: bool) -> float | int:
    """The constant beyond the edge: a real number, a whole one (kept as int) with integer operands."""
    if isinstance(cval, np.ndarray) and cval.ndim == 0:
        cval = cval[()]
    if isinstance(cval, (numbers.Integral, np.bool_)):
        return int(cval) if integers else float(cval)
    if not isinstance(cval, numbers.Real):
        raise TypeError(f"cval: got {cval!r}; must be a real number")
    value = float(cval)
    if integers and not (math.isfinite(value) and value.is_integer()):
        raise TypeError(f"cval: got {cval!r}; must be a whole number where the operands are integers")
    return int(value) if integers else value


def image_axes(axes: object, ndim: int) -> tuple[int, int]:
    """Two distinct axes, counted from 0."""
    try:
        given = [operator.index(axis) for axis in axes]  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError(f"axes: got {axes!r}; must be two integers") from None
    if len(given) != 2:
        raise ValueError(f"axes: got {axes!r}; must be two integers")
    first, second = (normalize_axis_index(axis, ndim, "axes") for axis in given)
    if first == second:
        raise ValueError(f"axes: got {axes!r}; must be two distinct axes")
    return first, second


def magnitude(array: np.ndarray) -> int:
    """Largest absolute value of an integer array, 0 if it is empty."""
    if array.size == 0:
        return 0
    return max(abs(int(array.max())), abs(int(array.min())))


def largest(array: np.ndarray) -> int:
    """No element of an integer array is larger in size: told by its dtype where that is short, else measured."""
    if array.dtype.kind == "b":
        return 1
    return magnitude(array) if array.dtype.itemsize > 2 else max(-np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)


def new_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new result. MemoryError where it can't be had."""
    return np.empty(shape, dtype)


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, inputs: tuple[np.ndarray | None, ...]) -> None:
    """Refuse an ``out`` that is not an array of this shape and dtype, writeable and apart from every input."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: got {type(out).__name__}; must be a numpy.ndarray")
    if out.dtype != dtype:
        raise TypeError(f"out: got dtype {out.dtype}; must be {dtype}")
    if out.shape != tuple(shape):
        raise ShapeError(f"out: got shape {out.shape}; must be {tuple(shape)}")
    if not out.flags.writeable:
        raise ValueError("out: got a read-only array; must be writeable")
    if out.size and any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True)):
        raise ValueError("out: got a broadcast array; its elements must be apart from each other")
    for array in inputs:
        if array is not None and np.may_share_memory(out, array) and _share(out, array):
            raise ValueError("out: shares memory with an input; must be apart from every input")


def _share(a: np.ndarray, b: np.ndarray) -> bool:
    try:
        return np.shares_memory(a, b, max_work=10**6)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True  # not known to be apart


def narrow(values: np.ndarray, dtype: np.dtype, overflow: str) -> np.ndarray:
    """``values`` as ``dtype``. To integers: half to even, then by ``overflow``; nothing is written on an error."""
    if dtype.kind not in "iu" or values.dtype == dtype:
        with np.errstate(over="ignore"):
            return values.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    if values.dtype.kind == "f":
        values = np.rint(values)
        if np.isnan(values).any():
            raise OverflowError(f"dtype: the result holds NaN, which {dtype} can't")
        # float(info.max) rounds up to a power of two for 64 bits: compare with the first value too large.
        below, above = values < float(info.min), values >= float(info.max + 1)
    else:
        below, above = values < info.min, values > info.max
    if overflow == "raise":
        if below.any() or above.any():
            worst = values[below].min() if below.any() else values[above].max()
            raise OverflowError(f"dtype: the result holds {worst}, beyond {dtype}; pass overflow='saturate' or 'wrap'")
        return values.astype(dtype)
    if overflow == "wrap":
        if values.dtype.kind == "f":
            if np.isinf(values).any():
                raise OverflowError(f"dtype: the result holds an infinity, which {dtype} can't wrap")
            values = _wrapped(values.astype(np.float64))
        return values.astype(dtype)
    inside = np.where(below | above, values.dtype.type(0), values).astype(dtype)
    inside[below], inside[above] = info.min, info.max
    return inside


def _wrapped(values: np.ndarray) -> np.ndarray:
    """Whole floats modulo 2**64, as uint64. Every step is exact."""
    rest = np.fmod(values, 2.0**64)
    size = np.abs(rest).astype(np.uint64)
    return np.where(rest < 0, np.uint64(0) - size, size)
