"""What lies beyond the edge of an image: each boundary as one index vector per axis.

``np.pad(x, (before, after), mode)`` equals ``x[index]`` with these vectors, where ``-1`` stands for
the constant ``cval``. Packing gathers through them; gradients scatter through them (their adjoint).
Pure index arithmetic: knows no image, no problem, no machine.
"""

from __future__ import annotations

import numpy as np

__all__ = ["BOUNDARIES", "boundary_edges", "boundary_index", "boundary_name", "most_repeats"]

BOUNDARIES = ("constant", "edge", "symmetric", "reflect", "wrap")

_ALIASES = {"nearest": "edge", "replicate": "edge", "mirror": "reflect", "circular": "wrap"}


def boundary_name(boundary: object) -> str:
    """The NumPy name of a boundary: one of BOUNDARIES, or an alias of one."""
    if isinstance(boundary, str):
        name = _ALIASES.get(boundary, boundary)
        if name in BOUNDARIES:
            return name
    known = ", ".join(map(repr, (*BOUNDARIES, *_ALIASES)))
    raise ValueError(f"boundary: got {boundary!r}; must be one of {known}")


def boundary_index(extent: int, before: int, after: int, boundary: str) -> np.ndarray:
    """Source index of every padded position: int64, length ``before + extent + after``.

    Entry i names the pixel that padded position i repeats, or is -1 where the constant stands.
    A negative ``after`` crops. ``extent`` is at least 1.

    >>> boundary_index(3, 2, 2, "reflect").tolist()
    [2, 1, 0, 1, 2, 1, 0]
    >>> boundary_index(3, 1, 2, "constant").tolist()
    [-1, 0, 1, 2, -1, -1]
    """
    return _source(np.arange(-before, extent + after, dtype=np.int64), extent, boundary)


def boundary_edges(extent: int, before: int, after: int, boundary: str) -> np.ndarray:
    """``boundary_index`` without the image itself: the ``before`` positions before it, then the ``after`` behind it."""
    i = np.arange(-before, max(after, 0), dtype=np.int64)
    i[before:] += extent
    return _source(i, extent, boundary)


def _source(i: np.ndarray, extent: int, boundary: str) -> np.ndarray:
    if boundary == "constant":
        i[(i < 0) | (i >= extent)] = -1
        return i
    if boundary == "edge":
        return i.clip(0, extent - 1)
    if boundary == "wrap":
        return i % extent
    if boundary == "symmetric":
        i %= 2 * extent
        return np.minimum(i, 2 * extent - 1 - i)
    period = max(2 * (extent - 1), 1)  # an image of one pixel reflects onto itself
    i %= period
    return np.minimum(i, period - i) if extent > 1 else i


def most_repeats(index: np.ndarray) -> int:
    """How often the most repeated source index occurs (0 for none): what a scatter can add up."""
    used = index[index >= 0]
    return int(np.bincount(used).max()) if used.size else 0
