"""Activations: layers without parameters that bend signals. All but Softmax work element by element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from fastconv.errors import ShapeError
from fastconv.nn.common import real
from fastconv.nn.layers import Layer

__all__ = ["Activation", "Identity", "LeakyReLU", "ReLU", "Sigmoid", "Softmax", "Tanh"]


@dataclass(eq=False, repr=False)
class Identity(Layer):
    """``y = x``."""

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        return x

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return dy


@dataclass(eq=False, repr=False)
class ReLU(Layer):
    """``y = max(x, 0)``; the slope at 0 counts as 0.

    Examples
    --------
    >>> from fastconv import nn
    >>> layer = nn.ReLU()
    >>> layer.forward([-1.0, 2.0]), layer.backward([3.0, 4.0])
    (array([0., 2.]), array([0., 4.]))
    """

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        y = np.maximum(x, 0)
        self.saved = y
        return y

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return dy * (self.saved > 0)


@dataclass(eq=False, repr=False)
class LeakyReLU(Layer):
    """``y = x`` above 0, ``slope * x`` elsewhere.

    Maas, Hannun and Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013.
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        self.slope = real(self.slope, "slope")

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = x
        return np.where(x > 0, x, x * x.dtype.type(self.slope))

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return np.where(self.saved > 0, dy, dy * dy.dtype.type(self.slope))


@dataclass(eq=False, repr=False)
class Sigmoid(Layer):
    """``y = 1 / (1 + exp(-x))``, without overflow at any x; slope ``y * (1 - y)``."""

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = expit(x)
        return self.saved

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return dy * self.saved * (1 - self.saved)


@dataclass(eq=False, repr=False)
class Tanh(Layer):
    """``y = tanh(x)``; slope ``1 - y**2``."""

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = np.tanh(x)
        return self.saved

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return dy * (1 - self.saved * self.saved)


@dataclass(eq=False, repr=False)
class Softmax(Layer):
    """``y_k = exp(x_k - m) / sum_j exp(x_j - m)`` over the classes or channels, m their largest.

    The classes are axis 1, in a network of layout NHWC the last axis of images. Every output depends on every input:
    ``dx_k = y_k * (dy_k - sum_j dy_j y_j)``.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.Softmax().forward([[1000.0, 1000.0]])
    array([[0.5, 0.5]])
    """

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        if x.ndim < 2:
            raise ShapeError(f"x: got shape {x.shape}; must have at least two axes (N, K)")
        axis = self.channel_axis if x.ndim == 4 else 1
        powers = np.exp(x - x.max(axis=axis, keepdims=True))
        self.saved = powers / powers.sum(axis=axis, keepdims=True)
        return self.saved

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        y = self.saved
        axis = self.channel_axis if y.ndim == 4 else 1
        return y * (dy - (dy * y).sum(axis=axis, keepdims=True))


@dataclass(eq=False, repr=False)
class Activation(Layer):
    """A function of your own: ``y = f(x)``, ``dx = dy * df(x)``, df the derivative at the layer's input.

    Parameters
    ----------
    f, df : callable
        Array to array of the same shape, element by element.

    Notes
    -----
    Networks with such a layer can't be saved: a file holds numbers, no code.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> square = nn.Activation(np.square, lambda x: 2 * x)
    >>> square.forward([3.0]), square.backward([1.0])
    (array([9.]), array([6.]))
    """

    f: Callable[[np.ndarray], Any]
    df: Callable[[np.ndarray], Any]

    def __post_init__(self) -> None:
        for name in ("f", "df"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name}: got {getattr(self, name)!r}; must be a function of an array")

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.saved = x
        return self._same_shape(self.f(x), x, "f")

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return dy * self._same_shape(self.df(self.saved), self.saved, "df")

    @staticmethod
    def _same_shape(result: Any, x: np.ndarray, name: str) -> np.ndarray:
        array = np.asarray(result)
        if array.shape != x.shape:
            raise ShapeError(f"{name}: gave shape {array.shape}; must keep the input's, {x.shape}")
        return array.astype(x.dtype, copy=False)
