"""Bags as footage: of any recorder, compressed or not, and of an unfinished one what is sound.

Times are those at which messages were received, since stamps of several devices may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vla.bags.reader import (
    BagMessage,
    BagMetadata,
    is_unfinished,
    read_metadata,
    read_undecoded,
)
from vla.bags.spoken import ASK
from vla.bags.topics import (
    ARRAY,
    COMPRESSED_IMAGE,
    JOINT_STATE,
    POSE,
    SAID,
    TOLD,
    camera_base,
    camera_topics,
    instruction_topic,
    is_of,
)
from vla.bags.writer import COMPLETE_KEY, BagError
from vla.core.files import read_json_text
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.observations.messages import (
    NANOSECONDS,
    compressed_to_array,
    image_to_array,
    pose_to_arrays,
)
from vla.playback.footage import (
    INSTRUCTION,
    CameraTrack,
    EpisodeFacts,
    Mark,
    Numbers,
    Picture,
    Recorded,
    StreamFacts,
    ToolPose,
    Words,
)

# Of cameras' topics, left out of their names.
IMAGE_NAMES = ("/image_raw", "/image")
# Entries of the custom data that are shown as they are, with what they are called.
SHOWN = {
    "note": "note",
    "robot": "robot",
    "contract_id": "contract",
    "checkpoint_id": "checkpoint",
    "lost": "lost",
    "exported_from": "exported from",
}
# The topic of the robot's model, which is no text for people.
DESCRIPTION = "robot_description"
KILLED = "its recorder was killed, or still runs: what had reached the disk is shown"
CUT = "the end of its file is missing: what comes before is shown"

# Gives what one message shows, None for nothing.
Reader = Callable[[float, str, Any], Recorded | None]


class BagFootage:
    """A bag. Raises BagError where it can't be read at all."""

    def __init__(self, folder: Path, name: str):
        """name: as the command line takes it."""
        self._folder = folder
        self._metadata = read_metadata(folder)
        self.facts = _facts(folder, name, self._metadata)
        self._labels = _labels_of(self._metadata)
        self._flaws: list[str] = []
        self._spoken: str | None = None
        # A demonstration's instruction is in the metadata, not on the topic.
        if self._metadata.custom_data.get("demonstration") != "true":
            try:
                self._spoken = instruction_topic(self._metadata.topics, self._metadata.types)
            except DatasetError:
                # Those of several robots: nothing tells which of them this camera shows.
                self._spoken = None
        if self._spoken and not self.facts.instruction:
            said = (e.text for e in self._entries({self._spoken}) if isinstance(e, Words))
            self.facts = replace(self.facts, instruction=next(said, ""))

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the bag."""
        return self._metadata.files

    def pictures(self) -> Iterator[Picture | Words]:
        """See Footage."""
        for entry in self._entries({*self._labels, *filter(None, [self._spoken])}):
            if isinstance(entry, (Picture, Words)):
                yield entry

    def everything(self) -> Iterator[Recorded]:
        """See Footage."""
        kinds = tuple(READERS)
        topics = {t for t, kind in self._metadata.types.items() if is_of(kind, kinds)}
        yield from self._entries(topics | set(self._labels))

    def flaws(self) -> list[str]:
        """See Footage."""
        return self._flaws

    def _entries(self, topics: set[str]) -> Iterator[Recorded]:
        begin = self._metadata.start_time
        read, undecoded = Counter[str](), Counter[str]()
        for message, decode in read_undecoded(self._folder, topics, allow_truncated=True):
            read[message.topic] += 1
            time = max(0, message.receive_time - begin) / NANOSECONDS
            if label := self._labels.get(message.topic):
                yield Picture(time, label, partial(_image, message, decode))
                continue
            name = INSTRUCTION if message.topic == self._spoken else message.topic.strip("/")
            try:
                entry = READERS[_short_type(message)](time, name, decode())
            except (ValueError, AttributeError, TypeError, LookupError):
                undecoded[message.topic] += 1
            else:
                if entry is not None:
                    yield entry
        self._flaws = [
            f"{count} messages of {topic} can't be decoded and are left out"
            for topic, count in undecoded.items()
        ]
        missing = sum(max(0, self._metadata.topics[topic] - read[topic]) for topic in topics)
        if missing and not self.facts.flaw:
            self._flaws.append(
                f"{missing} of the messages that metadata.yaml counts can't be read: the bag is "
                "damaged, and vla.bags.reader.recover_bag says what is lost"
            )


def _facts(folder: Path, name: str, metadata: BagMetadata) -> EpisodeFacts:
    """What metadata.yaml says of a bag. Raises BagError where one of its files is missing."""
    custom, labels = metadata.custom_data, _labels_of(metadata)
    try:
        size = sum(file.stat().st_size for file in metadata.files)
    except OSError as error:
        raise BagError(f"{folder} lacks {error.filename}; copy the bag again") from error
    flaw = ""
    if is_unfinished(metadata):
        flaw = KILLED if custom.get(COMPLETE_KEY) == "false" else CUT
    begin, seconds = metadata.start_time, metadata.duration / NANOSECONDS
    cameras = tuple(CameraTrack(label, metadata.topics[topic]) for topic, label in labels.items())
    intervals = max((camera.frames for camera in cameras), default=1) - 1
    notes = {"recorded": _date(begin)} if metadata.message_count else {}
    notes |= {said: str(custom[key]) for key, said in SHOWN.items() if custom.get(key)}
    notes |= {"storage": metadata.storage}
    return EpisodeFacts(
        name=name,
        instruction=str(custom.get("instruction", "")),
        outcome=str(custom.get("outcome", "")),
        seconds=seconds,
        size=size,
        rate=intervals / seconds if seconds else 0.0,
        cameras=cameras,
        marks=_marks(custom, begin),
        streams=tuple(
            StreamFacts(topic, metadata.types.get(topic, ""), count)
            for topic, count in sorted(metadata.topics.items())
        ),
        flaw=flaw,
        notes=notes,
    )


def _labels_of(metadata: BagMetadata) -> dict[str, str]:
    """The names of a bag's cameras by topic: without what all topics of images have."""
    topics = camera_topics(metadata.topics, metadata.types)
    bases = {topic: camera_base(topic, metadata.types).strip("/") for topic in topics}
    short = {topic: _without(IMAGE_NAMES, base) for topic, base in bases.items()}
    return short if len(set(short.values())) == len(short) else bases


def _short_type(message: BagMessage) -> str:
    """The type of a message as package/Name."""
    return message.type_name.replace("/msg/", "/")


def _image(message: BagMessage, decode: Callable[[], Any]) -> np.ndarray:
    """The image uint8 [H, W, 3] of a message. Raises ValueError."""
    compressed = is_of(message.type_name, (COMPRESSED_IMAGE,))
    try:
        return (compressed_to_array if compressed else image_to_array)(decode())
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{message.type_name} is defined otherwise here: {error}") from error


def _pose(time: float, name: str, message: Any) -> Recorded:
    return ToolPose(time, name, *pose_to_arrays(message.pose))


def _joints(time: float, name: str, message: Any) -> Recorded | None:
    values = np.asarray(message.position, dtype=float)
    return Numbers(time, name, tuple(message.name), values) if len(values) else None


def _array(time: float, name: str, message: Any) -> Recorded | None:
    values = np.asarray(message.data, dtype=float)
    return Numbers(time, name, (), values) if len(values) else None


def _trajectory(time: float, name: str, message: Any) -> Recorded | None:
    if not len(message.points):
        return None
    values = np.asarray(message.points[-1].positions, dtype=float)
    return Numbers(time, name, tuple(message.joint_names), values)


def _chunk(time: float, name: str, message: Any) -> Recorded | None:
    """The first step of a chunk."""
    values = np.asarray(message.actions[: message.action_dim], dtype=float)
    return Numbers(time, name, tuple(message.action_names), values) if len(values) else None


def _instruction(time: float, name: str, message: Any) -> Recorded | None:
    text = one_line(message.instruction, 1000)
    return Words(time, name, text) if text and message.mode != ASK else None


def _response(time: float, name: str, message: Any) -> Recorded | None:
    return Words(time, name, one_line(message.text, 1000)) if message.text else None


def _status(time: float, name: str, message: Any) -> Recorded | None:
    return Words(time, name, one_line(message.message, 1000)) if message.message else None


def _string(time: float, name: str, message: Any) -> Recorded | None:
    is_said = message.data and not name.endswith(DESCRIPTION)
    return Words(time, name, one_line(message.data, 1000)) if is_said else None


READERS: dict[str, Reader] = {
    POSE: _pose,
    JOINT_STATE: _joints,
    ARRAY: _array,
    "trajectory_msgs/JointTrajectory": _trajectory,
    "vla_ros/ActionChunk": _chunk,
    SAID: _instruction,
    "vla_ros/Response": _response,
    TOLD: _status,
    "std_msgs/String": _string,
}


def _marks(custom: Mapping[str, str], begin: int) -> tuple[Mark, ...]:
    """The sub-tasks that were marked; none where they can't be read."""
    try:
        marked = read_json_text(custom.get("subtasks") or "[]", "subtasks", ValueError)
        return tuple(
            Mark(max(0, entry["receive_time"] - begin) / NANOSECONDS, one_line(entry["name"]))
            for entry in marked
        )
    except (ValueError, KeyError, TypeError):
        return ()


def _date(time: int) -> str:
    """A time [ns] since the epoch for people, in their own time zone."""
    try:
        return datetime.fromtimestamp(time // NANOSECONDS).isoformat(" ")
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"


def _without(endings: tuple[str, ...], name: str) -> str:
    for ending in endings:
        if len(name) > len(ending) and name.endswith(ending):
            return name.removesuffix(ending)
    return name
