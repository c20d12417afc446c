"""``scipy.ndimage``'s linear filters of images with two axes, by fastconv.

SciPy computes in double precision and casts to the output's dtype. Here float32 images are filtered in float32, and
integer outputs, which SciPy truncates, come from exact sums; where those can't be had SciPy serves.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage

from fastconv.compat.common import as_number, correlate_whole, is_small, plain
from fastconv.compat.common import correlate as _correlate

__all__ = ["convolve", "convolve1d", "correlate", "correlate1d", "gaussian_filter", "sobel", "uniform_filter"]

_BOUNDARIES = {
    "reflect": "symmetric", "grid-mirror": "symmetric", "mirror": "reflect", "nearest": "edge", "wrap": "wrap",
    "grid-wrap": "wrap", "constant": "constant", "grid-constant": "constant",
}  # fmt: skip
_NEGLIGIBLE = float(np.finfo(np.float64).eps)
"""SciPy's filters of several axes leave out taps up to this size, whatever lies below them."""

_ONE_PASS = 2**16
"""Pixels from which two passes in one sweep, band by band, are faster than one after the other through memory."""

_LONGEST_BOX = {4: 200, 8: 100}
"""Taps of a box along both axes, by the bytes of a pixel, up to which running sums as SciPy's are slower."""


# --- arguments -------------------------------------------------------------------------------------


class _Output(NamedTuple):
    dtype: np.dtype
    array: np.ndarray | None


def _output(output: Any, image: np.ndarray) -> _Output | None:
    array = None
    if output is None:
        dtype = image.dtype
    elif isinstance(output, (type, np.dtype, str)):
        try:
            dtype = np.dtype(output)
        except TypeError:
            return None
    elif isinstance(output, np.ndarray) and output.shape == image.shape and output.flags.writeable:
        array, dtype = output, output.dtype
    else:
        return None
    ours = dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))
    return _Output(dtype, array) if ours and dtype.isnative else None


def _each(value: Any, count: int) -> list | None:
    """One value for each axis."""
    if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)):
        return [value] * count
    return list(value) if len(value) == count else None


def _axis_by_axis(count: int, *values: Any) -> list[tuple] | None:
    """For each axis its entry of each value."""
    lists = [_each(value, count) for value in values]
    return None if None in lists else list(zip(*lists, strict=True))


def _before(taps: int, origin: Any, turned: bool = False) -> int | None:
    """Taps before the centre, where ``origin`` is valid. A turned kernel counts from its other end."""
    if not isinstance(origin, (int, np.integer)):
        return None
    before = (taps - 1) // 2 - int(origin) if turned else taps // 2 + int(origin)
    return before if 0 <= before < taps else None


def _image(value: Any) -> np.ndarray | None:
    image = plain(value)
    return image if image is not None and image.ndim == 2 else None


# --- one correlation, and several in turn ------------------------------------------------------------


class _Filter(NamedTuple):
    """A correlation: the kernel (R, S), the pixels before its centre, and what lies beyond the edge."""

    kernel: np.ndarray
    before: tuple[int, int]
    boundary: str
    cval: float
    divisor: int = 1
    """The result is the sum divided by it: one rounding, where the kernel is of whole numbers."""
    sums: bool = False
    """Never by transforms, which leave small numbers where SciPy's sums are zero."""

    @property
    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        (r, s), (top, left) = self.kernel.shape, self.before
        return (top, r - 1 - top), (left, s - 1 - left)


def _along(
    axis: int, weights: np.ndarray, before: int, boundary: str, cval: float, divisor: int = 1
) -> _Filter:
    if axis == 0:
        return _Filter(weights[:, None], (before, 0), boundary, cval, divisor)
    return _Filter(weights[None, :], (0, before), boundary, cval, divisor)


def _merged(first: _Filter, second: _Filter) -> _Filter:
    """Along one axis, then along the other, in one."""
    before = first.before[0] + second.before[0], first.before[1] + second.before[1]
    return _Filter(
        first.kernel * second.kernel, before, first.boundary, first.cval, first.divisor * second.divisor
    )


def _by_sums(step: _Filter) -> dict[str, Any]:
    if 1 in step.kernel.shape:
        return {"elementwise": True}
    if step.sums:
        return {"method": "separable"} if step.kernel.size >= 25 else {"elementwise": True}
    return {}


def _mergeable(first: _Filter, second: _Filter) -> bool:
    """Beyond the edge the second one meets what the first one made of the constant, unless that is zero."""
    return first.boundary == second.boundary and (first.boundary != "constant" or first.cval == 0)


def _run(image: np.ndarray, step: _Filter, output: _Output) -> np.ndarray | None:
    """The correlation in the output's dtype, into its array where that can take it."""
    kernel, pads = step.kernel, step.pads
    if output.dtype.kind != "f":
        return _run_whole(image, step, output.dtype)
    single = output.dtype == np.float32 and (image.dtype == np.float32 or image.dtype.itemsize <= 2)
    work = np.dtype(np.float32 if single else np.float64)
    kernel = _rounded(kernel / step.divisor) if single else kernel / step.divisor
    if not np.isfinite(kernel).all():
        return None
    out = output.array if output.dtype == work else None
    if out is not None and np.may_share_memory(out, image):
        out = None
    y = _correlate(image, kernel, pads, step.boundary, step.cval, out=out, **_by_sums(step))
    return y.astype(output.dtype, copy=False)


def _rounded(kernel: np.ndarray) -> np.ndarray:
    """The taps in float32, their sum kept by the largest: what rounding takes from a flat image it would take
    everywhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        taps = kernel.astype(np.float32)
        at = np.unravel_index(np.abs(taps).argmax(), taps.shape)
        taps[at] += kernel.sum() - taps.sum(dtype=np.float64)
    return taps


def _run_whole(image: np.ndarray, step: _Filter, dtype: np.dtype) -> np.ndarray | None:
    """Integers from integers: what is truncated is exact, or a quotient rounded once."""
    whole = (
        image.dtype.kind != "f"
        and np.isfinite(step.kernel).all()
        and (np.rint(step.kernel) == step.kernel).all()
    )
    y = correlate_whole(image, step.kernel, step.pads, step.boundary, step.cval) if whole else None
    if y is None or y.dtype.kind != "f":  # SciPy's doubles round such sums
        return None
    if step.divisor != 1:
        y /= step.divisor  # of a sum with all its digits: no quotient is rounded up to a whole number
    with np.errstate(invalid="ignore"):
        return _as_c(y, dtype)


def _as_c(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """C's cast of a double: towards zero, then modulo the range, as far as it is defined."""
    return y.astype(np.int64).astype(dtype) if dtype == np.uint32 else y.astype(dtype)


def _run_all(image: np.ndarray, steps: list[_Filter], output: _Output) -> np.ndarray | None:
    """One after the other, each result in the output's dtype."""
    y: np.ndarray | None = image
    for step in steps:
        if y is None:
            return None
        y = _run(y, step, output)
    return y


def _deliver(y: np.ndarray | None, output: _Output) -> np.ndarray | None:
    if y is None or output.array is None:
        return y
    if not np.may_share_memory(y, output.array):
        output.array[...] = y
    return output.array


# --- kernels as given --------------------------------------------------------------------------------


def _filter(
    input: Any, weights: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any, turned: bool
) -> np.ndarray | None:
    if is_small(input, weights, 2):
        return None
    image, kernel, fill = _image(input), plain(weights), as_number(cval)
    boundary = _BOUNDARIES.get(mode) if isinstance(mode, str) else None
    if image is None or kernel is None or kernel.ndim != 2 or fill is None or boundary is None:
        return None
    given, origins = _output(output, image), _each(origin, 2)
    if given is None or origins is None or (axes is not None and axes != (0, 1)):
        return None
    top, left = (_before(n, o, turned) for n, o in zip(kernel.shape, origins, strict=True))
    if top is None or left is None:
        return None
    if boundary == "symmetric" and (top >= 2 * image.shape[0] or left >= 2 * image.shape[1]):
        return None  # reflections of reflections: SciPy counts these in a way of its own
    kernel = np.asarray(kernel, np.float64)
    negligible = np.abs(kernel) <= _NEGLIGIBLE
    left_out = bool(negligible.any())
    if left_out:
        kernel = np.where(negligible, 0.0, kernel)
    step = _Filter(kernel[::-1, ::-1] if turned else kernel, (top, left), boundary, fill)
    y = _run(image, step, given)
    if left_out and y is not None and image.dtype.kind == "f" and not np.isfinite(y).all():
        return None  # a NaN below a tap that is left out goes nowhere
    return _deliver(y, given)


def _axes_given(axes: Any) -> dict[str, Any]:
    return {} if axes is None else {"axes": axes}  # an older SciPy doesn't know it


def correlate(
    input: Any, weights: Any, output: Any = None, mode: str = "reflect", cval: float = 0.0, origin: Any = 0, *,
    axes: Any = None,
) -> Any:  # fmt: skip
    """Correlation of an image with a kernel, as ``scipy.ndimage.correlate``.

    y[p, q] = sum_{r,s} padded[p + r - R//2 - origin, q + s - S//2 - origin] * weights[r, s]

    Parameters
    ----------
    input : array_like, (H, W)
        bool, integer, float32 or float64; anything else goes to SciPy.
    weights : array_like, (R, S)
    output : dtype or ndarray, optional
        Default: the image's dtype. An array takes the result.
    mode : {"reflect", "mirror", "nearest", "constant", "wrap", "grid-mirror", "grid-constant", "grid-wrap"}
        SciPy's names: "reflect" repeats the edge, "mirror" doesn't.
    cval : float, default 0.0
        What lies beyond the edge with mode "constant".
    origin : int or pair of int, default 0
        Moves the kernel's centre.
    axes : optional
        Both axes; else SciPy serves.

    Returns
    -------
    ndarray, (H, W)

    Raises
    ------
    RuntimeError, ValueError, TypeError
        SciPy's own errors.

    Notes
    -----
    Taps of at most 2.2e-16 are left out, and what lies below them with them, NaN too.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.compat.ndimage import correlate
    >>> correlate(np.eye(3, dtype=int), [[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    array([[0, 0, 0],
           [1, 0, 0],
           [0, 1, 1]])
    """
    y = _filter(input, weights, output, mode, cval, origin, axes, False)
    if y is None:
        return scipy.ndimage.correlate(input, weights, output, mode, cval, origin, **_axes_given(axes))
    return y


def convolve(
    input: Any, weights: Any, output: Any = None, mode: str = "reflect", cval: float = 0.0, origin: Any = 0, *,
    axes: Any = None,
) -> Any:  # fmt: skip
    """Convolution of an image with a kernel, as ``scipy.ndimage.convolve``.

    y[p, q] = sum_{r,s} padded[p - r + R//2 - origin, q - s + S//2 - origin] * weights[r, s]

    Parameters
    ----------
    input, weights, output, mode, cval, origin, axes
        As in ``correlate``.

    Returns
    -------
    ndarray, (H, W)

    Raises
    ------
    RuntimeError, ValueError, TypeError
        SciPy's own errors.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.compat.ndimage import convolve
    >>> convolve(np.eye(3, dtype=int), [[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    array([[1, 1, 0],
           [0, 0, 1],
           [0, 0, 0]])
    """
    y = _filter(input, weights, output, mode, cval, origin, axes, True)
    if y is None:
        return scipy.ndimage.convolve(input, weights, output, mode, cval, origin, **_axes_given(axes))
    return y


def _filter1d(
    input: Any, weights: Any, axis: Any, output: Any, mode: Any, cval: Any, origin: Any, turned: bool
) -> np.ndarray | None:
    if is_small(input, weights, 2):
        return None
    image, kernel, fill = _image(input), plain(weights), as_number(cval)
    boundary = _BOUNDARIES.get(mode) if isinstance(mode, str) else None
    if image is None or kernel is None or kernel.ndim != 1 or fill is None or boundary is None:
        return None
    if not isinstance(axis, int) or not -2 <= axis < 2:
        return None
    given, before = _output(output, image), _before(kernel.size, origin, turned)
    if given is None or before is None:
        return None
    kernel = np.asarray(kernel[::-1] if turned else kernel, np.float64)
    return _deliver(_run(image, _along(axis % 2, kernel, before, boundary, fill), given), given)


def correlate1d(
    input: Any, weights: Any, axis: int = -1, output: Any = None, mode: str = "reflect", cval: float = 0.0,
    origin: int = 0,
) -> Any:  # fmt: skip
    """Correlation of an image's lines along an axis, as ``scipy.ndimage.correlate1d``.

    y[p] = sum_r padded[p + r - R//2 - origin] * weights[r]

    Parameters
    ----------
    input : array_like, (H, W)
    weights : array_like, (R,)
    axis : int, default -1
    output, mode, cval, origin
        As in ``correlate``.

    Returns
    -------
    ndarray, (H, W)

    Raises
    ------
    RuntimeError, ValueError, TypeError
        SciPy's own errors.

    Examples
    --------
    >>> from fastconv.compat.ndimage import correlate1d
    >>> correlate1d([[1, 2, 4]], [-1, 0, 1])
    array([[1, 3, 2]])
    """
    y = _filter1d(input, weights, axis, output, mode, cval, origin, False)
    return scipy.ndimage.correlate1d(input, weights, axis, output, mode, cval, origin) if y is None else y


def convolve1d(
    input: Any, weights: Any, axis: int = -1, output: Any = None, mode: str = "reflect", cval: float = 0.0,
    origin: int = 0,
) -> Any:  # fmt: skip
    """Convolution of an image's lines along an axis, as ``scipy.ndimage.convolve1d``.

    y[p] = sum_r padded[p - r + R//2 - origin] * weights[r]

    Parameters
    ----------
    input, weights, axis, output, mode, cval, origin
        As in ``correlate1d``.

    Returns
    -------
    ndarray, (H, W)

    Raises
    ------
    RuntimeError, ValueError, TypeError
        SciPy's own errors.

    Examples
    --------
    >>> from fastconv.compat.ndimage import convolve1d
    >>> convolve1d([[1, 2, 4]], [-1, 0, 1])
    array([[-1, -3, -2]])
    """
    y = _filter1d(input, weights, axis, output, mode, cval, origin, True)
    return scipy.ndimage.convolve1d(input, weights, axis, output, mode, cval, origin) if y is None else y


# --- kernels by name -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _gaussian(sigma: float, order: int, radius: int) -> np.ndarray:
    """The taps of SciPy's Gaussian or its derivative: what it makes of one bright pixel, turned."""
    bright = np.zeros(2 * radius + 1)
    bright[radius] = 1
    return scipy.ndimage.gaussian_filter1d(bright, sigma, order=order, mode="constant", radius=radius)[
        ::-1
    ].copy()


def _separable(image: np.ndarray, steps: list[_Filter], output: _Output) -> np.ndarray | None:
    """At most one step for each axis, in SciPy's order."""
    if not steps:
        y = image.astype(output.dtype) if image.dtype.kind != "f" or output.dtype.kind == "f" else None
        return _deliver(y, output)
    if len(steps) == 2 and output.dtype.kind == "f" and image.size >= _ONE_PASS and _mergeable(*steps):
        steps = [_merged(*steps)]
    return _deliver(_run_all(image, steps, output), output)


def _two_axes(axes: Any) -> list[int] | None:
    given = [0, 1] if axes is None else [axes] if isinstance(axes, int) else axes
    if not isinstance(given, (list, tuple)) or any(
        type(axis) is not int or not -2 <= axis < 2 for axis in given
    ):
        return None
    named = [axis % 2 for axis in given]
    return named if len(set(named)) == len(named) else None


def _gaussian_filter(
    input: Any,
    sigma: Any,
    order: Any,
    output: Any,
    mode: Any,
    cval: Any,
    truncate: Any,
    radius: Any,
    axes: Any,
) -> np.ndarray | None:
    if is_small(input):
        return None
    image, fill, cut = _image(input), as_number(cval), as_number(truncate)
    along = _two_axes(axes)
    if image is None or fill is None or cut is None or along is None:
        return None
    given = _output(output, image)
    options = _axis_by_axis(len(along), sigma, order, mode, radius)
    if given is None or given.dtype.kind != "f" or options is None:
        return None
    steps = []
    for axis, (one_sigma, one_order, one_mode, one_radius) in zip(along, options, strict=True):
        spread = as_number(one_sigma)
        boundary = _BOUNDARIES.get(one_mode) if isinstance(one_mode, str) else None
        if spread is None or boundary is None or not isinstance(one_order, int) or one_order < 0:
            return None
        if spread <= 1e-15:
            continue
        if one_radius is None:
            one_radius = int(cut * spread + 0.5)
        if not isinstance(one_radius, int) or one_radius < 0:
            return None
        steps.append(_along(axis, _gaussian(spread, one_order, one_radius), one_radius, boundary, fill))
    return _separable(image, steps, given)


def gaussian_filter(
    input: Any, sigma: Any, order: Any = 0, output: Any = None, mode: Any = "reflect", cval: float = 0.0,
    truncate: float = 4.0, *, radius: Any = None, axes: Any = None,
) -> Any:  # fmt: skip
    """Gaussian blur of an image, or derivatives of it, as ``scipy.ndimage.gaussian_filter``.

    Along each axis y[p] = sum_r padded[p + r - a] * g[r], g[r] ~ exp(-((r - a) / sigma)**2 / 2) of sum 1.

    Parameters
    ----------
    input : array_like, (H, W)
        Outputs of integers go to SciPy, which truncates after each axis.
    sigma : float or pair of float
        In pixels; an axis of 0 is left alone.
    order : int or pair of int, default 0
        Of the derivative along each axis.
    output, cval
        As in ``correlate``.
    mode : str or pair of str, default "reflect"
    truncate : float, default 4.0
        The radius a is int(truncate * sigma + 0.5).
    radius : int or pair of int, optional
        The radius itself.
    axes : int or sequence of int, optional
        Those to filter along; sequences above have one entry for each.

    Returns
    -------
    ndarray, (H, W)

    Raises
    ------
    RuntimeError, ValueError, TypeError
        SciPy's own errors.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.compat.ndimage import gaussian_filter
    >>> gaussian_filter(np.eye(3), 1).round(3)
    array([[0.502, 0.329, 0.168],
           [0.329, 0.342, 0.329],
           [0.168, 0.329, 0.502]])
    """
    y = _gaussian_filter(input, sigma, order, output, mode, cval, truncate, radius, axes)
    if y is None:
        return scipy.ndimage.gaussian_filter(
            input, sigma, order, output, mode, cval, truncate, radius=radius, **_axes_given(axes)
        )
    return y


def _sobel(input: Any, axis: Any, output: Any, mode: Any, cval: Any) -> np.ndarray | None:
    if is_small(input):
        return None
    image, fill, modes = _image(input), as_number(cval), _each(mode, 2)
    if image is None or fill is None or modes is None or not isinstance(axis, int) or not -2 <= axis < 2:
        return None
    given = _output(output, image)
    boundaries = [_BOUNDARIES.get(name) if isinstance(name, str) else None for name in modes]
    if given is None or boundaries[0] is None or boundaries[1] is None:
        return None
    first = axis % 2
    steps = [
        _along(place, np.array(taps), 1, boundaries[place] or "", fill)
        for place, taps in ((first, [-1.0, 0.0, 1.0]), (1 - first, [1.0, 2.0, 1.0]))
    ]
    if (
        given.dtype.kind != "f"
        and max(given.dtype.itemsize, image.dtype.itemsize) <= 2
        and _mergeable(*steps)
    ):
        steps = [_merged(*steps)]  # modulo their range, these are no other after two casts than after one
    return _separable(image, steps, given)


def sobel(input: Any, axis: int = -1, output: Any = None, mode: Any = "reflect", cval: float = 0.0) -> Any:
    """Sobel's derivative of an image, as ``scipy.ndimage.sobel``.

    The correlation with -1 0 1 along the axis, and with 1 2 1 along the other.

    Parameters
    ----------
    input : array_like, (H, W)
    axis : int, default -1
    output, cval
        As in ``correlate``. In an unsigned output negative values wrap around: ask for a signed one, or a float.
    mode : str or pair of str, default "reflect"

    Returns
    -------
    ndarray, (H, W)

    Raises
    ------
    RuntimeError, ValueError, TypeError
        SciPy's own errors.

    Examples
    --------
    >>> from fastconv.compat.ndimage import sobel
    >>> sobel([[1, 2, 4], [1, 2, 4]])
    array([[ 4, 12,  8],
           [ 4, 12,  8]])
    """
    y = _sobel(input, axis, output, mode, cval)
    return scipy.ndimage.sobel(input, axis, output, mode, cval) if y is None else y


def _uniform_filter(
    input: Any, size: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any
) -> np.ndarray | None:
    if is_small(input):
        return None
    image, fill, along = _image(input), as_number(cval), _two_axes(axes)
    if image is None or fill is None or along is None:
        return None
    given = _output(output, image)
    options = _axis_by_axis(len(along), size, mode, origin)
    if given is None or options is None:
        return None
    steps = []
    for axis, (taps, one_mode, one_origin) in zip(along, options, strict=True):
        boundary = _BOUNDARIES.get(one_mode) if isinstance(one_mode, str) else None
        if boundary is None or not isinstance(taps, int) or taps < 1:
            return None
        if taps == 1:
            continue
        before = _before(taps, one_origin)
        if before is None:
            return None
        steps.append(_along(axis, np.ones(taps), before, boundary, fill, taps))
    if sum(step.kernel.size for step in steps) > _LONGEST_BOX.get(given.dtype.itemsize, 100):
        return None
    return _separable(image, steps, given)


def uniform_filter(
    input: Any, size: Any = 3, output: Any = None, mode: Any = "reflect", cval: float = 0.0, origin: Any = 0, *,
    axes: Any = None,
) -> Any:  # fmt: skip
    """Mean over a box, as ``scipy.ndimage.uniform_filter``.

    Along each axis y[p] = sum_{r < size} padded[p + r - size//2 - origin] / size.

    Parameters
    ----------
    input : array_like, (H, W)
    size : int or pair of int, default 3
        Large boxes go to SciPy, whose running sums cost the same for every size.
    output, cval
        As in ``correlate``. Integer outputs are truncated after each axis.
    mode : str or pair of str, default "reflect"
    origin : int or pair of int, default 0
    axes : int or sequence of int, optional
        Those to filter along; sequences above have one entry for each.

    Returns
    -------
    ndarray, (H, W)

    Raises
    ------
    RuntimeError, ValueError, TypeError
        SciPy's own errors.

    Notes
    -----
    A NaN reaches the boxes that it lies in; SciPy's running sums carry it to the end of its line.

    Examples
    --------
    >>> from fastconv.compat.ndimage import uniform_filter
    >>> uniform_filter([[0.0, 3.0, 6.0]])
    array([[1., 3., 5.]])
    """
    y = _uniform_filter(input, size, output, mode, cval, origin, axes)
    if y is None:
        return scipy.ndimage.uniform_filter(input, size, output, mode, cval, origin, **_axes_given(axes))
    return y
