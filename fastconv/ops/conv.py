"""2-D convolution of batches with channels, its gradients, and transposed convolution.

Checks arguments, settles dtypes and layouts, and runs the plan of the problem. Repeated calls with the same
shapes, dtypes and options take a short cut: a dictionary from the raw arguments to the prepared call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastconv import machine, planner
from fastconv.boundary import boundary_name
from fastconv.errors import ShapeError
from fastconv.ops import arguments as check
from fastconv.ops.arguments import INT64_LARGEST
from fastconv.ops.call import (
    OPERANDS,
    Call,
    Settings,
    as_bias,
    bind,
    check_overflow,
    in_layout,
    kernel_factors,
    make_call,
    prepared,
    result_dtypes,
)
from fastconv.problem import (
    ConvProblem,
    check_size,
    effective_steps,
    integer,
    pair,
    parse_padding,
    transposed_padding,
)

__all__ = [
    "conv2d", "conv2d_backward", "conv2d_input_grad", "conv2d_weight_grad", "conv_transpose2d", "plan_conv2d",
]  # fmt: skip

_AXES = {"NCHW": "N, C, H, W", "NHWC": "N, H, W, C"}

Options = tuple
"""(stride, padding, dilation, groups, boundary, cval, layout, method, max_error, elementwise, max_workspace, dtype,
overflow), as given by the caller."""


# --- prepared calls --------------------------------------------------------------------------------


def _prepared(direction: str, a: np.ndarray, b: np.ndarray, shapes: Any, options: Options) -> Call:
    """The prepared call for these operands and options; ``shapes`` that of the result, of a gradient."""
    stride, padding, dilation, groups, _, _, _, method, max_error, elementwise, max_workspace, dtype, _ = options
    b_shape = b.shape
    # 1 == 1.0 == True, but not every one of them is a valid option: the text tells them apart.
    numbers = None
    if not (
        type(stride) is type(dilation) is type(groups) is int and type(padding) in (int, str)
        and max_error is max_workspace is None and elementwise is False
    ):  # fmt: skip
        numbers = f"{stride}{padding}{dilation}{groups}{max_error}{elementwise}{max_workspace}"
    rank = None
    if len(b_shape) == 4 and b_shape[1] == 1 and b_shape[0] == groups and direction != "weight_grad":  # C = K = groups
        _check_dtypes(direction, a, b)
        found = kernel_factors(b[:, 0], a.size // groups, (a.dtype, b.dtype), method, dtype)
        rank = None if found is None else found.rank
    key = (direction, a.shape, a.dtype, b_shape, b.dtype, shapes, numbers, rank, *options)
    return prepared(key, _prepare, direction, a, b, shapes, options, rank)


def _check_dtypes(direction: str, a: np.ndarray, b: np.ndarray) -> None:
    for array, name in zip((a, b), OPERANDS[direction], strict=True):
        check.as_operand(array, name)


def _result_shape(shape: Any, name: str) -> Any:
    """The shape of a gradient as given: four extents, of type int, are checked where a call is prepared."""
    if type(shape) is tuple and len(shape) == 4:
        n, c, h, w = shape
        if type(n) is type(c) is type(h) is type(w) is int:
            return shape
    return check.shape_of_four(shape, name)


def _prepare(
    direction: str, a: np.ndarray, b: np.ndarray, shapes: tuple, options: Options, rank: int | None
) -> Call:
    """Check dtypes, shapes and options, plan the problem."""
    _check_dtypes(direction, a, b)
    if direction != "forward":
        shapes = check.shape_of_four(shapes, "kernel_shape" if direction == "weight_grad" else "input_shape")
    layout = check.check_layout(options[6])
    if direction == "weight_grad":
        check.check_rank(a, "x", _AXES[layout])
        check.check_rank(b, "dy", _AXES[layout].replace("C", "K").replace("H", "P").replace("W", "Q"))
        x_shape, w_shape = a.shape, shapes
    else:
        name = "x" if direction == "forward" else "dy"
        axes = _AXES[layout] if name == "x" else _AXES[layout].replace("C", "K").replace("H", "P").replace("W", "Q")
        check.check_rank(a, name, axes)
        check.check_rank(b, "w", "K, C/groups, R, S")
        x_shape, w_shape = (a.shape if direction == "forward" else shapes), b.shape
    problem, settings = _problem(direction, x_shape, w_shape, check.promote(a.dtype, b.dtype), options, rank)
    y_shape = in_layout(problem.y_shape, layout)
    if direction != "forward":
        dy, given = (a, "input_shape") if direction == "input_grad" else (b, "kernel_shape")
        check.check_same_shape(dy, "dy", y_shape, f"the output of a convolution with this {given} and geometry")
    check.new_array(problem.out_shape, settings.result)  # MemoryError before plans, whose tables grow with the padding
    return make_call(problem, check.promote(a.dtype, b.dtype), settings)


def _problem(
    direction: str,
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    promoted: np.dtype,
    options: Options,
    rank: int | None = None,
) -> tuple[ConvProblem, Settings]:
    """The problem that shapes (in the caller's layout), operand dtype and options describe."""
    (stride, padding, dilation, groups, boundary, cval, layout, method, max_error, elementwise, max_workspace, dtype,
     overflow) = options  # fmt: skip
    layout = check.check_layout(layout)
    n, *rest = x_shape
    c, h, w = rest if layout == "NCHW" else (rest[2], rest[0], rest[1])
    for extent, name in ((h, "H"), (w, "W")):
        if extent < 1:
            raise ShapeError(f"x: got {name} = {extent}; only N and C may be 0")
    k, group_channels, r, s = w_shape
    for extent, name in ((k, "K"), (r, "R"), (s, "S")):
        if extent < 1:
            raise ShapeError(f"w: got {name} = {extent} in shape {tuple(w_shape)}; must be at least 1")
    groups = integer(groups, "groups", 1)
    if group_channels * groups != c:
        raise ShapeError(
            f"w: got {group_channels} channels in shape {tuple(w_shape)}; must be C / groups = {c} / {groups}"
        )
    stride, dilation = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    pads = parse_padding(padding, (h, w), (r, s), stride, dilation)
    stride, dilation = effective_steps((h, w), pads, (r, s), stride, dilation)
    work, result = result_dtypes(promoted, dtype)
    overflow = check_overflow(overflow)
    problem = ConvProblem(
        N=n, C=c, H=h, W=w, K=k, R=r, S=s, stride=stride, padding=pads, dilation=dilation, groups=groups,
        boundary=boundary_name(boundary), cval=check.check_cval(cval, promoted.kind in "biu"), layout=layout,
        dtype=work, direction=direction, rank=rank,
    )  # fmt: skip
    planning = planner.check_options(method, max_error, elementwise, max_workspace)
    return problem, Settings(planning, result, overflow)


# --- public functions ------------------------------------------------------------------------------


def conv2d(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    boundary: str = "constant",
    cval: float = 0.0,
    layout: str = "NCHW",
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    overflow: str = "raise",
    elementwise: bool = False,
) -> np.ndarray:
    """2-D cross-correlation of a batch of images with a bank of filters.

    y[n,k,p,q] = bias[k] + sum_{c,r,s} xpad[n, g*C/groups + c, p*sh + r*dh, q*sw + s*dw] * w[k,c,r,s]

    with g = k // (K/groups), xpad the padded image, P = (H + top + bottom - dh*(R-1) - 1) // sh + 1, Q likewise.

    Parameters
    ----------
    x : array_like, (N, C, H, W); with ``layout="NHWC"`` (N, H, W, C)
        bool, integer, float16, float32 or float64, with any strides.
    w : array_like, (K, C/groups, R, S)
        Filters, not flipped, in both layouts.
    bias : array_like, (K,), optional
    stride, dilation : int or pair of int, default 1
        Pixels between windows, and between the taps of a filter (1: none skipped).
    padding : default 0
        Pixels beyond the edge: int, (ph, pw), ((top, bottom), (left, right)), "valid", "same" (output extent
        ceil(H / stride), the odd pixel after), "same_lower" (before) or "full" (dilation * (R - 1) on each side).
    groups : int, default 1
        Divides C and K; each group of filters sees its own channels.
    boundary : {"constant", "edge", "symmetric", "reflect", "wrap"}
        What the padding holds, under the names of ``numpy.pad``; "constant" is ``cval``.
    cval : float, default 0
    layout : {"NCHW", "NHWC"}
        Of x and y.
    method : str, default "auto"
        One of ``fastconv.METHODS``, which serves or raises UnsupportedError; "auto" takes the one reckoned fastest
        among those that the options admit.
    max_error : float, optional
        "auto" uses only methods whose ``error_bound`` is within it.
    workers : int, optional
        Threads; None for all the cores this process may use. The result is the same, bit for bit.
    max_workspace : int, optional
        Bytes of scratch memory; None for 64 MiB under "auto", no limit for a named method.
    out : ndarray, optional
        Takes the result; right shape and dtype, any strides, apart from every input.
    dtype : optional
        Another result dtype: the work is done in the promotion of the operands and it.
    overflow : {"raise", "saturate", "wrap"}
        What narrowing to an integer ``dtype`` (after rounding half to even) does with values beyond it.
    elementwise : bool, default False
        "auto" uses only methods whose bound holds element by element.

    Returns
    -------
    ndarray, (N, K, P, Q) or (N, P, Q, K)
        C-contiguous, of the operands' NumPy promotion; int64 and exact where both are integers or bool. float16
        is computed in float32.

    Raises
    ------
    ShapeError
        A ValueError: ranks, channels, groups or extents that don't fit, a filter larger than the padded image, a
        size that overflows.
    UnsupportedError
        A ValueError: the method can't serve, or not within ``max_error`` or ``max_workspace``.
    TypeError
        A dtype that isn't served (complex, longdouble, object); a fractional ``cval`` or bias with integers.
    OverflowError
        The exact integer result could exceed int64, or doesn't fit ``dtype``.

    Notes
    -----
    Accuracy: |y - exact| <= e * sum_c ||xpad|| ||w||, plus underflow, with e the plan's ``error_bound`` and the norms
    over the window, or for "winograd" and "fft" over the tile, of each channel. "naive", "direct", "im2col" and "gemm"
    also keep e * sum |xpad| |w| element by element, with e = n*u / (1 - n*u), n = C/groups*R*S + 1 and u half the
    machine epsilon (Higham, Accuracy and Stability of Numerical Algorithms, 2002); ``elementwise=True`` asks for that.

    NaN and infinities go where IEEE arithmetic sends them in the direct sum, the padding included. "winograd" and
    "fft" spread them over a tile where they are named; under "auto" such a tile is computed again directly.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> fc.conv2d(x, np.ones((1, 1, 3, 3)), padding="same", stride=2)
    array([[[[45., 39.],
             [66., 50.]]]])
    """
    x, w = np.asarray(x), np.asarray(w)
    options = (stride, padding, dilation, groups, boundary, cval, layout, method, max_error, elementwise, max_workspace,
               dtype, overflow)  # fmt: skip
    return _prepared("forward", x, w, (), options)(x, w, bias, out, workers)


def conv2d_input_grad(
    dy: ArrayLike,
    w: ArrayLike,
    input_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    boundary: str = "constant",
    cval: float = 0.0,
    layout: str = "NCHW",
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    overflow: str = "raise",
    elementwise: bool = False,
) -> np.ndarray:
    """Gradient of ``conv2d`` by its input: the adjoint of the convolution, applied to ``dy``.

    dxpad[n, c, u, v] = sum over k, p, q, r, s with p*sh + r*dh = u, q*sw + s*dw = v of dy[n,k,p,q] * w[k,c,r,s]

    and dx adds up dxpad over all padded positions that repeat a pixel (with "constant": crops it).

    Parameters
    ----------
    dy : array_like, (N, K, P, Q) or, with ``layout="NHWC"``, (N, P, Q, K)
    w : array_like, (K, C/groups, R, S)
    input_shape : four int
        The shape of x, in the layout.
    stride, padding, dilation, groups, boundary, layout
        Of the forward convolution. ``cval`` has no influence.
    method, max_error, workers, max_workspace, out, dtype, overflow, elementwise
        As in ``conv2d``.

    Returns
    -------
    ndarray of shape input_shape
        dtypes as in ``conv2d``.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError, OverflowError
        As ``conv2d``; ShapeError too where dy doesn't fit the geometry.

    Notes
    -----
    At stride s the direct method computes s*s small convolutions, one per output phase; no zeros are inserted.
    Accuracy as in ``conv2d`` with n = K/groups*R*S + 1 (times the repeats of a boundary other than constant).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.conv2d_input_grad(np.ones((1, 1, 2, 2)), [[[[1.0, 2.0], [3.0, 4.0]]]], (1, 1, 4, 4), stride=2)[0, 0]
    array([[1., 2., 1., 2.],
           [3., 4., 3., 4.],
           [1., 2., 1., 2.],
           [3., 4., 3., 4.]])
    """
    dy, w = np.asarray(dy), np.asarray(w)
    shape = _result_shape(input_shape, "input_shape")
    options = (stride, padding, dilation, groups, boundary, cval, layout, method, max_error, elementwise, max_workspace,
               dtype, overflow)  # fmt: skip
    return _prepared("input_grad", dy, w, shape, options)(dy, w, None, out, workers)


def conv2d_weight_grad(
    x: ArrayLike,
    dy: ArrayLike,
    kernel_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    boundary: str = "constant",
    cval: float = 0.0,
    layout: str = "NCHW",
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    overflow: str = "raise",
    elementwise: bool = False,
) -> np.ndarray:
    """Gradient of ``conv2d`` by its filters: each tap's product of image and ``dy``, summed over the batch.

    dw[k,c,r,s] = sum_{n,p,q} xpad[n, g*C/groups + c, p*sh + r*dh, q*sw + s*dw] * dy[n,k,p,q]

    Parameters
    ----------
    x : array_like, (N, C, H, W) or, with ``layout="NHWC"``, (N, H, W, C)
    dy : array_like, (N, K, P, Q) or (N, P, Q, K)
    kernel_shape : four int
        (K, C/groups, R, S), in both layouts.
    stride, padding, dilation, groups, boundary, cval, layout
        Of the forward convolution.
    method, max_error, workers, max_workspace, out, dtype, overflow, elementwise
        As in ``conv2d``.

    Returns
    -------
    ndarray, (K, C/groups, R, S)
        dtypes as in ``conv2d``; zeros for an empty batch.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError, OverflowError
        As ``conv2d``; ShapeError too where dy doesn't fit the geometry.

    Notes
    -----
    Accuracy as in ``conv2d`` with n = N*P*Q + 1. The gradient by the bias is the sum of dy over N, P and Q
    (``conv2d_backward``).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> fc.conv2d_weight_grad(x, np.ones((1, 1, 2, 2)), (1, 1, 2, 2))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    x, dy = np.asarray(x), np.asarray(dy)
    shape = _result_shape(kernel_shape, "kernel_shape")
    options = (stride, padding, dilation, groups, boundary, cval, layout, method, max_error, elementwise, max_workspace,
               dtype, overflow)  # fmt: skip
    return _prepared("weight_grad", x, dy, shape, options)(x, dy, None, out, workers)


def conv2d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    w: ArrayLike,
    *,
    needs: tuple[bool, bool, bool] = (True, True, True),
    out: None = None,
    layout: str = "NCHW",
    dtype: DTypeLike | None = None,
    overflow: str = "raise",
    workers: int | None = None,
    **options: Any,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The gradients of ``conv2d`` by input, filters and bias, as far as they are needed.

    Parameters
    ----------
    dy : array_like, (N, K, P, Q) or, with ``layout="NHWC"``, (N, P, Q, K)
    x, w : array_like
        As passed to ``conv2d``.
    needs : three bool
        Which of dx, dw and db to compute; the others are None.
    out : None
        Three results can't go to one array.
    **options
        Those of ``conv2d``.

    Returns
    -------
    dx, dw, db : ndarray or None
        Shapes of x, of w, and (K,): db[k] = sum_{n,p,q} dy[n,k,p,q], summed in double precision.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError, OverflowError
        As ``conv2d_input_grad`` and ``conv2d_weight_grad``.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((2, 3, 8, 8)), np.ones((4, 3, 3, 3))
    >>> dx, dw, db = fc.conv2d_backward(np.ones((2, 4, 6, 6)), x, w)
    >>> dx.shape, dw.shape, db.tolist()
    ((2, 3, 8, 8), (4, 3, 3, 3), [72.0, 72.0, 72.0, 72.0])
    """
    if out is not None:
        raise TypeError("out: got an array; conv2d_backward has three results and takes none")
    dy, x, w = check.as_operand(dy, "dy"), check.as_operand(x, "x"), check.as_operand(w, "w")
    try:
        wants = tuple(check.check_flag(need, "needs") for need in needs)
    except TypeError:
        wants = ()
    if len(wants) != 3:
        raise TypeError(f"needs: got {needs!r}; must be three of True and False: for dx, dw and db")
    workers = machine.check_workers(workers)
    unknown = options.keys() - _OPTION_DEFAULTS.keys()
    if unknown:
        raise TypeError(f"conv2d_backward() got an unexpected keyword argument {min(unknown)!r}")
    merged = _OPTION_DEFAULTS | options | {"layout": layout, "dtype": dtype, "overflow": overflow}
    listed = tuple(merged[name] for name in _OPTION_NAMES)
    # Both problems are checked whatever is needed, so that a wrong argument never depends on `needs`.
    input_call = _prepared("input_grad", dy, w, x.shape, listed)
    weight_call = _prepared("weight_grad", x, dy, w.shape, listed)
    db = _bias_grad(dy, check.check_layout(layout), input_call) if wants[2] else None  # can refuse: so it comes first
    dx = input_call(dy, w, None, None, workers) if wants[0] else None
    dw = weight_call(x, dy, None, None, workers) if wants[1] else None
    return dx, dw, db


_OPTION_DEFAULTS = {
    "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "boundary": "constant", "cval": 0.0, "layout": "NCHW",
    "method": "auto", "max_error": None, "elementwise": False, "max_workspace": None, "dtype": None,
    "overflow": "raise",
}  # fmt: skip
_OPTION_NAMES = tuple(_OPTION_DEFAULTS)


def _bias_grad(dy: np.ndarray, layout: str, call: Call) -> np.ndarray:
    axes = (0, 2, 3) if layout == "NCHW" else (0, 1, 2)
    if call.plan.problem.dtype == "int64":
        most = check.magnitude(dy) * (dy.size // max(call.plan.problem.K, 1))
        if most > INT64_LARGEST:
            raise OverflowError(f"the exact sum of dy could reach {most}, beyond int64; pass dtype='float64'")
        total = dy.sum(axis=axes, dtype=np.int64)
    else:
        with np.errstate(all="ignore"):
            total = dy.sum(axis=axes, dtype=np.float64)
    return check.narrow(total, call.result, call.overflow)


def conv_transpose2d(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    layout: str = "NCHW",
    method: str = "auto",
    workers: int | None = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    max_error: float | None = None,
    elementwise: bool = False,
    overflow: str = "raise",
) -> np.ndarray:
    """Transposed convolution: the adjoint of ``conv2d`` as an operation of its own.

    y[n, k, u - top, v - left] = bias[k] + sum over c, p, q, r, s with p*sh + r*dh = u, q*sw + s*dw = v
    of x[n,c,p,q] * w[c,k,r,s]

    Parameters
    ----------
    x : array_like, (N, C, H, W) or, with ``layout="NHWC"``, (N, H, W, C)
    w : array_like, (C, K/groups, R, S)
        The order of PyTorch and ONNX.
    bias : array_like, (K,), optional
    stride, dilation : int or pair of int, default 1
    padding : default 0
        Cropped from the result: int, pair, two pairs, "valid" (0), "full" (dilation * (R - 1)), or as ONNX's
        auto_pad "same" and "same_lower": output extent H * stride.
    output_padding : int or pair of int, default 0
        Rows and columns added after; below max(stride, dilation).
    groups, layout, method, workers, max_workspace, out, dtype, max_error, elementwise, overflow
        As in ``conv2d``.

    Returns
    -------
    ndarray, (N, K, P, Q) or (N, P, Q, K)
        P = (H-1)*sh - top - bottom + dh*(R-1) + output_padding + 1, Q likewise; dtypes as in ``conv2d``.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError, OverflowError
        As ``conv2d``; ShapeError too for an output_padding that is too large and an output below 1 pixel.

    Notes
    -----
    Accuracy as in ``conv2d_input_grad``. (M. Zeiler et al., Deconvolutional networks, 2010.)

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.conv_transpose2d(np.ones((1, 1, 2, 2)), [[[[1.0, 2.0], [3.0, 4.0]]]], stride=2).shape
    (1, 1, 4, 4)
    """
    x, w = check.as_operand(x, "x"), check.as_operand(w, "w")
    workers = machine.check_workers(workers)
    layout = check.check_layout(layout)
    check.check_rank(x, "x", _AXES[layout])
    check.check_rank(w, "w", "C, K/groups, R, S")
    n, c, h, width = x.shape if layout == "NCHW" else (x.shape[0], x.shape[3], x.shape[1], x.shape[2])
    for extent, name in ((h, "H"), (width, "W")):
        if extent < 1:
            raise ShapeError(f"x: got {name} = {extent}; only N and C may be 0")
    groups = integer(groups, "groups", 1)
    if w.shape[0] != c:
        raise ShapeError(f"w: got {w.shape[0]} input channels in shape {w.shape}; must be the {c} of x")
    if c % groups:
        raise ShapeError(f"groups: got {groups}; must divide the {c} channels of x")
    k, (r, s) = w.shape[1] * groups, w.shape[2:]
    if min(k, r, s) < 1:
        raise ShapeError(f"w: got shape {w.shape}; only its first extent may be 0")
    stride, dilation = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    extra = pair(output_padding, "output_padding", 0)
    for e, limit in zip(extra, map(max, stride, dilation), strict=True):
        if e >= limit:
            raise ShapeError(f"output_padding: got {output_padding!r}; must be below max(stride, dilation) = {limit}")
    (height, wide), pads = transposed_padding(padding, (h, width), (r, s), stride, dilation, extra)
    check_size("y", (n, k, height, wide))
    stride, dilation = effective_steps((height, wide), pads, (r, s), stride, dilation)
    work, result = result_dtypes(check.promote(x.dtype, w.dtype), dtype)
    overflow = check_overflow(overflow)
    planning = planner.check_options(method, max_error, elementwise, max_workspace)
    bias = as_bias(bias, k, work == "int64")
    if c == 0:  # no product at all: a problem with the one channel it can't do without
        y = check.new_array(in_layout((n, k, height, wide), layout), result)
        if out is not None:
            check.check_out(out, y.shape, result, (x, w, bias))
        start = np.zeros(k, result) if bias is None else check.narrow(bias, result, overflow)
        check.channels_first(y, layout)[...] = start[:, None, None]
        return y if out is None else _copied(y, out)
    problem = ConvProblem(
        N=n, C=k, H=height, W=wide, K=c, R=r, S=s, stride=stride, padding=pads, dilation=dilation, groups=groups,
        layout=layout, dtype=work, direction="input_grad",
    )  # fmt: skip
    check.new_array(problem.out_shape, result)  # as in _prepare
    call = make_call(problem, check.promote(x.dtype, w.dtype), Settings(planning, result, overflow))
    return call(x, w, bias, out, workers)


def _copied(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    out[...] = y
    return out


def plan_conv2d(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *,
    dtype: DTypeLike = "float32",
    direction: str = "forward",
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    boundary: str = "constant",
    cval: float = 0.0,
    layout: str = "NCHW",
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    elementwise: bool = False,
) -> planner.Plan:
    """Plan a convolution or a gradient of it once, to look at or to call many times.

    Parameters
    ----------
    x_shape, w_shape : four int each
        Of the forward convolution, x in the layout.
    dtype : default "float32"
        Of the operands; every integer dtype is computed exactly in int64.
    direction : {"forward", "input_grad", "weight_grad"}
    workers : int, optional
        Of the plan's calls.
    stride, padding, dilation, groups, boundary, cval, layout, method, max_error, max_workspace, elementwise
        As in ``conv2d``.

    Returns
    -------
    Plan
        With ``method``, ``variant``, ``workspace_bytes``, ``flops``, ``error_bound``, ``error_scope``, ``explain()``,
        ``pack(w)``; called as ``plan(x, w_or_packed, bias=None, out=None)``, ``plan(dy, w_or_packed, out=None)`` or
        ``plan(x, dy, out=None)`` by direction.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError
        As ``conv2d``.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> plan = fc.plan_conv2d((1, 8, 28, 28), (16, 8, 3, 3), padding=1, method="direct")
    >>> packed = plan.pack(np.ones((16, 8, 3, 3), np.float32))
    >>> plan(np.ones((1, 8, 28, 28), np.float32), packed).shape
    (1, 16, 28, 28)
    """
    if direction not in ("forward", "input_grad", "weight_grad"):
        raise ValueError(f"direction: got {direction!r}; must be 'forward', 'input_grad' or 'weight_grad'")
    operand = check.as_operand(np.empty(0, dtype), "dtype").dtype
    workers = machine.check_workers(workers)
    shapes = check.shape_of_four(x_shape, "x_shape"), check.shape_of_four(w_shape, "w_shape")
    options = (stride, padding, dilation, groups, boundary, cval, layout, method, max_error, elementwise, max_workspace,
               None, "raise")  # fmt: skip
    problem, settings = _problem(direction, *shapes, operand, options)
    call = make_call(problem, operand, settings)
    return bind(call, workers)
