"""Closed-loop episodes in process: a chunk policy, the arm controller and the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla.control.arm import ArmController
from vla.control.chunk import ActionChunk
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import Task

# Gives un-normalised actions [H, 7] for the present state of the simulator.
ChunkPolicy = Callable[[TableTopSimulator, Task], np.ndarray]


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode ended. seconds: simulated time until success, or until the time limit."""

    success: bool
    wrong_object: bool
    seconds: float


def run_steps(simulator: TableTopSimulator, controller: ArmController, steps: int) -> None:
    """Lets the controller drive the arm for `steps` policy steps.

    Raises ValueError when a policy step is no whole number of the controller's cycles.
    """
    period = 1.0 / controller.config.control_rate
    cycles = controller.contract.time_step * controller.config.control_rate
    ticks = round(cycles)
    if abs(cycles - ticks) > 1e-6:
        raise ValueError(
            f"control_rate {controller.config.control_rate:g} Hz gives {cycles:g} cycles per "
            "policy step; choose one that gives a whole number"
        )
    for _ in range(steps * ticks):
        command = controller.step(simulator.time, simulator.joint_positions)
        simulator.command(command.joint_positions, command.gripper_width)
        simulator.step(period)


def run_episode(
    simulator: TableTopSimulator,
    controller: ArmController,
    policy: ChunkPolicy,
    task: Task,
    time_limit: float = 15.0,
    steps_per_chunk: int = 3,
    delay_steps: int = 0,
    on_step: Callable[[TableTopSimulator], None] | None = None,
) -> EpisodeResult:
    """Runs a policy on a scene that was just reset, until success holds for half a second.

    steps_per_chunk: policy steps between two chunks. delay_steps: policy steps that pass between an
    observation and the arrival of its chunk, as on a robot whose model needs that long.
    """
    controller.reset()
    held, wrong = 0, False
    step = 0
    pending: list[tuple[int, ActionChunk]] = []
    while simulator.time < time_limit:
        if step % steps_per_chunk == 0:
            position, quaternion = simulator.end_effector_pose()
            chunk = ActionChunk(
                simulator.time,
                controller.contract.time_step,
                policy(simulator, task),
                position,
                quaternion,
            )
            pending.append((step + delay_steps, chunk))
        while pending and pending[0][0] <= step:
            controller.accept(pending.pop(0)[1], simulator.time)
        run_steps(simulator, controller, 1)
        if on_step is not None:
            on_step(simulator)
        step += 1
        status = simulator.check(task)
        wrong = wrong or status.wrong_object
        held = held + 1 if status.success else 0
        if held >= 5:
            return EpisodeResult(True, wrong, simulator.time)
    return EpisodeResult(False, wrong, simulator.time)
