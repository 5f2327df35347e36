"""Opens the data that segments are cut from, for the commands that cut, verify and write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError

if TYPE_CHECKING:
    from vla.datasets.sample import EpisodeDataset
    from vla.language_action.segments import Segmentation


def open_named(source: str, contract: str, mapping: str) -> EpisodeDataset:
    """Robot data of any kind. contract, mapping: as they are named, "" for the data set's own.

    Raises CommandError, and what open_episodes() raises.
    """
    from vla.datasets.sources import RobotData
    from vla.training.sources import kind_of, open_episodes, own_contract

    entry = RobotData(source, kind_of(source), mapping)
    return open_episodes(entry, named_contract(contract) if contract else own_contract(entry))


def open_source(segmentation: Segmentation, place: str = "") -> EpisodeDataset:
    """The data that were cut, opened as they were then. place: where they lie now, if elsewhere.

    Raises CommandError where they are gone, and as open_named() does.
    """
    from vla.core.shown import shown_path

    source = place or segmentation.source
    if not Path(source).exists():
        raise CommandError(
            f"the data that were cut are gone: there is no {shown_path(source)}; name their place "
            "by --source"
        )
    return open_named(source, segmentation.contract, segmentation.mapping)
