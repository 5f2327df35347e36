"""How fast the scripted expert goes towards a goal, in one policy step."""

from __future__ import annotations

import numpy as np

MAX_STEP = 0.032
MAX_TURN = 0.14
FINGER_STEP = 0.02


def step_towards(offset: np.ndarray) -> np.ndarray:
    """How far the tool moves [3] of what is left of its way [3], in metres.

    It slows down near the goal: the last centimetres decide the grasp.
    """
    distance = float(np.linalg.norm(offset))
    length = min(MAX_STEP, 0.004 + 0.55 * distance)
    return offset if distance <= length else offset * (length / distance)
