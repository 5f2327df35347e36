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
    without_outliers,
)
from vla.language_action.primitives import EMPTY, HOLDING
from vla.language_action.segments import Segment
from vla.language_action.trajectory import (
    ToolTrajectory,
    rotation_steps,
    smoothed,
    tool_axes,
)
from vla.language_action.wording import NAMED_LEAST, instruction

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
    # A motion is cut where it is farthest from its start, if it comes back from there by so much
    # [m], and by this share of the way.
    back: float = bounded(0.02, 0, 1)
    back_share: float = bounded(0.3, 0, 1)
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
    events = gripper_events(trajectory, config.keyframes)
    trajectory = replace(trajectory, opening=without_outliers(trajectory.opening))
    holding, speeds = holds(trajectory, events, config), _speeds(trajectory, config)
    moving, path = _moving_most(trajectory, holding, speeds, config), _path(trajectory, config)
    segments: list[Segment] = []
    start, end = 0, len(trajectory) - 1
    for first, last, closes in [
        *_finger_spans(trajectory, events, speeds, config),
        (end, end, None),
    ]:
        pieces = _pieces(moving, start, first, trajectory.times, config.shortest)
        pieces = [
            half for piece in pieces for half in _there_and_back(piece, path, trajectory, config)
        ]
        for piece in _with_directions(pieces, path, config.wait_way):
            segments += _motion(trajectory, holding, path, piece, config)
        if closes is not None:
            segments += _gripper_action(trajectory, holding, first, last, closes, config)
        start = last
    return _same_joined(segments)


def holds(trajectory: ToolTrajectory, events: list[Keyframe], config: RuleConfig) -> np.ndarray:
    """Whether the fingers hold something, bool [N].

    What was measured counts. Else closed fingers that something keeps apart hold it.
    """
    if trajectory.held is not None:
        return trajectory.held.astype(bool)
    closed, times = np.zeros(len(trajectory), bool), trajectory.times
    if events:
        closed[times < events[0].time] = events[0].kind == "gripper_open"
    for event in events:
        closed[times >= event.time] = event.kind == "gripper_close"
    return closed & (trajectory.opening > config.empty_opening)


def _finger_spans(
    trajectory: ToolTrajectory, events: list[Keyframe], speeds: np.ndarray, config: RuleConfig
) -> list[tuple[int, int, bool]]:
    """First and last frame of each grasp or release, and whether the fingers close."""
    times = trajectory.times
    still = np.abs(np.gradient(trajectory.opening, times)) < config.finger_speed
    tool_speed = speeds.sum(axis=1)
    spans, before = [], 0
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
        earliest = times[first] - config.wait_time  # Longer rest is an action of its own.
        while (
            first > before
            and times[first - 1] >= earliest
            and near[first - 1] < config.reach
            and tool_speed[first - 1] < slow
        ):
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
    about = np.sum(turning * axes, axis=1)
    others = np.linalg.norm(turning - about[:, None] * axes, axis=1)
    sideways = np.linalg.norm(velocity[:, :2], axis=1)
    return np.stack([sideways, np.abs(velocity[:, 2]), np.abs(about), others], axis=1)


def _moving_most(
    trajectory: ToolTrajectory, holding: np.ndarray, speeds: np.ndarray, config: RuleConfig
) -> np.ndarray:
    """What moves most in each frame [N]: REST, SIDEWAYS, VERTICAL and so on."""
    moving = 1 + np.argmax(speeds, axis=1)
    moving[speeds.max(axis=1) < config.rest_speed] = REST
    if trajectory.contact is not None:
        # Fingers that hold nothing leave what they have pressed when they go back: they can't pull.
        velocity = np.gradient(trajectory.positions, trajectory.times, axis=0)
        forth = np.sum(velocity * tool_axes(trajectory.quaternions), axis=1)
        speed = np.linalg.norm(velocity, axis=1)
        leaves = ~holding & (forth < -config.vertical_share * speed)
        moving[trajectory.contact & (moving != REST) & ~leaves] = TOUCHING
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


def _path(trajectory: ToolTrajectory, config: RuleConfig) -> np.ndarray:
    """Where the tool is and how far it has turned [N, 6]: m, then rad times METRES_PER_RADIAN."""
    turned = np.cumsum(rotation_steps(trajectory.quaternions), axis=0)
    turned = METRES_PER_RADIAN * np.vstack([np.zeros(3), turned])
    path = np.hstack([trajectory.positions, turned])
    return smoothed(path, trajectory.time_step, config.keyframes.smoothing)


def _extent(path: np.ndarray, piece: _Piece) -> np.ndarray:
    """How far each frame of a piece is from its first [M]."""
    return np.linalg.norm(path[piece.first : piece.last + 1] - path[piece.first], axis=1)


def _there_and_back(
    piece: _Piece, path: np.ndarray, trajectory: ToolTrajectory, config: RuleConfig
) -> list[_Piece]:
    """A piece cut at its farthest point where it comes back from there by much."""
    away = _extent(path, piece)
    turning = piece.first + int(np.argmax(away))
    back = float(away.max() - away[-1])
    times = trajectory.times
    halves = (times[turning] - times[piece.first], times[piece.last] - times[turning])
    if back < max(config.back, config.back_share * away.max()) or min(halves) < config.shortest:
        return [piece]
    parts = (replace(piece, last=turning), replace(piece, first=turning))
    return [half for part in parts for half in _there_and_back(part, path, trajectory, config)]


def _with_directions(pieces: list[_Piece], path: np.ndarray, rest_way: float) -> list[_Piece]:
    """Pieces that move too little for a direction joined to their longer neighbour.

    rest_way: what moves less, and rests, stays a piece [m].
    """
    pieces = list(pieces)
    while len(pieces) > 1:
        ways = [float(_extent(path, piece).max()) for piece in pieces]
        small = [
            k
            for k, way in enumerate(ways)
            if way < NAMED_LEAST and (pieces[k].kind != REST or way >= rest_way)
        ]
        if not small:
            break
        k = min(small, key=lambda index: ways[index])
        beside = [j for j in (k - 1, k + 1) if 0 <= j < len(pieces)]
        j = max(beside, key=lambda index: ways[index])
        joined = replace(pieces[j], first=pieces[min(j, k)].first, last=pieces[max(j, k)].last)
        pieces[min(j, k) : max(j, k) + 1] = [joined]
    return pieces


def _motion(
    trajectory: ToolTrajectory,
    holding: np.ndarray,
    path: np.ndarray,
    piece: _Piece,
    config: RuleConfig,
) -> list[Segment]:
    """The segment of a span in which the fingers rest; none where nothing worth a word happens."""
    first, last = piece.first, piece.last
    moved = trajectory.positions[last] - trajectory.positions[first]
    turns = rotation_steps(trajectory.quaternions[first : last + 1])
    axis = tool_axes(trajectory.quaternions[first : last + 1])
    along = np.sum(turns * axis[:-1], axis=1)
    # Sums of signed turns: the noise of single frames cancels.
    about = float(along.sum())
    other = float(np.linalg.norm((turns - along[:, None] * axis[:-1]).sum(axis=0)))
    way, vertical = float(np.linalg.norm(moved)), abs(float(moved[2]))
    held = bool(holding[first : last + 1].mean() > 0.5)
    duration = float(trajectory.times[last] - trajectory.times[first])
    turn = max(abs(about), other)
    rests = _extent(path[:, :3], piece).max() < config.wait_way
    if rests and _extent(path[:, 3:], piece).max() < METRES_PER_RADIAN * config.wait_turn:
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


def _same_joined(segments: list[Segment]) -> list[Segment]:
    """Neighbours that say the same as one segment."""
    joined: list[Segment] = []
    for segment in segments:
        # The same but for its time, and right behind.
        if joined and replace(joined[-1], start=joined[-1].end, end=segment.end) == segment:
            joined[-1] = replace(joined[-1], end=segment.end)
        else:
            joined.append(segment)
    return joined


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
    trajectory: ToolTrajectory,
    holding: np.ndarray,
    first: int,
    last: int,
    closes: bool,
    config: RuleConfig,
) -> list[Segment]:
    """A grasp, or a release; opening fingers that held nothing are no action."""
    if closes:
        name, held = "grasp", bool(holding[last])
    else:
        name, held = "place", bool(holding[first])
        if not held:
            return []
    moved = trajectory.positions[last] - trajectory.positions[first]
    return [_segment(trajectory, name, held, first, last, moved, 0.0, np.zeros(3), config)]


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
