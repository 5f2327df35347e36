"""Where the episodes of a converted data set come from: columns of its list of episodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vla.core.files import checked_text
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.meta import MOST_EPISODES, MOST_ROWS, read_table, whole

_PREFIX = "source/"


@dataclass(frozen=True)
class EpisodeOrigin:
    """One episode, as the data set had it from which it was converted."""

    record: str  # file, and number in it
    # As annotations name it; "" where it had no such names.
    file_path: str
    episode_id: str
    steps: int  # that it had there
    first_step: int  # of these, the first frame's
    step_every: int  # steps from one frame to the next

    def columns(self) -> dict[str, Any]:
        """As the list of episodes has it."""
        return {_PREFIX + name: value for name, value in asdict(self).items()}


def read_origins(folder: str | Path) -> dict[int, EpisodeOrigin]:
    """The origins by episode index; none where a data set was not converted with them.

    Raises DatasetError where the list of episodes is damaged.
    """
    names = [_PREFIX + entry.name for entry in fields(EpisodeOrigin)]
    origins = {}
    for path in sorted((Path(folder) / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        table = read_table(path, ["episode_index"], optional=names)
        if not set(names) <= set(table.column_names):
            return {}
        for number, row in enumerate(table.to_pylist()):
            where = f"{path}, row {number}"
            index = whole(row, "episode_index", where, 0, MOST_EPISODES)
            record, file_path, episode_id = (
                checked_text(row[name], f"{where}: {name}", DatasetError) for name in names[:3]
            )
            steps, first, every = (whole(row, name, where, 0, MOST_ROWS) for name in names[3:])
            origins[index] = EpisodeOrigin(
                record, file_path, episode_id, steps, first, max(1, every)
            )
    return origins
