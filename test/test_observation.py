"""Image preparation: one function for the robot, the dataset and evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from vla.contract.embodiment import CameraContract
from vla.contract.image_fit import prepare_image


def camera(width: int, height: int, **more: str) -> CameraContract:
    return CameraContract("front", width, height, 0.25, "camera/front/image_raw", **more)


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


FRAMES = [(480, 640), (720, 1280), (640, 480)]


def quarters(height: int, width: int) -> np.ndarray:
    """A frame of four flat quarters between a bright rim of an eighth at each side."""
    frame = np.full((height, width, 3), 250, np.uint8)
    top, left = height // 8, width // 8
    for index, (y, x) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        rows = slice(top, height // 2) if y == 0 else slice(height // 2, height - top)
        columns = slice(left, width // 2) if x == 0 else slice(width // 2, width - left)
        frame[rows, columns] = 40 * (index + 1)
    return frame


@pytest.mark.parametrize("resampling", ["area", "lanczos"])
@pytest.mark.parametrize("shape", FRAMES)
def test_a_squashed_frame_is_there_whole(shape, resampling):
    frame = quarters(*shape)
    seen = prepare_image(frame, camera(64, 64, fit="squash", resampling=resampling))
    wanted = quarters(64, 64)
    for y, x in ((3, 3), (3, 60), (60, 30), (20, 20), (20, 44), (44, 20), (44, 44)):
        assert np.abs(seen[y, x].astype(int) - wanted[y, x]).max() <= 1


@pytest.mark.parametrize("shape", FRAMES)
def test_a_padded_frame_is_there_whole_and_undistorted(shape):
    height, width = shape
    seen = prepare_image(quarters(*shape), camera(64, 64, fit="pad"))
    inner = (round(64 * height / max(shape)), round(64 * width / max(shape)))
    top, left = (64 - inner[0]) // 2, (64 - inner[1]) // 2
    picture = seen[top : top + inner[0], left : left + inner[1]]
    squashed = camera(inner[1], inner[0], fit="squash")
    np.testing.assert_array_equal(picture, prepare_image(quarters(*shape), squashed))
    assert seen.sum() == picture.sum(), "bars are black"
    assert seen[32, left][0] == 250 and seen[top, 32][0] == 250


@pytest.mark.parametrize("shape", FRAMES)
def test_a_cropped_frame_loses_its_longer_sides(shape):
    height, width = shape
    side = min(shape)
    top, left = (height - side) // 2, (width - side) // 2
    middle = quarters(*shape)[top : top + side, left : left + side]
    for resampling in ("area", "lanczos"):
        wanted = prepare_image(middle, camera(64, 64, fit="squash", resampling=resampling))
        seen = prepare_image(quarters(*shape), camera(64, 64, resampling=resampling))
        np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 5)])
def test_frames_of_any_shape_fit(fit, shape):
    for width, height in ((64, 48), (1, 9), (64, 64)):
        seen = prepare_image(np.full((*shape, 3), 9, np.uint8), camera(width, height, fit=fit))
        assert seen.shape == (height, width, 3) and seen.max() == 9


@pytest.mark.parametrize(
    "image",
    [picture(96, 96).astype(np.float32), picture(96, 96)[..., 0], np.zeros((96, 96, 4), np.uint8)],
)
def test_other_kinds_of_image_are_refused(image):
    with pytest.raises(ValueError, match=r"camera 'front': expected uint8 \[H, W, 3\]"):
        prepare_image(image, camera(96, 96))
