"""The episodes of a cell on disk: one line of JSON each, appended as they end.

A run may be killed at any moment. What it leaves is whole lines and perhaps the beginning of one,
which is dropped; anything else that is wrong is not ours to guess at, and is named.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vla.core.files import read_text
from vla.core.shown import brief, shown_path
from vla.evaluation.benchmark import EpisodeResult
from vla.evaluation.errors import GridError
from vla.evaluation.grid import Cell
from vla.policies.config import from_dict

MOST_BYTES = 1_000_000_000


@dataclass(frozen=True)
class EpisodeLine:
    """One episode of a cell."""

    suite: str
    task: str  # its family
    group: str  # of settings that change the scenes, such as an unseen split; "" for none
    seed: int
    training_seed: int
    checkpoint_id: str
    execution: str
    success: bool
    seconds: float  # simulated
    length: float | None  # sub-tasks of a chain that were done; None where there are none
    failure: str  # its kind; "" for a success
    digest: str  # of the first observation

    @property
    def scene(self) -> tuple[str, str, str, int]:
        """What is the same episode in every cell."""
        return self.suite, self.group, self.task, self.seed


def cell_folder(output: Path, cell: Cell) -> Path:
    """Where a cell's episodes lie in a run's folder."""
    return output / "cells" / cell.name


def episode_file(output: Path, cell: Cell) -> Path:
    """The file of a cell's episodes."""
    return cell_folder(output, cell) / "episodes.jsonl"


def line_of(
    result: EpisodeResult, suite: str, group: str, training_seed: int, checkpoint_id: str
) -> EpisodeLine:
    """The line of an episode that was run."""
    length = result.figures.get("length")
    return EpisodeLine(
        suite,
        result.family,
        group,
        result.seed,
        training_seed,
        checkpoint_id,
        result.execution,
        result.success,
        round(result.seconds, 6),
        None if length is None else float(length),
        "" if result.success else result.failure,
        result.digest,
    )


def append_line(path: Path, line: EpisodeLine) -> None:
    """Adds an episode, and waits until it is on the disk."""
    text = json.dumps(asdict(line)) + "\n"
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(path: Path) -> tuple[list[EpisodeLine], bool]:
    """The episodes of a file, and whether the beginning of one at its end was left out.

    No file has no episodes. Raises GridError, which names the line, for anything else that is not
    an episode, and for one that is there twice; the file stays as it is.
    """
    if not path.exists():
        return [], False
    whole, _, rest = read_text(path, GridError, MOST_BYTES).rpartition("\n")
    lines: list[EpisodeLine] = []
    known: set[tuple] = set()
    for number, text in enumerate(whole.split("\n") if whole else (), start=1):
        where = f"{shown_path(path)}, line {number}"
        try:
            line = _line(json.loads(text), where)
        except (ValueError, RecursionError) as error:
            raise GridError(
                f"{where} is damaged; remove that line, and its episode is run again"
            ) from error
        if line.scene in known:
            raise GridError(
                f"{where}: the episode {brief(line.task)} {line.seed} is there twice; remove one "
                "of the lines"
            )
        known.add(line.scene)
        lines.append(line)
    return lines, bool(rest)


def _line(values: Any, where: str) -> EpisodeLine:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is no episode")
    missing = {entry.name for entry in fields(EpisodeLine)} - set(values)
    if missing:
        raise ValueError(f"{where} lacks {sorted(missing)}")
    return from_dict(EpisodeLine, values, where)


def drop_rest(path: Path) -> None:
    """Cuts off what stands behind the last whole line of a file."""
    content = path.read_bytes()
    keep = content.rfind(b"\n") + 1
    with path.open("r+b") as stream:
        stream.truncate(keep)
