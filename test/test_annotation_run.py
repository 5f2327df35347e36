"""Annotating by a server of the test's own: retries, bounds, resuming, what is written."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bag_files import write_demonstration
from chat_server import GOOD, ChatServer, Reply, chat_server, instruction_in
from lerobot_files import (
    FPS,
    LENGTHS,
    STATES,
    TASKS,
    actions_of,
    drop_column,
    grey_of,
    write_v2,
    write_v3,
)
from PIL import Image

from vla.annotation.asking import GIVE_UP_AFTER, AskSummary
from vla.annotation.endpoint import EndpointConfig, retry_after
from vla.annotation.prompts import DEFAULT_PROMPT, read_prompt
from vla.annotation.records import Records, read_records
from vla.annotation.replies import REPLY_SCHEMA
from vla.annotation.run import Annotator, annotate_episodes
from vla.annotation.source import AnnotationSource
from vla.bags.conversion import convert_bags, find_bags
from vla.bags.episodes import BagEpisodes
from vla.bags.frames import MOTION_SPAN
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path, shared_file
from vla.datasets.language_motion import MotionThresholds, language_motion, poses_of_states
from vla.datasets.lerobot.dataset import LeRobotEpisodes, LeRobotMapping
from vla_cli.parser import main

CONTRACT = load_contract(contract_path("widowx_bridge"))
MAPPING = LeRobotMapping({CONTRACT.cameras[0].name: "camera"})


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def good(request: dict, number: int) -> Reply:
    return Reply()


def annotate(folder: Path, server: ChatServer, concurrency: int = 1, **options) -> AskSummary:
    """All episodes of a data set, with short pauses."""
    values = {"timeout": 5.0, "attempts": 3, "first_pause": 0.01, "longest_pause": 1.0} | options
    endpoint = EndpointConfig(server.url, "some-model", **values)
    source = AnnotationSource(folder)
    annotator = Annotator(read_prompt(shared_file(DEFAULT_PROMPT)), endpoint)
    with Records(folder) as records:
        return annotate_episodes(source.episodes, source, annotator, records, concurrency)


def test_a_request_has_the_instruction_the_schema_and_three_frames(tmp_path):
    folder = write_v3(tmp_path / "set")
    with chat_server(good) as server:
        outcome = annotate(folder, server, api_key="secret")
    assert outcome.finished == [0, 1, 2] and not outcome.failed
    assert (outcome.input_tokens, outcome.output_tokens) == (3000, 600)
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == "Bearer secret"
    for episode, request in enumerate(server.requests):
        assert request["model"] == "some-model"
        wanted = request["response_format"]["json_schema"]
        assert wanted["schema"] == REPLY_SCHEMA and wanted["strict"] is True
        system, user = request["messages"]
        assert system["role"] == "system" and TASKS[episode] in user["content"][-1]["text"]
        length = LENGTHS[episode]
        for part, frame in zip(user["content"], (0, (length - 1) / 2, length - 1), strict=False):
            head, data = part["image_url"]["url"].split(",")
            assert head == "data:image/jpeg;base64"
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            assert image.shape == (64, 64, 3)
            assert abs(image.mean() - grey_of(episode, round(frame))) <= 3


@pytest.mark.parametrize("form", ["json_object", "none"])
def test_servers_without_schemas_can_be_asked(tmp_path, form):
    with chat_server(good) as server:
        annotate(write_v2(tmp_path / "set", images=True), server, response_format=form)
    sent = server.requests[0].get("response_format")
    assert sent == ({"type": "json_object"} if form == "json_object" else None)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Reply("I cannot do that."), "not valid JSON"),
        (Reply(GOOD | {"caption": 3}), "caption must be of type string"),
        (Reply(GOOD | {"caption": "A robot arm at a table."}), "mentions the robot"),
        (Reply(json.dumps(GOOD)[:50], finish_reason="length"), "cut off"),
    ],
)
def test_an_unusable_reply_is_asked_for_again_with_the_reason(tmp_path, bad, says):
    with chat_server(lambda _, number: bad if number < 2 else Reply()) as server:
        outcome = annotate(write_v2(tmp_path / "set"), server)
    assert outcome.finished == [0, 1, 2] and len(server.requests) == 5
    told = server.requests[2]["messages"]
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert says in told[3]["content"][0]["text"]
    assert told[2]["content"] == (bad.content if isinstance(bad.content, str)
                                  else json.dumps(bad.content))  # fmt: skip
    kept = read_records(tmp_path / "set")[0].usage
    assert kept == {"input_tokens": 3000, "output_tokens": 600, "requests": 3}


@pytest.mark.parametrize(
    "bad",
    [
        Reply(status=500, body="oops"),
        Reply(status=503),
        Reply(status=429),
        Reply(drop=True),
        Reply(delay=1.4),
        Reply(trickle=0.05),
        Reply(body="<html>busy</html>"),
        Reply(body='{"choices": []}'),
        Reply(body='{"choices": [{"message": {"content": null, "refusal": "no"}}]}'),
    ],
    ids=["500", "503", "429", "drop", "slow", "trickle", "html", "no choice", "refusal"],
)
def test_a_passing_failure_is_tried_again(tmp_path, bad):
    with chat_server(lambda _, number: bad if number == 0 else Reply()) as server:
        outcome = annotate(write_v2(tmp_path / "set"), server, timeout=1.0)
    assert outcome.finished == [0, 1, 2] and len(server.requests) == 4
    assert server.requests[0] == server.requests[1]


def test_a_lasting_failure_is_the_episodes_alone(tmp_path):
    def answer(request: dict, number: int) -> Reply:
        return Reply(status=500, body="out of memory") if TASKS[1] in str(request) else Reply()

    with chat_server(answer) as server:
        outcome = annotate(write_v2(tmp_path / "set"), server)
    assert outcome.finished == [0, 2] and len(server.requests) == 5
    assert outcome.failed == {1: "the server answered 500: out of memory, after 3 attempts"}
    assert not outcome.stopped and set(read_records(tmp_path / "set")) == {0, 2}


def test_pauses_grow(tmp_path):
    with chat_server(lambda *_: Reply(status=500)) as server:
        annotate(write_v2(tmp_path / "set"), server, first_pause=0.1, attempts=4)
    pauses = np.diff(server.times[:4])
    assert all(pauses >= (0.05, 0.1, 0.2)) and pauses.sum() < 5


def test_retry_after_holds_all_requests_back(tmp_path):
    def answer(request: dict, number: int) -> Reply:
        if number == 0:
            return Reply(status=429, headers={"Retry-After": "0.5"})
        return Reply(delay=0.1)

    with chat_server(answer) as server:
        outcome = annotate(write_v2(tmp_path / "set"), server, concurrency=2)
    assert outcome.finished and not outcome.failed
    # The second request was under way; everything else waited.
    assert min(np.array(server.times[2:]) - server.times[0]) >= 0.5


def test_a_server_that_wants_too_long_a_pause_is_given_up(tmp_path):
    # To wait for the server would run into the test's time limit.
    with chat_server(lambda *_: Reply(status=429, headers={"Retry-After": "3600"})) as server:
        outcome = annotate(write_v2(tmp_path / "set"), server)
    assert len(server.requests) == 3
    assert "asks to wait for 3600 s; at most 1 s are allowed" in outcome.failed[0]


def test_retry_after_is_a_number_or_a_date():
    assert retry_after("7") == 7.0 and retry_after("0.5") == 0.5
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < retry_after(date) <= 31
    assert [retry_after(v) for v in ("", "soon", "-3", "nan", "inf")] == [0.0] * 5
    assert retry_after(email.utils.formatdate(0, usegmt=True)) == 0.0


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_request_would_change_ends_the_run_and_hides_the_key(tmp_path, status):
    def answer(request: dict, number: int) -> Reply:
        text = "Incorrect API key provided: sk-12345"
        return Reply(status=status, body=text + "." * (290 - len(text)) + " sk-12345")

    with chat_server(answer) as server:
        outcome = annotate(write_v2(tmp_path / "set"), server, api_key="sk-12345")
    assert len(server.requests) == 1
    assert outcome.stopped.startswith(
        f"the server answered {status}: Incorrect API key provided: ***."
    )
    assert "sk-1" not in outcome.stopped and len(outcome.stopped) < 350


def test_other_refusals_are_the_episodes_alone(tmp_path):
    with chat_server(lambda _, n: Reply(status=413 if n == 0 else 200)) as server:
        outcome = annotate(write_v2(tmp_path / "set"), server)
    assert set(outcome.failed) == {0} and outcome.finished == [1, 2]


def test_a_server_that_is_gone_is_not_asked_for_every_episode(tmp_path):
    folder = write_v2(tmp_path / "set")
    source = AnnotationSource(folder)
    with chat_server(good) as server:
        gone = EndpointConfig(server.url, "m", attempts=1, first_pause=0.01)
    annotator = Annotator(read_prompt(shared_file(DEFAULT_PROMPT)), gone)
    with Records(folder) as records:
        outcome = annotate_episodes(source.episodes * 9, source, annotator, records, 2)
    assert "no connection to" in outcome.failed[0]
    assert outcome.stopped == f"{GIVE_UP_AFTER} episodes in a row failed"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_at_once_than_allowed(tmp_path, concurrency):
    folder = write_v2(tmp_path / "set")
    source = AnnotationSource(folder)
    with chat_server(lambda *_: Reply(delay=0.2)) as server:
        annotator = Annotator(
            read_prompt(shared_file(DEFAULT_PROMPT)), EndpointConfig(server.url, "m")
        )
        with Records(folder) as records:
            annotate_episodes(source.episodes * 2, source, annotator, records, concurrency)
    assert len(server.requests) == 6 and server.most_at_once == concurrency


# On the command line


def command(folder: Path, server: ChatServer, *more: str) -> int:
    return main(["data", "annotate", str(folder), "--base-url", server.url, "--model", "m", *more])


def test_a_rerun_does_what_is_missing(tmp_path, capsys):
    folder = write_v2(tmp_path / "set")
    broken = {"on": True}

    def answer(request: dict, number: int) -> Reply:
        bad = broken["on"] and TASKS[1] in str(request)
        return Reply(status=400, body="too large") if bad else Reply()

    with chat_server(answer) as server:
        assert command(folder, server) == 1
        said = capsys.readouterr().out
        assert "1 episodes failed" in said and "episode 1: the server answered 400" in said
        assert "annotations of 2 of 3 episodes" in said
        broken["on"] = False
        before = len(server.requests)
        assert command(folder, server) == 0
        assert len(server.requests) == before + 1
        said = capsys.readouterr().out
        assert "2 episodes are finished, 1 are to be annotated" in said and "measured" in said
        assert instruction_in(server.requests[-1], TASKS) == TASKS[1]
        assert command(folder, server) == 0 and len(server.requests) == before + 1
    labels = json.loads((folder / "meta" / "annotations.json").read_text())
    assert labels["data/chunk-000/episode_000001.parquet"]["1"]["alt_instruction"]["QA"]


def test_changes_are_noticed(tmp_path, capsys):
    folder = write_v2(tmp_path / "set")
    prompt = tmp_path / "mine.md"
    prompt.write_text("# system\na\n# user\n{instruction}\n")
    with chat_server(good) as server:
        assert command(folder, server, "--prompt", str(prompt)) == 0
        prompt.write_text("# system\nb\n# user\n{instruction}\n")
        assert command(folder, server, "--prompt", str(prompt)) == 2
        said = capsys.readouterr().err
        assert "3 episodes were annotated in another way (prompt_version), 0 of them" in said
        assert len(server.requests) == 3
        assert command(folder, server, "--prompt", str(prompt), "--changed", "keep") == 0
        assert len(server.requests) == 3
        assert command(folder, server, "--prompt", str(prompt), "--changed", "redo") == 0
        assert len(server.requests) == 6
        assert main(["data", "annotate", str(folder), "--base-url", server.url, "--model", "n",
                     "--prompt", str(prompt)]) == 2  # fmt: skip
        assert "in another way (model)" in capsys.readouterr().err


def test_another_episode_under_the_same_number_is_annotated_anew(tmp_path):
    folder, other = write_v3(tmp_path / "set"), write_v3(tmp_path / "other", scale=2.0)
    kept = "annotation_records.jsonl"
    with chat_server(good) as server:
        assert command(folder, server) == 0
        (other / "meta" / kept).write_bytes((folder / "meta" / kept).read_bytes())
        assert command(other, server) == 0
    assert len(server.requests) == 6


def test_an_estimate_comes_first_and_costs_need_a_yes(tmp_path, capsys):
    folder = write_v2(tmp_path / "set")
    prices = ("--price-in", "1000", "--price-out", "1000")
    with chat_server(good) as server:
        assert command(folder, server, *prices, "--estimate") == 0
        said = capsys.readouterr().out
        assert "3 episodes, 3 requests" in said and "at these prices" in said
        assert command(folder, server, *prices) == 2
        assert "costs more than --ask-above 1; --yes continues" in capsys.readouterr().err
        assert not server.requests
        assert command(folder, server, *prices, "--ask-above", "100") == 0
        assert "3,000 input and 600 output tokens: 3.60" in capsys.readouterr().out
    far = ["data", "annotate", str(folder), "--base-url", "http://far.invalid/v1", "--model", "n",
           "--changed", "redo"]  # fmt: skip
    assert main(far) == 2
    assert "the cost is not known: give --price-in and --price-out" in capsys.readouterr().err


def test_the_key_is_never_shown_or_written(tmp_path, capsys, monkeypatch):
    folder = write_v2(tmp_path / "set")
    monkeypatch.setenv("MY_KEY", "sk-very-secret")

    def answer(request: dict, number: int) -> Reply:
        return Reply(status=400, body="key sk-very-secret") if number == 1 else Reply()

    with chat_server(answer) as server:
        assert command(folder, server, "--api-key-env", "MY_KEY") == 1
        assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
        assert command(folder, server, "--api-key-env", "NO_SUCH_KEY") == 2
    said = capsys.readouterr()
    assert "NO_SUCH_KEY is not set" in said.err
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert "very-secret" not in said.out + said.err and b"very-secret" not in written


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_done(tmp_path):
    folder = write_v2(tmp_path / "set")
    code = "import sys; from vla_cli.parser import main; sys.exit(main(sys.argv[1:]))"
    with chat_server(lambda _, n: Reply(delay=0.0 if n == 0 else 600.0)) as server:
        arguments = ["data", "annotate", str(folder), "--base-url", server.url, "--model", "m",
                     "--concurrency", "1"]  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ,
        )
        try:
            while len(server.requests) < 2 and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            # The reply under way would outlast the test's time limit: it was not waited for.
            said, _ = process.communicate()
        finally:
            process.kill()
        assert process.returncode == 130, said
        assert "interrupted; finished episodes are kept" in said and "Traceback" not in said
        assert set(read_records(folder)) == {0}
        assert json.loads((folder / "meta" / "annotations.json").read_text())
        server.answer = good
        assert command(folder, server) == 0
    assert set(read_records(folder)) == {0, 1, 2}


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    folder = write_v2(tmp_path / "set")
    with chat_server(good) as server:
        assert command(folder, server, "--episodes", "0:2") == 0
        (folder / "meta" / "annotations.json").unlink()
        with (folder / "meta" / "annotation_records.jsonl").open("ab") as file:
            file.write(b'{"episode": 2, "instr')
        assert command(folder, server) == 0
    assert len(server.requests) == 3 and set(read_records(folder)) == {0, 1, 2}


# Language motion


def test_motion_labels_are_found_by_the_number_of_the_frame(tmp_path):
    """Whatever training leaves out at the start, a frame gets the label of its own pose."""
    folder = write_v3(tmp_path / "set")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        f"cameras: {{{CONTRACT.cameras[0].name}: camera}}\ndrop_first: 1\nrelabel: true\n"
    )
    arguments = ["data", "annotate", str(folder), "--contract", "widowx_bridge"]
    assert main([*arguments, "--mapping", str(mapping)]) == 0
    trimmed = LeRobotMapping(MAPPING.cameras, drop_first=1, relabel=True)
    data = LeRobotEpisodes(folder, trimmed, CONTRACT)
    generator, row, labels = np.random.default_rng(0), 0, set()
    for episode, length in enumerate(LENGTHS):
        poses = poses_of_states(STATES[episode], CONTRACT.state_names)
        window = round(MOTION_SPAN * FPS)
        closed = 1.0 - actions_of(episode)[:, 6]
        expected = language_motion(*poses, closed, MotionThresholds(window=window))
        for frame in range(1, length - 1):
            sample = data.sample(row, generator)
            np.testing.assert_allclose(sample.state, STATES[episode][frame])
            assert sample.motion == expected[frame]
            labels.add(sample.motion)
            row += 1
    assert row == len(data) and len(labels) > 2


@pytest.mark.slow
def test_converted_bags_get_the_motions_that_their_bags_have(tmp_path):
    contract = load_contract(contract_path("sim_panda"))
    write_demonstration(tmp_path / "bags" / "a", contract)
    expected = BagEpisodes(tmp_path / "bags", contract)
    folder = tmp_path / "set"
    convert_bags(find_bags([tmp_path / "bags"]), folder, contract, workers=1)
    assert main(["data", "annotate", str(folder)]) == 0
    data, generator = LeRobotEpisodes(folder, None, contract), np.random.default_rng(0)
    motions = [data.sample(index, generator).motion for index in range(len(data))]
    assert motions == [expected.sample(index, generator).motion for index in range(len(data))]
    assert len(set(motions)) > 2


def test_a_data_set_without_a_contract_has_no_motions(tmp_path, capsys):
    folder = write_v2(tmp_path / "set")
    assert main(["data", "annotate", str(folder)]) == 0
    assert "no language motion" in capsys.readouterr().out
    assert json.loads((folder / "meta" / "annotations.json").read_text()) == {}


def test_episodes_that_cannot_be_described_are_listed(tmp_path, capsys):
    folder = write_v2(tmp_path / "set")
    path = folder / "meta" / "episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["tasks"], lines[1]["tasks"] = [""], ["open it", "close it"]
    path.write_text("\n".join(map(json.dumps, lines)))
    drop_column(folder / "data/chunk-000/episode_000000.parquet", "task_index")
    drop_column(folder / "data/chunk-000/episode_000001.parquet", "task_index")
    with chat_server(good) as server:
        assert command(folder, server) == 1
    said = capsys.readouterr().out
    assert "episode 0: it has no instruction" in said and len(server.requests) == 1
    assert "episode 1: it has 2 instructions, not one" in said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--truth", "--model", "m"), "either --truth or --model"),
        (("--estimate",), "--estimate is for a --model"),
        (("--model", "m", "--camera", "left"), "has no camera 'left'; it has: camera"),
        (("--model", "m", "--episodes", "5:9"), "there are 3 episodes"),
        (("--model", "m", "--prompt", "none.md"), "cannot read none.md"),
        (("--model", "m", "--concurrency", "0"), "--concurrency takes a number from 1"),
        (("--model", "m", "--questions", "0"), "ask for at least one question"),
        (("--truth",), "does not tell the scenes of the episodes"),
        (("--contract", "widowx_bridge"), "was not written by 'vla data convert'"),
    ],
)
def test_faulty_options_are_refused(tmp_path, capsys, more, says):
    assert main(["data", "annotate", str(write_v2(tmp_path / "set")), *more]) == 2
    assert says in capsys.readouterr().err
