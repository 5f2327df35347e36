"""The node `recorder`: one rosbag2 MCAP bag per episode, with everything needed to train from it.

Messages are kept as the bytes that arrived. Writing happens in vla.data.episode on a thread of its
own; what is listened to is in recorded_topics.py, what the metadata says in recorder_episode.py.
Nothing in this node's one thread waits for the disk, since messages go on coming in.
"""

from __future__ import annotations

import datetime
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.serialization import deserialize_message
from vla_ros.msg import Episode, Instruction
from vla_ros.srv import LabelEpisode, MarkSubtask, SaveRecent, StartEpisode, StopEpisode

from vla.contract import EmbodimentContract, load_contract
from vla.control.session import LONGEST_INSTRUCTION
from vla.data.bag import BagError
from vla.data.bag_reader import recover_bag, unfinished_bags
from vla.data.episode import EpisodeResult, EpisodeWriter, write_recent
from vla.data.labels import check_note, check_outcome, find_episode, label_episode
from vla.data.message_types import load_message_type
from vla.data.ring_buffer import Recent
from vla.resources import contract_path
from vla.text import TextError, check_text, one_line
from vla_nodes import qos
from vla_nodes.diagnostics import ERROR, WARN
from vla_nodes.node import ManagedNode, run
from vla_nodes.recorded_topics import (
    OBSERVATION,
    ReceivedMessage,
    TopicPlan,
    TopicReader,
    plan_topics,
    type_name,
)
from vla_nodes.recorder_disk import (
    MEBIBYTE,
    DiskWork,
    RefusedError,
    check_room,
    check_writable,
    free_mebibytes,
)
from vla_nodes.recorder_episode import (
    NANOSECONDS,
    RunningEpisode,
    drops_in_words,
    gaps_in_words,
    instructions_in,
    shown_instruction,
    start_metadata,
)
from vla_nodes.recorder_intake import Intake
from vla_nodes.recorder_settings import SETTINGS

POLL_PERIOD = 0.04
INSTRUCTION = "vla/instruction"


class Recorder(ManagedNode):
    """Listens all the time, and writes between start and stop."""

    SETTINGS = SETTINGS

    def __init__(self) -> None:
        super().__init__("recorder")
        self._contract: EmbodimentContract | None = None
        self._intake: Intake | None = None
        self._episode: RunningEpisode | None = None
        self._last = ""
        self._instruction = Instruction()
        self._disk = DiskWork()
        self._saving = False
        self.diagnostics.checks.append(self._check)

    def configure(self) -> None:
        """Loads the contract and offers the services, which refuse until the node is active."""
        self._contract = load_contract(contract_path(self.settings["contract"]))
        self._plans = plan_topics(
            self._contract,
            self.settings["compressed"],
            self.get_parameter("use_sim_time").value,
            self.settings["extra_topics"],
            self.settings["excluded_topics"],
        )
        for plan in self._plans:
            load_message_type(type_name(plan.message_class))
        self._events = self.create_lifecycle_publisher(Episode, "vla/episode", qos.EVENT)
        for kind, name, callback in (
            (StartEpisode, "vla/start_episode", self._on_start),
            (StopEpisode, "vla/stop_episode", self._on_stop),
            (LabelEpisode, "vla/label_episode", self._on_label),
            (MarkSubtask, "vla/mark_subtask", self._on_mark),
            (SaveRecent, "vla/save_recent", self._on_save_recent),
        ):
            self.create_service(kind, name, callback)

    def activate(self) -> None:
        """Starts listening, and completes bags that a crash left behind."""
        directory = self._directory()
        check_writable(directory)
        self._intake = Intake(
            self,
            self._plans,
            self._is_wanted,
            self.settings["ring_buffer"],
            int(self.settings["ring_buffer_size"] * MEBIBYTE),
        )
        self.create_steady_timer(POLL_PERIOD, self._poll)
        threading.Thread(target=self._recover, args=(directory,), daemon=True).start()

    def deactivate(self) -> None:
        """Closes the running episode, with the label that it has, and waits for all writing."""
        if self._episode is not None:
            episode, self._episode = self._episode, None
            episode.add_note("the recorder was deactivated while recording")
            self._report(episode, episode.writer.finish(self._end(episode)))
        self._disk.join()
        if self._intake is not None:
            self._intake.close()
            self._intake = None

    def cleanup(self) -> None:
        """Forgets what was heard."""
        self._instruction = Instruction()

    # Messages

    def _poll(self, everything: bool = False) -> None:
        silence = self.settings["freshness"]
        for reader, message in self._intake.take(everything):
            self._record(reader, message, silence)
            if reader.plan.name == INSTRUCTION:
                self._take_instruction(message)

    def _record(self, reader: TopicReader, message: ReceivedMessage, silence: float) -> None:
        episode = self._episode
        if message.lost:
            self.diagnostics.drop(f"lost_{reader.plan.name}", message.lost)
        if episode is None:
            return
        if message.lost:
            episode.writer.count_lost(reader.name, message.lost)
        if episode.writer.put(
            reader.name,
            message.data,
            message.receive_time,
            message.publish_time,
            message.sequence & 0xFFFFFFFF,
        ):
            self.diagnostics.output((message.receive_time - message.publish_time) * 1e-9)
        else:
            self.diagnostics.drop(f"queue_{reader.plan.name}")
        if reader.plan.required:
            episode.note_arrival(reader.name, message.receive_time, silence)
        if hasattr(reader.plan.message_class, "checkpoint_id"):
            episode.derived_from[reader.name] = message.data

    def _is_wanted(self, plan: TopicPlan) -> bool:
        return plan.name != OBSERVATION or self.settings["record_observation"]

    def _take_instruction(self, message: ReceivedMessage) -> None:
        instruction = deserialize_message(message.data, Instruction)
        if instruction.instruction_id == self._instruction.instruction_id:
            return
        self._instruction = instruction
        if self.settings["auto_record"]:
            self._follow_instruction(instruction)
        if self._episode is not None:
            self._episode.take_instruction(instruction)

    def _follow_instruction(self, instruction: Instruction) -> None:
        if self._episode is not None and self._episode.automatic:
            episode, self._episode = self._episode, None
            self.executor.create_task(self._finish, episode)
        wanted = instruction.instruction_id and instruction.mode != Instruction.MODE_ASK
        if wanted and self._episode is None:
            try:
                self._begin("", automatic=True)
            except (RefusedError, BagError) as error:
                self.diagnostics.report("not_recorded", f"instruction is not recorded: {error}")

    # Services

    def _on_start(self, request, response):
        try:
            self._require_active()
            note, instruction = check_note(request.note), _demonstrated(request.instruction)
            # Messages from before the start are not part of the episode, but tell what is fresh.
            self._poll(everything=True)
            episode = self._begin(note, instruction)
        except (RefusedError, BagError, OSError) as error:
            response.message = str(error)
            self.get_logger().warning(f"episode not started: {error}")
            return response
        response.success = True
        response.episode_id = episode.name
        response.uri = str(episode.writer.folder)
        return response

    async def _on_stop(self, request, response):
        discard = request.outcome == StopEpisode.Request.OUTCOME_DISCARD
        try:
            if not discard:
                check_outcome(request.outcome)
        except BagError as error:
            response.message = f"{error}, or 'discard'"
            return response
        try:
            note = check_note(request.note)
            if self._episode is None:
                raise RefusedError("no episode is being recorded")
            # What was published before the request belongs to the episode.
            self._poll(everything=True)
            if self._episode is None:
                raise RefusedError("the episode has just ended by itself")
        except (BagError, RefusedError) as error:
            response.message = str(error)
            return response
        episode, self._episode = self._episode, None
        if discard:
            return await self._discard(episode, response)
        episode.outcome = request.outcome or episode.outcome
        episode.add_note(note)
        _describe(response, episode, await self._finish(episode))
        return response

    async def _discard(self, episode: RunningEpisode, response):
        try:
            await self._in_background(episode.writer.discard)
        except BagError as error:
            response.message = str(error)
            self._announce(Episode.FAILED, episode, str(error))
            return response
        self.get_logger().info(f"{episode.name} discarded")
        self._announce(Episode.DISCARDED, episode)
        response.success = True
        return response

    def _on_label(self, request, response):
        try:
            check_outcome(request.outcome)
            note = check_note(request.note)
            episode = self._episode
            names = ("", episode.name, str(episode.writer.folder)) if episode else ()
            if request.episode_id in names:
                episode.outcome = request.outcome
                episode.add_note(note)
                self._renew_metadata(episode)
                self._announce(Episode.LABELLED, episode, request.outcome)
                response.episode_id, response.uri = episode.name, str(episode.writer.folder)
            else:
                folder = find_episode(self._directory(), request.episode_id or self._last)
                metadata = label_episode(folder, request.outcome, note)
                self._publish_event(
                    event=Episode.LABELLED,
                    episode_id=folder.name,
                    uri=str(folder),
                    instruction=one_line(
                        metadata.custom_data.get("instruction", ""), LONGEST_INSTRUCTION
                    ),
                    message_count=metadata.message_count,
                    message=request.outcome,
                )
                response.episode_id, response.uri = folder.name, str(folder)
        except BagError as error:
            response.message = str(error)
            return response
        response.success = True
        return response

    def _on_mark(self, request, response):
        episode = self._episode
        try:
            name = check_text(request.name, "name of a sub-task", LONGEST_INSTRUCTION)
        except TextError as error:
            response.message = str(error)
            return response
        if episode is None:
            response.message = "no episode is being recorded"
        elif not name:
            response.message = "a sub-task needs a name: say what is done from here on"
        else:
            now = time.time_ns()
            stamp = self.get_clock().now().nanoseconds
            episode.subtasks.append({"name": name, "receive_time": now, "stamp": stamp})
            self._renew_metadata(episode)
            self._announce(Episode.SUBTASK, episode, name)
            response.success = True
            response.elapsed = (now - episode.started) / NANOSECONDS
        return response

    async def _on_save_recent(self, request, response):
        try:
            self._require_active()
            if self._saving:
                raise RefusedError("busy: what was recorded lately is being saved, try again later")
            check_outcome(request.outcome)
            note, instruction = check_note(request.note), _demonstrated(request.instruction)
            recent = self._take_recent(request.duration)
            episode = self._begin_recent(recent, request.outcome, note, instruction)
        except (RefusedError, BagError, OSError) as error:
            response.message = str(error)
            self.get_logger().warning(f"nothing saved: {error}")
            return response
        metadata = episode.metadata(self._intake.classes)
        self._saving = True
        try:
            result = await self._in_background(
                lambda: write_recent(episode.writer, recent, metadata, episode.started)
            )
        finally:
            self._saving = False
        self._report(episode, result)
        _describe(response, episode, result)
        response.episode_id = episode.name
        if recent.limited and response.success:
            limited = "the buffer is full and reaches less far back: raise 'ring_buffer_size'"
            response.message = "; ".join(filter(None, (limited, response.message)))
        return response

    # Episodes

    def _begin(self, note: str, instruction: str = "", automatic: bool = False) -> RunningEpisode:
        """Starts an episode. Raises RefusedError or BagError when it cannot be recorded.

        instruction: what a person demonstrates; empty for the one in force.
        """
        if self._episode is not None:
            raise RefusedError(f"{self._episode.name} is being recorded: stop it first")
        # Or a camera that appeared just now would be recorded with best effort only.
        self._intake.match_publishers()
        if silent := self._intake.silent(self.settings["freshness"]):
            raise RefusedError(f"cannot record, silent: {'; '.join(silent)}")
        now = self._intake.now()
        episode = self._open(note, instruction, shown_instruction(self._instruction), now)
        episode.automatic = automatic
        # What is in force at the start stands at the start of the bag.
        for topic, message in self._intake.latched():
            episode.writer.put(topic, message.data, now, message.publish_time)
        if not automatic:
            episode.take_instruction(self._instruction)
        self._episode = episode
        self.get_logger().info(f"recording {episode.writer.folder}")
        self._announce(Episode.STARTED, episode)
        return episode

    def _open(
        self, note: str, given: str, in_force: str, started: int, size: int = 0
    ) -> RunningEpisode:
        """Opens a bag. size: bytes that are known to come, which the queue must hold at once."""
        directory = self._directory()
        check_writable(directory)
        check_room(directory, self.settings["minimum_free_space"], size)
        name = datetime.datetime.now().strftime("episode_%Y%m%d_%H%M%S_%f")[:-3]
        instruction = given or in_force
        writer = EpisodeWriter(
            directory / name,
            self._intake.topics(),
            start_metadata(self._contract, name, note, instruction, bool(given)),
            compression=self.settings["compression"],
            queue_bytes=max(size, int(self.settings["queue_size"] * MEBIBYTE)),
            flush_period=self.settings["flush_period"],
        )
        return RunningEpisode(name, writer, note, instruction, started)

    def _take_recent(self, duration: float) -> Recent:
        """The newest messages of the ring buffer. Raises RefusedError where there are none."""
        ring = self._intake.ring
        if ring is None:
            raise RefusedError(
                "the ring buffer is off: set the parameter 'ring_buffer' to the seconds to keep"
            )
        if not 0.0 <= duration < math.inf:
            raise RefusedError(f"cannot save {duration} s: give a number of seconds, or 0 for all")
        self._poll(everything=True)
        recent = ring.last(time.time_ns(), duration or math.inf)
        if not recent.messages:
            raise RefusedError("the ring buffer holds nothing: is anything being published?")
        return recent

    def _begin_recent(self, recent: Recent, outcome: str, note: str, given: str) -> RunningEpisode:
        """Opens the bag for messages of the ring buffer, and says in it what they are."""
        intake = self._intake
        topic = intake.names.get(INSTRUCTION, "")
        instructions = instructions_in(recent, topic)
        in_force = next((shown_instruction(i) for i in instructions if i.instruction_id), "")
        started = recent.messages[0].receive_time
        episode = self._open(note, given, in_force, started, recent.size)
        self._last = episode.name
        episode.outcome = outcome
        for instruction in instructions:
            episode.take_instruction(instruction)
        limit = self.settings["freshness"]
        episode.take_recent(recent, intake.required, intake.classes, limit)
        episode.end(time.time_ns(), intake.required, limit)
        return episode

    def _end(self, episode: RunningEpisode) -> dict[str, str]:
        """What the metadata of an episode that is over says."""
        self._last = episode.name
        episode.end(time.time_ns(), self._intake.required, self.settings["freshness"])
        return episode.metadata(self._intake.classes)

    async def _finish(self, episode: RunningEpisode, failure: str = "") -> EpisodeResult:
        """Closes an episode that is no longer recorded, and says how it went.

        failure: why it ended before its time, where it is none of the disk's errors.
        """
        metadata = self._end(episode)
        result = await self._in_background(lambda: episode.writer.finish(metadata))
        self._report(episode, result, failure)
        return result

    async def _in_background(self, work: Callable[[], Any]) -> Any:
        """What `work` returns or raises, while messages go on coming in."""
        return await self._disk.done(self.executor, work)

    def _report(self, episode: RunningEpisode, result: EpisodeResult, failure: str = "") -> None:
        if result.error:
            self.diagnostics.report("write", result.error, ERROR)
            self._announce(Episode.FAILED, episode, result.error)
            return
        words = (gaps_in_words(episode.gaps), drops_in_words(result.drops))
        text = f"{episode.name}: {result.message_count} messages in {result.duration:.1f} s"
        self.get_logger().info("; ".join(filter(None, (text, *words))))
        self._announce(Episode.STOPPED, episode)
        if failure:
            self._announce(Episode.FAILED, episode, failure)

    def _renew_metadata(self, episode: RunningEpisode) -> None:
        """Has the metadata written with the next flush, so that a crash does not lose it."""
        episode.writer.update(episode.metadata(self._intake.classes))

    def _announce(self, event: int, episode: RunningEpisode, message: str = "") -> None:
        discarded = event == Episode.DISCARDED
        self._publish_event(
            event=event,
            episode_id=episode.name,
            uri="" if discarded else str(episode.writer.folder),
            instruction=episode.instruction,
            message_count=episode.writer.message_count,
            message=message,
        )

    def _publish_event(self, **fields) -> None:
        event = Episode(**fields)
        event.header.stamp = self.get_clock().now().to_msg()
        self._events.publish(event)

    # Supervision

    def _check(self) -> None:
        """Looks after publishers, disk and writer once a second."""
        values = self.diagnostics.values
        if not self.is_active or self._intake is None:
            values["episode"] = ""
            return
        intake, episode = self._intake, self._episode
        intake.expire()
        if intake.ring is not None:
            values["ring_s"] = f"{intake.ring.duration:.1f}"
            values["ring_mib"] = f"{intake.ring.size / MEBIBYTE:.1f}"
        silent = intake.silent(self.settings["freshness"])
        values["silent_topics"] = ", ".join(silent)
        values["episode"] = episode.name if episode else ""
        if episode is None:
            intake.match_publishers()
            return
        values["messages"] = str(episode.writer.message_count)
        values["queue_mib"] = f"{episode.writer.waiting_bytes / MEBIBYTE:.1f}"
        if silent:
            self.diagnostics.report("silent", f"silent while recording: {'; '.join(silent)}", WARN)
        if drops := episode.writer.drops():
            values["lost"] = json.dumps(drops)
        self._renew_metadata(episode)
        failure = ""
        if free_mebibytes(episode.writer.folder) < self.settings["minimum_free_space"]:
            failure = f"the disk of {episode.writer.folder} is nearly full: recording ended"
            episode.add_note(failure)
            self.diagnostics.report("disk", failure, ERROR)
        if failure or episode.writer.error:
            self._episode = None
            self.executor.create_task(self._finish, episode, failure)

    def _recover(self, directory: Path) -> None:
        """Completes what a crash left behind, and passes over folders that are unsound."""
        for bag in unfinished_bags(directory, self._skip):
            try:
                report = recover_bag(bag)
            except (BagError, OSError) as error:
                self.diagnostics.report("recover", f"cannot complete {bag}: {error}", WARN)
                continue
            text = f"completed {bag}, which a crash had left: {report.message_count} messages"
            words = (text, report.lost, report.kept_in_words())
            self.get_logger().warning("; ".join(filter(None, words)))

    def _skip(self, folder: Path, reason: str) -> None:
        text = f"{folder.name} in the recorder's folder is passed over: {reason}"
        self.get_logger().warning(one_line(text, 400))

    def _require_active(self) -> None:
        if not self.is_active or self._intake is None:
            raise RefusedError("the recorder is not active: activate it first")

    def _directory(self) -> Path:
        return Path(self.settings["directory"]).expanduser().resolve()


def _demonstrated(instruction: str) -> str:
    """What a person says is demonstrated, or "". Raises RefusedError for what can't be taken."""
    try:
        return check_text(instruction, "instruction", LONGEST_INSTRUCTION)
    except TextError as error:
        raise RefusedError(str(error)) from error


def _describe(response, episode: RunningEpisode, result: EpisodeResult) -> None:
    """Fills in the answer to a request that ended in a bag."""
    response.success = not result.error
    words = (result.error, gaps_in_words(episode.gaps), drops_in_words(result.drops))
    response.message = "; ".join(filter(None, words))
    response.uri = str(result.folder)
    response.message_count = result.message_count
    response.duration = result.duration


def main() -> int:
    """Runs the node."""
    return run(Recorder)
