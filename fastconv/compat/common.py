"""What SciPy's two families of filters share: which arguments are ours, and one correlation with padding of any kind.

Every function here answers None where SciPy has to serve instead.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from fastconv import conv2d

__all__ = ["FFT_TAPS", "Pads", "as_number", "correlate", "correlate_whole", "is_small", "plain"]

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Pixels before and after, along rows and columns."""

LEAST_WORK = 2**15
"""Multiplications below which SciPy's shorter way to its loops is the faster one..."""
LEAST_PIXELS = 2**14
"""...and pixels, where there are several kernels of one axis."""

FFT_TAPS = 256
"""More taps than that may be quicker by transforms."""


def is_small(image: Any, kernel: Any = None, pace: int = 1) -> bool:
    """Is it quicker to hand on than to look closer? A list is: turning it into an array takes most of the time.

    ``pace``: how fast SciPy's loop is, beside the slowest.
    """
    if type(image) in (list, tuple):
        return LEAST_PIXELS > 0
    if not isinstance(image, np.ndarray):
        return False
    if kernel is None:
        return image.size < LEAST_PIXELS
    if type(kernel) in (list, tuple):
        kernel = np.asarray(kernel)
    return image.size * getattr(kernel, "size", 0) < pace * LEAST_WORK


def plain(value: Any) -> np.ndarray | None:
    """An array of real numbers as we take them: no subclass with rules of its own, no foreign array, no rare dtype."""
    if type(value) in (list, tuple):
        value = np.asarray(value)
    elif isinstance(value, np.memmap):
        value = value.view(np.ndarray)
    elif type(value) is not np.ndarray:
        return None
    dtype = value.dtype
    ours = dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))
    return value if ours and dtype.isnative and value.size else None


def as_number(value: Any) -> float | None:
    """A real number; whole ones as int."""
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, (float, np.floating)) else None


def correlate(
    image: np.ndarray, kernel: np.ndarray, pads: Pads, boundary: str, cval: float, **options: Any
) -> np.ndarray:
    """y[p, q] = sum_{r,s} padded[p + r, q + s] * kernel[r, s]; the image is padded by ``pads``."""
    if options.get("out") is not None:
        options["out"] = options["out"][None, None]
    return conv2d(
        image[None, None], kernel[None, None], padding=pads, boundary=boundary, cval=cval, **options
    )[0, 0]  # fmt: skip


def correlate_whole(
    image: np.ndarray, kernel: np.ndarray, pads: Pads, boundary: str, cval: float
) -> np.ndarray | None:
    """``correlate`` of whole numbers, exactly: in the shortest of float32, float64 and int64 that holds every sum.

    ``kernel`` may be a float array. None where a sum could leave int64, or ``cval`` is a fraction.
    """
    if not float(cval).is_integer():
        return None
    if image.dtype.itemsize <= 2:
        largest = 1 if image.dtype.kind == "b" else -np.iinfo(image.dtype).min or np.iinfo(image.dtype).max
    else:
        largest = max(int(image.max()), -int(image.min()))
    total = float(np.abs(kernel.astype(np.float64)).sum())
    reach = max(largest, abs(cval)) * total
    if kernel.size > 4 * FFT_TAPS and reach < 2**30:  # the transforms' errors stay far below a half
        y = correlate(image, kernel.astype(np.float64), pads, boundary, cval)
        return np.rint(y, out=y)
    if reach <= 2**24 and image.dtype.itemsize <= 2:
        return correlate(image, kernel.astype(np.float32), pads, boundary, cval, elementwise=True)
    if reach <= 2**53:
        return correlate(image, kernel.astype(np.float64), pads, boundary, cval, elementwise=True)
    if reach < 2**62:  # total is rounded
        return correlate(image, kernel.astype(np.int64), pads, boundary, int(cval))
    return None
