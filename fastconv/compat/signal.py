"""``scipy.signal``'s convolutions and correlations, for two axes, by fastconv."""

from __future__ import annotations

import functools
import timeit
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.signal

from fastconv import plan_correlate2d
from fastconv.compat.common import FFT_TAPS, Pads, as_number, correlate_whole, is_small, plain
from fastconv.compat.common import correlate as _correlate

__all__ = [
    "choose_conv_method",
    "convolve",
    "convolve2d",
    "correlate",
    "correlate2d",
    "fftconvolve",
    "oaconvolve",
]

_BOUNDARIES = {
    "fill": "constant", "pad": "constant", "wrap": "wrap", "circular": "wrap", "symm": "symmetric",
    "symmetric": "symmetric",
}  # fmt: skip
_WORKSPACE = 2**28
"""Bytes of scratch that large kernels may take: less than SciPy's transforms of the whole do."""
_WHOLE = 32
"""Part of the image."""
_MODES = ("full", "same", "valid")


def _pads(mode: str, kernel: tuple[int, ...], before: tuple[int, int]) -> Pads:
    """``before``: what "same" pads at the front."""
    if mode == "valid":
        return (0, 0), (0, 0)
    if mode == "full":
        before = kernel[0] - 1, kernel[1] - 1
        return (before[0], before[0]), (before[1], before[1])
    return (before[0], kernel[0] - 1 - before[0]), (before[1], kernel[1] - 1 - before[1])


def _operands(in1: Any, in2: Any, mode: Any) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Image, kernel, and whether they were swapped so that the image covers the kernel, as "valid" wants."""
    if not (isinstance(mode, str) and mode in _MODES):
        return None
    image, kernel = plain(in1), plain(in2)
    if image is None or kernel is None or image.ndim != 2 or kernel.ndim != 2:
        return None
    if mode == "valid":
        larger = [m >= n for m, n in zip(image.shape, kernel.shape, strict=True)]
        if not all(larger):
            smaller = [m <= n for m, n in zip(image.shape, kernel.shape, strict=True)]
            return (kernel, image, True) if all(smaller) else None
    return image, kernel, False


def _filter(
    image: np.ndarray,
    kernel: np.ndarray,
    pads: Pads,
    boundary: str,
    fillvalue: float,
    dtype: np.dtype,
    **options: Any,
) -> np.ndarray | None:
    """The correlation in this dtype; integers wrap around, as in SciPy."""
    if dtype.kind == "f":
        options = {"max_workspace": _WORKSPACE} | options
        return _correlate(image, kernel.astype(dtype, copy=False), pads, boundary, fillvalue, **options)
    if dtype.kind == "b" or not np.iinfo(dtype).min <= fillvalue <= np.iinfo(dtype).max:
        return None
    y = correlate_whole(image, kernel, pads, boundary, fillvalue)
    return None if y is None else y.astype(np.int64, copy=False).astype(dtype, copy=False)


def _filter2d(
    in1: Any, in2: Any, mode: Any, boundary: Any, fillvalue: Any, turned: bool
) -> np.ndarray | None:
    if is_small(in1, in2):
        return None
    name = _BOUNDARIES.get(boundary) if isinstance(boundary, str) else None
    fill = as_number(fillvalue)
    operands = _operands(in1, in2, mode)
    if name is None or fill is None or operands is None:
        return None
    image, kernel, swapped = operands
    before = (kernel.shape[0] - 1 + turned) // 2, (kernel.shape[1] - 1 + turned) // 2
    y = _filter(
        image, kernel[::-1, ::-1] if turned else kernel, _pads(mode, kernel.shape, before), name, fill,
        np.result_type(image.dtype, kernel.dtype),
    )  # fmt: skip
    return y if y is None or turned or not swapped else y[::-1, ::-1]


def convolve2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0) -> Any:
    """2-D convolution, as ``scipy.signal.convolve2d``.

    full[p, q] = sum_{r,s} padded1[p - r, q - s] * in2[r, s]

    Parameters
    ----------
    in1, in2 : array_like, (H, W) and (R, S)
        bool, integer, float32 or float64; anything else goes to SciPy.
    mode : {"full", "same", "valid"}
        "same": of the shape of in1, from the middle of "full". With "valid" the smaller array is the kernel.
    boundary : {"fill", "wrap", "symm"}
        What lies beyond in1: ``fillvalue``, in1 again, or its mirror image with the edge repeated.
    fillvalue : scalar

    Returns
    -------
    ndarray
        NumPy's promotion of the two dtypes; integers wrap around.

    Raises
    ------
    ValueError
        SciPy's own errors.

    Notes
    -----
    The method is chosen as in ``fastconv.convolve2d``: errors of large kernels are those of transforms, small beside
    the norm of a tile, where SciPy's are small beside every sum.

    Examples
    --------
    >>> from fastconv.compat.signal import convolve2d
    >>> convolve2d([[1, 2], [3, 4]], [[1, 1]])
    array([[1, 3, 2],
           [3, 7, 4]])
    """
    y = _filter2d(in1, in2, mode, boundary, fillvalue, True)
    return scipy.signal.convolve2d(in1, in2, mode, boundary, fillvalue) if y is None else y


def correlate2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0) -> Any:
    """2-D cross-correlation, as ``scipy.signal.correlate2d``.

    full[p, q] = sum_{r,s} padded1[p - (R-1) + r, q - (S-1) + s] * in2[r, s]

    Parameters
    ----------
    in1, in2 : array_like, (H, W) and (R, S)
    mode : {"full", "same", "valid"}
        "same" begins at index R//2 of "full"; with "valid" and a larger in2 the result is turned.
    boundary, fillvalue
        As in ``convolve2d``.

    Returns
    -------
    ndarray
        As of ``convolve2d``.

    Raises
    ------
    ValueError
        SciPy's own errors.

    Examples
    --------
    >>> from fastconv.compat.signal import correlate2d
    >>> correlate2d([[1, 2, 3]], [[0, 1]], mode="same")
    array([[2, 3, 0]])
    """
    y = _filter2d(in1, in2, mode, boundary, fillvalue, False)
    return scipy.signal.correlate2d(in1, in2, mode, boundary, fillvalue) if y is None else y


def _filter_zeros(
    in1: Any, in2: Any, mode: Any, turned: bool, dtype: np.dtype | None, **options: Any
) -> np.ndarray | None:
    """With zeros beyond the edge, and both functions centred as a convolution is."""
    operands = _operands(in1, in2, mode)
    if operands is None:
        return None
    image, kernel, swapped = operands
    if dtype is None:
        dtype = np.result_type(image.dtype, kernel.dtype)
    if mode == "full" and kernel.size > image.size:
        image, kernel, swapped = kernel, image, True
    if dtype.kind == "f" and "elementwise" not in options and _as_a_whole(image, kernel, mode):
        return None
    pads = _pads(mode, kernel.shape, (kernel.shape[0] // 2, kernel.shape[1] // 2))
    y = _filter(image, kernel[::-1, ::-1] if turned else kernel, pads, "constant", 0, dtype, **options)
    return y if y is None or turned or not swapped else y[::-1, ::-1]


def _as_a_whole(image: np.ndarray, kernel: np.ndarray, mode: str) -> bool:
    """With so large a kernel transforms of the whole, as SciPy's, are faster than those of tiles."""
    return mode != "valid" and kernel.size > max(FFT_TAPS, image.size / _WHOLE)


_OPTIONS: dict[str, dict] = {
    "auto": {}, "direct": {"elementwise": True}, "fft": {"method": "fft", "max_workspace": None},
}  # fmt: skip


def convolve(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """Convolution with zeros beyond the edge, as ``scipy.signal.convolve``.

    full[p, q] = sum_{r,s} in1[p - r, q - s] * in2[r, s]

    Parameters
    ----------
    in1, in2 : array_like
        Both with two axes, bool, integer, float32 or float64; anything else goes to SciPy.
    mode : {"full", "same", "valid"}
    method : {"auto", "direct", "fft"}
        "auto": the fastest; "direct": a sum of products; "fft": by transforms. Integers are exact in each.

    Returns
    -------
    ndarray
        NumPy's promotion of the two dtypes; integers wrap around.

    Raises
    ------
    ValueError
        SciPy's own errors.

    Notes
    -----
    Under "auto" a NaN reaches the sums that it belongs to, and no others; SciPy's transforms spread it.

    Examples
    --------
    >>> from fastconv.compat.signal import convolve
    >>> convolve([[1.0, 2.0]], [[1.0, -1.0]])
    array([[ 1.,  1., -2.]])
    """
    options = _OPTIONS.get(method) if isinstance(method, str) else None
    y = None if options is None else _filter_zeros(in1, in2, mode, True, None, **options)
    return scipy.signal.convolve(in1, in2, mode, method) if y is None else y


def correlate(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """Cross-correlation with zeros beyond the edge, as ``scipy.signal.correlate``.

    full[p, q] = sum_{r,s} in1[p - (R-1) + r, q - (S-1) + s] * in2[r, s]

    Parameters
    ----------
    in1, in2, mode, method
        As in ``convolve``; "same" begins at index (R-1)//2 of "full" (``correlate2d``: R//2).

    Returns
    -------
    ndarray
        As of ``convolve``.

    Raises
    ------
    ValueError
        SciPy's own errors.

    Examples
    --------
    >>> from fastconv.compat.signal import correlate
    >>> correlate([[1.0, 2.0, 3.0]], [[0.0, 1.0]], mode="same")
    array([[1., 2., 3.]])
    """
    options = _OPTIONS.get(method) if isinstance(method, str) else None
    y = None if options is None else _filter_zeros(in1, in2, mode, False, None, **options)
    return scipy.signal.correlate(in1, in2, mode, method) if y is None else y


def _freq_convolve(in1: Any, in2: Any, mode: Any, axes: Any) -> np.ndarray | None:
    image, kernel = plain(in1), plain(in2)
    if image is None or kernel is None or image.ndim != 2 or kernel.ndim != 2:
        return None
    extents = list(zip(image.shape, kernel.shape, strict=True))
    if all(1 in pair for pair in extents) or (mode == "valid" and any(m == 1 < n for m, n in extents)):
        return None  # SciPy broadcasts such axes
    if axes is not None and not _covers(axes, kernel.shape):
        return None
    single = image.dtype == kernel.dtype == np.float32
    return _filter_zeros(image, kernel, mode, True, np.dtype(np.float32 if single else np.float64))


def _covers(axes: Any, kernel: tuple[int, ...]) -> bool:
    """Is a convolution along these axes one along both, since the kernel has one tap along the other?"""
    given = list(axes) if isinstance(axes, Iterable) else [axes]
    if not given or any(type(axis) is not int or not -2 <= axis < 2 for axis in given):
        return False
    named = {axis % 2 for axis in given}
    return len(named) == len(given) and all(axis in named or kernel[axis] == 1 for axis in (0, 1))


def fftconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """Convolution of floats, as ``scipy.signal.fftconvolve``: by transforms, or directly where that is faster.

    full[p, q] = sum_{r,s} in1[p - r, q - s] * in2[r, s]

    Parameters
    ----------
    in1, in2 : array_like
        Both with two axes, bool, integer, float32 or float64; anything else goes to SciPy.
    mode : {"full", "same", "valid"}
    axes : int or sequence of int, optional
        Both axes, or the only one along which in2 has more than one element; else SciPy serves.

    Returns
    -------
    ndarray
        float32 where both are, else float64.

    Raises
    ------
    ValueError
        SciPy's own errors.

    Examples
    --------
    >>> from fastconv.compat.signal import fftconvolve
    >>> fftconvolve([[1.0, 2.0]], [[1.0, -1.0]])
    array([[ 1.,  1., -2.]])
    """
    y = _freq_convolve(in1, in2, mode, axes)
    return scipy.signal.fftconvolve(in1, in2, mode, axes) if y is None else y


def oaconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """``fftconvolve``, as ``scipy.signal.oaconvolve``: the transforms here are always of tiles.

    Parameters
    ----------
    in1, in2, mode, axes
        As in ``fftconvolve``.

    Returns
    -------
    ndarray
        As of ``fftconvolve``.

    Raises
    ------
    ValueError
        SciPy's own errors.

    Examples
    --------
    >>> from fastconv.compat.signal import oaconvolve
    >>> oaconvolve([[1.0, 2.0]], [[1.0, -1.0]])
    array([[ 1.,  1., -2.]])
    """
    y = _freq_convolve(in1, in2, mode, axes)
    return scipy.signal.oaconvolve(in1, in2, mode, axes) if y is None else y


def choose_conv_method(in1: Any, in2: Any, mode: str = "full", measure: bool = False) -> Any:
    """Is ``convolve`` faster directly or by transforms? As ``scipy.signal.choose_conv_method``.

    Parameters
    ----------
    in1, in2, mode
        As in ``convolve``.
    measure : bool, default False
        Run both, rather than reckon.

    Returns
    -------
    method : {"direct", "fft"}
        What ``convolve`` does here; "direct" for integers, which it keeps exact.
    times : dict, with ``measure``
        Seconds of each.

    Raises
    ------
    ValueError
        SciPy's own errors.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.compat.signal import choose_conv_method
    >>> choose_conv_method(np.ones((512, 512)), np.ones((3, 3)))
    'direct'
    """
    operands = _operands(in1, in2, mode)
    if operands is None or (not measure and _as_a_whole(*operands[:2], mode)):
        return scipy.signal.choose_conv_method(in1, in2, mode, measure)
    image, kernel, _ = operands
    if measure:
        times = {}
        for method in ("fft", "direct"):
            timer = timeit.Timer(functools.partial(convolve, image, kernel, mode, method))
            times[method] = min(timer.repeat(5, 1))
        return "fft" if times["fft"] < times["direct"] else "direct", times
    dtype = np.result_type(image.dtype, kernel.dtype)
    if dtype.kind != "f":
        return "direct"
    plan = plan_correlate2d(image.shape, kernel.shape, dtype=dtype, mode=mode, max_workspace=_WORKSPACE)
    return "fft" if plan.method == "fft" else "direct"
