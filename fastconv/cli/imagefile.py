"""Image files as arrays (H, W) or (H, W, channels) of uint8 or uint16, and back.

Pillow reads and writes, but cuts colours of 16 bits down to 8, without a word. These are read from PNG in two halves,
written to PNG here, and left to tifffile in TIFF.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastconv.cli.errors import CommandError, missing

__all__ = ["check_output", "read", "write"]

_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "JPEG": {"quality": 95},
}
_COLOURS = ("LA", "RGB", "RGBA")


def read(path: str) -> np.ndarray:
    """The pixels, upright: grey (H, W), with alpha (H, W, 2), colour (H, W, 3), with alpha (H, W, 4)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing("pillow") from error
    try:
        with Image.open(path) as image:
            return _pixels(image, path)
    except FileNotFoundError as error:
        raise CommandError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise CommandError(f"{path}: can't be read as an image: {error}") from error


def _pixels(image: Any, path: str) -> np.ndarray:
    from PIL import ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise CommandError(f"{path}: holds {frames} images; must hold one")
    arguments = image.tile[0][3] if image.tile else ""
    raw = arguments if isinstance(arguments, str) else str(arguments[0])
    if ";16" in raw and image.mode in _COLOURS:
        return _pixels16(image, raw, path)
    if image.mode in ("I;16", "I;16L", "I;16B") or (image.mode == "I" and ";16" in raw):
        return np.asarray(image).astype(np.uint16)
    upright = ImageOps.exif_transpose(image)
    if image.mode == "P" or "transparency" in image.info:
        grey, clear = image.mode in ("1", "L"), "transparency" in image.info
        upright = upright.convert(("LA" if grey else "RGBA") if clear else "RGB")
    elif image.mode == "1":
        upright = upright.convert("L")
    if upright.mode not in ("L", *_COLOURS):
        raise CommandError(f"{path}: has pixels of kind {image.mode}; must be grey or RGB, of 8 or 16 bits")
    return np.array(upright)


def _pixels16(image: Any, raw: str, path: str) -> np.ndarray:
    """Colours of 16 bits."""
    from PIL import Image

    if image.format == "TIFF":
        return _tifffile().imread(path)
    if image.format != "PNG" or raw not in ("RGB;16B", "RGBA;16B"):
        raise CommandError(f"{path}: has 16-bit pixels of kind {image.mode}, which can't be read from {image.format}")
    halves = []
    for order in ("16B", "16L"):  # Pillow keeps the high byte: taken for the other byte order, that is the low one
        with Image.open(path) as half:
            tiles: list[Any] = half.tile  # of codec, box, offset, arguments; a plain tuple before Pillow 11.1
            tiles[0] = getattr(tiles[0], "_make", tuple)((*tiles[0][:3], f"{image.mode};{order}"))
            halves.append(np.array(half))
    return halves[0].astype(np.uint16) << 8 | halves[1]


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise missing("tifffile") from error
    return tifffile


def check_output(path: str, pixels: np.ndarray) -> None:
    """Can these pixels go into such a file? Said before they are computed."""
    kind = _FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise CommandError(f"{path}: must end in {', '.join(_FORMATS)}")
    if pixels.dtype == np.uint16 and pixels.ndim == 3 and kind == "TIFF":
        _tifffile()
    if Path(path).is_dir():
        raise CommandError(f"{path}: is a folder")
    if not Path(path).parent.is_dir():
        raise CommandError(f"{path}: there is no folder {Path(path).parent}")
    if kind == "JPEG" and (pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,))):
        raise CommandError(f"{path}: JPEG holds neither 16 bits nor alpha; write PNG or TIFF")


def write(path: str, pixels: np.ndarray) -> None:
    """Write a file that ``check_output`` admits: beside it first, so that none is ever half there."""
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(beside, "xb") as file:
            _encode(file, pixels, _FORMATS[Path(path).suffix.lower()])
        os.replace(beside, target)
    except OSError as error:
        raise CommandError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _encode(file: BinaryIO, pixels: np.ndarray, kind: str) -> None:
    from PIL import Image

    deep = pixels.dtype == np.uint16
    if deep and kind == "PNG":
        file.write(_png16(pixels))
    elif deep and pixels.ndim == 3:
        alpha: dict[str, Any] = {"extrasamples": ["unassalpha"]} if pixels.shape[2] == 4 else {}
        _tifffile().imwrite(file, pixels, photometric="rgb", planarconfig="contig", compression="zlib", **alpha)
    else:
        Image.fromarray(pixels).save(file, kind, **_OPTIONS[kind])


def _png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, each row as its difference from the one above (PNG Specification, 2025)."""
    h, w = pixels.shape[:2]
    kind = {1: 0, 3: 2, 4: 6}[pixels.size // (h * w)]
    rows = np.ascontiguousarray(pixels, ">u2").reshape(h, -1).view(np.uint8)
    lines = np.full((h, 1 + rows.shape[1]), 2, np.uint8)  # filter 2: up
    lines[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
