"""Conversations that are cut to a number of tokens, and those whose images leave no room."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vla.datasets.frames import DatasetError
from vla.datasets.sample import Conversation
from vla.policies.augment import Augmentation
from vla.policies.checkpoint import open_checkpoint
from vla.policies.collation import TEXT_ROOM, CollationOptions, image_places
from vla.policies.instructvla.collation import InstructVLACollator
from vla.policies.plain_text import TextTokenizer
from vla.policies.sequence import IGNORE, IMAGE, PromptRow, collate, cut_row_ids, row_ids
from vla.training.batches import Mixture, StepDataset
from vla.training.config import TrainConfig

WORDS = "is the red block on the table beside the blue can and the green bowl"


@pytest.fixture(scope="module")
def made(checkpoint):
    return open_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def text(made):
    return TextTokenizer(made.tokenizer)


@pytest.mark.parametrize("images", [0, 1])
def test_as_many_whole_turns_stay_as_there_is_room_for(made, text, images):
    backbone = made.config.backbone
    turns = tuple((f"{WORDS} {number} ?", f"no , {WORDS} .") for number in range(4))
    row = PromptRow(turns, images=images)
    lengths = [
        len(row_ids(text, backbone, replace(row, turns=turns[:count]), 0)[0])
        for count in range(1, 5)
    ]
    for most in range(lengths[0], lengths[3] + 2):
        kept = sum(length <= most for length in lengths)
        wanted = row_ids(text, backbone, replace(row, turns=turns[:kept]), 0)
        assert cut_row_ids(text, backbone, row, most) == wanted


@pytest.mark.parametrize(("asked", "said"), [(1, 20), (20, 1), (20, 20), (20, 3)])
@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_single_turn_loses_words_of_its_question_and_then_of_its_answer(
    made, text, asked, said, images
):
    backbone = made.config.backbone
    row = PromptRow(((f"{WORDS} " * asked, f"{WORDS} " * said),), images=images)
    whole, _, _ = row_ids(text, backbone, row, 0)
    answer = row_ids(text, backbone, PromptRow((("", row.turns[0][1]),), images=0), 0)[1].count(
        True
    )
    most = images * (backbone.image_tokens + 2) + 60
    ids, labels, start = cut_row_ids(text, backbone, row, most)
    assert len(whole) > most >= len(ids) == len(labels) and start == -1
    assert ids.count(IMAGE) == images * backbone.image_tokens
    learned = labels.count(True)
    assert learned >= min(answer, most // 4)
    begins = labels.index(True)
    assert not any(labels[:begins]) and all(labels[begins:])
    assert (ids[-1] == whole[-1]) == (learned == answer), "an end token behind half an answer"
    assert ids[:begins].count(IMAGE) == ids.count(IMAGE)


def test_images_that_leave_no_room_are_refused(made, text):
    row = PromptRow(((WORDS, WORDS),), images=3)
    with pytest.raises(DatasetError, match="raise max_tokens"):
        cut_row_ids(text, made.config.backbone, row, 3 * made.config.backbone.image_tokens)


def test_a_batch_is_no_longer_than_allowed(made, text):
    rows = [PromptRow(((WORDS, f"{WORDS} " * 30),), images=0), PromptRow((("hi", "ho"),), images=0)]
    batch = collate(text, made.config.backbone, rows, 0, 50)
    assert batch.ids.shape == (2, 50) and int(batch.mask[0].sum()) == 50
    assert batch.labels[0, -1] == batch.ids[0, -1] and batch.labels[1, -1] == IGNORE


class Talks:
    """Row n has n images."""

    def __len__(self) -> int:
        return 5

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        image = np.full((9, 12, 3), 50 * index, np.uint8)
        return Conversation((image,) * index, ((f"{index} ?", "yes ."),), source=f"row {index}")


def test_the_next_conversation_takes_the_place_of_one_with_too_many_images(made):
    backbone = made.config.backbone
    config = TrainConfig(
        preset="test", batch_size=0, conversation_batch_size=64, stage="pretrain",
        max_tokens=TEXT_ROOM + 2 * backbone.image_tokens,
    )  # fmt: skip
    assert image_places(backbone, CollationOptions(most_tokens=config.max_tokens)) == 2
    assert image_places(backbone, CollationOptions()) > 100

    from vla.policies.robots import read_robots

    steps = StepDataset(
        None,
        Mixture([Talks()], [1.0]),
        made.tokenizer,
        read_robots(made.folder),
        made.config,
        config,
    )
    text = steps[0]["conversations"].text
    counts = (text.ids == IMAGE).sum(1) // backbone.image_tokens
    assert set(counts.tolist()) == {0, 1, 2}
    # Rows 3 and 4 give their places to row 0.
    assert (counts == 0).sum() > (counts == 1).sum()


def test_images_of_conversations_are_changed_only_where_asked(made):
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)
    talk = Conversation((image,), (("what is it ?", "a can ."),))

    def pixels(augmentation: Augmentation, seed: int) -> torch.Tensor:
        options = CollationOptions(augmentation)
        collator = InstructVLACollator(made.config, made.tokenizer, options)
        return collator.conversation_batch([talk], np.random.default_rng(seed)).vlm_images

    same = pixels(Augmentation(), 0)
    assert torch.equal(same, pixels(Augmentation(), 1))
    changed = [pixels(Augmentation(conversations=True), seed) for seed in range(2)]
    assert not torch.equal(changed[0], changed[1]) and not torch.equal(same, changed[0])
