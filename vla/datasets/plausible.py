"""Whether states and actions are what a contract says: metres, radians, openings, steps.

Each function judges the numbers of a whole data set, as its mapping picks and scales them, and
returns findings with the line that fixes the mapping. Thresholds are far from any arm's motion, so
that only another unit or another meaning is refused; what is only unlikely is a warning.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.core.findings import Finding, problem, warning
from vla.datasets.step_actions import state_motions

# An arm's tool is never so far from its base [m]; centimetres and millimetres are.
FAR, UNLIKELY = 20.0, 3.2
# In one step, for 99% of actions [m, rad].
LONG_STEP, LONG_TURN = 0.5, 2 * np.pi
# Beyond this, angles are degrees [rad].
ANGLE = 2 * np.pi * 1.05
# How far quaternions and columns of a rotation matrix may be from the length 1.
LENGTH_TOLERANCE = 0.05
# Least correlation of states and actions before their sizes are compared, and largest factor.
ALIKE, FACTOR = 0.8, 5.0
# Of a gripper's range: what is beyond it, and what is no motion.
BEYOND, STILL = 0.05, 0.02
# Frames from a command to the fingers' motion that are tried.
GRIPPER_LAGS = 10
# Frames whose motions are compared with the states', and the fewest for fingers.
COMPARED_FRAMES, COMPARED_LEAST = 20_000, 30
# Fewest episodes, and the share of them, that begin with a closed gripper before it is doubted.
FEWEST_STARTS, CLOSED_STARTS = 5, 0.8
_LOOK = "look whether that is so, and correct gripper_range if not"
_JOINTS = re.compile(r"joint|^(shoulder|elbow|forearm|waist)|\.pos$", re.IGNORECASE)


def check_gripper(
    values: np.ndarray,
    said: tuple[float, float] | None,
    opens: bool,
    openings: np.ndarray | None,
    ends: np.ndarray,
    where: str,
    state_says: str | None = None,
) -> list[Finding]:
    """The gripper's column [N] of the actions, as stored.

    said: the mapping's range, None for 0 to 1. opens: whether 1 means open. openings: [N] how far
    open the states are, in any unit. ends: of each episode, the row after it. where: names the
    feature. state_says: "open" or "closed", the mapping's state_gripper, None where it has none.
    """
    area = "gripper"
    low, high = said or (0.0, 1.0)
    least, most = float(values.min()), float(values.max())
    shares = (values - low) / (high - low)
    goes = f"the gripper of {where} goes from {least:g} to {most:g}"
    if shares.min() < -BEYOND or shares.max() > 1 + BEYOND:
        text = f"{goes}; the mapping says {low:g} to {high:g}"
        return [problem(area, text, _range_cure(least, most))]
    spread = shares.max() - shares.min()
    if least <= BEYOND and abs(most - 1) <= BEYOND and high > 2:
        text = f"{goes}; the mapping says {low:g} to {high:g}"
        return [problem(area, text, _range_cure(least, most))]
    if spread <= STILL:
        if min(abs(shares[0]), abs(shares[0] - 1)) <= BEYOND:
            means = "open" if (shares[0] > 0.5) == opens else "closed"
            text = f"the gripper of {where} never moves: it is always {means} ({most:g})"
            return [warning(area, text, _LOOK)]
        text = f"the gripper of {where} is always {most:g}, neither {low:g} nor {high:g}"
        return [problem(area, text, _range_cure(least, most))]
    if shares.max() <= 0.5 or shares.min() >= 0.5:
        text = f"{goes}, all on one side of the middle of {low:g} to {high:g}: it would never move"
        if said is None:
            return [problem(area, text, _range_cure(least, most))]
        return [warning(area, text, _LOOK)]
    if openings is not None and _opposed(shares if opens else 1 - shares, openings, ends):
        text = f"the gripper of {where} opens where the fingers of the states close"
        now = "closed" if opens else "open"
        cure = f"write 'gripper: {now}' into the mapping"
        if state_says is not None:
            other = "closed" if state_says == "open" else "open"
            cure += f", or 'state_gripper: {other}' where that is the wrong one"
        return [problem(area, text, cure)]
    return []


def check_polarity(openings: np.ndarray, ends: np.ndarray, where: str) -> list[Finding]:
    """Whether fingers [N] that a mapping says are open or closed begin open, as arms mostly do.

    openings, ends, where: as of check_gripper(), of the states.
    """
    spread = float(np.ptp(openings))
    if len(ends) < FEWEST_STARTS or spread < 1e-6:
        return []
    starts = openings[np.concatenate([[0], ends[:-1]])]
    closed = int((starts < openings.min() + 0.5 * spread).sum())
    if closed < CLOSED_STARTS * len(ends):
        return []
    text = f"the gripper of {where} is closed where {closed} of {len(ends)} episodes begin"
    cure = "look at some; if it is open there, turn round 'state_gripper' and 'gripper'"
    return [warning("gripper", text, cure)]


def _range_cure(least: float, most: float) -> str:
    """The range to write for values from least to most."""
    if -1.05 <= least < -BEYOND and most <= 1.05:
        low, high = -1.0, 1.0
    elif least >= -BEYOND and 0.95 <= most <= 1.05:
        low, high = (0.0 if least < 0.5 else least), 1.0
    elif least >= -5 and 1.05 < most <= 105:
        low, high = 0.0, 100.0
    elif least >= -5 and 105 < most <= 260:
        low, high = 0.0, 255.0
    elif least < most:
        low, high = (0.0 if 0 <= least < 0.3 * most else least), most
    else:
        low, high = (0.0, most) if most > 0 else (most, 0.0)
    return (
        f"write the gripper's values that become 0 and 1 into the mapping, such as 'gripper_range: "
        f"[{low:.3g}, {high:.3g}]', and what the second one means as 'gripper: open' or "
        "'gripper: closed'"
    )


def _opposed(opening: np.ndarray, measured: np.ndarray, ends: np.ndarray) -> bool:
    """Whether fingers do the opposite of their commands, at the lag that fits best."""
    best = 0.0
    for lag in range(GRIPPER_LAGS + 1):
        told = np.ones(len(opening), bool)
        for end in ends:
            told[max(0, end - lag) : end] = False
        told &= np.arange(len(opening)) < len(opening) - lag
        first, second = opening[told], measured[np.flatnonzero(told) + lag]
        if len(first) >= COMPARED_LEAST and first.std() > STILL and second.std() > 1e-6:
            fit = float(np.corrcoef(first, second)[0, 1])
            best = fit if abs(fit) > abs(best) else best
    return best < -ALIKE


def check_states(
    states: np.ndarray, contract: EmbodimentContract, where: str, ranged: bool = False
) -> list[Finding]:
    """States [N, S]: positions in metres, angles in radians, orientations, the fingers' opening.

    ranged: whether the mapping gives the gripper's range, instead of a factor.
    """
    area, names = "states", contract.state_names
    found = []
    distance = float(np.median(np.linalg.norm(states[:, :3], axis=1)))
    farthest = float(np.abs(states[:, :3]).max())
    if distance > FAR:
        found.append(
            problem(
                area,
                f"the positions of {where} lie {distance:.4g} from the base, where metres are "
                "expected",
                "are they millimetres or centimetres? write 'state_scale' into the mapping, 0.001 "
                "or 0.01 for x, y and z; or pick other columns by state_columns",
            )
        )
    elif farthest > UNLIKELY:
        text = f"the positions of {where} go to {farthest:.3g} m, beyond any arm's reach"
        found.append(warning(area, text, "look whether they are metres, and in the base's frame"))
    found += _check_orientations(states, names, where)
    return found + _check_opening(states[:, -1], names[-1], contract, where, ranged)


def _check_orientations(states: np.ndarray, names: tuple[str, ...], where: str) -> list[Finding]:
    area = "states"
    if "roll" in names:
        column = names.index("roll")
        largest = float(np.quantile(np.abs(states[:, column : column + 3]), 0.99))
        if largest > ANGLE:
            text = f"roll, pitch and yaw of {where} go to {largest:.4g}, where radians are expected"
            cure = (
                "are they degrees? write 'state_scale' into the mapping, 0.0174533 for each "
                "angle; or pick other columns by state_columns"
            )
            return [problem(area, text, cure)]
        return []
    groups = ("qx", "qy", "qz", "qw"), ("r11", "r21", "r31"), ("r12", "r22", "r32")
    for group in groups:
        if group[0] not in names:
            continue
        first = names.index(group[0])
        lengths = np.linalg.norm(states[:, first : first + len(group)], axis=1)
        odd = np.abs(lengths - 1) > LENGTH_TOLERANCE
        if odd.mean() > 0.01:
            text = (
                f"{', '.join(group)} of {where} are no orientation in {odd.mean():.0%} of the "
                f"frames: their length is {float(np.median(lengths[odd])):.3g}, not 1"
            )
            cure = "pick and order the columns by state_columns, or use a contract of other states"
            return [problem(area, text, cure)]
        if odd.any():
            text = f"{', '.join(group)} of {where} are no orientation in {int(odd.sum())} frames"
            return [warning(area, text, "leave these episodes out")]
    return []


def _check_opening(
    values: np.ndarray, name: str, contract: EmbodimentContract, where: str, ranged: bool
) -> list[Finding]:
    most = contract.gripper_open_width if name == "gripper_width" else 1.0
    least, largest = float(values.min()), float(values.max())
    if least >= -0.5 * most and largest <= 1.5 * most:
        return []
    unit = "metres" if name == "gripper_width" else "a share"
    text = (
        f"{name} of {where} goes from {least:.4g} to {largest:.4g}, where {unit} from 0 to "
        f"{most:g} is expected"
    )
    cure = (
        f"write 'state_scale' into the mapping, {most / max(abs(largest), 1e-9):.3g} for the "
        "last column if its largest value is an open gripper; or pick another by state_columns"
    )
    if ranged:
        cure = "write the values that stand for 0 and 1 as 'state_gripper_range' into the mapping"
    return [problem("states", text, cure)]


def check_motions(
    states: np.ndarray,
    actions: np.ndarray,
    ends: np.ndarray,
    contract: EmbodimentContract,
    where: str,
) -> list[Finding]:
    """Actions [N, 7] as the motion of one stored step, compared with the states [N, S]."""
    area = "actions"
    size = {
        "shifts": np.linalg.norm(actions[:, :3], axis=1),
        "turns": np.linalg.norm(actions[:, 3:6], axis=1),
    }
    if _are_positions(states, actions):
        text = f"the actions of {where} are where the tool shall be, not how it moves in a step"
        return [problem(area, text, "write 'relabel: true' into the mapping")]
    found, units = [], {"shifts": "metres", "turns": "radians"}
    for name, limit in (("shifts", LONG_STEP), ("turns", LONG_TURN)):
        usual = float(np.quantile(size[name], 0.99))
        if usual > limit:
            text = f"the {name} of {where} go to {usual:.3g} a step"
            expected = f"{text}, where {units[name]} are expected"
            found.append(problem(area, expected, _scale_cure(name)))
    if found:
        return found
    rows = int(ends[max(0, int(np.searchsorted(ends, COMPARED_FRAMES, side="right")) - 1)])
    rows = min(rows, COMPARED_FRAMES)
    if rows < 3:
        return []
    try:
        moved = state_motions(states[:rows], contract.state_names, contract.representation)
    except ValueError:
        # Invalid orientations have another finding.
        return []
    within = np.ones(rows - 1, bool)
    within[ends[ends < rows] - 1] = False
    for name, columns in (("shifts", slice(0, 3)), ("turns", slice(3, 6))):
        told, went = actions[: rows - 1][within][:, columns], moved[within][:, columns]
        product = np.sqrt((told**2).sum() * (went**2).sum())
        if product < 1e-9:
            continue
        factor = float((told * went).sum() / (went**2).sum())
        if (told * went).sum() / product > ALIKE and not 1 / FACTOR < factor < FACTOR:
            text = f"the {name} of {where} are {factor:.3g} times those of the states"
            found.append(problem(area, text, _scale_cure(name, 1 / factor)))
    return found


def _are_positions(states: np.ndarray, actions: np.ndarray) -> bool:
    """Whether actions are near the states, more than a step's motion could be."""
    places = np.median(np.linalg.norm(actions[:, :3], axis=1))
    apart = np.median(np.linalg.norm(actions[:, :3] - states[:, :3], axis=1))
    return bool(places > 0.05 and apart < 0.2 * places)


def _scale_cure(name: str, factor: float | None = None) -> str:
    columns = "x, y and z" if name == "shifts" else "rx, ry and rz"
    value = f", {factor:.3g}" if factor is not None else ""
    usual = "0.001 for millimetres" if name == "shifts" else "0.0174533 for degrees"
    return (
        f"write 'action_scale' into the mapping{value} for {columns} ({usual}), or 'relabel: true' "
        "to take the motion from the states"
    )


def check_names(
    names: list[str],
    columns: tuple[int, ...],
    wanted: tuple[str, ...],
    where: str,
    entry: str,
    pose: bool = True,
) -> list[Finding]:
    """Compares the names of columns with the contract's.

    names: see names_of(). entry: of the mapping. pose: the contract has a tool's pose.
    """
    if not names or any(not 0 <= column < len(names) for column in columns):
        return []
    chosen = [names[column] for column in columns] if columns else names
    if sorted(chosen) == sorted(wanted) and tuple(chosen) != wanted:
        order = [names.index(name) for name in wanted]
        text = f"{where} is in the order {', '.join(chosen)}, the contract's is another"
        return [problem("names", text, f"write '{entry}: {order}' into the mapping")]
    joints = [name for name in chosen[:6] if _JOINTS.search(name)]
    if pose and len(joints) >= 3 and not set(joints) & set(wanted):
        text = f"{where} has joints ({', '.join(joints[:3])}, ...), where the contract wants a pose"
        cure = f"name the feature that has the tool's {wanted[0]}, {wanted[1]}, ... in the mapping"
        return [problem("names", text, cure)]
    return []


def names_of(feature: dict[str, Any]) -> list[str]:
    """The names of a feature's columns, flattened from info.json; empty where it has none."""
    names = feature.get("names")
    if isinstance(names, dict):
        lists = [entry for entry in names.values() if isinstance(entry, list)]
        names = [name for entry in lists for name in entry]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    return names
