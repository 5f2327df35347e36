"""What language-action data hold: how many episodes and frames, of which actions and directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.datasets.language_motion import poses_of_states
from vla.datasets.sample import EpisodeDataset
from vla.language_action.clips import Clip
from vla.language_action.primitives import PRIMITIVES
from vla.language_action.wording import directions

# In the order of the chart; the last one is of tools that stay within a centimetre.
DIRECTIONS = ("forward", "backward", "left", "right", "up", "down", "none")
# Of the chart [px].
ROW, LABELS, BARS, COUNTS = 20, 110, 420, 120


@dataclass(frozen=True)
class Phase:
    """The data at one step of their making."""

    episodes: int
    frames: int

    @property
    def frames_per_episode(self) -> float:
        """On average."""
        return self.frames / self.episodes if self.episodes else 0.0


@dataclass(frozen=True)
class CoverageReport:
    """The figures of LA4VLA's table 3 and figure 3c."""

    source: Phase  # the episodes of the data set that was cut
    candidates: Phase  # all segments that have a frame
    kept: Phase  # those that are learned from
    without_frame: int  # segments that lie between two frames, and are left out
    primitives: dict[str, tuple[int, int]]  # candidates and kept segments
    directions: dict[str, tuple[int, int]]  # likewise, by the longest direction of the tool's way

    def values(self) -> dict:
        """Everything as plain values, for JSON."""
        phases = {
            name: {
                "episodes": phase.episodes,
                "frames": phase.frames,
                "frames_per_episode": phase.frames_per_episode,
            }
            for name, phase in self._phases()
        }
        return {
            **phases,
            "candidates_per_episode": self.candidates.episodes / self.source.episodes,
            "kept_share": self.kept.episodes / self.candidates.episodes,
            "growth": self.kept.episodes / self.source.episodes,
            "segments_without_frame": self.without_frame,
            "primitives": self.primitives,
            "directions": self.directions,
        }

    def _phases(self) -> tuple[tuple[str, Phase], ...]:
        return ("source", self.source), ("candidates", self.candidates), ("kept", self.kept)

    def text(self) -> str:
        """The report as lines, ready to print."""
        values = self.values()
        lines = [f"{'phase':14}{'episodes':>10}{'frames':>10}{'frames/episode':>16}"]
        lines += [
            f"{name:14}{phase.episodes:10}{phase.frames:10}{phase.frames_per_episode:16.2f}"
            for name, phase in self._phases()
        ]
        lines.append(
            f"{values['candidates_per_episode']:.2f} candidates an episode, "
            f"{values['kept_share']:.1%} of them kept, {values['growth']:.2f} times the episodes"
        )
        if self.without_frame:
            lines.append(f"left out: {self.without_frame} segments that have no frame")
        return "\n".join(lines)


def coverage(
    dataset: EpisodeDataset, candidates: Sequence[Clip], kept: Sequence[Clip]
) -> CoverageReport:
    """Counts episodes, frames, primitives and directions. kept: of the candidates.

    Raises ValueError for states without a pose.
    """
    states, names = dataset.states(), dataset.contract.state_names
    positions, _ = poses_of_states(states, names)
    ends = np.asarray(dataset.episode_ends)
    seen = [clip for clip in candidates if len(clip)]
    ways: dict[tuple[int, int], str] = {}
    for clip in seen:
        last = min(clip.stop, int(ends[clip.episode]) - 1)
        named = directions(positions[last] - positions[clip.start])
        ways[clip.episode, clip.number] = named[0] if named else DIRECTIONS[-1]
    groups = (seen, kept)
    actions = [Counter(clip.segment.primitive for clip in group) for group in groups]
    turned = [Counter(ways[clip.episode, clip.number] for clip in group) for group in groups]
    return CoverageReport(
        source=Phase(len(ends), len(states)),
        candidates=_phase(seen),
        kept=_phase(kept),
        without_frame=len(candidates) - len(seen),
        primitives={name: (actions[0][name], actions[1][name]) for name in PRIMITIVES},
        directions={name: (turned[0][name], turned[1][name]) for name in DIRECTIONS},
    )


def _phase(clips: Sequence[Clip]) -> Phase:
    return Phase(len(clips), sum(map(len, clips)))


def coverage_chart(report: CoverageReport) -> str:
    """An SVG of the segments by primitive and by direction: candidates pale, kept ones dark."""
    rows, y = [], 26
    for title, counts in (("primitive", report.primitives), ("direction", report.directions)):
        most = max(total for total, _ in counts.values())
        rows.append(f'<text x="8" y="{y}" font-weight="bold">segments by {title}</text>')
        for name, (total, kept) in counts.items():
            y += ROW
            for count, color in ((total, "#c9d8ee"), (kept, "#1b6ac9")):
                width = BARS * count / most
                rows.append(
                    f'<rect x="{LABELS}" y="{y - 12}" width="{width:.1f}" height="14" '
                    f'fill="{color}"/>'
                )
            rows.append(f'<text x="{LABELS - 6}" y="{y}" text-anchor="end">{name}</text>')
            end = LABELS + BARS * total / most + 6
            rows.append(f'<text x="{end:.1f}" y="{y}">{kept} of {total}</text>')
        y += 2 * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABELS + BARS + COUNTS} '
        f'{y - ROW}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(rows)}</svg>\n'
    )
