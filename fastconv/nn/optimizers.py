"""Optimisers: how far the parameters move, given their gradients.

``optimizer.step(parameters, gradients)`` changes the arrays in place: ``w -= change``. What an optimiser remembers
of an array (its moments, its count of steps) lives as long as the optimiser, so it carries over epochs and
repeated calls of ``fit`` with the same object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastconv.errors import ShapeError
from fastconv.nn.common import options_text, real

__all__ = ["SGD", "Adagrad", "AdagradMomentum", "Adam", "Momentum", "Optimizer", "RMSProp"]


class _Memory:
    """What an optimiser remembers of one parameter array."""

    def __init__(self, parameter: np.ndarray, gradient: np.ndarray, averages: int) -> None:
        self.parameter = parameter
        self.steps = 0
        self.averages = tuple(np.zeros_like(gradient) for _ in range(averages))


class Optimizer:
    """Base of the optimisers. A subclass says how many arrays it remembers and gives ``change``."""

    averages: ClassVar[int] = 0
    learning_rate: float

    def __post_init__(self) -> None:
        self._memories: dict[int, _Memory] = {}
        real(self.learning_rate, "learning_rate", least=0.0, below=math.inf)
        for name in ("momentum", "rho", "beta1", "beta2"):
            if hasattr(self, name):
                real(getattr(self, name), name, least=0.0, below=1.0)
        if hasattr(self, "eps"):
            real(self.eps, "eps", least=0.0)

    def __repr__(self) -> str:
        return options_text(self)

    def step(self, parameters: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]) -> None:
        """Move every parameter once, in place.

        Parameters
        ----------
        parameters, gradients : dict of arrays
            The same names and shapes in both, else ShapeError, before anything moves.
        """
        for name, parameter in parameters.items():
            if name not in gradients or gradients[name].shape != parameter.shape:
                got = gradients[name].shape if name in gradients else "none"
                raise ShapeError(f"gradients: got {got} for {name!r}; must have its shape, {parameter.shape}")
        for name, parameter in parameters.items():
            # float16 could hold neither the squares nor eps
            gradient = gradients[name].astype(np.result_type(parameter.dtype, np.float32), copy=False)
            memory = self._memories.get(id(parameter))
            if memory is None or memory.parameter is not parameter:
                memory = self._memories[id(parameter)] = _Memory(parameter, gradient, self.averages)
            memory.steps += 1
            parameter -= self.change(gradient, memory.steps, *memory.averages)

    def change(self, gradient: np.ndarray, steps: int, *averages: np.ndarray) -> np.ndarray:
        """What to subtract. ``steps`` counts from 1; ``averages`` start at zero and are updated in place."""
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class SGD(Optimizer):
    """Stochastic gradient descent at a constant rate: ``w -= learning_rate * g``.

    Robbins and Monro, "A Stochastic Approximation Method", 1951.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> w = np.array([1.0, 2.0])
    >>> nn.SGD(0.5).step({"w": w}, {"w": np.array([1.0, -1.0])})
    >>> w
    array([0.5, 2.5])
    """

    learning_rate: float = 0.01

    def change(self, gradient: np.ndarray, steps: int, *averages: np.ndarray) -> np.ndarray:
        return self.learning_rate * gradient


@dataclass(eq=False, repr=False)
class Momentum(Optimizer):
    """Heavy ball: ``v = momentum * v + learning_rate * g``, ``w -= v``.

    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """

    averages: ClassVar[int] = 1
    learning_rate: float = 0.01
    momentum: float = 0.9

    def change(self, gradient: np.ndarray, steps: int, *averages: np.ndarray) -> np.ndarray:
        (v,) = averages
        v *= self.momentum
        v += self.learning_rate * gradient
        return v


@dataclass(eq=False, repr=False)
class Adagrad(Optimizer):
    """Steps that shrink with all past gradients: ``s += g * g``, ``w -= learning_rate * g / (sqrt(s) + eps)``.

    Element by element. Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", 2011.
    """

    averages: ClassVar[int] = 1
    learning_rate: float = 0.01
    eps: float = 1e-8

    def change(self, gradient: np.ndarray, steps: int, *averages: np.ndarray) -> np.ndarray:
        (s,) = averages
        s += gradient * gradient
        return self.learning_rate * gradient / (np.sqrt(s) + self.eps)


@dataclass(eq=False, repr=False)
class AdagradMomentum(Optimizer):
    """Adagrad's steps on a heavy ball: ``v = momentum * v + learning_rate * g / (sqrt(s) + eps)``, ``w -= v``."""

    averages: ClassVar[int] = 2
    learning_rate: float = 0.01
    momentum: float = 0.9
    eps: float = 1e-8

    def change(self, gradient: np.ndarray, steps: int, *averages: np.ndarray) -> np.ndarray:
        s, v = averages
        s += gradient * gradient
        v *= self.momentum
        v += self.learning_rate * gradient / (np.sqrt(s) + self.eps)
        return v


@dataclass(eq=False, repr=False)
class RMSProp(Optimizer):
    """``s = rho * s + (1 - rho) * g * g``, ``w -= learning_rate * g / (sqrt(s) + eps)``, element by element.

    Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012.
    """

    averages: ClassVar[int] = 1
    learning_rate: float = 1e-3
    rho: float = 0.9
    eps: float = 1e-8

    def change(self, gradient: np.ndarray, steps: int, *averages: np.ndarray) -> np.ndarray:
        (s,) = averages
        s *= self.rho
        s += (1 - self.rho) * gradient * gradient
        return self.learning_rate * gradient / (np.sqrt(s) + self.eps)


@dataclass(eq=False, repr=False)
class Adam(Optimizer):
    """Averages of gradient and square, both freed of their start at zero.

    ``m = beta1 * m + (1 - beta1) * g``, ``s = beta2 * s + (1 - beta2) * g * g``, and at step t, counted over all
    updates, ``w -= learning_rate * m / (1 - beta1**t) / (sqrt(s / (1 - beta2**t)) + eps)``.

    Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015.
    """

    averages: ClassVar[int] = 2
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def change(self, gradient: np.ndarray, steps: int, *averages: np.ndarray) -> np.ndarray:
        m, s = averages
        m *= self.beta1
        m += (1 - self.beta1) * gradient
        s *= self.beta2
        s += (1 - self.beta2) * gradient * gradient
        rate = self.learning_rate / (1 - self.beta1**steps)
        return rate * m / (np.sqrt(s / (1 - self.beta2**steps)) + self.eps)
