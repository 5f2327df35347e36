"""Labels, sub-tasks, saving what has just happened, and what fails while an episode is recorded."""

from __future__ import annotations

import json
import math
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from node_harness import ROBOTS, Graph
from recorded_robot import Robot, begin, end, started
from rosbags.highlevel import AnyReader
from vla_ros.msg import ActionChunk, Episode, Instruction
from vla_ros.srv import LabelEpisode, MarkSubtask, SaveRecent, StartEpisode

import vla
from vla.bags.reader import read_messages, read_metadata, validate_bag
from vla_nodes.core import qos

pytestmark = pytest.mark.nodes


def label(graph, outcome, note="", episode_id=""):
    request = LabelEpisode.Request(episode_id=episode_id, outcome=outcome, note=note)
    return graph.call(LabelEpisode, "vla/label_episode", request)


def mark(graph, name):
    return graph.call(MarkSubtask, "vla/mark_subtask", MarkSubtask.Request(name=name))


def save(graph, **fields):
    return graph.call(SaveRecent, "vla/save_recent", SaveRecent.Request(**fields))


def custom(bag) -> dict[str, str]:
    return read_metadata(bag).custom_data


def test_demonstration_with_labels_and_subtasks(tmp_path):
    with Graph() as graph:
        process = started(graph, tmp_path, flush_period=0.1)
        robot = Robot(graph)
        instructions = graph.publisher(Instruction, "vla/instruction", qos.LATCHED)
        instructions.publish(Instruction(instruction_id=3, instruction="in force", mode="act"))
        events = graph.collect(Episode, "vla/episode", qos.EVENT)
        assert "no episode is being recorded" in mark(graph, "grasp").message
        refused = label(graph, "success")
        assert not refused.success and "no episodes" in refused.message

        first = begin(graph, robot, note="one", instruction="fold the towel")
        instructions.publish(Instruction(instruction_id=4, instruction="later", mode="act"))
        robot.send(5)
        before = time.time_ns()
        assert mark(graph, "reach").success
        marked = mark(graph, "grasp")
        assert marked.success and 0.0 < marked.elapsed < 20.0
        assert "needs a name" in mark(graph, " ").message
        for refused in (
            mark(graph, "grasp\x1b[1A"),
            label(graph, "failure", "two\u202e"),
            label(graph, "failure", "two " * 1_000_000),
            graph.call(StartEpisode, "vla/start_episode", StartEpisode.Request(note="\x07")),
            save(graph, instruction="fold\x9b the towel"),
            end(graph, "success", "three\x1b"),
        ):
            assert not refused.success and len(refused.message) < 300
            assert "cannot be seen" in refused.message or "at most 10000" in refused.message
        assert label(graph, "failure", "two").success
        assert end(graph, "", "three").success
        assert custom(first.uri)["outcome"] == "failure"
        assert custom(first.uri)["note"] == "one\ntwo\nthree"
        assert custom(first.uri)["instruction"] == "fold the towel"
        assert custom(first.uri)["demonstration"] == "true"
        assert [i["instruction"] for i in json.loads(custom(first.uri)["instructions"])] == [
            "in force",
            "later",
        ]
        subtasks = json.loads(custom(first.uri)["subtasks"])
        assert [subtask["name"] for subtask in subtasks] == ["reach", "grasp"]
        for subtask in subtasks:
            # The robot's clock is this machine's here.
            assert before < subtask["receive_time"] < time.time_ns()
            assert abs(subtask["stamp"] - subtask["receive_time"]) < 1_000_000_000

        second = begin(graph, robot)
        assert custom(second.uri)["instruction"] == "later"
        assert custom(second.uri)["demonstration"] == "false"
        assert label(graph, "success", episode_id=first.episode_id).uri == first.uri
        assert end(graph, "success").success
        last = label(graph, "failure", "dropped it")
        assert last.success and last.episode_id == second.episode_id
        assert custom(first.uri)["outcome"] == "success"
        assert custom(second.uri)["outcome"] == "failure"
        assert custom(second.uri)["note"] == "dropped it"
        assert validate_bag(second.uri).message_count > 0
        for name in ("../elsewhere", "/etc", "episode_0"):
            refused = label(graph, "success", episode_id=name)
            assert not refused.success and first.episode_id in refused.message
        assert "'failure'" in label(graph, "splendid").message
        graph.wait(lambda: len(events) >= 9, "all events")
        assert [(event.event, event.message) for event in events] == [
            (Episode.STARTED, ""),
            (Episode.SUBTASK, "reach"),
            (Episode.SUBTASK, "grasp"),
            (Episode.LABELLED, "failure"),
            (Episode.STOPPED, ""),
            (Episode.STARTED, ""),
            (Episode.LABELLED, "success"),
            (Episode.STOPPED, ""),
            (Episode.LABELLED, "failure"),
        ]

        # What was said about an episode outlives its recorder.
        third = begin(graph, robot, instruction="wipe the table")
        mark(graph, "take the cloth")
        label(graph, "failure")
        graph.wait(
            lambda: robot.send() or "take the cloth" in custom(third.uri)["subtasks"],
            "sub-task on the disk",
        )
        process.kill()
        process.process.wait()
        assert custom(third.uri)["outcome"] == "failure"
        assert custom(third.uri)["instruction"] == "wipe the table"


def test_what_has_just_happened_is_saved_while_an_episode_is_recorded(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path, ring_buffer=60.0, ring_buffer_size=16.0)
        robot = Robot(graph)
        instructions = graph.publisher(Instruction, "vla/instruction", qos.LATCHED)
        instructions.publish(Instruction(instruction_id=3, instruction="pour", mode="act"))
        chunks = graph.publisher(ActionChunk, "vla/action_chunk", qos.RESULT)
        chunks.publish(ActionChunk(checkpoint_id="nano-1"))
        graph.wait(
            lambda: robot.send() or graph.diagnostic("recorder")["silent_topics"] == "",
            "every topic heard",
        )
        # By the next diagnostic each subscription has become as reliable as its publisher.
        graph.diagnostic("recorder")
        robot.sent.clear()
        since = time.time_ns()
        robot.send(50)
        graph.spin(0.1)
        saved = save(graph, outcome="success", note="look at this")
        assert saved.success, saved.message
        assert saved.message_count == validate_bag(saved.uri).message_count
        kept = [m.topic for m in read_messages(saved.uri) if m.receive_time >= since]
        assert {topic: kept.count(f"/{topic}") for topic in robot.sent} == robot.sent
        metadata = custom(saved.uri)
        assert metadata["outcome"] == "success" and metadata["note"] == "look at this"
        assert metadata["instruction"] == "pour" and metadata["checkpoint_id"] == "nano-1"
        assert (
            metadata["package_version"] == vla.__version__ and "rate: 10.0" in metadata["contract"]
        )
        assert metadata["complete"] == "true"

        episode = begin(graph, robot)
        robot.send(20)
        part = save(graph, duration=0.1, instruction="stir")
        assert part.success and part.duration <= 0.1 < saved.duration
        assert custom(part.uri)["instruction"] == "stir"
        # Latched long before: it stands at the start all the same.
        first = next(iter(read_messages(part.uri)))
        assert read_metadata(part.uri).topics["/vla/instruction"] == 1
        assert first.receive_time == read_metadata(part.uri).start_time
        robot.send(20)
        graph.spin(0.1)
        sent = dict(robot.sent)
        stopped = end(graph, "success")
        assert stopped.success and not stopped.message
        counts = read_metadata(episode.uri).topics
        assert {topic: counts[f"/{topic}"] for topic in sent} == sent
        for duration, says in ((-1.0, "seconds"), (math.nan, "seconds")):
            refused = save(graph, duration=duration)
            assert not refused.success and says in refused.message


def test_saving_without_a_buffer_says_how_to_get_one(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path)
        refused = save(graph)
        assert not refused.success and "ring_buffer" in refused.message
        assert list(tmp_path.iterdir()) == []


def test_compressed_cameras_and_zstd_are_kept_as_they_came(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path, compressed=True, compression="zstd")
        robot = Robot(graph, compressed=True)
        episode = begin(graph, robot)
        robot.send(20)
        graph.spin(0.1)
        assert end(graph, "success").success
    topic = "/camera/front/image_raw/compressed"
    assert validate_bag(episode.uri).counts[topic] == 20
    with AnyReader([Path(episode.uri)]) as reader:
        connections = [c for c in reader.connections if c.topic == topic]
        assert connections[0].msgtype == "sensor_msgs/msg/CompressedImage"
        for connection, _, data in reader.messages(connections):
            image = reader.deserialize(data, connection.msgtype)
            assert bytes(image.data) == b"not decoded by anybody"
    assert b"zstd" in (Path(episode.uri) / f"{episode.episode_id}.mcap").read_bytes()


def test_episode_goes_on_without_a_topic_that_vanishes_and_reports_it(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path)
        robot = Robot(graph)
        episode = begin(graph, robot)
        robot.send(10)
        publisher, _ = robot.publishers.pop("camera/wrist/image_raw")
        graph.node.destroy_publisher(publisher)
        said: list = graph.collect(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)

        def only_the_wrist_is_silent():
            robot.send(5)
            texts = [status.message for message in said for status in message.status]
            return any("camera/wrist" in text and "camera/front" not in text for text in texts)

        graph.wait(only_the_wrist_is_silent, "report of the silent topic")
        robot.send(10)
        stopped = end(graph, "failure")
        assert stopped.success
        assert "silent while recording: /camera/wrist/image_raw for" in stopped.message
        assert "joint_states" not in stopped.message
        gaps = json.loads(custom(episode.uri)["gaps"])
        assert list(gaps) == ["/camera/wrist/image_raw"]
        ((begins, ends),) = gaps["/camera/wrist/image_raw"]
        assert ends - begins > 1_000_000_000
        counts = validate_bag(episode.uri).counts
        assert 0 < counts["/camera/wrist/image_raw"] <= 10 < counts["/camera/front/image_raw"]
        refused = graph.call(StartEpisode, "vla/start_episode", StartEpisode.Request())
        assert not refused.success and "nobody publishes it" in refused.message


@contextmanager
def small_disk(folder: Path, megabytes: int):
    """A file system of that size; skips the test where none can be mounted."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("free", [1.0, 4.0])
def test_full_disk_ends_the_episode_and_keeps_it(tmp_path, free):
    """free: MiB to keep. The first is used up between two looks at the disk, the other is not."""
    with small_disk(tmp_path / "disk", 12) as disk, Graph() as graph:
        process = started(graph, disk, minimum_free_space=free, flush_period=0.1)
        robot = Robot(graph, size=160 if free == 1.0 else 100)
        events = graph.collect(Episode, "vla/episode", qos.EVENT)
        episode = begin(graph, robot)
        times = 10 if free == 1.0 else 1
        graph.wait(
            lambda: robot.send(times) or any(e.event == Episode.FAILED for e in events),
            "the end of the disk",
        )
        reason = next(event.message for event in events if event.event == Episode.FAILED)
        assert "cannot write" in reason or "nearly full" in reason
        assert process.running
        bag = Path(episode.uri)
        with AnyReader([bag]) as reader:
            assert reader.message_count > 50
        kept = list(read_messages(bag, allow_truncated=True))
        newest = max(message.receive_time for message in kept)
        if "nearly full" in reason:
            refused = graph.call(StartEpisode, "vla/start_episode", StartEpisode.Request())
            assert not refused.success and "MiB" in refused.message
            assert validate_bag(bag).message_count == len(kept)
            assert "nearly full" in custom(bag)["note"]
        else:
            assert kept and newest > kept[0].receive_time


def test_of_many_requests_at_once_each_is_answered(tmp_path):
    with Graph() as graph:
        started(graph, tmp_path, ring_buffer=60.0, ring_buffer_size=16.0)
        robot = Robot(graph)
        graph.wait(
            lambda: robot.send() or graph.diagnostic("recorder")["silent_topics"] == "",
            "every topic heard",
        )
        for kind, name, most in (
            ("SaveRecent", "vla/save_recent", 50),
            ("StartEpisode", "vla/start_episode", 1),
            ("MarkSubtask", "vla/mark_subtask", 0),
            ("StopEpisode", "vla/stop_episode", 1),
        ):
            caller = graph.run_script(ROBOTS / "caller.py", (kind, name, "50", "0"))
            graph.wait(lambda c=caller: robot.send() or not c.running, "the end", alive=False)
            graph.processes.remove(caller)
            counts = json.loads(caller.output.splitlines()[-1])
            assert counts["answered"] == 50 and counts["taken"] <= most, counts
        assert all(validate_bag(bag.parent) for bag in tmp_path.glob("*/metadata.yaml"))
