"""What a recorded episode gives to those who look at it, whatever its files are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vla.core.text import one_line

# The name under which a footage gives the instruction in force as Words.
INSTRUCTION = "instruction"
# A camera of which so many pictures in a row can't be decoded is left out.
MOST_BAD_PICTURES = 5
LONGEST_REASON = 500  # Why pictures can't be decoded [characters].


class PlaybackError(ValueError):
    """An episode that is not there, or that can't be shown."""


@dataclass(frozen=True)
class Mark:
    """A sub-task that somebody marked while recording."""

    time: float  # at which it begins, since the start of the episode [s]
    name: str


@dataclass(frozen=True)
class CameraTrack:
    """The pictures of one camera."""

    name: str
    frames: int


@dataclass(frozen=True)
class StreamFacts:
    """A topic of a bag, or a feature of a data set."""

    name: str
    kind: str  # its message type, or its number type and shape
    messages: int


@dataclass(frozen=True)
class EpisodeFacts:
    """What is known of an episode without looking at its pictures."""

    name: str  # as the command line takes it
    instruction: str  # the first one, "" where none is known
    outcome: str  # "success", "failure", or ""
    seconds: float
    size: int | None  # [bytes]; None where files hold other episodes, too
    rate: float = 0.0  # pictures a second of the camera that has most of them
    cameras: tuple[CameraTrack, ...] = ()
    marks: tuple[Mark, ...] = ()
    streams: tuple[StreamFacts, ...] = ()
    flaw: str = ""  # why something of it may be missing, in words
    notes: dict[str, str] = field(default_factory=dict)  # what else is known, by what it is

    @property
    def frames(self) -> int:
        """Pictures of the camera that has most of them."""
        return max((camera.frames for camera in self.cameras), default=0)


@dataclass(frozen=True)
class Picture:
    """One image of a camera. Times are since the start of the episode."""

    time: float  # [s]
    camera: str
    decode: Callable[[], np.ndarray]  # gives uint8 [H, W, 3], raises ValueError


@dataclass(frozen=True)
class ToolPose:
    """Where a tool was."""

    time: float  # [s]
    name: str
    position: np.ndarray  # [3], in the base frame [m]
    quaternion: np.ndarray  # [4], x y z w


@dataclass(frozen=True)
class Numbers:
    """A vector at one time, such as joint positions or an action."""

    time: float  # [s]
    name: str
    names: tuple[str, ...]  # of its values
    values: np.ndarray


@dataclass(frozen=True)
class Words:
    """What was said, answered or reported."""

    time: float  # [s]
    name: str
    text: str


Recorded = Picture | ToolPose | Numbers | Words


class Footage(Protocol):
    """An episode that can be played."""

    @property
    def facts(self) -> EpisodeFacts:
        """What is known of it."""

    def pictures(self) -> Iterator[Picture | Words]:
        """Its pictures, undecoded, and its instructions, in the order of time."""

    def everything(self) -> Iterator[Recorded]:
        """All that can be shown, in the order of time."""

    def flaws(self) -> list[str]:
        """Sentences on what could not be read, once all was asked for."""


@dataclass
class Moment:
    """What was to be seen at one moment."""

    time: float  # [s]
    images: dict[str, np.ndarray]  # the newest of each camera that has sent one, uint8 [H, W, 3]
    instruction: str


class PictureDecoder:
    """Decodes pictures, and remembers which of them it could not."""

    def __init__(self) -> None:
        self._decoded: set[str] = set()
        self._failed: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    def image(self, picture: Picture) -> np.ndarray | None:
        """An image uint8 [H, W, 3]; None where it can't be decoded."""
        try:
            image = picture.decode()
        except ValueError as error:
            self._failed[picture.camera] = self._failed.get(picture.camera, 0) + 1
            self._reasons.setdefault(picture.camera, one_line(error, LONGEST_REASON))
            return None
        self._decoded.add(picture.camera)
        return image

    def flaws(self, cameras: Collection[str] | None = None) -> list[str]:
        """A sentence for each camera, or each of these, with pictures that could not be decoded."""
        return [
            self._flaw(camera, count)
            for camera, count in self._failed.items()
            if cameras is None or camera in cameras
        ]

    def _flaw(self, camera: str, count: int) -> str:
        if camera not in self._decoded:
            return f"camera {camera} is left out: {self._reasons[camera]}"
        pictures = "1 picture" if count == 1 else f"{count} pictures"
        return f"{pictures} of camera {camera} left out: {self._reasons[camera]}"


def first_images(footage: Footage) -> tuple[dict[str, np.ndarray], list[str]]:
    """The first image of each camera, in the order of the facts, and sentences on those without.

    Cameras whose first pictures can't be decoded, such as depth cameras, are left out. Raises
    PlaybackError where no camera is left.
    """
    decoder, cameras = PictureDecoder(), [camera.name for camera in footage.facts.cameras]
    found: dict[str, np.ndarray] = {}
    tries = dict.fromkeys(cameras, MOST_BAD_PICTURES)
    for picture in footage.pictures():
        if not isinstance(picture, Picture) or not tries.get(picture.camera):
            continue
        tries[picture.camera] -= 1
        if (image := decoder.image(picture)) is not None:
            found[picture.camera] = image
            tries[picture.camera] = 0
        if not any(tries.values()):
            break
    if not found:
        why = "; ".join([*footage.flaws(), *decoder.flaws()]) or "it has no images"
        raise PlaybackError(f"{footage.facts.name} has no pictures to show: {why}")
    first = {name: found[name] for name in cameras if name in found}
    return first, decoder.flaws(cameras=set(cameras) - set(first))


def moments(
    footage: Footage, times: Iterable[float], cameras: Collection[str], decoder: PictureDecoder
) -> Iterator[Moment]:
    """What the cameras showed at each time: the newest picture up to then.

    times: increasing, since the start [s]. cameras: of which pictures are taken. Only what is shown
    is decoded, once. Ends early where the episode is shorter than the times.
    """
    waiting: dict[str, Picture] = {}
    shown: dict[str, np.ndarray] = {}
    instruction = footage.facts.instruction

    def at(time: float) -> Moment:
        for name, picture in waiting.items():
            if (image := decoder.image(picture)) is not None:
                shown[name] = image
        waiting.clear()
        return Moment(time, dict(shown), instruction)

    ticks = iter(times)
    due = next(ticks, None)
    for entry in footage.pictures():
        while due is not None and entry.time > due:
            yield at(due)
            due = next(ticks, None)
        # Read on after the last, so that the footage knows whether anything is missing.
        if isinstance(entry, Words):
            instruction = entry.text
        elif entry.camera in cameras:
            waiting[entry.camera] = entry
    if due is not None:
        yield at(due)
