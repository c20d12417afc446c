"""``fastconv filter``: an image file through a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastconv
from fastconv.cli import imagefile
from fastconv.cli.errors import CommandError

__all__ = ["filter_file", "parse_kernel"]

_MOST_TAPS = 1 << 24  # 128 MiB of float64


def filter_file(
    source: str, target: str, kernel: str, boundary: str, method: str, workers: int | None, explain: bool
) -> None:
    """Read, filter, write. CommandError for what can't be done."""
    taps = parse_kernel(kernel)
    pixels = imagefile.read(source)
    imagefile.check_output(target, pixels)
    planes = pixels if pixels.ndim == 3 else pixels[..., None]
    colours = planes.shape[2] - (planes.shape[2] in (2, 4))  # the last of two or four is alpha
    result = planes.copy()
    options: dict[str, Any] = {"axes": (0, 1), "boundary": boundary, "method": method, "workers": workers}
    try:
        image = planes[..., :colours]
        if explain:
            dtype = np.result_type(image.dtype, taps.dtype)
            print(fastconv.plan_correlate2d(image.shape, taps, dtype=dtype, **options).explain())
        filtered = fastconv.correlate2d(image, taps, dtype=pixels.dtype, overflow="saturate", **options)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise CommandError(str(error) or "not enough memory") from error
    result[..., :colours] = filtered
    imagefile.write(target, result.reshape(pixels.shape))


def parse_kernel(text: str) -> np.ndarray:
    """The array that ``--kernel`` describes: of integers where all taps are whole, and then the result is exact."""
    name, colon, argument = text.partition(":")
    if text.endswith(".npy"):
        return _load(text)
    if name == "gaussian" and colon:
        return _gaussian(argument)
    if name == "box" and colon:
        return _box(argument)
    if text == "sobel-x":
        return fastconv.sobel_kernel(1).astype(np.int8)
    if text == "sobel-y":
        return fastconv.sobel_kernel(0).astype(np.int8)
    if text == "laplacian":
        return fastconv.laplacian_kernel().astype(np.int8)
    raise CommandError(
        f"--kernel: got {text!r}; must be gaussian:SIGMA, box:SIZE, sobel-x, sobel-y, laplacian or FILE.npy"
    )


def _gaussian(argument: str) -> np.ndarray:
    try:
        sigma = float(argument)
    except ValueError:
        sigma = -1.0
    if not 0 <= sigma <= 500:
        raise CommandError(f"--kernel: got gaussian:{argument}; sigma must be a number of pixels from 0 to 500")
    return fastconv.gaussian_kernel(sigma)


def _box(argument: str) -> np.ndarray:
    try:
        size = int(argument)
    except ValueError:
        size = 0
    if not 1 <= size <= 4095:
        raise CommandError(f"--kernel: got box:{argument}; the size must be a whole number of pixels from 1 to 4095")
    return fastconv.box_kernel(size)


def _load(path: str) -> np.ndarray:
    try:
        taps = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise CommandError(f"--kernel: {path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise CommandError(f"--kernel: {path}: can't be read as an array: {error}") from error
    if not isinstance(taps, np.ndarray) or taps.ndim != 2 or not 1 <= taps.size <= _MOST_TAPS:
        shape = getattr(taps, "shape", None)
        raise CommandError(f"--kernel: {path}: got shape {shape}; must have two axes, and at least one tap")
    if taps.dtype.kind not in "biuf" or not np.isfinite(taps).all():
        raise CommandError(f"--kernel: {path}: got {taps.dtype}; must hold finite real numbers")
    return taps
