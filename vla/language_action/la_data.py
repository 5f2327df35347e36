"""Language-action data sets: each segment an episode of its own, and no images.

Their twin has the same episodes with images, so that a policy can be pretrained with and without
seeing on the same actions (LA4VLA, section 5.1: LA-33K and LA-33K-V).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vla.core.shown import shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.episode_files import NO_IMAGES, VIDEO, episode_without_images
from vla.datasets.lerobot.writer import LeRobotWriter
from vla.datasets.sample import EpisodeDataset
from vla.language_action.clips import Clip, clips_of, kept_clips
from vla.language_action.coverage import CoverageReport, coverage, coverage_chart
from vla.language_action.segments import Segmentation

# In the meta/ of both data sets.
REPORT_FILE, CHART_FILE = "language_action.json", "coverage.svg"
TWIN_SUFFIX = "_images"
# Steps of the contract that frames may be apart, by jitter.
MOST_STEPS = 1.5


def write_la_data(
    segmentation: Segmentation,
    dataset: EpisodeDataset,
    folder: str | Path,
    twin: str | Path | None = None,
    unrated: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> CoverageReport:
    """Writes the kept segments as a data set without images, and its twin with images.

    dataset: the one that was cut. twin: folder of the twin; None for none. unrated: see
    kept_clips(). progress: called for each episode. Each folder appears whole or not at all. Raises
    DatasetError where one exists, where there is no segment to write, and where the data are not
    those that were cut, lack steps of the contract, or have no images for the twin.
    """
    _require_every_step(segmentation.source, dataset)
    candidates = clips_of(segmentation, dataset)
    clips = kept_clips(segmentation, candidates, unrated)
    report = coverage(dataset, candidates, clips)
    about = report.values() | {"cut_from": segmentation.source, "segments": segmentation.digest}
    texts = {REPORT_FILE: json.dumps(about, indent=1) + "\n", CHART_FILE: coverage_chart(report)}
    states, actions = dataset.states(), dataset.actions()
    writers: list[LeRobotWriter] = []
    try:
        blind, seen = LeRobotWriter(folder, dataset.contract, NO_IMAGES), None
        writers.append(blind)
        if twin is not None:
            seen = LeRobotWriter(twin, dataset.contract, VIDEO)
            writers.append(seen)
        for clip in clips:
            frames = slice(clip.start, clip.stop)
            episode = states[frames], actions[frames], [clip.segment.instruction] * len(clip)
            blind.add(episode_without_images(blind.episode_folder(), *episode))
            if seen is not None:
                _add_seen(seen, dataset, clip, *episode)
            progress()
        # The one with images first, which is more likely to fail.
        for writer in reversed(writers):
            writer.finish(texts)
    except BaseException as error:
        for writer in writers:
            writer.abandon()
        if isinstance(error, OSError):
            raise DatasetError(
                f"cannot write {shown_path(folder)}: {error.strerror or error}"
            ) from error
        raise
    return report


def _require_every_step(source: str, dataset: EpisodeDataset) -> None:
    """Raises DatasetError where frames are further apart than the steps of their actions."""
    times, step = dataset.timeline().times, dataset.contract.time_step
    gaps = np.diff(times)
    spacing = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else step
    if spacing > MOST_STEPS * step:
        raise DatasetError(
            f"the frames of {source} are {spacing:.2g} s apart, and a step of contract "
            f"'{dataset.contract.name}' is {step:.2g} s, so that actions are missing; give data of "
            "every step (shards of vla demonstrate: 'frame_stride: 1')"
        )


def _add_seen(
    writer: LeRobotWriter,
    dataset: EpisodeDataset,
    clip: Clip,
    states: np.ndarray,
    actions: np.ndarray,
    instructions: list[str],
) -> None:
    images, generator = writer.begin(), np.random.default_rng(0)
    try:
        for index in range(clip.start, clip.stop):
            sample = dataset.sample(index, generator)
            if not sample.images:
                raise DatasetError(
                    f"{sample.source} has no images for the twin; leave it out by --no-twin"
                )
            images.add(sample.images)
        writer.add(images.finish(states, actions, instructions))
    finally:
        images.close()
