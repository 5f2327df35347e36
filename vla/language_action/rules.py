"""Cuts an episode into atomic actions by rules, without a model and without images.

The paper leaves this to a model (LA4VLA, section 7.4). The rules follow its definitions (section
7.5 and table 8): one primitive for each segment, by its main physical effect, with directions in
the base frame. Their numbers are ours.

An episode is cut where the gripper closes or opens, where the arm rests, and where what moves most
changes: the tool sideways, up or down, about its own axis, about another one. What is too short to
be an action joins its neighbour.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from vla.core.configuration import bounded
from vla.language_action.keyframes import (
    METRES_PER_RADIAN,
    Keyframe,
    KeyframeConfig,
    gripper_events,
)
from vla.language_action.primitives import EMPTY, HOLDING
from vla.language_action.segments import Segment
from vla.language_action.trajectory import (
    ToolTrajectory,
    rotation_steps,
    smoothed,
    tool_axes,
)
from vla.language_action.wording import instruction

# What moves most in a frame.
REST, SIDEWAYS, VERTICAL, ABOUT_TOOL, OTHER_TURN, TOUCHING = range(6)


@dataclass
class RuleConfig:
    """The rules' numbers."""

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    shortest: float = bounded(0.3, 0, 60)  # of a segment [s]
    # Slower is rest: the tool's speed, a turn counted as METRES_PER_RADIAN [m/s].
    rest_speed: float = bounded(0.01, 0, 10)
    # Closed fingers that stay further apart than this hold something [m].
    empty_opening: float = bounded(0.003, 0, 1)
    # A grasp begins within this way of where the fingers close, where the tool is slower than this
    # [m, m/s].
    reach: float = bounded(0.03, 0, 1)
    align_speed: float = bounded(0.05, 0, 10)
    finger_speed: float = bounded(0.01, 0, 10)  # of fingers that move [m/s]
    # Lifting or lowering: this share of the displacement is vertical.
    vertical_share: float = bounded(0.7, 0, 1)
    # An arm waits that moves and turns by less, for so long [m, rad, s].
    wait_way: float = bounded(0.005, 0, 1)
    wait_turn: float = bounded(0.05, 0, 7)
    wait_time: float = bounded(0.5, 0, 60)
    level: float = bounded(0.35, 0, 2)  # a tool is upright or flat within this angle [rad]


def segment_by_rules(trajectory: ToolTrajectory, config: RuleConfig | None = None) -> list[Segment]:
    """The atomic actions of an episode in their order, without overlap; rest may be left out.

    Of push, pull and press nothing is found where the trajectory doesn't say what is touched.
    """
    config = config or RuleConfig()
    fingers = _finger_spans(trajectory, config)
    holding = holds(trajectory, gripper_events(trajectory, config.keyframes), config)
    moving = _moving_most(trajectory, config)
    segments: list[Segment] = []
    start = 0
    for first, last, closes in [*fingers, (len(trajectory) - 1, len(trajectory) - 1, None)]:
        for piece in _pieces(moving, start, first, trajectory.times, config.shortest):
            segments += _motion(trajectory, holding, piece, config)
        if closes is not None:
            segments += _gripper_action(trajectory, holding, first, last, closes)
        start = last
    return segments


def holds(trajectory: ToolTrajectory, events: list[Keyframe], config: RuleConfig) -> np.ndarray:
    """Whether the fingers hold something, bool [N].

    What was measured counts. Else closed fingers that something keeps apart hold it.
    """
    if trajectory.held is not None:
        return trajectory.held.astype(bool)
    closed = np.zeros(len(trajectory), bool)
    opening, times = trajectory.opening, trajectory.times
    if events:
        closed[times < events[0].time] = events[0].kind == "gripper_open"
        for event in events:
            closed[times >= event.time] = event.kind == "gripper_close"
    elif opening.max() - opening.min() < config.keyframes.gripper_span:
        return closed
    return closed & (opening > config.empty_opening)


def _finger_spans(trajectory: ToolTrajectory, config: RuleConfig) -> list[tuple[int, int, bool]]:
    """First and last frame of each grasp or release, and whether the fingers close."""
    times, opening = trajectory.times, trajectory.opening
    speed = np.abs(np.gradient(opening, times))
    still, spans = speed < config.finger_speed, []
    tool_speed = _speeds(trajectory, config)[:, :2].sum(axis=1)
    before = 0
    events = gripper_events(trajectory, config.keyframes)
    middles = np.searchsorted(times, [event.time for event in events])
    limits = [*middles, len(times) - 1][1:]
    for event, middle, limit in zip(events, middles.tolist(), limits, strict=True):
        first, last = middle, middle
        while first > before and not still[first - 1]:
            first -= 1
        while last < limit and not still[last]:
            last += 1
        # The alignment before a grasp: near, and slow. A release only waits for the fingers.
        closes = event.kind == "gripper_close"
        slow = config.align_speed if closes else config.rest_speed
        near = np.linalg.norm(trajectory.positions - trajectory.positions[middle], axis=1)
        while first > before and near[first - 1] < config.reach and tool_speed[first - 1] < slow:
            first -= 1
        if last > first:
            spans.append((first, last, closes))
            before = last
    return spans


def _speeds(trajectory: ToolTrajectory, config: RuleConfig) -> np.ndarray:
    """Speeds [N, 4] m/s: sideways, vertical, about the tool's axis, about others.

    A turn counts as METRES_PER_RADIAN.
    """
    step, window = trajectory.time_step, config.keyframes.smoothing
    velocity = np.gradient(trajectory.positions, trajectory.times, axis=0)
    turning = rotation_steps(trajectory.quaternions) / np.diff(trajectory.times)[:, None]
    turning = METRES_PER_RADIAN * np.vstack([turning, turning[-1:]])
    velocity, turning = smoothed(velocity, step, window), smoothed(turning, step, window)
    axes = tool_axes(trajectory.quaternions)
    about = np.einsum("nd,nd->n", turning, axes)
    others = np.linalg.norm(turning - about[:, None] * axes, axis=1)
    sideways = np.linalg.norm(velocity[:, :2], axis=1)
    return np.stack([sideways, np.abs(velocity[:, 2]), np.abs(about), others], axis=1)


def _moving_most(trajectory: ToolTrajectory, config: RuleConfig) -> np.ndarray:
    """What moves most in each frame [N]: REST, SIDEWAYS, VERTICAL and so on."""
    speeds = _speeds(trajectory, config)
    moving = 1 + np.argmax(speeds, axis=1)
    moving[speeds.max(axis=1) < config.rest_speed] = REST
    if trajectory.contact is not None:
        moving[trajectory.contact & (moving != REST)] = TOUCHING
    return moving


@dataclass(frozen=True)
class _Piece:
    """A span in which one thing moves most."""

    kind: int
    first: int  # frame
    last: int  # frame, where the next one begins


def _pieces(
    moving: np.ndarray, start: int, stop: int, times: np.ndarray, shortest: float
) -> list[_Piece]:
    """Pieces between two frames. One that is too short joins its longer neighbour."""
    if times[stop] - times[start] < shortest:
        return []
    edges = [start, *(start + 1 + np.flatnonzero(np.diff(moving[start:stop]))).tolist(), stop]
    pieces = [_Piece(int(moving[a]), a, b) for a, b in itertools.pairwise(edges)]
    while len(pieces) > 1:
        lengths = [times[piece.last] - times[piece.first] for piece in pieces]
        index = int(np.argmin(lengths))
        if lengths[index] >= shortest:
            break
        before = lengths[index - 1] if index else -1.0
        after = lengths[index + 1] if index + 1 < len(pieces) else -1.0
        kind = pieces[index - 1 if before >= after else index + 1].kind
        pieces[index] = replace(pieces[index], kind=kind)
        pieces = _joined(pieces)
    return pieces


def _joined(pieces: list[_Piece]) -> list[_Piece]:
    """Neighbours of one kind as one piece."""
    joined = pieces[:1]
    for piece in pieces[1:]:
        if piece.kind == joined[-1].kind:
            joined[-1] = replace(joined[-1], last=piece.last)
        else:
            joined.append(piece)
    return joined


def _motion(
    trajectory: ToolTrajectory, holding: np.ndarray, piece: _Piece, config: RuleConfig
) -> list[Segment]:
    """The segment of a span in which the fingers rest; none where nothing worth a word happens."""
    first, last = piece.first, piece.last
    moved = trajectory.positions[last] - trajectory.positions[first]
    turns = rotation_steps(trajectory.quaternions[first : last + 1])
    axis = tool_axes(trajectory.quaternions[first : last + 1])
    about = float(np.einsum("nd,nd->", turns, axis[:-1]))
    other = float(
        np.linalg.norm(turns - np.sum(turns * axis[:-1], 1)[:, None] * axis[:-1], axis=1).sum()
    )
    way, vertical = float(np.linalg.norm(moved)), abs(float(moved[2]))
    held = bool(holding[first : last + 1].mean() > 0.5)
    duration = float(trajectory.times[last] - trajectory.times[first])
    turn = max(abs(about), other)
    if way < config.wait_way and turn < config.wait_turn:
        if duration < config.wait_time:
            return []
        name = "wait"
    elif piece.kind == TOUCHING:
        name = _contact(moved, trajectory.positions[first], axis.mean(axis=0), config)
    elif METRES_PER_RADIAN * turn > way:
        by_axis = abs(about) >= other
        name = ("wrist_rotate" if held else "rotate") if by_axis else "reorient"
    elif not held:
        name = "move"
    elif vertical >= config.vertical_share * way:
        name = "lift" if moved[2] > 0 else "lower"
    else:
        name = "transport"
    return [_segment(trajectory, name, held, first, last, moved, about, axis[-1], config)]


def _contact(moved: np.ndarray, position: np.ndarray, axis: np.ndarray, config: RuleConfig) -> str:
    """Push, pull or press: along the tool, or else away from the arm's base or toward it."""
    along = float(moved @ axis)
    if abs(along) < config.vertical_share * float(np.linalg.norm(moved)):
        along = float(moved[:2] @ position[:2])
        return "push" if along > 0 else "pull"
    if along > 0:
        return "press" if axis[2] < -config.vertical_share else "push"
    return "pull"


def _gripper_action(
    trajectory: ToolTrajectory, holding: np.ndarray, first: int, last: int, closes: bool
) -> list[Segment]:
    """A grasp, or a release; opening fingers that held nothing are no action."""
    if closes:
        name, held = "grasp", bool(holding[last])
    else:
        name, held = "place", bool(holding[first])
        if not held:
            return []
    moved = trajectory.positions[last] - trajectory.positions[first]
    return [_segment(trajectory, name, held, first, last, moved, 0.0, np.zeros(3), RuleConfig())]


def _segment(
    trajectory: ToolTrajectory,
    name: str,
    held: bool,
    first: int,
    last: int,
    moved: np.ndarray,
    about: float,
    axis: np.ndarray,
    config: RuleConfig,
) -> Segment:
    status = HOLDING if held else EMPTY
    tilt = float(np.arccos(np.clip(abs(axis[2]), 0, 1)))
    if tilt <= config.level:
        target = "upright" if held else "vertical"
    else:
        target = (
            ("flat" if held else "horizontal") if tilt >= np.pi / 2 - config.level else "tilted"
        )
    return Segment(
        name,
        round(float(trajectory.times[first]), 3),
        round(float(trajectory.times[last]), 3),
        status,
        instruction(name, status, moved, about, target),
    )
