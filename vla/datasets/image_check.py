"""Whether the images that a LeRobot data set claims exist, with their size, rate and number.

All files are looked up; headers are read and frames decoded for a bounded time, spread over the
data set, so that millions of frames take no longer than thousands.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from vla.core.findings import PROBLEM, Finding, fine, problem, warning
from vla.core.shown import shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import image_size, stored_frame
from vla.datasets.lerobot.meta import VIDEO, DatasetInfo, EpisodeMeta
from vla.datasets.video import VideoFacts, VideoFrames, video_facts

# For all cameras of a data set [s], and frames that are decoded of each.
SECONDS, FRAMES = 5.0, 12
RATE_TOLERANCE = 0.02
# Faults of one camera that are listed.
SHOWN = 5


def check_images(
    info: DatasetInfo, features: Iterable[str], seconds: float = SECONDS
) -> list[Finding]:
    """Findings of each feature's images. seconds: in which they are read."""
    features = list(dict.fromkeys(features))
    found = []
    for feature in features:
        found += _check_feature(info, feature, seconds / len(features))
    return found


def require_images(info: DatasetInfo, features: Iterable[str]) -> None:
    """Raises DatasetError where check_images finds a problem."""
    for finding in check_images(info, features):
        if finding.level == PROBLEM:
            cure = f"; {finding.cure}" if finding.cure else ""
            raise DatasetError(f"{info.folder}: {finding.message}{cure}")


def _check_feature(info: DatasetInfo, feature: str, seconds: float) -> list[Finding]:
    area, found, looked = f"camera {feature}", [], ""
    begun = time.monotonic()
    if info.features[feature]["dtype"] == VIDEO:
        files: dict[Path, list[EpisodeMeta]] = {}
        for episode in info.episodes:
            files.setdefault(episode.videos[feature][0], []).append(episode)
        missing = [path for path in files if not path.is_file()]
        if missing:
            text = f"{len(missing)} of {len(files)} videos are missing, such as "
            return [problem(area, text + shown_path(missing[0]), "fetch them again")]
        headers = 0
        for path in _spread(list(files), len(files)):
            # Half of the time is left for the frames.
            if headers and time.monotonic() > begun + seconds / 2:
                break
            headers += 1
            try:
                found += _check_video(info, feature, path, files[path], video_facts(path))
            except DatasetError as error:
                found.append(problem(area, str(error), ""))
            if len(found) > SHOWN:
                break
        looked = f"headers of {headers} of {len(files)} videos and "
    frames = 0
    video = VideoFrames()
    for episode, frame in _places(info.episodes):
        if frames and time.monotonic() > begun + seconds:
            break
        try:
            stored_frame(info, episode, feature, frame, video)
            frames += 1
        except DatasetError as error:
            found.append(problem(area, str(error), ""))
            break
    return found or [fine(area, f"{looked}{frames} frames read")]


def _check_video(
    info: DatasetInfo, feature: str, path: Path, episodes: list[EpisodeMeta], facts: VideoFacts
) -> list[Finding]:
    """Compares a video's header with the episodes in it."""
    area, found = f"camera {feature}", []
    shown, fps = shown_path(path), info.fps
    claimed = image_size(info.features[feature])
    if claimed is not None and claimed != (facts.height, facts.width):
        text = f"{shown} has {facts.width} x {facts.height} pixels, meta/info.json says "
        text += f"{claimed[1]} x {claimed[0]}"
        found.append(problem(area, text, "correct the shape there, or fetch the file again"))
    if facts.rate is not None and abs(facts.rate / fps - 1) > RATE_TOLERANCE:
        text = f"{shown} has {facts.rate:.4g} frames a second, meta/info.json says {fps:g}"
        cure = "correct fps, or re-encode the video"
        found.append((problem if facts.rate < fps else warning)(area, text, cure))
    held = facts.frames
    if held is None and facts.seconds is not None:
        held = round(facts.seconds * (facts.rate or fps))
    ends = [round(e.videos[feature][1] * (facts.rate or fps)) + e.length for e in episodes]
    if held is not None and held < max(ends) - 1:
        text = f"{shown} has {held} frames, its episodes need {max(ends)}"
        found.append(problem(area, text, "fetch it again, or leave the episodes out"))
    elif held is not None and held > max(ends) + 1 and info.version == 2:
        text = f"{shown} has {held} frames, its episode {max(ends)}"
        found.append(warning(area, text, "look whether images and rows begin together"))
    ordered = sorted(episodes, key=lambda episode: episode.videos[feature][1])
    for first, second in pairwise(ordered):
        end = first.videos[feature][1] + first.length / fps
        if second.videos[feature][1] < end - 0.5 / fps:
            text = f"episodes {first.index} and {second.index} overlap in {shown}"
            found.append(problem(area, text, "fetch meta/ again"))
            break
    return found


def _places(episodes: Sequence[EpisodeMeta]) -> list[tuple[EpisodeMeta, int]]:
    """First, last and middle frames of episodes from the whole data set."""
    chosen = _spread(episodes, FRAMES // 2)
    places = [(episode, episode.length - 1) for episode in chosen]
    return places + [(episode, episode.length // 2) for episode in chosen]


def _spread(entries: Sequence, count: int) -> list:
    """This many entries: first, last, and then others far from each other."""
    if len(entries) <= 2:
        return list(entries)
    order, step = [0, len(entries) - 1], len(entries) // 2
    while step and len(order) < count:
        order += range(step, len(entries) - 1, step)
        step //= 2
    return [entries[index] for index in list(dict.fromkeys(order))[:count]]
