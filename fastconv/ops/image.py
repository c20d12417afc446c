"""Filtering of images and stacks of images, its gradients, and the kernels that are used most.

An image filter is a convolution of one channel with one filter; all axes but two are its batch, as views wherever
strides allow. Checks arguments and runs the plan of the problem, by the same short cut as ``conv2d``.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import ArrayLike, DTypeLike

from fastconv import machine, planner
from fastconv.boundary import boundary_name
from fastconv.errors import ShapeError
from fastconv.factors import Factors, factors
from fastconv.ops import arguments as check
from fastconv.ops.call import Call, Settings, bind, check_overflow, kernel_factors, make_call, prepared, result_dtypes
from fastconv.problem import ConvProblem, Pads, check_size, effective_steps, integer, pair

__all__ = [
    "box_kernel", "convolve2d", "correlate2d", "correlate2d_input_grad", "correlate2d_kernel_grad", "gaussian_kernel",
    "laplacian_kernel", "plan_correlate2d", "separate", "sobel_kernel",
]  # fmt: skip

Options = tuple
"""(mode, boundary, cval, stride, dilation, axes, method, max_error, elementwise, max_workspace, dtype, overflow), as
given by the caller."""
_METHOD, _DTYPE = 6, 10


# --- prepared calls --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ImageCall(Call):
    """A prepared call whose arrays are images: two axes of any place, the others a stack."""

    order: tuple[int, ...]
    """The axes of an image, those of the stack first."""

    def _run(
        self, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int, found: Factors | None
    ) -> None:
        a = a.transpose(self.order)
        if self.plan.problem.direction == "weight_grad":
            images, out = b.transpose(self.order), out[None, None]
            if _is_one_axis(a) and _is_one_axis(images):
                self.plan.run(_one_axis(a), _one_axis(images), bias, out, workers)
            else:
                self._sum_parts(a, images, bias, out, workers)
            return
        images = out.transpose(self.order)
        packed = not (isinstance(b, np.ndarray) and b.ndim == 2)
        if not packed:
            b = self.plan.by_factors(b[None, None], found)
        if _is_one_axis(a) and _is_one_axis(images):
            self.plan.run(_one_axis(a), b, bias, _one_axis(images), workers)
        elif packed:  # for the whole stack, so that is what must be there
            whole = np.empty(images.shape, out.dtype)
            self.plan.run(_one_axis(a), b, bias, _one_axis(whole), workers)
            images[...] = whole
        else:
            self._run_parts(a, b, bias, images, workers)

    # A stack that is no single axis, as that of (N, H, W, C) is none, is taken along its longest axis.

    def _run_parts(self, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
        plan, (a, out) = self._parts(a, out)
        packed = plan.pack_checked(b) if isinstance(b, np.ndarray) else b
        for index in np.ndindex(*a.shape[:-4]):
            plan.run(a[index], packed, bias, out[index], workers)

    def _sum_parts(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
        plan, (a, b) = self._parts(a, b)
        part, total = np.empty(out.shape, out.dtype), np.zeros(out.shape, out.dtype)
        for index in np.ndindex(*a.shape[:-4]):
            plan.run(a[index], b[index], bias, part, workers)
            total += part
        out[...] = total

    def _parts(self, *stacks: np.ndarray) -> tuple[planner.Plan, list[np.ndarray]]:
        """The plan of one part, and the stacks as (..., N, 1, H, W)."""
        lengths = stacks[0].shape[:-2]
        longest = lengths.index(max(lengths))
        problem = replace(self.plan.problem, N=lengths[longest])
        plan = planner.plan(problem, **(self.planning | {"method": self.plan.method}))
        return plan, [np.moveaxis(stack, longest, -3)[..., None, :, :] for stack in stacks]


def _is_one_axis(images: np.ndarray) -> bool:
    """Can the stack axes of (..., H, W) be one, without a copy?"""
    if images.ndim <= 3:
        return True
    steps = [(n, s) for n, s in zip(images.shape[:-2], images.strides[:-2], strict=True) if n != 1]
    return all(outer == n * inner for (_, outer), (n, inner) in itertools.pairwise(steps))


def _one_axis(images: np.ndarray) -> np.ndarray:
    """(..., H, W) as (N, 1, H, W)."""
    return images.reshape(-1, 1, *images.shape[-2:])


def _prepare(
    direction: str,
    turned: bool,
    image_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    dy_shape: tuple[int, ...] | None,
    dtypes: tuple[np.dtype, ...],
    options: Options,
    rank: int | None,
) -> _ImageCall:
    """Check shapes and options, plan the problem."""
    (mode, boundary, cval, stride, dilation, axes, method, max_error, elementwise, max_workspace, dtype,
     overflow) = options  # fmt: skip
    promoted = check.promote(*dtypes)
    name = "image" if direction != "input_grad" else "image_shape"
    if len(image_shape) < 2:
        raise ShapeError(f"{name}: got shape {image_shape}; must have at least two axes")
    rows, columns = check.image_axes(axes, len(image_shape))
    h, w = image_shape[rows], image_shape[columns]
    if min(h, w) < 1:
        raise ShapeError(f"{name}: got shape {image_shape}; its image axes {axes} must have at least one pixel")
    _check_kernel_shape(kernel_shape, "kernel" if direction != "weight_grad" else "kernel_shape")
    stride, dilation = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    padding = _padding(mode, kernel_shape, dilation, turned)
    spans = [d * (r - 1) + 1 for r, d in zip(kernel_shape, dilation, strict=True)]
    if mode == "valid" and (spans[0] > h or spans[1] > w):
        raise ShapeError(
            f"kernel: got {kernel_shape[0]}x{kernel_shape[1]}, which spans {spans[0]}x{spans[1]} pixels; with "
            f"mode='valid' must fit the image of {h}x{w} (the arguments are not swapped)"
        )
    stride, dilation = effective_steps((h, w), padding, kernel_shape, stride, dilation)  # type: ignore[arg-type]
    others = tuple(axis for axis in range(len(image_shape)) if axis not in (rows, columns))
    work, result = result_dtypes(promoted, dtype)
    problem = ConvProblem(
        N=math.prod(image_shape[axis] for axis in others), C=1, H=h, W=w, K=1, R=kernel_shape[0], S=kernel_shape[1],
        stride=stride, padding=padding, dilation=dilation, boundary=boundary_name(boundary),
        cval=check.check_cval(cval, promoted.kind in "biu"), dtype=work, direction=direction, rank=rank,
    )  # fmt: skip
    filtered = list(image_shape)
    filtered[rows], filtered[columns] = problem.P, problem.Q
    if dy_shape is not None and dy_shape != tuple(filtered):
        raise ShapeError(f"dy: got shape {dy_shape}; must be {tuple(filtered)}, the shape of the filtered image")
    planning = planner.check_options(method, max_error, elementwise, max_workspace)
    overflow = check_overflow(overflow)
    check.new_array(problem.out_shape, result)  # MemoryError before plans, whose tables grow with the padding
    call = make_call(problem, promoted, Settings(planning, result, overflow))
    shape = {"forward": tuple(filtered), "input_grad": image_shape, "weight_grad": kernel_shape}[direction]
    return _ImageCall(
        call.plan, call.result, call.bias_dtype, shape, call.overflow, planning, (*others, rows, columns)
    )


def _check_kernel_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2:
        raise ShapeError(f"{name}: got shape {shape}; must have two axes (R, S)")
    if min(shape) < 1:
        raise ShapeError(f"{name}: got shape {shape}; must have at least one tap along each axis")


def _padding(mode: object, kernel: tuple[int, ...], dilation: tuple[int, int], turned: bool) -> Pads:
    """Before and after along each axis. A turned kernel has its centre (R - 1) // 2 counted from its other end."""
    if mode not in ("valid", "same", "full"):
        raise ValueError(f"mode: got {mode!r}; must be 'valid', 'same' or 'full'")
    pads = []
    for taps, d in zip(kernel, dilation, strict=True):
        before = after = 0
        if mode == "same":
            before, after = (taps - 1 + turned) // 2, (taps - turned) // 2
        elif mode == "full":
            before = after = taps - 1
        pads.append((before * d, after * d))
    return pads[0], pads[1]


def _shape(shape: object, name: str) -> tuple[int, ...]:
    """A shape given as an argument."""
    try:
        extents = tuple(integer(n, name, 0) for n in shape)  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError(f"{name}: got {shape!r}; must be a sequence of integers") from None
    check_size(name, extents)
    return extents


def _filter(
    turned: bool, image: ArrayLike, kernel: ArrayLike, workers: int | None, out: np.ndarray | None, options: Options
) -> np.ndarray:
    image, kernel = check.as_operand(image, "image"), check.as_operand(kernel, "kernel")
    workers = machine.check_workers(workers)
    kernel = kernel[::-1, ::-1] if turned and kernel.ndim == 2 else kernel
    found = _factors(kernel, image, options)
    rank = None if found is None else found.rank
    given = ("forward", turned, image.shape, kernel.shape, None, (image.dtype, kernel.dtype), options, rank)
    call = prepared((given, _numbers(options)), _prepare, *given)
    return call(image, kernel, None, out, workers, found)


def _numbers(options: Options) -> str:
    """1 == 1.0 == True, but not every one of them is a valid option: the text tells them apart."""
    _, _, _, stride, dilation, axes, _, max_error, elementwise, max_workspace, _, _ = options
    return f"{stride}{dilation}{axes}{max_error}{elementwise}{max_workspace}"


def _factors(kernel: np.ndarray, image: np.ndarray, options: Options) -> Factors | None:
    if kernel.ndim != 2:
        return None
    dtypes = image.dtype, kernel.dtype
    return kernel_factors(kernel[None], image.size, dtypes, options[_METHOD], options[_DTYPE])


# --- public functions ------------------------------------------------------------------------------


def correlate2d(
    image: ArrayLike,
    kernel: ArrayLike,
    *,
    mode: str = "same",
    boundary: str = "constant",
    cval: float = 0.0,
    stride: Any = 1,
    dilation: Any = 1,
    axes: tuple[int, int] = (-2, -1),
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    overflow: str = "raise",
    elementwise: bool = False,
) -> np.ndarray:
    """2-D cross-correlation of images with a kernel.

    y[..., p, q] = sum_{r,s} padded[..., p*sh + r*dh, q*sw + s*dw] * kernel[r, s]

    Parameters
    ----------
    image : array_like, (..., H, W), or the image axes where ``axes`` says
        bool, integer, float16, float32 or float64, with any strides. The other axes are a stack.
    kernel : array_like, (R, S)
        Not flipped.
    mode : {"same", "valid", "full"}
        "same": the pixel of the result lies under index ((R-1)//2, (S-1)//2) of the kernel, times the dilation;
        "valid": only where the kernel lies within the image; "full": wherever it meets the image.
    boundary : {"constant", "edge", "symmetric", "reflect", "wrap"}
        What lies beyond the edge, under the names of ``numpy.pad``; "constant" is ``cval``.
    cval : float, default 0
    stride : int or pair of int, default 1
        With stride s the result is that of stride 1 at [::s, ::s], without computing the rest.
    dilation : int or pair of int, default 1
        Pixels between the taps of the kernel (1: none skipped).
    axes : pair of int, default (-2, -1)
        The two image axes, H then W: (0, 1) for a photo (H, W, 3), which is filtered without a copy.
    method : {"auto", "naive", "direct", "im2col", "separable", ...}
        A named method of ``fastconv.METHODS`` serves or raises UnsupportedError; "auto" takes the fastest that the
        options admit.
    max_error, workers, max_workspace, out, dtype, overflow, elementwise
        As in ``conv2d``.

    Returns
    -------
    ndarray, shape of the image with P and Q at the image axes
        C-contiguous. Extents H and W for "same", H - dilation*(R-1) for "valid", H + dilation*(R-1) for "full", W
        likewise; divided by the stride, rounded up. dtypes as in ``conv2d``: integers give exact int64.

    Raises
    ------
    ShapeError
        A ValueError: no two image axes, an empty kernel, a kernel larger than the image with "valid" (arguments are
        never swapped), a size that overflows.
    UnsupportedError, TypeError, OverflowError
        As ``conv2d``.
    ValueError, IndexError
        ``axes`` that are not two distinct axes of the image.

    Notes
    -----
    "separable" filters by rows, then columns, R + S products a pixel for each outer product that the kernel is a sum
    of (``separate``). It serves float kernels of a rank that pays, and integer kernels of rank 1 (whose factors are
    integers, so the result is exact). "auto" reads the kernel's values only where the gain could pay for it. Its
    bound holds in norms over the window, not element by element.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> image = np.arange(16.0).reshape(4, 4)
    >>> fc.correlate2d(image, [[-1.0, 0.0, 1.0]], boundary="edge")
    array([[1., 2., 2., 1.],
           [1., 2., 2., 1.],
           [1., 2., 2., 1.],
           [1., 2., 2., 1.]])
    >>> photo = np.zeros((480, 640, 3), np.uint8)
    >>> fc.correlate2d(photo, fc.gaussian_kernel(1.5), axes=(0, 1), dtype=np.uint8).shape
    (480, 640, 3)
    """
    options = (mode, boundary, cval, stride, dilation, axes, method, max_error, elementwise, max_workspace, dtype,
               overflow)  # fmt: skip
    return _filter(False, image, kernel, workers, out, options)


def convolve2d(
    image: ArrayLike,
    kernel: ArrayLike,
    *,
    mode: str = "same",
    boundary: str = "constant",
    cval: float = 0.0,
    stride: Any = 1,
    dilation: Any = 1,
    axes: tuple[int, int] = (-2, -1),
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    overflow: str = "raise",
    elementwise: bool = False,
) -> np.ndarray:
    """2-D convolution of images with a kernel: ``correlate2d`` with the kernel turned by 180 degrees.

    y[..., p, q] = sum_{r,s} padded[..., p*sh + (R-1-r)*dh, q*sw + (S-1-s)*dw] * kernel[r, s]

    Parameters
    ----------
    image : array_like, (..., H, W), or the image axes where ``axes`` says
    kernel : array_like, (R, S)
        Flipped along both axes.
    mode : {"same", "valid", "full"}
        "same": the pixel of the result lies under index ((R-1)//2, (S-1)//2) of the kernel as given, as in
        ``scipy.signal.convolve2d``; a kernel of even extents thus meets other pixels than turned and correlated.
    boundary, cval, stride, dilation, axes, method, max_error, workers, max_workspace, out, dtype, overflow, elementwise
        As in ``correlate2d``.

    Returns
    -------
    ndarray
        As ``correlate2d``, of the same accuracy.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError, OverflowError, ValueError, IndexError
        As ``correlate2d``.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> spot = np.zeros((3, 3))
    >>> spot[1, 1] = 1
    >>> fc.convolve2d(spot, np.arange(9.0).reshape(3, 3))
    array([[0., 1., 2.],
           [3., 4., 5.],
           [6., 7., 8.]])
    """
    options = (mode, boundary, cval, stride, dilation, axes, method, max_error, elementwise, max_workspace, dtype,
               overflow)  # fmt: skip
    return _filter(True, image, kernel, workers, out, options)


def correlate2d_input_grad(
    dy: ArrayLike,
    kernel: ArrayLike,
    image_shape: Sequence[int],
    *,
    mode: str = "same",
    boundary: str = "constant",
    cval: float = 0.0,
    stride: Any = 1,
    dilation: Any = 1,
    axes: tuple[int, int] = (-2, -1),
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    overflow: str = "raise",
    elementwise: bool = False,
) -> np.ndarray:
    """Gradient of ``correlate2d`` by the image: the adjoint of the correlation, applied to ``dy``.

    dpadded[..., u, v] = sum over p, q, r, s with p*sh + r*dh = u, q*sw + s*dw = v of dy[..., p, q] * kernel[r, s]

    and dx adds up dpadded over all padded positions that repeat a pixel (with "constant": crops it).

    Parameters
    ----------
    dy : array_like
        Of the shape of the filtered image.
    kernel : array_like, (R, S)
    image_shape : sequence of int
        The shape of the image that was filtered.
    mode, boundary, stride, dilation, axes
        Of the correlation. ``cval`` has no influence.
    method, max_error, workers, max_workspace, out, dtype, overflow, elementwise
        As in ``correlate2d``.

    Returns
    -------
    ndarray of shape image_shape
        dtypes and accuracy as in ``conv2d_input_grad``.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError, OverflowError, ValueError, IndexError
        As ``correlate2d``; ShapeError too where dy doesn't fit.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.correlate2d_input_grad(np.ones((2, 2)), [[1.0, 2.0], [3.0, 4.0]], (3, 3), mode="valid")
    array([[ 1.,  3.,  2.],
           [ 4., 10.,  6.],
           [ 3.,  7.,  4.]])
    """
    dy, kernel = check.as_operand(dy, "dy"), check.as_operand(kernel, "kernel")
    workers = machine.check_workers(workers)
    shape = _shape(image_shape, "image_shape")
    options = (mode, boundary, cval, stride, dilation, axes, method, max_error, elementwise, max_workspace, dtype,
               overflow)  # fmt: skip
    found = _factors(kernel, dy, options)
    rank = None if found is None else found.rank
    given = ("input_grad", False, shape, kernel.shape, dy.shape, (dy.dtype, kernel.dtype), options, rank)
    call = prepared((given, _numbers(options)), _prepare, *given)
    return call(dy, kernel, None, out, workers, found)


def correlate2d_kernel_grad(
    image: ArrayLike,
    dy: ArrayLike,
    kernel_shape: Sequence[int],
    *,
    mode: str = "same",
    boundary: str = "constant",
    cval: float = 0.0,
    stride: Any = 1,
    dilation: Any = 1,
    axes: tuple[int, int] = (-2, -1),
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    out: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    overflow: str = "raise",
    elementwise: bool = False,
) -> np.ndarray:
    """Gradient of ``correlate2d`` by the kernel: each tap's product of image and ``dy``, summed over the stack.

    dkernel[r, s] = sum over ..., p, q of padded[..., p*sh + r*dh, q*sw + s*dw] * dy[..., p, q]

    Parameters
    ----------
    image : array_like, (..., H, W), or the image axes where ``axes`` says
    dy : array_like
        Of the shape of the filtered image.
    kernel_shape : pair of int
        (R, S)
    mode, boundary, cval, stride, dilation, axes
        Of the correlation.
    method, max_error, workers, max_workspace, out, dtype, overflow, elementwise
        As in ``correlate2d``.

    Returns
    -------
    ndarray, (R, S)
        dtypes and accuracy as in ``conv2d_weight_grad``; zeros for an empty stack.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError, OverflowError, ValueError, IndexError
        As ``correlate2d``; ShapeError too where dy doesn't fit.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.correlate2d_kernel_grad(np.arange(9.0).reshape(3, 3), np.ones((2, 2)), (2, 2), mode="valid")
    array([[ 8., 12.],
           [20., 24.]])
    """
    image, dy = check.as_operand(image, "image"), check.as_operand(dy, "dy")
    workers = machine.check_workers(workers)
    shape = _shape(kernel_shape, "kernel_shape")
    options = (mode, boundary, cval, stride, dilation, axes, method, max_error, elementwise, max_workspace, dtype,
               overflow)  # fmt: skip
    given = ("weight_grad", False, image.shape, shape, dy.shape, (image.dtype, dy.dtype), options, None)
    call = prepared((given, _numbers(options)), _prepare, *given)
    return call(image, dy, None, out, workers)


def plan_correlate2d(
    image_shape: Sequence[int],
    kernel_or_shape: ArrayLike,
    *,
    dtype: DTypeLike | None = None,
    direction: str = "forward",
    mode: str = "same",
    boundary: str = "constant",
    cval: float = 0.0,
    stride: Any = 1,
    dilation: Any = 1,
    axes: tuple[int, int] = (-2, -1),
    method: str = "auto",
    max_error: float | None = None,
    workers: int | None = None,
    max_workspace: int | None = None,
    elementwise: bool = False,
) -> planner.Plan:
    """Plan a correlation or a gradient of it once, to look at or to call many times.

    Parameters
    ----------
    image_shape : sequence of int
        Of the image that is filtered.
    kernel_or_shape : array_like (R, S), or the pair of int
        Only a kernel's values tell its rank, so only a plan made from them can be "separable"; it then serves
        kernels of that rank.
    dtype : optional
        Of the operands together; default that of the kernel where it is given, else float32. Integers are exact.
    direction : {"forward", "input_grad", "weight_grad"}
    workers : int, optional
        Of the plan's calls.
    mode, boundary, cval, stride, dilation, axes, method, max_error, max_workspace, elementwise
        As in ``correlate2d``.

    Returns
    -------
    Plan
        As of ``plan_conv2d``; called as ``plan(image, kernel_or_packed, out=None)``, ``plan(dy, kernel_or_packed)`` or
        ``plan(image, dy)`` by direction.

    Raises
    ------
    ShapeError, UnsupportedError, TypeError, ValueError, IndexError
        As ``correlate2d``.

    Examples
    --------
    >>> import fastconv as fc
    >>> plan = fc.plan_correlate2d((1080, 1920), fc.gaussian_kernel(3.0), boundary="reflect")
    >>> plan.method, plan.variant
    ('separable', 'rank 1')
    """
    if direction not in ("forward", "input_grad", "weight_grad"):
        raise ValueError(f"direction: got {direction!r}; must be 'forward', 'input_grad' or 'weight_grad'")
    workers = machine.check_workers(workers)
    shape = _shape(image_shape, "image_shape")
    given = np.asarray(kernel_or_shape)
    if given.ndim == 1:
        kernel_shape, rank = _shape(kernel_or_shape, "kernel_or_shape"), None
        operand = np.dtype(np.float32 if dtype is None else dtype)
        check.as_operand(np.empty(0, operand), "dtype")
    else:
        kernel = check.as_operand(given, "kernel_or_shape")
        kernel_shape = kernel.shape
        operand = check.as_operand(np.empty(0, kernel.dtype if dtype is None else dtype), "dtype").dtype
        reads = kernel.ndim == 2 and direction != "weight_grad"
        found = kernel_factors(kernel[None], 0, (operand,), "separable", None) if reads else None
        rank = None if found is None else found.rank
    options = (mode, boundary, cval, stride, dilation, axes, method, max_error, elementwise, max_workspace, None,
               "raise")  # fmt: skip
    call = _prepare(direction, False, shape, kernel_shape, None, (operand,), options, rank)
    filtered = list(shape)
    filtered[call.order[-2]], filtered[call.order[-1]] = call.plan.problem.P, call.plan.problem.Q
    shapes = {"image": shape, "dy": tuple(filtered), "kernel": kernel_shape}
    names = {"forward": ("image", "kernel"), "input_grad": ("dy", "kernel"), "weight_grad": ("image", "dy")}[direction]
    return bind(call, workers, names, (shapes[names[0]], shapes[names[1]]))


# --- kernels ---------------------------------------------------------------------------------------


def separate(kernel: ArrayLike, *, rtol: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A kernel as the sum of the fewest outer products of a column and a row.

    kernel[r, s] = sum_i columns[i, r] * rows[i, s]

    Parameters
    ----------
    kernel : array_like, (R, S)
    rtol : float, optional
        How far the sum may be from the kernel in the spectral norm, relative to the kernel's largest singular value;
        default max(R, S) times the machine epsilon. The rounding of the factors comes on top.

    Returns
    -------
    columns, rows : ndarray, (terms, R) and (terms, S)
        At least one term; float32 for kernels of float32 and float16, else float64.

    Raises
    ------
    ShapeError
        A ValueError: not two axes, or an empty one.
    ValueError
        A kernel that holds NaN or infinity, an rtol that isn't at least 0.
    TypeError
        A dtype that isn't served.

    Notes
    -----
    An outer product of whole numbers is taken apart into whole numbers; every other kernel by the singular value
    decomposition, whose first terms miss the kernel by the next singular value, and no sum of as few
    terms misses it by less (C. Eckart and G. Young, The approximation of one matrix by another of lower rank, 1936).

    Examples
    --------
    >>> import fastconv as fc
    >>> columns, rows = fc.separate([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    >>> columns, rows
    (array([[1., 2., 1.]]), array([[ 1.,  0., -1.]]))
    """
    kernel = check.as_operand(kernel, "kernel")
    _check_kernel_shape(kernel.shape, "kernel")
    single = kernel.dtype.kind == "f" and kernel.dtype.itemsize <= 4
    dtype = np.float32 if single else np.float64
    if rtol is None:
        rtol = max(kernel.shape) * float(np.finfo(dtype).eps)
    elif not isinstance(rtol, numbers.Real) or not rtol >= 0:
        raise ValueError(f"rtol: got {rtol!r}; must be None or a number of at least 0")
    values = kernel.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("kernel: holds NaN or infinity; must be finite")
    if np.abs(values).max() < 2.0**53 and (np.rint(values) == values).all():
        whole = factors(values.astype(np.int64)[None], 1)
        if whole.rank:
            return whole.columns[0].astype(dtype), whole.rows[0].astype(dtype)
    left, sizes, right = np.linalg.svd(values, full_matrices=False)
    terms = max(int((sizes > rtol * sizes[0]).sum()), 1)
    share = np.sqrt(sizes[:terms, None])
    return (left[:, :terms].T * share).astype(dtype), (right[:terms] * share).astype(dtype)


def gaussian_kernel(sigma: Any, *, truncate: float = 4.0) -> np.ndarray:
    """A Gaussian of standard deviation sigma: what ``scipy.ndimage.gaussian_filter`` makes of a single bright pixel.

    kernel[r, s] ~ exp(-((r - a)**2 / sigma_h**2 + (s - b)**2 / sigma_w**2) / 2), of sum 1

    Parameters
    ----------
    sigma : float or pair of float
        In pixels, at least 0, along H and W.
    truncate : float, default 4
        The radii a and b are int(truncate * sigma + 0.5).

    Returns
    -------
    ndarray of float64, (2*a + 1, 2*b + 1)

    Raises
    ------
    ValueError
        A sigma or truncate that isn't finite and at least 0.
    TypeError
        Not a number.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.gaussian_kernel(0.5, truncate=2.0).round(3)
    array([[0.011, 0.084, 0.011],
           [0.084, 0.619, 0.084],
           [0.011, 0.084, 0.011]])
    """
    sigmas = tuple(sigma) if isinstance(sigma, (Sequence, np.ndarray)) and np.ndim(sigma) == 1 else (sigma, sigma)
    if len(sigmas) != 2:
        raise ValueError(f"sigma: got {sigma!r}; must be a number or a pair of them")
    for value, name in ((sigmas[0], "sigma"), (sigmas[1], "sigma"), (truncate, "truncate")):
        if not isinstance(value, numbers.Real):
            raise TypeError(f"{name}: got {value!r}; must be a number")
        if not 0 <= float(value) < math.inf:
            raise ValueError(f"{name}: got {value!r}; must be finite and at least 0")
    column, row = (_gaussian(float(value), float(truncate)) for value in sigmas)
    return np.outer(column, row)


def _gaussian(sigma: float, truncate: float) -> np.ndarray:
    radius = int(truncate * sigma + 0.5)
    at = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (at / sigma) ** 2) if radius else np.ones(1)
    return weights / weights.sum()


def sobel_kernel(axis: int) -> np.ndarray:
    """The Sobel derivative along an axis, for ``correlate2d``: what ``scipy.ndimage.sobel`` computes.

    Parameters
    ----------
    axis : int
        0 or -2: along H; 1 or -1: along W.

    Returns
    -------
    ndarray of float64, (3, 3)
        -1 0 1 along the axis, 1 2 1 along the other.

    Raises
    ------
    ValueError, IndexError
        No such axis.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.sobel_kernel(0)
    array([[-1., -2., -1.],
           [ 0.,  0.,  0.],
           [ 1.,  2.,  1.]])
    """
    kernel = np.outer([-1.0, 0.0, 1.0], [1.0, 2.0, 1.0])
    return kernel if normalize_axis_index(axis, 2, "axis") == 0 else np.ascontiguousarray(kernel.T)


def box_kernel(size: Any) -> np.ndarray:
    """The mean over a box.

    Parameters
    ----------
    size : int or pair of int
        R and S.

    Returns
    -------
    ndarray of float64, (R, S)
        1 / (R * S) everywhere.

    Raises
    ------
    ShapeError
        A ValueError: a size below 1.
    TypeError
        Not an integer.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.box_kernel((1, 4))
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    height, width = pair(size, "size", 1)
    return np.full((height, width), 1 / (height * width))


def laplacian_kernel() -> np.ndarray:
    """The Laplacian by second differences: what ``scipy.ndimage.laplace`` computes.

    Returns
    -------
    ndarray of float64, (3, 3)

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.laplacian_kernel()
    array([[ 0.,  1.,  0.],
           [ 1., -4.,  1.],
           [ 0.,  1.,  0.]])
    """
    return np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
