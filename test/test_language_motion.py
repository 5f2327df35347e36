"""Language motion labels: every word, thresholds, and what has none."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.datasets.language_motion import MotionThresholds, language_motion, motion_words

STILL = np.eye(3)


def turned(axis: str, angle: float) -> np.ndarray:
    return Rotation.from_euler(axis, angle).as_matrix()


@pytest.mark.parametrize(
    ("displacement", "rotation", "closing", "words"),
    [
        ([0.03, 0, 0], STILL, 0, "move forward"),
        ([-0.03, 0, 0], STILL, 0, "move backward"),
        ([0, 0.03, 0], STILL, 0, "move left"),
        ([0, -0.03, 0], STILL, 0, "move right"),
        ([0, 0, 0.03], STILL, 0, "move up"),
        ([0, 0, -0.03], STILL, 0, "move down"),
        ([0.03, -0.025, 0], STILL, 0, "move forward right"),
        ([0, 0, 0], turned("y", -0.09), 0, "tilt up"),
        ([0, 0, 0], turned("y", 0.09), 0, "tilt down"),
        ([0, 0, 0], turned("z", 0.15), 0, "rotate counterclockwise"),
        ([0, 0, 0], turned("z", -0.15), 0, "rotate clockwise"),
        ([0, 0, 0], turned("x", 0.5), 0, "stop"),  # roll has no word
        ([0, 0, 0], STILL, 1, "close gripper"),
        ([0, 0, 0], STILL, -1, "open gripper"),
        ([0, 0, -0.03], turned("z", 0.15), 1, "move down, rotate counterclockwise, close gripper"),
        ([0.019, 0.019, 0.019], turned("z", 0.09), 0, "stop"),
        ([0, 0, 0], STILL, 0, "stop"),
    ],
)
def test_words(displacement, rotation, closing, words):
    assert motion_words(np.array(displacement, dtype=float), rotation, closing) == words


def test_of_a_long_way_only_the_main_directions_are_named():
    assert motion_words(np.array([0.2, 0.02, -0.15]), STILL, 0) == "move forward down"
    loose = MotionThresholds(largest_step=10.0, least=0.01)
    assert motion_words(np.array([0.2, 0.02, -0.15]), STILL, 0, loose) == "move forward left down"


def test_an_episode_is_compared_two_frames_on_and_ends_in_stop():
    positions = np.zeros((6, 3))
    positions[:, 2] = [0, 0.02, 0.04, 0.04, 0.04, 0.04]
    quaternions = np.tile([0.0, 0.0, 0.0, 1.0], (6, 1))
    closed = np.array([0, 0, 0, 1, 1, 1.0])
    assert language_motion(positions, quaternions, closed) == [
        "move up", "close gripper", "close gripper", "stop", "stop", "stop"
    ]  # fmt: skip


def test_the_base_frame_counts_whatever_the_tools_orientation():
    turns = Rotation.from_euler("xz", [[2.0, 0.3], [2.0, 0.375], [2.0, 0.45]])
    labels = language_motion(np.zeros((3, 3)), turns.as_quat(), np.zeros(3))
    assert labels == ["rotate counterclockwise", "stop", "stop"]


def test_broken_episodes_are_refused():
    with pytest.raises(ValueError, match=r"unlike lengths \[2, 3\]"):
        language_motion(np.zeros((3, 3)), np.zeros((3, 4)), np.zeros(2))
    bad = np.full((3, 3), np.nan)
    with pytest.raises(ValueError, match="NaN or infinity"):
        language_motion(bad, np.tile([0.0, 0, 0, 1], (3, 1)), np.zeros(3))
