"""What the operator page shows: the predicted path in the images, states, delays, limits."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from vla_ros.msg import Episode, PolicyStatus, Response

from vla.control.chunk import ActionChunk
from vla.core.resources import shared_file
from vla.envs.tabletop.samples import simulated_views
from vla.page.overlay import (
    CalibrationError,
    drawn_path,
    path_in_view,
    read_views,
    tool_path,
    with_intrinsics,
)
from vla.page.shown import (
    DiagnosticsWatch,
    LimitWatch,
    RecentAnswers,
    RecordingWatch,
    policy_values,
)

FRAMES = ("panda_link0", "panda_hand_tcp")


def chunk(steps: int = 4, stamp: float = 10.0) -> ActionChunk:
    actions = np.tile([0.01, 0.0, -0.02, 0, 0, 0, 1.0], (steps, 1))
    actions[-1, 6] = -0.2
    return ActionChunk(stamp, 0.1, actions, np.array([0.4, 0.1, 0.3]), np.array([1.0, 0, 0, 0]))


def shipped() -> dict:
    """The simulated Panda's calibration, as the node gets it."""
    text = shared_file("config/robots/sim_panda.yaml").read_text()
    cameras = yaml.safe_load(text)["/**/page"]["ros__parameters"]["cameras"]
    return {f"{name}.{key}": value for name, own in cameras.items() for key, value in own.items()}


@pytest.mark.slow
def test_the_shipped_calibration_is_that_of_the_simulator(contract):
    views = read_views(shipped(), ["front", "wrist"], *FRAMES)
    points = np.random.default_rng(0).uniform((0.3, -0.3, 0.0), (0.7, 0.3, 0.4), (50, 3))
    # The tool looks down, as it does in the simulator.
    state = np.tile([0.5, 0.0, 0.4, 1, 0, 0, 0, -1, 0], (50, 1))
    for name, exact in simulated_views(contract).items():
        view = with_intrinsics(views[name], exact.matrix, exact.size)
        assert view.on_tool == (name == "wrist")
        seen, wanted = view.project(points, state), exact.project(points, state)
        np.testing.assert_allclose(seen, wanted, atol=0.05)
        assert np.isfinite(wanted).mean() > 0.5


def test_the_path_begins_with_the_step_that_is_due():
    path = tool_path(chunk(), now=10.0)
    np.testing.assert_allclose(path[:, 0], [0.41, 0.42, 0.43, 0.44])
    np.testing.assert_allclose(path[:, 2], [0.28, 0.26, 0.24, 0.22])
    assert path[:, 3].tolist() == [1.0, 1.0, 1.0, 0.0], "the opening stays in its range"
    assert len(tool_path(chunk(), now=10.25)) == 2
    assert len(tool_path(chunk(), now=11.0)) == 0


def test_a_path_is_drawn_where_the_camera_sees_it():
    pose = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]  # one metre up, looking down: its x is the base's
    view = read_views({"top.frame": FRAMES[0], "top.pose": pose}, ["top"], *FRAMES)["top"]
    matrix = np.array([[100.0, 0, 99.5], [0, 100.0, 49.5], [0, 0, 1]])
    view = with_intrinsics(view, matrix, 200)
    tool = (np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
    path = np.array([[0, 0, 0, 1.0], [0.5, 0, 0, 0.0], [0, 0.25, 0, 0.0], [0, 0, 2.0, 0.0]])
    drawn = drawn_path(path, view, tool, height=100)
    # x to the right, y up in the image; what is behind the camera is left out.
    assert drawn == [[0.5, 0.5, 1.0], [0.75, 0.5, 0.0], [0.5, 0.25, 0.0]]


def test_without_what_it_needs_there_is_no_path():
    view = with_intrinsics(
        read_views(shipped(), ["front", "wrist"], *FRAMES)["front"], np.eye(3), 96
    )
    tool = (np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
    assert path_in_view(chunk(), view, tool, 10.0, 96)
    broken = chunk()
    broken.actions[0, 0] = math.nan
    for given in (
        (None, view, tool, 10.0, 96),
        (chunk(), None, tool, 10.0, 96),
        (chunk(), view, None, 10.0, 96),
        (chunk(), view, tool, 99.0, 96),
        (broken, view, tool, 10.0, 96),
    ):
        assert path_in_view(*given) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"side.frame": "panda_link0"}, "has no camera 'side'; it has: front, wrist"),
        ({"front.frame": "world"}, "cameras.front.frame must be 'panda_link0' or 'panda_hand_tcp'"),
        ({"front.pose": [0.0] * 7}, "of unit length"),
        ({"front.pose": [1.0, 2.0]}, "cameras.front.pose must be x y z and a quaternion"),
        ({"front.pose": [math.nan] * 7}, "cameras.front.pose must be"),
        ({"front.pose": "here"}, "cameras.front.pose must be"),
        ({"front.pose": None}, "cameras.front.pose must be"),
    ],
)
def test_a_wrong_calibration_says_what_to_correct(changes, said):
    with pytest.raises(CalibrationError, match=said):
        read_views(shipped() | changes, ["front", "wrist"], *FRAMES)


def test_a_status_says_what_the_policy_does_and_why_it_holds():
    status = PolicyStatus(
        state=PolicyStatus.HOLDING,
        hold_reason=PolicyStatus.HOLD_STALE_CHUNK,
        message="no chunk for 1.2 s\x1b[2J",
        instruction_id=7,
        instruction="pick <b>it</b>",
        chunk_age=math.nan,
    )
    shown = policy_values(status, "think")
    assert (shown["state"], shown["reason"]) == ("holding", "stale chunk")
    assert shown["message"] == "no chunk for 1.2 s\\x1b[2J", "invisible characters are escaped"
    assert shown["mode"] == "think" and shown["chunk_age"] is None
    assert policy_values(PolicyStatus(state=99), "act")["state"] == "unknown (99)"
    json.dumps(shown, allow_nan=False)


def test_limits_are_marked_while_they_intervene():
    watch = LimitWatch()
    watch.update(["workspace", "speed"], [0, 3], 10.0)
    watch.update(["workspace", "speed"], [1, 3], 13.0)
    assert watch.values(13.5) == [
        {"reason": "workspace", "count": 1, "now": True},
        {"reason": "speed", "count": 3, "now": False},
    ]
    watch.update(["workspace", "speed"], [0, 0], 14.0)
    assert watch.values(14.0) == [], "the controller was started again"


def diagnostic(node: str, level: bytes = b"\x00", message: str = "ok", **values: str):
    entries = [SimpleNamespace(key=key, value=value) for key, value in values.items()]
    return SimpleNamespace(name=node, level=level, message=message, values=entries)


def test_delays_are_those_of_the_nodes_of_the_namespace():
    watch = DiagnosticsWatch("left")
    perception = {"age_camera_front_p50_ms": "30.00", "latency_p50_ms": "12.00"}
    watch.update(
        [
            diagnostic("left/perception: observations", **perception),
            diagnostic("left/controller", latency_p50_ms="6.5", age_observation_p50_ms="140.0"),
            diagnostic("left/action_expert", latency_p50_ms="nan"),
            diagnostic("right/reasoning", latency_p50_ms="80.0"),
            diagnostic("perception", latency_p50_ms="80.0"),
        ],
        1.0,
    )
    assert watch.stages("front") == [
        {"stage": "camera", "ms": 18.0},
        {"stage": "perception", "ms": 12.0},
        {"stage": "control", "ms": 6.5},
        {"stage": "light to command", "ms": 140.0},
    ]
    assert [entry["node"] for entry in watch.values(1.0)] == [
        "action_expert", "controller", "perception"
    ]  # fmt: skip


def test_a_node_that_reports_no_more_is_silent():
    watch = DiagnosticsWatch()
    watch.update([diagnostic("/sim", b"\x01", "slow")], 1.0)
    assert watch.values(2.0)[0]["level"] == "warn"
    silent = watch.values(9.0)[0]
    assert (silent["level"], silent["message"]) == ("silent", "silent for 8 s")


def test_a_text_that_is_made_again_replaces_the_one_before():
    answers = RecentAnswers(most=2)
    for prompt, text in (("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")):
        answers.add(Response(prompt=prompt, text=text, inference_time=math.nan))
    assert [(each["prompt"], each["text"]) for each in answers.values()] == [("c", "4"), ("b", "3")]
    assert answers.values()[0]["seconds"] is None


def test_an_episode_runs_from_its_start_to_its_end():
    watch = RecordingWatch()
    for event, running in (
        (Episode.STARTED, "e1"),
        (Episode.SUBTASK, "e1"),
        (Episode.LABELLED, "e1"),
        (Episode.STOPPED, ""),
        (Episode.LABELLED, ""),
        (Episode.SUBTASK, "e1"),
        (Episode.FAILED, ""),
    ):
        watch.update(Episode(event=event, episode_id="e1", message="why"), 0.0)
        assert watch.values(DiagnosticsWatch(), 0.0)["episode"] == running, event
    assert watch.values(DiagnosticsWatch(), 0.0)["message"] == "why"


def test_an_episode_does_not_outlive_its_recorder():
    diagnostics, watch = DiagnosticsWatch(), RecordingWatch()

    def told(episode: str, now: float) -> dict:
        diagnostics.update([diagnostic("recorder: recording", episode=episode)], now)
        return watch.values(diagnostics, now)

    told("", 10.0)
    watch.update(Episode(event=Episode.STARTED, episode_id="e1"), 10.1)
    assert told("", 10.2)["episode"] == "e1", "of before the start"
    assert told("e1", 11.2) == {"episode": "e1", "message": ""}
    silent = watch.values(diagnostics, 15.0)
    assert silent == {"episode": "", "message": "the recorder is silent; e1 may have ended"}
    # Started again, it records nothing, and says nothing of what its predecessor did.
    assert told("", 16.0) == {"episode": "", "message": "e1 ended with its recorder"}
    watch.update(Episode(event=Episode.STARTED, episode_id="e2"), 17.0)
    assert told("e2", 17.5) == {"episode": "e2", "message": ""}
