"""A scripted operator of the simulated arm: stands in for someone who demonstrates a task.

It knows what any client of the robot can know: measured joints and the simulator's configuration,
which may come from another process. A simulator of its own is put into that configuration, so that
the scripted expert can look at the truth there.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk
from vla.control.command import ArmCommand
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import Task

# Joint states that are kept to find the moment of a configuration, which has no stamp of its own.
KEPT_JOINT_STATES = 50


class ScriptedOperator:
    """Joints and configurations in, commands out; plans again with every configuration.

    config: limits and rate of the commands, by default the controller's. Times are seconds of the
    robot's clock. One thread calls all methods.
    """

    def __init__(self, contract: EmbodimentContract, config: ArmControllerConfig | None = None):
        self.arm = ArmController(config or ArmControllerConfig(), contract)
        # Nothing is rendered.
        self.mirror = TableTopSimulator(camera_size=16)
        self.task: Task | None = None
        self._measured: deque[tuple[float, np.ndarray]] = deque(maxlen=KEPT_JOINT_STATES)
        self._configuration: np.ndarray | None = None
        self._due = -np.inf

    def begin(self, seed: int, family: str) -> Task:
        """Takes the arm over in the scene of that seed and family, and returns its task.

        Raises ValueError when the family is unknown.
        """
        self.task = self.mirror.reset(seed, family)
        self.arm.reset()
        self._measured.clear()
        self._configuration = None
        self._due = -np.inf
        return self.task

    def end(self) -> None:
        """Releases the arm."""
        self.task = None

    def take_configuration(self, qpos: np.ndarray) -> None:
        """Takes the scene as it is now: MuJoCo's qpos. Raises ValueError on another length."""
        if self.task is None:
            return
        if len(qpos) != self.mirror.model.nq:
            raise ValueError(
                f"expected a configuration of {self.mirror.model.nq} values, got {len(qpos)}: are "
                "simulator and operator of the same version?"
            )
        self._configuration = np.array(qpos, dtype=np.float64)
        self._plan()

    def take_joints(self, stamp: float, positions: np.ndarray) -> ArmCommand | None:
        """Takes measured joints [7] in radians; gives a command when one is due.

        Before the first plan the commands keep the arm where it is. Raises ValueError when the
        positions are not 7 finite values.
        """
        if self.task is None:
            return None
        self._measured.append((stamp, np.array(positions, dtype=np.float64)))
        # The two kinds of messages may come in any order.
        self._plan()
        period = 1.0 / self.arm.config.control_rate
        # A joint state that comes a little early is not passed over for the next.
        if stamp < self._due - period / 4:
            return None
        self._due = max(self._due, stamp - period) + period
        return self.arm.step(stamp, positions)

    def _plan(self) -> None:
        """Plans from the configuration, once the joint state of the same moment is there."""
        qpos, task = self._configuration, self.task
        if qpos is None or task is None:
            return
        joints = qpos[: len(self.mirror.joint_positions)]
        stamps = [stamp for stamp, measured in self._measured if np.array_equal(measured, joints)]
        if not stamps:
            return
        self._configuration = None
        self.mirror.set_qpos(qpos)
        contract = self.arm.contract
        chunk = ActionChunk(
            stamps[-1],
            contract.time_step,
            plan_chunk(self.mirror, task, contract.horizon),
            *self.mirror.end_effector_pose(),
        )
        self.arm.accept(chunk, self._measured[-1][0])
