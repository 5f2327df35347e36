"""Action chunks as paths: deltas add up, time is respected, nonsense is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from vla.control.chunk import ActionChunk, ChunkError, ChunkTrajectory

START = np.array([0.5, -0.1, 0.3])
DOWN = Rotation.from_euler("xyz", [np.pi, 0.1, 0.4])
actions = arrays(np.float64, (5, 7), elements=st.floats(-0.5, 0.5))


def chunk_of(values: np.ndarray, **changes) -> ActionChunk:
    chunk = ActionChunk(10.0, 0.1, np.asarray(values, dtype=float), START, DOWN.as_quat())
    return replace(chunk, **changes)


def distance(quaternion: np.ndarray, rotation: Rotation) -> float:
    return float((Rotation.from_quat(quaternion) * rotation.inv()).magnitude())


@settings(max_examples=40)
@given(actions)
def test_deltas_add_up_in_the_base_frame(values):
    path = ChunkTrajectory(chunk_of(values))
    rotation = DOWN
    for step, action in enumerate(values):
        rotation = Rotation.from_rotvec(action[3:6]) * rotation
        target = path.target(10.0 + 0.1 * (step + 1))
        np.testing.assert_allclose(
            target.position, START + values[: step + 1, :3].sum(axis=0), atol=1e-9
        )
        assert distance(target.quaternion, rotation) < 1e-6


@settings(max_examples=40)
@given(actions, st.floats(-0.2, 0.8))
def test_the_path_has_no_jumps(values, when):
    path = ChunkTrajectory(chunk_of(values))
    before, after = path.target(10.0 + when), path.target(10.0 + when + 1e-4)
    fastest = np.linalg.norm(values[:, :3], axis=1).max() / 0.1
    assert np.linalg.norm(after.position - before.position) <= fastest * 1e-4 + 1e-9
    turning = np.linalg.norm(values[:, 3:6], axis=1).max() / 0.1
    moved = distance(after.quaternion, Rotation.from_quat(before.quaternion))
    assert moved <= turning * 1e-4 + 1e-6


def test_between_steps_the_target_is_between():
    values = np.zeros((2, 7))
    values[0, 0], values[1, 5] = 0.02, 0.4
    path = ChunkTrajectory(chunk_of(values))
    np.testing.assert_allclose(path.target(10.025).position, START + np.array([0.005, 0, 0]))
    half = Rotation.from_rotvec([0, 0, 0.2]) * DOWN
    assert distance(path.target(10.15).quaternion, half) < 1e-6


def test_before_and_after_the_chunk():
    values = np.full((3, 7), 0.01)
    path = ChunkTrajectory(chunk_of(values))
    np.testing.assert_allclose(path.target(3.0).position, START)
    np.testing.assert_allclose(path.target(99.0).position, START + 0.03)
    assert path.end == pytest.approx(10.3)


def test_gripper_is_a_decision_of_the_step_under_way():
    values = np.zeros((3, 7))
    values[:, 6] = [1.0, 0.0, 1.0]
    path = ChunkTrajectory(chunk_of(values))
    times = [9.0, 10.05, 10.15, 10.25, 20.0]
    assert [path.target(time).gripper for time in times] == [1.0, 1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"actions": np.zeros((4, 6))}, "shape"),
        ({"actions": np.zeros((0, 7))}, "shape"),
        ({"actions": np.zeros(7)}, "shape"),
        ({"reference_position": np.zeros(2)}, "shape"),
        ({"reference_quaternion": np.zeros(4)}, "shape"),
        ({"time_step": 0.0}, "shape"),
        ({"time_step": np.nan}, "shape"),
        ({"actions": np.full((4, 7), np.nan)}, "non_finite"),
        ({"reference_position": np.array([0.0, np.inf, 0.0])}, "non_finite"),
        ({"stamp": np.nan}, "non_finite"),
    ],
)
def test_broken_chunks_are_refused_with_a_reason(changes, reason):
    with pytest.raises(ChunkError) as caught:
        ChunkTrajectory(chunk_of(np.zeros((4, 7)), **changes))
    assert caught.value.reason == reason and str(caught.value)
