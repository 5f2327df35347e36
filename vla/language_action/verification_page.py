"""The page on which an annotator looks at the clip of each segment, and rates it by keys.

It needs no network. Clips lie in a folder beside it: one image each, the frames below each other
and the cameras side by side, which any browser plays by moving it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vla.annotation.page import filled_page
from vla.core.shown import listed, shown_path
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.sample import EpisodeDataset
from vla.language_action.clips import Clip, clips_of
from vla.language_action.primitives import PRIMITIVES
from vla.language_action.segments import Segmentation
from vla.language_action.verification import COLUMNS, CONFIDENCES, QUALITIES

TEMPLATE = "verify.html"
# Of a clip: frames, of a longer one evenly chosen, and their height [px].
MOST_FRAMES, HEIGHT = 48, 192
QUALITY = 75  # of JPEG


@dataclass(frozen=True)
class Assignment:
    """Which segments are rated, and by how many annotators."""

    limit: int = 0  # so many segments, drawn by the seed; 0 for all
    annotators: int = 1  # each gets a page of its own
    share: float = 0.2  # of the segments goes to two annotators, where there are two
    seed: int = 0


def assigned(count: int, assignment: Assignment) -> list[list[int]]:
    """Which of so many segments each annotator rates, in order: one list for each."""
    order = np.random.default_rng([11, assignment.seed]).permutation(count)
    order = order[: assignment.limit or count]
    people = assignment.annotators
    pages: list[list[int]] = [[] for _ in range(people)]
    for place, index in enumerate(order.tolist()):
        pages[place % people].append(index)
        if people > 1 and place < round(assignment.share * len(order)):
            pages[(place + 1) % people].append(index)
    return [sorted(page) for page in pages]


def write_pages(
    segmentation: Segmentation,
    dataset: EpisodeDataset,
    page: str | Path,
    camera: str = "",
    assignment: Assignment = Assignment(),
) -> dict[Path, int]:
    """Writes the pages, one for each annotator, and the clips; returns how many each page has.

    camera: whose images are shown; "" for all. Raises DatasetError where a page is there already,
    the data have no such images, or are not those that were cut.
    """
    page = Path(page)
    folder = page.with_name(f"{page.stem}_clips")
    people = assignment.annotators
    pages = [page] if people == 1 else [
        page.with_name(f"{page.stem}_{number}{page.suffix}") for number in range(1, people + 1)
    ]  # fmt: skip
    if there := [path for path in (*pages, folder) if path.exists()]:
        raise DatasetError(f"{shown_path(there[0])} is there already; name another page")
    known = [camera.name for camera in dataset.contract.cameras]
    if camera and camera not in known:
        raise DatasetError(f"there is no camera '{one_line(camera)}'; known: {listed(known)}")
    clips = [clip for clip in clips_of(segmentation, dataset) if len(clip)]
    lists = assigned(len(clips), assignment)
    if short := [number for number, indices in enumerate(lists, start=1) if not indices]:
        raise DatasetError(f"no segment is left for annotator {short[0]}; ask fewer annotators")
    tasks = dataset.episode_tasks()
    try:
        folder.mkdir(parents=True)
        shown = {
            index: _shown(clips[index], dataset, [camera] if camera else known, folder, tasks)
            for index in sorted({index for indices in lists for index in indices})
        }
        for number, (path, indices) in enumerate(zip(pages, lists, strict=True), start=1):
            values = {
                "title": one_line(segmentation.source, 80),
                "digest": segmentation.digest,
                "part": number,
                "columns": COLUMNS,
                "qualities": QUALITIES,
                "confidences": CONFIDENCES,
                "height": HEIGHT,
                "segments": [shown[index] for index in indices],
            }
            path.write_text(filled_page(TEMPLATE, values), encoding="utf-8")
    except BaseException as error:
        for path in pages:
            path.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise DatasetError(f"cannot write {shown_path(page)}: {error.strerror}") from error
        raise
    return {path: len(indices) for path, indices in zip(pages, lists, strict=True)}


def _shown(
    clip: Clip, dataset: EpisodeDataset, cameras: Sequence[str], folder: Path, tasks: Sequence[str]
) -> dict[str, Any]:
    """What the page shows of a clip, whose images are written."""
    generator = np.random.default_rng(0)
    count = min(len(clip), MOST_FRAMES)
    rows = []
    for index in np.linspace(clip.start, clip.stop - 1, count).round().astype(int):
        sample = dataset.sample(int(index), generator)
        if missing := [name for name in cameras if name not in sample.images]:
            raise DatasetError(f"{sample.source} has no image of '{missing[0]}' to show")
        rows.append(np.hstack([_small(sample.images[name]) for name in cameras]))
    name = f"episode_{clip.episode:06d}_segment_{clip.number:04d}.jpg"
    Image.fromarray(np.vstack(rows)).save(folder / name, quality=QUALITY)
    segment = clip.segment
    return {
        "episode": clip.episode,
        "segment": clip.number,
        "task": one_line(tasks[clip.episode], 300),
        "primitive": segment.primitive,
        "definition": PRIMITIVES[segment.primitive].definition,
        "status": segment.status,
        "instruction": segment.instruction,
        "start": segment.start,
        "end": segment.end,
        "cameras": cameras,
        "clip": f"{folder.name}/{name}",
        "frames": count,
        "width": rows[0].shape[1],
    }


def _small(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, 3] at the height that the page shows."""
    width = max(1, round(image.shape[1] * HEIGHT / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, HEIGHT)))
