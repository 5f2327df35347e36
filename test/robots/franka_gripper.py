"""A fake franka_gripper: homing, move, grasp, gripper_action and stop, as the real one answers.

Goals are always accepted, without a look at the one under way, as libfranka's are: a test can read
from `running` (std_msgs/Int32) how many there are, from `orders` (std_msgs/String) what came. A
cancelled goal stops the fingers. What does not succeed is aborted, a grasp of nothing without an
error. `gripper_action` takes half of the width. With `fake` there are no actions, as with the real
driver's fake hardware.

Faults, settable at any time: stuck (the fingers do not move, no action ends), object_width (what
stands between the fingers), fail (every action ends with an error), deaf (cancel and stop are
accepted and do nothing), no_stop (cancel does nothing, the stop service works).
"""

from __future__ import annotations

import threading
import time

from control_msgs.action import GripperCommand
from franka_msgs.action import Grasp, Homing, Move
from plain_node import FakeNode, run
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Int32, String
from std_srvs.srv import Trigger

PERIOD, FEEDBACK_EVERY, SPEED, MAX_WIDTH = 0.01, 10, 0.1, 0.08
REACHED, BLOCKED, STOPPED = "reached", "blocked", "stopped"


class FrankaGripper(FakeNode):
    def __init__(self):
        super().__init__(
            "franka_gripper",
            width=0.08,
            object_width=0.0,
            stuck=False,
            fail=False,
            deaf=False,
            no_stop=False,
            default_epsilon=0.005,
            fake=False,
        )
        self.width = self.fault("width")
        self.add_post_set_parameters_callback(self.put)
        self.running, self.stopped = 0, threading.Event()
        self.lock = threading.Lock()
        self.group = ReentrantCallbackGroup()
        if not self.fault("fake"):
            self.serve()
        self.counts = self.create_publisher(Int32, "~/running", 10)
        self.orders = self.create_publisher(String, "~/orders", 10)
        self.states = self.create_publisher(JointState, "~/joint_states", qos_profile_sensor_data)
        self.create_timer(1.0 / 15.0, self.publish, callback_group=self.group)

    def serve(self):
        for kind, name, function in (
            (Homing, "homing", self.homing),
            (Move, "move", self.move),
            (Grasp, "grasp", self.grasp),
            (GripperCommand, "gripper_action", self.command),
        ):
            ActionServer(
                self,
                kind,
                f"~/{name}",
                function,
                callback_group=self.group,
                cancel_callback=lambda goal: CancelResponse.ACCEPT,
            )
        self.create_service(Trigger, "~/stop", self.stop, callback_group=self.group)

    def put(self, parameters):
        """A new `width` puts the fingers there."""
        for parameter in parameters:
            self.width = parameter.value if parameter.name == "width" else self.width

    def publish(self):
        names = ["fr3_finger_joint1", "fr3_finger_joint2"]
        message = JointState(name=names, position=[self.width / 2] * 2)
        message.header.stamp = self.get_clock().now().to_msg()
        self.states.publish(message)

    def stop(self, request, response):
        if not self.fault("deaf"):
            self.stopped.set()
        response.success = True
        return response

    def count(self, change):
        with self.lock:
            self.running += change
            self.counts.publish(Int32(data=self.running))

    def go(self, goal, name, width, speed):
        """Moves the fingers, a width in metres and a speed in m/s; says how that ended."""
        self.count(1)
        self.orders.publish(String(data=name))
        self.stopped.clear()
        try:
            for cycle in range(10**9):
                deaf = self.fault("deaf")
                cancelled = goal.is_cancel_requested and not self.fault("no_stop")
                if not deaf and (cancelled or self.stopped.is_set()):
                    return STOPPED
                if cycle % FEEDBACK_EVERY == 0:
                    self.feed_back(goal, name)
                if self.fault("stuck"):
                    time.sleep(PERIOD)
                    continue
                way = width - self.width
                if abs(way) <= 1e-4:
                    return REACHED
                step = max(-speed * PERIOD, min(speed * PERIOD, way))
                if step < 0.0 and self.width + step < self.fault("object_width"):
                    return BLOCKED
                self.width += step
                time.sleep(PERIOD)
        finally:
            self.count(-1)

    def feed_back(self, goal, name):
        if name == "gripper_action":
            goal.publish_feedback(GripperCommand.Feedback(position=self.width))
        else:
            kind = {"homing": Homing, "move": Move, "grasp": Grasp}[name]
            goal.publish_feedback(kind.Feedback(current_width=self.width))

    def finish(self, goal, success):
        if goal.is_cancel_requested:
            goal.canceled()
        elif success:
            goal.succeed()
        else:
            goal.abort()

    def end(self, goal, result, success):
        failed = self.fault("fail")
        result.success = success and not failed
        result.error = "libfranka gripper: command failed" if failed else ""
        self.finish(goal, result.success)
        return result

    def homing(self, goal):
        done = self.go(goal, "homing", 0.0, SPEED) == REACHED
        done = done and self.go(goal, "homing", MAX_WIDTH, SPEED) == REACHED
        return self.end(goal, Homing.Result(), done)

    def move(self, goal):
        done = self.go(goal, "move", goal.request.width, goal.request.speed) == REACHED
        return self.end(goal, Move.Result(), done)

    def is_grasp(self, width, inner, outer):
        return width - inner - 1e-3 <= self.width <= width + outer

    def grasp(self, goal):
        wanted = goal.request
        # The fingers close until something stops them, whatever width is expected.
        done = self.go(goal, "grasp", 0.0, wanted.speed) != STOPPED
        expected = self.is_grasp(wanted.width, wanted.epsilon.inner, wanted.epsilon.outer)
        return self.end(goal, Grasp.Result(), done and expected)

    def command(self, goal):
        width, done = 2.0 * goal.request.command.position, False
        if 0.0 <= width <= MAX_WIDTH:
            closing = width < self.width - 1e-4
            ended = self.go(goal, "gripper_action", 0.0 if closing else width, SPEED)
            epsilon = self.fault("default_epsilon")
            grasped = ended != STOPPED and self.is_grasp(width, epsilon, epsilon)
            done = grasped if closing else ended == REACHED
        self.finish(goal, done)
        return GripperCommand.Result(position=self.width, reached_goal=done)


if __name__ == "__main__":
    run(FrankaGripper, threads=6)
