"""ROS messages to arrays, without ROS: bad messages raise ValueError.

Messages only need the attributes of their `.msg`, so that a node's and those decoded from a bag are
read by the same code.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from vla.control.joint_states import named_positions
from vla.core.shown import brief
from vla.observations.image_encodings import decode_image, to_8_bit

NANOSECONDS = 1_000_000_000
# A compressed image that claims more is not decoded [px].
LARGEST_IMAGE = 50_000_000
# What Pillow raises for damaged files.
_BAD_FILE = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)


def image_to_array(message: Any) -> np.ndarray:
    """The image as uint8 [height, width, 3] in red, green, blue order.

    Takes the encodings of `vla.observations.image_encodings`, with or without padding at the ends
    of rows; an rgb8 image without padding is a read-only view of the message's data. Raises
    ValueError that names the field that does not fit.
    """
    return decode_image(
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
        message.data,
    )


def compressed_to_array(message: Any) -> np.ndarray:
    """A JPEG or PNG image as uint8 [height, width, 3]; raises ValueError when it is neither.

    16-bit grey becomes 8-bit as in `image_to_array`; a depth image is refused.
    """
    kind = brief(message.format)
    if message.format.startswith(("16UC1", "32FC1")):
        raise ValueError(
            f"the compressed image ({kind}) is a depth image: name the topic of the camera's "
            "colour images"
        )
    try:
        with PillowImage.open(io.BytesIO(bytes(message.data)), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise PillowImage.DecompressionBombError
            if image.mode.startswith("I"):
                grey = to_8_bit(np.asarray(image).clip(0, 65535))
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except PillowImage.DecompressionBombError as error:
        raise ValueError(f"the compressed image ({kind}) has too many pixels") from error
    except _BAD_FILE as error:
        raise ValueError(f"cannot decode the compressed image ({kind}) as JPEG or PNG") from error


def joint_positions(message: Any, names: Sequence[str]) -> np.ndarray:
    """The joints [len(names)] of a message: see named_positions()."""
    return named_positions(names, message.name, message.position)


def raw_pose(pose: Any) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and quaternion [4] as x y z w of a pose, unchecked."""
    place, turn = pose.position, pose.orientation
    return np.array([place.x, place.y, place.z]), np.array([turn.x, turn.y, turn.z, turn.w])


def pose_to_arrays(pose: Any) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and quaternion [4] as x y z w.

    Raises ValueError when a value is not finite or the quaternion is not of unit length.
    """
    position, quaternion = raw_pose(pose)
    if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
        raise ValueError(f"pose is not finite: {position.tolist()} {quaternion.tolist()}")
    if abs(np.linalg.norm(quaternion) - 1.0) > 1e-2:
        raise ValueError(f"quaternion is not of unit length: {quaternion.tolist()}")
    return position, quaternion


def stamp_to_nanoseconds(stamp: Any) -> int:
    """A stamp as whole nanoseconds, exact."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def serialized_stamp(data: bytes) -> int:
    """The stamp [ns] of a serialised message that begins with a header, without decoding it.

    Raises ValueError where the bytes are too few.
    """
    # CDR: four bytes, of which the second says little endian or not; then seconds, nanoseconds.
    if len(data) < 12:
        raise ValueError(f"a message of {len(data)} bytes has no header")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * NANOSECONDS + nanoseconds
