"""Bags to a LeRobot data set, several at a time, each in its own process."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla import __version__
from vla.bags.conversion_report import ConversionReport, EpisodeReport, Refusal, report_of
from vla.bags.episodes import FAILURE, bag_folders
from vla.bags.frames import read_frames, recorded_contract
from vla.bags.reader import read_metadata
from vla.bags.writer import BagError
from vla.contract.embodiment import EmbodimentContract
from vla.core.processes import results_in_order
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.episode_files import VIDEO, EpisodeFiles, EpisodeImages
from vla.datasets.lerobot.writer import DISK_FULL, converted_dataset

# Errors for which a bag is refused; any other ends the conversion.
BAD_BAG = (BagError, ValueError, OSError)


@dataclass(frozen=True)
class _Task:
    """A bag, and the folder for its images."""

    bag: Path
    folder: Path
    contract: EmbodimentContract
    storage: str


def find_bags(paths: Sequence[str | Path]) -> list[Path]:
    """The bags that some paths name, bags or folders of bags, none twice.

    Raises DatasetError where a path has none.
    """
    return list(dict.fromkeys(bag for path in paths for bag in bag_folders(path)))


def contract_of_bags(bags: Sequence[Path]) -> EmbodimentContract:
    """The contract that the first of these bags carries. Raises DatasetError where none does."""
    for bag in bags:
        with contextlib.suppress(*BAD_BAG):
            if (contract := recorded_contract(read_metadata(bag), bag)) is not None:
                return contract
    raise DatasetError("none of the bags carries an embodiment contract: name one by --contract")


def convert_bags(
    bags: Sequence[Path],
    folder: str | Path,
    contract: EmbodimentContract,
    storage: str = VIDEO,
    failures: bool = False,
    workers: int = 0,
    progress: Callable[[EpisodeReport | Refusal], None] = lambda _: None,
) -> ConversionReport:
    """Converts bags, in their order, into a new data set at `folder`, and returns the report.

    storage: "video" or "image". failures: also take episodes labelled as failures. workers:
    processes; 0 for one per core. progress: called for each bag. An unusable bag is refused and the
    others are kept; if none is kept there is no data set. Raises DatasetError where the folder
    exists, the disk is full or a process was killed.
    """
    begin = time.monotonic()
    report = ConversionReport(
        contract.name, contract.contract_id, contract.rate, storage, __version__
    )
    with converted_dataset(folder, contract, storage, report.json) as writer:
        tasks = []
        for bag in bags:
            if (refusal := _unwanted(bag, failures)) is not None:
                report.refused.append(refusal)
                progress(refusal)
                continue
            tasks.append(_Task(bag, writer.episode_folder(), contract, storage))
        results = results_in_order(_convert, tasks, workers, _killed)
        for task, result in zip(tasks, results, strict=True):
            if isinstance(result, Refusal):
                report.refused.append(result)
                progress(result)
                continue
            files, episode = result
            episode.episode_index = writer.add(files)
            report.kept.append(episode)
            report.bag_bytes += _size(task.bag)
            progress(episode)
        report.wall_seconds = time.monotonic() - begin
    return report


def _killed(task: _Task) -> DatasetError:
    """What is said of a process that was killed."""
    return DatasetError(
        f"a process was killed while it converted {shown_path(task.bag)}, perhaps for lack of "
        "memory: try fewer --workers"
    )


def _size(bag: Path) -> int:
    """Bytes of a bag's files; 0 if it has been removed meanwhile."""
    with contextlib.suppress(*BAD_BAG):
        return sum(file.stat().st_size for file in read_metadata(bag).files)
    return 0


def _unwanted(bag: Path, failures: bool) -> Refusal | None:
    """Whether a bag's metadata excludes it."""
    try:
        outcome = read_metadata(bag).custom_data.get("outcome")
    except BAD_BAG as error:
        return Refusal(str(bag), str(error))
    if outcome == FAILURE and not failures:
        return Refusal(str(bag), f"{bag}: is labelled as a failure (--failures takes it, too)")
    return None


def _convert(task: _Task) -> tuple[EpisodeFiles, EpisodeReport] | Refusal:
    """Converts one bag, in a worker process."""
    images = EpisodeImages(task.folder, task.contract, task.storage)
    try:
        episode = read_frames(task.bag, task.contract, images.add)
        files = images.finish(episode.states, episode.actions, episode.instructions)
        return files, report_of(episode)
    except BAD_BAG as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = str(error)
        if str(task.bag) not in reason:
            reason = f"{task.bag}: {reason}"
        return Refusal(str(task.bag), reason)
    except Exception as error:
        # A bug of this package must not cost the other bags.
        reason = f"{type(error).__name__}: {one_line(error)}; please report this"
        return Refusal(str(task.bag), f"{task.bag}: cannot be converted ({reason})")
    finally:
        with contextlib.suppress(*BAD_BAG):
            images.close()
        if images.frames == 0:
            shutil.rmtree(task.folder, ignore_errors=True)
