"""RLDS data sets to LeRobot data sets, several files at a time, each in its own process."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from vla import __version__
from vla.contract.embodiment import EmbodimentContract
from vla.contract.image_fit import prepare_image
from vla.core.findings import PROBLEM
from vla.core.processes import results_in_order
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.images import decode_image
from vla.datasets.lerobot.dataset import require_features
from vla.datasets.lerobot.episode_files import VIDEO, EpisodeFiles, EpisodeImages
from vla.datasets.lerobot.meta import EpisodeMeta
from vla.datasets.lerobot.origins import EpisodeOrigin
from vla.datasets.lerobot.tracks import (
    StoredEpisode,
    check_values,
    frames_per_step,
    has_words,
    track_of,
)
from vla.datasets.lerobot.writer import DISK_FULL, converted_dataset
from vla.datasets.rlds.episodes import (
    RldsEpisode,
    described,
    has_ids,
    read_episode,
    require_instruction,
)
from vla.datasets.rlds.features import RldsFeatures
from vla.datasets.rlds.mapping import RldsMapping
from vla.datasets.rlds.report import ConvertedFile, RefusedEpisodes, RldsReport
from vla.datasets.rlds.source import RldsSource, TFRecordFile
from vla.datasets.rlds.tfrecords import DamagedRecord, read_records

# Of so many episodes the numbers are compared with the contract before anything is converted.
CHECKED_EPISODES = 50


@dataclass(frozen=True)
class _Task:
    """A file, and the folder for its images."""

    file: TFRecordFile
    folder: Path
    features: RldsFeatures
    mapping: RldsMapping
    contract: EmbodimentContract
    every: int  # steps to a frame
    storage: str


def convert_rlds(
    source: RldsSource,
    folder: str | Path,
    contract: EmbodimentContract,
    mapping: RldsMapping,
    storage: str = VIDEO,
    workers: int = 0,
    progress: Callable[[ConvertedFile], None] = lambda _: None,
) -> RldsReport:
    """Converts a split, in its order, into a new data set at `folder`, and returns the report.

    storage: "video" or "image". workers: processes; 0 for one per core. progress: called for each
    file. An unusable episode is refused and the others are kept; if none is kept there is no data
    set. Raises DatasetError where the mapping does not fit, the folder exists, the disk is full or
    a process was killed.
    """
    begin = time.monotonic()
    info = described(source, mapping)
    require_features(info, mapping, contract)
    require_instruction(source, mapping)
    every = frames_per_step(info, contract)
    report = RldsReport(
        str(source.folder), source.split, contract.name, contract.contract_id, contract.rate,
        storage, __version__, _doubts(source, mapping, contract),
    )  # fmt: skip
    with converted_dataset(folder, contract, storage, report.json) as writer:
        tasks = [
            _Task(file, writer.episode_folder(), source.features, mapping, contract, every, storage)
            for file in source.files
        ]
        for file in results_in_order(_convert, tasks, workers, _killed):
            for files, origin in file.kept:
                writer.add(files, origin)
            report.wordless += file.wordless
            report.refused += file.refused
            progress(file)
        report.kept, report.frames = writer.episodes, writer.frames
        report.wall_seconds = round(time.monotonic() - begin, 3)
    return report


def _killed(task: _Task) -> DatasetError:
    """What is said of a process that was killed."""
    return DatasetError(
        f"a process was killed while it converted {shown_path(task.file.path)}, perhaps for lack "
        "of memory: try fewer --workers"
    )


def _doubts(source: RldsSource, mapping: RldsMapping, contract: EmbodimentContract) -> list[str]:
    """What is unlikely in the first episodes. Raises DatasetError where they mean something else.

    Without this, a wrong mapping would show when everything has been converted.
    """
    stored = list(islice(_readable(source, mapping, contract), CHECKED_EPISODES))
    texts = []
    if not has_ids(source.features, mapping):
        texts.append(
            f"{source.folder} has no {mapping.file_path} and {mapping.episode_id} for each "
            "episode: annotations by file path and episode id will not find theirs"
        )
    if not stored:
        return texts
    for finding in check_values(described(source, mapping), stored, mapping, contract):
        text = f"{source.folder}: {finding.message}; {finding.cure}"
        if finding.level == PROBLEM:
            raise DatasetError(text)
        texts.append(text)
    return texts


def _readable(
    source: RldsSource, mapping: RldsMapping, contract: EmbodimentContract
) -> Iterator[StoredEpisode]:
    """The numbers of each episode that can be used."""
    for file in source.files:
        for number, record in _chosen(file):
            if isinstance(record, DamagedRecord):
                continue
            with contextlib.suppress(DatasetError):
                found = read_episode(
                    record, _meta(file, number), source.features, mapping, contract, images=False
                )
                if has_words(found.stored):
                    yield found.stored


def _chosen(file: TFRecordFile) -> Iterator[tuple[int, bytes | DamagedRecord]]:
    """The wanted records of a file with their numbers in it; fewer where it ends early."""
    for number, record in enumerate(read_records(file.path)):
        if number >= file.end:
            return
        if number >= file.begin:
            yield number, record


def _meta(file: TFRecordFile, number: int) -> EpisodeMeta:
    return EpisodeMeta(number, 0, "", file.path, 0, {})


def _convert(task: _Task) -> ConvertedFile:
    """Converts one file, in a worker process."""
    file, done = task.file, ConvertedFile(task.file.path)
    last = file.begin - 1
    for last, record in _chosen(file):
        where = f"{file.path}, episode {last}"
        name = f"{file.path.name}#{last}"
        try:
            if isinstance(record, DamagedRecord):
                raise DatasetError(f"{where}: {record.reason}")
            kept = _convert_record(task, record, last, name)
            if kept is None:
                done.wordless += 1
            else:
                done.kept.append(kept)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reason = str(error)
            if str(file.path) not in reason:
                reason = f"{where}: {reason}"
            done.refused.append(RefusedEpisodes(name, reason))
        except Exception as error:
            # A bug of this package must not cost the other episodes.
            reason = f"{type(error).__name__}: {one_line(error)}; please report this"
            done.refused.append(RefusedEpisodes(name, f"{where} cannot be converted ({reason})"))
    if lost := file.end - 1 - last:
        reason = (
            f"{file.path}: the last {lost} of {file.episodes} episodes are missing; fetch the "
            "file again"
        )
        done.refused.append(RefusedEpisodes(f"{file.path.name}#{last + 1}", reason, lost))
    return done


def _convert_record(
    task: _Task, record: bytes, number: int, name: str
) -> tuple[EpisodeFiles, EpisodeOrigin] | None:
    """One episode; None where it has no instruction and such are left out."""
    mapping, contract = task.mapping, task.contract
    episode = read_episode(record, _meta(task.file, number), task.features, mapping, contract)
    if not has_words(episode.stored):
        return None
    track = track_of(episode.stored, mapping, contract, task.every)
    folder = task.folder / f"{number:06d}"
    images = EpisodeImages(folder, contract, task.storage)
    try:
        for frame in track.frames:
            where = f"{task.file.path}, episode {number}, step {frame}"
            images.add(_shown(episode, int(frame), contract, where))
        files = images.finish(track.states, track.actions, track.instructions)
    except BaseException:
        with contextlib.suppress(ValueError, OSError):
            images.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    origin = EpisodeOrigin(
        name, episode.file_path, episode.episode_id, len(episode.stored.states),
        int(track.frames[0]), task.every,
    )  # fmt: skip
    return files, origin


def _shown(
    episode: RldsEpisode, step: int, contract: EmbodimentContract, where: str
) -> dict[str, np.ndarray]:
    """The images of a step, as the policy is to see them; a camera that is not mapped is black."""
    shown = {}
    for camera in contract.cameras:
        if camera.name not in episode.images:
            shown[camera.name] = np.zeros((camera.height, camera.width, 3), np.uint8)
            continue
        image = decode_image(episode.images[camera.name][step], f"{where}: {camera.name}")
        shown[camera.name] = prepare_image(image, camera)
    return shown
