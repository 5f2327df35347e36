"""Plays franka_gripper: homing, move, grasp and stop, with their timing.

Goals are always accepted, without a look at the one under way, as libfranka's are: a test can read
from `running` (std_msgs/Int32) how many there are. Faults: stuck (the fingers do not move),
object_width (what stands between them), fail (every action ends without success).
"""

from __future__ import annotations

import threading
import time

from franka_msgs.action import Grasp, Homing, Move
from plain_node import PlayedNode, run
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from sensor_msgs.msg import JointState
from std_msgs.msg import Int32, String
from std_srvs.srv import Trigger

PERIOD = 0.01


class FrankaGripper(PlayedNode):
    def __init__(self):
        super().__init__("franka_gripper", width=0.08, object_width=0.0, stuck=False, fail=False)
        self.width = self.fault("width")
        self.running, self.stopped = 0, threading.Event()
        group = ReentrantCallbackGroup()
        for kind, name, function in (
            (Homing, "homing", self.homing),
            (Move, "move", self.move),
            (Grasp, "grasp", self.grasp),
        ):
            ActionServer(
                self,
                kind,
                f"~/{name}",
                function,
                callback_group=group,
                cancel_callback=lambda goal: CancelResponse.ACCEPT,
            )
        self.create_service(Trigger, "~/stop", self.stop, callback_group=group)
        self.counts = self.create_publisher(Int32, "~/running", 10)
        self.orders = self.create_publisher(String, "~/orders", 10)
        self.states = self.create_publisher(JointState, "~/joint_states", 10)
        self.create_timer(1.0 / 15.0, self.publish, callback_group=group)

    def publish(self):
        names = ["panda_finger_joint1", "panda_finger_joint2"]
        self.states.publish(JointState(name=names, position=[self.width / 2] * 2))

    def stop(self, request, response):
        self.stopped.set()
        response.success = True
        return response

    def go(self, goal, name, width, speed):
        """Moves the fingers; False when they were stopped, or are stuck."""
        self.running += 1
        self.orders.publish(String(data=name))
        self.counts.publish(Int32(data=self.running))
        self.stopped.clear()
        try:
            while abs(self.width - width) > 1e-4:
                if self.stopped.is_set() or goal.is_cancel_requested:
                    return False
                if not self.fault("stuck"):
                    step = max(-speed * PERIOD, min(speed * PERIOD, width - self.width))
                    if self.width + step < self.fault("object_width"):
                        return True
                    self.width += step
                time.sleep(PERIOD)
            return True
        finally:
            self.running -= 1
            self.counts.publish(Int32(data=self.running))

    def end(self, goal, result, success, error=""):
        result.success, result.error = success and not self.fault("fail"), error
        if goal.is_cancel_requested:
            goal.canceled()
        elif result.success:
            goal.succeed()
        else:
            goal.abort()
        return result

    def homing(self, goal):
        done = self.go(goal, "homing", 0.0, 0.1) and self.go(goal, "homing", 0.08, 0.1)
        return self.end(goal, Homing.Result(), done)

    def move(self, goal):
        request = goal.request
        done = self.go(goal, "move", request.width, request.speed)
        return self.end(goal, Move.Result(), done, "" if done else "command aborted")

    def grasp(self, goal):
        request = goal.request
        done = self.go(
            goal, "grasp", max(request.width - request.epsilon.inner, 0.0), request.speed
        )
        low, high = request.width - request.epsilon.inner, request.width + request.epsilon.outer
        return self.end(goal, Grasp.Result(), done and low - 1e-3 <= self.width <= high)


if __name__ == "__main__":
    run(FrankaGripper, threads=6)
