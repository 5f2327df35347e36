"""Image preparation: one function for the robot, the dataset and evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from vla.contract.embodiment import CameraContract
from vla.contract.image_fit import prepare_image


def camera(width: int, height: int) -> CameraContract:
    return CameraContract("front", width, height, 0.25, "camera/front/image_raw")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_image_of_the_right_size_passes_untouched():
    image = picture(96, 96)
    assert prepare_image(image, camera(96, 96)) is image


@pytest.mark.parametrize("shape", [(96, 160), (160, 96)])
def test_the_centre_is_kept(shape):
    image = picture(*shape)
    expected = image[:, 32:128] if shape[1] == 160 else image[32:128]
    np.testing.assert_array_equal(prepare_image(image, camera(96, 96)), expected)


def test_reduction_averages_areas():
    image = picture(192, 288)
    blocks = image[:, 48:240].reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))
    reduced = prepare_image(image, camera(96, 96)).astype(float)
    assert np.abs(reduced - blocks).max() <= 1.0


def test_another_aspect_ratio_and_enlargement():
    image = picture(120, 120)
    prepared = prepare_image(image, camera(128, 96))
    assert prepared.shape == (96, 128, 3) and prepared.dtype == np.uint8
    flat = np.full((30, 40, 3), 77, np.uint8)
    assert (prepare_image(flat, camera(128, 96)) == 77).all()


@pytest.mark.parametrize(
    "image",
    [picture(96, 96).astype(np.float32), picture(96, 96)[..., 0], np.zeros((96, 96, 4), np.uint8)],
)
def test_other_kinds_of_image_are_refused(image):
    with pytest.raises(ValueError, match=r"camera 'front': expected uint8 \[H, W, 3\]"):
        prepare_image(image, camera(96, 96))
