"""Layers: what a network is made of. Each computes its output, and from the output's gradient its input's.

``Layer`` holds what all have in common: checks, the arrays (made at the first call, when the input's channels and
dtype are known), the order forward, backward. A layer of its own kind gives ``compute`` and ``propagate``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import ShapeError
from fastconv.nn.common import as_floats, options_text, real
from fastconv.nn.initializers import He, as_initializer
from fastconv.ops import arguments as check
from fastconv.ops.conv import (
    conv2d,
    conv2d_backward,
    conv2d_input_grad,
    conv2d_weight_grad,
    conv_transpose2d,
    plan_conv2d,
)
from fastconv.ops.pool import (
    avg_pool2d,
    avg_pool2d_grad,
    global_avg_pool2d,
    max_pool2d,
    max_pool2d_grad,
)

__all__ = [
    "AvgPool2D", "BatchNorm2D", "Conv2D", "ConvTranspose2D", "Dense", "Dropout", "Flatten", "GlobalAvgPool2D", "Layer",
    "MaxPool2D", "Reshape",
]  # fmt: skip

Shape = tuple[int, ...]


class Layer:
    """Base of the layers.

    A subclass gives ``compute(x, training) -> y``, which keeps in ``self.saved`` what ``propagate(dy, needs_dx) -> dx``
    will want; a layer with parameters also ``shapes`` and, in ``propagate``, ``self.slopes``: the gradients by name.
    """

    axes: ClassVar[str | None] = None
    """The axes that the input must have, as in "N, C, H, W"; None for any."""
    shrinking: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters that L2 shrinks: weights, not biases."""
    statistics: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that are saved but are no parameters."""

    layout = "NCHW"
    """Of images: set by the network that the layer is in."""
    generator: np.random.Generator | None = None
    """Draws first weights and dropouts: set by the network; a layer on its own takes an unseeded one."""
    saved: Any = None
    """What the backward pass needs of the last forward pass."""
    arrays: dict[str, np.ndarray] | None = None
    """Parameters and statistics by name; None until the first call."""
    slopes: dict[str, np.ndarray] | None = None
    x_shape: Shape | None = None
    y_shape: Shape | None = None
    """Of the last forward pass."""
    sample_shape: Shape | None = None
    """Of an output without N; stays when the rest is forgotten."""
    plans: dict[Any, Any] | None = None
    """Plans and packed weights by input, while ``freeze`` holds."""

    def __repr__(self) -> str:
        return options_text(self)

    # what users call

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        """The layer's output. ``training`` matters to Dropout and BatchNorm2D.

        Raises
        ------
        ShapeError, TypeError
            An x of the wrong rank, channels or dtype.
        """
        x = as_floats(x, "x")
        if self.axes is not None:
            check.check_rank(x, "x", self.axes if self.layout == "NCHW" else self.axes.replace("C, H, W", "H, W, C"))
        shapes, built = self.shapes(x.shape), self.arrays is not None
        if not built:
            self.arrays = {name: self.start(name, shape).astype(x.dtype) for name, shape in shapes.items()}
        elif any(self._arrays[name].shape != shape for name, shape in shapes.items()):
            raise ShapeError(f"x: got shape {x.shape}; {self!r} has weights for one like {self.x_shape}")
        try:
            y = self.compute(x, training)
        except BaseException:
            if not built:
                self.arrays = None  # an input that didn't fit must not settle the channels
            raise
        self.x_shape, self.y_shape, self.sample_shape = x.shape, y.shape, y.shape[1:]
        return y

    def backward(self, dy: ArrayLike, needs_dx: bool = True) -> np.ndarray:
        """The gradient by the input of the last forward pass; afterwards ``gradients()`` has those by parameters.

        Parameters
        ----------
        dy : array_like, the shape of the last forward pass's result
        needs_dx : bool, default True
            False where only the parameters' gradients matter: what is returned then is of no use.

        Raises
        ------
        RuntimeError
            Without a forward pass before it.
        ShapeError, TypeError
            A dy that doesn't fit.
        """
        if self.y_shape is None:
            raise RuntimeError(f"{self!r}: backward before forward; call forward first")
        dy = as_floats(dy, "dy")
        check.check_same_shape(dy, "dy", self.y_shape, "that of the layer's last result")
        return self.propagate(dy, needs_dx)

    def parameters(self) -> dict[str, np.ndarray]:
        """The live arrays by name: a change to them changes the layer. None before the first forward pass."""
        return {name: a for name, a in (self.arrays or {}).items() if name not in self.statistics}

    def gradients(self) -> dict[str, np.ndarray]:
        """What the last backward pass found, by the parameters' names. RuntimeError before it."""
        if not self.parameters():
            return {}
        if self.slopes is None:
            raise RuntimeError(f"{self!r}: gradients before backward; call forward and backward first")
        return dict(self.slopes)

    def forget(self) -> None:
        """Free what the last forward pass kept for a backward pass; ends ``freeze``."""
        self.saved = self.y_shape = self.plans = None

    def freeze(self) -> None:
        """Parameters will not change until ``forget``: what is worth keeping of them may be kept."""
        self.plans = {}

    # what a kind of layer gives

    def shapes(self, x_shape: Shape) -> dict[str, Shape]:
        """Shapes of parameters and statistics for inputs of this shape; needs no array."""
        return {}

    def start(self, name: str, shape: Shape) -> np.ndarray:
        """First values of an array."""
        return np.zeros(shape)

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        raise NotImplementedError

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        raise NotImplementedError

    # helpers

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        assert self.arrays is not None
        return self.arrays

    @property
    def channel_axis(self) -> int:
        return 3 if self.layout == "NHWC" else 1

    @property
    def chance(self) -> np.random.Generator:
        if self.generator is None:
            self.generator = np.random.default_rng()
        return self.generator


@dataclass(eq=False, repr=False)
class Conv2D(Layer):
    """Convolution of images with learned filters, and a bias per filter: ``fastconv.conv2d``.

    Parameters
    ----------
    filters : int
        K, the output's channels.
    kernel_size : int or (R, S)
    stride, padding, dilation, groups, boundary, cval, method
        As in ``fastconv.conv2d``.
    use_bias : bool, default True
    initializer : Initializer or its name, default He()
        Of the filters; biases start at 0.

    Notes
    -----
    Parameters ``w``, (K, C/groups, R, S), and ``bias``, (K,). dx, dw and dbias are ``fastconv.conv2d_backward``'s.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Conv2D(8, 3, padding="same", stride=2)
    >>> layer.forward(np.zeros((1, 3, 9, 9))).shape
    (1, 8, 5, 5)
    """

    filters: int
    kernel_size: Any
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    boundary: str = "constant"
    cval: float = 0.0
    method: str = "auto"
    use_bias: bool = True
    initializer: Any = He()  # noqa: RUF009 (frozen)

    axes = "N, C, H, W"
    shrinking = ("w",)

    def __post_init__(self) -> None:
        _check_filters(self)

    def shapes(self, x_shape: Shape) -> dict[str, Shape]:
        channels, groups = x_shape[self.channel_axis], self.groups
        if channels % groups:
            raise ShapeError(f"groups: got {groups}; must divide the {channels} channels of x")
        w = (self.filters, channels // groups, *check.pair(self.kernel_size, "kernel_size", 1))
        return {"w": w, "bias": (self.filters,)} if self.use_bias else {"w": w}

    def start(self, name: str, shape: Shape) -> np.ndarray:
        if name != "w":
            return np.zeros(shape)
        fan_in, fan_out = math.prod(shape[1:]), shape[0] // self.groups * math.prod(shape[2:])
        return self.initializer(shape, fan_in, fan_out, self.chance)

    def _options(self) -> dict[str, Any]:
        return {
            "stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups,
            "boundary": self.boundary, "cval": self.cval, "method": self.method, "layout": self.layout,
        }  # fmt: skip

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = x
        w, bias = self._arrays["w"], self._arrays.get("bias")
        if self.plans is None or x.dtype != w.dtype:
            return conv2d(x, w, bias, **self._options())
        if x.shape not in self.plans:
            plan = plan_conv2d(x.shape, w.shape, dtype=x.dtype, **self._options())
            self.plans[x.shape] = plan, plan.pack(w)
        plan, packed = self.plans[x.shape]
        return plan(x, packed, bias)

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        w, needs = self._arrays["w"], (needs_dx, True, self.use_bias)
        dx, dw, db = conv2d_backward(dy, self.saved, w, needs=needs, **self._options())
        self.slopes = {"w": dw, "bias": db} if self.use_bias else {"w": dw}  # type: ignore[dict-item]
        return dx  # type: ignore[return-value]


def _check_filters(layer: Conv2D | ConvTranspose2D) -> None:
    check.integer(layer.filters, "filters", 1)
    check.pair(layer.kernel_size, "kernel_size", 1)
    check.pair(layer.stride, "stride", 1)
    check.pair(layer.dilation, "dilation", 1)
    if layer.filters % check.integer(layer.groups, "groups", 1):
        raise ShapeError(f"groups: got {layer.groups}; must divide the {layer.filters} filters")
    check.check_flag(layer.use_bias, "use_bias")
    layer.initializer = as_initializer(layer.initializer)


@dataclass(eq=False, repr=False)
class ConvTranspose2D(Layer):
    """Transposed convolution, which enlarges images: ``fastconv.conv_transpose2d``.

    Parameters
    ----------
    filters : int
        K, the output's channels.
    kernel_size : int or (R, S)
    stride, padding, output_padding, dilation, groups, method
        As in ``fastconv.conv_transpose2d``.
    use_bias, initializer
        As in ``Conv2D``.

    Notes
    -----
    Parameters ``w``, (C, K/groups, R, S), and ``bias``, (K,). The layer is the adjoint of a convolution with the same
    w; so dx is that convolution of dy, and dw its weight gradient with dy as the image.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ConvTranspose2D(8, 2, stride=2).forward(np.zeros((1, 3, 7, 7))).shape
    (1, 8, 14, 14)
    """

    filters: int
    kernel_size: Any
    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    method: str = "auto"
    use_bias: bool = True
    initializer: Any = He()  # noqa: RUF009 (frozen)

    axes = "N, C, H, W"
    shrinking = ("w",)

    def __post_init__(self) -> None:
        _check_filters(self)
        check.pair(self.output_padding, "output_padding", 0)

    def shapes(self, x_shape: Shape) -> dict[str, Shape]:
        kernel = check.pair(self.kernel_size, "kernel_size", 1)
        w = (x_shape[self.channel_axis], self.filters // self.groups, *kernel)
        return {"w": w, "bias": (self.filters,)} if self.use_bias else {"w": w}

    def start(self, name: str, shape: Shape) -> np.ndarray:
        if name != "w":
            return np.zeros(shape)
        taps = math.prod(shape[2:])
        return self.initializer(shape, shape[0] // self.groups * taps, shape[1] * taps, self.chance)

    def _options(self) -> dict[str, Any]:
        return {
            "stride": self.stride, "dilation": self.dilation, "groups": self.groups, "method": self.method,
            "layout": self.layout,
        }  # fmt: skip

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = x
        return conv_transpose2d(
            x, self._arrays["w"], self._arrays.get("bias"),
            padding=self.padding, output_padding=self.output_padding, **self._options(),
        )  # fmt: skip

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        x, w, options = self.saved, self._arrays["w"], self._options()
        rows = slice(1, 3) if self.layout == "NHWC" else slice(2, 4)
        stride, dilation = check.pair(self.stride, "stride", 1), check.pair(self.dilation, "dilation", 1)
        extra = check.pair(self.output_padding, "output_padding", 0)
        (height, width), pads = check.transposed_padding(
            self.padding, x.shape[rows], w.shape[2:], stride, dilation, extra
        )
        # A negative padding stands for rows and columns that no window reaches.
        cut = tuple(slice(0, extent + min(after, 0)) for extent, (_, after) in zip((height, width), pads, strict=True))
        reached = dy[:, *cut] if self.layout == "NHWC" else dy[:, :, *cut]
        options["padding"] = tuple((before, max(after, 0)) for before, after in pads)
        self.slopes = {"w": conv2d_weight_grad(reached, x, w.shape, **options)}
        if self.use_bias:
            axes = (0, 1, 2) if self.layout == "NHWC" else (0, 2, 3)
            self.slopes["bias"] = dy.sum(axis=axes, dtype=np.float64).astype(dy.dtype)
        return conv2d(reached, w, **options) if needs_dx else dy


@dataclass(eq=False, repr=False)
class MaxPool2D(Layer):
    """Largest pixel of every window: ``fastconv.max_pool2d``. Each gradient goes to the pixel that won.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in ``fastconv.max_pool2d``: stride None means the kernel's size, padding never wins.
    """

    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False

    axes = "N, C, H, W"

    def __post_init__(self) -> None:
        _check_windows(self)

    def _options(self) -> dict[str, Any]:
        return {
            "kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding, "dilation": self.dilation,
            "layout": self.layout,
        }  # fmt: skip

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        y, places = max_pool2d(x, **self._options(), ceil_mode=self.ceil_mode, return_indices="offset")
        self.saved = places, x.shape
        return y

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return max_pool2d_grad(dy, *self.saved, **self._options())


def _check_windows(layer: MaxPool2D | AvgPool2D) -> None:
    check.pair(layer.kernel_size, "kernel_size", 1)
    if layer.stride is not None:
        check.pair(layer.stride, "stride", 1)
    check.pair(layer.dilation, "dilation", 1)
    check.check_flag(layer.ceil_mode, "ceil_mode")


@dataclass(eq=False, repr=False)
class AvgPool2D(Layer):
    """Mean of every window: ``fastconv.avg_pool2d``. Each gradient is spread evenly over its window.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor
        As in ``fastconv.avg_pool2d``.
    """

    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: float | None = None

    axes = "N, C, H, W"

    def __post_init__(self) -> None:
        _check_windows(self)
        check.check_flag(self.count_include_pad, "count_include_pad")

    def _options(self) -> dict[str, Any]:
        return {
            "kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding, "dilation": self.dilation,
            "ceil_mode": self.ceil_mode, "count_include_pad": self.count_include_pad, "divisor": self.divisor,
            "layout": self.layout,
        }  # fmt: skip

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = x.shape
        return avg_pool2d(x, **self._options())

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return avg_pool2d_grad(dy, self.saved, **self._options())


@dataclass(eq=False, repr=False)
class GlobalAvgPool2D(Layer):
    """Mean of every plane, (N, C, 1, 1) or (N, 1, 1, C): ``fastconv.global_avg_pool2d``."""

    axes = "N, C, H, W"

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = x.shape
        return global_avg_pool2d(x, layout=self.layout)

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        plane = self.saved[1:3] if self.layout == "NHWC" else self.saved[2:4]
        return avg_pool2d_grad(dy, self.saved, plane, layout=self.layout)


@dataclass(eq=False, repr=False)
class Flatten(Layer):
    """All that belongs to a sample in one row: (N, C, H, W) becomes (N, C*H*W).

    In the order c, h, w under both layouts, so that the weights behind mean the same.
    """

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        if x.ndim < 2:
            raise ShapeError(f"x: got shape {x.shape}; must have at least two axes, N first")
        ordered = check.channels_first(x, self.layout) if x.ndim == 4 else x
        self.saved = ordered.shape
        return ordered.reshape(len(x), math.prod(x.shape[1:]))

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        dx = dy.reshape(self.saved)
        if dx.ndim == 4 and self.layout == "NHWC":
            return np.ascontiguousarray(dx.transpose(0, 2, 3, 1))
        return dx


@dataclass(eq=False, repr=False)
class Reshape(Layer):
    """Every sample in another shape, elements in NumPy's order: (N, ...) becomes (N, *shape).

    Parameters
    ----------
    shape : int or tuple of int
        Without N, in the network's layout; one extent may be -1, the rest of the elements.
    """

    shape: Any

    def __post_init__(self) -> None:
        shape = self.shape if isinstance(self.shape, (tuple, list)) else (self.shape,)
        self.shape = tuple(check.integer(n, "shape", -1) for n in shape)
        if 0 in self.shape or self.shape.count(-1) > 1:
            raise ShapeError(f"shape: got {self.shape}; must be extents of at least 1, at most one of them -1")

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = x.shape
        size, known = math.prod(x.shape[1:]), abs(math.prod(self.shape))
        if x.ndim < 1 or (size % known if -1 in self.shape else size != known):
            raise ShapeError(f"x: got shape {x.shape}; its samples must fill {self.shape}")
        return x.reshape(len(x), *(size // known if n == -1 else n for n in self.shape))

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return dy.reshape(self.saved)


@dataclass(eq=False, repr=False)
class Dense(Layer):
    """Every output a weighted sum of all inputs: ``y[n, k] = bias[k] + sum_c x[n, c] * w[k, c]``.

    Parameters
    ----------
    units : int
        K, the outputs of a sample.
    use_bias, initializer
        As in ``Conv2D``.

    Notes
    -----
    Parameters ``w``, (K, C), and ``bias``, (K,). Computed as a convolution of one image of N x 1 pixels and C channels
    with filters of 1 x 1, and its gradients: so the bytes are the same for any number of workers, which a BLAS does
    not promise.

    Examples
    --------
    >>> from fastconv import nn
    >>> layer = nn.Dense(1)
    >>> y = layer.forward([[1.0, 2.0]])
    >>> layer.parameters()["w"][...] = [[3.0, 4.0]]
    >>> layer.forward([[1.0, 2.0]])
    array([[11.]])
    """

    units: int
    use_bias: bool = True
    initializer: Any = He()  # noqa: RUF009 (frozen)

    axes = "N, C"
    shrinking = ("w",)

    def __post_init__(self) -> None:
        check.integer(self.units, "units", 1)
        check.check_flag(self.use_bias, "use_bias")
        self.initializer = as_initializer(self.initializer)

    def shapes(self, x_shape: Shape) -> dict[str, Shape]:
        w = (self.units, x_shape[1])
        return {"w": w, "bias": (self.units,)} if self.use_bias else {"w": w}

    def start(self, name: str, shape: Shape) -> np.ndarray:
        return self.initializer(shape, shape[1], shape[0], self.chance) if name == "w" else np.zeros(shape)

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = x
        if not len(x):
            return np.zeros((0, self.units), x.dtype)
        filters = self._arrays["w"][:, :, None, None]
        return conv2d(x[None, :, None], filters, self._arrays.get("bias"), layout="NHWC")[0, :, 0]

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        x, w = self.saved, self._arrays["w"]
        if not len(x):
            self.slopes = {name: np.zeros_like(a) for name, a in self._arrays.items()}
            return np.zeros_like(x)
        image, pixels, filters = x[None, :, None], dy[None, :, None], w[:, :, None, None]
        self.slopes = {"w": conv2d_weight_grad(image, pixels, filters.shape, layout="NHWC")[:, :, 0, 0]}
        if self.use_bias:
            self.slopes["bias"] = dy.sum(axis=0, dtype=np.float64).astype(dy.dtype)
        return conv2d_input_grad(pixels, filters, image.shape, layout="NHWC")[0, :, 0] if needs_dx else dy


@dataclass(eq=False, repr=False)
class Dropout(Layer):
    """In training every element is zero with probability ``rate``, the others are divided by ``1 - rate``.

    Afterwards the layer passes its input on. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", 2014.

    Parameters
    ----------
    rate : float, default 0.5
        At least 0, below 1.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        self.rate = real(self.rate, "rate", least=0.0, below=1.0)

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        if not training or self.rate == 0:
            self.saved = None
            return x
        kept = self.chance.random(x.shape, dtype=np.float32) >= self.rate
        self.saved = kept * x.dtype.type(1 / (1 - self.rate))
        return x * self.saved

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return dy if self.saved is None else dy * self.saved


@dataclass(eq=False, repr=False)
class BatchNorm2D(Layer):
    """Every channel shifted and scaled to mean ``beta`` and standard deviation ``gamma``, both learned.

    ``y = gamma * (x - mean) / sqrt(variance + eps) + beta``. In training mean and variance are those of the batch's
    channel over N, H and W, and running averages are kept; afterwards those are used, as ``mean`` and ``variance``.

    Parameters
    ----------
    momentum : float, default 0.9
        ``running = momentum * running + (1 - momentum) * batch``; the variance with divisor N*H*W - 1 there.
    eps : float, default 1e-5

    Notes
    -----
    Parameters ``gamma`` and ``beta``, (C,), which start at 1 and 0. With x' the normalised input and means over the
    channel, in training ``dx = gamma / sqrt(variance + eps) * (dy - mean(dy) - x' * mean(dy * x'))``. Sums run in
    double precision. Ioffe and Szegedy, "Batch Normalization", 2015.
    """

    momentum: float = 0.9
    eps: float = 1e-5

    axes = "N, C, H, W"
    statistics = ("mean", "variance")

    def __post_init__(self) -> None:
        self.momentum = real(self.momentum, "momentum", least=0.0, below=1.0)
        self.eps = real(self.eps, "eps", least=0.0)

    def shapes(self, x_shape: Shape) -> dict[str, Shape]:
        return dict.fromkeys(("gamma", "beta", *self.statistics), (x_shape[self.channel_axis],))

    def start(self, name: str, shape: Shape) -> np.ndarray:
        return np.ones(shape) if name in ("gamma", "variance") else np.zeros(shape)

    def _spread(self, channel: np.ndarray) -> np.ndarray:
        """A number per channel, to be combined with images."""
        return channel if self.layout == "NHWC" else channel[:, None, None]

    def _mean(self, x: np.ndarray) -> np.ndarray:
        axes = (0, 1, 2) if self.layout == "NHWC" else (0, 2, 3)
        return x.sum(axis=axes, dtype=np.float64) / max(x.size // max(x.shape[self.channel_axis], 1), 1)

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        a = self._arrays
        wide = x.astype(np.result_type(x.dtype, np.float32), copy=False)  # float16 could not hold squares
        mean, variance = a["mean"], a["variance"]
        batch = training and x.size > 0
        if batch:
            mean = self._mean(wide)
        centred = wide - self._spread(mean).astype(wide.dtype)
        if batch:
            variance = self._mean(centred * centred)
            count = x.size // len(variance)
            for name, found in (("mean", mean), ("variance", variance * (count / max(count - 1, 1)))):
                a[name][...] = self.momentum * a[name] + (1 - self.momentum) * found
        scale = (1 / np.sqrt(variance + self.eps)).astype(wide.dtype)
        normalised = centred * self._spread(scale)
        self.saved = normalised, scale, batch
        return (normalised * self._spread(a["gamma"]) + self._spread(a["beta"])).astype(x.dtype, copy=False)

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        normalised, scale, batch = self.saved
        count = max(dy.size // len(scale), 1) if len(scale) else 1
        along, aside = self._mean(dy * normalised), self._mean(dy)
        self.slopes = {"gamma": (along * count).astype(dy.dtype), "beta": (aside * count).astype(dy.dtype)}
        slope = self._spread(scale * self._arrays["gamma"])
        if not batch:
            return (dy * slope).astype(dy.dtype, copy=False)
        along, aside = along.astype(scale.dtype), aside.astype(scale.dtype)
        dx = slope * (dy - self._spread(aside) - normalised * self._spread(along))
        return dx.astype(dy.dtype, copy=False)
