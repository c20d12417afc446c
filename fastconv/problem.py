"""What is to be computed, apart from the data: shapes, geometry, dtype, direction.

A problem is frozen and hashable, checks itself, and knows its output shape. It knows no array, no
machine and no algorithm. The rules for strides, paddings and output extents live here and nowhere else.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

import numpy as np

from fastconv.boundary import BOUNDARIES, boundary_index, most_repeats
from fastconv.errors import ShapeError

__all__ = [
    "ConvProblem", "Pads", "PoolProblem", "check_size", "effective_steps", "integer", "output_extent", "pair",
    "parse_padding", "transposed_padding",
]  # fmt: skip

Pads = tuple[tuple[int, int], tuple[int, int]]
"""((top, bottom), (left, right))"""

DIRECTIONS = ("forward", "input_grad", "weight_grad")
LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float64", "float16", "int64")
LARGEST_SIZE = 2**63 - 1  # bytes and elements that an index can count


def integer(value: object, name: str, least: int) -> int:
    """An integer option: TypeError if it isn't one, ShapeError below ``least``."""
    try:
        n = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: got {value!r}; must be an integer") from None
    if n < least:
        raise ShapeError(f"{name}: got {n}; must be at least {least}")
    return n


def _is_sequence(value: object) -> TypeGuard[Sequence | np.ndarray]:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def pair(value: object, name: str, least: int) -> tuple[int, int]:
    """An option that is an integer or one for each image axis."""
    if _is_sequence(value):
        if len(value) != 2:
            raise ShapeError(f"{name}: got {value!r}; must be an integer or a pair of integers")
        return integer(value[0], name, least), integer(value[1], name, least)
    n = integer(value, name, least)
    return n, n


def parse_padding(
    padding: object,
    extents: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Pads:
    """Padding in any of its public forms as ((top, bottom), (left, right)).

    "same" pads max((ceil(H / stride) - 1) * stride + dilation * (R - 1) + 1 - H, 0) in all, the odd
    pixel after ("same_lower": before); "full" pads dilation * (R - 1) on each side; "valid" nothing.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0), (0, 0))
        spans = [d * (r - 1) + 1 for d, r in zip(dilation, kernel, strict=True)]
        if padding == "full":
            return ((spans[0] - 1,) * 2, (spans[1] - 1,) * 2)
        if padding in ("same", "same_lower"):
            (top, bottom), (left, right) = (
                _same_pads(max((-(-h // s) - 1) * s + span - h, 0), padding == "same_lower")
                for h, s, span in zip(extents, stride, spans, strict=True)
            )
            return ((top, bottom), (left, right))
        raise ValueError(
            f"padding: got {padding!r}; must be 'valid', 'same', 'same_lower', 'full', an integer, (ph, pw) or "
            "((top, bottom), (left, right))"
        )
    if _is_sequence(padding):
        if len(padding) != 2:
            raise ShapeError(
                f"padding: got {padding!r}; must be an integer, (ph, pw) or ((top, bottom), (left, right))"
            )
        first, second = (pair(p, "padding", 0) for p in padding)
        return (first, second)
    n = integer(padding, "padding", 0)
    return ((n, n), (n, n))


def _same_pads(total: int, lower: bool) -> tuple[int, int]:
    less = total // 2
    return (total - less, less) if lower else (less, total - less)


def transposed_padding(
    padding: object,
    extents: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    output_padding: tuple[int, int],
) -> tuple[tuple[int, int], Pads]:
    """Output extents of a transposed convolution, and the paddings of the convolution it is the adjoint of.

    With numbers, "valid" and "full": (H - 1) * stride - top - bottom + dilation * (R - 1) + output_padding + 1;
    with "same" and "same_lower": H * stride (ONNX auto_pad). The padding after can come out negative:
    rows that no window reaches.
    """
    out, pads = [], []
    for axis in range(2):
        h, s, span = extents[axis], stride[axis], dilation[axis] * (kernel[axis] - 1) + 1
        reach = (h - 1) * s + span
        if padding in ("same", "same_lower"):
            extent = h * s
            before = _same_pads(max(reach + output_padding[axis] - extent, 0), padding == "same_lower")[0]
        else:
            before, after = parse_padding(padding, extents, kernel, stride, dilation)[axis]
            extent = reach + output_padding[axis] - before - after
        if extent < 1:
            raise ShapeError(
                f"padding: got {padding!r}; must leave an output extent of at least 1 in x of extents {extents} "
                f"with a kernel of {kernel} and stride {stride}, not {extent}"
            )
        out.append(extent)
        pads.append((before, reach - extent - before))
    return (out[0], out[1]), (pads[0], pads[1])


def output_extent(extent: int, pads: tuple[int, int], kernel: int, stride: int, dilation: int) -> int:
    """P = (H + top + bottom - dilation * (R - 1) - 1) // stride + 1; below 1 where the filter doesn't fit."""
    return (extent + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1


def effective_steps(
    extents: tuple[int, int],
    pads: Pads,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Stride and dilation without what makes no difference: beyond the padded image, and between taps of one.

    Any integer is a valid stride of a single window; what the kernels see fits an index.
    """
    steps = []
    for axis in range(2):
        padded = max(extents[axis] + sum(pads[axis]), 1)
        steps.append((min(stride[axis], padded), dilation[axis] if kernel[axis] > 1 else 1))
    return (steps[0][0], steps[1][0]), (steps[0][1], steps[1][1])


def check_size(name: str, shape: Sequence[int], itemsize: int = 8) -> None:
    """Refuse a shape whose bytes an index can't count."""
    if math.prod(max(int(n), 1) for n in shape) * itemsize > LARGEST_SIZE:
        raise ShapeError(f"{name}: a shape of {tuple(shape)} overflows the index type; must be below 2**63 bytes")


@dataclass(frozen=True)
class ConvProblem:
    """One 2-D convolution: y[n,k,p,q] = sum_{c,r,s} x[n, g*C/groups+c, p*sh+r*dh-top, q*sw+s*dw-left] * w[k,c,r,s].

    The geometry is that of the forward operation in every direction; ``direction`` says which of y
    ("forward"), x ("input_grad") and w ("weight_grad") is the result. ``dtype`` is the operands'; integers
    of every kind are "int64". A padding after may be negative in transposed convolutions (rows cropped).
    ``rank`` is the number of outer products that each filter is a sum of (fastconv.factors): None where
    nobody looked, 0 where they are too many. ``exact_in`` is the float dtype in which every sum of an integer problem
    is exact, as its values are small enough; None: not known, so int64 modulo 2**64.
    """

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: tuple[int, int] = (1, 1)
    padding: Pads = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    boundary: str = "constant"
    cval: float = 0.0
    layout: str = "NCHW"
    dtype: str = "float32"
    direction: str = "forward"
    rank: int | None = None
    exact_in: str | None = None

    def __post_init__(self) -> None:
        for name in ("K", "H", "W", "R", "S"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name}: got an extent of {getattr(self, name)}; only N and C may be 0")
        if self.C % self.groups or self.K % self.groups:
            raise ShapeError(
                f"groups: got {self.groups}; must divide the {self.C} input channels and the {self.K} output channels"
            )
        if self.P < 1 or self.Q < 1:
            span = [d * (r - 1) + 1 for d, r in zip(self.dilation, (self.R, self.S), strict=True)]
            raise ShapeError(
                f"w: a filter of {self.R}x{self.S} spans {span[0]}x{span[1]} pixels; must fit the padded image of "
                f"{self.H + sum(self.padding[0])}x{self.W + sum(self.padding[1])}"
            )
        for name in ("x_shape", "w_shape", "y_shape", "padded_shape"):
            check_size(name.removesuffix("_shape"), getattr(self, name))
        check_size("windows", (self.N, self.C, self.R, self.S, self.P, self.Q))

    # shapes

    @cached_property
    def P(self) -> int:
        return output_extent(self.H, self.padding[0], self.R, self.stride[0], self.dilation[0])

    @cached_property
    def Q(self) -> int:
        return output_extent(self.W, self.padding[1], self.S, self.stride[1], self.dilation[1])

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """In the order N, C, H, W whatever the layout, as are the others."""
        return self.N, self.C, self.H, self.W

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.K, self.P, self.Q

    @property
    def padded_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H + sum(self.padding[0]), self.W + sum(self.padding[1])

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """The shape of what this direction computes, N, C, H, W order."""
        return {"forward": self.y_shape, "input_grad": self.x_shape, "weight_grad": self.w_shape}[self.direction]

    # arithmetic

    @property
    def compute_dtype(self) -> str:
        """What the kernels compute in: float32 for float16; floats where they hold every integer, else modulo 2**64."""
        return self.exact_in or {"float16": "float32", "int64": "uint64"}.get(self.dtype, self.dtype)

    @property
    def compute_cval(self) -> float | int:
        """The constant as the kernels take it."""
        return int(self.cval) % 2**64 if self.compute_dtype == "uint64" else float(self.cval)

    @property
    def itemsize(self) -> int:
        return 4 if self.compute_dtype == "float32" else 8

    @cached_property
    def terms(self) -> int:
        """How many products are added up for one element of the result, at the most."""
        if self.direction == "forward":
            return self.C // self.groups * self.R * self.S
        if self.direction == "weight_grad":
            return self.N * self.P * self.Q
        taps = self.K // self.groups * self.R * self.S
        if self.boundary == "constant":
            return taps
        return taps * most_repeats(self.rows()) * most_repeats(self.columns())

    @cached_property
    def flops(self) -> int:
        """Two for each multiply-add of the direct sum."""
        return 2 * self.N * self.K * self.P * self.Q * (self.C // self.groups) * self.R * self.S

    def rows(self) -> np.ndarray:
        """Source row of every padded row (see fastconv.boundary)."""
        return boundary_index(self.H, *self.padding[0], self.boundary)

    def columns(self) -> np.ndarray:
        return boundary_index(self.W, *self.padding[1], self.boundary)

    # text

    @property
    def text(self) -> str:
        """One line that ``from_text`` reads back; defaults are left out."""
        sizes = f"n{self.N} c{self.C} h{self.H} w{self.W} k{self.K} r{self.R} s{self.S}"
        pads = self.padding
        square = len({*pads[0], *pads[1]}) == 1
        words = [
            sizes,
            "stride" + _numbers(self.stride, "x"),
            f"pad{pads[0][0]}" if square else "pad" + ",".join(str(p) for axis in pads for p in axis),
            "dil" + _numbers(self.dilation, "x"),
            f"g{self.groups}",
        ]
        defaults = {"boundary": "constant", "layout": "NCHW", "dtype": "float32", "direction": "forward"}
        words += [getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default]
        if self.cval != 0:
            words.append(f"cval{self.cval!r}")
        if self.rank is not None:
            words.append(f"rank{self.rank}")
        if self.exact_in is not None:
            words.append(f"in_{self.exact_in}")
        return " ".join(words)

    @classmethod
    def from_text(cls, line: str) -> ConvProblem:
        """Read a problem from one line, such as ``n1 c64 h56 w56 k64 r3 s3 stride1 pad1 dil1 g1 "name"``."""
        kinds = {"layout": LAYOUTS, "direction": DIRECTIONS, "boundary": BOUNDARIES, "dtype": DTYPES}
        names = {word: name for name, words in kinds.items() for word in words}
        fields: dict = {}
        for word in line.split('"')[0].split():
            if word in names:
                fields[names[word]] = word
                continue
            if word in ("in_float32", "in_float64"):
                fields["exact_in"] = word.removeprefix("in_")
                continue
            match = re.fullmatch(r"(stride|pad|dil|cval|rank|[nchwkrsg])([-\d].*|inf|nan)", word)
            key, value = match.groups() if match else ("", "")
            if key in tuple("nchwkrs"):
                fields[key.upper()] = int(value)
            elif key in ("stride", "dil"):
                first, _, second = value.partition("x")
                fields["stride" if key == "stride" else "dilation"] = (int(first), int(second or first))
            elif key == "pad":
                numbers = [int(v) for v in value.split(",")]
                top, bottom, left, right = numbers * 4 if len(numbers) == 1 else numbers
                fields["padding"] = ((top, bottom), (left, right))
            elif key == "g":
                fields["groups"] = int(value)
            elif key == "rank":
                fields["rank"] = int(value)
            elif key == "cval":
                fields["cval"] = int(value) if re.fullmatch(r"-?\d+", value) else float(value)
            else:
                raise ValueError(f"problem text: {word!r} in {line!r} is not understood")
        return cls(**fields)


def _numbers(values: tuple[int, int], mark: str) -> str:
    return str(values[0]) if values[0] == values[1] else mark.join(map(str, values))


@dataclass(frozen=True)
class PoolProblem:
    """One 2-D pooling: windows of R x S pixels, ``stride`` apart, over an H x W plane with ``padding``.

    ``ceil_mode`` admits a last window that juts out over the padded plane, as long as it starts inside
    the image or the padding before it (PyTorch's rule).
    """

    N: int
    C: int
    H: int
    W: int
    R: int
    S: int
    stride: tuple[int, int]
    padding: Pads = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        for name in ("H", "W", "R", "S"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name}: got an extent of {getattr(self, name)}; only N and C may be 0")
        if self.P < 1 or self.Q < 1:
            raise ShapeError(
                f"kernel_size: a window of {self.R}x{self.S} (dilation {self.dilation}) must fit the padded image of "
                f"{self.H + sum(self.padding[0])}x{self.W + sum(self.padding[1])}"
            )
        check_size("x", (self.N, self.C, self.H, self.W))
        check_size("padding", (self.N, self.C, self.H + sum(self.padding[0]), self.W + sum(self.padding[1])))
        check_size("y", (self.N, self.C, self.P, self.Q))
        for axis, (extent, windows) in enumerate(((self.H, self.P), (self.W, self.Q))):
            self._check_windows(axis, extent, windows)

    def _check_windows(self, axis: int, extent: int, windows: int) -> None:
        """Every window must hold a pixel. Only those at the two ends can miss the image, or step over it."""
        kernel, stride, dilation = (self.R, self.S)[axis], self.stride[axis], self.dilation[axis]
        before = self.padding[axis][0]
        # Taps no further apart than the image is long can't step over it: the first window decides.
        # Else what happens to a window repeats with its place modulo the dilation.
        period = dilation // math.gcd(stride, dilation) if dilation > extent else 1
        steps = min(-(-(before + 1) // stride) + 1, period)
        for i in itertools.chain(range(min(windows, steps)), [windows - 1]):
            first = i * stride - before  # the first tap; the first tap inside the image is the next one at or above 0
            skipped = max(0, -(first // dilation))
            if skipped >= kernel or first + skipped * dilation >= extent:
                raise ShapeError(
                    f"padding: got {self.padding[axis]} for axis {'HW'[axis]} of extent {extent}; window {i} would lie "
                    f"wholly in padding"
                )

    @cached_property
    def P(self) -> int:
        return self._extent(0, self.H, self.R)

    @cached_property
    def Q(self) -> int:
        return self._extent(1, self.W, self.S)

    def _extent(self, axis: int, extent: int, kernel: int) -> int:
        pads, stride, dilation = self.padding[axis], self.stride[axis], self.dilation[axis]
        if not self.ceil_mode:
            return output_extent(extent, pads, kernel, stride, dilation)
        ceil = -(-(extent + sum(pads) - dilation * (kernel - 1) - 1) // stride) + 1
        return ceil if (ceil - 1) * stride < extent + pads[0] else ceil - 1

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.P, self.Q
