"""Windows of an image as a matrix or a view, the adjoint of taking them, and upsampling with zeros.

One algorithm each, so no planner: arguments are checked here and go straight to the compiled ``windows``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike

from fastconv import machine
from fastconv.boundary import boundary_name
from fastconv.errors import ShapeError
from fastconv.ops.arguments import (
    INT64_LARGEST,
    as_operand,
    channels_first,
    check_cval,
    check_layout,
    check_rank,
    check_same_shape,
    image_axes,
    magnitude,
    new_array,
    normal,
    shape_of_four,
)
from fastconv.problem import ConvProblem, check_size, output_extent, pair, parse_padding

__all__ = ["col2im", "extract_windows", "im2col", "upsample_zeros"]


def im2col(
    x: ArrayLike,
    kernel_size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple | str = 0,
    dilation: int | tuple[int, int] = 1,
    boundary: str = "constant",
    cval: float = 0.0,
    layout: str = "NCHW",
) -> np.ndarray:
    """Lay every window of an image batch out as one column of a matrix.

    ::

        cols[n, (c*R + r)*S + s, p*Q + q] = x_padded[n, c, p*stride + r*dilation, q*stride + s*dilation]

    With the filters as a matrix of K rows, ``w.reshape(K, -1) @ cols`` is their correlation with ``x``.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Bool, integer, or float of 16, 32 or 64 bits.
    kernel_size : int or (int, int)
        Window extents R and S in pixels.
    stride, dilation : int or (int, int), default 1
        Pixels from one window to the next, and from one pixel of a window to the next.
    padding : int, (ph, pw), ((top, bottom), (left, right)), "valid", "same", "same_lower" or "full", default 0
        Pixels added on each side, as in ``conv2d``.
    boundary : {"constant", "edge", "symmetric", "reflect", "wrap"}, default "constant"
        What the padding holds, as in ``numpy.pad``.
    cval : float, default 0.0
        The constant of ``boundary="constant"``; it must be a value that the dtype of ``x`` can hold.
    layout : {"NCHW", "NHWC"}, default "NCHW"
        Axes of ``x``. The order of the result's rows, c, r, s, is the same for both.

    Returns
    -------
    ndarray, shape (N, C*R*S, P*Q), of the dtype of ``x``
        With P = (H + top + bottom - dilation*(R-1) - 1) // stride + 1, and Q likewise.

    Raises
    ------
    ShapeError
        An extent of 0 other than N and C, a stride or dilation below 1, a window larger than the padded
        image, a size that overflows.
    TypeError
        A dtype that is not served; a ``cval`` that is not real, or not whole where ``x`` is of integers.
    OverflowError
        A ``cval`` beyond the range of the dtype.

    Notes
    -----
    Values are moved, never computed with: NaNs keep their bits. The idea is from K. Chellapilla, S. Puri
    and P. Simard, "High Performance Convolutional Neural Networks for Document Processing" (2006).

    See Also
    --------
    extract_windows : the same values without a copy, where no padding is needed.
    col2im : the adjoint.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.im2col(np.arange(9).reshape(1, 1, 3, 3), 2)
    array([[[0, 1, 3, 4],
            [1, 2, 4, 5],
            [3, 4, 6, 7],
            [4, 5, 7, 8]]])
    """
    layout = check_layout(layout)
    image = as_operand(x, "x")
    check_rank(image, "x", "N, H, W, C" if layout == "NHWC" else "N, C, H, W")
    image = channels_first(image, layout)
    dtype = image.dtype.newbyteorder("=")
    constant = _constant(cval, dtype)
    problem = _windows_problem(image.shape, kernel_size, stride, padding, dilation, boundary)
    cols = new_array(_cols_shape(problem), dtype)
    if cols.size:
        unsigned = np.dtype(f"u{dtype.itemsize}")
        move = getattr(machine.windows, f"im2col_{8 * dtype.itemsize}")
        pixels, beyond = normal(image, dtype).view(unsigned), constant.view(unsigned).item()
        indices = problem.rows(), problem.columns()
        move(pixels, beyond, *indices, _geometry(problem), cols.view(unsigned), _workers(cols.nbytes))
    return cols


def col2im(
    cols: ArrayLike,
    input_shape: tuple[int, int, int, int],
    kernel_size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple | str = 0,
    dilation: int | tuple[int, int] = 1,
    boundary: str = "constant",
    layout: str = "NCHW",
) -> np.ndarray:
    """Add every window of a matrix back onto the image it was taken from: the adjoint of ``im2col``.

    ::

        x[n, c, h, w] = sum of cols[n, (c*R + r)*S + s, p*Q + q] over all (r, s, p, q) for which
                        im2col with the same options reads x[n, c, h, w]

    so that <im2col(a), b> = <a, col2im(b)>. What was read from constant padding is dropped.

    Parameters
    ----------
    cols : array_like, shape (N, C*R*S, P*Q)
        Bool, integer, or float of 16, 32 or 64 bits.
    input_shape : (int, int, int, int)
        Shape of the image batch: (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``.
    kernel_size, stride, padding, dilation, boundary, layout
        As they were given to ``im2col``.

    Returns
    -------
    ndarray, shape ``input_shape``
        Floats keep their dtype (float16 is summed in float32); integers and bool give int64.

    Raises
    ------
    ShapeError
        ``cols`` is not of the shape that ``im2col`` gives; otherwise as there.
    TypeError
        A dtype that is not served.
    OverflowError
        Integers whose overlapping sums could exceed 2**63-1; told before any work.

    Notes
    -----
    The order of summation depends on the shapes alone, so the result has the same bytes for every number
    of workers. ``cols`` whose last axis is not contiguous is copied first.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.col2im(np.ones((1, 4, 4)), (1, 1, 3, 3), 2)  # in how many windows is each pixel?
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    layout = check_layout(layout)
    cols = as_operand(cols, "cols")
    check_rank(cols, "cols", "N, C*R*S, P*Q")
    shape = shape_of_four(input_shape, "input_shape")
    if layout == "NHWC":
        shape = shape[0], shape[3], shape[1], shape[2]
    exact = cols.dtype.kind != "f"
    result = np.dtype(np.int64) if exact else cols.dtype.newbyteorder("=")
    problem = _windows_problem(shape, kernel_size, stride, padding, dilation, boundary, result.name)
    check_same_shape(cols, "cols", _cols_shape(problem), "N, C*R*S, P*Q of input_shape, kernel_size and options")
    if exact:
        _check_sums(cols, problem)
    compute = np.dtype(problem.compute_dtype)
    x = np.zeros(problem.x_shape, compute)
    if cols.size:
        summands = normal(cols, result if exact else compute).view(compute)
        if summands.strides[2] != compute.itemsize:
            summands = np.ascontiguousarray(summands)
        add = getattr(machine.windows, f"col2im_{compute}")
        add(summands, problem.rows(), problem.columns(), _geometry(problem), x, _workers(summands.nbytes))
    with np.errstate(over="ignore"):
        image = x.view(result) if exact else x.astype(result, copy=False)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)) if layout == "NHWC" else image


def extract_windows(
    x: ArrayLike,
    window: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    axes: tuple[int, int] = (-2, -1),
) -> np.ndarray:
    """View every window of an image without a copy.

    ::

        windows[..., p, q, r, s] = x[..., p*stride + r*dilation, q*stride + s*dilation]

    Parameters
    ----------
    x : array_like
        At least two axes; bool, integer, or float of 16, 32 or 64 bits.
    window : int or (int, int)
        Window extents R and S in pixels.
    stride, dilation : int or (int, int), default 1
        Pixels from one window to the next, and from one pixel of a window to the next.
    axes : (int, int), default (-2, -1)
        The two image axes of ``x``, H then W.

    Returns
    -------
    ndarray, read-only
        The other axes of ``x`` in their order, then P, Q, R, S, with P = (H - dilation*(R-1) - 1) // stride + 1.
        It shares the memory of ``x``.

    Raises
    ------
    ShapeError
        A window larger than the image, a stride or dilation below 1, a size that overflows.
    ValueError, IndexError
        ``axes`` that are not two distinct axes of ``x``.
    TypeError
        A dtype that is not served.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> image = np.arange(16).reshape(4, 4)
    >>> fastconv.extract_windows(image, 2, stride=2).max(axis=(-2, -1))
    array([[ 5,  7],
           [13, 15]])
    """
    x = as_operand(x, "x")
    where = image_axes(axes, x.ndim)
    kernel = pair(window, "window", 1)
    steps, gaps = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    extents = [x.shape[axis] for axis in where]
    counts = [output_extent(h, (0, 0), r, s, d) for h, r, s, d in zip(extents, kernel, steps, gaps, strict=True)]
    if min(counts) < 1:
        raise ShapeError(f"window: {_misfit(kernel, gaps)}; must fit the image of {extents[0]}x{extents[1]}")
    others = [axis for axis in range(x.ndim) if axis not in where]
    shape = (*(x.shape[axis] for axis in others), *counts, *kernel)
    check_size("windows", shape, x.itemsize)
    # A step beyond the image is never taken: shortened, it can't overflow.
    strides = [x.strides[axis] for axis in others]
    strides += [x.strides[axis] * min(s, h) for axis, s, h in zip(where, steps, extents, strict=True)]
    strides += [x.strides[axis] * min(d, h) for axis, d, h in zip(where, gaps, extents, strict=True)]
    return as_strided(x, shape, strides, writeable=False)


def upsample_zeros(
    x: ArrayLike, stride: int | tuple[int, int], *, axes: tuple[int, int] = (-2, -1)
) -> np.ndarray:
    """Spread the pixels of an image apart and put zeros between them.

    ::

        y[..., h*stride, w*stride] = x[..., h, w],   0 elsewhere

    Parameters
    ----------
    x : array_like
        At least two axes; bool, integer, or float of 16, 32 or 64 bits.
    stride : int or (int, int)
        Pixels from one value to the next; 1 gives a copy.
    axes : (int, int), default (-2, -1)
        The two image axes.

    Returns
    -------
    ndarray of the dtype of ``x``
        An extent of n becomes (n-1)*stride + 1.

    Raises
    ------
    ShapeError
        An image extent of 0, a stride below 1, a size that overflows.
    ValueError, IndexError
        ``axes`` that are not two distinct axes of ``x``.
    TypeError
        A dtype that is not served.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.upsample_zeros(np.array([[1, 2], [3, 4]]), (2, 3))
    array([[1, 0, 0, 2],
           [0, 0, 0, 0],
           [3, 0, 0, 4]])
    """
    x = as_operand(x, "x")
    where = image_axes(axes, x.ndim)
    steps = pair(stride, "stride", 1)
    shape, places = list(x.shape), [slice(None)] * x.ndim
    for axis, step in zip(where, steps, strict=True):
        if x.shape[axis] == 0:
            raise ShapeError(f"x: got shape {x.shape}; the image axes {axes} must have at least one pixel")
        shape[axis] = (x.shape[axis] - 1) * step + 1
        places[axis] = slice(None, None, min(step, shape[axis]))
    check_size("y", shape, x.itemsize)
    y = np.zeros(shape, x.dtype.newbyteorder("="))
    y[tuple(places)] = x
    return y


def _windows_problem(
    shape: tuple[int, ...],
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    boundary: object,
    dtype: str = "float32",
) -> ConvProblem:
    """The geometry of taking windows from an image of N, C, H, W, as a convolution with one filter."""
    name = boundary_name(boundary)
    kernel = pair(kernel_size, "kernel_size", 1)
    steps, gaps = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    extents = (shape[2], shape[3])
    if min(extents) < 1:
        raise ShapeError(f"x: got an image of {extents[0]}x{extents[1]} pixels; only N and C may be 0")
    pads = parse_padding(padding, extents, kernel, steps, gaps)
    padded = [h + sum(p) for h, p in zip(extents, pads, strict=True)]
    if any(output_extent(h, (0, 0), r, 1, d) < 1 for h, r, d in zip(padded, kernel, gaps, strict=True)):
        raise ShapeError(
            f"kernel_size: {_misfit(kernel, gaps)}; must fit the padded image of {padded[0]}x{padded[1]}"
        )
    N, C, H, W = shape
    return ConvProblem(N, C, H, W, 1, *kernel, steps, pads, gaps, boundary=name, dtype=dtype)


def _misfit(kernel: tuple[int, int], dilation: tuple[int, int]) -> str:
    spans = [d * (r - 1) + 1 for r, d in zip(kernel, dilation, strict=True)]
    return f"a window of {kernel[0]}x{kernel[1]} spans {spans[0]}x{spans[1]} pixels"


def _cols_shape(problem: ConvProblem) -> tuple[int, int, int]:
    return problem.N, problem.C * problem.R * problem.S, problem.P * problem.Q


def _geometry(problem: ConvProblem) -> tuple[int, ...]:
    """What the kernels know of the geometry."""
    p, extents = problem, problem.padded_shape[2:]
    (top, _), (left, _) = p.padding
    # A step beyond the padded image is never taken: shortened, it can't overflow.
    steps = [min(s, h) for option in (p.stride, p.dilation) for s, h in zip(option, extents, strict=True)]
    return p.R, p.S, p.P, p.Q, top, left, *steps


def _workers(nbytes: int) -> int:
    """One where a second would cost more than it brings."""
    seconds = nbytes / machine.rates().bandwidth
    return machine.resolve_workers(None) if seconds > machine.PARALLEL_SECONDS else 1


def _constant(cval: object, dtype: np.dtype) -> np.ndarray:
    """``cval`` as an array of one element, refused where the dtype can't hold it."""
    value = check_cval(cval, dtype.kind != "f")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            constant = np.array([value], dtype)
        fits = bool(np.isfinite(constant[0])) or not math.isfinite(value)
    else:
        least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        fits = least <= value <= most
        constant = np.array([value if fits else 0], dtype)
    if not fits:
        raise OverflowError(f"cval: got {cval!r}; must lie within the range of {dtype}, the dtype of x")
    return constant


def _check_sums(cols: np.ndarray, problem: ConvProblem) -> None:
    """Refuse integers whose sums could exceed int64: largest absolute value times the most overlaps on a pixel."""
    size, overlaps = magnitude(cols), 1
    geometry = (problem.rows(), problem.P, problem.R), (problem.columns(), problem.Q, problem.S)
    for (index, windows, taps), step, gap in zip(geometry, problem.stride, problem.dilation, strict=True):
        read = index[np.add.outer(np.arange(windows) * min(step, index.size), np.arange(taps) * min(gap, index.size))]
        overlaps *= int(np.bincount(read[read >= 0]).max(initial=0))
    if size * overlaps > INT64_LARGEST:
        raise OverflowError(
            f"cols: got integers up to {size} of which {overlaps} may overlap; their sum must not exceed 2**63-1"
        )
