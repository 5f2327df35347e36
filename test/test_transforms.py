"""Transforms by time: composition, interpolation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from vla.observations.transforms import Transform, TransformBuffer, TransformError

UNIT = np.array([0.0, 0.0, 0.0, 1.0])
MS = 1_000_000


def place(parent: str, child: str, position=(0.0, 0.0, 0.0), turn=None) -> Transform:
    quaternion = UNIT if turn is None else turn.as_quat()
    return Transform(parent, child, np.array(position, dtype=float), quaternion)


def matrix(transform: Transform) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat(transform.quaternion).as_matrix()
    result[:3, 3] = transform.position
    return result


def test_a_chain_of_moving_and_fixed_frames_is_composed_both_ways():
    rotations = Rotation.random(4, rng=np.random.default_rng(1))
    parts = [
        place("world", "base", (0.2, 0.1, 0.0), rotations[0]),
        place("base", "elbow", (0.0, 0.3, 0.5), rotations[1]),
        place("elbow", "tool", (0.1, 0.0, 0.2), rotations[2]),
        place("world", "camera", (1.0, 1.0, 1.0), rotations[3]),
    ]
    buffer = TransformBuffer()
    for part, is_static in zip(parts, (True, False, True, True), strict=True):
        buffer.add(part, 7 * MS, is_static)
    stamp, tool = buffer.newest("base", "tool")
    assert stamp == 7 * MS and (tool.parent, tool.child) == ("base", "tool")
    assert np.allclose(matrix(tool), matrix(parts[1]) @ matrix(parts[2]))
    _, seen = buffer.newest("camera", "tool")
    expected = np.linalg.inv(matrix(parts[3])) @ matrix(parts[0]) @ matrix(tool)
    assert np.allclose(matrix(seen), expected)
    _, back = buffer.newest("tool", "camera")
    assert np.allclose(matrix(back), np.linalg.inv(expected))
    assert buffer.moving_between("base", "tool") == ("elbow",)
    assert buffer.moving_between("tool", "camera") == ("elbow",)


def test_the_newest_pose_is_that_of_the_latest_time_at_which_all_is_known():
    turns = Rotation.from_euler("z", [[0.0], [80.0]], degrees=True)
    buffer = TransformBuffer()
    buffer.add(place("elbow", "tool", (0.0, 0.0, 0.1)), 14 * MS)
    for tick, turn in enumerate(turns):
        buffer.add(place("base", "elbow", (0.1 * tick, 0.0, 0.0), turn), (10 + 10 * tick) * MS)
    stamp, tool = buffer.newest("base", "tool")
    assert stamp == 14 * MS
    turned = Slerp([10, 20], turns)(14)
    assert np.allclose(tool.position, [0.04, 0.0, 0.1])
    assert (Rotation.from_quat(tool.quaternion) * turned.inv()).magnitude() < 1e-9
    # One that was overtaken on the way takes its place.
    buffer.add(place("base", "elbow", (0.5, 0.0, 0.0)), 14 * MS)
    assert np.allclose(buffer.newest("base", "tool")[1].position, [0.5, 0.0, 0.1])


def test_nothing_is_extrapolated():
    buffer = TransformBuffer()
    buffer.add(place("elbow", "tool"), 14 * MS)
    buffer.add(place("base", "elbow"), 20 * MS)
    assert buffer.newest("base", "tool") is None
    buffer.add(place("elbow", "tool"), 21 * MS)
    assert buffer.newest("base", "tool")[0] == 20 * MS


def test_a_clock_that_is_set_back_starts_over():
    buffer = TransformBuffer()
    for stamp, x in ((5_000 * MS, 1.0), (1_000 * MS, 2.0)):
        buffer.add(place("base", "tool", (x, 0.0, 0.0)), stamp)
    stamp, tool = buffer.newest("base", "tool")
    assert (stamp, tool.position[0]) == (1_000 * MS, 2.0)


def test_a_frame_keeps_its_newest_parent_and_no_more_than_two_seconds():
    buffer = TransformBuffer()
    for tick in range(1000):
        buffer.add(place("base", "tool", (tick, 0.0, 0.0)), tick * 10 * MS)
    assert len(buffer._links["tool"].stamps) == 201
    buffer.add(place("world", "tool"), 10_000 * MS)
    with pytest.raises(TransformError, match="frames known: tool, world"):
        buffer.newest("base", "tool")


def test_frames_in_a_circle_end_the_search():
    buffer = TransformBuffer()
    for parent, child in (("a", "b"), ("b", "c"), ("c", "a")):
        buffer.add(place(parent, child), 0)
    with pytest.raises(TransformError, match="no way from 'base' to 'b'"):
        buffer.newest("base", "b")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (place("base", "tool", (np.nan, 0.0, 0.0)), "not finite"),
        (Transform("base", "tool", np.zeros(3), np.zeros(4)), "not of unit length"),
        (place("tool", "tool"), "does not name two frames"),
        (place("", "tool"), "does not name two frames"),
    ],
)
def test_bad_transforms_are_refused_and_change_nothing(bad, words):
    buffer = TransformBuffer()
    buffer.add(place("base", "tool", (0.1, 0.0, 0.0)), 0)
    with pytest.raises(TransformError, match=words):
        buffer.add(bad, MS)
    assert buffer.newest("base", "tool")[0] == 0


def test_frames_that_nothing_moves_have_no_time():
    buffer = TransformBuffer()
    buffer.add(place("base", "camera"), 0, is_static=True)
    with pytest.raises(TransformError, match="nothing moves between 'base' and 'camera'"):
        buffer.newest("base", "camera")
