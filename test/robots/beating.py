"""A node that sends heartbeats and nothing else, as somebody else's model node could.

Started as ROS arguments name it, such as `__node:=action_expert`.
"""

from __future__ import annotations

import os

from plain_node import FakeNode, run
from vla_ros.msg import Heartbeat

from vla_nodes.core import qos


class Beating(FakeNode):
    """Beats 50 times a second."""

    def __init__(self):
        super().__init__("beating")
        self._message = Heartbeat(node=self.get_fully_qualified_name(), life=os.getpid())
        self._output = self.create_publisher(Heartbeat, "vla/heartbeat", qos.HEARTBEAT)
        self.create_timer(0.02, self._beat)

    def _beat(self):
        self._message.header.stamp = self.get_clock().now().to_msg()
        self._output.publish(self._message)


if __name__ == "__main__":
    run(Beating)
