"""ROS messages to arrays, without ROS: bad messages raise ValueError.

Messages are taken for the attributes of their `.msg`, so that those of a node and those decoded
from a bag are read by the same code.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as PillowImage

# Bytes per pixel, and which of them are red, green and blue.
_ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
NANOSECONDS = 1_000_000_000


def image_to_array(message: Any) -> np.ndarray:
    """The image as uint8 [height, width, 3] in red, green, blue order.

    Takes rgb8, bgr8, rgba8, bgra8 and mono8, with or without padding at the ends of rows; an rgb8
    image without padding is a read-only view of the message's data. Raises ValueError that names
    the field that does not fit.
    """
    if message.encoding not in _ENCODINGS:
        known = ", ".join(_ENCODINGS)
        raise ValueError(f"encoding is '{message.encoding}'; expected one of {known}")
    channels, order = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ValueError(f"size is {width} x {height} pixels")
    if step < width * channels:
        raise ValueError(
            f"step is {step} bytes; a row of {width} {message.encoding} pixels has "
            f"{width * channels}"
        )
    if len(message.data) != step * height:
        raise ValueError(
            f"data has {len(message.data)} bytes; {height} rows of {step} bytes are {step * height}"
        )
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(height, step)
    pixels = rows[:, : width * channels].reshape(height, width, channels)
    return pixels if message.encoding == "rgb8" else pixels[:, :, order]


def compressed_to_array(message: Any) -> np.ndarray:
    """A JPEG or PNG image as uint8 [height, width, 3]; raises ValueError when it is neither."""
    try:
        with PillowImage.open(io.BytesIO(bytes(message.data))) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot decode the compressed image ({message.format})") from error


def joint_positions(message: Any, names: Sequence[str]) -> np.ndarray:
    """Positions [len(names)] of the named joints, whatever their order in the message.

    Raises ValueError when one is missing or not finite.
    """
    if len(message.position) != len(message.name):
        raise ValueError(
            f"joint states have {len(message.name)} names and {len(message.position)} positions"
        )
    by_name = dict(zip(message.name, message.position, strict=True))
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(
            f"joint states lack {', '.join(missing)}; they have {', '.join(message.name)}"
        )
    positions = np.array([by_name[name] for name in names], dtype=np.float64)
    if not np.isfinite(positions).all():
        raise ValueError(f"joint states are not finite: {positions.tolist()}")
    return positions


def pose_to_arrays(pose: Any) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and quaternion [4] as x y z w.

    Raises ValueError when a value is not finite or the quaternion is not of unit length.
    """
    point, turn = pose.position, pose.orientation
    position = np.array([point.x, point.y, point.z])
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
        raise ValueError(f"pose is not finite: {position.tolist()} {quaternion.tolist()}")
    if abs(np.linalg.norm(quaternion) - 1.0) > 1e-2:
        raise ValueError(f"quaternion is not of unit length: {quaternion.tolist()}")
    return position, quaternion


def stamp_to_nanoseconds(stamp: Any) -> int:
    """A stamp as whole nanoseconds, exact."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def serialized_stamp(data: bytes) -> int:
    """The stamp [ns] of a serialised message that begins with a header, which is not decoded.

    Raises ValueError where the bytes are too few.
    """
    # CDR: four bytes, of which the second says little endian or not; then seconds, nanoseconds.
    if len(data) < 12:
        raise ValueError(f"a message of {len(data)} bytes has no header")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * NANOSECONDS + nanoseconds
