"""Pooling: largest and mean pixel of every window, their gradients, unpooling.

One algorithm each, so these functions check their arguments and call the kernels directly. Kernels see
N, C, H, W views whatever the layout; geometry comes from ``PoolProblem``.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.errors import ShapeError
from fastconv.ops.arguments import (
    INT64_LARGEST,
    as_operand,
    channels_first,
    check_flag,
    check_layout,
    check_out,
    check_rank,
    check_same_shape,
    magnitude,
    narrow,
    new_array,
    normal,
    shape_of_four,
)
from fastconv.problem import PoolProblem, pair, parse_padding

__all__ = [
    "avg_pool2d", "avg_pool2d_grad", "global_avg_pool2d", "global_max_pool2d",
    "max_pool2d", "max_pool2d_grad", "max_unpool2d",
]  # fmt: skip

_AXES = {"NCHW": "N, C, H, W", "NHWC": "N, H, W, C"}
_SUFFIX = {"float32": "f32", "float64": "f64", "int64": "i64", "uint64": "u64"}
_TAPS_A_SECOND = 4e9  # pixels that one worker can look at


def max_pool2d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool | str = False,
    layout: str = "NCHW",
    workers: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Largest pixel of every window.

    ``y[n,c,p,q] = max_{r,s} x[n, c, p*sh + r*dh - top, q*sw + s*dw - left]`` over the pixels inside the
    image, with ``P = (H + top + bottom - dh*(R-1) - 1) // sh + 1`` (``ceil_mode``: the quotient is rounded
    up, as long as the last window starts inside the image or the padding before it).

    Parameters
    ----------
    x : array_like, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        bool, integer, float16, float32 or float64.
    kernel_size : int or (R, S)
    stride : int or (sh, sw), default ``kernel_size``
    padding : int, (ph, pw), ((top, bottom), (left, right)), "valid", "same", "same_lower" or "full"
        0 by default. Padding never wins a maximum.
    dilation : int or (dh, dw), default 1
    ceil_mode : bool, default False
    return_indices : bool or "offset", default False
        True: also where each maximum lies, ``h*W + w`` in the image, int64. "offset": its place ``r*S + s``
        in the window, uint8 where R*S <= 256, else uint16.
    layout : "NCHW" or "NHWC"
    workers : int, default all cores
    out : ndarray, optional
        Where y goes: its shape, the dtype of x.

    Returns
    -------
    y, or (y, indices)
        Of shape (N, C, P, Q) or (N, P, Q, C). The first maximum in row-major order wins a tie, the first NaN
        wins over all numbers.

    Raises
    ------
    ShapeError
        A window would lie wholly in padding, or doesn't fit; an extent, stride or dilation below 1;
        R*S > 65536 with "offset".
    TypeError
        Of dtypes and options.
    ValueError
        Of ``out``, ``layout``, ``padding``, ``return_indices``.

    Notes
    -----
    Exact; scratch of a few KiB on the stack, and one copy of an x that is not float32, float64, int64 or
    uint64.

    Examples
    --------
    >>> import fastconv
    >>> y, indices = fastconv.max_pool2d([[[[1, 5, 2, 0], [3, 4, 2, 7]]]], 2, return_indices=True)
    >>> y.tolist(), indices.tolist()
    ([[[[5, 7]]]], [[[[1, 7]]]])
    """
    layout = check_layout(layout)
    x = _image(x, "x", layout)
    offset = isinstance(return_indices, str)
    if offset and return_indices != "offset":
        raise ValueError(f"return_indices: got {return_indices!r}; must be True, False or 'offset'")
    wanted = offset or check_flag(return_indices, "return_indices")
    workers = machine.check_workers(workers)
    problem = _problem(_nchw(x.shape, layout), kernel_size, stride, padding, dilation, ceil_mode)
    if offset:
        _check_offsets(problem)
    dtype, shape = x.dtype.newbyteorder("="), _in_layout(problem.y_shape, layout)
    if out is not None:
        check_out(out, shape, dtype, (x,))

    work = dtype if dtype.name in _SUFFIX else np.dtype(_work_dtype(dtype))
    y = _target(out, shape, work)
    indices = None
    if wanted:
        kind = np.int64 if not offset else np.uint8 if problem.R * problem.S <= 256 else np.uint16
        indices = new_array(shape, np.dtype(kind))
    if y.size:
        x_view, y_view = channels_first(normal(x, work), layout), channels_first(y, layout)
        window = _window(problem)
        R, S, sh, sw, dh, dw, top, left = window
        # Recorded for tap (r, s) of window (p, q): start + p*per_p + q*per_q + r*per_r + s*per_s.
        W = problem.W
        places = (0, 0, 0, problem.S, 1) if offset else (-top * W - left, sh * W, sw, dh * W, dw)
        kernel = getattr(machine.kernels().pool, f"max_{_SUFFIX[work.name]}")
        kernel(
            x_view, y_view, None if indices is None else _bytes(channels_first(indices, layout)),
            window, places if wanted else (0,) * 5, (R - 1) * places[3] + (S - 1) * places[4] < 2**31,
            _by_channel(x_view), _share(workers, problem),
        )  # fmt: skip
    y = _finish(y, out, dtype)
    return y if indices is None else (y, indices)


def max_pool2d_grad(
    dy: Any,
    indices: Any,
    input_shape: Any,
    *,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = "NCHW",
    workers: int | None = None,
) -> np.ndarray:
    """Gradient of max pooling by its input: every dy goes to the pixel that won.

    ``dx[n,c,h,w] = sum of dy[n,c,p,q] over the (p, q) with indices[n,c,p,q] = h*W + w``, added in row-major
    order.

    Parameters
    ----------
    dy : array_like, shape (N, C, P, Q), or (N, P, Q, C) with ``layout="NHWC"``
    indices : array_like of integers, the shape of dy
        As ``max_pool2d`` returns them: uint8 and uint16 are places in the window ("offset"), every other
        integer dtype counts pixels of the plane.
    input_shape : four ints, the shape of x
    kernel_size, stride, padding, dilation
        Of the pooling. Needed with places in the window; where given, P and Q must agree with them.
    layout, workers
        As in ``max_pool2d``.

    Returns
    -------
    dx : ndarray of ``input_shape``
        float dtypes are kept (float16 adds up in float32); integers and bool give the exact int64.

    Raises
    ------
    IndexError
        An index that is no pixel of the plane, no place of the window, or one in padding.
    ShapeError
        The shapes of dy, indices and ``input_shape`` don't agree.
    ValueError
        Places in the window without ``kernel_size``.
    OverflowError
        Integer dy where max|dy| times the most windows that share a pixel exceeds 2**63 - 1.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.max_pool2d_grad([[[[10, 20]]]], [[[[1, 7]]]], (1, 1, 2, 4)).tolist()
    [[[[0, 10, 0, 0], [0, 0, 0, 20]]]]
    """
    layout = check_layout(layout)
    dy = _image(dy, "dy", layout)
    indices = _check_indices(indices, dy, "dy")
    shape = shape_of_four(input_shape, "input_shape")
    n, c, H, W = _check_planes(shape, "input_shape", layout)
    workers = machine.check_workers(workers)
    pooled = _nchw(dy.shape, layout)
    _check_planes(dy.shape, "dy", layout)
    if pooled[:2] != (n, c):
        raise ShapeError(f"dy: got shape {dy.shape}; must have the batch and channels of input_shape {shape}")
    offset = indices.dtype.name in ("uint8", "uint16")
    problem = None
    if kernel_size is not None:
        problem = _problem_of((n, c, H, W), pooled, kernel_size, stride, padding, dilation)
    elif offset:
        raise ValueError(
            f"kernel_size: got None; must be the pooling's, since indices of dtype {indices.dtype} are "
            "places in the window"
        )
    dtype = dy.dtype.newbyteorder("=") if dy.dtype.kind == "f" else np.dtype(np.int64)
    work = np.dtype(_work_dtype(dtype) if dtype.kind == "f" else "uint64")
    dx = np.zeros(shape, work)
    if dy.size:
        taps = np.empty((2, 0), np.int64)
        window: tuple[int, ...] = (1, 1, 1, 1, 1, 1, 0, 0)
        if offset and problem is not None:
            _check_offsets(problem)
            window, taps = _window(problem), _tap_pixels(problem)
        else:
            indices = normal(indices, np.dtype(np.int64))
        if dtype.kind != "f":
            _check_sums(dy, indices, taps.size > 0, layout)
            dy = normal(dy, np.dtype(np.int64)).view(np.uint64)
        dx_view, dy_view = channels_first(dx, layout), channels_first(normal(dy, work), layout)
        seconds = dy.size * 1e-9
        threads = machine.resolve_workers(workers) if seconds > machine.PARALLEL_SECONDS else 1
        kernel = getattr(machine.kernels().pool, f"max_grad_{_SUFFIX[work.name]}")
        where = channels_first(normal(indices, indices.dtype.newbyteorder("=")), layout)
        if not kernel(dx_view, dy_view, _bytes(where), taps, window, _by_channel(dx_view), threads):
            raise _index_error(where, (H, W), problem if offset else None)
    return dx.view(np.int64) if dtype.kind != "f" else narrow(dx, dtype, "raise")


def max_unpool2d(y: Any, indices: Any, output_shape: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Put every pooled value back where it came from.

    ``x[n,c,h,w] = y[n,c,p,q]`` where ``indices[n,c,p,q] = h*W + w``, and zero elsewhere.

    Parameters
    ----------
    y : array_like, shape (N, C, P, Q), or (N, P, Q, C) with ``layout="NHWC"``
    indices : array_like of integers, the shape of y
        Flat in the plane, as ``max_pool2d(..., return_indices=True)`` gives them.
    output_shape : four ints
        Shape of the result; batch and channels those of y.
    layout : "NCHW" or "NHWC"

    Returns
    -------
    x : ndarray of ``output_shape``, dtype of y
        Zero elsewhere. Of duplicate indices the last in row-major order stays.

    Raises
    ------
    IndexError
        An index outside the plane.
    ShapeError
        The shapes of y, indices and ``output_shape`` don't agree.
    TypeError
        Indices that aren't integers, or are places in the window (uint8, uint16).

    Notes
    -----
    The idea is from Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.max_unpool2d([[[[5, 7]]]], [[[[1, 7]]]], (1, 1, 2, 4)).tolist()
    [[[[0, 5, 0, 0], [0, 0, 0, 7]]]]
    """
    layout = check_layout(layout)
    y = _image(y, "y", layout)
    indices = _check_indices(indices, y, "y")
    if indices.dtype.name in ("uint8", "uint16"):
        raise TypeError(
            f"indices: got dtype {indices.dtype}, places in the window; must count pixels of the plane"
        )
    shape = shape_of_four(output_shape, "output_shape")
    n, c, H, W = _check_planes(shape, "output_shape", layout)
    _check_planes(y.shape, "y", layout)
    if _nchw(y.shape, layout)[:2] != (n, c):
        raise ShapeError(
            f"output_shape: got {shape}; must have the batch and channels of y, whose shape is {y.shape}"
        )
    y = normal(y, y.dtype.newbyteorder("="))
    x = np.zeros(shape, y.dtype)
    if y.size:
        x_view, y_view = channels_first(x, layout), channels_first(y, layout)
        where = channels_first(normal(indices, np.dtype(np.int64)), layout)
        if not machine.kernels().pool.unpool(_bytes(x_view), _bytes(y_view), where, _by_channel(x_view)):
            raise _index_error(where, (H, W), None)
    return x


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: float | None = None,
    layout: str = "NCHW",
    workers: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Mean of every window.

    ``y[n,c,p,q] = sum_{r,s} x[n, c, p*sh + r*dh - top, q*sw + s*dw - left] / count`` over the pixels inside
    the image; P and Q as in ``max_pool2d``.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        bool, integer, float16, float32 or float64.
    kernel_size, stride, padding, dilation, ceil_mode, layout, workers, out
        As in ``max_pool2d``.
    count_include_pad : bool, default True
        True: the count is of the window's cells inside the padded image (``ceil_mode`` can jut out over it);
        False: of its pixels.
    divisor : nonzero real number, optional
        Stands in place of the count.

    Returns
    -------
    y : ndarray, shape (N, C, P, Q) or (N, P, Q, C)
        float dtypes are kept, integers and bool give float64.

    Raises
    ------
    ShapeError, TypeError, ValueError
        As in ``max_pool2d``; ValueError too for a divisor that is zero or not finite.

    Notes
    -----
    Sums run in the result's precision (float16: in float32) in row-major order: an error of at most
    ``(R*S + 1) * u`` times the mean of ``|x|``, with u the unit roundoff. Scratch of a few KiB on the stack.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.avg_pool2d([[[[1, 5, 2, 0], [3, 4, 2, 7]]]], 2).tolist()
    [[[[3.25, 2.75]]]]
    """
    layout = check_layout(layout)
    x = _image(x, "x", layout)
    include, divisor = check_flag(count_include_pad, "count_include_pad"), _check_divisor(divisor)
    workers = machine.check_workers(workers)
    problem = _problem(_nchw(x.shape, layout), kernel_size, stride, padding, dilation, ceil_mode)
    dtype, shape = _mean_dtype(x), _in_layout(problem.y_shape, layout)
    if out is not None:
        check_out(out, shape, dtype, (x,))
    work = _mean_work(dtype, divisor)
    y = _target(out, shape, work)
    if y.size:
        x_view = channels_first(normal(x, work), layout)
        kernel = getattr(machine.kernels().pool, f"avg_{_SUFFIX[work.name]}")
        kernel(
            x_view, channels_first(y, layout), *_counts(problem, include, divisor, work),
            _window(problem), _by_channel(x_view), _share(workers, problem),
        )  # fmt: skip
    return _finish(y, out, dtype)


def avg_pool2d_grad(
    dy: Any,
    input_shape: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: float | None = None,
    layout: str = "NCHW",
    workers: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Gradient of average pooling by its input: every dy is spread evenly over its window.

    ``dx[n,c,h,w] = sum of dy[n,c,p,q] / count[p,q] over the windows (p, q) that hold pixel (h, w)``.

    Parameters
    ----------
    dy : array_like, shape (N, C, P, Q), or (N, P, Q, C) with ``layout="NHWC"``
    input_shape : four ints, the shape of x
    kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor, layout, workers
        The pooling's own.
    out : ndarray, optional
        Where dx goes: ``input_shape``, the result's dtype.

    Returns
    -------
    dx : ndarray of ``input_shape``
        float dtypes are kept, integers and bool give float64.

    Raises
    ------
    ShapeError, TypeError, ValueError
        As in ``avg_pool2d``; ShapeError too where dy is not of the pooled shape.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.avg_pool2d_grad([[[[4.0, 8.0]]]], (1, 1, 2, 4), 2).tolist()
    [[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]
    """
    layout = check_layout(layout)
    dy = _image(dy, "dy", layout)
    shape = shape_of_four(input_shape, "input_shape")
    include, divisor = check_flag(count_include_pad, "count_include_pad"), _check_divisor(divisor)
    workers = machine.check_workers(workers)
    problem = _problem(_nchw(shape, layout), kernel_size, stride, padding, dilation, ceil_mode)
    check_same_shape(dy, "dy", _in_layout(problem.y_shape, layout), f"pooled from input_shape {shape}")
    dtype = _mean_dtype(dy)
    if out is not None:
        check_out(out, shape, dtype, (dy,))
    work = _mean_work(dtype, divisor)
    dy = normal(dy, work)
    dx = _target(out, shape, work)
    dx[...] = 0
    if dy.size:
        dx_view = channels_first(dx, layout)
        kernel = getattr(machine.kernels().pool, f"avg_grad_{_SUFFIX[work.name]}")
        kernel(
            dx_view, channels_first(dy, layout), *_counts(problem, include, divisor, work),
            _window(problem), _by_channel(dx_view), _share(workers, problem),
        )  # fmt: skip
    return _finish(dx, out, dtype)


def global_avg_pool2d(x: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Mean of every plane: ``y[n,c] = sum_{h,w} x[n,c,h,w] / (H*W)``, as (N, C, 1, 1) or (N, 1, 1, C).

    Parameters
    ----------
    x : array_like, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        H and W at least 1, else ShapeError. float dtypes are kept (float16 adds up in float32), integers and
        bool give float64.
    layout : "NCHW" or "NHWC"

    Notes
    -----
    An idea of Lin, Chen and Yan, "Network In Network", 2014.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.global_avg_pool2d([[[[1, 5], [3, 4]]]]).tolist()
    [[[[3.25]]]]
    """
    layout = check_layout(layout)
    x = _image(x, "x", layout)
    _check_planes(x.shape, "x", layout)
    dtype = _mean_dtype(x)
    work = _mean_work(dtype, None)
    y = normal(x, work).mean(axis=_plane_axes(layout), keepdims=True)
    return np.ascontiguousarray(narrow(y, dtype, "raise"))


def global_max_pool2d(x: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Largest pixel of every plane: ``y[n,c] = max_{h,w} x[n,c,h,w]``, as (N, C, 1, 1) or (N, 1, 1, C).

    Parameters
    ----------
    x : array_like, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        H and W at least 1, else ShapeError. The dtype is kept; NaN wins over numbers.
    layout : "NCHW" or "NHWC"

    Examples
    --------
    >>> import fastconv
    >>> fastconv.global_max_pool2d([[[[1, 5], [3, 4]]]]).tolist()
    [[[[5]]]]
    """
    layout = check_layout(layout)
    x = _image(x, "x", layout)
    _check_planes(x.shape, "x", layout)
    with np.errstate(invalid="ignore"):
        y = x.max(axis=_plane_axes(layout), keepdims=True)
    return np.ascontiguousarray(y, dtype=x.dtype.newbyteorder("="))


# --- arguments -------------------------------------------------------------------------------------


def _image(value: Any, name: str, layout: str) -> np.ndarray:
    array = as_operand(value, name)
    check_rank(array, name, _AXES[layout])
    return array


def _nchw(shape: tuple[int, ...], layout: str) -> tuple[int, int, int, int]:
    a, b, c, d = shape
    return (a, d, b, c) if layout == "NHWC" else (a, b, c, d)


def _in_layout(shape: tuple[int, int, int, int], layout: str) -> tuple[int, int, int, int]:
    n, c, h, w = shape
    return (n, h, w, c) if layout == "NHWC" else shape


def _plane_axes(layout: str) -> tuple[int, int]:
    return (1, 2) if layout == "NHWC" else (2, 3)


def _check_planes(shape: tuple[int, ...], name: str, layout: str) -> tuple[int, int, int, int]:
    """The shape in N, C, H, W order; only N and C may be 0."""
    n, c, h, w = _nchw(shape, layout)
    if h < 1 or w < 1:
        raise ShapeError(f"{name}: got shape {tuple(shape)}; only the batch and the channels may be 0")
    return n, c, h, w


def _check_indices(value: Any, like: np.ndarray, name: str) -> np.ndarray:
    indices = np.asarray(value)
    if indices.dtype.kind not in "iu" and indices.size:
        raise TypeError(f"indices: got dtype {indices.dtype}; must be integers")
    check_same_shape(indices, "indices", like.shape, f"that of {name}")
    return indices if indices.dtype.kind in "iu" else indices.astype(np.int64)


def _check_divisor(divisor: Any) -> float | None:
    if divisor is None:
        return None
    if isinstance(divisor, np.ndarray) and divisor.ndim == 0:
        divisor = divisor[()]
    if not isinstance(divisor, numbers.Real) or isinstance(divisor, bool):
        raise TypeError(f"divisor: got {divisor!r}; must be None or a real number")
    try:
        value = float(divisor)
    except OverflowError:
        value = math.inf
    if value == 0 or not math.isfinite(value):
        raise ValueError(f"divisor: got {divisor!r}; must be finite and not zero")
    return value


def _problem(
    shape: tuple[int, int, int, int],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
) -> PoolProblem:
    R, S = kernel = pair(kernel_size, "kernel_size", 1)
    strides = kernel if stride is None else pair(stride, "stride", 1)
    dilations = pair(dilation, "dilation", 1)
    pads = parse_padding(padding, shape[2:], kernel, strides, dilations)
    return PoolProblem(*shape, R, S, strides, pads, dilations, check_flag(ceil_mode, "ceil_mode"))


def _problem_of(
    shape: tuple[int, int, int, int], pooled: tuple[int, int, int, int],
    kernel_size: Any, stride: Any, padding: Any, dilation: Any,
) -> PoolProblem:  # fmt: skip
    """The problem that pools ``shape`` to ``pooled``, be it in ceil_mode or not."""
    made: dict[tuple[int, ...], PoolProblem] = {}
    for ceil_mode in (True, False):
        try:
            problem = _problem(shape, kernel_size, stride, padding, dilation, ceil_mode)
        except ShapeError:
            if ceil_mode is False and not made:
                raise
        else:
            made[problem.y_shape] = problem
    if pooled not in made:
        expected = " or ".join(map(str, reversed(made)))
        raise ShapeError(f"dy: got (N, C, P, Q) = {pooled}; must be {expected}, pooled from input_shape")
    return made[pooled]


def _check_offsets(problem: PoolProblem) -> None:
    if problem.R * problem.S > 65536:
        raise ShapeError(
            f"kernel_size: got {problem.R}x{problem.S}; places in the window need at most 65536 of them"
        )


def _check_sums(dy: np.ndarray, indices: np.ndarray, offset: bool, layout: str) -> None:
    """OverflowError where a sum of integer gradients might exceed int64."""
    largest, axes = magnitude(dy), _plane_axes(layout)
    most = dy.shape[axes[0]] * dy.shape[axes[1]]
    if largest * most > INT64_LARGEST and not offset:
        planes = np.sort(np.moveaxis(indices, axes, (2, 3)).reshape(-1, most), axis=1)
        most = max(int(np.unique(plane, return_counts=True)[1].max()) for plane in planes)
    if largest * most > INT64_LARGEST:
        raise OverflowError(
            f"dy: got integers of up to {largest}; {most} of them in one pixel could exceed 2**63 - 1"
        )


def _index_error(indices: np.ndarray, extents: tuple[int, int], problem: PoolProblem | None) -> IndexError:
    """Names the first index that is none; a view in N, C, P, Q order."""
    if problem is None:
        bad = (indices < 0) | (indices >= extents[0] * extents[1])
        limits = f"pixels 0 to {extents[0] * extents[1] - 1} of a plane of {extents[0]}x{extents[1]}"
    else:
        R, S, sh, sw, _, _, top, left = _window(problem)
        tap = _tap_pixels(problem)[:, np.minimum(indices, R * S - 1)]
        h = tap[0] + (np.arange(problem.P) * sh - top)[:, None]
        w = tap[1] + np.arange(problem.Q) * sw - left
        bad = (indices >= R * S) | (h < 0) | (h >= problem.H) | (w < 0) | (w >= problem.W)
        limits = f"places of a window of {R}x{S} that lie inside the image"
    place = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
    return IndexError(f"indices: got {indices[place]} at (n, c, p, q) = {place}; must be {limits}")


# --- towards the kernels ---------------------------------------------------------------------------


def _work_dtype(dtype: np.dtype) -> str:
    """What the kernels see. float32 holds every float16, int64 every narrower integer."""
    if dtype.kind == "f":
        return "float64" if dtype.itemsize == 8 else "float32"
    return "uint64" if dtype.kind == "u" and dtype.itemsize == 8 else "int64"


def _mean_dtype(x: np.ndarray) -> np.dtype:
    return x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.dtype(np.float64)


def _mean_work(dtype: np.dtype, divisor: float | None) -> np.dtype:
    """float64 also for a divisor that float32 would flush or overflow."""
    if dtype.itemsize == 8 or (divisor is not None and not 2.0**-126 <= abs(divisor) < 2.0**127):
        return np.dtype(np.float64)
    return np.dtype(np.float32)


def _target(out: np.ndarray | None, shape: tuple[int, ...], work: np.dtype) -> np.ndarray:
    """``out`` where a kernel can write to it, else a new array."""
    if out is not None and out.dtype == work and out.flags.aligned:
        return out
    return new_array(shape, work)


def _finish(result: np.ndarray, out: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    if result is out:
        return out
    with np.errstate(over="ignore"):
        if out is None:
            return result.astype(dtype, copy=False)
        out[...] = result
    return out


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of every element along a new last axis."""
    return array[..., None].view(np.uint8)


def _window(problem: PoolProblem) -> tuple[int, ...]:
    """R, S, sh, sw, dh, dw, top, left, each cut to what matters inside the padded image: products fit."""
    tops = (problem.padding[0][0], problem.padding[1][0])
    cut = []
    for axis, kernel in enumerate((problem.R, problem.S)):
        padded = (problem.H, problem.W)[axis] + sum(problem.padding[axis])
        stride, dilation = min(problem.stride[axis], padded), min(problem.dilation[axis], padded)
        cut.append((min(kernel, (padded - 1) // dilation + 1), stride, dilation, tops[axis]))
    return tuple(value for both in zip(*cut, strict=True) for value in both)


def _tap_pixels(problem: PoolProblem) -> np.ndarray:
    """Row and column of every place of the window, relative to its corner: (2, R*S)."""
    R, S, _, _, dh, dw, _, _ = _window(problem)
    # Taps beyond the padded image, which _window has cut off, repeat the first that is outside.
    rows = np.minimum(np.arange(problem.R), R) * dh
    columns = np.minimum(np.arange(problem.S), S) * dw
    return np.stack([np.repeat(rows, problem.S), np.tile(columns, problem.R)])


def _counts(
    problem: PoolProblem, include_pad: bool, divisor: float | None, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of every p, columns of every q: their product is what the sum of window (p, q) is divided by."""
    if divisor is not None:
        return np.full(problem.P, divisor, dtype), np.ones(problem.Q, dtype)
    R, S, sh, sw, dh, dw, _, _ = _window(problem)
    counts = []
    for windows, extent, pads, kernel, stride, dilation in (
        (problem.P, problem.H, problem.padding[0], R, sh, dh),
        (problem.Q, problem.W, problem.padding[1], S, sw, dw),
    ):
        corner = np.arange(windows) * stride - pads[0]
        first, end = (-pads[0], extent + pads[1]) if include_pad else (0, extent)
        inside = [np.clip(-((corner - edge) // dilation), 0, kernel) for edge in (first, end)]
        counts.append((inside[1] - inside[0]).astype(dtype))
    return counts[0], counts[1]


def _by_channel(view: np.ndarray) -> bool:
    """Do neighbours across channels lie closer in memory than neighbours along a row? (N, C, H, W order)"""
    return abs(view.strides[1]) < abs(view.strides[3])


def _share(workers: int | None, problem: PoolProblem) -> int:
    """How many workers a problem is worth."""
    taps = math.prod(problem.y_shape) * min(problem.R, problem.H) * min(problem.S, problem.W)
    return machine.resolve_workers(workers) if taps / _TAPS_A_SECOND > machine.PARALLEL_SECONDS else 1
