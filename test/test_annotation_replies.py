"""Prompts, what models reply, records of it, and what annotating would cost."""

from __future__ import annotations

import copy
import json
import re

import pytest
from chat_server import GOOD

from vla.annotation.endpoint import EndpointConfig
from vla.annotation.estimate import (
    annotation_tokens,
    cost_of,
    estimate,
    image_tokens,
    is_local,
)
from vla.annotation.prompts import DEFAULT_PROMPT, PromptError, read_prompt
from vla.annotation.records import (
    REJECTED,
    Entry,
    Record,
    Records,
    entries_of,
    read_records,
    write_annotations,
)
from vla.annotation.replies import REPLY_SCHEMA, PairCounts, read_reply
from vla.annotation.run import Annotator
from vla.annotation.schema import ReplyError
from vla.core.resources import shared_file
from vla.datasets.frames import DatasetError
from vla.datasets.sample import Annotation
from vla.datasets.vla_it import read_vla_it


def changed(**entries: object) -> str:
    return json.dumps(copy.deepcopy(GOOD) | entries)


def pairs(*texts: tuple[str, str]) -> list[dict[str, str]]:
    return [{"question": question, "answer": answer} for question, answer in texts]


def test_a_good_reply_is_an_annotation():
    made = read_reply(json.dumps(GOOD), "pick the can")
    assert made.caption == GOOD["caption"]
    assert made.question_answers[1] == ("How many plates are there?", "There is one.")
    assert len(made.command_rewrites) == 3 and made.contexts[0][0] == "I am thirsty."
    assert read_reply(f"```json\n{json.dumps(GOOD, indent=1)}\n```", "pick the can") == made
    spaced = changed(caption="  A table \n with a   can. ")
    assert read_reply(spaced, "pick the can").caption == "A table with a can."


TWO = pairs(("Grab it.", "I will pick up the can."), ("Fetch it.", "I will pick up the can."))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("I am sorry, I cannot see images.", "not valid JSON"),
        (json.dumps(GOOD)[:-40], "not valid JSON"),
        ("[" * 100_000, "more than 64 deep"),
        ("[]", "the reply must be of type object, it is list"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "contexts"}), "lacks 'contexts'"),
        (changed(notes="x"), "unknown entry 'notes'"),
        (changed(caption=None), "caption must be of type string, it is null"),
        (changed(contexts="none"), "contexts must be of type array, it is str"),
        (changed(contexts=["a"]), r"contexts\[0\] must be of type object, it is str"),
        (changed(contexts=[{"question": "a"}]), r"contexts\[0\] lacks 'answer'"),
        (changed(contexts=[{"question": 1, "answer": "b"}]), r"contexts\[0\].question must be of"),
        (changed(caption=""), "caption is empty"),
        (changed(caption="A robot arm above a table."), r"mentions the robot \('robot'\)"),
        (changed(caption="A table below an open gripper."), r"mentions the robot \('gripper'\)"),
        (changed(caption="In the first image a can stands there."), "speaks of 'first image'"),
        (changed(caption="can " * 200), "at most 600"),
        (changed(contexts=[]), "contexts has 0 entries, 3 are wanted"),
        (changed(contexts=pairs(*((f"I am {n}.", "ok") for n in range(7)))), "has 7 entries"),
        (changed(command_rewrites=[*TWO, TWO[0]]), r"command_rewrites\[2\] repeats .*\[0\]"),
        (changed(contexts=[TWO[0]], command_rewrites=TWO), r"contexts\[0\] repeats command_"),
        (changed(command_rewrites=pairs(("Pick the CAN!", "ok"), ("a", "b"))), "the instruction"),
        (changed(contexts=pairs(("...", "ok"))), r"contexts\[0\]: question is empty"),
        (changed(contexts=pairs(("Yes.", "yes"))), "question and answer are the same"),
        (changed(contexts=pairs(("a", "b " * 200))), "answer has 399 characters"),
    ],
)
def test_an_unusable_reply_is_refused_with_the_reason(text, says):
    with pytest.raises(ReplyError, match=says):
        read_reply(text, "pick the can")


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ReplyError) as refused:
        read_reply(changed(caption="The robot.", contexts=[]), "pick the can")
    assert str(refused.value).count(";") == 2


def test_the_schema_that_is_sent_is_strict():
    def objects(schema: dict):
        if schema["type"] == "object":
            yield schema
        for inner in [*schema.get("properties", {}).values(), schema.get("items")]:
            if inner:
                yield from objects(inner)

    found = list(objects(REPLY_SCHEMA))
    assert len(found) == 4
    for schema in found:
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"])


# Prompts


def test_the_shipped_prompt_is_filled_in():
    prompt = read_prompt(shared_file(DEFAULT_PROMPT))
    annotator = Annotator(prompt, EndpointConfig("http://x", "m"), PairCounts(5, 6, 7))
    system, user = annotator.texts("pick the {can}", 3)
    assert '"pick the {can}"' in user and not re.search(r"\{(?!can)\w+\}", user)
    for text in ("The 3 images", "5 questions", "6 times", "7 things"):
        assert text in user
    for name in REPLY_SCHEMA["properties"]:
        assert f'"{name}"' in user
    assert system and len(prompt.version) == 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# system\nBe exact.\n", "just two parts"),
        ("Hello\n# system\na\n# user\n{instruction}\n", "just two parts"),
        ("# system\na\n# user\n{instruction}\n# user\nb\n", "just two parts"),
        ("# system\n\n# user\n{instruction}\n", "a part is empty"),
        ("# system\na\n# user\n{instruction} {camera}\n", r"nothing fills in \{camera\}"),
        ("# system\n{instruction}\n# user\na\n", r"the user's part needs \{instruction\}"),
    ],
)
def test_a_faulty_prompt_is_refused(tmp_path, text, says):
    (tmp_path / "mine.md").write_text(text)
    with pytest.raises(PromptError, match=says):
        read_prompt(tmp_path / "mine.md")
    with pytest.raises(PromptError, match=r"cannot read .*none\.md: No such file"):
        read_prompt(tmp_path / "none.md")


def test_a_prompt_of_ones_own_has_its_own_version(tmp_path):
    path = tmp_path / "mine.md"
    path.write_text('# system\nReply as {"caption": "..."}.\n# user\nTask: {instruction}\n')
    first = read_prompt(path)
    assert first.filled({"instruction": "go"})[0] == 'Reply as {"caption": "..."}.'
    path.write_text(path.read_text() + "Be brief.\n")
    assert read_prompt(path).version != first.version


# Records

ANNOTATION = Annotation("A can there.", (("How many?", "One."),), (("Grab it.", "I will."),), ())


def record(episode: int, **changes) -> Record:
    entries = entries_of(ANNOTATION)
    values = {"instruction": "pick", "data": "d", "entries": entries, "source": {}, "made": "m"}
    return Record(episode, **values | changes)


def test_records_come_back_and_the_last_one_of_an_episode_counts(tmp_path):
    (tmp_path / "meta").mkdir()
    with Records(tmp_path) as records:
        records.add(record(0))
        records.add(record(1, usage={"input_tokens": 3}))
        records.add(record(0, made="other"))
    there = read_records(tmp_path)
    assert there == {0: record(0, made="other"), 1: record(1, usage={"input_tokens": 3})}
    assert there[0].annotation() == ANNOTATION
    assert list(there[0].named_entries()) == ["Caption", "QA 1", "CR 1"]


def test_a_line_that_a_crash_cut_short_is_lost_alone(tmp_path):
    (tmp_path / "meta").mkdir()
    with Records(tmp_path) as records:
        for episode in range(3):
            records.add(record(episode))
    whole = records.path.read_bytes()
    for cut in (1, 30, len(whole.splitlines()[-1])):
        records.path.write_bytes(whole[:-cut])
        assert set(read_records(tmp_path)) == {0, 1}
        with Records(tmp_path) as again:
            again.add(record(5))
        assert set(read_records(tmp_path)) == {0, 1, 5}
    records.path.write_bytes(whole.replace(b'"episode": 1', b'"episode" 1'))
    with pytest.raises(DatasetError, match="line 3, is damaged"):
        read_records(tmp_path)


def test_one_process_annotates_at_a_time(tmp_path):
    (tmp_path / "meta").mkdir()
    with (
        Records(tmp_path) as first,
        pytest.raises(DatasetError, match="another process is annotating"),
        Records(tmp_path),
    ):
        pass
    first.__exit__()
    with Records(tmp_path):
        pass


def test_annotations_of_others_are_not_overwritten(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "annotations.json").write_text("{}")
    with pytest.raises(DatasetError, match="would be lost"), Records(tmp_path):
        pass


def test_training_gets_what_is_not_rejected(tmp_path):
    (tmp_path / "meta").mkdir()
    entries = entries_of(ANNOTATION)
    some = (*entries[:2], Entry("CR", "Grab it.", "I will.", REJECTED))
    none = tuple(Entry(e.kind, e.question, e.answer, REJECTED) for e in entries)
    records = {0: record(0), 1: record(1, entries=some), 2: record(2, entries=none)}
    files = dict.fromkeys(range(4), "data/a.parquet")
    path = write_annotations(tmp_path, files, records, {0: ["up"], 2: ["stop", "up"]})
    labels = read_vla_it(path)
    assert labels["data/a.parquet", "0"].annotation == ANNOTATION
    assert labels["data/a.parquet", "1"].annotation.command_rewrites == ()
    assert labels["data/a.parquet", "2"].annotation is None
    assert labels["data/a.parquet", "2"].motions == ("stop", "up")
    assert ("data/a.parquet", "3") not in labels
    write_annotations(tmp_path, files, {})  # Motions that are there stay.
    assert read_vla_it(path)["data/a.parquet", "2"].motions == ("stop", "up")


# Cost


def test_the_estimate_is_of_lengths_and_then_of_what_was_measured():
    texts, sizes = ("a" * 400, "b" * 4000), [(640, 480)] * 3
    guess = estimate(10, texts, sizes, REPLY_SCHEMA, annotation_tokens(PairCounts()), (), 2.0, 8.0)
    schema = len(json.dumps(REPLY_SCHEMA)) / 4
    each = 1100 + schema + 3 * image_tokens(640, 480)
    assert guess.input_tokens == round(10 * each) and not guess.measured
    assert guess.output_tokens == 10 * (90 + 50 * 11)
    assert guess.cost == pytest.approx((guess.input_tokens * 2 + guess.output_tokens * 8) / 1e6)
    assert f"{guess.cost:.2f}" in guess.text() and "guessed" in guess.text()
    earlier = [{"input_tokens": 100 * n, "output_tokens": 10} for n in (1, 3)]
    known = estimate(10, texts, sizes, REPLY_SCHEMA, 600, earlier)
    assert (known.input_tokens, known.output_tokens, known.cost) == (2000, 100, None)
    assert "measured" in known.text() and "cost not known" in known.text()


def test_costs_and_places():
    assert cost_of(2_000_000, 1_000_000, 0.5, 3.0) == 4.0
    assert cost_of(1, 1, None, 3.0) is None
    assert image_tokens(640, 480) == 23 * 18 and image_tokens(28, 28) == 85
    assert is_local("http://localhost:8000/v1") and is_local("http://[::1]:1/v1")
    assert not is_local("https://api.openai.com/v1") and not is_local("http://localhost.de/v1")
