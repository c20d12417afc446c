"""How weights start: random numbers whose spread keeps signals from growing or fading through the layers.

An initialiser is called ``initializer(shape, fan_in, fan_out, generator)`` with the number of inputs that one output
sums and of outputs that one input reaches. Numbers are drawn in float64, so that networks of all dtypes start alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastconv.nn.common import real

__all__ = ["Glorot", "He", "Initializer", "Uniform", "as_initializer"]


class Initializer:
    """Base of the initialisers."""

    def __call__(self, shape: tuple[int, ...], fan_in: int, fan_out: int, generator: np.random.Generator) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class He(Initializer):
    """Normal numbers of variance ``2 / fan_in``: keeps the signal's variance under ReLU.

    He, Zhang, Ren and Sun, "Delving Deep into Rectifiers", 2015.
    """

    def __call__(self, shape: tuple[int, ...], fan_in: int, fan_out: int, generator: np.random.Generator) -> np.ndarray:
        return generator.normal(0.0, math.sqrt(2 / max(fan_in, 1)), shape)


@dataclass(frozen=True)
class Glorot(Initializer):
    """Uniform numbers of variance ``2 / (fan_in + fan_out)``: signals and gradients both, under tanh.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """

    def __call__(self, shape: tuple[int, ...], fan_in: int, fan_out: int, generator: np.random.Generator) -> np.ndarray:
        limit = math.sqrt(6 / max(fan_in + fan_out, 1))
        return generator.uniform(-limit, limit, shape)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform numbers between ``-limit`` and ``limit``, by default ``1 / sqrt(fan_in)``."""

    limit: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None:
            real(self.limit, "limit", least=0.0)

    def __call__(self, shape: tuple[int, ...], fan_in: int, fan_out: int, generator: np.random.Generator) -> np.ndarray:
        limit = 1 / math.sqrt(max(fan_in, 1)) if self.limit is None else self.limit
        return generator.uniform(-limit, limit, shape)


_NAMES: dict[str, type[Initializer]] = {"he": He, "glorot": Glorot, "uniform": Uniform}


def as_initializer(value: object) -> Initializer:
    """An initialiser, or the lower-case name of one."""
    if isinstance(value, Initializer):
        return value
    if isinstance(value, str) and value in _NAMES:
        return _NAMES[value]()
    raise TypeError(f"initializer: got {value!r}; must be He(), Glorot(), Uniform(), or {', '.join(map(repr, _NAMES))}")
