"""What a run has taken so far: its time, its samples, and how many of them had no images."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from vla.core.files import checked_number, read_json
from vla.core.shown import shown_path
from vla.policies.config import CheckpointError
from vla.training.config import TrainConfig

EFFORT = "time.json"


@dataclass(frozen=True)
class Effort:
    """Of all parts of a run."""

    seconds: float = 0.0  # wall time
    # Frames and conversations of all processes, each of which draws as the main one does.
    samples: int = 0
    masked_samples: int = 0  # those of the frames that were without images


def counted(
    effort: Effort,
    config: TrainConfig,
    batches: Collection[str],
    figures: Mapping[str, float],
    processes: int,
) -> Effort:
    """The effort with one more step. batches: their names. figures: of the step."""
    sizes = {"robot": config.batch_size, "conversations": config.conversation_batch_size}
    drawn = sum(sizes.get(name, 0) for name in batches)
    masked = round(figures.get("robot/masked_share", 0.0) * config.batch_size)
    return Effort(
        effort.seconds,
        effort.samples + processes * drawn,
        effort.masked_samples + processes * masked,
    )


def write_effort(output: Path, step: int, effort: Effort) -> None:
    """Keeps it in a run's folder, with the samples a second. step: that the run is at."""
    values = {
        "steps": step,
        "seconds": round(effort.seconds),
        "samples": effort.samples,
        "masked_samples": effort.masked_samples,
        "samples_per_second": round(effort.samples / max(effort.seconds, 1e-3), 2),
    }
    (output / EFFORT).write_text(json.dumps(values) + "\n")


def read_effort(output: Path) -> Effort:
    """Of a run's parts so far; nothing before the first. Raises CheckpointError."""
    path = output / EFFORT
    if not path.exists():
        return Effort()
    facts = read_json(path, CheckpointError)
    if not isinstance(facts, dict) or "seconds" not in facts:
        raise CheckpointError(f"{shown_path(path)} has no 'seconds'; remove it to count from zero")

    def value(name: str, most: float) -> float:
        # Runs that began with an earlier version have counted no samples.
        return checked_number(
            facts.get(name, 0), f"{shown_path(path)}: {name}", CheckpointError, 0, most
        )

    return Effort(
        value("seconds", 1e9), int(value("samples", 1e18)), int(value("masked_samples", 1e18))
    )
