"""Whether a chunk's way is free, by MoveIt's planning scene: an optional check of the controller.

MoveIt's service check_state_validity is asked about a handful of arm positions along the chunk; the
chunk is held back until all are answered, which costs some milliseconds, and refused where one is
in collision, or where no answer comes in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from vla_nodes.backends.base import import_interfaces
from vla_nodes.settings import Setting

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
        minimum=0.001,
        maximum=5.0,
    ),
)
# Arm positions along a chunk that are asked about.
WAYPOINTS = 5

Done = Callable[[str], None]


class PlanningSceneCheck:
    """Asks about one way at a time; a newer one takes the place of the one under way."""

    def __init__(self, node, joint_names: Sequence[str]):
        """Raises ValueError where moveit_msgs is not installed."""
        (services,) = import_interfaces("moveit_msgs", ("srv",), "ros-jazzy-moveit-msgs")
        settings = node.settings
        self._kind = services.GetStateValidity
        self._names = list(joint_names)
        self._group = settings["planning_scene.group"]
        self._timeout = settings["planning_scene.timeout"]
        self._client = node.create_client(self._kind, settings["planning_scene.service"])
        self._number = 0
        self._under_way: tuple[int, set[int], Done, float] | None = None

    def ask(self, waypoints: np.ndarray, done: Done) -> None:
        """Asks about arm positions [K, n] in radians; done("") when all are free, else why not."""
        if not self._client.service_is_ready():
            done(f"no service {self._client.srv_name}: is move_group running?")
            return
        self._number += 1
        number = self._number
        self._under_way = (number, set(range(len(waypoints))), done, time.monotonic())
        for index, joints in enumerate(waypoints):
            request = self._kind.Request(group_name=self._group)
            request.robot_state.joint_state.name = self._names
            request.robot_state.joint_state.position = joints.tolist()
            request.robot_state.is_diff = True
            self._client.call_async(request).add_done_callback(
                lambda future, index=index: self._on_answer(number, index, future)
            )

    def tick(self) -> None:
        """Gives up what has waited too long; called in each control cycle."""
        if self._under_way is not None:
            _, _, done, asked_at = self._under_way
            if time.monotonic() - asked_at > self._timeout:
                self._under_way = None
                done(f"MoveIt did not answer within {self._timeout:g} s")

    def drop(self) -> None:
        """Another instruction: the way under way does not matter any more."""
        self._under_way = None

    def _on_answer(self, number: int, index: int, future) -> None:
        if self._under_way is None or self._under_way[0] != number:
            return
        _, open_ones, done, _ = self._under_way
        answer = future.result()
        if answer is None or not answer.valid:
            self._under_way = None
            contacts = [] if answer is None else answer.contacts
            pair = [f"{c.contact_body_1} touches {c.contact_body_2}" for c in contacts[:1]]
            done(f"{pair[0] if pair else 'the arm collides'} at waypoint {index} of the chunk")
            return
        open_ones.discard(index)
        if not open_ones:
            self._under_way = None
            done("")
