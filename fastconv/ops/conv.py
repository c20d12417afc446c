"""2-D convolution of batches with channels, its gradients, and transposed convolution.

Checks arguments, settles dtypes and layouts, and runs the plan of the problem. Repeated calls with the same
shapes, dtypes and options take a short cut: a dictionary from the raw arguments to the prepared call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastconv import machine, planner
from fastconv.boundary import boundary_name, most_repeats
from fastconv.errors import ShapeError
from fastconv.ops import arguments as check
from fastconv.ops.arguments import INT64_LARGEST
from fastconv.problem import ConvProblem, check_size, integer, pair, parse_padding, transposed_padding

__all__ = [
    "conv2d", "conv2d_backward", "conv2d_input_grad", "conv2d_weight_grad", "conv_transpose2d", "plan_conv2d",
]  # fmt: skip

_NO_BIAS = {name: np.empty(0, name) for name in ("float32", "float64", "uint64")}
_AXES = {"NCHW": "N, C, H, W", "NHWC": "N, H, W, C"}
_OVERFLOW = ("raise", "saturate", "wrap")

Options = tuple
"""(stride, padding, dilation, groups, boundary, cval, layout, method, max_error, elementwise, max_workspace, dtype,
overflow), as given by the caller."""


# --- prepared calls --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """Everything about a call that its arrays' shapes and dtypes and its options settle."""

    plan: planner.Plan
    compute: np.dtype
    result: np.dtype
    bias_dtype: np.dtype
    shape: tuple[int, ...]
    """Of the result, in the caller's layout."""
    overflow: str

    def __call__(
        self, a: np.ndarray, b: Any, bias: np.ndarray | None, out: np.ndarray | None, workers: int | None
    ) -> np.ndarray:
        """Operands as fastconv.algorithms orders them, with the shapes this call was prepared for."""
        problem, compute, result = self.plan.problem, self.compute, self.result
        exact = problem.dtype == "int64"
        arrays = isinstance(b, np.ndarray)
        if out is not None:
            check.check_out(out, self.shape, result, (a, b if arrays else None, bias))
        if exact:
            self._refuse_overflow(a, b, bias)
        workers = machine.resolve_workers(workers)
        target = out
        if out is None or not out.flags.aligned or not self._direct:
            target = check.new_array(self.shape, self._work)
        assert target is not None
        first = target if target.dtype == compute else target.view(compute)
        a, bias = self._operand(a), self._bias(bias)
        layout = problem.layout
        if layout == "NHWC":
            a = a.transpose(0, 3, 1, 2)
            if problem.direction != "weight_grad":
                first = first.transpose(0, 3, 1, 2)
        if arrays:
            b = self._operand(b)
            if layout == "NHWC" and problem.direction == "weight_grad":
                b = b.transpose(0, 3, 1, 2)
        else:
            b = b.data
        if first.size == 0 or a.size == 0 or (arrays and b.size == 0):
            first[...] = bias[:, None, None] if bias.size else 0
        else:
            self.plan.run(a, b, bias, first, workers)
        if self._direct and target is not out:
            if out is None:
                return target
            out[...] = target
        elif target is not out:
            values = check.narrow(target, result, self.overflow)
            if out is None:
                return values
            out[...] = values
        assert out is not None
        return out

    @property
    def _direct(self) -> bool:
        """The kernels compute in the result's dtype."""
        return self._work == self.result

    @property
    def _work(self) -> np.dtype:
        return np.dtype(np.int64) if self.compute.kind == "u" else self.compute

    def _operand(self, array: np.ndarray) -> np.ndarray:
        if self.compute.kind == "u":
            return check.normal(array, np.dtype(np.int64)).view(np.uint64)
        return check.normal(array, self.compute)

    def _bias(self, bias: np.ndarray | None) -> np.ndarray:
        if bias is None:
            return _NO_BIAS[self.compute.name]
        if self.compute.kind == "u":
            return np.ascontiguousarray(bias.astype(np.int64)).view(np.uint64)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(bias.astype(self.bias_dtype, copy=False).astype(self.compute, copy=False))

    def _refuse_overflow(self, a: np.ndarray, b: Any, bias: np.ndarray | None) -> None:
        """max|a| * (largest sum of |b|) + |bias| must stay below 2**63."""
        problem = self.plan.problem
        if isinstance(b, _PackedWeights):
            largest, total, most = b.largest, b.total, b.total
        else:
            largest, total, most = check.magnitude(b), None, 0
        left = check.magnitude(a)
        if problem.direction != "input_grad" and problem.padded_shape != problem.x_shape:
            left = max(left, abs(int(problem.cval)))
        extra = 0 if bias is None else check.magnitude(bias)
        if left * largest * problem.terms + extra <= INT64_LARGEST:
            return
        repeats = 1
        if problem.direction == "input_grad":
            repeats = most_repeats(problem.rows()) * most_repeats(problem.columns())
        if total is None:
            most = _largest_sum(b, problem)
        if left * most * repeats + extra > INT64_LARGEST:
            raise OverflowError(
                f"the exact integer result could reach {left * most * repeats + extra}, beyond int64; "
                "pass dtype='float64' to work in floating point"
            )


@dataclass(frozen=True)
class _PackedWeights:
    """Weights in a plan's own order: made by Plan.pack, good for that plan's problem, method and instruction set."""

    plan: tuple
    dtype: np.dtype
    data: Any
    largest: int
    total: int


def _largest_sum(b: np.ndarray, problem: ConvProblem) -> int:
    """The largest sum of |b| that meets one element of the result; exact, whatever its size."""
    if b.size == 0:
        return 0
    if problem.direction == "weight_grad":
        b = check.channels_first(b, problem.layout)
        rows = [b[:, k] for k in range(problem.K)]
    elif problem.direction == "forward":
        rows = list(b)
    else:
        grouped = b.reshape(problem.groups, -1, *b.shape[1:])
        rows = [grouped[g, :, c] for g in range(problem.groups) for c in range(b.shape[1])]
    return max(_sum_of_sizes(row) for row in rows)


def _sum_of_sizes(values: np.ndarray) -> int:
    # |int64 min| wraps to itself and reads right as uint64; halves of 32 bits can't overflow their sums.
    sizes = values.astype(np.uint64) if values.dtype.kind in "ub" else np.abs(values.astype(np.int64)).view(np.uint64)
    low = int((sizes & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
    return (int((sizes >> np.uint64(32)).sum(dtype=np.uint64)) << 32) + low


_calls: dict[tuple, _Call] = {}
_CALLS_KEPT = 4096


def _prepared(direction: str, a: np.ndarray, b: np.ndarray, shapes: tuple, options: Options) -> _Call:
    """The prepared call for these operands and options; from the dictionary where it has been seen before."""
    key = (direction, a.shape, a.dtype, b.shape, b.dtype, shapes, options, planner.default_method(), machine.ISA)
    try:
        call = _calls.get(key)
    except TypeError:  # an option that can't be hashed, such as a list
        return _prepare(direction, a, b, shapes, options)
    if call is None:
        call = _prepare(direction, a, b, shapes, options)
        if len(_calls) >= _CALLS_KEPT:
            _calls.clear()
        _calls[key] = call
    return call


def clear_calls() -> None:
    _calls.clear()


def _prepare(direction: str, a: np.ndarray, b: np.ndarray, shapes: tuple, options: Options) -> _Call:
    """Check shapes and options, plan the problem."""
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
    problem, settings = _problem(direction, x_shape, w_shape, np.result_type(a.dtype, b.dtype), options)
    y_shape = _in_layout(problem.y_shape, layout)
    if direction != "forward":
        dy, given = (a, "input_shape") if direction == "input_grad" else (b, "kernel_shape")
        check.check_same_shape(dy, "dy", y_shape, f"the output of a convolution with this {given} and geometry")
    return _call_of(problem, np.result_type(a.dtype, b.dtype), settings)


def _in_layout(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    n, c, h, w = shape
    return (n, h, w, c) if layout == "NHWC" else (n, c, h, w)


@dataclass(frozen=True)
class _Settings:
    planning: dict
    result: np.dtype
    overflow: str


def _problem(
    direction: str, x_shape: Sequence[int], w_shape: Sequence[int], promoted: np.dtype, options: Options
) -> tuple[ConvProblem, _Settings]:
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
    work, result = _dtypes(promoted, dtype)
    if overflow not in _OVERFLOW:
        raise ValueError(f"overflow: got {overflow!r}; must be one of {', '.join(map(repr, _OVERFLOW))}")
    problem = ConvProblem(
        N=n, C=c, H=h, W=w, K=k, R=r, S=s, stride=stride, padding=pads, dilation=dilation, groups=groups,
        boundary=boundary_name(boundary), cval=check.check_cval(cval, promoted.kind in "biu"), layout=layout,
        dtype=work, direction=direction,
    )  # fmt: skip
    planning = planner.check_options(method, max_error, elementwise, max_workspace)
    return problem, _Settings(planning, result, overflow)


def _dtypes(promoted: np.dtype, dtype: Any) -> tuple[str, np.dtype]:
    """What is computed in ("int64" is exact), and the result's dtype."""
    promoted = promoted.newbyteorder("=")
    if dtype is None:
        return ("int64", np.dtype(np.int64)) if promoted.kind in "biu" else (promoted.name, promoted)
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype: got {dtype!r}; must be a float or integer dtype") from None
    if wanted.kind not in "iuf" or wanted.itemsize > 8 or not wanted.isnative:
        raise TypeError(f"dtype: got {wanted}; must be a native float16, float32, float64 or integer dtype")
    if promoted.kind in "biu" and wanted.kind in "iu":
        return "int64", wanted
    return np.result_type(promoted, wanted).name, wanted


def _call_of(problem: ConvProblem, promoted: np.dtype, settings: _Settings) -> _Call:
    plan = planner.plan(problem, **settings.planning)
    compute = np.dtype(problem.compute_dtype)
    shape = problem.out_shape
    if problem.direction != "weight_grad":
        shape = _in_layout(shape, problem.layout)  # type: ignore[assignment]
    bias_dtype = promoted if promoted.kind == "f" else compute
    return _Call(plan, compute, settings.result, bias_dtype, shape, settings.overflow)


def _as_bias(bias: Any, extent: int, exact: bool) -> np.ndarray | None:
    if bias is None:
        return None
    bias = check.as_operand(bias, "bias")
    if bias.shape != (extent,):
        raise ShapeError(f"bias: got shape {bias.shape}; must be ({extent},), one for each output channel")
    if exact and bias.dtype.kind == "f":
        if not (np.isfinite(bias).all() and (bias == np.rint(bias)).all()):
            raise TypeError("bias: got fractions; must be whole numbers where the operands are integers")
        if bias.size and np.abs(bias.astype(np.float64)).max() >= 2.0**63:
            raise OverflowError("bias: reaches beyond int64")
        bias = bias.astype(np.int64)
    return bias


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
    method : {"auto", "naive", "direct", "im2col"}
        A named method serves or raises UnsupportedError; "auto" takes the fastest that the options admit.
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
    Accuracy: |y - exact| <= e * sum_{c,r,s} |xpad| |w|, with e = n*u / (1 - n*u), n = C/groups*R*S + 1 and u half the
    machine epsilon of the dtype (Higham, Accuracy and Stability of Numerical Algorithms, 2002), plus underflow. NaN
    and infinities go where IEEE arithmetic sends them in that sum, the padding included.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> fc.conv2d(x, np.ones((1, 1, 3, 3)), padding="same", stride=2)
    array([[[[45., 39.],
             [66., 50.]]]])
    """
    x, w = check.as_operand(x, "x"), check.as_operand(w, "w")
    workers = machine.check_workers(workers)
    options = (stride, padding, dilation, groups, boundary, cval, layout, method, max_error, elementwise, max_workspace,
               dtype, overflow)  # fmt: skip
    call = _prepared("forward", x, w, (), options)
    if bias is not None:
        bias = _as_bias(bias, call.plan.problem.K, call.plan.problem.dtype == "int64")
    return call(x, w, bias, out, workers)


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
    dy, w = check.as_operand(dy, "dy"), check.as_operand(w, "w")
    workers = machine.check_workers(workers)
    shape = check.shape_of_four(input_shape, "input_shape")
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
    x, dy = check.as_operand(x, "x"), check.as_operand(dy, "dy")
    workers = machine.check_workers(workers)
    shape = check.shape_of_four(kernel_shape, "kernel_shape")
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
    dx = input_call(dy, w, None, None, workers) if wants[0] else None
    dw = weight_call(x, dy, None, None, workers) if wants[1] else None
    db = _bias_grad(dy, check.check_layout(layout), input_call) if wants[2] else None
    return dx, dw, db


_OPTION_DEFAULTS = {
    "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "boundary": "constant", "cval": 0.0, "layout": "NCHW",
    "method": "auto", "max_error": None, "elementwise": False, "max_workspace": None, "dtype": None,
    "overflow": "raise",
}  # fmt: skip
_OPTION_NAMES = tuple(_OPTION_DEFAULTS)


def _bias_grad(dy: np.ndarray, layout: str, call: _Call) -> np.ndarray:
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
    for e, st, d in zip(extra, stride, dilation, strict=True):
        if e >= max(st, d):
            raise ShapeError(f"output_padding: got {output_padding!r}; must be below max(stride, dilation) = {max(st, d)}")
    (height, wide), pads = transposed_padding(padding, (h, width), (r, s), stride, dilation, extra)
    check_size("y", (n, k, height, wide))
    work, result = _dtypes(np.result_type(x.dtype, w.dtype), dtype)
    if overflow not in _OVERFLOW:
        raise ValueError(f"overflow: got {overflow!r}; must be one of {', '.join(map(repr, _OVERFLOW))}")
    planning = planner.check_options(method, max_error, elementwise, max_workspace)
    bias = _as_bias(bias, k, work == "int64")
    if c == 0:  # no product at all: a problem with the one channel it can't do without
        y = check.new_array(_in_layout((n, k, height, wide), layout), result)
        if out is not None:
            check.check_out(out, y.shape, result, (x, w, bias))
        check.channels_first(y, layout)[...] = 0 if bias is None else check.narrow(bias, result, overflow)[:, None, None]
        return y if out is None else _copied(y, out)
    problem = ConvProblem(
        N=n, C=k, H=height, W=wide, K=c, R=r, S=s, stride=stride, padding=pads, dilation=dilation, groups=groups,
        layout=layout, dtype=work, direction="input_grad",
    )  # fmt: skip
    call = _call_of(problem, np.result_type(x.dtype, w.dtype), _Settings(planning, result, overflow))
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
    call = _call_of(problem, operand, settings)
    bound = _BoundPlan(call, workers)
    return replace(call.plan, caller=bound, packer=None if direction == "weight_grad" else bound.pack)


@dataclass(frozen=True)
class _BoundPlan:
    """Checks the arrays that a user's plan is called with."""

    call: _Call
    workers: int | None

    def _check(self, array: np.ndarray, name: str, shape: tuple[int, ...]) -> None:
        check.check_same_shape(array, name, shape, "what the plan was made for")

    def _check_dtype(self, dtype: np.dtype) -> None:
        exact = self.call.plan.problem.dtype == "int64"
        if dtype != self.call.result if not exact else dtype.kind not in "biu":
            planned = "integers" if exact else self.call.result
            raise TypeError(f"operands: got dtype {dtype}; must be {planned}, what the plan was made for")

    def pack(self, w: ArrayLike) -> _PackedWeights:
        w = check.as_operand(w, "w")
        problem = self.call.plan.problem
        self._check(w, "w", problem.w_shape)
        self._check_dtype(w.dtype)
        exact = problem.dtype == "int64"
        total = _largest_sum(w, problem) if exact else 0
        # An empty filter bank has nothing to pack; its result is zeros.
        data = self.call.plan.pack_checked(self.call._operand(w)) if w.size else None
        return _PackedWeights(self._identity, w.dtype, data, check.magnitude(w) if exact else 0, total)

    @property
    def _identity(self) -> tuple:
        plan = self.call.plan
        return (plan.problem, plan.method, plan.isa)

    def __call__(self, a: ArrayLike, b: Any, bias: Any = None, out: np.ndarray | None = None) -> np.ndarray:
        problem = self.call.plan.problem
        y_shape, x_shape = (_in_layout(shape, problem.layout) for shape in (problem.y_shape, problem.x_shape))
        names = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}[problem.direction]
        shapes = {"x": x_shape, "dy": y_shape, "w": problem.w_shape}
        a = check.as_operand(a, names[0])
        self._check(a, names[0], shapes[names[0]])
        if isinstance(b, _PackedWeights):
            if b.plan != self._identity:
                raise ValueError("w: these weights were packed by another plan; must come from this plan's pack()")
            operand_dtype = np.result_type(a.dtype, b.dtype)
        else:
            b = check.as_operand(b, names[1])
            self._check(b, names[1], shapes[names[1]])
            operand_dtype = np.result_type(a.dtype, b.dtype)
        self._check_dtype(operand_dtype)
        if bias is not None and problem.direction != "forward":
            raise TypeError(f"bias: got one; a plan of direction {problem.direction!r} takes none")
        bias = _as_bias(bias, problem.K, problem.dtype == "int64")
        return self.call(a, b, bias, out, self.workers)
