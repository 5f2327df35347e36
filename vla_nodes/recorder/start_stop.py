"""The recorder's start and end of episodes, and their events on the graph.

One episode at a time is recorded; the ring buffer is saved beside it. Messages come from
vla_nodes.recorder.intake, and vla.bags.episode_writer writes them in its own thread.
"""

from __future__ import annotations

import datetime
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_ros.msg import Episode, Instruction

from vla.bags.episode_writer import EpisodeWriter, RecordedEpisode
from vla.contract.embodiment import EmbodimentContract
from vla_nodes.core import qos
from vla_nodes.core.diagnostics import ERROR
from vla_nodes.core.node import ManagedNode
from vla_nodes.recorder.disk import MEBIBYTE, DiskWork, RefusedError, check_room, check_writable
from vla_nodes.recorder.episode import (
    RunningEpisode,
    drops_in_words,
    gaps_in_words,
    shown_instruction,
    start_metadata,
)
from vla_nodes.recorder.intake import Intake

# Instructions that were in force lately, which a ring buffer may hold.
REMEMBERED = 1000


class Recording:
    """Begins and ends episodes for the node `recorder`, in the node's one thread."""

    contract: EmbodimentContract  # set when the node is configured

    def __init__(self, node: ManagedNode) -> None:
        self._node = node
        self._disk = DiskWork()
        self._intake: Intake | None = None
        self.episode: RunningEpisode | None = None
        self.last = ""  # name of the newest episode that is over
        self.instruction = Instruction()  # the one in force
        # Id and text of those that were in force lately, the newest last.
        self.followed: deque[tuple[int, str]] = deque(maxlen=REMEMBERED)

    def configure(self, contract: EmbodimentContract) -> None:
        """Creates the topic of events, for episodes of a robot of this contract."""
        self.contract = contract
        self._events = self._node.create_lifecycle_publisher(Episode, "vla/episode", qos.EVENT)

    def deactivate(self) -> None:
        """Closes the running episode with its label, and waits for all writing."""
        if self.episode is not None:
            episode, self.episode = self.episode, None
            episode.add_note("the recorder was deactivated while recording")
            self.report(episode, episode.writer.finish(self._end(episode)))
        self._disk.join()
        if self._intake is not None:
            self._intake.close()
            self._intake = None

    def listen(self, intake: Intake) -> None:
        """Takes messages from there until deactivate()."""
        self._intake = intake

    @property
    def is_listening(self) -> bool:
        """Whether the node is active and listens."""
        return self._node.is_active and self._intake is not None

    @property
    def intake(self) -> Intake:
        """The input. Raises RefusedError while the node is inactive."""
        if self._intake is None:
            raise RefusedError("the recorder is not active: activate it first")
        return self._intake

    def require_active(self) -> None:
        """Raises RefusedError unless the node is active."""
        if not self.is_listening:
            raise RefusedError("the recorder is not active: activate it first")

    def directory(self) -> Path:
        """The folder that holds the episodes."""
        return Path(self._node.settings["directory"]).expanduser().resolve()

    def follow(self, instruction: Instruction) -> bool:
        """Takes the instruction in force; whether it is another one."""
        if instruction.instruction_id == self.instruction.instruction_id:
            return False
        self.instruction = instruction
        self.followed.append((instruction.instruction_id, instruction.instruction))
        return True

    def begin(self, note: str, instruction: str = "", automatic: bool = False) -> RunningEpisode:
        """Starts an episode. Raises RefusedError or BagError when it cannot be recorded.

        instruction: what the operator demonstrates; empty for the one in force.
        """
        if self.episode is not None:
            raise RefusedError(f"{self.episode.name} is being recorded: stop it first")
        # Otherwise a camera that has just appeared would be recorded with best effort only.
        self.intake.match_publishers()
        if silent := self.intake.silent(self._node.settings["freshness"]):
            raise RefusedError(f"cannot record, silent: {'; '.join(silent)}")
        now = self.intake.now()
        episode = self.open(note, instruction, shown_instruction(self.instruction), now)
        episode.automatic = automatic
        # What is in force at the start stands at the start of the bag.
        for message in self.intake.latched():
            episode.writer.put(replace(message, receive_time=now, sequence=0))
        if not automatic:
            episode.take_instruction(self.instruction)
        self.episode = episode
        self._node.get_logger().info(f"recording {episode.writer.folder}")
        self.announce(Episode.STARTED, episode)
        return episode

    def open(
        self, note: str, given: str, in_force: str, started: int, size: int = 0
    ) -> RunningEpisode:
        """Opens a bag. Raises RefusedError or BagError when it cannot be written.

        given: the operator's instruction, or "". in_force: the one that counts otherwise. started:
        receive times begin here [ns]. size: bytes known to come, which the queue must hold at once.
        """
        directory = self.directory()
        check_writable(directory)
        check_room(directory, self._node.settings["minimum_free_space"], size)
        name = datetime.datetime.now().strftime("episode_%Y%m%d_%H%M%S_%f")[:-3]
        instruction = given or in_force
        writer = EpisodeWriter(
            directory / name,
            self.intake.topics(),
            start_metadata(self.contract, name, note, instruction, bool(given)),
            compression=self._node.settings["compression"],
            queue_bytes=max(size, int(self._node.settings["queue_size"] * MEBIBYTE)),
            flush_period=self._node.settings["flush_period"],
        )
        return RunningEpisode(name, writer, note, instruction, started)

    def _end(self, episode: RunningEpisode) -> dict[str, str]:
        """The metadata of an episode that is over."""
        self.last = episode.name
        episode.end(time.time_ns(), self.intake.required, self._node.settings["freshness"])
        return episode.metadata(self.intake.classes)

    async def finish(self, episode: RunningEpisode, failure: str = "") -> RecordedEpisode:
        """Closes an episode that is no longer recorded, and reports the result.

        failure: why it ended early, unless by an error of the disk.
        """
        metadata = self._end(episode)
        result = await self.in_background(lambda: episode.writer.finish(metadata))
        self.report(episode, result, failure)
        return result

    def finish_soon(self, failure: str = "") -> None:
        """As finish(), for the running episode, in callbacks that cannot wait."""
        episode, self.episode = self.episode, None
        if episode is not None and self._node.executor is not None:
            self._node.executor.create_task(self.finish, episode, failure)

    async def in_background(self, work: Callable[[], Any]) -> Any:
        """The result or exception of `work`, while messages keep arriving."""
        return await self._disk.done(self._node.executor, work)

    def report(self, episode: RunningEpisode, result: RecordedEpisode, failure: str = "") -> None:
        """Reports a closed episode in the log, the diagnostics and on vla/episode."""
        if result.error:
            self._node.diagnostics.report("write", result.error, ERROR)
            self.announce(Episode.FAILED, episode, result.error)
            return
        words = (gaps_in_words(episode.gaps), drops_in_words(result.drops))
        text = f"{episode.name}: {result.message_count} messages in {result.duration:.1f} s"
        self._node.get_logger().info("; ".join(filter(None, (text, *words))))
        self.announce(Episode.STOPPED, episode)
        if failure:
            self.announce(Episode.FAILED, episode, failure)

    def renew_metadata(self, episode: RunningEpisode) -> None:
        """Writes the metadata with the next flush, so that a crash does not lose it."""
        episode.writer.update(episode.metadata(self.intake.classes))

    def announce(self, event: int, episode: RunningEpisode, message: str = "") -> None:
        """Publishes an event of an episode. event: a constant of Episode.msg."""
        discarded = event == Episode.DISCARDED
        self.publish_event(
            event=event,
            episode_id=episode.name,
            uri="" if discarded else str(episode.writer.folder),
            instruction=episode.instruction,
            message_count=episode.writer.message_count,
            message=message,
        )

    def publish_event(self, **fields) -> None:
        """Publishes an event with these fields of Episode.msg, stamped now."""
        event = Episode(**fields)
        event.header.stamp = self._node.get_clock().now().to_msg()
        self._events.publish(event)
