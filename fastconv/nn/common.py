"""Checks that layers, losses and optimisers share."""

from __future__ import annotations

import math
import numbers
from dataclasses import MISSING, fields

import numpy as np

from fastconv.ops import arguments as check

__all__ = ["as_floats", "options_text", "real"]


def as_floats(value: object, name: str) -> np.ndarray:
    """An array of a native float dtype; integers and bool become float64."""
    array = check.as_operand(value, name)
    return check.normal(array, array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float64))


def real(value: object, name: str, least: float = -math.inf, below: float = math.inf) -> float:
    """A number option with ``least <= value < below``."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}; must be a real number")
    number = float(value)
    if not least <= number < below:
        limits = [f"at least {least:g}"] * (least > -math.inf) + [f"below {below:g}"] * (below < math.inf)
        raise ValueError(f"{name}: got {number:g}; must be {' and '.join(limits) or 'finite'}")
    return number


def options_text(thing: object) -> str:
    """A dataclass as its constructor call, defaults left out: "Conv2D(8, 3, padding='same')"."""
    words = []
    for option in fields(thing):  # type: ignore[arg-type]
        value = getattr(thing, option.name)
        if option.default is MISSING:
            words.append(repr(value))
        elif not np.array_equal(value, option.default):
            words.append(f"{option.name}={value!r}")
    return f"{type(thing).__name__}({', '.join(words)})"
