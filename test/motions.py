"""Trajectories with known actions, for the tests of segmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from vla.language_action.trajectory import ToolTrajectory

OPEN, GRIPPED, EMPTY_CLOSED = 0.08, 0.04, 0.001
# The tool points down: half a turn about x.
DOWN = Rotation.from_rotvec([np.pi, 0.0, 0.0])


@dataclass(frozen=True)
class Phase:
    """One thing that the arm does, at an even speed that rises and falls."""

    seconds: float
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)  # m, base frame
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)  # rotation vector, base frame
    opening: float | None = None  # m, at its end; None leaves the fingers
    touching: bool = False


def motion(*phases: Phase, rate: float = 20.0, noise: float = 0.0, opening: float = OPEN):
    """The trajectory of phases, and when each begins and ends [s].

    noise: standard deviation of the positions [m].
    """
    positions, turns, openings, touching = [np.array([0.4, 0.0, 0.3])], [DOWN], [opening], [False]
    spans, now = [], 0.0
    for phase in phases:
        steps = round(phase.seconds * rate)
        start, first, fingers = positions[-1], turns[-1], openings[-1]
        for step in range(1, steps + 1):
            share = (1 - np.cos(np.pi * step / steps)) / 2
            positions.append(start + share * np.array(phase.shift))
            turns.append(Rotation.from_rotvec(share * np.array(phase.turn)) * first)
            target = fingers if phase.opening is None else phase.opening
            openings.append(fingers + step / steps * (target - fingers))
            touching.append(phase.touching)
        spans.append((now, now + steps / rate))
        now += steps / rate
    generator = np.random.default_rng(0)
    contact = np.array(touching) if any(touching) else None
    trajectory = ToolTrajectory(
        np.arange(len(positions)) / rate,
        np.array(positions) + noise * generator.standard_normal((len(positions), 3)),
        np.array([turn.as_quat() for turn in turns]),
        np.array(openings),
        contact=contact,
    )
    return trajectory, spans
