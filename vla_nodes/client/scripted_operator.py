"""A scripted operator on the graph, and the recording of its demonstrations.

It commands the simulated arm on the topics of `controller`, which is deactivated meanwhile, since
only one may command an arm. The same applies to an operator with a SpaceMouse.

    with DemoClient() as client, OperatorStation(client, contract) as operator:
        episode = demonstrate_episode(client, operator, seed=1_000_000, family="store")
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import numpy as np
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import JointState
from vla_ros.msg import SceneState
from vla_ros.srv import ResetScene, StopEpisode

from vla.contract.embodiment import EmbodimentContract
from vla.envs.tabletop.operator import ScriptedOperator
from vla.envs.tabletop.tasks import Task
from vla.observations.messages import joint_positions
from vla_nodes.backends import all_settings, make_backend, make_gripper
from vla_nodes.backends.base import BackendContext
from vla_nodes.client.demo import DemoClient
from vla_nodes.client.graph import RobotClient, UnreachableError
from vla_nodes.core import qos
from vla_nodes.core.conversions import stamp_to_seconds
from vla_nodes.core.node import ManagedNode

CONTROLLER = "controller"
POLL_PERIOD = 0.1
# Recorded after success [s], so that the policy learns to end there.
TAIL = 0.8


class OperatorStation:
    """Lets a ScriptedOperator drive the arm; a context manager, inside which `controller` rests.

    It works while the client waits or spins, in the client's thread.
    """

    def __init__(self, client: RobotClient, contract: EmbodimentContract):
        self._client, self._contract = client, contract
        self._operator = ScriptedOperator(contract)
        self._had_controller = False
        node = client.node
        settings = {setting.name: setting.default for setting in all_settings()}
        # The two backends that it drives by use nothing that a plain node lacks.
        host = cast("ManagedNode", node)
        context = BackendContext(host, contract, settings, self._operator.arm.period)
        self._arm = make_backend("joint_trajectory", context)
        self._gripper = make_gripper("position", context)
        node.create_subscription(
            JointState, contract.joint_states_topic, self._take_joints, qos.SENSOR
        )
        node.create_subscription(SceneState, "sim/state", self._take_configuration, qos.SENSOR)

    def __enter__(self) -> OperatorStation:
        state = self._controller_state()
        self._had_controller = state == State.PRIMARY_STATE_ACTIVE
        if self._had_controller:
            self._change_controller("deactivate", Transition.TRANSITION_DEACTIVATE)
        return self

    def __exit__(self, *exception) -> None:
        self.end()
        if self._had_controller:
            self._change_controller("activate", Transition.TRANSITION_ACTIVATE)

    def begin(self, seed: int, family: str) -> Task:
        """Starts to demonstrate the task of a scene that was just reset, and returns the task."""
        return self._operator.begin(seed, family)

    def end(self) -> None:
        """Releases the arm, which stays where it is."""
        self._operator.end()

    def _take_joints(self, message: JointState) -> None:
        positions = joint_positions(message, self._contract.joint_names)
        command = self._operator.take_joints(stamp_to_seconds(message.header.stamp), positions)
        if command is not None:
            self._arm.send(command)
            self._gripper.send(command.gripper_width)

    def _take_configuration(self, message: SceneState) -> None:
        self._operator.take_configuration(np.array(message.qpos))

    def _controller_state(self) -> int:
        """Lifecycle state; PRIMARY_STATE_UNKNOWN if no controller runs."""
        try:
            answer = self._client.call(
                GetState, f"{CONTROLLER}/get_state", GetState.Request(), 10.0, repeat_after=2.0
            )
        except UnreachableError:
            return State.PRIMARY_STATE_UNKNOWN
        return answer.current_state.id

    def _change_controller(self, label: str, transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition, label=label))
        answer = self._client.call(ChangeState, f"{CONTROLLER}/change_state", request)
        if not answer.success:
            raise UnreachableError(f"'{CONTROLLER}' refused to {label}: see its log")


@dataclass(frozen=True)
class Demonstration:
    """A demonstrated episode."""

    seed: int
    family: str
    instruction: str
    success: bool
    bag: str  # Its folder; empty if the episode failed and was discarded.
    seconds: float  # Simulated time until success.


def demonstrate_episode(
    client: DemoClient,
    operator: OperatorStation,
    seed: int,
    family: str,
    time_limit: float = 20.0,
) -> Demonstration:
    """Has the operator demonstrate the task of a scene and the recorder record it.

    A failed episode is discarded: try another seed. time_limit: of simulated time [s]. Raises
    UnreachableError when a node does not answer or refuses, such as for an unknown family.
    """
    scene = client.accepted(
        ResetScene, "sim/reset_scene", ResetScene.Request(seed=seed, family=family)
    )
    episode = client.start_episode(f"{family}, seed {seed}", scene.instruction)
    success, seconds = False, 0.0
    outcome = StopEpisode.Request.OUTCOME_DISCARD
    try:
        operator.begin(seed, family)
        success, seconds = _wait_for_success(client, scene.task, time_limit)
        if success:
            outcome = StopEpisode.Request.OUTCOME_SUCCESS
    finally:
        stopped = client.accepted(
            StopEpisode, "vla/stop_episode", StopEpisode.Request(outcome=outcome)
        )
        operator.end()
    bag = stopped.uri or episode.uri if success else ""
    return Demonstration(seed, family, scene.instruction, success, bag, round(seconds, 2))


def _wait_for_success(client: DemoClient, task: str, time_limit: float) -> tuple[bool, float]:
    """Whether the task was done and stayed so for TAIL, and how long it took [s]."""
    started = client.check(task).elapsed
    # A dead simulator stops simulated time, so the wall clock limits the wait as well.
    deadline = time.monotonic() + 3.0 * time_limit + 10.0
    done_at: float | None = None
    while time.monotonic() < deadline:
        check = client.check(task)
        elapsed = check.elapsed - started
        if not check.success:
            done_at = None
            if elapsed > time_limit:
                break
        elif done_at is None:
            done_at = elapsed
        elif elapsed - done_at >= TAIL:
            return True, done_at
        client.spin(POLL_PERIOD)
    return False, time_limit
