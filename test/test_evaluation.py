"""Evaluation in process and the commands around it: figures, files, errors in one line."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import yaml

from vla.envs.base import SuiteError
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.questions import QUESTION_KINDS
from vla.envs.tabletop.suite import TableTop
from vla.envs.tabletop.wording import WORDINGS
from vla.evaluation.benchmark import (
    EpisodeResult,
    evaluate,
    report,
    summarize,
    table,
    wilson_interval,
)
from vla.evaluation.question_answering import (
    evaluate_questions,
    normalized,
    question_report,
    question_table,
    score,
)
from vla.policies.checkpoint import build_model, open_checkpoint
from vla.policies.config import LoraConfig
from vla.policies.instructvla.inference import Reasoner
from vla.policies.policy import Policy
from vla.training.config import RobotData, TrainConfig, write_train_config
from vla_cli import evaluate as evaluate_command
from vla_cli.parser import main

SHORT = TableTop(time_limit=1.0)


@pytest.fixture(scope="module")
def policy(checkpoint):
    return Policy.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("successes", "count", "interval"),
    [
        (8, 10, (0.4902, 0.9433)),
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (50, 100, (0.4038, 0.5962)),
        (90, 100, (0.8256, 0.9448)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval(successes, count, interval):
    assert wilson_interval(successes, count) == pytest.approx(interval, abs=1e-4)


def result(family, success, seconds=3.0, wrong=False, right=None) -> EpisodeResult:
    figures = {"wrong_object": wrong, "answered_right": right}
    return EpisodeResult(family, 0, "pick", "", success, seconds, figures)


def test_summaries_are_per_family_in_order():
    results = [
        result("place", True, 4.0, right=True),
        result("place", False, 20.0, wrong=True, right=False),
        result("place", True, 6.0, right=True),
        result("pick", False),
    ]
    place, pick = summarize(results)
    assert (place.family, place.episodes, pick.family, pick.episodes) == ("place", 3, "pick", 1)
    assert place.success == pytest.approx(2 / 3) and pick.success == 0.0
    assert (place.success_low, place.success_high) == wilson_interval(2, 3)
    assert place.figures == pytest.approx({"wrong_object": 1 / 3, "answered_right": 2 / 3})
    assert place.median_seconds == 6.0 and pick.figures["answered_right"] is None
    lines = table([place, pick]).splitlines()
    assert len(lines) == 3 and "67%" in lines[1] and lines[2].rstrip().endswith("-")


@pytest.mark.slow
def test_one_seed_in_process_is_repeatable_and_reported(policy):
    seen, steps = [], []
    runs = [
        evaluate(
            policy, SHORT, ["pick"], range(3, 4), think=True, on_result=seen.append,
            on_step=lambda environment: steps.append(environment.simulator.time),
        )
        for _ in range(2)
    ]  # fmt: skip
    assert runs[0] == runs[1] and seen == runs[0] + runs[1]
    (only,) = runs[0]
    assert (only.family, only.seed, only.success) == ("pick", 3, False)
    assert only.instruction and only.figures["answered_right"] is False
    assert steps == pytest.approx([0.3, 0.6, 0.9, 1.0] * 2)
    written = json.loads(json.dumps(report("abc", SHORT, True, runs[0], "first")))
    assert written["settings"] == {
        "think": True, "execution": "first", "wording": "direct", "steps_per_chunk": 3,
        "delay_steps": 2, "time_limit": 1.0, "split": "seen", "blackout": False,
    }  # fmt: skip
    assert (written["benchmark"], written["checkpoint_id"]) == ("tabletop", "abc")
    assert written["summary"][0]["episodes"] == 1 == len(written["episodes"])
    assert written["episodes"][0]["wrong_object"] is False


def test_the_noise_goes_on_within_an_episode_and_begins_again_with_the_next(policy, contract):
    environment = TableTopEnv(contract)
    observation, info = environment.reset(seed=0)
    chunks = []
    for _ in range(2):
        policy.reset(info["instruction"], seed=1)
        chunks += [policy.chunk(observation["images"], observation["state"], 0.0) for _ in range(2)]
    np.testing.assert_array_equal(chunks[:2], chunks[2:])
    assert not np.array_equal(chunks[0], chunks[1])


# Wordings and questions


@pytest.mark.parametrize("wording", WORDINGS)
def test_scenes_keep_their_task_in_other_words(simulator, wording):
    suite = TableTop(wording=wording)
    runs = [list(suite.episodes("place", range(20, 26))) for _ in range(2)]
    assert runs[0] == runs[1] and len({episode.seed for episode in runs[0]}) == 6
    for episode in runs[0]:
        plain = simulator.reset(episode.seed, episode.options["family"])
        instruction = episode.options.get("instruction", plain.instruction)
        assert (instruction == plain.instruction) == (wording == "direct")


def test_the_environment_gives_the_episodes_task_in_its_words(contract, simulator):
    environment = TableTopEnv(replace(contract, cameras=()))
    (episode,) = TableTop(wording="attribute").episodes("place", range(20, 21))
    _, info = environment.reset(seed=episode.seed, options=episode.options)
    plain = simulator.reset(episode.seed, "place")
    assert info["instruction"] == episode.options["instruction"] != plain.instruction
    assert environment.task.text() == plain.text() and info["answer"] == plain.answer()


def test_scenes_without_the_wording_make_way_for_further_ones(monkeypatch):
    def only_even(task, places, wording, generator, split):
        assert split == "test" and wording == "attribute" and len(places) >= 2
        return replace(task, instruction="that one") if next(turn) % 2 == 0 else None

    turn, suite = iter(range(100)), TableTop(wording="attribute")
    monkeypatch.setattr("vla.envs.tabletop.suite.reworded_task", only_even)
    episodes = list(suite.episodes("pick", range(5, 8)))
    assert [episode.seed for episode in episodes] == [5, 7, 9]
    assert episodes[0].options == {"family": "pick", "split": "seen", "instruction": "that one"}
    monkeypatch.setattr("vla.envs.tabletop.suite.reworded_task", lambda *_, **__: None)
    with pytest.raises(SuiteError, match="only 0 of the scenes up to seed 25 allow"):
        list(suite.episodes("pick", range(5, 6)))


def test_unknown_wordings_are_refused():
    with pytest.raises(SuiteError, match="unknown wording 'poem'; known: direct"):
        TableTop(wording="poem")
    assert evaluate_command.WORDINGS == WORDINGS


class Knowing:
    """Answers from a list of the right ones, and all but some kinds wrongly."""

    def __init__(self, asked, known):
        self.answers = {
            (entry.question, entry.truth): entry.truth.upper()
            for entry in asked
            if entry.kind in known
        }
        self.seen = []

    def ask(self, images, question):
        self.seen.append((set(images), images["front"].shape))
        found = [truth for (asked, truth) in self.answers if asked == question]
        return found[0].replace(" .", ".") if len(found) == 1 else "I do not know"


@pytest.mark.slow
def test_questions_count_per_kind():
    first = evaluate_questions(Knowing([], ()).ask, TableTop().questions(2, first_seed=40))
    assert not any(entry.right for entry in first)
    kinds = len(QUESTION_KINDS)
    assert [entry.asked for entry in score(first)] == [2] * kinds + [2 * kinds]
    kinds = ("drawer", "extreme")
    knowing = Knowing(first, ("extreme",))
    again = evaluate_questions(knowing.ask, TableTop().questions(1, first_seed=40, kinds=kinds))
    assert [(entry.kind, entry.right) for entry in again] == [("drawer", False), ("extreme", True)]
    assert knowing.seen == [({"front", "wrist"}, (96, 96, 3))] * 2
    drawer, extreme, whole = score(again)
    assert (drawer.right, extreme.right, whole.right, whole.asked) == (0, 1, 1, 2)
    assert (whole.share_low, whole.share_high) == wilson_interval(1, 2)
    assert "50%" in question_table(score(again)).splitlines()[-1]
    written = json.loads(json.dumps(question_report("abc", again)))
    assert written["checkpoint_id"] == "abc" and len(written["questions"]) == 2
    assert written["kinds"][-1]["kind"] == "all"


def test_questions_stay_off_the_scenes_of_training():
    with pytest.raises(SuiteError, match="are not all below 1000000"):
        evaluate_questions(Knowing([], ()).ask, TableTop().questions(10, first_seed=999_950))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Yes, the drawer is open.", "yes , the drawer is open .", True),
        ("  the red   can", "the red can .", True),
        ("the red can?", "the red can .", True),
        ("a red can and a blue can .", "a blue can and a red can .", False),
        ("", "the red can .", False),
    ],
)
def test_spelling_makes_no_answer_wrong(one, other, same):
    assert (normalized(one) == normalized(other)) == same


# Commands


def one_line(capsys) -> str:
    text = capsys.readouterr().err.strip()
    line = text.splitlines()[-1]
    assert line.startswith("vla: ") and "Traceback" not in text
    return line


@pytest.mark.slow
def test_eval_writes_table_json_and_video(checkpoint, tmp_path, capsys):
    path, video = tmp_path / "figures" / "eval.json", tmp_path / "eval.mp4"
    status = main(
        ["eval", "--checkpoint", str(checkpoint), "--family", "pick", "--family", "open_drawer",
         "--seeds", "5:6", "--time-limit", "0.5", "--json", str(path), "--video", str(video)]
    )  # fmt: skip
    assert status == 0
    out = capsys.readouterr().out
    assert "pick" in out and "open_drawer" in out and "95% interval" in out
    written = json.loads(path.read_text())
    assert written["checkpoint_id"] == open_checkpoint(checkpoint).checkpoint_id
    assert [(e["family"], e["seed"]) for e in written["episodes"]] == [
        ("pick", 5), ("open_drawer", 5)
    ]  # fmt: skip
    import av

    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 10 and frames[0].shape == (480, 480, 3) and frames[0].std() > 10


def test_results_are_known_to_be_writable_before_anything_else(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "kept.json").write_text("kept")
    for option, name in (
        ("--json", "kept.json/a.json"),
        ("--json", "pipe"),
        ("--json", "x" * 300),
        ("--video", "kept.json/a.mp4"),
        ("--video", "figures.txt"),
        ("--video", "figures"),
    ):
        given = ["--json", str(tmp_path / "kept.json"), option, str(tmp_path / name)]
        for more in ([], ["--questions", "9"]):
            # What names no checkpoint would be told of next.
            status = main(["eval", "--checkpoint", "nowhere", *given, *more])
            line = one_line(capsys)
            assert status == 2
            if more and name.startswith("figures"):
                assert "nowhere" in line
            else:
                assert "cannot write" in line and (name in line or len(name) > 200)
    assert (tmp_path / "kept.json").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.json", "pipe"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--benchmark", "chess"], "unknown benchmark 'chess'; known: "),
        (["--family", "juggle"], "unknown family 'juggle'; known: pick, place"),
        (["--seeds", "9:3"], "--seeds takes A:B with 0 <= A < B up to 2^32, got '9:3'"),
        (["--seeds", f"0:{10**30}"], "--seeds takes A:B"),
        (["--time-limit", "nan"], "--time-limit must be 0 to 1e6 seconds, got nan"),
        (["--steps-per-chunk", "0"], "--steps-per-chunk takes 1 or more"),
        (["--device", "banana"], "device 'banana' is not there; use 'cpu' or 'cuda'"),
        (["--seeds", "-4:3"], "--seeds takes A:B"),
        (["--json", "/proc/none/a.json"], "cannot write /proc/none/a.json: "),
        (["--json", "/proc"], "cannot write /proc: Is a directory; name another file"),
        (["--video", "/dev/null/a.mp4"], "cannot write /dev/null/a.mp4: Not a directory"),
        (["--seeds", "all"], "--seeds takes A:B"),
        (["--checkpoint", "nowhere"], "there is no checkpoint nowhere"),
    ],
)
def test_eval_errors(arguments, says, capsys):
    joined = [f"{arguments[0]}={arguments[1]}"]
    assert main(["eval", *joined]) == 2
    assert says in one_line(capsys)


@pytest.mark.slow
def test_eval_rewords_and_asks(checkpoint, tmp_path, capsys, monkeypatch):
    episodes, questions = tmp_path / "episodes.json", tmp_path / "questions.json"
    common = ["eval", "--checkpoint", str(checkpoint)]
    status = main(
        [*common, "--family", "pick", "--seeds", "5:6", "--time-limit", "0", "--think",
         "--wording", "implied", "--json", str(episodes)]
    )  # fmt: skip
    assert status == 0
    written = json.loads(episodes.read_text())
    assert written["settings"]["wording"] == "implied"
    assert len(written["episodes"]) == 1 and written["episodes"][0]["answered_right"] is False
    monkeypatch.setattr(Reasoner, "ask", lambda *_: "Two.")
    assert main([*common, "--questions", "1", "--json", str(questions)]) == 0
    out = capsys.readouterr().out
    assert "extreme" in out and "asked  right" in out
    assert len(json.loads(questions.read_text())["questions"]) == len(QUESTION_KINDS)
    assert main([*common, "--questions", "0"]) == 2
    assert "--questions takes a number from 1 on, got 0" in one_line(capsys)
    assert main([*common, "--questions", "1", "--seeds", "999999:1000000"]) == 2
    assert "are not all below 1000000" in one_line(capsys)


def test_info_counts_every_parameter_once(checkpoint, capsys, contract):
    assert main(["info", "--checkpoint", str(checkpoint), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    opened = open_checkpoint(checkpoint)
    model = build_model(opened.config, contract)
    assert facts["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["total"] == sum(facts["parameters"].values())
    assert min(facts["parameters"].values()) > 0
    assert facts["checkpoint_id"] == opened.checkpoint_id
    assert main(["info", "--preset", "nano"]) == 0
    out = capsys.readouterr().out
    assert "action queries" in out and "total" in out
    assert main(["info"]) == 0
    assert "base, base_generalist" in capsys.readouterr().out


def test_info_errors(capsys):
    assert main(["info", "--preset", "huge"]) == 2
    assert "unknown preset 'huge'; known: base, base_generalist" in one_line(capsys)
    assert main(["info", "--checkpoint", "nowhere"]) == 2
    assert "give the folder that vla train wrote" in one_line(capsys)


@pytest.fixture
def train_config(tmp_path, dataset):
    """A configuration file whose demonstrations are all there."""
    path = tmp_path / "train.yaml"
    config = TrainConfig(
        preset="test", contract="sim_panda",
        robot=(RobotData(str(dataset), options={"episodes": 4, "episodes_per_shard": 2}),),
        lora=LoraConfig(("action",), rank=4), output=str(tmp_path / "run"), steps=1, batch_size=3,
    )  # fmt: skip
    write_train_config(config, path)
    return path


@pytest.mark.slow
def test_train_goes_on_from_where_it_was(train_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for steps in (1, 2):
        command = ["train", "--config", str(train_config), "--set", f"steps={steps}"]
        assert main([*command, "learning_rate=1e-4"]) == 0
        assert "evaluate it with: vla eval --checkpoint" in capsys.readouterr().out
        assert json.loads((tmp_path / "run" / "time.json").read_text())["steps"] == steps
    kept = yaml.safe_load((tmp_path / "run" / "train.yaml").read_text())
    assert kept["learning_rate"] == 1e-4 and kept["steps"] == 2
    assert open_checkpoint(tmp_path / "run" / "checkpoint").config.preset == "test"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "steps"], "--set takes NAME=VALUE, got 'steps'"),
        (["--set", "steps=many"], "steps must be a whole number from 0 to 1e+09, got 'many'"),
        (["--set", "stepz=1"], "unknown entries: stepz; known:"),
        (["--set", "preset=huge"], "unknown preset 'huge'"),
        (["--set", "contract=fr9"], "there is no contract 'fr9'"),
        (["--set", "initialize_from=nowhere"], "nowhere is not a checkpoint folder"),
        (["--set", "stage=second"], "unknown stage 'second'; known: action, adapt, full, instruct"),
        (["--set", "robot=[{path: none, kind: csv}]"], "unknown robot data 'csv'"),
        (["--config", "none.yaml"], "cannot read none.yaml: No such file or directory"),
    ],
)
def test_train_errors(train_config, arguments, says, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["train", "--config", str(train_config), *arguments]) == 2
    assert says in one_line(capsys)


def test_what_the_system_refuses_is_one_line(train_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    (tmp_path / "file").touch()
    command = ["train", "--config", str(train_config), "--set", f"output={tmp_path / 'file'}"]
    assert main(command) == 1
    assert "file: File exists; check the path" in capsys.readouterr().err.splitlines()[-1]


def test_demonstrate_keeps_what_is_there(train_config, capsys, dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.iterdir()}
    assert main(["demonstrate", "--config", str(train_config)]) == 0
    assert {path: path.stat().st_mtime_ns for path in dataset.iterdir()} == before
