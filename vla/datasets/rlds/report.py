"""The report of a conversion from RLDS: episodes kept and refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla.core.text import LONGEST_LINE, one_line
from vla.datasets.lerobot.episode_files import EpisodeFiles
from vla.datasets.lerobot.origins import EpisodeOrigin


@dataclass(frozen=True)
class RefusedEpisodes:
    """One episode that was left out, or those behind it in a file that ends early, and why."""

    record: str  # file, and number in it
    reason: str
    episodes: int = 1


@dataclass
class RldsReport:
    """A whole conversion."""

    source: str
    split: str
    contract: str
    contract_id: str
    rate: float  # [Hz]
    storage: str
    package_version: str
    warnings: list[str] = field(default_factory=list)
    kept: int = 0  # episodes
    frames: int = 0
    wordless: int = 0  # episodes without an instruction, which the mapping leaves out
    refused: list[RefusedEpisodes] = field(default_factory=list)
    wall_seconds: float = 0.0  # that it took

    @property
    def lost(self) -> int:
        """Episodes that were refused."""
        return sum(entry.episodes for entry in self.refused)

    def json(self) -> str:
        """All of it as JSON."""
        summary: dict[str, Any] = asdict(self) | {"lost": self.lost}
        return json.dumps(summary, indent=1, ensure_ascii=False) + "\n"

    def table(self) -> str:
        """The summary for people."""
        lines = [
            f"{self.kept} episodes kept, {self.lost} refused, {self.wordless} without an "
            f"instruction; {self.frames} frames at {self.rate:g} Hz, in {self.wall_seconds:.1f} s"
        ]
        lines += [f"warning: {one_line(text, LONGEST_LINE)}" for text in self.warnings]
        lines += [f"refused: {one_line(e.reason, LONGEST_LINE)}" for e in self.refused]
        return "\n".join(lines)


@dataclass
class ConvertedFile:
    """What became of the episodes of one file."""

    path: Path
    kept: list[tuple[EpisodeFiles, EpisodeOrigin]] = field(default_factory=list)
    wordless: int = 0
    refused: list[RefusedEpisodes] = field(default_factory=list)
