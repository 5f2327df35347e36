"""Images as model inputs: Pillow's resampling, level by level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vla.policies.augment import ImageTransform, transform_image
from vla.policies.images import fit_images, square_image, zoom_images

BICUBIC = Image.Resampling.BICUBIC
SIZES = (
    ((120, 160), (112, 112)),
    ((180, 320), (112, 112)),
    ((160, 120), (56, 56)),
    ((56, 56), (112, 112)),
    ((64, 80), (56, 56)),
    ((97, 131), (124, 100)),
    ((10, 300), (84, 84)),
    ((3, 5), (28, 28)),
    ((200, 90), (7, 90)),
    ((1, 1), (5, 9)),
    ((60, 80), (1, 1)),
)


def pictures(height: int, width: int) -> dict[str, np.ndarray]:
    """uint8 [H, W, 3] that resampling changes most, and noise."""
    generator = np.random.default_rng(height * width)
    places = np.indices((height, width))
    pixel = np.zeros((height, width), np.int64)
    pixel[height // 2, width // 2] = pixel[0, 0] = 255
    grey = {
        "checkerboard": places.sum(0) % 2 * 255,
        "bright pixels": pixel,
        "dark pixels": 255 - pixel,
        "edges": ((places[0] > height // 3) ^ (places[1] > width // 2)) * 255,
        "black and white": generator.integers(0, 2, (height, width)) * 255,
    }
    colour = {name: np.repeat(image[..., None], 3, 2) for name, image in grey.items()}
    colour["noise"] = generator.integers(0, 256, (height, width, 3))
    return {name: image.astype(np.uint8) for name, image in colour.items()}


def by_pillow(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Along the width, then along the height: the order of all Pillows before 13."""
    wide = Image.fromarray(image).resize((width, image.shape[0]), BICUBIC)
    return np.asarray(wide.resize((width, height), BICUBIC))


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_images_are_resampled_as_pillow_does(before, after):
    drawn = pictures(*before)
    batch = torch.from_numpy(np.stack(list(drawn.values()))).permute(0, 3, 1, 2)
    height, width = after
    given = fit_images(batch, width, height).permute(0, 2, 3, 1).numpy()
    for (name, image), fitted in zip(drawn.items(), given, strict=True):
        np.testing.assert_array_equal(fitted, by_pillow(image, width, height), err_msg=name)


def test_random_sizes_are_resampled_as_pillow_does():
    generator = np.random.default_rng(0)
    for _ in range(60):
        sizes = np.exp(generator.uniform(np.log(2), np.log(120), 4)).astype(int).tolist()
        image = generator.integers(0, 2, (*sizes[:2], 3)).astype(np.uint8) * 255
        fitted = fit_images(torch.from_numpy(image).permute(2, 0, 1)[None], *sizes[2:])
        wanted = by_pillow(image, *sizes[2:])
        np.testing.assert_array_equal(fitted[0].permute(1, 2, 0), wanted, err_msg=str(sizes))


def test_arrays_and_batches_are_resampled_alike():
    for image in pictures(48, 64).values():
        fitted = fit_images(torch.from_numpy(image).permute(2, 0, 1)[None], 40)[0]
        np.testing.assert_array_equal(square_image(image, 40), fitted.permute(1, 2, 0))
        assert square_image(image[:40, :40], 40).base is image


@pytest.mark.parametrize("shape", [(224, 224), (480, 640), (320, 240), (257, 387)])
def test_the_zoom_is_resizing_to_256_and_cropping_to_224(shape):
    """As torchvision cuts: int() of the long side, then round() of the margins."""
    height, width = shape
    size = (256, int(256 * width / height)) if height < width else (int(256 * height / width), 256)
    top, left = (round((side - 224) / 2) for side in size)
    image = pictures(*shape)["black and white"]
    wanted = by_pillow(image, size[1], size[0])[top : top + 224, left : left + 224]
    given = zoom_images(torch.from_numpy(image).permute(2, 0, 1)[None], 224)
    np.testing.assert_array_equal(given[0].permute(1, 2, 0), wanted)


def test_images_that_are_not_square_keep_their_size_when_changed():
    image = pictures(48, 64)["noise"]
    crop = ImageTransform((0.125, 0.25, 0.5), (0, 0), 1.0, 1.0, 1.0, 0.0)
    kept = by_pillow(np.ascontiguousarray(image[12:36, 8:40]), 64, 48)
    np.testing.assert_array_equal(transform_image(image, crop).permute(1, 2, 0), kept)
    shift = ImageTransform((0.0, 0.0, 1.0), (5, -3), 1.0, 1.0, 1.0, 0.0)
    moved = transform_image(image, shift).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(moved[:-3, 5:], image[3:, :-5])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same():
    for (height, width), after in SIZES:
        batch = torch.from_numpy(pictures(height, width)["black and white"]).permute(2, 0, 1)[None]
        on_gpu = fit_images(batch.cuda(), after[1], after[0])
        assert torch.equal(on_gpu.cpu(), fit_images(batch, after[1], after[0]))
