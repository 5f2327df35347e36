"""Decoded images of data sets: 8-bit colour or grey, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from vla.core.text import one_line
from vla.datasets.frames import DatasetError

# No camera's image is larger.
MOST_PIXELS = 100_000_000
_WHAT = {
    "1": "black and white alone, of 1 bit",
    "P": "with a palette",
    "PA": "with a palette",
    "LA": "with transparency",
    "La": "with transparency",
    "RGBA": "with transparency",
    "RGBa": "with transparency",
    "RGBX": "of four channels",
    "I": "of 32 bits a pixel, as depth has them",
    "F": "of floats, as depth has them",
    "CMYK": "in the colours of printing (CMYK)",
    "YCbCr": "in YCbCr",
    "LAB": "in Lab colours",
    "HSV": "in HSV colours",
}

# Kinds of 8 bits a value at most, which Pillow turns into RGB.
_CONVERTED = ("1", "P", "PA", "LA", "RGBA", "RGBX", "CMYK", "YCbCr", "RGB", "L")


def decode_image(
    source: bytes | Path, where: str, cure: str = "fetch it again", any_colors: bool = False
) -> np.ndarray:
    """An encoded image, or the file of one, as uint8 [H, W, 3].

    where: names it, cure: says what to do. any_colors: images with a palette, with transparency,
    which is dropped, or in the colours of printing are converted, as pictures of the web need it.
    Raises DatasetError where it cannot be read, or is of any other kind than 8-bit colour or grey.
    """
    if isinstance(source, Path) and not source.is_file():
        raise DatasetError(f"{where} cannot be read (it is missing or no file); {cure}")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            mode, (width, height) = opened.mode, opened.size
            if width * height > MOST_PIXELS:
                raise DatasetError(f"{where} has {width} x {height} pixels; leave it out")
            if any_colors and mode in _CONVERTED and _stored_bits(opened) <= 8:
                return np.asarray(opened.convert("RGB"))
            if mode in ("RGB", "L") and "transparency" not in opened.info:
                bits = _stored_bits(opened)
                if bits <= 8:
                    return np.asarray(opened.convert("RGB"))
                what = f"of {bits} bits a value"
            else:
                what = "of 16 bits a pixel, as depth has them" if mode.startswith("I;") else ""
                what = what or _WHAT.get(mode, "with transparency")
    except DatasetError:
        raise
    except Exception as error:
        # Decoders raise anything on damaged bytes.
        raise DatasetError(f"{where} cannot be read ({one_line(error)}); {cure}") from error
    raise DatasetError(
        f"{where} is {what}, not 8-bit colour or grey; convert the data set's images, or leave the "
        "camera out"
    )


def _stored_bits(image: ImageFile.ImageFile) -> int:
    """Bits of a value in the file: Pillow keeps the upper 8 of a 16-bit PNG."""
    if image.format == "PNG" and image.tile:
        raw = image.tile[0][3] if len(image.tile[0]) > 3 else ""
        raw = raw[0] if isinstance(raw, tuple) else raw
        if isinstance(raw, str) and ";16" in raw:
            return 16
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 8
