"""A node that publishes on a topic which has its publisher already, as a replayed bag would.

Parameters: stream: which. rate: messages per second. lasts: how long, once so many `readers`
know it [s]; 0: until it is told to end. promises: it gives signs of life as our nodes do.
best_effort: its messages may be lost.
change: what it makes of the newest message that it has heard: "forged" moves the arm otherwise,
"garbage" follows no contract, "fingers" leaves the arm's joints out, "silent" sends nothing.
"""

from __future__ import annotations

import array
import time
from contextlib import suppress

import rclpy
from plain_node import FakeNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from vla_ros.msg import ActionChunk, Instruction, LatentAction, Observation

from vla_nodes.core import qos
from vla_nodes.core.liveliness import with_liveliness

STREAMS = {
    "chunk": (ActionChunk, "vla/action_chunk", qos.RESULT),
    "latent": (LatentAction, "vla/latent_action", qos.RESULT),
    "observation": (Observation, "vla/observation", qos.LATEST),
    "joint_states": (JointState, "joint_states", qos.SENSOR_OUTPUT),
    "instruction": (Instruction, "vla/instruction", qos.LATCHED),
}
FORGED_OFFSET = 1.0


class SecondPublisher(FakeNode):
    """Hears one message of the right source, then sends its own."""

    def __init__(self):
        super().__init__(
            "outsider", stream="chunk", rate=20.0, lasts=0.0, readers=0, promises=False,
            best_effort=False, change="forged",
        )  # fmt: skip
        kind, topic, profile = STREAMS[self.fault("stream")]
        # A reader that takes from everybody.
        heard = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        heard.durability = profile.durability
        if self.fault("stream") != "instruction":
            self._reader = self.create_subscription(kind, topic, self._begin, heard)
        if self.fault("best_effort"):
            profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._profile = with_liveliness(profile) if self.fault("promises") else profile
        self._kind, self._topic = kind, topic
        self._output = None
        if self.fault("stream") == "instruction":
            self._begin(Instruction(instruction_id=42, instruction="dance", mode="act"))

    def _begin(self, message):
        if self._output is not None:
            return
        self._message = getattr(self, f"_{self.fault('change')}")(message)
        self._output = self.create_publisher(self._kind, self._topic, self._profile)
        self._began = None
        self.create_timer(1.0 / self.fault("rate"), self._send)

    def _send(self):
        if self.fault("change") != "silent":
            if hasattr(self._message, "header"):
                self._message.header.stamp = self.get_clock().now().to_msg()
            self._output.publish(self._message)
        # Its time counts from when readers know it: to be discovered takes a while.
        if self._began is None and self._output.get_subscription_count() >= self.fault("readers"):
            self._began = time.monotonic()
        lasts = self.fault("lasts")
        if lasts and self._began and time.monotonic() - self._began > lasts:
            raise KeyboardInterrupt

    def _silent(self, message):
        return message

    def _forged(self, message):
        if isinstance(message, ActionChunk):
            step = [0.02, 0.02, -0.03, 0.0, 0.0, 0.0, 1.0]
            message.actions = array.array("f", step * message.horizon)
        elif isinstance(message, LatentAction):
            message.data = array.array("f", [-x for x in message.data])
        elif isinstance(message, Observation):
            message.state = array.array("d", [-x for x in message.state])
        elif isinstance(message, JointState):
            message.position = [x + FORGED_OFFSET for x in message.position]
        return message

    def _garbage(self, message):
        message.contract_id = "garbage"
        return message

    def _fingers(self, message):
        names = [name for name in message.name if "finger" in name]
        return JointState(header=message.header, name=names, position=[0.04] * len(names))


def main():
    rclpy.init()
    node = SecondPublisher()
    with suppress(KeyboardInterrupt):
        rclpy.spin(node)
    # An orderly end: its publishers leave the graph at once.
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
