"""cv_bridge and the library's own conversion give the same pixels."""

from itertools import product

import numpy as np
import pytest
from sensor_msgs.msg import Image

from vla.observations.image_encodings import ENCODINGS
from vla.observations.messages import image_to_array
from vla_nodes.core.images import BRIDGE, image_pixels

needs_cv_bridge = pytest.mark.skipif(
    BRIDGE is None, reason="cv_bridge is not installed, and no wheel of ROS 2's exists"
)


def noise(encoding: str, height: int, width: int, padding: int = 0, big_endian: int = 0) -> Image:
    layout = ENCODINGS[encoding]
    step = layout.row(width) + padding
    generator = np.random.default_rng(height * width)
    data = generator.integers(0, 256, step * layout.rows(height), dtype=np.uint8)
    return Image(
        height=height, width=width, encoding=encoding, step=step, is_bigendian=big_endian,
        data=data.tobytes(),
    )  # fmt: skip


def even(encoding: str, side: str, size: int) -> int:
    return size + size % 2 if side in ENCODINGS[encoding].even else size


SIZES = [(3, 3), (7, 11), (48, 64)]


@needs_cv_bridge
def test_pixels_are_equal():
    for encoding, (height, width), padding, big_endian in product(
        sorted(ENCODINGS), SIZES, [0, 1, 4, 12], [0, 1]
    ):
        if ENCODINGS[encoding].wide and padding % 2:
            padding += 1
        size = even(encoding, "height", height), even(encoding, "width", width)
        message = noise(encoding, *size, padding, big_endian)
        pixels, case = image_pixels(message), (encoding, size, padding, big_endian)
        assert pixels.dtype == np.uint8 and pixels.shape == (*size, 3), case
        assert np.array_equal(pixels, image_to_array(message)), case


@needs_cv_bridge
def test_cv_bridge_alone_gives_the_librarys_pixels():
    for encoding, width in product(["rgb8", "bgr8", "rgba8", "bgra8", "mono8"], [5, 64]):
        message = noise(encoding, 7, width)
        pixels = BRIDGE.imgmsg_to_cv2(message, "rgb8")
        assert np.array_equal(pixels, image_to_array(message)), (encoding, width)


@pytest.mark.parametrize("encoding", ["bgr8", "mono16", "yuv422", "bayer_rggb8"])
def test_an_image_that_does_not_fit_is_refused_with_the_same_words(encoding):
    message = noise(encoding, 4, 6)
    message.data = message.data[:-1]
    with pytest.raises(ValueError, match=r"^data has ") as own:
        image_to_array(message)
    with pytest.raises(ValueError, match=r"^data has ") as other:
        image_pixels(message)
    assert str(own.value) == str(other.value)


def test_depth_is_refused():
    message = noise("mono16", 4, 6)
    message.encoding = "16UC1"
    with pytest.raises(ValueError, match="this is a depth image"):
        image_pixels(message)


def test_rgb8_is_not_copied():
    message = noise("rgb8", 4, 6)
    assert np.shares_memory(image_pixels(message), np.frombuffer(message.data, np.uint8))
