"""Writes one episode into a bag in its own thread.

Callers only queue messages; compression and the disk work behind the queue, so that a slow disk
costs memory first and messages, which are counted, last.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vla.bags.message_types import MessageType
from vla.bags.ring_buffer import ReceivedMessage, Recent
from vla.bags.writer import BagError, BagWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedTopic:
    """A topic to record."""

    name: str  # absolute
    type: MessageType
    qos: tuple[dict, ...] = ()  # profiles, as `vla.bags.writer` writes them


@dataclass
class RecordedEpisode:
    """The result of an episode."""

    folder: Path
    message_count: int = 0
    duration: float = 0.0  # [s]
    counts: dict[str, int] = field(default_factory=dict)  # messages written, by topic
    drops: dict[str, int] = field(default_factory=dict)  # messages lost, by topic
    error: str = ""  # empty when all is well


class EpisodeWriter:
    """One episode on its way to the disk. `put` may be called from any thread.

    folder: the bag to create. topics: that may be put. custom_data: for the bag's metadata.
    queue_bytes: memory for waiting messages; beyond it they are dropped and counted. flush_period:
    a crash of this process loses at most this much [s]. Raises BagError when the bag cannot be
    created.
    """

    def __init__(
        self,
        folder: Path,
        topics: list[RecordedTopic],
        custom_data: Mapping[str, str],
        compression: str = "none",
        queue_bytes: int = 256 * 1024 * 1024,
        flush_period: float = 0.5,
    ) -> None:
        self.folder = folder
        self._writer = BagWriter(folder, custom_data, compression)
        self._topics = {
            topic.name: self._writer.add_topic(topic.name, topic.type, topic.qos)
            for topic in topics
        }
        self._drops = {topic.name: 0 for topic in topics}
        self._queue: queue.SimpleQueue[ReceivedMessage | None] = queue.SimpleQueue()
        self._queue_bytes = queue_bytes
        self._flush_period = flush_period
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._accepting = True
        self._error = ""
        self._changes: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="episode writer", daemon=True)
        self._thread.start()

    @property
    def message_count(self) -> int:
        """Messages given to the bag so far."""
        return self._writer.message_count

    @property
    def error(self) -> str:
        """Why writing ended early; empty while it goes on."""
        return self._error

    @property
    def waiting_bytes(self) -> int:
        """Bytes in the queue."""
        return self._waiting_bytes

    def drops(self) -> dict[str, int]:
        """Messages lost so far, by topic, without topics that lost none."""
        with self._lock:
            return {name: count for name, count in self._drops.items() if count}

    def count_lost(self, topic: str, count: int) -> None:
        """Adds messages that were lost earlier."""
        with self._lock:
            self._drops[topic] += count

    def put(self, message: ReceivedMessage) -> bool:
        """Queues one message; False when it was dropped because the queue is full or closed.

        Raises KeyError for a topic that the episode was not opened with.
        """
        size, topic = len(message.data), self._topics[message.topic]
        with self._lock:
            if not self._accepting:
                return False
            if self._error or self._waiting_bytes + size > self._queue_bytes:
                self._drops[topic.name] += 1
                return False
            self._waiting_bytes += size
            self._queue.put(message)
        return True

    def update(self, custom_data: Mapping[str, str]) -> None:
        """Changes entries of the bag's metadata with the next flush, so that they survive a crash.

        Unchanged entries cause no writing.
        """
        with self._lock:
            self._changes.update(custom_data)

    def finish(self, custom_data: Mapping[str, str]) -> RecordedEpisode:
        """Writes what is queued, adds `custom_data` to the metadata and closes the bag.

        Where writing failed, the result's error says why and the bag is left as of the last flush.
        """
        self._end_thread()
        drops = self.drops()
        if not self._error:
            self._apply_changes()
            self._writer.custom_data.update(custom_data)
            try:
                self._writer.close()
            except OSError as error:
                self._fail(error)
        return RecordedEpisode(
            folder=self.folder,
            message_count=self._writer.message_count,
            duration=self._writer.duration,
            counts={topic.name: topic.count for topic in self._topics.values()},
            drops=drops,
            error=self._error,
        )

    def discard(self) -> None:
        """Stops writing and deletes the bag. Raises BagError when it cannot be deleted."""
        self._end_thread()
        self._writer.abandon()
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            raise BagError(f"cannot delete {self.folder}: {error.strerror}") from error

    def _end_thread(self) -> None:
        with self._lock:
            self._accepting = False
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        flushed = time.monotonic()
        dirty = False
        while True:
            wait = max(0.0, flushed + self._flush_period - time.monotonic())
            try:
                entry = self._queue.get(timeout=wait)
            except queue.Empty:
                entry = None
            else:
                if entry is None:
                    return
            try:
                if entry is not None and not self._error:
                    self._write(entry)
                    dirty = True
                if time.monotonic() - flushed >= self._flush_period:
                    dirty = self._apply_changes() or dirty
                    if dirty and not self._error:
                        self._writer.flush()
                    flushed, dirty = time.monotonic(), False
            except OSError as error:
                self._fail(error)

    def _apply_changes(self) -> bool:
        """Takes the changes of `update`; True when there are any."""
        with self._lock:
            changes, self._changes = self._changes, {}
        known = self._writer.custom_data
        if all(known.get(key) == value for key, value in changes.items()):
            return False
        known.update(changes)
        return True

    def _write(self, message: ReceivedMessage) -> None:
        times = (message.receive_time, message.publish_time)
        self._writer.write(
            self._topics[message.topic], message.data, *times, sequence=message.sequence
        )
        with self._lock:
            self._waiting_bytes -= len(message.data)

    def _fail(self, error: OSError) -> None:
        self._error = f"cannot write {self.folder}: {error.strerror or error}"
        logger.error("%s", self._error)
        self._writer.abandon()


def write_recent(
    writer: EpisodeWriter, recent: Recent, custom_data: Mapping[str, str], started: int
) -> RecordedEpisode:
    """Writes an episode from the ring buffer, and closes it.

    Latched messages come first, received at `started` [ns]. custom_data: for the bag's metadata,
    written before the first message, too.
    """
    writer.update(custom_data)
    for message in recent.latched:
        writer.put(replace(message, receive_time=started))
    for message in recent.messages:
        writer.put(message)
    return writer.finish(custom_data)
