"""Random changes of training images, and labels that go with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vla.policies.augment import Augmentation, ImageTransform, draw_transform, transform_image
from vla.policies.instructvla.naming import name_cells
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.plain_text import TextTokenizer
from vla.policies.registry import preset
from vla.policies.tokenizer import train_tokenizer

NONE = ImageTransform((0.0, 0.0, 1.0), (0, 0), 1.0, 1.0, 1.0, 0.0)
STILL = Augmentation(1.0, 0, 0.0, 0.0, 0.0, 0.0)


def dot(x: int, y: int, size: int = 60) -> np.ndarray:
    image = np.zeros((size, size, 3), np.uint8)
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    return image


def center(image: torch.Tensor) -> tuple[float, float]:
    weights = image.float().mean(dim=0)
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    return float((weights * columns).sum() / weights.sum()), float(
        (weights * rows).sum() / weights.sum()
    )


@pytest.mark.parametrize(
    "change",
    [
        NONE,
        replace(NONE, shift=(3, -2)),
        replace(NONE, crop=(0.1, 0.05, 0.8)),
        replace(NONE, crop=(0.05, 0.1, 0.9), shift=(-4, 5)),
    ],
)
def test_pixels_go_where_the_image_takes_them(change):
    for x, y in ((30, 25), (20, 40)):
        moved = change.move(np.array([[x, y]]), 60)[0]
        np.testing.assert_allclose(center(transform_image(dot(x, y), change)), moved, atol=0.6)


def test_without_any_range_nothing_changes():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    change = draw_transform(STILL, np.random.default_rng(1))
    assert change == NONE
    np.testing.assert_array_equal(transform_image(image, change).permute(1, 2, 0), image)


def test_draws_stay_in_their_ranges_and_use_them():
    augmentation = Augmentation(0.81, 2, 0.2, 0.3, 0.4, 0.05)
    generator = np.random.default_rng(0)
    drawn = [draw_transform(augmentation, generator) for _ in range(300)]
    for name, limit in (("brightness", 0.2), ("contrast", 0.3), ("saturation", 0.4)):
        values = [getattr(change, name) - 1 for change in drawn]
        assert -limit <= min(values) < -0.8 * limit and 0.8 * limit < max(values) <= limit
    assert {change.shift[0] for change in drawn} == {-2, -1, 0, 1, 2}
    assert all(change.crop[2] == pytest.approx(0.9) for change in drawn)
    assert max(change.crop[0] for change in drawn) == pytest.approx(0.1, abs=0.01)
    assert max(abs(change.hue) for change in drawn) <= 2 * np.pi * 0.05


def test_colors():
    grey, red = np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    for change in (replace(NONE, saturation=0.5), replace(NONE, hue=1.0)):
        assert (transform_image(grey, change).int() - 100).abs().max() <= 1, "grey has no colour"
    assert (transform_image(grey, replace(NONE, brightness=1.2)) == 120).all()
    pale = transform_image(red, replace(NONE, saturation=0.0))
    assert (pale.int() - 60).abs().max() <= 1, "without colour its luma is left"
    turned = transform_image(red, replace(NONE, hue=2 * np.pi / 3))[:, 0, 0]
    assert turned.argmax() != 0, "a third of a turn is another colour"
    flat = transform_image(np.concatenate([grey[:2], grey[:2] + 80]), replace(NONE, contrast=0.0))
    assert (flat.int() - 140).abs().max() <= 1


# What image tokens show


def test_things_are_told_to_the_token_that_shows_them():
    sentences = ["a red block and a blue can in the bowl"] * 3
    tokenizer = TextTokenizer(train_tokenizer(sentences, 300))
    things = [{"red block": (5.0, 5.0), "blue can": (90.0, 50.0)}, {"bowl": (97.0, 3.0)}]
    cells = name_cells(tokenizer, things, 96, 36)
    words = ["block", "blue", "bowl", "can", "red"]
    for row, word in enumerate(words):
        ids = tokenizer.encode(text=word)
        assert (
            cells.words[row, : len(ids)].tolist() == ids
            and (cells.words[row, len(ids) :] < 0).all()
        )
    shown = {(image, cell, words[word]) for image, cell, word in cells.labels.nonzero().tolist()}
    assert shown == {(0, 0, "red"), (0, 0, "block"), (0, 23, "blue"), (0, 23, "can")}
    assert name_cells(tokenizer, [{}, {}], 96, 36) is None


def test_the_naming_loss_falls_as_tokens_become_their_words():
    torch.manual_seed(0)
    model = ReasoningModel(preset("test"))
    word_ids = torch.tensor([[10, 11], [12, -1]])
    labels = torch.zeros(1, 4, 2)
    labels[0, 1, 0] = labels[0, 2, 1] = 1.0
    tokens = torch.zeros(1, 4, 32)
    before = model.naming_loss(tokens, word_ids, labels)
    embedded = model.backbone.embed_text(torch.tensor([10, 11, 12])).detach()
    tokens[0, 1] = 3 * embedded[:2].mean(dim=0) / embedded[:2].mean(dim=0).norm() ** 2
    tokens[0, 2] = 3 * embedded[2] / embedded[2].norm() ** 2
    after = model.naming_loss(tokens, word_ids, labels)
    assert after < 0.5 * before
    tokens[0, [1, 2]] = tokens[0, [2, 1]]
    assert model.naming_loss(tokens, word_ids, labels) > before
