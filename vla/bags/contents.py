"""What the files of a bag hold, whatever their storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vla.bags.message_types import MessageType

CDR = "cdr"


@dataclass(frozen=True)
class FileTopic:
    """A topic as a file declares it.

    type: with an empty definition where the file has none that is text. encoding: of the messages,
    "cdr" for those of ROS. qos: YAML text of the offered profiles.
    """

    name: str
    type: MessageType
    encoding: str = CDR
    qos: str = ""


@dataclass(frozen=True)
class BagMessage:
    """One message. receive_time, publish_time: nanoseconds since the epoch. data: CDR bytes."""

    topic: str
    type_name: str
    receive_time: int
    publish_time: int
    sequence: int
    data: bytes


@dataclass(frozen=True)
class FileSummary:
    """What a file holds. topics: as metadata.yaml lists them. Times in nanoseconds."""

    topics: list[dict[str, Any]]
    message_count: int
    start_time: int
    end_time: int
