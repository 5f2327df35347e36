"""Turns that stand apart: several questions share an image, and none of them sees another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_backbones import CONFIGS

from vla.datasets.frames import DatasetError
from vla.datasets.sample import Conversation
from vla.policies.augment import Augmentation
from vla.policies.backbones import packs_turns
from vla.policies.collation import CollationOptions
from vla.policies.config import ChatFormat, LoraConfig
from vla.policies.instructvla.collation import InstructVLACollator
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.plain_text import TextTokenizer
from vla.policies.registry import preset
from vla.policies.sequence import IGNORE, IMAGE, PromptRow, collate, row_ids
from vla.policies.tokenizer import train_tokenizer

CONFIG = preset("test")
TURNS = (
    ("where is the red can ?", "the red can is on the left ."),
    ("what is red ?", "a red can and a red block ."),
    ("pick up the can", "pick up the red can ."),
)
TOKENIZER = train_tokenizer([" ".join(turn) for turn in TURNS] * 3, CONFIG.backbone.vocabulary)
TEXT = TextTokenizer(TOKENIZER)
APART = PromptRow(TURNS, apart=True)
ALONE = [PromptRow((turn,)) for turn in TURNS]


def losses(model, images, rows):
    """Sum of the loss over its tokens, and gradients."""
    batch = collate(TEXT, CONFIG.backbone, rows, 0)
    model.zero_grad()
    _, loss, _, _ = model(images, batch)
    total = loss * (batch.labels != IGNORE).sum()
    total.backward()
    return [total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("gate", ["sum", "layer", "two_pass"])
def test_they_are_learned_as_if_each_were_alone(gate):
    lora = LoraConfig(("language", "action"), rank=4, alpha=8.0, gate=gate, head_width=8)
    torch.manual_seed(0)
    model = ReasoningModel(replace(CONFIG, lora=lora)).eval()  # no dropout
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    other = PromptRow((("is the drawer open ?", "no ."),))
    # Beside a row of another kind, and of another length.
    packed = losses(model, images, [APART, other])
    copies = images[[0, 0, 0, 1]]
    torch.testing.assert_close(packed, losses(model, copies, [*ALONE, other]), rtol=1e-3, atol=1e-4)
    whole = losses(model, images, [replace(APART, apart=False), other])
    assert (packed[0] - whole[0]).abs() > 1e-3, "turns in a row see those before"


def test_the_images_are_there_once():
    ids, other = collate(TEXT, CONFIG.backbone, [APART, ALONE[0]], 0).ids
    assert (ids == IMAGE).sum() == CONFIG.backbone.image_tokens == (other == IMAGE).sum()
    assert collate(TEXT, CONFIG.backbone, ALONE, 0).turns is None


def test_those_without_room_are_left_out():
    lengths = [len(row_ids(TEXT, CONFIG.backbone, row, 0)[0]) for row in ALONE]
    before = row_ids(TEXT, CONFIG.backbone, ALONE[0], 0)[0].index(IMAGE)
    shared = before + CONFIG.backbone.image_tokens
    two = lengths[0] + lengths[1] - shared
    for most, kept in ((two - 1, 1), (two, 2), (two + 1, 2)):
        batch = collate(TEXT, CONFIG.backbone, [APART], 0, most)
        assert int(batch.turns.max()) == kept and batch.ids.shape[1] <= most
    one = collate(TEXT, CONFIG.backbone, [APART], 0, lengths[0] - 2)
    assert one.ids.shape[1] == lengths[0] - 2, "the first one is cut"
    with pytest.raises(DatasetError, match="raise max_tokens"):
        collate(TEXT, CONFIG.backbone, [APART], 0, shared)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("images", [0, 1])
def test_any_backbone_learns_from_them(kind, images):
    """In one row where its decoder can, else in a row for each."""
    backbone = replace(CONFIGS[kind], chat=ChatFormat())
    config = replace(CONFIG, backbone=backbone)
    words = train_tokenizer(["where is the can ?"], backbone.vocabulary)
    collator = InstructVLACollator(config, words, CollationOptions(Augmentation()))
    seen = (np.zeros((32, 32, 3), np.uint8),) * images
    talk = Conversation(seen, TURNS, apart=True)
    generator = np.random.default_rng(0)
    batch = collator.conversation_batch([talk, replace(talk, apart=False)], generator)
    torch.manual_seed(0)
    model = ReasoningModel(config)
    packs = packs_turns(backbone)
    assert not packs or model.backbone.takes_masks_as_given
    assert len(batch.text.ids) == (2 if packs else 4)
    assert len(batch.vlm_images) == len(batch.text.ids) * images
    assert int((batch.text.labels != IGNORE).sum()) % 2 == 0, "both have all answers"
    _, loss, _, _ = model(batch.vlm_images, batch.text)
    assert loss.isfinite()
