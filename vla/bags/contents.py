"""What the files of a bag hold, whatever their storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vla.bags.message_types import MessageType

CDR = "cdr"


@dataclass(frozen=True)
class FileTopic:
    """A topic as a file declares it."""

    name: str
    type: MessageType  # its definition is empty where the file has none in text
    encoding: str = CDR  # of the messages, "cdr" for those of ROS
    qos: str = ""  # YAML text of the offered profiles


@dataclass(frozen=True)
class BagMessage:
    """One message."""

    topic: str
    type_name: str
    receive_time: int  # [ns] since the epoch
    publish_time: int  # likewise
    sequence: int
    data: bytes  # CDR bytes


@dataclass(frozen=True)
class FileSummary:
    """What a file holds."""

    topics: list[dict[str, Any]]  # as metadata.yaml lists them
    message_count: int
    start_time: int  # [ns]
    end_time: int  # [ns]
