"""Whether a chunk's path is free, by MoveIt's planning scene: an optional check.

MoveIt's service check_state_validity judges a few arm positions along the chunk. The chunk waits
for all answers, which takes some milliseconds, and is refused where one is in collision, or where
no answer comes in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rclpy.task import Future

from vla_nodes.backends.base import import_interfaces
from vla_nodes.core.settings import Setting

SETTINGS = (
    Setting(
        "planning_scene.check",
        False,
        "Ask MoveIt's planning scene about every chunk, and refuse those that would collide.",
    ),
    Setting("planning_scene.group", "fr3_arm", "MoveIt's planning group of the arm."),
    Setting("planning_scene.service", "check_state_validity", "Name of move_group's service."),
    Setting(
        "planning_scene.timeout",
        0.1,
        "Longest wait for MoveIt's answer before a chunk is refused [s].",
        bounds=(0.001, 5.0),
    ),
)
# Arm positions along a chunk that are checked.
WAYPOINTS = 5

Done = Callable[[str], None]


@dataclass
class _Question:
    """A path that is being checked."""

    done: Done
    asked_at: float
    open: dict[int, Future] = field(default_factory=dict)  # the answers still missing, by waypoint


class PlanningSceneCheck:
    """Checks one path at a time; a newer one replaces it."""

    def __init__(self, node, joint_names: Sequence[str]):
        """Raises ValueError where moveit_msgs is not installed."""
        (services,) = import_interfaces("moveit_msgs", ("srv",), "install ros-jazzy-moveit-msgs")
        settings = node.settings
        self._kind = services.GetStateValidity
        self._names = list(joint_names)
        self._group = settings["planning_scene.group"]
        self._timeout = settings["planning_scene.timeout"]
        self._client = node.create_client(self._kind, settings["planning_scene.service"])
        self._question: _Question | None = None

    def ask(self, waypoints: np.ndarray, done: Done) -> None:
        """Checks arm positions [K, n] in radians; done("") when all are free, else why not."""
        if not self._client.service_is_ready():
            done(f"no service {self._client.srv_name}: is move_group running?")
            return
        self.drop()
        question = self._question = _Question(done, time.monotonic())
        for index, joints in enumerate(waypoints):
            request = self._kind.Request(group_name=self._group)
            request.robot_state.joint_state.name = self._names
            request.robot_state.joint_state.position = joints.tolist()
            # Joints that are not named, such as the fingers, keep MoveIt's positions.
            request.robot_state.is_diff = True
            question.open[index] = self._client.call_async(request)
        for index, future in list(question.open.items()):
            future.add_done_callback(
                lambda future, index=index: self._on_answer(question, index, future)
            )

    def tick(self) -> None:
        """Gives up what has waited too long; called in each control cycle."""
        question = self._question
        if question is not None and time.monotonic() - question.asked_at > self._timeout:
            self._end(question, f"MoveIt did not answer within {self._timeout:g} s")

    def drop(self) -> None:
        """Another chunk or instruction: the current check does not matter any more."""
        question, self._question = self._question, None
        if question is not None:
            for future in question.open.values():
                self._client.remove_pending_request(future)

    def _end(self, question: _Question, why: str) -> None:
        self.drop()
        question.done(why)

    def _on_answer(self, question: _Question, index: int, future: Future) -> None:
        if self._question is not question:
            return
        del question.open[index]
        answer = future.result()
        if answer is None:
            self._end(
                question, f"MoveIt did not answer about waypoint {index} of the chunk: see its log"
            )
        elif not answer.valid:
            pairs = [f"{c.contact_body_1} touches {c.contact_body_2}" for c in answer.contacts[:1]]
            what = pairs[0] if pairs else "MoveIt does not allow the arm's position"
            self._end(question, f"{what} at waypoint {index} of the chunk")
        elif not question.open:
            self._end(question, "")
