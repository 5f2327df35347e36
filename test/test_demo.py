"""The demonstration's own parts: its list of instructions, its ROS domain and its video."""

from __future__ import annotations

import socket
from pathlib import Path

import av
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray, Header
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import tiny
from vla_ros.msg import SceneState

from vla.bags.message_types import load_message_type
from vla.bags.writer import BagWriter
from vla.envs.tabletop.replay_video import STATE_TOPIC, EpisodeFootage, read_states, write_video
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import FAMILIES
from vla_cli.demo import load_demo_config, versions, within_features
from vla_cli.errors import CommandError
from vla_cli.graph import free_domain_id
from vla_cli.parser import main
from vla_nodes.client.demo import DemoClient
from vla_nodes.client.graph import RobotClient

ROOT = Path(__file__).parents[1]


def test_shipped_instructions_cover_every_family_and_mode():
    config = load_demo_config(ROOT / "config/demo.yaml")
    entries = config["instructions"]
    assert {entry["family"] for entry in entries} == set(FAMILIES)
    assert any(entry.get("mode") == "think" for entry in entries)
    assert any(entry.get("question") for entry in entries)
    assert config["required_successes"] == 4 and len(entries) == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("instructions: []", "at least one"),
        ("instructions: [{seed: 1}]", "'seed' and 'family'"),
        ("instructions: [{seed: 1, family: pick, sed: 2}]", "unknown entries: sed"),
        ("instructions: [", "not valid YAML"),
    ],
)
def test_wrong_list_is_refused_in_one_line(tmp_path, capsys, text, says):
    path = tmp_path / "demo.yaml"
    path.write_text(text)
    status = main(["demo", "--config", str(path), "--output", str(tmp_path / "output")])
    assert status == 2
    error = capsys.readouterr().err.strip()
    assert says in error and len(error.splitlines()) == 1


def test_a_policy_is_asked_for_nothing_that_it_can_not_do(tmp_path, capsys):
    asked = load_demo_config(ROOT / "config/demo.yaml")["instructions"]
    assert within_features(asked, ROOT / "checkpoints/nano") == asked
    assert capsys.readouterr().out == ""
    folder = save_tiny_checkpoint(tmp_path / "tiny", config=tiny("policy_head"))
    less = within_features(asked, folder)
    assert [entry["instruction"] for entry in less] == [entry["instruction"] for entry in asked]
    assert not any("question" in entry or "mode" in entry for entry in less)
    told = capsys.readouterr().out
    assert "instruction 2: this policy acts without" in told
    assert "instruction 5: this policy answers no questions" in told


def test_missing_list_and_missing_checkpoint_are_named(tmp_path, capsys):
    output = str(tmp_path / "output")
    assert main(["demo", "--config", str(tmp_path / "none.yaml"), "--output", output]) == 2
    assert "none.yaml" in capsys.readouterr().err
    assert main(["demo", "--checkpoint", str(tmp_path / "nowhere"), "--output", output]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_client_of_the_demo_replaces_no_method_of_its_base():
    shared = vars(DemoClient).keys() & {name for name in vars(RobotClient) if name[:2] != "__"}
    assert not shared


def test_domain_in_use_is_not_taken(monkeypatch):
    monkeypatch.setattr("random.shuffle", lambda domains: domains.sort())
    first = free_domain_id()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 7400 + 250 * first + 10))
        assert free_domain_id() > first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket.bind", refuse)
        with pytest.raises(CommandError, match="--domain-id"):
            free_domain_id()


def refuse(*_):
    raise OSError("in use")


def test_versions_name_what_figures_depend_on():
    assert {"vla_ros", "python", "mujoco", "torch"} <= versions().keys()


def record_sweep(folder: Path, seed: int, seconds: float) -> np.ndarray:
    """A bag of the arm turning at its base; returns the last configuration."""
    simulator = TableTopSimulator()
    simulator.reset(seed, "pick")
    start = simulator.joint_positions
    kind = load_message_type("vla_ros/msg/SceneState")
    with BagWriter(folder) as writer:
        topic = writer.add_topic(STATE_TOPIC, kind)
        for tick in range(int(seconds * 10) + 1):
            target = start.copy()
            target[0] += 0.03 * tick
            simulator.command(target, 0.04)
            simulator.step(0.1)
            message = SceneState(seed=seed, family="pick", qpos=simulator.qpos.tolist())
            writer.write(topic, serialize_message(message), 10**18 + tick * 10**8)
    return simulator.qpos


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vla_ros/msg/SceneState", SceneState(header=Header(frame_id="base"), qpos=[0.5, -1.0])),
        ("std_msgs/msg/Float64MultiArray", Float64MultiArray(data=[0.5, -1.0])),
    ],
)
def test_states_of_present_and_of_older_bags_are_read(tmp_path, name, message):
    with BagWriter(tmp_path / "bag") as writer:
        topic = writer.add_topic(STATE_TOPIC, load_message_type(name))
        for tick in range(2):
            writer.write(topic, serialize_message(message), 10**18 + tick * 10**8)
    states = read_states(tmp_path / "bag")
    assert [time for time, _ in states] == pytest.approx([0.0, 0.1])
    assert [qpos.tolist() for _, qpos in states] == [[0.5, -1.0]] * 2


@pytest.mark.slow
def test_video_shows_the_recorded_motion_and_the_verdict(tmp_path):
    record_sweep(tmp_path / "bag", 3, 1.0)
    footage = [
        EpisodeFootage(tmp_path / "bag", 3, "pick", "pick up the blue can", "the blue can", True)
    ]
    frames = write_video(tmp_path / "demo.mp4", footage, size=160, rate=10, closing_seconds=0.5)
    with av.open(str(tmp_path / "demo.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == frames == 11 + 5
    assert pictures[0].shape == (160, 160, 3)
    middle = [picture[40:110].astype(float) for picture in pictures]
    moved = np.abs(middle[10] - middle[0]).mean()
    still = np.abs(middle[15] - middle[11]).mean()
    assert moved > 3 * still + 0.5
    verdict = np.abs(pictures[-1][130:].astype(float) - pictures[9][130:]).mean()
    assert verdict > 2.0


def test_video_of_nothing_is_refused(tmp_path):
    BagWriter(tmp_path / "bag").close()
    footage = [EpisodeFootage(tmp_path / "bag", 3, "pick", "pick")]
    with pytest.raises(ValueError, match=STATE_TOPIC):
        write_video(tmp_path / "demo.mp4", footage, size=64)
