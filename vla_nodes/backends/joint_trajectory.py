"""ros2_control's joint_trajectory_controller, by its topic or its FollowJointTrajectory action.

By topic, each cycle sends the next joint positions and velocities, followed by the stop: if our
controller dies in motion, the arm stops within its limits. The action also reports whether the
robot accepts and follows. A goal replaces the one before, which ends as aborted or canceled; goals
cost more than messages, so they go out at `action_rate`. Between two of them the arm is on the stop
that every goal ends with: at 50 Hz it falls back by less than a milliradian, and it never leaves
what the safety stage has judged.

Unless its parameter interpolate_from_desired_state is true, the controller starts every trajectory
from the measured joints, which lag: sent in each cycle, that would throw the arm back each time. So
the controller is asked, and if so, trajectories begin with the previous command, due at once. A
trajectory that does not end at rest, which it refuses by default, is never sent.
"""

from __future__ import annotations

import time

import numpy as np
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla.control.command import ArmCommand
from vla_nodes.backends.base import Backend, BackendContext, Problem, import_interfaces
from vla_nodes.core import qos
from vla_nodes.core.liveliness import lease_of, with_liveliness
from vla_nodes.core.settings import Setting
from vla_nodes.core.sources import other_publishers

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
        bounds=(1.0, 100.0),
    ),
)

# Period of reading the graph [s], which would cost more than sending in each cycle.
LOOK_PERIOD = 0.1
# A refusal or an abort is shown for this long [s], then sending is retried.
RETRY_TIME = 1.0
# A stop shorter than this [s] is skipped to its end: shorter segments make a poor curve.
SHORTEST_STOP = 1e-4
# A command longer ago than this many periods is not where the arm is now.
LATEST_BEFORE = 4
# A controller without parameters after this many looks has none, like the simulator.
PATIENT_LOOKS = 100
LOOKS_PER_QUESTION = 20


def seconds_to_duration(seconds: float, duration) -> None:
    """Writes a time in seconds into a builtin_interfaces/Duration."""
    nanoseconds = round(seconds * 1e9)
    duration.sec, duration.nanosec = divmod(nanoseconds, 1_000_000_000)


class TrajectoryMessages:
    """Converts commands to trajectories; reuses message objects, which cost most."""

    def __init__(self, joint_names, period: float):
        self._period = period
        self._points: list[JointTrajectoryPoint] = []
        self._count = 0
        self._zeros = [0.0] * len(joint_names)
        # A zero stamp means "from now on" to a joint trajectory controller.
        self._message = JointTrajectory(joint_names=list(joint_names))

    def of(self, command: ArmCommand, before: ArmCommand | None = None) -> JointTrajectory:
        """The command's point and its stop, in a message that the next call changes.

        before: where the arm is commanded to be now, for a controller that would start elsewhere.
        """
        stop, period = command.stop, self._period
        self._count = 0
        if before is not None:
            velocities = before.joint_velocities.tolist()
            self._add(0.0, before.joint_positions.tolist(), velocities)
        # Controllers refuse a last point that moves in the least.
        if not len(stop.times):
            self._add(period, command.joint_positions.tolist(), self._zeros)
        elif stop.times[-1] < SHORTEST_STOP:
            self._add(period, stop.positions[-1].tolist(), self._zeros)
        else:
            self._add(period, command.joint_positions.tolist(), command.joint_velocities.tolist())
            # Every second point is enough for a cubic through them; the last one is the end.
            last = len(stop.times) - 1
            for index in range(1 - len(stop.times) % 2, last, 2):
                moment = period + float(stop.times[index])
                self._add(moment, stop.positions[index].tolist(), stop.velocities[index].tolist())
            self._add(period + float(stop.times[last]), stop.positions[last].tolist(), self._zeros)
        self._message.points = self._points[: self._count]
        return self._message

    def _add(self, moment: float, positions: list[float], velocities: list[float]) -> None:
        if self._count == len(self._points):
            self._points.append(JointTrajectoryPoint())
        point = self._points[self._count]
        point.positions, point.velocities = positions, velocities
        seconds_to_duration(moment, point.time_from_start)
        self._count += 1


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
        self._before: ArmCommand | None = None
        self._sent_at = -np.inf
        self._latest_before = LATEST_BEFORE * context.period
        self._start = _StartOfTrajectories(context.node, self._controller)
        self._goals: _Goals | None = None
        if settings["joint_trajectory.interface"] == "action":
            self._goals = _Goals(
                context.node,
                f"{self._controller}/follow_joint_trajectory",
                1.0 / settings["joint_trajectory.action_rate"],
            )
        else:
            self._output = context.node.create_publisher(
                JointTrajectory, self._topic, with_liveliness(qos.COMMAND, lease_of(context.node))
            )

    def problem(self) -> Problem | None:
        """Whether the controller is there, is ours alone, and has accepted what was sent."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_PERIOD:
            self._looked_at = now
            self._seen = self._look()
            if self._seen is None:
                self._start.look()
        if self._goals is not None and (refusal := self._goals.refusal(now)):
            return Problem(refusal, dropped=True)
        return self._seen

    def _look(self) -> Problem | None:
        advice = "is it loaded and active ('ros2 control list_controllers')?"
        if self._goals is not None:
            if not self._goals.client.server_is_ready():
                return Problem(f"no action server of {self._controller}: {advice}", dropped=True)
            return None
        if self._output.get_subscription_count() == 0:
            text = f"nobody takes trajectories from {self._topic}: {advice}"
            return Problem(text, dropped=True)
        if others := other_publishers(self._node, self._topic):
            return Problem(
                f"another program publishes on {self._topic}, too ({', '.join(others)}): two must "
                "not command one arm, stop the other"
            )
        return None

    def send(self, command: ArmCommand) -> None:
        """Sends one cycle's command with its way to rest."""
        now = time.monotonic()
        before = None
        if self._start.measured and now - self._sent_at < self._latest_before:
            before = self._before
        self._before, self._sent_at = command, now
        if self._goals is not None:
            self._goals.send(command, before, self._messages)
        else:
            self._output.publish(self._messages.of(command, before))

    def release(self) -> None:
        """The controller stays at the last point until others command it."""
        self._before = None
        if self._goals is not None:
            self._goals.start_over()

    def close(self) -> None:
        """Takes the action client off the graph."""
        if self._goals is not None:
            self._goals.client.destroy()


class _StartOfTrajectories:
    """Whether the controller starts trajectories from the measured joints, as it says itself."""

    def __init__(self, node, controller: str):
        self.measured = False
        self._node, self._controller = node, controller
        self._client = node.create_client(GetParameters, f"{controller}/get_parameters")
        self._answer = None
        self._looks = self._ask_at = 0

    def look(self) -> None:
        """Asks, or takes the answer; call it repeatedly while the controller is there."""
        if self._client is None:
            return
        self._looks += 1
        if self._answer is not None and self._answer.done():
            self._take(self._answer.result())
        elif self._looks > PATIENT_LOOKS:
            self._end()
        elif self._looks >= self._ask_at and self._client.service_is_ready():
            # Asked again: an answer to a new client may be lost.
            if self._answer is not None:
                self._client.remove_pending_request(self._answer)
            request = GetParameters.Request(names=["interpolate_from_desired_state"])
            self._answer = self._client.call_async(request)
            self._ask_at = self._looks + LOOKS_PER_QUESTION

    def _take(self, response) -> None:
        values = response.values if response is not None else []
        # A version that does not have the parameter starts from the measured joints.
        is_set = bool(values) and values[0].type == ParameterType.PARAMETER_BOOL
        self.measured = not (is_set and values[0].bool_value)
        if self.measured:
            self._node.get_logger().warning(
                f"{self._controller} starts each trajectory from the measured joints; each is sent "
                "with the command before it. Set its parameter interpolate_from_desired_state to "
                "true for a smoother motion"
            )
        self._end()

    def _end(self) -> None:
        self._node.destroy_client(self._client)
        self._client = None


class _Goals:
    """FollowJointTrajectory goals, each replacing the one before.

    After a refusal or an abort the robot holds where it is, and the commanded motion is void:
    nothing is sent until start_over(), since a goal that continued from there would be a jump.
    """

    def __init__(self, node, name: str, period: float):
        (action,) = import_interfaces("control_msgs", ("action",), "install ros-jazzy-control-msgs")
        self._action = action.FollowJointTrajectory
        self._words = {
            getattr(self._action.Result, name): name.lower().replace("_", " ")
            for name in (
                "INVALID_GOAL",
                "INVALID_JOINTS",
                "OLD_HEADER_TIMESTAMP",
                "PATH_TOLERANCE_VIOLATED",
                "GOAL_TOLERANCE_VIOLATED",
            )
        }
        self.client = ActionClient(node, self._action, name)
        self._name, self._period = name, period
        self._sent_at = -np.inf
        self._number = 0
        self._was_moving = False
        self._asked_at = -np.inf
        self._is_void = False
        self._refused: tuple[str, float] = ("", -np.inf)

    def refusal(self, now: float) -> str:
        """What went wrong with the last goal; "" when nothing did, or long ago."""
        text, at = self._refused
        if self._is_void and now - self._asked_at > RETRY_TIME:
            # Nothing was sent for this long: the next goal starts over.
            self.start_over()
        return text if self._is_void or now - at < RETRY_TIME else ""

    def start_over(self) -> None:
        """The next goal starts from where the arm is."""
        self._is_void = self._was_moving = False

    def send(
        self, command: ArmCommand, before: ArmCommand | None, messages: TrajectoryMessages
    ) -> None:
        """Sends a goal when it is due, and at once for an arm that has come to rest."""
        now = self._asked_at = time.monotonic()
        if self._is_void:
            return
        moving = len(command.stop.times) > 0
        due = now - self._sent_at >= self._period
        arrives = self._was_moving and not moving
        if not arrives and not (due and moving):
            return
        if not self.client.server_is_ready():
            return
        self._was_moving, self._sent_at = moving, now
        self._number += 1
        number = self._number
        goal = self._action.Goal(trajectory=messages.of(command, before))
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
        if future.result() is None:
            return
        result = future.result().result
        codes = self._action.Result
        # Earlier goals end when the next one comes, canceled or as invalid, which is how it should
        # be. Another failure counts whichever goal it ends: answers come late, at 20 Hz.
        if number != self._number and result.error_code == codes.INVALID_GOAL:
            return
        if result.error_code != codes.SUCCESSFUL:
            word = self._words.get(result.error_code, f"error {result.error_code}")
            self._refuse(f"{self._name} gave up a trajectory: {word} {result.error_string}".strip())

    def _refuse(self, why: str) -> None:
        self._refused, self._is_void = (why, time.monotonic()), True


BACKEND = JointTrajectoryBackend
