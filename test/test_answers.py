"""`vla eval --answers`: answers and references as texts, their files, and their scores."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from test_lerobot_writer import CONTRACT, LENGTHS, write

from vla.datasets.sample import Annotation
from vla.datasets.vla_it import write_vla_it
from vla.evaluation.answer_texts import GivenAnswer, comparable, read_answers
from vla.evaluation.asked_annotations import asked_annotations
from vla.evaluation.errors import AnswerError
from vla.evaluation.text_metrics import TextScores, score_answers, score_table
from vla_cli.parser import main

PAIRS = (
    ("Pick up the red can.", "pick up the red can"),
    (
        "There are 3 blocks on the table, a bowl and a plate.",
        "There is a bowl, a plate and three blocks on the table.",
    ),
    ("the drawer is closed", "The drawer is open."),
)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        # What the cleaning of InstructVLA's mm_evaluation/Evaluator.py gives.
        ("There are 3 blocks on the table, a bowl.", "there are three blocks on table, bowl"),
        ("  The  Drawer is\nOpen!  ", "drawer isopen"),
        ("ASSISTANT: An apple; none of the 12 mat2's", "apple zero of twelve mat's"),
        ("it's 10 o'clock: the 23-th", "it's ten o'clock: twenty-three-th"),
        ("a the can", "can"),
        ("Café — 7up?", "caf  7up"),
        ("<p>walked backwards, let of it</p></s>", "walked backward, left of it"),
        ("x" * 2000 + " the can", "x" * 1024),
    ],
)
def test_texts_are_compared_as_the_authors_do(text, made):
    assert comparable(text) == made


def test_files_of_the_authors_and_of_reports_are_read(tmp_path):
    entries = [{"key": 3, "response": "a can", "gt": "the can"}]
    plain, report = tmp_path / "plain.json", tmp_path / "report.json"
    plain.write_text(json.dumps(entries))
    report.write_text(json.dumps({"answers": [entries[0] | {"kind": "caption"}]}))
    assert read_answers(plain) == [GivenAnswer("3", "a can", "the can")]
    assert read_answers(report) == [GivenAnswer("3", "a can", "the can", "caption")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "has no answers: expected a list of key, response and gt"),
        ({"episodes": []}, "has no answers"),
        ([3], "entry 1 is no answer, but 3"),
        ([{"key": "1", "gt": ""}], "entry 1 lacks 'response'; an answer has key, response and gt"),
        ([{"key": "1", "response": 3, "gt": ""}], "entry 1: response must be text"),
        ([{"key": "1", "response": "", "gt": ""}] * 2, "has the key '1' twice; remove one"),
    ],
)
def test_other_files_are_refused(tmp_path, content, says):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(AnswerError) as error:
        read_answers(path)
    assert says in str(error.value) and "mine.json" in str(error.value)


def test_a_data_set_s_annotations_are_asked_once_an_episode(tmp_path):
    folder = tmp_path / "set"
    write(folder, [0, 1], storage="image")
    annotation = Annotation(
        "a table", (("how many ?", "two ."), ("what ?", "it .")), (), (("i am thirsty", "a can ."),)
    )
    moves = {("set", str(n)): (["move up"] * LENGTHS[n], None) for n in (0, 1)}
    write_vla_it(folder / "meta/annotations.json", moves)

    def ask(images, question):
        seen.append(images)
        return f"so {question}"

    seen: list[dict] = []
    with pytest.raises(AnswerError, match="set has no annotations in words; make them with 'vla"):
        list(asked_annotations(folder, CONTRACT, ask, "what is there?"))
    moves["set", "1"] = (["move up"] * LENGTHS[1], annotation)
    write_vla_it(folder / "meta/annotations.json", moves)
    answers = list(asked_annotations(folder, CONTRACT, ask, "what is there?"))
    assert [(a.kind, a.question, a.gt) for a in answers] == [
        ("caption", "what is there?", "a table"),
        ("question", "how many ?", "two ."),
        ("instruction", "i am thirsty", "a can ."),
    ]
    assert [a.response for a in answers] == [f"so {a.question}" for a in answers]
    assert {a.key for a in answers} == {"1"} and set(seen[0]) == {c.name for c in CONTRACT.cameras}
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(answers[0].image))))
    assert np.abs(shown.astype(int) - seen[0][CONTRACT.reference_camera]).mean() < 4


def test_the_command_says_what_it_needs(tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"key": "1", "response": "a can", "gt": "the can"}]))
    assert main(["eval", "--answers", str(path), "--questions", "3"]) == 2
    assert "--answers scores and runs nothing" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap", None)
    assert main(["eval", "--answers", str(path)]) == 2
    assert "need pycocoevalcap: pip install 'vla_ros[metrics]'" in capsys.readouterr().err


def test_scores_are_shown_in_percent_but_for_cider():
    scores = [TextScores("caption", 12, 0.443, 0.2, 0.15, 0.082, 0.187, 0.84, {"a/sbert": 0.72})]
    head, line = score_table(scores).splitlines()
    assert head.split()[-2:] == ["CIDEr", "sbert"]
    assert line.split() == ["caption", "12", "44.3", "8.2", "18.7", "0.84", "72.0"]


needs_metrics = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")


def cider(pairs) -> float:
    """CIDEr-D by its definition (Vedantam et al. 2015), of one reference each."""
    tokens = [[text.replace(",", "").split() for text in pair] for pair in pairs]
    total = np.zeros(len(pairs))
    for size in (1, 2, 3, 4):
        grams = [
            [Counter(tuple(t[i : i + size]) for i in range(len(t) - size + 1)) for t in pair]
            for pair in tokens
        ]
        seen = Counter(gram for _, reference in grams for gram in reference)
        weight = {gram: np.log(len(pairs)) - np.log(max(1, count)) for gram, count in seen.items()}
        for index, pair in enumerate(grams):
            said, meant = (
                {gram: count * weight.get(gram, np.log(len(pairs))) for gram, count in own.items()}
                for own in pair
            )
            norms = [np.sqrt(sum(value**2 for value in own.values())) for own in (said, meant)]
            common = sum(
                min(said[gram], meant[gram]) * meant[gram] for gram in said if gram in meant
            )
            longer = len(tokens[index][0]) - len(tokens[index][1])
            if all(norms):
                total[index] += common / np.prod(norms) * np.exp(-(longer**2) / 72)
    return float(10 * total.mean() / 4)


@needs_metrics
def test_scores_are_those_of_other_implementations():
    pytest.importorskip("pycocoevalcap")
    answers = [GivenAnswer(str(n), *pair, "caption") for n, pair in enumerate(PAIRS)]
    (score,) = score_answers(answers)
    assert (score.kind, score.answers) == ("caption", 3)
    # By sacrebleu 2.6.0, unsmoothed, of up to 1, 2, 3 and 4 words.
    bleu = [score.bleu_1, score.bleu_2, score.bleu_3, score.bleu_4]
    assert bleu == pytest.approx([0.875, 0.686406, 0.573334, 0.481713], abs=1e-5)
    made = [(comparable(said), comparable(meant)) for said, meant in PAIRS]
    assert score.cider == pytest.approx(cider(made), abs=1e-4)
    # As METEOR 1.5 (-l en -norm) gives it.
    assert score.meteor == pytest.approx(0.453365, abs=1e-5)
