"""Long instructions, split by a model behind a server of the test's own, and followed in steps."""

from __future__ import annotations

import base64
import io

import pytest
from chat_server import Reply, chat_server
from PIL import Image

from vla.annotation.endpoint import EndpointConfig
from vla.annotation.steps import (
    DONE_SCHEMA,
    MOST_STEPS,
    SPLIT_SCHEMA,
    TRIES,
    GuideError,
    follow_in_steps,
    make_guide,
)
from vla_cli.parser import main

TASK = "I want to have dinner here, clear the table first"
STEPS = ["pick up the red can", "put the red can in the bowl"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (64, 48), shade).save(buffer, "JPEG")
    return buffer.getvalue()


class Robot:
    """What a robot sees and does, and what is said about it. ends: of its runs, in order."""

    def __init__(self, *ends: str):
        self.ends, self.ran, self.told, self.looks = list(ends), [], [], 0

    def look(self) -> bytes:
        self.looks += 1
        return picture(40 * self.looks)

    def run(self, step: str) -> str:
        self.ran.append(step)
        return self.ends.pop(0) if self.ends else "settled"


def follow(server, robot: Robot, **changes):
    endpoint = EndpointConfig(
        server.url, "m", **{"attempts": 2, "first_pause": 0.0, "temperature": 0.0} | changes
    )
    return follow_in_steps(make_guide(endpoint), TASK, robot.look, robot.run, robot.told.append)


def answering(steps, *verdicts: bool):
    """A model that gives these steps, then these verdicts, then true."""
    left = list(verdicts)

    def answer(request: dict, number: int) -> Reply:
        schema = request["response_format"]["json_schema"]["schema"]
        if schema == SPLIT_SCHEMA:
            return Reply({"steps": steps})
        assert schema == DONE_SCHEMA
        done = left.pop(0) if left else True
        return Reply({"done": done, "reason": "the can is there" if done else "it stands"})

    return answer


def shade_in(request: dict) -> int:
    url = request["messages"][1]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).getpixel((9, 9))


def text_in(request: dict) -> str:
    return request["messages"][1]["content"][-1]["text"]


def test_steps_are_followed_one_after_the_other_each_judged_by_what_is_seen_then():
    robot = Robot()
    with chat_server(answering(STEPS)) as server:
        ended = follow(server, robot)
    assert (ended.outcome, ended.done, ended.steps) == ("done", 2, tuple(STEPS))
    assert robot.ran == STEPS and len(server.requests) == 3
    # Asked for the steps once, at the beginning; each time with what the robot sees by then.
    assert [round(shade_in(request) / 40) for request in server.requests] == [1, 2, 3]
    first, *later = map(text_in, server.requests)
    assert f'"{TASK}"' in first and f"at most\n{MOST_STEPS}" in first
    for text, step in zip(later, STEPS, strict=True):
        assert f'"{step}"' in text and f'"{TASK}"' in text
    assert robot.told == [
        "step 1 of 2: pick up the red can", "done: the can is there",
        "step 2 of 2: put the red can in the bowl", "done: the can is there",
    ]  # fmt: skip


def test_a_step_that_is_not_done_is_tried_again_and_then_given_up():
    robot = Robot("timeout", "settled")
    with chat_server(answering(STEPS, False, True)) as server:
        assert follow(server, robot).outcome == "done"
    assert robot.ran == [STEPS[0], STEPS[0], STEPS[1]]
    robot = Robot()
    with chat_server(answering(STEPS, True, *[False] * TRIES)) as server:
        ended = follow(server, robot)
    assert (ended.outcome, ended.done) == ("not_done", 1)
    assert ended.message == "step 2 is not done after 2 runs: it stands"
    assert robot.ran == [STEPS[0], *[STEPS[1]] * TRIES]


@pytest.mark.parametrize("end", ["stopped", "replaced", "canceled", "fault"])
def test_what_ends_a_step_from_outside_ends_all_without_asking(end):
    robot = Robot("settled", end)
    with chat_server(answering(STEPS)) as server:
        ended = follow(server, robot)
    assert (ended.outcome, ended.done, ended.message) == (end, 1, f"step 2 ended: {end}")
    assert len(server.requests) == 2


def test_nothing_to_do_moves_nothing():
    robot = Robot()
    with chat_server(answering([])) as server:
        assert follow(server, robot).outcome == "nothing_to_do"
    assert not robot.ran


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"steps": ["pick it up", " "]}, "steps[1]: the instruction is empty"),
        ({"steps": ["go"] * (MOST_STEPS + 1)}, f"there are {MOST_STEPS + 1} steps, at most"),
        ({"steps": [3]}, "must be of type string"),
        ("Sure! First, pick up the can.", "the reply is not valid JSON"),
    ],
)
def test_steps_that_no_robot_can_be_told_are_asked_for_again(bad, says):
    good = answering(STEPS)
    robot = Robot()
    with chat_server(lambda r, n: Reply(bad) if n == 0 else good(r, n)) as server:
        assert follow(server, robot).outcome == "done"
    assert says in text_in({"messages": [None, server.requests[1]["messages"][-1]]})


@pytest.mark.parametrize("when", [0, 1])
@pytest.mark.parametrize(
    "reply, says",
    [
        (Reply(status=500, body="out of memory"), "500: out of memory, after 2 attempts"),
        (Reply(status=401, body="no such key"), "the server answered 401: no such key"),
        (Reply(drop=True), "no connection to http"),
        (Reply({"done": "yes", "reason": "so"}), "2 replies were unusable, the last"),
    ],
)
def test_a_model_that_fails_is_told_in_one_sentence_and_nothing_more_moves(reply, says, when):
    robot, good = Robot(), answering(STEPS)
    with (
        chat_server(lambda r, n: reply if n >= when else good(r, n)) as server,
        pytest.raises(GuideError) as caught,
    ):
        follow(server, robot)
    text = str(caught.value)
    assert text.startswith("the model that guides the robot gave no answer: ") and says in text
    assert text.endswith("the arm holds, and no instruction is in force") and "\n" not in text
    assert robot.ran == STEPS[:when]


def test_options_that_do_not_go_together_are_refused(capsys, monkeypatch):
    assert main(["instruct", TASK, "--split-by", "m", "--no-wait"]) == 2
    assert "leave --no-wait out" in capsys.readouterr().err
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert main(["instruct", TASK, "--split-by", "m", "--api-key-env", "NO_SUCH_KEY"]) == 2
    assert "variable NO_SUCH_KEY is not set" in capsys.readouterr().err
