"""Segments: the atomic actions of an episode, each with its time and its instruction."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vla.core.configuration import bounded, read_dataclass
from vla.core.files import checked_entries, read_json
from vla.core.replacing import replace_text
from vla.core.shown import brief, shown_path
from vla.datasets.frames import DatasetError
from vla.language_action.primitives import EMPTY, PRIMITIVES, STATUSES

SEGMENTS_FILE = "segments.json"
VERSION = 1
LONGEST_INSTRUCTION = 300
KEPT_FROM = 2.0
# Times are rounded, so an end may lie so far behind the next start, or the last frame [s].
ROUNDING = 0.01
MOST_BYTES = 2**30
MOST_SEGMENTS = 10**6  # of an episode


@dataclass(frozen=True)
class Segment:
    """One atomic action of an episode."""

    primitive: str  # one of PRIMITIVES
    start: float = bounded(0.0, 0, 1e6)  # s, from the episode's first frame
    end: float = bounded(0.0, 0, 1e6)
    status: str = EMPTY  # of the gripper: HOLDING or EMPTY
    instruction: str = ""  # says nothing that only an image would show
    # Mean of the ratings that it got, 0 to 3; None where nobody has rated it.
    quality: float | None = bounded(None, 0, 3)

    @property
    def duration(self) -> float:
        """How long it takes [s]."""
        return self.end - self.start

    @property
    def kept(self) -> bool:
        """Whether it was rated, and is good enough to learn from (section 7.6)."""
        return self.quality is not None and self.quality >= KEPT_FROM


# Words of identity, appearance, material and place, which an instruction without images may not
# have (section 7.3). "object", "target" and "gripper" are what remains.
BANNED = (
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "black", "white", "grey", "gray",
    "brown", "silver", "golden", "transparent", "colored", "coloured", "striped", "shiny",
    "wooden", "wood", "metal", "metallic", "plastic", "glass", "ceramic", "paper", "cardboard",
    "fabric", "rubber", "steel",
    "cup", "mug", "bowl", "plate", "bottle", "can", "box", "block", "cube", "ball", "spoon",
    "fork", "knife", "pan", "pot", "lid", "towel", "cloth", "sponge", "book", "pen", "toy",
    "apple", "banana", "fruit", "tape", "marker", "basket", "bag", "tray",
    "table", "desk", "shelf", "counter", "sink", "stove", "drawer", "cabinet", "door", "kitchen",
    "fridge", "oven", "microwave", "floor", "wall", "rack",
)  # fmt: skip
_BANNED = re.compile(rf"\b({'|'.join(BANNED)})(?:e?s)?\b", re.IGNORECASE)


def banned_words(instruction: str) -> list[str]:
    """Words of an instruction that only an image would explain, in their order."""
    return [found[0].lower() for found in _BANNED.finditer(instruction)]


def check_segments(segments: Sequence[Segment], duration: float) -> None:
    """Raises ValueError with the first of segment_problems()."""
    for problem in segment_problems(segments, duration):
        raise ValueError(problem)


def segment_problems(segments: Sequence[Segment], duration: float) -> Iterator[str]:
    """All that keeps segments from being used, in sentences.

    duration: of the episode [s]. Segments follow each other without overlap; there may be gaps.
    """
    before = 0.0
    for number, segment in enumerate(segments):
        for problem in _problems(segment, before, duration):
            yield f"segment {number}{problem}"
        before = max(before, segment.end)


def _problems(segment: Segment, before: float, duration: float) -> Iterator[str]:
    """What is wrong with one segment, to be put behind its name. before: the last one's end [s]."""
    known = PRIMITIVES.get(segment.primitive)
    if known is None:
        yield f": unknown primitive {brief(segment.primitive)}; known: {', '.join(PRIMITIVES)}"
    if segment.status not in STATUSES:
        yield f": unknown status {brief(segment.status)}; known: {', '.join(STATUSES)}"
    elif known is not None and segment.status not in known.statuses:
        yield (
            f": '{segment.primitive}' is of a gripper that is {known.statuses[0]}, not "
            f"{segment.status}"
        )
    if segment.end <= segment.start:
        yield f" ends at {segment.end:.2f} s, not after its start at {segment.start:.2f} s"
    if segment.start < -ROUNDING:
        yield f" starts at {segment.start:.2f} s, before the episode"
    elif segment.start < before - ROUNDING:
        yield f" starts at {segment.start:.2f} s, before the one before it ends ({before:.2f} s)"
    if segment.end > duration + ROUNDING:
        yield f" ends at {segment.end:.2f} s, after the episode ({duration:.2f} s)"
    words = segment.instruction.strip()
    if not words or len(words) > LONGEST_INSTRUCTION:
        yield f": an instruction has 1 to {LONGEST_INSTRUCTION} characters, not {len(words)}"
    elif not words.isprintable():
        yield ": the instruction has characters that can't be shown"
    if banned := banned_words(words):
        yield f": the instruction says '{banned[0]}', which only an image would show"


@dataclass(frozen=True)
class Segmentation:
    """The segments of a data set."""

    source: str  # the data set, as it was named
    made_by: str  # "rules", or the model
    durations: Mapping[int, float]  # s, of the episodes by index
    episodes: Mapping[int, tuple[Segment, ...]]  # by index; () where nothing was found
    # How the data set was opened: contract and mapping as they were named, "" for its own.
    contract: str = ""
    mapping: str = ""
    digests: Mapping[int, str] = field(default_factory=dict)  # of the episodes, where known

    @property
    def is_rated(self) -> bool:
        """Whether anybody has rated any of them."""
        return any(s.quality is not None for own in self.episodes.values() for s in own)

    @property
    def digest(self) -> str:
        """Tells its segments from others, whatever ratings they have."""
        rows = [
            [index, [list(asdict(replace(segment, quality=None)).values()) for segment in segments]]
            for index, segments in sorted(self.episodes.items())
        ]
        # With a letter in front, no spreadsheet takes it for a number.
        return "s" + hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:15]


def write_segmentation(segmentation: Segmentation, path: str | Path) -> None:
    """Writes it as JSON; the file appears whole or not at all. Raises DatasetError."""
    values = {
        "version": VERSION,
        "source": segmentation.source,
        "made_by": segmentation.made_by,
        "contract": segmentation.contract,
        "mapping": segmentation.mapping,
        "episodes": [
            {
                "episode": index,
                "duration": round(segmentation.durations[index], 3),
                "digest": segmentation.digests.get(index, ""),
                "segments": [asdict(segment) for segment in segments],
            }
            for index, segments in segmentation.episodes.items()
        ],
    }
    try:
        replace_text(path, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise DatasetError(f"cannot write {shown_path(path)}: {error.strerror}") from error


def read_segmentation(path: str | Path) -> Segmentation:
    """Reads what write_segmentation wrote. Raises DatasetError that names file and entry."""
    path = Path(path)
    path = path / SEGMENTS_FILE if path.is_dir() else path
    values, where = read_json(path, DatasetError, MOST_BYTES), str(shown_path(path))
    texts = ("source", "made_by", "contract", "mapping")
    names = ("version", *texts, "episodes")
    checked_entries(values, where, DatasetError, names)
    if values.get("version") != VERSION:
        raise DatasetError(
            f"{where} is of version {brief(values.get('version'))}; this program reads {VERSION}"
        )
    if not isinstance(values.get("episodes"), list):
        raise DatasetError(f"{where}: 'episodes' is no list")
    episodes: dict[int, tuple[Segment, ...]] = {}
    durations: dict[int, float] = {}
    digests: dict[int, str] = {}
    for number, values_of in enumerate(values["episodes"]):
        entry, segments = _episode(values_of, f"{where}, entry {number}")
        index = entry.episode
        if index in episodes:
            raise DatasetError(f"{where}: episode {index} stands there twice")
        episodes[index], durations[index] = segments, entry.duration
        if entry.digest:
            digests[index] = entry.digest
    source, made_by, contract, mapping = (str(values.get(name, ""))[:1000] for name in texts)
    return Segmentation(source, made_by, durations, episodes, contract, mapping, digests)


@dataclass(frozen=True)
class _Entry:
    """An episode in the file."""

    episode: int = bounded(0, 0, 1e9)
    duration: float = bounded(0.0, 0, 1e6)  # s
    digest: str = ""  # of the data; "" where it is not known
    segments: tuple[Any, ...] = field(default=(), metadata={"length": (0, MOST_SEGMENTS)})


def _episode(values: Any, where: str) -> tuple[_Entry, tuple[Segment, ...]]:
    entry = read_dataclass(_Entry, values, where, DatasetError)
    where = f"{where}, episode {entry.episode}"
    segments = tuple(
        read_dataclass(Segment, each, f"{where}, segment {number}", DatasetError)
        for number, each in enumerate(entry.segments)
    )
    try:
        check_segments(segments, entry.duration)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error
    return entry, segments
