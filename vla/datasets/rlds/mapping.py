"""How the features of an RLDS data set map to a contract's, from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vla.core.configuration import bounded, read_dataclass
from vla.core.files import read_yaml
from vla.core.shown import shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.mapping import LeRobotMapping
from vla.datasets.lerobot.meta import FASTEST_RATE


@dataclass(frozen=True, kw_only=True)
class RldsMapping(LeRobotMapping):
    """As of LeRobot data sets; features are named by their path in a step: observation/image_0."""

    rate: float = bounded(0.0, 0.01, FASTEST_RATE)  # of the steps [Hz]; RLDS does not say it
    state: str | tuple[str, ...] = "observation/state"
    instruction: str = "language_instruction"  # of a step, or of the episode
    # Which episode it is, as annotations name it; of the episode, whose paths they are.
    file_path: str = "episode_metadata/file_path"
    episode_id: str = "episode_metadata/episode_id"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rate:
            raise ValueError("rate must be the steps' rate in Hz, which RLDS does not say")
        if not self.images:
            raise ValueError("a conversion takes images; leave out 'images: false'")


def read_rlds_mapping(path: str | Path) -> RldsMapping:
    """Reads a mapping from YAML. Raises DatasetError that names an unknown or missing entry."""
    return read_dataclass(
        RldsMapping, read_yaml(path, DatasetError), shown_path(path), DatasetError
    )
