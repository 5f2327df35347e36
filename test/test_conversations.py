"""Conversations in LLaVA's format, and VLA-IT annotations."""

import json

import numpy as np
import pytest
from PIL import Image

from vla.datasets.conversations import LlavaConversations
from vla.datasets.frames import DatasetError
from vla.datasets.sample import Annotation
from vla.datasets.vla_it import read_vla_it

GENERATOR = np.random.default_rng(0)


def talk(*values, **entry) -> dict:
    speakers = ("human", "gpt") * len(values)
    turns = [{"from": s, "value": v} for s, v in zip(speakers, values, strict=False)]
    return {"conversations": turns, **entry}


@pytest.fixture
def entries(tmp_path):
    Image.fromarray(np.full((6, 9, 3), (200, 10, 30), np.uint8)).save(tmp_path / "red.png")
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.jpg")
    return [
        talk("<image>\nWhat color?", "Red.", "Sure?", "Yes.", image="red.png", id="a"),
        talk("What is 1 + 1?", "2", id="b"),
        talk("Describe.\n<image>", "Grey.", image="grey.jpg"),
    ]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_conversations_are_read_with_their_images(tmp_path, entries, kind):
    path = tmp_path / f"data.{kind}"
    text = json.dumps(entries) if kind == "json" else "\n".join(map(json.dumps, entries))
    path.write_text(text)
    data = LlavaConversations(path)
    assert len(data) == 3
    first, plain, grey = (data.sample(index, GENERATOR) for index in range(3))
    assert first.turns == (("What color?", "Red."), ("Sure?", "Yes."))
    assert first.images[0].shape == (6, 9, 3) and first.images[0][0, 0].tolist() == [200, 10, 30]
    assert first.source.endswith("row 0 (a)")
    assert plain.images == () and plain.turns == (("What is 1 + 1?", "2"),)
    assert grey.images[0].shape == (4, 4, 3) and grey.turns[0][0] == "Describe."


def test_images_may_lie_elsewhere(tmp_path, entries):
    (tmp_path / "texts").mkdir()
    path = tmp_path / "texts" / "data.json"
    path.write_text(json.dumps(entries))
    assert LlavaConversations(path, tmp_path).sample(0, GENERATOR).images
    with pytest.raises(DatasetError, match=r"row 0 \(a\): image .*red\.png cannot be read"):
        LlavaConversations(path).read(0)


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "data.json"
    with pytest.raises(DatasetError, match=r"cannot read .*data\.json: No such file"):
        LlavaConversations(path)
    for text, says in (
        ("{", "expected a list"),
        ("[1", "within its list"),
        ("[]", "holds no conv"),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=says):
            LlavaConversations(path)


# VLA-IT

PAIRS = [{"question": " lift it ", "answer": "Pick up the can."}]


def write(path, entry) -> str:
    path.write_text(json.dumps({"a/b.npy": {"7": entry}}))
    return str(path)


def test_annotations_by_file_and_episode(tmp_path):
    other = {"Caption": "A can.", "CR": PAIRS, "CC": [], "QA": PAIRS * 2}
    features = {"move_primitive": ["move up", None, ""]}
    entry = {"features": features, "alt_instruction": other}
    labels = read_vla_it(write(tmp_path / "x.json", entry))["a/b.npy", "7"]
    pair = ("lift it", "Pick up the can.")
    assert labels.annotation == Annotation("A can.", (pair, pair), (pair,), ())
    assert [labels.motion(frame) for frame in range(-1, 4)] == [None, "move up", None, None, None]


def test_episodes_without_other_words_have_no_annotation(tmp_path):
    labels = read_vla_it(write(tmp_path / "x.json", {"features": {"move_primitive": ["stop"]}}))
    assert labels["a/b.npy", "7"].annotation is None


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ([], "episode 7: expected a mapping, got list"),
        ({"features": {"move_primitive": "stop"}}, "move_primitive must be a list"),
        ({"alt_instruction": {"Caption": 3}}, "Caption must be text"),
        ({"alt_instruction": {"CR": [{"question": "x"}]}}, "CR 0: question and answer must be"),
        ({"alt_instruction": {"QA": ["x"]}}, "QA 0: expected a mapping, got str"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path, entry, says):
    with pytest.raises(DatasetError, match=says):
        read_vla_it(write(tmp_path / "x.json", entry))
    with pytest.raises(DatasetError, match=r"cannot read .*none\.json"):
        read_vla_it(tmp_path / "none.json")


def test_what_cannot_be_seen_is_read_as_its_escape(tmp_path):
    """Marks of a model's own format stay as they are: they are text to every tokenizer."""
    data = tmp_path / "data.json"
    data.write_text(json.dumps([talk("What\x1b[2K is\tit?\n<end>", "A \u202ecan.")]))
    turns = LlavaConversations(data).read(0).turns
    assert turns == (("What\\x1b[2K is\tit?\n<end>", "A \\u202ecan."),)

    pair = {"question": "pick\x00 it", "answer": "yes\u200b"}
    entry = {
        "features": {"move_primitive": ["up\x07", None]},
        "alt_instruction": {"Caption": "a\x9bcan", "QA": [pair]},
    }
    (labels,) = read_vla_it(write(tmp_path / "labels.json", entry)).values()
    assert labels.motions == ("up\\x07", "")
    assert labels.annotation.caption == "a\\x9bcan"
    assert labels.annotation.question_answers == (("pick\\x00 it", "yes\\u200b"),)
