"""What a robot with two cameras and a policy publishes, for the benchmarks of the recorder.

Run as a program by them (see `Load`), in two processes, as a camera driver is no part of a robot's
control. Messages are serialised once; only their stamp changes, and counts the messages of the
topic, so that every single one can be found again in a bag.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 640, 480
RATES = {
    "camera/front/image_raw": 30.0,
    "camera/wrist/image_raw": 30.0,
    "joint_states": 1000.0,
    "end_effector_pose": 100.0,
    "vla/latent_action": 4.0,
    "vla/action_chunk": 8.0,
    "vla/status": 10.0,
    "vla/response": 1.0,
}
PARTS = ("cameras", "robot")
# In CDR, the stamp of a header that comes first: seconds and nanoseconds.
STAMP = slice(4, 12)


def index_of(data: bytes) -> int:
    """Which message of its topic this is, from its bytes."""
    seconds, nanoseconds = struct.unpack("<iI", data[STAMP])
    return seconds * 1_000_000 + nanoseconds


def _with_index(data: bytearray, index: int) -> bytes:
    data[STAMP] = struct.pack("<iI", index // 1_000_000, index % 1_000_000)
    return bytes(data)


class Load:
    """The publishing processes, seen from the benchmark; a context manager."""

    def __init__(self, reliability: str = "reliable") -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), part, "--reliability", reliability],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for part in PARTS
        ]
        self.counts()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.stdin.close()
        for process in self._processes:
            process.wait(10.0)

    def counts(self) -> dict[str, int]:
        """Messages published so far, by absolute topic name."""
        return self._ask("counts")

    def pause(self) -> dict[str, int]:
        """Ends publishing for good; returns the final counts."""
        return self._ask("pause")

    def _ask(self, question: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for process in self._processes:
            process.stdin.write(question + "\n")
            process.stdin.flush()
        for process in self._processes:
            counts |= json.loads(process.stdout.readline())
        return counts


@dataclass
class _Topic:
    name: str
    publisher: object
    frames: list[bytearray]
    period: float
    count: int = 0


def _camera_messages() -> Iterator[tuple[str, list]]:
    import numpy as np
    from sensor_msgs.msg import Image

    generator = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    for camera in ("front", "wrist"):
        frames = []
        for shift in range(4):
            # Smooth areas with some noise, as a sensor sees them; noise alone cannot be compressed.
            grey = 128 + 60 * np.sin(x / 90 + shift) + 40 * np.cos(y / 70)
            picture = grey[..., None] * (0.6, 0.8, 1.0) + generator.normal(0, 2, (HEIGHT, WIDTH, 3))
            image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
            image.data = picture.clip(0, 255).astype(np.uint8).tobytes()
            frames.append(image)
        yield f"camera/{camera}/image_raw", frames


def _robot_messages() -> Iterator[tuple[str, list]]:
    from geometry_msgs.msg import PoseStamped
    from sensor_msgs.msg import JointState
    from vla_ros.msg import ActionChunk, LatentAction, PolicyStatus, Response

    names = [f"panda_joint{number}" for number in range(1, 8)]
    values = [0.1] * 7
    yield "joint_states", [JointState(name=names, position=values, velocity=values, effort=values)]
    yield "end_effector_pose", [PoseStamped()]
    yield "vla/latent_action", [LatentAction(checkpoint_id="load", data=[0.5] * 2048)]
    yield "vla/action_chunk", [ActionChunk(checkpoint_id="load")]
    yield "vla/status", [PolicyStatus(message="moving")]
    yield "vla/response", [Response(text="I will pick up the red block.")]


def main() -> None:
    """Publishes at RATES until told otherwise on the standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), default="reliable")
    arguments = parser.parse_args()
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rclpy.serialization import serialize_message

    from vla_nodes.core import qos

    rclpy.init()
    node = rclpy.create_node(f"recording_load_{arguments.part}")
    reliability = ReliabilityPolicy[arguments.reliability.upper()]
    topics = []
    for name, messages in _camera_messages() if arguments.part == "cameras" else _robot_messages():
        # Depth 10 is what ROS gives a driver that asks for nothing else.
        profile = QoSProfile(depth=10, reliability=reliability)
        if name.startswith("vla/"):
            profile = qos.LATCHED if name == "vla/status" else qos.RESPONSE
        publisher = node.create_publisher(type(messages[0]), name, profile)
        frames = [bytearray(serialize_message(message)) for message in messages]
        topics.append(_Topic(publisher.topic_name, publisher, frames, 1.0 / RATES[name]))
    running, paused = threading.Event(), threading.Event()
    lock = threading.Lock()

    def answer() -> None:
        for question in sys.stdin:
            if question.strip() == "pause":
                running.clear()
                paused.wait()
            with lock:
                counts = {topic.name: topic.count for topic in topics}
            print(json.dumps(counts), flush=True)
        running.clear()

    running.set()
    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    started = time.monotonic()
    while running.is_set():
        now = time.monotonic() - started
        with lock:
            for topic in topics:
                # What is late is not left out: the rates hold on the average.
                while topic.count * topic.period <= now:
                    frame = topic.frames[topic.count % len(topic.frames)]
                    topic.publisher.publish(_with_index(frame, topic.count))
                    topic.count += 1
        due = min(topic.count * topic.period for topic in topics)
        time.sleep(max(0.0002, due - (time.monotonic() - started)))
    paused.set()
    # The middleware sends again what a reader has missed, until the benchmark is done.
    answering.join()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
