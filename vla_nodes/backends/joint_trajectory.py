"""ros2_control's joint_trajectory_controller, by its topic or by its FollowJointTrajectory action.

By topic, each cycle sends the next joint positions and velocities and, after them, the way to rest:
a controller process that dies in mid-motion leaves an arm that stops within its limits. The action
says in addition whether the robot accepts and follows. A goal replaces the one before, which ends
as canceled; that costs more than a message, so goals go out at `action_rate`. Between two of them
the arm is on the way to rest that every goal ends with: at 50 Hz it falls back by less than a
milliradian, and it never moves beyond what the safety stage has judged.
"""

from __future__ import annotations

import time

import numpy as np
from rclpy.action import ActionClient
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla.control.command import ArmCommand
from vla_nodes import qos
from vla_nodes.backends.base import Backend, BackendContext, Problem, import_interfaces
from vla_nodes.settings import Setting

SETTINGS = (
    Setting(
        "joint_trajectory.controller",
        "joint_trajectory_controller",
        "Name of the joint_trajectory_controller that moves the arm.",
    ),
    Setting(
        "joint_trajectory.interface",
        "topic",
        "How trajectories are sent: 'topic' in each cycle, or 'action' with the robot's answers.",
        choices=("topic", "action"),
    ),
    Setting(
        "joint_trajectory.action_rate",
        50.0,
        "Goals per second of the interface 'action' [Hz].",
        minimum=1.0,
        maximum=100.0,
    ),
)

# How often the graph is asked who is there [s]: asking in each cycle would cost more than sending.
LOOK_PERIOD = 0.1
# A refusal or an abort is shown for this long [s], then sending is tried again.
RETRY_TIME = 1.0


def seconds_to_duration(seconds: float, duration) -> None:
    """Writes a time in seconds into a builtin_interfaces/Duration."""
    nanoseconds = round(seconds * 1e9)
    duration.sec, duration.nanosec = divmod(nanoseconds, 1_000_000_000)


class TrajectoryMessages:
    """Makes trajectories out of commands; message objects are used again, since they cost most."""

    def __init__(self, joint_names, period: float):
        self._period = period
        self._points: list[JointTrajectoryPoint] = []
        # A zero stamp means "from now on" to a joint trajectory controller.
        self._message = JointTrajectory(joint_names=list(joint_names))

    def of(self, command: ArmCommand) -> JointTrajectory:
        """The command's point and its way to rest."""
        stop = command.stop
        # Every second point is enough for a cubic through them; the last one is where it ends.
        chosen = range(len(stop.times) - 1, -1, -2)[::-1]
        count = 1 + len(chosen)
        while len(self._points) < count:
            self._points.append(JointTrajectoryPoint())
        self._set(0, self._period, command.joint_positions, command.joint_velocities)
        for index, source in enumerate(chosen):
            self._set(
                1 + index,
                self._period + float(stop.times[source]),
                stop.positions[source],
                stop.velocities[source],
            )
        self._message.points = self._points[:count]
        return self._message

    def _set(self, index: int, moment: float, positions, velocities) -> None:
        point = self._points[index]
        point.positions = positions.tolist()
        point.velocities = velocities.tolist()
        seconds_to_duration(moment, point.time_from_start)


class JointTrajectoryBackend(Backend):
    """Sends joint trajectories to one controller."""

    def __init__(self, context: BackendContext):
        settings = context.settings
        self._node = context.node
        self._controller = settings["joint_trajectory.controller"]
        self._messages = TrajectoryMessages(context.contract.joint_names, context.period)
        self._topic = f"{self._controller}/joint_trajectory"
        self._looked_at = -np.inf
        self._seen: Problem | None = None
        self._goals = None
        if settings["joint_trajectory.interface"] == "action":
            self._goals = _Goals(
                context.node,
                f"{self._controller}/follow_joint_trajectory",
                1.0 / settings["joint_trajectory.action_rate"],
            )
            self._output = None
        else:
            self._output = context.node.create_publisher(JointTrajectory, self._topic, qos.COMMAND)

    def problem(self) -> Problem | None:
        """Whether the controller is there, is ours alone, and has taken what was sent."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_PERIOD:
            self._looked_at = now
            self._seen = self._look()
        if self._goals is not None and self._goals.refusal(now):
            return Problem(self._goals.refusal(now))
        return self._seen

    def _look(self) -> Problem | None:
        advice = "is it loaded and active ('ros2 control list_controllers')?"
        if self._goals is not None:
            if not self._goals.client.server_is_ready():
                return Problem(f"no action server of {self._controller}: {advice}")
            return None
        if self._output.get_subscription_count() == 0:
            return Problem(f"nobody takes trajectories from {self._topic}: {advice}")
        if self._node.count_publishers(self._topic) > 1:
            return Problem(
                f"another program publishes on {self._topic}, too: two must not command one arm, "
                "stop the other"
            )
        return None

    def send(self, command: ArmCommand) -> None:
        """Sends one cycle's command with its way to rest."""
        if self._output is not None:
            self._output.publish(self._messages.of(command))
        else:
            self._goals.send(command, self._messages)

    def release(self) -> None:
        """Nothing to do: the controller stays at the last point until others command it."""

    def close(self) -> None:
        """Takes the action client off the graph."""
        if self._goals is not None:
            self._goals.client.destroy()


class _Goals:
    """FollowJointTrajectory goals, one after the other, each replacing the one before."""

    def __init__(self, node, name: str, period: float):
        (action,) = import_interfaces("control_msgs", ("action",), "ros-jazzy-control-msgs")
        self._action = action.FollowJointTrajectory
        self.client = ActionClient(node, self._action, name)
        self._name, self._period = name, period
        self._sent_at = -np.inf
        self._number = 0
        self._was_moving = False
        self._refused: tuple[str, float] = ("", -np.inf)

    def refusal(self, now: float) -> str:
        """What went wrong with the last goal; "" when nothing did, or when it was long ago."""
        text, at = self._refused
        return text if now - at < RETRY_TIME else ""

    def send(self, command: ArmCommand, messages: TrajectoryMessages) -> None:
        """Sends a goal when it is time, and at once for the first command of an arm at rest."""
        now = time.monotonic()
        moving = len(command.stop.times) > 0
        due = now - self._sent_at >= self._period
        if not (due and (moving or self._was_moving)) and not (self._was_moving and not moving):
            return
        if not self.client.server_is_ready():
            return
        self._was_moving, self._sent_at = moving, now
        self._number += 1
        number = self._number
        goal = self._action.Goal(trajectory=messages.of(command))
        self.client.send_goal_async(goal).add_done_callback(
            lambda future: self._on_answer(number, future)
        )

    def _on_answer(self, number: int, future) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            self._refuse(
                f"{self._name} rejected a trajectory: is the controller active, are joint names "
                "and limits those of the contract?"
            )
            return
        handle.get_result_async().add_done_callback(lambda done: self._on_end(number, done))

    def _on_end(self, number: int, future) -> None:
        # Earlier goals end as canceled when the next one comes, which is how it should be.
        if number != self._number or future.result() is None:
            return
        result = future.result().result
        if result.error_code != self._action.Result.SUCCESSFUL:
            names = {
                getattr(self._action.Result, name): name.lower().replace("_", " ")
                for name in (
                    "INVALID_GOAL",
                    "INVALID_JOINTS",
                    "OLD_HEADER_TIMESTAMP",
                    "PATH_TOLERANCE_VIOLATED",
                    "GOAL_TOLERANCE_VIOLATED",
                )
            }
            word = names.get(result.error_code, f"error {result.error_code}")
            self._refuse(f"{self._name} gave up a trajectory: {word} {result.error_string}".strip())

    def _refuse(self, why: str) -> None:
        self._refused = (why, time.monotonic())


BACKEND = JointTrajectoryBackend
