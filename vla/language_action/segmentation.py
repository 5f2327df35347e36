"""Cuts the episodes of a data set by rules, and says in figures what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.sample import EpisodeDataset
from vla.language_action.keyframes import without_outliers
from vla.language_action.primitives import PRIMITIVES
from vla.language_action.rules import RuleConfig, segment_by_rules
from vla.language_action.segments import Segment, Segmentation
from vla.language_action.trajectory import ToolTrajectory, trajectories

# Primitives that the rules cannot tell from recorded states.
UNTOLD = ("push", "pull", "press")


@dataclass
class SegmentReport:
    """What became of a data set."""

    episodes: int = 0
    refused: dict[int, str] = field(default_factory=dict)  # why, by episode
    # Episodes whose gripper never moves, in which nothing can be grasped or placed.
    still: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # segments by primitive
    seconds: dict[str, float] = field(default_factory=dict)  # their duration by primitive [s]
    missing: tuple[str, ...] = ()  # primitives that the data can't show


def segment_data_set(
    dataset: EpisodeDataset, source: str, config: RuleConfig | None = None
) -> tuple[Segmentation, SegmentReport]:
    """The segments of all episodes; one that can't be read is reported, and left out.

    source: the data set, as it is named in the result. Raises DatasetError where the data set
    doesn't tell when its frames were taken, where its contract has no tool, and where no episode
    has a segment.
    """
    config = config or RuleConfig()
    durations: dict[int, float] = {}
    episodes: dict[int, tuple[Segment, ...]] = {}
    refused: dict[int, str] = {}
    still: list[int] = []
    for index, trajectory in enumerate(trajectories(dataset)):
        if isinstance(trajectory, ValueError):
            refused[index] = one_line(trajectory)
            continue
        if is_still(trajectory, config):
            still.append(index)
        durations[index] = float(trajectory.times[-1])
        episodes[index] = tuple(segment_by_rules(trajectory, config))
    report = report_of(episodes, refused, still, UNTOLD)
    if not report.counts:
        reasons = next(iter(report.refused.values()), "nothing in them moves")
        raise DatasetError(f"{source}: no segment in any of {report.episodes} episodes: {reasons}")
    return Segmentation(source, "rules", durations, episodes), report


def is_still(trajectory: ToolTrajectory, config: RuleConfig) -> bool:
    """Whether the gripper never moves."""
    return bool(np.ptp(without_outliers(trajectory.opening)) < config.keyframes.gripper_span)


def report_of(
    episodes: Mapping[int, Sequence[Segment]],
    refused: Mapping[int, str],
    still: Sequence[int],
    missing: tuple[str, ...] = (),
) -> SegmentReport:
    """The figures of the segments of episodes. refused: why others have none, by index."""
    report = SegmentReport(len(episodes) + len(refused), dict(refused), list(still))
    report.missing = missing
    for segment in (segment for segments in episodes.values() for segment in segments):
        report.counts[segment.primitive] += 1
        so_far = report.seconds.get(segment.primitive, 0.0)
        report.seconds[segment.primitive] = so_far + segment.duration
    return report


def report_text(report: SegmentReport) -> str:
    """The report as lines, ready to print."""
    used = report.episodes - len(report.refused)
    total = sum(report.counts.values())
    lines = [
        f"{total} segments in {used} of {report.episodes} episodes, {total / used:.1f} an episode",
        f"{'primitive':14}{'segments':>9}{'mean [s]':>10}",
    ]
    for name in PRIMITIVES:
        if count := report.counts[name]:
            lines.append(f"{name:14}{count:9}{report.seconds[name] / count:10.2f}")
    if report.missing:
        lines.append(f"not to be told from these data: {', '.join(report.missing)}")
    if report.still:
        lines.append(f"the gripper never moves in {_episodes(report.still)}: no grasp, no place")
    for index, reason in list(report.refused.items())[:10]:
        lines.append(f"left out: episode {index}: {reason}")
    if len(report.refused) > 10:
        lines.append(f"left out: {len(report.refused) - 10} more")
    return "\n".join(lines)


def _episodes(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:10]))
    more = f" and {len(indices) - 10} more" if len(indices) > 10 else ""
    return f"episode{'s' if len(indices) > 1 else ''} {shown}{more}"
