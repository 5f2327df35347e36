"""Episodes cut by a model behind a server of the test's own: what is asked, refused and kept."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_files import write_demonstration
from chat_server import ChatServer, Reply, chat_server
from droid_files import TASKS, VIEWS, frames_of, grey_of, write_droid
from PIL import Image

from vla.annotation.schema import ReplyError
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path, shared_file
from vla.datasets.frames import DatasetError
from vla.language_action.by_model import SCHEMA, read_segments
from vla.language_action.primitives import PRIMITIVES
from vla.language_action.rules import RuleConfig
from vla.language_action.segment_records import SegmentRecords
from vla.language_action.segments import read_segmentation, write_segmentation
from vla.language_action.trajectory import trajectory_of
from vla_cli.parser import main

OPTIONS = ("--contract", "droid", "--mapping", "config/data/la33k.yaml")


def step(subaction: str, start: float, end: float, instruction: str = "go on") -> dict:
    return {"subaction": subaction, "instruction": instruction, "start": start, "end": end}


GOOD = {
    "segments": [
        step("move", 0.0, 1.5, "move the gripper down"),
        step("grasp", 1.5, 2.0, "close the gripper on the object"),
        step("lift", 2.0, 3.0, "lift the object up while holding it"),
        step("release", 4.9, 5.5, "place the object and open the gripper"),
    ]
}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_droid(tmp_path_factory.mktemp("droid") / "set")


def good(request: dict, number: int) -> Reply:
    return Reply(GOOD)


def command(folder: Path, out: Path, server: ChatServer, *more: str) -> list[str]:
    return ["data", "segment", str(folder), str(out), "--model", "m", "--base-url", server.url,
            *OPTIONS, "--concurrency", "1", *more]  # fmt: skip


def run(folder: Path, out: Path, server: ChatServer, *more: str) -> int:
    return main(command(folder, out, server, *more))


def episode_in(request: dict) -> int:
    """Which episode a request is about: they differ in length."""
    text = request["messages"][1]["content"][-1]["text"]
    return next(e for e in range(3) if f"in {(frames_of(e) - 2) / 15:.2f} seconds" in text)


@pytest.mark.slow
def test_a_request_has_the_task_views_events_and_vocabulary(folder, tmp_path):
    with chat_server(good) as server:
        assert run(folder, tmp_path / "out", server) == 0
    for episode, request in enumerate(server.requests):
        assert episode_in(request) == episode
        wanted = request["response_format"]["json_schema"]
        assert wanted["schema"] == SCHEMA and wanted["strict"] is True
        *views, last = request["messages"][1]["content"]
        assert f'"{TASKS[episode]}"' in last["text"] and "exterior_1, wrist, ext" in last["text"]
        events = [line for line in last["text"].splitlines() if line.startswith("- 1.")]
        assert any(line.endswith("s: gripper_close") for line in events), events
        for name, primitive in PRIMITIVES.items():
            tags = " or ".join(primitive.statuses)
            assert f"- {name} ({tags}): {primitive.definition}" in last["text"]
        # Each view is a series of its own: a label, then times and images in turn.
        count = round((frames_of(episode) - 2) / 15 * 2) + 1
        for number, (camera, view) in enumerate(
            zip(("exterior_1", "wrist", "exterior_2"), VIEWS, strict=True)
        ):
            label, *frames = views[number * (2 * count + 1) : (number + 1) * (2 * count + 1)]
            assert label["text"] == f"View {camera}, {count} frames:"
            for said, part in zip(frames[::2], frames[1::2], strict=True):
                frame = round(float(said["text"].removesuffix("s")) * 15)
                jpeg = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                image = np.asarray(Image.open(io.BytesIO(jpeg)))
                assert image.shape == (224, 224, 3)
                assert abs(image[112, 112].mean() - grey_of(view, frame)) <= 4
        assert len(views) == 3 * (2 * count + 1)
    made = read_segmentation(tmp_path / "out")
    assert (made.made_by, sorted(made.episodes)) == ("m", [0, 1, 2])
    assert [(s.primitive, s.status) for s in made.episodes[1]] == [
        ("move", "EMPTY"), ("grasp", "HOLDING"), ("lift", "HOLDING"), ("place", "HOLDING")
    ]  # fmt: skip
    assert made.episodes[2][2].instruction == "lift the object up while holding it"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([step("throw", 0, 1)], "unknown primitive 'throw'; known: grasp, place"),
        ([step("move", 0, 9)], r"ends at 9.00 s, after the episode \(6.00 s\)"),
        ([step("move", -1, 1)], "segment 0 starts at -1.00 s, before the episode"),
        ([step("move", 0, 2), step("grasp", 1.5, 3)], "segment 1 starts at 1.50 s, before the one"),
        ([step("move", 3, 4), step("grasp", 1, 2)], "segment 1 starts at 1.00 s, before the one"),
        ([step("move", 2, 2)], "not after its start"),
        ([], "'segments' is empty"),
        ([step("move", 0, 1, "move to the red mug")], "the instruction says 'red'"),
        ([step("move", 0, 1, "move over the wooden thing")], "says 'wooden'"),
        ([step("move", 0, 1, "move to the shelf")], "says 'shelf'"),
        ([step("move", 0, 1, " ")], "an instruction has 1 to 300 characters"),
        ([step("move", 0, 1, "a\u200bb")], "characters that can't be shown"),
        ([step("move", "0.5", 1)], r"segments\[0\].start must be of type number, it is str"),
        ([step("move", 0, True)], r"segments\[0\].end must be of type number, it is bool"),
        ([step("move", 0, 1) | {"more": 1}], "has an unknown entry 'more'"),
        ([step("throw", 0, 9, "go to the cup")], "throw.*after the episode.*'cup'"),
    ],
)
def test_a_reply_that_does_not_fit_is_refused_with_all_reasons(entries, says):
    states = np.zeros((91, 7))
    states[:, 6] = 1.0
    path = trajectory_of(states, np.arange(91) / 15, load_contract(contract_path("droid")))
    with pytest.raises(ReplyError, match=says):
        read_segments(json.dumps({"segments": entries}), path, RuleConfig())


def test_rounded_times_and_aliases_are_taken():
    states = np.zeros((92, 7))
    path = trajectory_of(states, np.arange(92) / 15, load_contract(contract_path("droid")))
    entries = [step("Rotate free", 0, 3.01), step("wait", 3.005, 6.07)]
    made = read_segments(json.dumps({"segments": entries}), path, RuleConfig())
    assert [(s.primitive, s.start) for s in made] == [("rotate", 0.0), ("wait", 3.01)]
    assert made[1].end == 91 / 15 and made[1].status == "EMPTY"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Reply("I cut it."), "not valid JSON"),
        (Reply({"segments": [step("throw", 0, 1)]}), "unknown primitive 'throw'"),
        (Reply('{"segments": [', finish_reason="length"), "cut off"),
    ],
)
def test_a_second_try_is_told_the_reason(folder, tmp_path, bad, says):
    with chat_server(lambda _, number: bad if number == 0 else Reply(GOOD)) as server:
        assert run(folder, tmp_path / "out", server) == 0
    assert len(server.requests) == 4
    told = server.requests[1]["messages"]
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert says in told[3]["content"][0]["text"] and told[1] == server.requests[0]["messages"][1]
    with SegmentRecords(tmp_path / "out") as records:
        assert records.latest[0].usage["requests"] == 2 and records.latest[1].usage["requests"] == 1


@pytest.mark.slow
def test_an_episode_whose_replies_never_fit_is_left_for_a_later_run(folder, tmp_path, capsys):
    out, stubborn = tmp_path / "out", {1}

    def answer(request: dict, number: int) -> Reply:
        return Reply({"segments": []} if episode_in(request) in stubborn else GOOD)

    with chat_server(answer) as server:
        assert run(folder, out, server, "--attempts", "3") == 1
        said = capsys.readouterr().out
        assert "1 episodes failed:\n  episode 1: 3 replies were unusable, the last: 'seg" in said
        assert "8 segments in 2 of 2 episodes" in said and ": 2 of 3 episodes" in said
        assert len(server.requests) == 5 and sorted(read_segmentation(out).episodes) == [0, 2]
        stubborn.clear()
        assert run(folder, out, server) == 0
        assert len(server.requests) == 6 and episode_in(server.requests[-1]) == 1
        assert "2 episodes are finished, 1 are to be cut" in capsys.readouterr().out
        assert run(folder, out, server) == 0 and len(server.requests) == 6
    assert sorted(read_segmentation(out).episodes) == [0, 1, 2]


@pytest.mark.slow
def test_a_run_that_goes_on_drops_no_ratings(folder, tmp_path, capsys):
    out = tmp_path / "out"
    with chat_server(good) as server:
        assert run(folder, out, server, "--episodes", "0:1") == 0
        made = read_segmentation(out)
        rated = tuple(replace(segment, quality=2.5) for segment in made.episodes[0])
        write_segmentation(replace(made, episodes={0: rated}), out / "segments.json")
        assert run(folder, out, server) == 2
        assert "has ratings" in capsys.readouterr().err and len(server.requests) == 1
        assert read_segmentation(out).episodes == {0: rated}
        assert run(folder, out, server, "--overwrite") == 0
    assert sorted(read_segmentation(out).episodes) == [0, 1, 2]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(folder, tmp_path):
    out = tmp_path / "out"
    code = "import sys; from vla_cli.parser import main; sys.exit(main(sys.argv[1:]))"
    with chat_server(lambda _, n: Reply(GOOD, delay=0.0 if n == 0 else 600.0)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *command(folder, out, server)], env=os.environ
        )
        try:
            while len(server.requests) < 2 and process.poll() is None:
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (out / "segments.json").exists()
        # A line that the kill cut in two.
        with (out / "segment_records.jsonl").open("ab") as file:
            file.write(b'{"episode": 1, "dur')
        server.answer = good
        assert run(folder, out, server) == 0
    assert [episode_in(request) for request in server.requests] == [0, 1, 1, 2]
    assert sorted(read_segmentation(out).episodes) == [0, 1, 2]


@pytest.mark.slow
def test_costs_are_estimated_and_reported(folder, tmp_path, capsys):
    prices = ("--price-in", "1000", "--price-out", "1000")
    with chat_server(good) as server:
        assert run(folder, tmp_path / "out", server, *prices, "--estimate") == 0
        assert "3 episodes, 3 requests" in capsys.readouterr().out and not server.requests
        assert run(folder, tmp_path / "out", server, *prices) == 2
        assert "costs more than --ask-above 1" in capsys.readouterr().err
        assert run(folder, tmp_path / "out", server, *prices, "--yes") == 0
    assert "3,000 input and 600 output tokens: 3.60" in capsys.readouterr().out


@pytest.mark.slow
def test_other_settings_are_noticed_and_rules_are_not_replaced(folder, tmp_path, capsys):
    out, prompt = tmp_path / "out", tmp_path / "mine.md"
    prompt.write_text("# system\na\n# user\n{instruction}: {events}\n")
    rules = ["data", "segment", str(folder), str(out), "--rules", *OPTIONS]
    with chat_server(good) as server:
        assert main(rules) == 0
        assert run(folder, out, server) == 2
        assert "--overwrite replaces a file" in capsys.readouterr().err and not server.requests
        assert run(folder, out, server, "--overwrite", "--episodes", "0:2") == 0
        assert sorted(read_segmentation(out).episodes) == [0, 1]
        assert run(folder, out, server, "--prompt", str(prompt)) == 2
        said = capsys.readouterr().err
        assert "2 episodes were annotated in another way (prompt, prompt_version): --ch" in said
        assert run(folder, out, server, "--prompt", str(prompt), "--changed", "redo") == 0
        text = server.requests[-1]["messages"][1]["content"][-1]["text"]
        assert text.startswith(f"{TASKS[1]}: - ") and len(server.requests) == 5
        # What a model made and rules replaced is still there.
        assert main([*rules, "--overwrite"]) == 0
        assert run(folder, out, server, "--prompt", str(prompt)) == 0
        assert len(server.requests) == 5 and read_segmentation(out).made_by == "m"


def test_bags_are_cut_too(tmp_path):
    contract = load_contract(contract_path("sim_panda"))
    write_demonstration(tmp_path / "bags" / "a", contract, 5.0)
    reply = {"segments": [step("move", 0.0, 1.0, "move the gripper down")]}
    with chat_server(lambda *_: Reply(reply)) as server:
        assert main(["data", "segment", str(tmp_path / "bags"), str(tmp_path / "out"), "--model",
                     "m", "--base-url", server.url]) == 0  # fmt: skip
    assert len(read_segmentation(tmp_path / "out").episodes) == 1 == len(server.requests)


def test_damaged_records_are_named(folder, tmp_path, capsys):
    out = tmp_path / "out"
    with chat_server(good) as server:
        assert run(folder, out, server, "--episodes", "0:1") == 0
        path = out / "segment_records.jsonl"
        path.write_text(path.read_text().replace('"lift"', '"throw"'))
        assert run(folder, out, server) == 2
    said = capsys.readouterr().err
    assert "segment_records.jsonl, line 2" in said and "unknown primitive 'throw'" in said
    with pytest.raises(DatasetError, match="delete the line"), SegmentRecords(out):
        pass


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "one of the arguments --rules --model is required"),
        (("--rules", "--model", "m"), "not allowed with argument"),
        (("--rules", "--estimate"), "--estimate is for a --model"),
        (("--rules", "--episodes", "0:1"), "--episodes is for a --model"),
        (("--model", "m", "--most-frames", "1"), "--most-frames takes a number from 2 on"),
        (("--model", "m", "--frame-rate", "0"), "--frame-rate takes a number above 0"),
        (("--model", "m", "--episodes", "5:9"), "there are 3 episodes"),
        (("--model", "m", "--prompt", "none.md"), "cannot read none.md"),
        (
            ("--model", "m", "--prompt", "config/annotation/vla_it.md"),
            "nothing fills in {contexts}",
        ),
        (("--model", "m", "--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY is not set"),
        (("--model", "m", "--set", "longest=1"), "unknown entries: longest"),
    ],
)
def test_wrong_options_are_one_sentence(folder, tmp_path, capsys, options, says):
    try:
        status = main(["data", "segment", str(folder), str(tmp_path / "out"), *OPTIONS, *options])
    except SystemExit as error:  # argparse's own
        status = error.code
    assert status == 2 and says in capsys.readouterr().err


def test_the_shipped_prompt_asks_for_what_is_read():
    text = shared_file("config/annotation/segmentation.md").read_text()
    for name in SCHEMA["properties"]["segments"]["items"]["properties"]:
        assert f'"{name}"' in text
