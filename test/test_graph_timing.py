"""Delays and rates measured from a bag whose every delay is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory
from vla_ros.msg import ActionChunk, LatentAction, Observation

from vla.bags.message_types import load_message_type
from vla.bags.writer import BagWriter
from vla.contract.embodiment import load_contract
from vla.evaluation.graph_timing import format_table, measure_graph, percentiles

CONTRACT = load_contract(Path(__file__).parents[1] / "config/contracts/sim_panda.yaml")
MILLISECOND = 1_000_000
WALL = 1_700_000_000_000_000_000
SIMULATED = 5_000_000_000


class Recording:
    """Writes ROS messages with chosen publication times, in wall milliseconds."""

    def __init__(self, folder: Path, namespace: str = ""):
        self.writer = BagWriter(folder)
        self.namespace = namespace
        self.topics = {}

    def add(self, topic: str, message, milliseconds: float) -> None:
        kind = type(message)
        name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        if topic not in self.topics:
            self.topics[topic] = self.writer.add_topic(
                self.namespace + topic, load_message_type(name)
            )
        time = WALL + round(milliseconds * MILLISECOND)
        self.writer.write(self.topics[topic], serialize_message(message), time + MILLISECOND, time)


def stamped(message, milliseconds: float):
    """Stamps with the simulated time at which the wall clock shows `milliseconds`, at speed 0.5."""
    seconds, nanoseconds = divmod(SIMULATED + round(milliseconds / 2 * MILLISECOND), 10**9)
    message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
    return message


def record_run(folder: Path, cycles: int = 10, namespace: str = "") -> None:
    recording = Recording(folder, namespace)
    for tick in range(0, 100 * cycles + 200, 10):
        simulated = SIMULATED + tick * MILLISECOND // 2
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(simulated, 10**9)
        recording.add("/clock", clock, tick)
        # A stream of commands, 1 ms after each multiple of 10 ms.
        recording.add("/joint_trajectory_controller/joint_trajectory", JointTrajectory(), tick + 1)
    for cycle in range(cycles):
        start = 100 * cycle
        recording.add("/camera/front/image_raw", stamped(Image(), start), start + 4)
        recording.add("/vla/observation", stamped(Observation(), start), start + 7)
        if cycle % 2 == 0:
            latent = LatentAction(inference_time=0.050)
            recording.add("/vla/latent_action", stamped(latent, start), start + 60)
        chunk = stamped(ActionChunk(inference_time=0.030), start)
        latent = stamped(LatentAction(), start - 100)
        chunk.latent_stamp = latent.header.stamp
        recording.add("/vla/action_chunk", chunk, start + 43)
    recording.writer.close()


def test_every_stage_is_found(tmp_path):
    record_run(tmp_path / "bag")
    report = measure_graph([tmp_path / "bag"], CONTRACT)
    stages = report["camera_to_command_ms"]
    expected = {
        "camera": 4.0,
        "perception": 3.0,
        "waiting": 6.0,
        "action_expert": 30.0,
        "control": 8.0,
        "total": 51.0,
        "not_model": 21.0,
    }
    assert {name: values["count"] for name, values in stages.items()} == dict.fromkeys(expected, 10)
    for name, milliseconds in expected.items():
        assert stages[name]["p50"] == pytest.approx(milliseconds, abs=0.01), name
        assert stages[name]["p99"] == pytest.approx(milliseconds, abs=0.01), name
    parts = ("camera", "perception", "waiting", "action_expert", "control")
    assert sum(expected[name] for name in parts) == expected["total"]
    assert report["image_age_at_perception_ms"]["p50"] == pytest.approx(7.0, abs=0.01)
    assert report["reasoning_inference_ms"] == {
        "count": 5,
        "p50": 50.0,
        "p99": 50.0,
        "mean": 50.0,
        "maximum": 50.0,
    }
    assert report["reasoning_waiting_ms"]["p50"] == pytest.approx(3.0, abs=0.01)
    # Ages of data are in simulated time, which runs at half speed here.
    assert report["latent_age_ms"]["p50"] == pytest.approx(50.0, abs=0.01)


def test_a_graph_in_a_namespace_has_all_there_its_clock_too(tmp_path):
    record_run(tmp_path / "plain")
    record_run(tmp_path / "left", namespace="/left")
    plain = measure_graph([tmp_path / "plain"], CONTRACT)
    left = measure_graph([tmp_path / "left"], CONTRACT, "/left")
    for part in ("camera_to_command_ms", "real_time_factor"):
        assert left[part] == plain[part]


def test_rates_and_real_time_factor(tmp_path):
    record_run(tmp_path / "a")
    record_run(tmp_path / "b", cycles=20)
    report = measure_graph([tmp_path / "a", tmp_path / "b"], CONTRACT)
    assert report["real_time_factor"] == pytest.approx(0.5)
    assert report["rates"]["/vla/action_chunk"]["hz"] == pytest.approx(10.0)
    assert report["rates"]["/vla/latent_action"]["hz"] == pytest.approx(5.0)
    table = format_table(report)
    assert "| camera stamp to first command " in table and "| 51.0 |" in table.replace("     ", " ")


def test_chunk_that_was_replaced_before_use_has_no_command(tmp_path):
    recording = Recording(tmp_path / "bag")
    for start in (0, 100):
        recording.add("/vla/action_chunk", stamped(ActionChunk(), start), start)
    recording.add("/joint_trajectory_controller/joint_trajectory", JointTrajectory(), 150)
    recording.writer.close()
    report = measure_graph([tmp_path / "bag"], CONTRACT)
    assert report["camera_to_command_ms"]["control"]["count"] == 1
    assert report["camera_to_command_ms"]["control"]["p50"] == pytest.approx(50.0)


def test_nothing_recorded_is_reported_as_nothing(tmp_path):
    Recording(tmp_path / "bag").writer.close()
    report = measure_graph([tmp_path / "bag"], CONTRACT)
    assert report["real_time_factor"] is None
    assert report["camera_to_command_ms"]["total"] == percentiles([])
    assert "-" in format_table(report)
