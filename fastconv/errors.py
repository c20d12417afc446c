"""The errors of the package's own; everything else is a built-in exception.

Knows nothing; anybody may import it.
"""

__all__ = ["ShapeError", "UnsupportedError"]


class ShapeError(ValueError):
    """An extent, stride, dilation or padding doesn't fit, or a size would overflow."""


class UnsupportedError(ValueError):
    """A method was named (or a limit set) that can't serve the problem; the message says why."""
