"""Losses: how far predictions are from targets, and the gradient of that by the predictions.

A loss is called ``loss(predicted, target) -> (value, gradient)``. Targets have the shape of the predictions, or are
class indices, or leave out an axis of extent 1 (``as_target``).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from fastconv.errors import ShapeError
from fastconv.nn.activations import Sigmoid, Softmax
from fastconv.nn.common import as_floats
from fastconv.nn.layers import Layer
from fastconv.ops import arguments as check

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Loss", "MeanSquaredError", "as_target", "decide", "one_hot"]


def one_hot(labels: ArrayLike, classes: int) -> np.ndarray:
    """A row per label with a one in the label's place: ``y[..., k] = 1 if labels[...] == k else 0``.

    Parameters
    ----------
    labels : array_like of integers, any shape
        From 0 to classes - 1, else IndexError; TypeError if not integers.
    classes : int
        How many there are, at least 1.

    Returns
    -------
    ndarray, float64
        The shape of labels, then ``classes``.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.one_hot([2, 0], 3)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    indices = np.asarray(labels)
    classes = check.integer(classes, "classes", 1)
    if indices.size == 0:
        indices = indices.astype(np.int64)
    if indices.dtype.kind not in "biu":
        raise TypeError(f"labels: got dtype {indices.dtype}; must be integers")
    outside = (indices < 0) | (indices >= classes)
    if outside.any():
        raise IndexError(f"labels: got {indices[outside][0]}; must be from 0 to {classes - 1}")
    return (indices[..., None] == np.arange(classes)).astype(np.float64)


def as_target(target: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The target of predictions of this shape, in that shape.

    Class indices, (N,) or (N, 1), become one-hot rows where the predictions are (N, K), K > 1; (N,) becomes (N, 1).
    """
    array = check.as_operand(target, "y")
    if array.shape == shape:
        return array.astype(dtype, copy=False)
    if len(shape) == 2 and array.shape in ((shape[0],), (shape[0], 1)):
        if shape[1] == 1:
            return array.reshape(shape).astype(dtype, copy=False)
        if array.dtype.kind in "biu":
            return one_hot(array.reshape(-1), shape[1]).astype(dtype)
        raise TypeError(f"y: got dtype {array.dtype} in shape {array.shape}; class indices must be integers")
    indices = f", or class indices of shape ({shape[0]},)" if len(shape) == 2 else ""
    raise ShapeError(f"y: got shape {array.shape}; must be that of the predictions, {shape}{indices}")


def decide(predicted: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The class of every row: the column of the largest number; of a single column, 1 where above the threshold."""
    if predicted.ndim != 2:
        raise ShapeError(f"predictions: got shape {predicted.shape}; classes need two axes (N, K): end with Flatten")
    if predicted.shape[1] == 1:
        return (predicted[:, 0] > threshold).astype(np.int64)
    return predicted.argmax(axis=1)


class Loss:
    """Base of the losses."""

    fuses: ClassVar[type[Layer] | None] = None
    """A last layer whose gradient this loss takes together with its own, from the layer's input (``on_logits``)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __call__(self, predicted: ArrayLike, target: ArrayLike) -> tuple[float, np.ndarray]:
        raise NotImplementedError

    def on_logits(self, logits: ArrayLike, target: ArrayLike) -> tuple[float, np.ndarray]:
        """Value and gradient by what goes into the fused layer."""
        raise NotImplementedError

    def classes(self, target: np.ndarray) -> np.ndarray | None:
        """The class of every target, or None where they are no classes: here, unless all rows are one-hot."""
        if target.ndim != 2 or target.shape[1] == 1:
            return None
        if ((target == 0) | (target == 1)).all() and (target.sum(axis=1) == 1).all():
            return target.argmax(axis=1)
        return None


def _operands(predicted: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    """Both in at least float32, and the dtype for the gradient."""
    p = as_floats(predicted, "predicted")
    if p.size == 0:
        raise ShapeError(f"predicted: got shape {p.shape}; a mean needs at least one element")
    work = np.result_type(p.dtype, np.float32)
    return p.astype(work, copy=False), as_target(target, p.shape, work), p.dtype


class MeanSquaredError(Loss):
    """Mean over all elements: ``sum_i (p_i - t_i)**2 / n``; gradient ``2 * (p_i - t_i) / n``.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.MeanSquaredError()([[1.0, 2.0]], [[0.0, 0.0]])
    (2.5, array([[1., 2.]]))
    """

    def __call__(self, predicted: ArrayLike, target: ArrayLike) -> tuple[float, np.ndarray]:
        p, t, dtype = _operands(predicted, target)
        difference = p - t
        value = float(np.mean(difference * difference, dtype=np.float64))
        return value, (difference * (2 / p.size)).astype(dtype, copy=False)


class BinaryCrossEntropy(Loss):
    """Mean over samples: ``-sum_{n,k} (t log p + (1 - t) log(1 - p)) / N``, p a probability, t from 0 to 1.

    A logarithm counts as at least -100, so that a wrong certainty costs much but not infinity. After a last Sigmoid
    layer a network takes value and gradient, ``(p - t) / N``, from the layer's input instead, which is exact at any
    size. Predictions or targets outside 0 to 1: ValueError.

    Examples
    --------
    >>> from fastconv import nn
    >>> value, gradient = nn.BinaryCrossEntropy()([[0.5], [0.25]], [1, 0])
    >>> round(value, 6), gradient.ravel().round(6).tolist()
    (0.490415, [-1.0, 0.666667])
    """

    fuses = Sigmoid

    def __call__(self, predicted: ArrayLike, target: ArrayLike) -> tuple[float, np.ndarray]:
        p, t, dtype = _operands(predicted, target)
        _check_probabilities(p, "predicted", " (end the network with Sigmoid)")
        _check_probabilities(t, "y", "")
        with np.errstate(divide="ignore"):
            logs = t * np.maximum(np.log(p), -100) + (1 - t) * np.maximum(np.log1p(-p), -100)
        value = -float(logs.sum(dtype=np.float64)) / len(p)
        slope = (p - t) / np.maximum(p * (1 - p), np.finfo(p.dtype).eps ** 2)
        return value, (slope / len(p)).astype(dtype, copy=False)

    def on_logits(self, logits: ArrayLike, target: ArrayLike) -> tuple[float, np.ndarray]:
        z, t, dtype = _operands(logits, target)
        _check_probabilities(t, "y", "")
        costs = np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))
        value = float(costs.sum(dtype=np.float64)) / len(z)
        return value, ((expit(z) - t) / len(z)).astype(dtype, copy=False)

    def classes(self, target: np.ndarray) -> np.ndarray | None:
        return decide(target) if target.ndim == 2 and target.shape[1] == 1 else super().classes(target)


def _check_probabilities(values: np.ndarray, name: str, hint: str) -> None:
    outside = (values < 0) | (values > 1)
    if outside.any():
        raise ValueError(f"{name}: got {values[outside][0]:g}; must be probabilities from 0 to 1{hint}")


class CrossEntropy(Loss):
    """Mean over samples: ``-sum_{n,k} t_nk log softmax(z_n)_k / N``, from logits z of shape (N, K), K > 1.

    The gradient is ``(softmax(z_n)_k * sum_k t_nk - t_nk) / N``. Targets are class indices, one-hot rows or other
    distributions. A network that ends in Softmax hands over that layer's input, so the loss never sees a rounded
    probability; without one, the network's output is the logits.

    Examples
    --------
    >>> from fastconv import nn
    >>> value, gradient = nn.CrossEntropy()([[0.0, 0.0]], [1])
    >>> round(value, 6), gradient.tolist()
    (0.693147, [[0.5, -0.5]])
    """

    fuses = Softmax

    def __call__(self, predicted: ArrayLike, target: ArrayLike) -> tuple[float, np.ndarray]:
        shape = np.shape(predicted)
        if len(shape) != 2 or shape[1] < 2:
            raise ShapeError(
                f"predicted: got shape {shape}; must be logits (N, K) of at least two classes "
                "(Flatten brings images there; BinaryCrossEntropy takes one column)"
            )
        z, t, dtype = _operands(predicted, target)
        z = z - z.max(axis=1, keepdims=True)
        powers = np.exp(z)
        sums = powers.sum(axis=1, keepdims=True)
        weights = t.sum(axis=1, keepdims=True)
        # A class of weight zero costs nothing, even at -inf.
        logs = np.multiply(t, z - np.log(sums), out=np.zeros_like(z), where=t != 0)
        value = -float(logs.sum(dtype=np.float64)) / len(z)
        return value, ((powers / sums * weights - t) / len(z)).astype(dtype, copy=False)

    def on_logits(self, logits: ArrayLike, target: ArrayLike) -> tuple[float, np.ndarray]:
        return self(logits, target)

    def classes(self, target: np.ndarray) -> np.ndarray | None:
        return decide(target)
