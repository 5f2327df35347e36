"""Reads, checks and repairs rosbag2 bags, without ROS.

Any bag of `ros2 bag record` or our recorder can be read, in MCAP or sqlite3, compressed or not, in
one file or several, and of a killed recorder everything up to the last whole message.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from vla.bags.contents import CDR, BagMessage, FileTopic
from vla.bags.mcap_messages import ends_well
from vla.bags.mcap_survey import survey
from vla.bags.message_types import MessageDecoder, MessageTypeError, load_message_type
from vla.bags.metadata import (
    BagMetadata,
    is_bag,
    read_metadata,
    update_custom_data,
)
from vla.bags.repair import BagReport, recover_bag, unfinished_bags
from vla.bags.storage import MCAP, is_compressed, read_file
from vla.bags.writer import COMPLETE_KEY, BagError
from vla.core.shown import brief
from vla.core.text import one_line

__all__ = [
    "BagMessage",
    "BagMetadata",
    "BagReport",
    "is_bag",
    "is_unfinished",
    "read_decoded",
    "read_messages",
    "read_metadata",
    "read_undecoded",
    "recover_bag",
    "unfinished_bags",
    "update_custom_data",
    "validate_bag",
]

# Messages of different topics reach a recorder out of order by less than this [ns].
REORDER_WINDOW = 1_000_000_000


def read_messages(
    folder: str | Path, topics: Collection[str] | None = None, allow_truncated: bool = False
) -> Iterator[BagMessage]:
    """Yields the messages of a bag in the order of their receive times.

    topics: only these; None for all. allow_truncated: take all sound messages, of a damaged bag or
    one whose recorder was killed. Chunk checksums are checked. Raises BagError for a damaged or
    truncated bag unless that is allowed.
    """
    for _, message in _read_bag(Path(folder), topics, allow_truncated):
        yield message


def read_decoded(
    folder: str | Path, topics: Collection[str] | None = None, allow_truncated: bool = False
) -> Iterator[tuple[BagMessage, Any]]:
    """As read_messages, with each message decoded: attributes as in the `.msg`, arrays as numpy."""
    for message, decode in read_undecoded(folder, topics, allow_truncated):
        yield message, decode()


def read_undecoded(
    folder: str | Path, topics: Collection[str] | None = None, allow_truncated: bool = False
) -> Iterator[tuple[BagMessage, Callable[[], Any]]]:
    """As read_decoded, but with a function that decodes the message on demand."""
    decode = _Decoder()
    for topic, message in _read_bag(Path(folder), topics, allow_truncated):
        yield message, partial(decode, topic, message)


class _Decoder:
    """Decodes messages; types that are not used need no definition."""

    def __init__(self) -> None:
        self._decoder = MessageDecoder()
        self._known: set[str] = set()

    def __call__(self, topic: FileTopic, message: BagMessage) -> Any:
        """Raises MessageTypeError, which names the topic, where it cannot."""
        name = topic.type.name
        if topic.encoding != CDR:
            raise MessageTypeError(
                f"messages of '{topic.name}' are encoded as '{one_line(topic.encoding)}', not in "
                "CDR as those of ROS are"
            )
        if name not in self._known:
            # Bags of ROS 2 Humble in sqlite3 hold no definitions.
            definition = topic.type.definition or load_message_type(name).definition
            self._decoder.add(name, definition)
            self._known.add(name)
        return self._decoder.decode(name, message.data)


def is_unfinished(metadata: BagMetadata) -> bool:
    """Whether a bag's recorder was killed, so that only its sound part can be read.

    Our recorder says so in metadata.yaml; a file that it closed and that has lost its end is
    damaged. In a bag of another recorder, the end of a file is missing.
    """
    if COMPLETE_KEY in metadata.custom_data:
        return metadata.custom_data[COMPLETE_KEY] == "false"
    return metadata.storage == MCAP and any(
        file.is_file() and not is_compressed(file) and not ends_well(file)
        for file in metadata.files
    )


def validate_bag(folder: str | Path) -> BagReport:
    """Reads every record of a bag and checks checksums, index and message counts.

    Raises BagError that says what is wrong, and for a truncated bag how to repair it.
    """
    folder = Path(folder)
    report = _report(folder, read_messages(folder))
    metadata = read_metadata(folder)
    if metadata.storage == MCAP:
        for file in metadata.files:
            if not is_compressed(file) and (flaws := survey(file).flaws):
                raise BagError(
                    f"{file} is damaged ({flaws[0]}), and its messages are sound; "
                    "vla.bags.reader.recover_bag repairs it"
                )
    stated = {name: count for name, count in metadata.topics.items() if count}
    if stated != report.counts:
        raise BagError(
            f"{folder}: metadata.yaml counts {brief(stated, 400)}, but the file holds "
            f"{brief(report.counts, 400)}; "
            + (
                "repair it with vla.bags.reader.recover_bag"
                if metadata.storage == MCAP
                else "'ros2 bag reindex' rebuilds metadata.yaml"
            )
        )
    return report


def _read_bag(
    folder: Path, topics: Collection[str] | None, allow_truncated: bool
) -> Iterator[tuple[FileTopic, BagMessage]]:
    """Messages with their topics in the order of receive times."""
    metadata = read_metadata(folder)
    for path in metadata.files:
        if not path.exists():
            raise BagError(
                f"{folder}: the file {path.name} that metadata.yaml names is missing; put it back, "
                "or rebuild metadata.yaml by 'ros2 bag reindex'"
            )
    for file in metadata.files:
        yield from _in_time_order(read_file(file, metadata.storage, topics, allow_truncated))
    if not allow_truncated and metadata.custom_data.get(COMPLETE_KEY) == "false":
        raise BagError(
            f"{metadata.files[-1]} is truncated: its recorder was killed or the disk was full. "
            "Read it with allow_truncated=True, or repair it with "
            "vla.bags.reader.recover_bag"
        )


def _in_time_order(
    entries: Iterator[tuple[FileTopic, BagMessage]],
) -> Iterator[tuple[FileTopic, BagMessage]]:
    heap: list[tuple[int, int, tuple[FileTopic, BagMessage]]] = []
    newest = 0
    for index, entry in enumerate(entries):
        time = entry[1].receive_time
        heapq.heappush(heap, (time, index, entry))
        newest = max(newest, time)
        while heap[0][0] < newest - REORDER_WINDOW:
            yield heapq.heappop(heap)[2]
    while heap:
        yield heapq.heappop(heap)[2]


def _report(folder: Path, messages: Iterator[BagMessage]) -> BagReport:
    report = BagReport(folder)
    first = last = None
    for message in messages:
        report.message_count += 1
        report.counts[message.topic] = report.counts.get(message.topic, 0) + 1
        first = message.receive_time if first is None else min(first, message.receive_time)
        last = message.receive_time if last is None else max(last, message.receive_time)
    if first is not None and last is not None:
        report.duration = (last - first) * 1e-9
    return report
