"""Pixels of the encodings that cameras publish, as red, green and blue.

The arithmetic is exactly OpenCV's, and so that of `cv_bridge`: BT.601 with studio range for YUV,
bilinear interpolation for Bayer. A node converts by `cv_bridge` where it can be imported
(vla_nodes.core.images); a bag converted without ROS has the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla.core.shown import brief

# BT.601 from luma 16..235 and chroma 16..240, in units of 1 / 2**20.
_SHIFT = 20
_LUMA, _RED_V, _GREEN_U, _GREEN_V, _BLUE_U = 1220542, 1673527, -409993, -852492, 2116026


@dataclass(frozen=True)
class Encoding:
    """How the bytes of an image lie."""

    row: Callable[[int], int]  # bytes of `width` pixels
    rows: Callable[[int], int]  # rows of bytes for `height` lines, chroma included
    # Rows of bytes or 16-bit values, height and width to [height, width, 3].
    decode: Callable[[np.ndarray, int, int], np.ndarray]
    even: tuple[str, ...] = ()  # which of width and height must be even
    least: int = 1  # pixels of each side
    wide: bool = False  # values have two bytes
    padded: bool = False  # decode takes rows with the padding at their ends


def decode_image(
    encoding: str, height: int, width: int, step: int, big_endian: bool, data: bytes | memoryview
) -> np.ndarray:
    """Pixels as uint8 [height, width, 3], of any of `ENCODINGS`.

    step: bytes from one row to the next. big_endian: of 16-bit values. An rgb8 image without
    padding is a read-only view of data. Raises ValueError that names what does not fit, and for an
    unknown encoding the remedy.
    """
    values = image_rows(encoding, height, width, step, big_endian, data)
    layout = ENCODINGS[encoding]
    pixels = layout.decode(values, height, width)
    return to_8_bit(pixels) if layout.wide else pixels


def image_rows(
    encoding: str, height: int, width: int, step: int, big_endian: bool, data: bytes | memoryview
) -> np.ndarray:
    """Rows of uint8, or of uint16 in this machine's byte order for 16-bit encodings.

    Arguments and errors as in `decode_image`. Without padding, except nv24's.
    """
    if encoding not in ENCODINGS:
        raise ValueError(_unknown(encoding))
    layout = ENCODINGS[encoding]
    if height < layout.least or width < layout.least:
        raise ValueError(f"size is {width} x {height} pixels")
    for side in layout.even:
        if (size := {"width": width, "height": height}[side]) % 2:
            raise ValueError(f"{side} is {size} pixels; {encoding} images have an even {side}")
    row = layout.row(width)
    if step < row:
        raise ValueError(f"step is {step} bytes; a row of {width} {encoding} pixels has {row}")
    rows = layout.rows(height)
    if len(data) != step * rows:
        raise ValueError(
            f"data has {len(data)} bytes; {rows} rows of {step} bytes are {step * rows}"
        )
    lines = np.frombuffer(data, dtype=np.uint8).reshape(rows, step)
    if not layout.padded:
        lines = lines[:, :row]
    if not layout.wide:
        return lines
    values = np.ascontiguousarray(lines).view(">u2" if big_endian else "<u2")
    return values.astype(np.uint16)


def to_8_bit(values: np.ndarray) -> np.ndarray:
    """Values of 0..65535 as the nearest of 0..255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _unknown(encoding: str) -> str:
    shown = brief(encoding)
    known = ", ".join(ENCODINGS)
    cure = "set its driver to rgb8 or bgr8"
    if encoding.startswith(("16UC1", "32FC1")):
        cure = "this is a depth image: name the topic of the camera's colour images"
    elif encoding.startswith(("8UC3", "8UC4")):
        cure = f"{encoding[:4]} doesn't say in which order the colours are: {cure}"
    return f"encoding is {shown}; expected one of {known}; {cure}"


def _packed(channels: int, order: tuple[int, int, int], wide: bool = False) -> Encoding:
    """channels: of a pixel. order: which of them are red, green and blue."""

    def decode(values: np.ndarray, height: int, width: int) -> np.ndarray:
        pixels = values.reshape(height, width, channels)
        return pixels if order == (0, 1, 2) and channels == 3 else pixels[:, :, order]

    size = channels * (2 if wide else 1)
    return Encoding(lambda width: size * width, lambda height: height, decode, wide=wide)


def _bayer(red: tuple[int, int], wide: bool = False) -> Encoding:
    """red: row and column of the first red pixel; the blue one is diagonal to it."""

    def decode(values: np.ndarray, height: int, width: int) -> np.ndarray:
        return _demosaic(values, red)

    size = 2 if wide else 1
    return Encoding(lambda width: size * width, lambda height: height, decode, least=3, wide=wide)


def _demosaic(values: np.ndarray, red: tuple[int, int]) -> np.ndarray:
    """Colours [H, W, 3] of a mosaic [H, W] of the same type.

    Each is the rounded mean of the two or four nearest of its kind; the outermost pixels are those
    beside them.
    """
    wide = values.astype(np.uint32)
    inner = wide[1:-1, 1:-1]
    up, down, left, right = wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]
    corners = wide[:-2, :-2] + wide[:-2, 2:] + wide[2:, :-2] + wide[2:, 2:]
    diagonal = (corners + 2) >> 2
    cross = (up + down + left + right + 2) >> 2
    beside, above = (left + right + 1) >> 1, (up + down + 1) >> 1
    colours = np.empty((*inner.shape, 3), np.uint32)
    for row in (0, 1):
        for column in (0, 1):
            # Of the inner pixels, the first is row and column 1 of the image.
            own = (row + 1) % 2 == red[0], (column + 1) % 2 == red[1]
            at = (slice(row, None, 2), slice(column, None, 2))
            pixel: tuple[np.ndarray, np.ndarray, np.ndarray]
            if own == (True, True):
                pixel = inner, cross, diagonal
            elif own == (False, False):
                pixel = diagonal, cross, inner
            elif own[0]:
                pixel = beside, inner, above
            else:
                pixel = above, inner, beside
            for channel, value in enumerate(pixel):
                colours[(*at, channel)] = value[at]
    return np.pad(colours, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(values.dtype)


def _yuv_422(luma: int, u: int) -> Encoding:
    """Two pixels in four bytes. luma: place of the first Y. u: place of U; V is two behind it."""

    def decode(values: np.ndarray, height: int, width: int) -> np.ndarray:
        pairs = np.ascontiguousarray(values).reshape(height, width // 2, 4)
        brightness = pairs[:, :, luma::2]
        return _yuv(brightness, pairs[:, :, None, u], pairs[:, :, None, u + 2]).reshape(
            height, width, 3
        )

    return Encoding(lambda width: 2 * width, lambda height: height, decode, ("width",), 2)


def _yuv_420(u: int) -> Encoding:
    """Luma, then rows of U and V in turn for each two lines. u: place of U, 0 or 1."""

    def decode(values: np.ndarray, height: int, width: int) -> np.ndarray:
        blocks = values[:height].reshape(height // 2, 2, width // 2, 2)
        chroma = values[height:].reshape(height // 2, 1, width // 2, 1, 2)
        pixels = _yuv(blocks, chroma[..., u], chroma[..., 1 - u])
        return pixels.reshape(height, width, 3)

    both = ("width", "height")
    return Encoding(lambda width: width, lambda height: height * 3 // 2, decode, both, 2)


def _yuv_444() -> Encoding:
    """Luma, then U and V of each pixel, two rows' worth of bytes for each line."""

    def decode(values: np.ndarray, height: int, width: int) -> np.ndarray:
        chroma = values[height:].reshape(height, -1)[:, : 2 * width].reshape(height, width, 2)
        return _yuv(values[:height, :width], chroma[..., 0], chroma[..., 1])

    return Encoding(lambda width: width, lambda height: 3 * height, decode, padded=True)


def _yuv(luma: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colours [..., 3] of luma; u and v, of the same shape or broadcast to it."""
    brightness = _BRIGHTNESS[luma]
    colours = np.empty((*luma.shape, 3), np.uint8)
    of_v, of_u = v.astype(np.int32) - 128, u.astype(np.int32) - 128
    shares = _RED_V * of_v, _GREEN_U * of_u + _GREEN_V * of_v, _BLUE_U * of_u
    for channel, share in enumerate(shares):
        colours[..., channel] = np.clip((brightness + share) >> _SHIFT, 0, 255)
    return colours


# Of each luma, with half a unit for rounding.
_BRIGHTNESS = (np.maximum(np.arange(256) - 16, 0) * _LUMA + (1 << (_SHIFT - 1))).astype(np.int32)

# By the name that sensor_msgs/Image has; those of YUV are older and newer names of the same.
ENCODINGS: dict[str, Encoding] = {
    "rgb8": _packed(3, (0, 1, 2)),
    "bgr8": _packed(3, (2, 1, 0)),
    "rgba8": _packed(4, (0, 1, 2)),
    "bgra8": _packed(4, (2, 1, 0)),
    "mono8": _packed(1, (0, 0, 0)),
    "rgb16": _packed(3, (0, 1, 2), wide=True),
    "bgr16": _packed(3, (2, 1, 0), wide=True),
    "rgba16": _packed(4, (0, 1, 2), wide=True),
    "bgra16": _packed(4, (2, 1, 0), wide=True),
    "mono16": _packed(1, (0, 0, 0), wide=True),
    "uyvy": _yuv_422(1, 0),
    "yuv422": _yuv_422(1, 0),
    "yuyv": _yuv_422(0, 1),
    "yuv422_yuy2": _yuv_422(0, 1),
    "nv12": _yuv_420(0),
    "nv21": _yuv_420(1),
    "nv24": _yuv_444(),
    "bayer_rggb8": _bayer((0, 0)),
    "bayer_bggr8": _bayer((1, 1)),
    "bayer_gbrg8": _bayer((1, 0)),
    "bayer_grbg8": _bayer((0, 1)),
    "bayer_rggb16": _bayer((0, 0), wide=True),
    "bayer_bggr16": _bayer((1, 1), wide=True),
    "bayer_gbrg16": _bayer((1, 0), wide=True),
    "bayer_grbg16": _bayer((0, 1), wide=True),
}
