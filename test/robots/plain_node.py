"""What the fake robots share: a plain node that runs until it is told to end."""

from __future__ import annotations

from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node


def run(make: Callable[[], Node], threads: int = 1) -> None:
    """Spins the node; one with actions, which wait, needs several threads."""
    rclpy.init()
    node = make()
    executor = SingleThreadedExecutor() if threads == 1 else MultiThreadedExecutor(threads)
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


class FakeNode(Node):
    """A node whose faults are parameters: `self.fault("refuse")` is the present value."""

    def __init__(self, name: str, **defaults):
        super().__init__(name)
        for parameter, value in defaults.items():
            self.declare_parameter(parameter, value)

    def fault(self, name: str):
        return self.get_parameter(name).value
