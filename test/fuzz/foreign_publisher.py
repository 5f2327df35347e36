#!/usr/bin/env python3
"""A foreign node that publishes mutated copies of a recorded message on a topic, then ends.

foreign_publisher.py TOPIC TYPE MESSAGE_FILE COUNT SEED RATE
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from random import Random

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.messages import mutate_message

# Longest wait for a reader [s].
PATIENCE = 15.0


def main() -> int:
    """The exit status."""
    topic, kind, file, count, seed, rate = sys.argv[1:7]
    package, _, name = kind.rpartition(".")
    message_type = getattr(importlib.import_module(package), name)
    message = deserialize_message(Path(file).read_bytes(), message_type)
    rclpy.init(args=[])
    node = rclpy.create_node("foreigner")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    durability = DurabilityPolicy.VOLATILE
    if topic == "vla/instruction":
        durability = DurabilityPolicy.TRANSIENT_LOCAL
    publisher = node.create_publisher(
        message_type, topic, QoSProfile(depth=5, durability=durability)
    )
    deadline = time.monotonic() + PATIENCE
    while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.05)
    random = Random(int(seed))
    for _ in range(int(count)):
        mutated = mutate_message(random, message)
        if random.randrange(2) and hasattr(mutated, "header"):
            # Half of them look as fresh as those of the right source.
            mutated.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(mutated)
        executor.spin_once(timeout_sec=1.0 / float(rate))
    print(f"sent {count}", flush=True)
    node.destroy_publisher(publisher)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
