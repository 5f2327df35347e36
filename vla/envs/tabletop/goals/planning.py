"""The scripted expert in scenes with several goals: chunks from the present state alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vla.control.robots import panda
from vla.core.rotations import difference, from_rotation_vector, multiply
from vla.envs.tabletop.goals.base import Target, View
from vla.envs.tabletop.motion import FINGER_STEP, MAX_TURN, step_towards
from vla.envs.tabletop.tasks import Task

if TYPE_CHECKING:
    from vla.envs.tabletop.simulator import TableTopSimulator

_NEAR = 0.015  # of the tool to what closing fingers take [m]


def plan_to_goal(simulator: TableTopSimulator, task: Task, horizon: int) -> np.ndarray:
    """The expert's next actions [horizon, 7], un-normalised deltas in the base frame.

    The plan runs ahead without physics, assuming that commands are met. Raises ValueError in a
    scene without goals.
    """
    if simulator.goals is None:
        raise ValueError(f"a scene of '{simulator.task.family}' has no goals")
    goals, view = simulator.goals, simulator.goals.view(simulator)
    actions = np.zeros((horizon, 7))
    for index in range(horizon):
        view, actions[index] = _advance(view, goals.target(view, task), goals.thickness)
    return actions


def _advance(view: View, target: Target, thickness: float) -> tuple[View, np.ndarray]:
    """One policy step: the next view and the action [7]."""
    move = step_towards(target.position - view.tool)
    turn = difference(target.quaternion, view.quaternion)
    angle = float(np.linalg.norm(turn))
    turn *= min(1.0, MAX_TURN / max(angle, 1e-9))
    opens = target.gripper > 0.5
    width = view.width + (FINGER_STEP if opens else -FINGER_STEP)
    width = float(np.clip(width, 0.0, panda.OPEN_WIDTH))
    tool, held = view.tool + move, view.held
    if opens and width > thickness + 0.004:
        held = False
    elif not opens and width <= thickness and np.linalg.norm(tool - view.thing) < _NEAR:
        held = True
    after = replace(
        view,
        tool=tool,
        quaternion=multiply(from_rotation_vector(turn), view.quaternion),
        width=max(width, thickness) if held else width,
        thing=view.thing + move if held else view.thing,
        held=held,
    )
    return after, np.array([*move, *turn, target.gripper])
