"""Pictures of a diagnosis as SVG: predicted paths with their ends, and what enters the head.

After figures 2 and 5 of LA4VLA (arXiv 2606.27295): paths are projected onto a plane with the axis
along which the directions are opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from vla.evaluation.diagnosis import ConditionResult
from vla.evaluation.direction_cases import DirectionCase
from vla.evaluation.representations import Representations
from vla.language_action.direction_words import AXES

PANEL, GAP, TITLE, COLUMNS = 200, 16, 22, 3  # pixels, pixels, pixels, panels in a row
MARGIN = 1.05
COLOURS = {
    "forward": "#1b6ca8",
    "backward": "#d1495b",
    "left": "#2e8b57",
    "right": "#e08e0b",
    "up": "#6a4c93",
    "down": "#8c6d46",
}
# Of each axis, what goes to the right and what goes up in its plane, as rows [2, 3] that take a
# position in the base frame: from above for x and y, from the right-hand side for z.
_ABOVE = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
_PLANES = {"x": _ABOVE, "y": _ABOVE, "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])}
_SIDES = {"x": ("right", "forward"), "y": ("right", "forward"), "z": ("forward", "up")}


def path_picture(
    axis: str, cases: Sequence[DirectionCase], results: Sequence[ConditionResult]
) -> str:
    """The paths of all cases along one axis, "x", "y" or "z": a panel for each condition.

    All panels have the same scale, and each begins in its middle. Raises ValueError where no case
    is along that axis.
    """
    own = [number for number, case in enumerate(cases) if case.direction in AXES[axis]]
    if not own:
        raise ValueError(f"no case is along the axis {axis}")
    shown = [(r.condition.name, r.paths[own]) for r in results if r.paths is not None]
    plane = _PLANES[axis]
    flat = [(name, paths @ plane.T) for name, paths in shown]  # [n, steps + 1, 2] in metres
    reach = MARGIN * max([1e-3, *(float(np.abs(paths).max()) for _, paths in flat)])
    names = [cases[number].direction for number in own]
    panels = [
        _panel(index, name.replace("_", " "), _paths(paths, names, reach))
        for index, (name, paths) in enumerate(flat)
    ]
    across, up = _SIDES[axis]
    note = f"{across} to the right, {up} upward; from the middle to an edge: {100 * reach:.1f} cm"
    return _picture(panels, AXES[axis], note)


def representation_picture(found: Representations) -> str:
    """The points of each direction. Raises ValueError where there are none."""
    if not len(found.points):
        raise ValueError(f"there are no points: {found.missing}")
    reach = MARGIN * float(np.abs(found.points).max()) or 1.0
    dots = [
        _dot(point / reach, COLOURS[direction])
        for point, direction in zip(found.points, found.directions, strict=True)
    ]
    panel = _panel(0, f"input of the action head, vision {found.vision}", "".join(dots))
    return _picture([panel], dict.fromkeys(found.directions), "t-SNE")


def _paths(paths: np.ndarray, directions: Sequence[str], reach: float) -> str:
    """Paths [n, T, 2] as lines, each with a dot at its end."""
    lines, ends = [], []
    for path, direction in zip(paths / reach, directions, strict=True):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_pixel(point) for point in path))
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[direction]}" '
            'stroke-opacity="0.45"/>'
        )
        ends.append(_dot(path[-1], COLOURS[direction]))
    return "".join(lines + ends)


def _pixel(point: np.ndarray) -> tuple[float, float]:
    """Where a point is in its panel, which shows -1 to 1."""
    half = PANEL / 2
    return half * (1 + float(point[0])), half * (1 - float(point[1]))


def _dot(point: np.ndarray, colour: str) -> str:
    x, y = _pixel(point)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}" fill-opacity="0.8"/>'


def _panel(index: int, title: str, content: str) -> str:
    x = GAP + index % COLUMNS * (PANEL + GAP)
    y = GAP + index // COLUMNS * (PANEL + TITLE + GAP)
    half = PANEL / 2
    return (
        f'<g transform="translate({x},{y})"><text x="0" y="14">{escape(title)}</text>'
        f'<g transform="translate(0,{TITLE})"><rect width="{PANEL}" height="{PANEL}" fill="none" '
        f'stroke="#999"/><path d="M0,{half}H{PANEL}M{half},0V{PANEL}" stroke="#ddd"/>'
        f"{content}</g></g>"
    )


def _picture(panels: Sequence[str], directions: Sequence[str] | dict[str, None], note: str) -> str:
    """The whole file: panels in rows, what the colours mean, and a note."""
    rows = -(-len(panels) // COLUMNS)
    width = GAP + COLUMNS * (PANEL + GAP)
    below = GAP + rows * (PANEL + TITLE + GAP)
    legend = "".join(
        f'<circle cx="{GAP + 6 + 90 * index}" cy="{below}" r="4" fill="{COLOURS[name]}"/>'
        f'<text x="{GAP + 14 + 90 * index}" y="{below + 4}">{name}</text>'
        for index, name in enumerate(directions)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {below + 44}" '
        'font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="white"/>'
        f'{"".join(panels)}{legend}<text x="{GAP}" y="{below + 28}">{escape(note)}</text></svg>\n'
    )
