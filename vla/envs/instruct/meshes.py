"""Shapes made in code, as MJCF meshes: tubes, turned shapes and prisms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SIDES = 16  # corners of a round cross-section

Mesh = tuple[np.ndarray, np.ndarray]  # vertices [V, 3] in metres, triangles [F, 3], outward


def tube(centres: np.ndarray, radii: Sequence[float], closed: bool = False) -> Mesh:
    """A tube along a line in the horizontal plane.

    centres: of its cross-sections [N, 3]. radii: of each. closed: the last one is followed by the
    first; else both ends are capped.
    """
    if closed:
        along = np.roll(centres, -1, 0) - np.roll(centres, 1, 0)
    else:
        along = np.gradient(centres, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    up = np.array([0.0, 0.0, 1.0])
    aside = np.cross(up, along)
    angles = np.arange(_SIDES) * 2 * np.pi / _SIDES
    rings = [
        centre + radius * (np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * up)
        for centre, radius, side in zip(centres, radii, aside, strict=True)
    ]
    return _joined(rings, closed)


def turned(profile: Sequence[tuple[float, float]], sides: int = _SIDES) -> Mesh:
    """A profile of (radius, height) pairs from bottom to top, turned about the vertical.

    sides: of its cross-section; the corner of four lies between x and y.
    """
    angles = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(sides)], axis=1)
    rings = [radius * circle + np.array([0.0, 0.0, height]) for radius, height in profile]
    return _joined(rings, closed=False)


def prism(corners: np.ndarray, half_height: float) -> Mesh:
    """A prism over an outline [N, 2], counterclockwise and seen whole from its middle."""
    count = len(corners)
    bottom = np.column_stack([corners, np.full(count, -half_height)])
    top = np.column_stack([corners, np.full(count, half_height)])
    middles = np.array([[0.0, 0.0, -half_height], [0.0, 0.0, half_height]])
    faces = []
    for index in range(count):
        after = (index + 1) % count
        faces += [
            (index, after, count + after),
            (index, count + after, count + index),
            (2 * count, after, index),
            (2 * count + 1, count + index, count + after),
        ]
    return np.concatenate([bottom, top, middles]), np.array(faces)


def star(points: int, outer: float, inner: float) -> np.ndarray:
    """The outline of a star [2 * points, 2]; radii in metres."""
    angles = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2, inner, outer)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def arc(radius: float, angle: float, count: int = 12) -> np.ndarray:
    """Points of an arc [count, 3] whose chord is along x and whose middle is at the origin."""
    angles = np.linspace(-angle / 2, angle / 2, count)
    points = np.stack([radius * np.sin(angles), radius * np.cos(angles), 0 * angles], axis=1)
    points[:, 1] -= points[:, 1].mean()
    return points


def _joined(rings: list[np.ndarray], closed: bool) -> Mesh:
    """Rings of points joined by triangles, capped at both ends unless it is closed."""
    sides = len(rings[0])
    faces = []
    for number in range(len(rings) if closed else len(rings) - 1):
        one, two = number * sides, (number + 1) % len(rings) * sides
        for index in range(sides):
            after = (index + 1) % sides
            faces += [
                (one + index, one + after, two + after),
                (one + index, two + after, two + index),
            ]
    points = np.concatenate(rings)
    if not closed:
        first, last = len(points), len(points) + 1
        points = np.concatenate([points, rings[0].mean(0)[None], rings[-1].mean(0)[None]])
        end = (len(rings) - 1) * sides
        for index in range(sides):
            after = (index + 1) % sides
            faces += [(first, after, index), (last, end + index, end + after)]
    return points, np.array(faces)


def mesh_xml(name: str, mesh: Mesh) -> str:
    """The mesh as an asset of MJCF."""
    vertices, faces = mesh
    vertex = " ".join(f"{value:.5g}" for value in vertices.ravel())
    face = " ".join(str(index) for index in faces.ravel())
    return f'<mesh name="{name}" inertia="shell" vertex="{vertex}" face="{face}"/>'
