"""Rows of conversations as released sets have them, and those that can't be used."""

import json

import numpy as np
import pytest
from PIL import Image

from vla.core.findings import PROBLEM, WARNING
from vla.datasets.bad_rows import FORGIVEN
from vla.datasets.conversation_rows import read_row
from vla.datasets.conversations import LlavaConversations
from vla.datasets.dataset_check import check_conversations
from vla.datasets.frames import DatasetError

GENERATOR = np.random.default_rng(0)


def said(*pairs: tuple[str, str], names=("from", "value")) -> list[dict]:
    return [dict(zip(names, pair, strict=True)) for pair in pairs]


TALK = said(("human", "<image>\nWhat is it?"), ("gpt", "A cat."))
ASKED = (("What is it?", "A cat."),)


@pytest.mark.parametrize(
    ("row", "images", "turns"),
    [
        # LLaVA-1.5 mix665k, ShareGPT4V and Bunny; numbers as ids occur.
        ({"id": 7, "image": "coco/a.jpg", "conversations": TALK}, 1, ASKED),
        ({"id": "x", "model": "", "conversations": said(("human", "Hi"), ("gpt", "Ho"))}, 0,
         (("Hi", "Ho"),)),
        # LLaVA-OneVision and -NeXT-Interleave.
        ({"id": "b", "data_source": "s", "image": ["a.png", "b.png"], "conversations": said(
            ("human", "<image><image>\nCompare."), ("gpt", "Alike."), ("human", "Sure?"),
            ("gpt", "Yes."))}, 2, (("Compare.", "Alike."), ("Sure?", "Yes."))),
        # ShareGPT: an answer or the system first, a question last.
        ({"conversations": said(("gpt", "I am here."), ("human", "Hi"), ("gpt", "Ho"),
                                ("human", "And?"))}, 0, (("Hi", "Ho"),)),
        ({"messages": said(("system", "Be short."), ("user", "Hi"), ("assistant", "Ho"),
                           names=("role", "content"))}, 0, (("Be short.\nHi", "Ho"),)),
        # Messages in pieces, and an image as the whole question.
        ({"messages": [{"role": "user", "content": [{"type": "image"},
                                                    {"type": "text", "text": "What is it?"}]},
                       {"role": "assistant", "content": "A cat."}], "images": ["a.png"]}, 1, ASKED),
        ({"image": "a.png", "conversations": said(("human", "<image>"), ("gpt", "A cat."))}, 1,
         (("", "A cat."),)),
        ({"image": None, "conversations": said(("human", "Hi"), ("gpt", "Ho"))}, 0,
         (("Hi", "Ho"),)),
    ],
)  # fmt: skip
def test_rows_of_released_sets_are_read(tmp_path, row, images, turns):
    read = read_row(row, "here", tmp_path)
    assert len(read.images) == images and read.turns == turns
    assert all(path.parent in (tmp_path, tmp_path / "coco") for path in read.images)


HI = said(("human", "Hi"), ("gpt", "Ho"))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": "c"}, r"here \(c\): expected 'conversations'"),
        ("words", "here: expected 'conversations'"),
        ({"conversations": "words"}, "is no list"),
        ({"conversations": []}, "must take turns"),
        ({"conversations": HI[:1]}, "must take turns"),
        ({"conversations": HI[1:]}, "must take turns"),
        ({"conversations": [HI[0], HI[0], HI[1]]}, "must take turns"),
        ({"conversations": said(("human", "Hi"), ("bard", "Ho"))}, "must take turns"),
        ({"conversations": said(("human", "Hi"), ("gpt", 3))}, "a message is not text"),
        ({"conversations": said(("human", "Hi"), ("gpt", " "))}, "a message is empty"),
        ({"conversations": said(("human", "<image>"), ("gpt", "Ho"))}, "a message is empty"),
        ({"conversations": said(("human", "<image> Hi"), ("gpt", "Ho"))}, "there is no image"),
        ({"conversations": TALK, "image": ["a", "../b"]}, "not in"),
        ({"conversations": TALK + TALK, "image": "a"}, "2 times <image>, but there are 1 images"),
        ({"conversations": TALK, "video": "a.mp4"}, "it is about video"),
        ({"conversations": HI, "image": ["a"] * 65}, "65 images"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "a part of a message"),
    ],
)  # fmt: skip
def test_rows_of_another_shape_are_named(tmp_path, row, says):
    with pytest.raises(DatasetError, match=says):
        read_row(row, "here", tmp_path)


def write(folder, bad: set[int], count: int = 400) -> LlavaConversations:
    """Rows that say their number, some of them without their image."""
    Image.new("RGB", (4, 4)).save(folder / "there.png")
    rows = [
        {"image": "gone.png" if index in bad else "there.png",
         "conversations": said(("human", f"{index} ?"), ("gpt", "Yes."))}
        for index in range(count)
    ]  # fmt: skip
    (folder / "data.json").write_text(json.dumps(rows))
    return LlavaConversations(folder / "data.json", bad_share=0.05)


def numbers(data: LlavaConversations, indices) -> list[int]:
    return [int(data.sample(index, GENERATOR).turns[0][0].split()[0]) for index in indices]


def test_unusable_rows_are_named_and_replaced_by_rows_nearby(tmp_path, caplog):
    data = write(tmp_path, {3, 4, 5, 399})
    (tmp_path / "torn.png").write_bytes((tmp_path / "there.png").read_bytes()[:40])
    assert numbers(data, range(2, 8)) == [2, 7, 6, 6, 6, 7]
    assert numbers(data, [399, 398]) == [0, 398]
    assert numbers(data, [3]) == [7] and caplog.text.count("row 3: image") == 1
    assert "takes its place" in caplog.text and "row 399" in caplog.text


def test_too_many_unusable_rows_end_a_run_with_one_sentence(tmp_path):
    data = write(tmp_path, set(range(0, 400, 2)))
    with pytest.raises(DatasetError, match=rf"{FORGIVEN + 2} of \d+ rows drawn can't be used, more "
                       r"than bad_share 0\.05 allows, such as: .*row 0: image"):  # fmt: skip
        numbers(data, range(400))
    strict = LlavaConversations(tmp_path / "data.json", bad_share=0.0)
    assert numbers(strict, [1]) == [1]
    with pytest.raises(DatasetError, match="1 of 2 rows drawn can't be used"):
        strict.sample(0, GENERATOR)


def test_a_file_without_any_usable_row_ends_the_search(tmp_path):
    write(tmp_path, set(range(7)), 7)
    data = LlavaConversations(tmp_path / "data.json", bad_share=1.0)
    with pytest.raises(DatasetError, match="rows drawn can't be used"):
        data.sample(0, GENERATOR)


def test_the_check_tells_how_many_rows_are_unusable(tmp_path):
    write(tmp_path, {7})
    few = check_conversations(tmp_path / "data.json", seconds=60)
    assert "400 of them looked at" in few[0].message
    assert [found.level for found in few[1:]] == [WARNING] * 2 and "row 7" in few[2].message
    write(tmp_path, set(range(100, 200)))
    many = check_conversations(tmp_path / "data.json", seconds=60)
    assert many[1].level == PROBLEM and "100 of 400 can't be used" in many[1].message


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "LA", "L"])
def test_pictures_of_the_web_are_converted(tmp_path, mode):
    Image.new("RGB", (5, 3), (255, 0, 0)).convert(mode).save(
        tmp_path / "a", "TIFF" if mode == "CMYK" else "PNG"
    )
    row = {"image": "a", "conversations": TALK}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    (image,) = LlavaConversations(tmp_path / "data.jsonl").read(0).images
    assert image.shape == (3, 5, 3) and (mode in ("L", "LA") or image[0, 0, 0] > 200)
