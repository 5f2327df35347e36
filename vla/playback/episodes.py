"""Finds recorded episodes: bags by their folder or name, those of data sets by their number."""

from __future__ import annotations

from pathlib import Path

from vla.bags.dataset_to_bag import export_episodes
from vla.bags.episodes import bag_folders
from vla.bags.reader import is_bag, read_metadata
from vla.bags.storage import is_compressed
from vla.bags.writer import BagError
from vla.core.shown import brief, shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.playback.bag_footage import BagFootage
from vla.playback.dataset_footage import DatasetFootage, dataset_facts, is_dataset
from vla.playback.footage import EpisodeFacts, Footage, PlaybackError

# Where the recorder writes unless it is told otherwise.
BAGS = Path("output/bags")


def list_episodes(folder: str | Path) -> list[EpisodeFacts]:
    """What is known of each episode in a folder of bags or a data set, in their order.

    A bag that can't be read is in the list, too: its flaw says why. Raises PlaybackError where the
    folder holds neither, and DatasetError where the data set can't be read.
    """
    folder = Path(folder)
    if is_dataset(folder):
        return dataset_facts(folder)
    if not folder.is_dir():
        raise PlaybackError(f"there is no folder {shown_path(folder)}: name one of bags")
    try:
        bags = bag_folders(folder)
    except DatasetError as error:
        raise PlaybackError(f"{error}; nor is it a LeRobot data set") from error
    return [bag_facts(bag, str(bag)) for bag in bags]


def bag_facts(bag: Path, name: str) -> EpisodeFacts:
    """What is known of a bag; of one that can't be read, the flaw says why. name: for people."""
    try:
        return BagFootage(bag, name).facts
    except BagError as error:
        return EpisodeFacts(name, "", "", 0.0, None, flaw=one_line(error, 400))


def open_episode(named: str) -> Footage:
    """The episode of a name: a bag's folder, DATASET:NUMBER, or the name of a bag in BAGS.

    Raises PlaybackError where there is none, and BagError or DatasetError where it can't be read.
    """
    try:
        for folder in (Path(named), BAGS / named):
            if is_bag(folder):
                return BagFootage(folder, named)
        dataset, _, number = named.rpartition(":")
        if dataset and number.isascii() and number.isdecimal() and is_dataset(Path(dataset)):
            return DatasetFootage(Path(dataset), int(number))
        if is_dataset(Path(named)):
            raise PlaybackError(
                f"{named} is a data set: name one of its episodes, such as {named}:0"
            )
        if Path(named).is_dir():
            raise PlaybackError(
                f"{named} is a folder and no bag: 'vla record list {named}' says what is in it"
            )
    except (OSError, ValueError) as error:
        if isinstance(error, (PlaybackError, BagError, DatasetError)):
            raise
        # A name that no file can have: too long, or with a NUL.
        raise PlaybackError(f"there is no episode {brief(named)}: {one_line(error)}") from error
    raise PlaybackError(
        f"there is no episode {brief(named)}, neither here nor in {BAGS}: 'vla record list FOLDER' "
        "names those of a folder"
    )


def bag_files(footage: Footage, folder: Path) -> list[Path]:
    """The files of an episode's bag, for other viewers.

    folder: where an episode of a data set is written as a bag, unless it is there. Raises
    PlaybackError where a file is compressed as a whole, and DatasetError where the data set does
    not say enough of the robot.
    """
    if isinstance(footage, DatasetFootage):
        chosen = slice(footage.index, footage.index + 1)
        if not folder.exists():
            list(export_episodes(footage.dataset, folder, chosen))
        return [file for bag in bag_folders(folder) for file in read_metadata(bag).files]
    assert isinstance(footage, BagFootage)
    for file in footage.files:
        if is_compressed(file):
            raise PlaybackError(
                f"{file} is compressed as a whole, which viewers do not read: 'zstd -d {file}' "
                "writes a file that they do"
            )
    return list(footage.files)


def plain_name(facts: EpisodeFacts) -> str:
    """The name of an episode as part of a file's name, such as mine_3 for datasets/mine:3."""
    return Path(facts.name).resolve().name.replace(":", "_")
