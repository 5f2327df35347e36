"""Subscriptions that are made again where a publisher is there and nothing comes."""

import os
import signal
from pathlib import Path

import pytest
from node_harness import ROOT, Graph
from std_msgs.msg import Int64
from test_perception_node import FakeSensors
from vla_ros.msg import Observation

from vla_nodes.core import qos, renewed
from vla_nodes.core.renewed import FIRST_PATIENCE, LONGEST_PATIENCE, RenewedSubscription

pytestmark = pytest.mark.nodes

# Publishes numbers on one topic, and has a publisher of another that sends only after a SIGUSR1.
TALKER = """
import signal, sys
import rclpy
from std_msgs.msg import Int64
from vla_nodes.core import qos

rclpy.init()
node = rclpy.create_node("talker")
busy = node.create_publisher(Int64, "busy", qos.SENSOR_OUTPUT)
silent = node.create_publisher(Int64, "silent", qos.SENSOR_OUTPUT)
count, woken = 0, []
signal.signal(signal.SIGUSR1, lambda *_: woken.append(True))

def talk():
    global count
    count += 1
    busy.publish(Int64(data=count))
    if woken:
        silent.publish(Int64(data=count))

node.create_timer(0.01, talk)
rclpy.spin(node)
"""
# A camera of its own process, which SIGSTOP silences while its publisher stays on the graph.
CAMERA = """
import numpy as np
import rclpy
from sensor_msgs.msg import Image
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_image

rclpy.init()
node = rclpy.create_node("wrist_camera")
output = node.create_publisher(Image, "camera/wrist/image_raw", qos.IMAGE_OUTPUT)
random = np.random.default_rng(0)

def send():
    pixels = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    output.publish(array_to_image(pixels, node.get_clock().now().to_msg(), "wrist"))

node.create_timer(0.05, send)
rclpy.spin(node)
"""


def start(graph, tmp_path, name, text):
    script = tmp_path / f"{name}.py"
    script.write_text(text)
    return graph.run_script(script, ())


def renewal_times(made, seconds, monkeypatch):
    """When it is made again within the next `seconds` of steady time, polled once a second."""
    begin, times = made.heard_at, []
    with monkeypatch.context() as patch:
        for second in range(1, seconds + 1):
            patch.setattr(renewed.time, "monotonic", lambda now=begin + second: now)
            before = made.renewals
            made.poll()
            times += [second] * (made.renewals - before)
    return times


def test_the_pauses_grow_up_to_a_minute_and_nothing_happens_without_a_publisher(monkeypatch):
    with Graph() as graph:
        made = RenewedSubscription(graph.node, Int64, "numbers", lambda *_: None, qos.SENSOR)
        assert renewal_times(made, 300, monkeypatch) == []
        graph.node.create_publisher(Int64, "numbers", qos.SENSOR_OUTPUT)
        graph.wait(lambda: made.has_publisher, "the publisher")
        times = renewal_times(made, 600, monkeypatch)
        assert FIRST_PATIENCE == 3.0 and LONGEST_PATIENCE == 60.0
        # The publisher is seen by the first look.
        assert times[:5] == [5, 12, 25, 50, 99]
        assert len(times) == 13 and times[-1] - times[-2] == 61


def test_hundreds_of_renewals_cost_nothing_and_disturb_nobody(tmp_path, capfd):
    with Graph() as graph:
        numbers, late = [], []
        graph.node.create_subscription(Int64, "busy", numbers.append, 1000)
        made = RenewedSubscription(
            graph.node,
            Int64,
            "silent",
            lambda message, info: late.append(message.data),
            qos.SENSOR,
            first_patience=0.001,
            longest_patience=0.001,
        )
        talker = start(graph, tmp_path, "talker", TALKER)
        graph.wait(lambda: len(numbers) > 50 and made.has_publisher, "numbers")

        def renew(count):
            wanted = made.renewals + count
            graph.wait(lambda: made.poll() or made.renewals >= wanted, "renewals", 60.0)

        renew(100)
        memory, files = resident_bytes(), len(os.listdir("/proc/self/fd"))
        renew(300)
        assert resident_bytes() - memory < 4 << 20
        assert len(os.listdir("/proc/self/fd")) <= files + 2
        assert len(list(graph.node.subscriptions)) == len(set(graph.node.subscriptions))
        assert sum(s.topic_name == "/silent" for s in graph.node.subscriptions) == 1
        data = [message.data for message in numbers]
        assert data == list(range(data[0], data[0] + len(data))), "the other topic lost messages"
        assert capfd.readouterr().err.count("its subscription is made again") == 1
        assert not late
        made._first_patience = made._longest_patience = made._patience = FIRST_PATIENCE
        talker.process.send_signal(signal.SIGUSR1)
        graph.wait(lambda: late, "the first message")
        made.poll()
        assert f"made again {made.renewals} time(s)" in capfd.readouterr().err
        made.close()
        assert not any(s.topic_name == "/silent" for s in graph.node.subscriptions)


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_perception_listens_again_to_a_camera_that_was_stopped(tmp_path):
    with Graph() as graph:
        node = graph.start(
            "perception", parameters_file=ROOT / "config/perception.yaml", longest_wait=0.1
        )
        sensors = FakeSensors(graph)
        sensors.spoil = lambda name, message: None if name == "wrist" else message
        graph.node.destroy_publisher(sensors.publishers["wrist"])
        camera = start(graph, tmp_path, "wrist_camera", CAMERA)
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)
        graph.wait(lambda: len(seen) > 3, "observations")
        camera.process.send_signal(signal.SIGSTOP)

        def value(status, key):
            return next(entry.value for entry in status.values if entry.key == key)

        status = graph.wait_diagnostic(
            "perception", lambda s: "image_raw 2" in value(s, "renewed_subscriptions")
        )
        assert value(status, "renewed_subscriptions") == "camera/wrist/image_raw 2"
        assert "no image of camera 'wrist'" in status.message
        seen.clear()
        camera.process.send_signal(signal.SIGCONT)
        graph.wait(lambda: len(seen) > 3, "observations again")
        graph.wait(lambda: "come on 'camera/wrist/image_raw' again" in node.output, "the log")
        assert node.output.count("its subscription is made again, now") == 1
        # What was made meanwhile ends with the activation that it belongs to.
        assert graph.transition("perception", "deactivate")
        for topic in ("camera/wrist/image_raw", "camera/front/image_raw", "joint_states"):
            graph.wait(lambda topic=topic: subscribers(graph, topic) == 0, f"silence on {topic}")
        assert graph.transition("perception", "activate")
        seen.clear()
        graph.wait(lambda: len(seen) > 3, "observations of another activation")
        assert graph.state("perception") == "active"
        assert "Traceback" not in node.output
        assert node.stop(signal.SIGINT) == 0


def subscribers(graph, topic):
    return len(
        [
            entry
            for entry in graph.node.get_subscriptions_info_by_topic(f"/{topic}")
            if entry.node_name == "perception"
        ]
    )
