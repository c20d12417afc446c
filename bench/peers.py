"""The same operations by others, each behind a small adapter.

An adapter takes the problem and its operands, prepares what costs its users nothing, and returns what is timed: a
function without arguments whose result is in fastconv's order of axes. Libraries are imported where they are used;
where one is missing its rows are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from workloads import fewer_filters, smaller_image

import fastconv as fc
from fastconv.problem import ConvProblem, output_extent

Timed = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """One row: another library, or another way."""

    name: str
    prepare: Callable[..., Timed]
    module: str = "numpy"
    """What must be importable."""
    limit: float = math.inf
    """More flops than this are not timed: the problem is cut down by ``cut``, and the time scaled up by flops."""
    cut: Callable[[ConvProblem, float], ConvProblem] = smaller_image
    serves: Callable[[ConvProblem], bool] = lambda problem: True
    kind: str = "peer"


# --- convolution -----------------------------------------------------------------------------------


def _depthwise(problem: ConvProblem) -> bool:
    return problem.groups == problem.C == problem.K > 1


def _plain_or_depthwise(problem: ConvProblem) -> bool:
    return problem.dilation == (1, 1) and (problem.groups == 1 or _depthwise(problem))


def _padded(x: np.ndarray, problem: ConvProblem) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), *problem.padding))


def _turned_padding(problem: ConvProblem) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding of dy with zeros inserted, so that the turned filters give an image of H x W."""
    pads = []
    for axis in range(2):
        taps, before = (problem.R, problem.S)[axis], problem.padding[axis][0]
        inserted = ((problem.P, problem.Q)[axis] - 1) * problem.stride[axis] + 1
        first = taps - 1 - before
        pads.append((first, (problem.H, problem.W)[axis] + taps - 1 - first - inserted))
    return pads[0], pads[1]


def _turned(w: np.ndarray, problem: ConvProblem) -> np.ndarray:
    """Filters of the input gradient: turned by 180 degrees, input and output channels swapped."""
    w = w[:, :, ::-1, ::-1]
    return w if _depthwise(problem) else w.transpose(1, 0, 2, 3)


def _windows(x: np.ndarray, r: int, s: int, stride: tuple[int, int] = (1, 1)) -> np.ndarray:
    """(N, C, P, Q, r, s), a view."""
    from skimage.util import view_as_windows

    return view_as_windows(x, (1, 1, r, s), (1, 1, *stride))[:, :, :, :, 0, 0]


def _windows_times_filters(windows: np.ndarray, w: np.ndarray, depthwise: bool) -> np.ndarray:
    if depthwise:
        return np.einsum("ncpqrs,crs->ncpq", windows, w[:, 0], optimize=True)
    return np.tensordot(windows, w, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)


def windows_and_tensordot(problem: ConvProblem, a: np.ndarray, b: np.ndarray, workers: int) -> Timed:
    """Windows as a view, summed by one matrix product; the input gradient over inserted zeros."""
    depthwise = _depthwise(problem)
    if problem.direction == "input_grad":
        pads = ((0, 0), (0, 0), *_turned_padding(problem))

        def input_grad() -> np.ndarray:
            inserted = np.pad(fc.upsample_zeros(a, problem.stride), pads)
            return _windows_times_filters(_windows(inserted, problem.R, problem.S), _turned(b, problem), depthwise)

        return input_grad

    def windows() -> np.ndarray:
        return _windows(_padded(a, problem), problem.R, problem.S, problem.stride)

    if problem.direction == "forward":
        return lambda: _windows_times_filters(windows(), b, depthwise)
    if depthwise:
        return lambda: np.einsum("ncpq,ncpqrs->crs", b, windows(), optimize=True)[:, None]
    return lambda: np.tensordot(b, windows(), ((0, 2, 3), (0, 2, 3)))


def inserted_zeros(problem: ConvProblem, a: np.ndarray, b: np.ndarray, workers: int) -> Timed:
    """The gradients as fastconv's forward convolutions over dy with zeros between its pixels."""
    if problem.direction == "input_grad":
        pads, groups = _turned_padding(problem), problem.groups
        return lambda: fc.conv2d(
            fc.upsample_zeros(a, problem.stride), _turned(b, problem), padding=pads, groups=groups, workers=workers
        )

    def weight_grad() -> np.ndarray:
        inserted = fc.upsample_zeros(b, problem.stride).transpose(1, 0, 2, 3)
        dw = fc.conv2d(a.transpose(1, 0, 2, 3), inserted, padding=problem.padding, workers=workers)
        return dw.transpose(1, 0, 2, 3)[:, :, : problem.R, : problem.S]

    return weight_grad


def scipy_correlate2d(problem: ConvProblem, a: np.ndarray, b: np.ndarray, workers: int) -> Timed:
    """scipy.signal for each sample, filter and channel."""
    from scipy.signal import convolve2d, correlate2d

    (sh, sw), ((top, _), (left, _)) = problem.stride, problem.padding
    pairs = [
        (n, k, c if not _depthwise(problem) else 0, c if not _depthwise(problem) else k)
        for n in range(problem.N) for k in range(problem.K) for c in range(problem.C // problem.groups)
    ]  # fmt: skip

    def forward() -> np.ndarray:
        y, padded = np.zeros(problem.y_shape, a.dtype), _padded(a, problem)
        for n, k, c, channel in pairs:
            y[n, k] += correlate2d(padded[n, channel], b[k, c], "valid")[::sh, ::sw]
        return y

    def input_grad() -> np.ndarray:
        inserted = fc.upsample_zeros(a, problem.stride)
        padded = np.zeros(problem.padded_shape, a.dtype)
        for n, k, c, channel in pairs:
            full = convolve2d(inserted[n, k], b[k, c])
            padded[n, channel, : full.shape[0], : full.shape[1]] += full
        return padded[:, :, top : top + problem.H, left : left + problem.W]

    def weight_grad() -> np.ndarray:
        inserted, padded = fc.upsample_zeros(b, problem.stride), _padded(a, problem)
        dw = np.zeros(problem.w_shape, a.dtype)
        for n, k, c, channel in pairs:
            dw[k, c] += correlate2d(padded[n, channel], inserted[n, k], "valid")[: problem.R, : problem.S]
        return dw

    return {"forward": forward, "input_grad": input_grad, "weight_grad": weight_grad}[problem.direction]


def torch_convolution(channels_last: bool) -> Callable[..., Timed]:
    """PyTorch in its own tensors, made beforehand; no autograd."""

    def prepare(problem: ConvProblem, a: np.ndarray, b: np.ndarray, workers: int) -> Timed:
        import torch

        order = torch.channels_last if channels_last else torch.contiguous_format
        ta, tb = (torch.from_numpy(v).contiguous(memory_format=order) for v in (a, b))
        options = {
            "stride": problem.stride, "padding": (problem.padding[0][0], problem.padding[1][0]),
            "dilation": problem.dilation, "groups": problem.groups,
        }  # fmt: skip
        if problem.direction == "forward":
            return lambda: torch.nn.functional.conv2d(ta, tb, **options)
        if problem.direction == "input_grad":
            return lambda: torch.nn.grad.conv2d_input(problem.x_shape, tb, ta, **options)
        return lambda: torch.nn.grad.conv2d_weight(ta, problem.w_shape, tb, **options)

    return prepare


def _symmetric(problem: ConvProblem) -> bool:
    return all(before == after for before, after in problem.padding)


def _gradient(problem: ConvProblem) -> bool:
    if problem.direction == "weight_grad":
        return problem.groups == 1
    return problem.direction == "input_grad" and _plain_or_depthwise(problem)


CONVOLUTION = (
    Peer("view_as_windows", windows_and_tensordot, "skimage", serves=_plain_or_depthwise),
    Peer("SciPy correlate2d", scipy_correlate2d, "scipy", 2e7, fewer_filters, _plain_or_depthwise),
    Peer("inserted zeros", inserted_zeros, serves=_gradient, kind="fastconv"),
    Peer("PyTorch", torch_convolution(False), "torch", serves=_symmetric),
    Peer("PyTorch NHWC", torch_convolution(True), "torch", serves=_symmetric),
)


# --- images: (H, W), the result as large, zeros beyond the edge ------------------------------------


def scipy_image(module: str, name: str) -> Callable[..., Timed]:
    def prepare(image: np.ndarray, kernel: np.ndarray, workers: int) -> Timed:
        import scipy

        function = getattr(getattr(scipy, module), name)
        work = np.result_type(image, kernel)
        if module == "ndimage":
            return lambda: function(image.astype(work, copy=False), kernel, mode="constant")
        turned = kernel if name == "correlate2d" else kernel[::-1, ::-1]

        def run() -> np.ndarray:
            with scipy.fft.set_workers(workers):
                return function(image.astype(work, copy=False), turned, mode="same")

        return run

    return prepare


def windows_of_image(image: np.ndarray, kernel: np.ndarray, workers: int) -> Timed:
    from skimage.util import view_as_windows

    pads = [((n - 1) // 2, n // 2) for n in kernel.shape]
    return lambda: np.tensordot(view_as_windows(np.pad(image, pads), kernel.shape), kernel, 2)


def opencv_filter(image: np.ndarray, kernel: np.ndarray, workers: int) -> Timed:
    import cv2

    return lambda: cv2.filter2D(image, cv2.CV_32F, kernel, borderType=cv2.BORDER_CONSTANT)


def opencv_separable(image: np.ndarray, kernel: np.ndarray, workers: int) -> Timed:
    import cv2

    columns, rows = (np.ascontiguousarray(v[0], "float32") for v in fc.separate(kernel, rtol=1e-6))
    return lambda: cv2.sepFilter2D(image, cv2.CV_32F, rows, columns, borderType=cv2.BORDER_CONSTANT)


def torch_image(image: np.ndarray, kernel: np.ndarray, workers: int) -> Timed:
    import torch

    x, w = (torch.from_numpy(v.astype("float32"))[None, None] for v in (image, kernel))
    pads = [(n - 1) // 2 for n in kernel.shape]
    return lambda: torch.nn.functional.conv2d(x, w, padding=pads)[0, 0]


def _rank_one(problem: ConvProblem) -> bool:
    return problem.rank == 1


IMAGES = (
    Peer("view_as_windows", windows_of_image, "skimage", 1e8),
    Peer("SciPy correlate2d", scipy_image("signal", "correlate2d"), "scipy", 1e8),
    Peer("SciPy ndimage", scipy_image("ndimage", "correlate"), "scipy", 1e8),
    Peer("SciPy fftconvolve", scipy_image("signal", "fftconvolve"), "scipy"),
    Peer("SciPy oaconvolve", scipy_image("signal", "oaconvolve"), "scipy"),
    Peer("OpenCV filter2D", opencv_filter, "cv2"),
    Peer("OpenCV sepFilter2D", opencv_separable, "cv2", serves=_rank_one),
    Peer("PyTorch", torch_image, "torch", 2e9),
)


# --- pooling and windows: (N, C, H, W), r x r windows ----------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Square windows over an image: what pooling, im2col and col2im have in common."""

    shape: tuple[int, int, int, int]
    size: int
    stride: int
    padding: int = 0

    @property
    def extents(self) -> tuple[int, int]:
        rows, columns = (
            output_extent(n, (self.padding,) * 2, self.size, self.stride, 1) for n in self.shape[2:]
        )
        return rows, columns

    def taps(self) -> list[tuple[slice, slice]]:
        """For each tap of the window, the pixels of the padded image that it meets."""
        reach = [(n - 1) * self.stride + 1 for n in self.extents]
        return [
            (slice(r, r + reach[0], self.stride), slice(s, s + reach[1], self.stride))
            for r in range(self.size) for s in range(self.size)
        ]  # fmt: skip


def torch_windows(operation: str) -> Callable[..., Timed]:
    def prepare(geometry: Windows, a: np.ndarray, b: np.ndarray | None, workers: int) -> Timed:
        import torch

        aten, f = torch.ops.aten, torch.nn.functional
        size, stride, padding = geometry.size, geometry.stride, geometry.padding
        pairs = [[n, n] for n in (size, stride, padding)]
        ta = torch.from_numpy(a)
        tb = torch.from_numpy(b) if b is not None else None
        calls: dict[str, Timed] = {
            "max": lambda: f.max_pool2d(ta, size, stride, padding),
            "average": lambda: f.avg_pool2d(ta, size, stride, padding),
            "im2col": lambda: f.unfold(ta, size, padding=padding, stride=stride),
            "col2im": lambda: f.fold(ta, geometry.shape[2:], size, padding=padding, stride=stride),
        }
        if operation in calls:
            return calls[operation]
        x = torch.empty(geometry.shape)
        if operation == "max gradient":
            return lambda: aten.max_pool2d_with_indices_backward(ta, x, *pairs, [1, 1], False, tb)
        return lambda: aten.avg_pool2d_backward(ta, x, *pairs, False, True, None)

    return prepare


def numpy_windows(operation: str) -> Callable[..., Timed]:
    """One strided slice of the padded image for each tap of the window."""

    def prepare(geometry: Windows, a: np.ndarray, b: np.ndarray | None, workers: int) -> Timed:
        n, c, h, w = geometry.shape
        (rows, columns), taps, pad = geometry.extents, geometry.taps(), geometry.padding
        around = ((0, 0), (0, 0), (pad, pad), (pad, pad))

        def slices(value: float) -> list[np.ndarray]:
            padded = np.pad(a, around, constant_values=value)
            return [padded[:, :, u, v] for u, v in taps]

        def scatter(parts: np.ndarray) -> np.ndarray:
            padded = np.zeros((n, c, h + 2 * pad, w + 2 * pad), a.dtype)
            for i, (u, v) in enumerate(taps):
                padded[:, :, u, v] += parts[:, :, i]
            return padded[:, :, pad : pad + h, pad : pad + w]

        def max_gradient() -> np.ndarray:
            dx = np.zeros(n * c * h * w, a.dtype)
            planes = np.arange(n * c).reshape(n, c, 1, 1) * (h * w)
            np.add.at(dx, (planes + b).ravel(), a.ravel())
            return dx.reshape(n, c, h, w)

        def largest() -> np.ndarray:
            parts = slices(-np.inf)
            y = parts[0].copy()
            for part in parts[1:]:
                np.maximum(y, part, out=y)
            return y

        calls: dict[str, Timed] = {
            "max": largest,
            "average": lambda: sum(slices(0)) / np.float32(len(taps)),
            "max gradient": max_gradient,
            "average gradient": lambda: scatter(
                np.broadcast_to((a / np.float32(len(taps)))[:, :, None], (n, c, len(taps), rows, columns))
            ),
            "im2col": lambda: np.stack(slices(0), 2).reshape(n, c * len(taps), rows * columns),
            "col2im": lambda: scatter(a.reshape(n, c, len(taps), rows, columns)),
        }
        return calls[operation]

    return prepare


def scikit_windows(operation: str) -> Callable[..., Timed]:
    def prepare(geometry: Windows, a: np.ndarray, b: np.ndarray | None, workers: int) -> Timed:
        pad, size = geometry.padding, geometry.size
        (n, c, _, _), (rows, columns) = geometry.shape, geometry.extents

        def windows(value: float) -> np.ndarray:
            padded = np.pad(a, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=value)
            return _windows(padded, size, size, (geometry.stride, geometry.stride))

        calls: dict[str, Timed] = {
            "max": lambda: windows(-np.inf).max((4, 5)),
            "average": lambda: windows(0).mean((4, 5)),
            "im2col": lambda: windows(0).transpose(0, 1, 4, 5, 2, 3).reshape(n, c * size * size, rows * columns),
        }
        return calls[operation]

    return prepare


def loops(operation: str) -> Callable[..., Timed]:
    """The textbook's loops over windows, in Python."""

    def prepare(geometry: Windows, a: np.ndarray, b: np.ndarray | None, workers: int) -> Timed:
        (n, c, h, w), (rows, columns) = geometry.shape, geometry.extents
        pad, size, stride = geometry.padding, geometry.size, geometry.stride
        around = ((0, 0), (0, 0), (pad, pad), (pad, pad))

        def window(p: int, q: int) -> tuple[slice, slice]:
            return slice(p * stride, p * stride + size), slice(q * stride, q * stride + size)

        def gather(reduce: Callable[[np.ndarray], Any], value: float = 0, *shape: int) -> np.ndarray:
            padded = np.pad(a, around, constant_values=value)
            y = np.empty((n, c, *shape, rows, columns), a.dtype)
            for i, j, p, q in np.ndindex(n, c, rows, columns):
                y[i, j, ..., p, q] = reduce(padded[i, j][window(p, q)])
            return y

        def scatter(part: Callable[[int, int, int, int], Any]) -> np.ndarray:
            padded = np.zeros((n, c, h + 2 * pad, w + 2 * pad), a.dtype)
            for i, j, p, q in np.ndindex(n, c, rows, columns):
                padded[i, j][window(p, q)] += part(i, j, p, q)
            return padded[:, :, pad : pad + h, pad : pad + w]

        def max_gradient() -> np.ndarray:
            assert b is not None
            dx = np.zeros((n, c, h * w), a.dtype)
            for i, j, p, q in np.ndindex(n, c, rows, columns):
                dx[i, j, b[i, j, p, q]] += a[i, j, p, q]
            return dx.reshape(n, c, h, w)

        def col2im() -> np.ndarray:
            cols = a.reshape(n, c, size, size, rows, columns)
            return scatter(lambda i, j, p, q: cols[i, j, :, :, p, q])

        calls: dict[str, Timed] = {
            "max": lambda: gather(np.max, -np.inf),
            "average": lambda: gather(np.mean),
            "max gradient": max_gradient,
            "average gradient": lambda: scatter(lambda i, j, p, q: a[i, j, p, q] / size**2),
            "im2col": lambda: gather(np.ravel, 0, size * size).reshape(n, c * size * size, rows * columns),
            "col2im": col2im,
        }
        return calls[operation]

    return prepare
