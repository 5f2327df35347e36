"""Clips: the frames of each segment in the data set that was cut, if it is still that data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla.datasets.frames import DatasetError
from vla.datasets.sample import EpisodeDataset
from vla.datasets.windows import SAME_TIME
from vla.language_action.segments import ROUNDING, Segment, Segmentation


@dataclass(frozen=True)
class Clip:
    """The frames of one segment."""

    episode: int
    number: int  # of the segment in its episode, from 0
    segment: Segment
    # Of the data set: its first frame, and the first one after it. A frame whose action leads past
    # the segment's end is not part of it.
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def with_origin(
    segmentation: Segmentation, dataset: EpisodeDataset, contract: str = "", mapping: str = ""
) -> Segmentation:
    """Segments that know which data they were cut from. contract, mapping: as they were named."""
    digests = {
        index: digest
        for index, (_, digest) in enumerate(_episodes(dataset))
        if index in segmentation.episodes
    }
    return replace(segmentation, contract=contract, mapping=mapping, digests=digests)


def clips_of(segmentation: Segmentation, dataset: EpisodeDataset) -> list[Clip]:
    """The clips of all segments, in the order of episodes and time.

    Raises DatasetError where there is no segment, or the data are not those that were cut.
    """
    if not any(segmentation.episodes.values()):
        raise DatasetError(
            f"there is no segment of {segmentation.source}; cut it again by 'vla data segment'"
        )
    source = segmentation.source
    starts = np.concatenate([[0], dataset.episode_ends]).astype(int)
    episodes = list(_episodes(dataset))
    clips: list[Clip] = []
    for index, segments in sorted(segmentation.episodes.items()):
        if index >= len(episodes):
            raise DatasetError(
                f"{source} has {len(episodes)} episodes, and segments of episode {index}; cut it "
                "again by 'vla data segment'"
            )
        times, digest = episodes[index]
        if segmentation.digests.get(index, digest) != digest:
            raise DatasetError(
                f"episode {index} of {source} has changed since it was cut; cut it again by 'vla "
                "data segment'"
            )
        for number, segment in enumerate(segments):
            if segment.end > times[-1] + ROUNDING:
                raise DatasetError(
                    f"episode {index} of {source} lasts {times[-1]:.2f} s, its segment {number} to "
                    f"{segment.end:.2f} s; cut it again by 'vla data segment'"
                )
            bounds = np.searchsorted(times, (segment.start - SAME_TIME, segment.end - SAME_TIME))
            first, last = (int(starts[index] + row) for row in bounds)
            clips.append(Clip(index, number, segment, first, last))
    return clips


def kept_clips(
    segmentation: Segmentation, clips: Sequence[Clip], unrated: bool = False
) -> list[Clip]:
    """The clips to learn from: those that a verification keeps, or all where there was none.

    unrated: also those that nobody rated, where others were. Raises DatasetError where none is
    left.
    """
    rated = segmentation.is_rated
    kept = [
        clip
        for clip in clips
        if len(clip)
        and (not rated or clip.segment.kept or (unrated and clip.segment.quality is None))
    ]
    if not kept:
        raise DatasetError(
            f"of {len(clips)} segments none is kept that has a frame; rate them again by 'vla data "
            "verify', or write those that nobody rated by 'vla data la --unrated'"
        )
    return kept


def _episodes(dataset: EpisodeDataset) -> Iterator[tuple[np.ndarray, str]]:
    """Stamps [N] in seconds from the first frame, and digest, of each episode."""
    states, actions, times = dataset.states(), dataset.actions(), dataset.timeline().times
    start = 0
    for end in map(int, dataset.episode_ends):
        stamps = times[start:end] - times[start]
        digest = hashlib.sha256(np.round(stamps, 4).tobytes())
        digest.update(np.ascontiguousarray(states[start:end], np.float32).tobytes())
        digest.update(np.ascontiguousarray(actions[start:end], np.float32).tobytes())
        yield stamps, digest.hexdigest()[:16]
        start = end
