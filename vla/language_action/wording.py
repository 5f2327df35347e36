"""Instructions of segments: what the arm does, in which direction, and with what status.

They say nothing of what a thing is or looks like (LA4VLA, section 7.3), so that a policy can learn
them without images.
"""

from __future__ import annotations

import numpy as np

from vla.language_action.primitives import HOLDING

# Of a displacement in the base frame: per axis, for negative and positive values.
_AXES = (("backward", "forward"), ("right", "left"), ("down", "up"))
# A direction is named where it has this share of the largest, and is so long [m]; two at most.
NAMED_SHARE = 0.4
NAMED_LEAST = 0.01


def directions(displacement: np.ndarray, axes: tuple[int, ...] = (0, 1, 2)) -> list[str]:
    """The main directions of a displacement [3] in metres, the longest first.

    axes: which may be named.
    """
    sizes = np.abs(displacement)
    largest = max(sizes[axis] for axis in axes)
    named = [axis for axis in axes if sizes[axis] >= max(NAMED_SHARE * largest, NAMED_LEAST)]
    named.sort(key=lambda axis: -sizes[axis])
    return [_AXES[axis][int(displacement[axis] > 0)] for axis in named[:2]]


def instruction(
    primitive: str, status: str, displacement: np.ndarray, turn: float, target: str
) -> str:
    """The sentence for a segment.

    displacement: [3] m of the tool, base frame. turn: about the tool's axis [rad], positive
    clockwise as seen along the tool. target: the orientation that a reorientation ends in.
    """
    held = status == HOLDING
    what = "the object" if held else "the gripper"
    way = " and ".join(directions(displacement))
    sideways = " and ".join(directions(displacement, (0, 1)))
    around = "clockwise" if turn > 0 else "counterclockwise"
    rising = next((f" while moving it {word}" for word in ("up", "down") if word in way), "")
    sentences = {
        "grasp": "align with the object and close the gripper on it"
        if held
        else "close the gripper",
        "place": "place the object and open the gripper" if held else "open the gripper",
        "lift": f"lift the object up{_with(sideways, displacement)}",
        "lower": f"lower the object{_with(sideways, displacement)}",
        "transport": f"carry the object {sideways or 'aside'}{rising}",
        "wrist_rotate": f"turn the object {around} about the tool's axis",
        "reorient": f"turn {what} until it is {target}",
        "push": f"push the object {way or 'away'}",
        "pull": f"pull the object {way or 'back'}",
        "press": "press down on the target",
        "move": f"move the gripper {way}",
        "rotate": f"turn the gripper {around} about its axis",
        "wait": "wait without moving" + (", holding the object" if held else ""),
    }
    return " ".join(sentences[primitive].split())


def _with(sideways: str, displacement: np.ndarray) -> str:
    """A secondary direction, where it is worth a word."""
    across = float(np.linalg.norm(displacement[:2]))
    return f" and {sideways}" if sideways and across >= NAMED_SHARE * abs(displacement[2]) else ""
