"""The recorder as a process: complete bags, refusals, and bags that outlive a killed recorder."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from node_harness import Graph
from recorded_robot import CONTRACT, Robot, begin, end, started
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Float64MultiArray
from test_bag_index import write_unfinished
from vla_ros.msg import ActionChunk, Episode, Instruction, LatentAction
from vla_ros.srv import StartEpisode

from vla.bags.reader import (
    read_decoded,
    read_messages,
    read_metadata,
    unfinished_bags,
    validate_bag,
)
from vla.contract.embodiment import contract_from_dict, load_contract
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes


def test_episode_holds_everything_that_was_published(tmp_path):
    with Graph() as graph:
        process = started(graph, tmp_path)
        robot = Robot(graph)
        instructions = graph.publisher(Instruction, "vla/instruction", qos.LATCHED)
        instructions.publish(
            Instruction(instruction_id=7, instruction="pick up the red block", mode="act")
        )
        others = {
            "vla/latent_action": LatentAction(checkpoint_id="nano-1", data=[1.0, 2.0]),
            "vla/action_chunk": ActionChunk(checkpoint_id="nano-1"),
            "gripper_position_controller/commands": Float64MultiArray(data=[0.04]),
            "camera/front/camera_info": CameraInfo(width=96),
        }
        publishers = {
            topic: graph.publisher(type(message), topic, qos.RESULT)
            for topic, message in others.items()
        }
        episodes = graph.collect(Episode, "vla/episode", qos.EVENT)
        episode = begin(graph, robot, note="operator: test")
        for _ in range(20):
            robot.send(5)
            for topic, message in others.items():
                publishers[topic].publish(message)
            graph.spin(0.005)
        expected = sum(robot.sent.values()) + 20 * len(others)
        graph.wait(
            lambda: int(graph.diagnostic("recorder")["messages"]) >= expected, "all messages"
        )
        stopped = end(graph, "success", "second note")
        assert stopped.success and stopped.uri == episode.uri
        graph.wait(lambda: len(episodes) >= 2, "two events")
        assert [event.event for event in episodes] == [Episode.STARTED, Episode.STOPPED]
        assert episodes[-1].message_count == stopped.message_count
        assert episodes[-1].instruction == "pick up the red block"
        assert process.stop(signal.SIGINT) == 0

    report = validate_bag(episode.uri)
    counts = {f"/{topic}": count for topic, count in robot.sent.items()}
    counts |= {f"/{topic}": 20 for topic in others}
    # In force since before the start, and therefore repeated.
    counts["/vla/instruction"] = 1
    assert report.counts == counts
    assert stopped.message_count == sum(counts.values())
    assert stopped.duration == pytest.approx(report.duration)

    custom = read_metadata(episode.uri).custom_data
    assert custom["outcome"] == "success"
    assert custom["note"] == "operator: test\nsecond note"
    assert custom["instruction"] == "pick up the red block"
    assert json.loads(custom["instructions"])[0]["instruction_id"] == 7
    assert custom["checkpoint_id"] == "nano-1"
    assert json.loads(custom["drops"]) == {}
    assert custom["complete"] == "true"
    contract = load_contract(CONTRACT)
    assert contract_from_dict(yaml.safe_load(custom["contract"])) == contract
    assert custom["contract_id"] == contract.contract_id
    latents = [value for _, value in read_decoded(episode.uri, {"/vla/latent_action"})]
    assert [list(latent.data) for latent in latents] == [[1.0, 2.0]] * 20


def test_start_names_the_silent_topic(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path)
        robot = Robot(graph, without="camera/wrist/image_raw")

        def only_the_wrist_is_missing():
            robot.send()
            response = graph.call(StartEpisode, "vla/start_episode", StartEpisode.Request())
            assert not response.success
            others = ("joint_states", "camera/front")
            return None if any(o in response.message for o in others) else response.message

        message = graph.wait(only_the_wrist_is_missing, "refusal for one topic")
        assert "camera/wrist/image_raw" in message and "nobody publishes it" in message
        assert "camera/front" not in message
        assert list(tmp_path.iterdir()) == []
        refused = end(graph, "success")
        assert not refused.success and "no episode" in refused.message


def test_discard_deletes_and_unknown_outcome_is_refused(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path)
        robot = Robot(graph)
        episode = begin(graph, robot)
        robot.send(3)
        again = graph.call(StartEpisode, "vla/start_episode", StartEpisode.Request())
        assert not again.success and episode.episode_id in again.message
        wrong = end(graph, "excellent")
        assert not wrong.success and "'failure'" in wrong.message
        assert Path(episode.uri).is_dir()
        assert end(graph, "discard").success
        assert list(tmp_path.iterdir()) == []


def test_sigterm_closes_the_bag(tmp_path):
    with Graph() as graph:
        process = started(graph, tmp_path)
        robot = Robot(graph)
        episode = begin(graph, robot)
        robot.send(30)
        assert process.stop(signal.SIGTERM) == 0
    assert validate_bag(episode.uri).message_count > 0
    custom = read_metadata(episode.uri).custom_data
    assert custom["complete"] == "true" and custom["outcome"] == ""
    assert "deactivated while recording" in custom["note"]


def test_killed_recorder_leaves_a_readable_bag_that_the_next_one_completes(tmp_path):
    with Graph() as graph:
        process = started(graph, tmp_path, flush_period=0.2)
        robot = Robot(graph)
        episode = begin(graph, robot)
        bag = Path(episode.uri)

        def on_disk():
            robot.send()
            return read_metadata(bag).message_count >= 100

        graph.wait(on_disk, "messages on the disk")
        killed_at = time.time_ns()
        process.kill()
        process.process.wait()
        graph.processes.clear()

        flushed = read_metadata(bag).message_count
        kept = list(read_messages(bag, allow_truncated=True))
        assert len(kept) >= flushed
        newest = max(message.receive_time for message in kept)
        assert killed_at - newest < 1_000_000_000
        assert unfinished_bags(tmp_path) == [bag]

        graph.start("recorder", contract=str(CONTRACT), directory=str(tmp_path))
        graph.wait(
            lambda: read_metadata(bag).custom_data["complete"] == "recovered", "completed bag"
        )
    assert validate_bag(bag).message_count == len(kept)


def hostile_folders(directory: Path, precious: Path) -> list[str]:
    """Folders that a recorder must pass over at its start, of which none is a sound bag."""
    texts = {
        "no_text": b"\xff\xfe\x00",
        "bomb": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n".encode()
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "no_bag": b"- 1\n",
        "empty": b"",
    }
    for name, text in texts.items():
        (directory / name).mkdir()
        (directory / name / "metadata.yaml").write_bytes(text)
    (directory / "pipe").mkdir()
    os.mkfifo(directory / "pipe" / "metadata.yaml")
    for name, file in (("outside", f"../../{precious.name}"), ("absolute", str(precious))):
        write_unfinished(directory / name)
        metadata = directory / name / "metadata.yaml"
        metadata.write_text(metadata.read_text().replace(f"{name}.mcap", file))
    write_unfinished(directory / "link")
    (directory / "link" / "link.mcap").unlink()
    (directory / "link" / "link.mcap").symlink_to(precious)
    write_unfinished(directory / "no_mcap")
    (directory / "no_mcap" / "no_mcap.mcap").write_text("precious, too")
    return [path.name for path in directory.iterdir()]


def test_hostile_folders_do_not_keep_the_recorder_from_starting(tmp_path):
    directory, precious = tmp_path / "bags", tmp_path / "precious.txt"
    directory.mkdir()
    precious.write_text("precious")
    names = hostile_folders(directory, precious)
    # Behind all the others, so that it is completed last.
    write_unfinished(directory / "zz_torn")
    with Graph() as graph:
        process = graph.start("recorder", contract=str(CONTRACT), directory=str(directory))
        graph.wait_diagnostic("recorder", lambda status: status.message != "")
        assert graph.state("recorder") == "active"
        graph.wait(
            lambda: (
                read_metadata(directory / "zz_torn").custom_data["complete"] == "recovered"
                and all(
                    f"{name} in the recorder's folder is skipped" in process.output
                    for name in names
                )
                and "no_mcap.mcap is no MCAP file" in process.output
            ),
            "completed bag, and a line for each other folder",
        )
        assert process.running
        assert "Traceback" not in process.output
    assert validate_bag(directory / "zz_torn").message_count == 60
    assert precious.read_text() == "precious"
    assert (directory / "no_mcap" / "no_mcap.mcap").read_text() == "precious, too"


def test_auto_record_makes_one_episode_per_instruction(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path, auto_record=True)
        robot = Robot(graph)
        instructions = graph.publisher(Instruction, "vla/instruction", qos.LATCHED)
        episodes = graph.collect(Episode, "vla/episode", qos.EVENT)
        # Sensors are heard before the first instruction, or its episode would be refused.
        graph.wait(
            lambda: robot.send() or graph.diagnostic("recorder")["silent_topics"] == "",
            "every topic heard",
        )
        for number, mode, events in ((1, "act", 1), (2, "think", 3), (3, "ask", 4)):
            instructions.publish(
                Instruction(instruction_id=number, instruction=f"task {number}", mode=mode)
            )
            graph.wait(
                lambda count=events: robot.send() or len(episodes) >= count, f"{events} events"
            )
        # One episode may begin while the one before it is still being closed.
        for task in ("task 1", "task 2"):
            assert [e.event for e in episodes if e.instruction == task] == [0, 1]
    bags = sorted(tmp_path.iterdir())
    assert [read_metadata(bag).custom_data["instruction"] for bag in bags] == ["task 1", "task 2"]


def test_bad_settings_keep_the_node_up(tmp_path):
    with Graph() as graph:
        process = graph.start("recorder", contract="/nowhere/contract.yaml")
        status = graph.wait_diagnostic("recorder", lambda s: "configure failed" in s.message)
        assert "/nowhere/contract.yaml" in status.message
        assert graph.state("recorder") == "unconfigured"
        assert process.running
