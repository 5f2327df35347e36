"""Directions that instructions name, and instructions for the opposite direction."""

import pytest

from vla.language_action.direction_words import AXES, named_directions, opposite_instruction
from vla.language_action.primitives import EMPTY, HOLDING, PRIMITIVES
from vla.language_action.wording import instruction


@pytest.mark.parametrize(
    ("words", "directions", "opposite"),
    [
        ("move upward to approach the target", ["up"], "move downward to approach the target"),
        (
            "transport the object horizontally to the left",
            ["left"],
            "transport the object horizontally to the right",
        ),
        ("lower the object downward", ["down"], "raise the object upward"),
        ("Lift the object up.", ["up"], "Lower the object down."),
        ("please move the gripper back", ["backward"], "please move the gripper forward"),
        ("push it backwards, slowly", ["backward"], "push it forwards, slowly"),
        ("move to the right and stop", ["right"], "move to the left and stop"),
        ("carry the object left while moving it up", ["left", "up"], None),
        ("press down on the target", ["down"], "press up on the target"),
        # Where a thing is, and words that belong to another verb
        ("push the left button", [], "push the left button"),
        ("move to the left of the can", [], "move to the left of the can"),
        ("move to the right drawer", [], "move to the right drawer"),
        ("pick up the can on the left", [], "pick up the can on the left"),
        ("put it down right there", [], "put it down right there"),
        ("turn left", [], "turn left"),
        ("push the left button down", ["down"], "push the left button up"),
        ("", [], ""),
        ("12 !", [], "12 !"),
    ],
)  # fmt: skip
def test_directions_of_sentences(words, directions, opposite):
    assert named_directions(words) == directions
    if opposite is not None:
        assert opposite_instruction(words) == opposite


@pytest.mark.parametrize("axis", list(AXES))
@pytest.mark.parametrize("primitive", ["move", "transport", "push", "pull"])
def test_what_segments_say_is_understood(axis, primitive):
    column = "xyz".index(axis)
    status = HOLDING if HOLDING in PRIMITIVES[primitive].statuses else EMPTY
    for sign, direction in zip((1, -1), AXES[axis], strict=True):
        displacement = [0.0, 0.0, 0.0]
        displacement[column] = 0.1 * sign
        if primitive == "transport" and axis == "z":
            continue  # it is horizontal
        words = instruction(primitive, status, displacement, 0.0, "")
        assert named_directions(words) == [direction], words
        other = AXES[axis][AXES[axis].index(direction) - 1]
        assert named_directions(opposite_instruction(words)) == [other]
