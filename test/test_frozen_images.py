"""A camera that is frozen: the arm moves and the image does not."""

import numpy as np

from vla.data.frozen_images import FrozenImages

STILL, MOVED = np.zeros(7), np.full(7, 0.06)
IMAGE, OTHER = bytes(100), bytes(99) + b"1"


def test_the_same_image_of_an_arm_that_moved_is_frozen_until_another_comes():
    camera = FrozenImages(0.05)
    assert not camera.is_frozen(IMAGE, STILL)
    assert camera.is_frozen(IMAGE, MOVED)
    assert camera.is_frozen(IMAGE, STILL), "it has moved, and come back"
    assert not camera.is_frozen(OTHER, STILL)
    assert not camera.is_frozen(OTHER, STILL + 0.04)


def test_an_arm_at_rest_and_images_that_change_are_as_they_should_be():
    camera = FrozenImages(0.05)
    assert not any(camera.is_frozen(IMAGE, STILL) for _ in range(100))
    for number in range(20):
        assert not camera.is_frozen(bytes([number]) * 100, MOVED * number)
