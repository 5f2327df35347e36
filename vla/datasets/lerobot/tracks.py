"""States, actions and instructions of LeRobot episodes: read, checked, and fitted to a contract.

A data set at n times the contract's rate is reduced to every n-th frame, each with the motion of
the n steps from it on and the gripper's value of the last of them. Any other rate is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from vla.contract.embodiment import EmbodimentContract
from vla.core.findings import WARNING, Finding
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.columns import number_column, whole_column
from vla.datasets.lerobot.index import EPISODE
from vla.datasets.lerobot.mapping import LeRobotMapping, features_in
from vla.datasets.lerobot.meta import DatasetInfo, EpisodeMeta, read_table, read_tasks
from vla.datasets.lerobot.vectors import actions_of, joined_name, row_reader, states_of
from vla.datasets.plausible import (
    check_gripper,
    check_motions,
    check_names,
    check_polarity,
    check_states,
    names_of,
)
from vla.datasets.step_actions import joined_steps, pose_offsets, state_motions
from vla.datasets.vla_it import EpisodeLabels

TIME, FRAME, TASK = "timestamp", "frame_index", "task_index"
# 29.97 frames a second are 30.
RATE_TOLERANCE = 0.01
# Tolerances of a step's and of an episode's duration, by timestamps.
STEP_TOLERANCE, SPAN_TOLERANCE = 0.02, 0.05
# Of an action that says how the gripper is to move, from -1 to 1.
SMALLEST_GRIPPER_MOTION = 0.1


@dataclass
class Track:
    """N frames of an episode, as the contract has them."""

    episode: EpisodeMeta
    states: np.ndarray  # [N, S]
    actions: np.ndarray  # [N, A]
    instructions: list[str]  # [N]
    labels: EpisodeLabels | None = None
    # Which frames of the stored episode these are.
    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, int))


@dataclass(frozen=True)
class StoredEpisode:
    """An episode's N rows as they are stored, columns picked and scaled by the mapping."""

    episode: EpisodeMeta
    states: np.ndarray  # [N, S]
    actions: np.ndarray  # [N, A]; the gripper's column as it is stored
    instructions: list[str]  # [N]
    gaps: int = 0  # intervals between timestamps longer than one and a half time steps


def frames_per_step(info: DatasetInfo, contract: EmbodimentContract) -> int:
    """How many stored frames are a step of the contract.

    Raises DatasetError where the data set's rate is no multiple of the contract's, or where it is
    and the contract's actions cannot be added up.
    """
    ratio = info.fps / contract.rate
    whole = round(ratio)
    if whole < 1 or abs(ratio - whole) > RATE_TOLERANCE * whole:
        other = info.fps / max(1, whole)
        raise DatasetError(
            f"{info.folder} has {info.fps:g} frames a second, contract '{contract.name}' has "
            f"{contract.rate:g} Hz: only a multiple of the contract's rate can be thinned out; use "
            f"a contract of {other:g} Hz, or resample the data set"
        )
    if whole > 1 and not contract.is_of_tool:
        raise DatasetError(
            f"{info.folder} has {info.fps:g} frames a second, contract '{contract.name}' has "
            f"{contract.rate:g} Hz: only actions of a tool can be thinned out; use a contract of "
            f"{info.fps:g} Hz, or resample the data set"
        )
    return whole


def table_reader(mapping: LeRobotMapping) -> Callable[[Path], pa.Table]:
    """Reads the columns that a track needs, and keeps a file's for the next of its episodes."""
    needed = mapping.features
    optional = tuple(name for name in (TIME, FRAME, TASK, EPISODE) if name not in needed)

    @functools.lru_cache(maxsize=1)
    def read(path: Path) -> pa.Table:
        return read_table(path, needed, optional)

    return read


def read_stored(
    info: DatasetInfo,
    episode: EpisodeMeta,
    mapping: LeRobotMapping,
    contract: EmbodimentContract,
    tasks: Mapping[int, str] | None,
    read: Callable[[Path], pa.Table],
) -> StoredEpisode:
    """One episode. Raises DatasetError that names it and what is wrong with its rows.

    tasks: None to ignore instructions; see checked_rows.
    """
    where = f"{episode.data}, episode {episode.index}"
    rows, instructions, gaps = checked_rows(info, episode, tasks, read, mapping.drop_wordless)
    columns = row_reader(rows, info, where)
    states = states_of(columns, mapping, contract, where)
    actions = actions_of(columns, mapping, contract, where)
    return StoredEpisode(episode, states, actions, instructions, gaps)


def checked_rows(
    info: DatasetInfo,
    episode: EpisodeMeta,
    tasks: Mapping[int, str] | None,
    read: Callable[[Path], pa.Table],
    wordless: bool = False,
) -> tuple[pa.Table, list[str], int]:
    """An episode's rows, its instructions, and the number of gaps in its timestamps.

    tasks: by index; None for empty instructions. wordless: an instruction may be missing. Raises
    DatasetError where rows are missing, out of order, at another rate than the data set claims, or
    without an instruction.
    """
    where = f"{episode.data}, episode {episode.index}"
    rows = rows_of(read(episode.data), info, episode)
    gaps = _check_order(rows, info, where)
    if tasks is None:
        return rows, [""] * len(rows), gaps
    instructions = instructions_of(rows, episode, tasks, where)
    for text in dict.fromkeys(instructions):
        if not text.strip() and not wordless:
            raise DatasetError(
                f"{where} has no instruction in frame {instructions.index(text)}; write one into "
                f"{info.folder}/meta, or 'drop_wordless: true' into the mapping, which leaves such "
                "episodes out"
            )
    return rows, instructions, gaps


def has_words(stored: StoredEpisode) -> bool:
    """Whether every frame has an instruction."""
    return all(text.strip() for text in set(stored.instructions))


def rows_of(table: pa.Table, info: DatasetInfo, episode: EpisodeMeta) -> pa.Table:
    """The rows of an episode. Raises DatasetError where they are not as many as it says."""
    where = f"{episode.data}, episode {episode.index}"
    # A file of version 2 is one episode.
    held = len(table) if info.version == 2 else len(table.slice(episode.first_row, episode.length))
    if held != episode.length:
        raise DatasetError(f"{where}: {held} of {episode.length} rows; fetch the file again")
    rows = table.slice(episode.first_row, episode.length)
    if EPISODE in rows.column_names:
        others = set(whole_column(rows, EPISODE, where).tolist()) - {episode.index}
        if others:
            raise DatasetError(f"{where} has rows of episode {min(others)}; fetch the file again")
    return rows


def instructions_of(
    rows: pa.Table, episode: EpisodeMeta, tasks: Mapping[int, str], where: str
) -> list[str]:
    """The instruction of each row, by its task_index; "" where there is none.

    tasks: of the data set, see known_tasks. Raises DatasetError where an index is unknown, or where
    an episode of several tasks does not assign them to rows.
    """
    if TASK not in rows.column_names:
        if len(set(episode.tasks)) > 1:
            raise DatasetError(
                f"{where} has {len(episode.tasks)} tasks and no column {TASK}, which would tell "
                "them apart; leave the episode out"
            )
        return [episode.instruction] * len(rows)
    indices = whole_column(rows, TASK, where).tolist()
    if unknown := set(indices) - tasks.keys():
        raise DatasetError(
            f"{where}: task {min(unknown)} is not in the list of tasks in meta/; fetch meta/ "
            "again, or leave the episode out"
        )
    return [tasks[index] for index in indices]


def known_tasks(info: DatasetInfo) -> dict[int, str]:
    """The instructions by index; none where a data set lists none and its rows name none.

    Raises DatasetError where the list is damaged.
    """
    meta = info.folder / "meta"
    if any((meta / name).exists() for name in ("tasks.parquet", "tasks.jsonl")):
        return read_tasks(info.folder)
    return {}


def _check_order(rows: pa.Table, info: DatasetInfo, where: str) -> int:
    """Checks that frames and timestamps of an episode are in order; returns the number of gaps."""
    if FRAME in rows.column_names:
        frames = whole_column(rows, FRAME, where)
        if (np.diff(frames) != 1).any():
            row = int(np.flatnonzero(np.diff(frames) != 1)[0]) + 1
            raise DatasetError(
                f"{where}: frame {frames[row]} comes after {frames[row - 1]}: rows are missing or "
                "out of order; fetch the file again, or leave the episode out"
            )
    if TIME not in rows.column_names or len(rows) < 2:
        return 0
    times = number_column(rows, TIME, where)
    if times.shape[1] != 1:
        raise DatasetError(f"{where}: {TIME} has {times.shape[1]} values a row; write it again")
    steps = np.diff(times[:, 0])
    if (steps <= 0).any():
        row = int(np.flatnonzero(steps <= 0)[0]) + 1
        raise DatasetError(
            f"{where}: the time goes from {times[row - 1, 0]:.6g} s to {times[row, 0]:.6g} s at "
            f"frame {row}; leave the episode out, or fix its timestamps"
        )
    usual, taken = float(np.median(steps)) * info.fps, float(steps.mean()) * info.fps
    # Single precision keeps no more of a long time.
    rounding = 2.0**-23 * float(np.abs(times).max()) * info.fps
    if abs(usual - 1) > STEP_TOLERANCE + 2 * rounding:
        raise DatasetError(
            f"{where}: its timestamps are {usual / info.fps:.4g} s apart, {info.fps / usual:.4g} "
            f"frames a second, but meta/info.json says fps {info.fps:g}; correct the one that is "
            "wrong"
        )
    gaps = int((steps * info.fps > 1.5).sum())
    if abs(taken - 1) > SPAN_TOLERANCE + rounding:
        raise DatasetError(
            f"{where}: {len(steps) + 1} frames take {times[-1, 0] - times[0, 0]:.4g} s, with "
            f"{gaps} gaps, which is not {info.fps:g} frames a second; leave the episode out"
        )
    return gaps


def check_values(
    info: DatasetInfo,
    stored: Sequence[StoredEpisode],
    mapping: LeRobotMapping,
    contract: EmbodimentContract,
    own: bool = False,
) -> list[Finding]:
    """Findings on the numbers of a data set: names, units, the gripper.

    own: the data set was made for the contract and no mapping could fix it; then states and motions
    that contradict the contract are only unlikely.
    """
    states = np.concatenate([entry.states for entry in stored]).astype(np.float64)
    actions = np.concatenate([entry.actions for entry in stored]).astype(np.float64)
    ends = np.cumsum([len(entry.states) for entry in stored])
    found: list[Finding] = []
    for named, columns, names, entry in (
        (mapping.state, mapping.state_columns, contract.state_names, "state_columns"),
        (mapping.action, mapping.action_columns, contract.action_names, "action_columns"),
    ):
        held = [names_of(info.features[feature]) for feature in features_in(named)]
        # Without the names of one feature, those of the others would be at the wrong columns.
        given = [name for each in held for name in each] if all(held) else []
        pose = contract.is_of_tool
        found += check_names(given, columns, names, joined_name(named), entry, pose)
    if not contract.is_of_tool:
        return found
    state, action = joined_name(mapping.state), joined_name(mapping.action)
    ranged = mapping.state_gripper is not None
    found += check_states(states, contract, state, ranged)
    if not (mapping.relabel or mapping.minus_state):
        found += check_motions(states, actions, ends, contract, action)
    if own:
        cure = "look at one of its episodes, and convert its bags again"
        found = [replace(finding, level=WARNING, cure=cure) for finding in found]
    gripper, opens = actions[:, -1], mapping.gripper == "open"
    if mapping.gripper_moves:
        opening = np.concatenate([_followed(entry.actions[:, -1], opens) for entry in stored])
        gripper = opening if opens else 1.0 - opening
    openings = states[:, -1] if contract.state_names[-1] != "gripper_closed" else -states[:, -1]
    found += check_gripper(
        gripper, mapping.gripper_range, opens, openings, ends, action, mapping.state_gripper,
    )  # fmt: skip
    return found + (check_polarity(openings, ends, state) if ranged else [])


def track_of(
    stored: StoredEpisode, mapping: LeRobotMapping, contract: EmbodimentContract, every: int
) -> Track:
    """An episode as the contract has it, every so many frames.

    Raises DatasetError where it is shorter than a step, or its orientations are invalid.
    """
    episode, states, actions = stored.episode, stored.states, stored.actions.copy()
    where = f"{episode.data}, episode {episode.index}"
    low, high = mapping.gripper_range or (0.0, 1.0)
    for column, dimension in enumerate(contract.actions):
        if dimension.kind != "gripper":
            continue
        opens = mapping.gripper == "open"
        if mapping.gripper_moves:
            actions[:, column] = _followed(actions[:, column], opens)
            continue
        gripper = np.clip((actions[:, column] - low) / (high - low), 0.0, 1.0)
        if mapping.binarize:
            gripper = binarize_gripper(gripper)
        actions[:, column] = gripper if opens else 1.0 - gripper
    first = mapping.drop_first
    # There is no motion after the last state.
    steps = (len(states) - first - int(mapping.relabel)) // every
    if steps < 1:
        raise DatasetError(
            f"{where} is too short: {episode.length} frames, at {every} a step and {first} left "
            "out; leave it out"
        )
    frames = first + every * np.arange(steps)
    kept = actions[first : first + every * steps]
    layout = contract.state_names, contract.representation
    try:
        if mapping.minus_state:
            # Offsets do not add up: those of the frames that stay.
            offsets = pose_offsets(kept[::every, :6], states[frames], *layout)
            kept = np.hstack([offsets, kept[every - 1 :: every, 6:]])
        elif every > 1:
            kept = joined_steps(kept, every, contract.representation)
        if mapping.relabel:
            kept[:, :6] = state_motions(states[first : first + every * steps + 1 : every], *layout)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}; leave the episode out") from error
    instructions = [stored.instructions[frame] for frame in frames]
    return Track(episode, states[frames], kept.astype(np.float32), instructions, frames=frames)


def binarize_gripper(values: np.ndarray, closed: float = 0.05, opened: float = 0.95) -> np.ndarray:
    """Gripper values [N] as 0 or 1; values in between become the next definite one.

    The last values, if none is definite, are thresholded at a half.
    """
    result = np.zeros(len(values), dtype=np.float32)
    following = float(values[-1] >= 0.5)
    for row in range(len(values) - 1, -1, -1):
        if values[row] > opened or values[row] < closed:
            following = float(values[row] > opened)
        result[row] = following
    return result


def _followed(motions: np.ndarray, opens: bool) -> np.ndarray:
    """Gripper commands [N], 1 open and 0 closed, from how the fingers are to move [N].

    opens: whether positive motions open them. A motion of more than a tenth is followed until the
    next; before the first the gripper is in the other state, without any it is open. As RT-1's
    actions are read by the pipelines of Octo and OpenVLA.
    """
    moves = np.flatnonzero(np.abs(motions) > SMALLEST_GRIPPER_MOTION)
    if not len(moves):
        return np.ones(len(motions), np.float32)
    last = np.searchsorted(moves, np.arange(len(motions)), side="right") - 1
    to_open = (motions[moves] > 0) == opens
    return np.where(last < 0, not to_open[0], to_open[np.maximum(last, 0)]).astype(np.float32)
