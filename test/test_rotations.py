"""The control loop's rotation helpers against scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from vla.core.rotations import (
    difference,
    from_rotation_vector,
    matrix_to_euler,
    matrix_to_quaternion,
    multiply,
    quaternion_to_matrix,
    rotation_vector,
)

vectors = arrays(np.float64, 3, elements=st.floats(-3.0, 3.0)).map(
    lambda v: v if np.linalg.norm(v) < 3.1 else v * 3.1 / np.linalg.norm(v)
)
MANY = settings(max_examples=60)


def same(first: np.ndarray, second: Rotation) -> bool:
    return (Rotation.from_quat(first) * second.inv()).magnitude() < 1e-6


@MANY
@given(vectors)
def test_conversions(vector):
    reference = Rotation.from_rotvec(vector)
    quaternion = from_rotation_vector(vector)
    assert same(quaternion, reference)
    np.testing.assert_allclose(rotation_vector(quaternion), vector, atol=1e-6)
    matrix = quaternion_to_matrix(quaternion)
    np.testing.assert_allclose(matrix, reference.as_matrix(), atol=1e-9)
    assert same(matrix_to_quaternion(matrix), reference)
    assert same(matrix_to_quaternion(matrix.reshape(9)), reference)


@MANY
@given(vectors, vectors)
def test_products_and_differences(first, second):
    a, b = Rotation.from_rotvec(first), Rotation.from_rotvec(second)
    assert same(multiply(a.as_quat(), b.as_quat()), a * b)
    turn = difference(a.as_quat(), b.as_quat())
    assert same(multiply(from_rotation_vector(turn), b.as_quat()), a)
    assert np.linalg.norm(turn) <= np.pi + 1e-9


def test_no_turn_is_no_turn():
    identity = from_rotation_vector(np.zeros(3))
    np.testing.assert_array_equal(identity, [0, 0, 0, 1])
    np.testing.assert_allclose(difference(identity, -identity), 0.0, atol=1e-12)


@MANY
@given(vectors)
def test_euler_angles_are_turns_about_fixed_axes(vector):
    matrix = Rotation.from_rotvec(vector).as_matrix()
    again = Rotation.from_euler("xyz", matrix_to_euler(matrix))
    assert (again * Rotation.from_rotvec(vector).inv()).magnitude() < 1e-5


def test_a_pitch_of_a_quarter_turn_has_no_roll():
    for pitch in (np.pi / 2, -np.pi / 2):
        matrix = Rotation.from_euler("xyz", [0.0, pitch, 0.4]).as_matrix()
        np.testing.assert_allclose(matrix_to_euler(matrix), [0.0, pitch, 0.4], atol=1e-6)
