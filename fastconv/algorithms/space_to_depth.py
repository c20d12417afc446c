"""A convolution at a stride of 2 as one at a stride of 1: the pixels of each parity become channels of their own.

With u = 2i + a and v = 2j + b the padded image x[c, u, v] is z[(a, b, c), i, j], half as high and wide, of four times
as many channels; a filter w[k, c, r, s] is likewise t[k, (a, b, c), i, j] with (R + 1) // 2 taps along an axis, zeros
where R is odd and the last one is missing. Then y is z convolved with t at a stride of 1; dx is the gradient by z, its
pixels put to their places. (W. Shi et al., Real-Time Single Image and Video Super-Resolution Using an
Efficient Sub-Pixel Convolutional Neural Network, 2016, call the way back a pixel shuffle.)

A rewrite that any algorithm may use; knows problems and arrays, no algorithm. It pays where channels are few: those of
all parities fill the lanes of a vector together.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from fastconv.algorithms import phases
from fastconv.problem import ConvProblem

__all__ = ["filters", "gather", "put_pixels", "rewritten"]

PARITIES = list(itertools.product((0, 1), (0, 1)))
"""(a, b) in the order of the channels."""


def rewritten(problem: ConvProblem) -> ConvProblem:
    """The problem at a stride of 1. Its image ends where x does, with its padding: beyond what windows reach, maybe."""
    taps = -(-problem.R // 2), -(-problem.S // 2)
    # With the padding after, or without where that crops the image: a gradient has all of its pixels.
    padded = [
        extent + before + max(after, 0)
        for extent, (before, after) in zip((problem.H, problem.W), problem.padding, strict=True)
    ]
    outputs = (problem.P, problem.Q)
    extents = [max(p + t - 1, -(-n // 2)) for p, t, n in zip(outputs, taps, padded, strict=True)]
    beyond = [p + t - 1 - n for p, t, n in zip(outputs, taps, extents, strict=True)]
    return replace(
        problem, C=4 * problem.C, H=extents[0], W=extents[1], R=taps[0], S=taps[1], stride=(1, 1),
        padding=((0, beyond[0]), (0, beyond[1])), boundary="constant", cval=0.0, layout="NCHW",
    )  # fmt: skip


def gather(problem: ConvProblem, x: np.ndarray, z: np.ndarray) -> None:
    """z of x, with its padding."""
    rows, columns = problem.rows(), problem.columns()
    for a, b, part in _parts(z):
        h, v = rows[a::2][: z.shape[2]], columns[b::2][: z.shape[3]]
        part[...] = 0
        place = part[:, :, : len(h), : len(v)]
        if problem.boundary != "constant":
            place[...] = x[:, :, h[:, None], v]
            continue
        if problem.cval != 0:
            place[...] = problem.compute_cval
        (i, h), (j, v) = _inside(h), _inside(v)
        if h.size and v.size:
            place[:, :, i : i + len(h), j : j + len(v)] = x[:, :, h[0] : h[-1] + 1 : 2, v[0] : v[-1] + 1 : 2]


def _parts(array: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """The channels of each parity."""
    return [(*parity, part) for parity, part in zip(PARITIES, np.split(array, 4, axis=1), strict=True)]


def _inside(index: np.ndarray) -> tuple[int, np.ndarray]:
    """Where the sources inside the image begin, and these: they count up by two."""
    places = np.flatnonzero(index >= 0)
    return (int(places[0]) if places.size else 0), index[places]


def put_pixels(problem: ConvProblem, dz: np.ndarray, dx: np.ndarray) -> None:
    """dx of dz: each parity's pixels to their places, and the padding cropped, or folded into what it repeats."""
    if problem.boundary != "constant":
        padded = np.empty((1, *problem.padded_shape[1:]), dx.dtype)
        for n in range(problem.N):
            for a, b, part in _parts(dz[n : n + 1]):
                place = padded[:, :, a::2, b::2]
                place[...] = part[:, :, : place.shape[2], : place.shape[3]]
            phases.fold(padded, problem, dx[n : n + 1])
        return
    (top, _), (left, _) = problem.padding
    for a, b, part in _parts(dz):
        i, j = max(-(-(top - a) // 2), 0), max(-(-(left - b) // 2), 0)
        place = dx[:, :, 2 * i + a - top :: 2, 2 * j + b - left :: 2]
        place[...] = part[:, :, i : i + place.shape[2], j : j + place.shape[3]]


def filters(w: np.ndarray, t: np.ndarray) -> None:
    """t of w."""
    t[...] = 0
    for a, b, part in _parts(t):
        taps = w[:, :, a::2, b::2]
        part[:, :, : taps.shape[2], : taps.shape[3]] = taps
