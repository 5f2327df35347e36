"""Pixels of the images that cameras publish, by `cv_bridge` where ROS has it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
from sensor_msgs.msg import Image

from vla.observations.image_encodings import image_rows
from vla.observations.messages import image_to_array

try:
    import cv_bridge

    BRIDGE = cv_bridge.CvBridge()
    # Loads its compiled part, which may be missing or built for another NumPy.
    BRIDGE.encoding_to_cvtype2("rgb8")
except ImportError:
    BRIDGE = None


def image_pixels(message: Image) -> np.ndarray:
    """The image as uint8 [height, width, 3] in red, green, blue order.

    By `cv_bridge` where it can be imported and knows the encoding, else by `image_to_array`, with
    the same result. Raises ValueError that names the field that does not fit.
    """
    # An rgb8 image needs no conversion, so it is not copied.
    if BRIDGE is None or message.encoding == "rgb8":
        return image_to_array(message)
    big_endian = bool(message.is_bigendian)
    rows = image_rows(
        message.encoding, message.height, message.width, message.step, big_endian, message.data
    )
    # cv_bridge garbles rows whose padding is not whole pixels, and swaps bytes by a method that
    # NumPy 2 no longer has.
    packed = SimpleNamespace(
        encoding=message.encoding,
        height=message.height,
        width=message.width,
        step=rows.shape[1] * rows.itemsize,
        is_bigendian=sys.byteorder == "big",
        data=np.ascontiguousarray(rows),
    )
    try:
        return BRIDGE.imgmsg_to_cv2(packed, "rgb8")
    except (cv_bridge.CvBridgeError, LookupError):
        return image_to_array(message)
