"""The node `recorder`: one rosbag2 MCAP bag per episode, with everything needed to train from it.

Messages are kept as the bytes that arrived. Writing happens in vla.data.episode on a thread of its
own; what is listened to is in recorded_topics.py.
"""

from __future__ import annotations

import datetime
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rclpy.serialization import deserialize_message
from vla_ros.msg import Episode, Instruction
from vla_ros.srv import StartEpisode, StopEpisode

import vla
from vla.contract import EmbodimentContract, load_contract
from vla.data.bag import BagError, dump_yaml
from vla.data.bag_reader import recover_bag, unfinished_bags
from vla.data.episode import EpisodeResult, EpisodeWriter, RecordedTopic
from vla.data.message_types import load_message_type
from vla.resources import contract_path
from vla_nodes import qos
from vla_nodes.diagnostics import ERROR, WARN
from vla_nodes.node import ManagedNode, run
from vla_nodes.recorded_topics import (
    OBSERVATION,
    PolledGroup,
    ReceivedMessage,
    TopicReader,
    bag_qos,
    plan_topics,
    type_name,
)
from vla_nodes.recorder_settings import SETTINGS

POLL_PERIOD = 0.04
MEBIBYTE = 1024 * 1024
OUTCOMES = (
    StopEpisode.Request.OUTCOME_SUCCESS,
    StopEpisode.Request.OUTCOME_FAILURE,
    StopEpisode.Request.OUTCOME_UNLABELLED,
    StopEpisode.Request.OUTCOME_DISCARD,
)


class RefusedError(ValueError):
    """An episode that cannot start; the message says why."""


@dataclass
class RunningEpisode:
    """The episode that is being recorded. automatic: started by auto_record."""

    name: str
    writer: EpisodeWriter
    note: str
    instruction: str
    automatic: bool
    instructions: list[dict] = field(default_factory=list)
    derived_from: dict[str, bytes] = field(default_factory=dict)


class Recorder(ManagedNode):
    """Listens all the time, and writes between start and stop."""

    SETTINGS = SETTINGS

    def __init__(self) -> None:
        super().__init__("recorder")
        self._contract: EmbodimentContract | None = None
        self._readers: list[TopicReader] = []
        self._episode: RunningEpisode | None = None
        self._instruction = Instruction()
        self._on_message: dict[str, Callable[[ReceivedMessage], None]] = {}
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
        self.create_service(StartEpisode, "vla/start_episode", self._on_start)
        self.create_service(StopEpisode, "vla/stop_episode", self._on_stop)

    def activate(self) -> None:
        """Starts listening, and completes bags that a crash left behind."""
        directory = self._directory()
        _check_writable(directory)
        group = PolledGroup()
        self._readers = [TopicReader(self, plan, group) for plan in self._plans]
        self._on_message = {
            reader.name: self._take_instruction
            for reader in self._readers
            if reader.plan.name == "vla/instruction"
        }
        self.create_steady_timer(POLL_PERIOD, self._poll)
        unfinished = unfinished_bags(directory)
        if unfinished:
            threading.Thread(target=self._recover, args=(unfinished,), daemon=True).start()

    def deactivate(self) -> None:
        """Closes the running episode, unlabelled."""
        if self._episode is not None:
            self._finish("", "the recorder was deactivated while recording")
        for reader in self._readers:
            reader.close()
        self._readers = []

    def cleanup(self) -> None:
        """Forgets what was heard."""
        self._instruction = Instruction()

    # Messages

    def _poll(self) -> None:
        for reader in self._readers:
            for message in reader.take():
                self._record(reader, message)
                if reader.name in self._on_message:
                    self._on_message[reader.name](message)

    def _record(self, reader: TopicReader, message: ReceivedMessage) -> None:
        episode = self._episode
        if message.lost:
            self.diagnostics.drop(f"lost_{reader.plan.name}", message.lost)
        if episode is None or not self._wanted(reader):
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
        if hasattr(reader.plan.message_class, "checkpoint_id"):
            episode.derived_from[reader.name] = message.data

    def _wanted(self, reader: TopicReader) -> bool:
        return reader.plan.name != OBSERVATION or self.settings["record_observation"]

    def _take_instruction(self, message: ReceivedMessage) -> None:
        instruction = deserialize_message(message.data, Instruction)
        if instruction.instruction_id == self._instruction.instruction_id:
            return
        self._instruction = instruction
        if self.settings["auto_record"]:
            self._follow_instruction(instruction)
        if self._episode is not None and instruction.instruction_id:
            self._episode.instruction = self._episode.instruction or instruction.instruction
            self._episode.instructions.append(_instruction_entry(instruction))

    def _follow_instruction(self, instruction: Instruction) -> None:
        if self._episode is not None and self._episode.automatic:
            self._finish("", "")
        wanted = instruction.instruction_id and instruction.mode != Instruction.MODE_ASK
        if wanted and self._episode is None:
            try:
                self._begin("", automatic=True)
            except (RefusedError, BagError) as error:
                self.diagnostics.report("not_recorded", f"instruction is not recorded: {error}")

    # Services

    def _on_start(self, request, response):
        try:
            if not self.is_active:
                raise RefusedError("the recorder is not active: activate it first")
            episode = self._begin(request.note)
        except (RefusedError, BagError, OSError) as error:
            response.message = str(error)
            self.get_logger().warning(f"episode not started: {error}")
            return response
        response.success = True
        response.episode_id = episode.name
        response.uri = str(episode.writer.folder)
        return response

    def _on_stop(self, request, response):
        if request.outcome not in OUTCOMES:
            known = ", ".join(f"'{outcome}'" for outcome in OUTCOMES)
            response.message = f"unknown outcome '{request.outcome}': use one of {known}"
            return response
        if self._episode is None:
            response.message = "no episode is being recorded"
            return response
        # What was published before the request belongs to the episode.
        self._poll()
        if self._episode is None:
            response.message = "the episode has just ended by itself"
            return response
        if request.outcome == StopEpisode.Request.OUTCOME_DISCARD:
            return self._discard(response)
        result = self._finish(request.outcome, request.note)
        response.success = not result.error
        response.message = result.error
        response.uri = str(result.folder)
        response.message_count = result.message_count
        response.duration = result.duration
        return response

    def _discard(self, response):
        episode, self._episode = self._episode, None
        try:
            episode.writer.discard()
        except BagError as error:
            response.message = str(error)
            self._announce(Episode.FAILED, episode, str(error))
            return response
        self.get_logger().info(f"{episode.name} discarded")
        self._announce(Episode.DISCARDED, episode)
        response.success = True
        return response

    # Episodes

    def _begin(self, note: str, automatic: bool = False) -> RunningEpisode:
        """Starts an episode. Raises RefusedError or BagError when it cannot be recorded."""
        if self._episode is not None:
            raise RefusedError(f"{self._episode.name} is being recorded: stop it first")
        # Messages from before the start are not part of the episode, but tell what is fresh.
        self._poll_unrecorded()
        if silent := self._silent_topics():
            raise RefusedError(f"cannot record, silent: {'; '.join(silent)}")
        directory = self._directory()
        _check_writable(directory)
        if (free := _free_mebibytes(directory)) < self.settings["minimum_free_space"]:
            raise RefusedError(
                f"only {free:.0f} MiB left on the disk of {directory}: free some, or lower "
                "'minimum_free_space'"
            )
        readers = [reader for reader in self._readers if self._wanted(reader)]
        name = datetime.datetime.now().strftime("episode_%Y%m%d_%H%M%S_%f")[:-3]
        writer = EpisodeWriter(
            directory / name,
            [
                RecordedTopic(
                    reader.name,
                    load_message_type(type_name(reader.plan.message_class)),
                    (bag_qos(reader.profile),),
                )
                for reader in readers
            ],
            self._start_metadata(name, note),
            compression=self.settings["compression"],
            queue_bytes=int(self.settings["queue_size"] * MEBIBYTE),
            flush_period=self.settings["flush_period"],
        )
        self._repeat_latched(writer, readers)
        instruction = self._instruction
        self._episode = RunningEpisode(name, writer, note, instruction.instruction, automatic)
        if instruction.instruction_id and not automatic:
            self._episode.instructions.append(_instruction_entry(instruction))
        self.get_logger().info(f"recording {writer.folder}")
        self._announce(Episode.STARTED, self._episode)
        return self._episode

    def _poll_unrecorded(self) -> None:
        for reader in self._readers:
            for message in reader.take():
                if reader.name in self._on_message and self._episode is None:
                    self._instruction = deserialize_message(message.data, Instruction)

    def _repeat_latched(self, writer: EpisodeWriter, readers: list[TopicReader]) -> None:
        """What is in force at the start stands at the start of the bag."""
        now = time.time_ns()
        for reader in readers:
            if reader.plan.latched and reader.last is not None:
                last = reader.last
                writer.put(reader.name, last.data, now, last.publish_time)

    def _silent_topics(self) -> list[str]:
        silent = []
        for reader in self._readers:
            publishers = reader.count_publishers()
            age = reader.age()
            if not reader.plan.required or age <= self.settings["freshness"]:
                continue
            if not publishers:
                reason = "nobody publishes it"
            elif reader.last is None:
                reason = "nothing was received yet"
            else:
                reason = f"last message {age:.1f} s ago"
            silent.append(f"{reader.name} ({reason})")
        return silent

    def _finish(self, outcome: str, note: str) -> EpisodeResult:
        """Closes the running episode, announces it, and says how it went."""
        episode, self._episode = self._episode, None
        notes = [text for text in (episode.note, note) if text]
        result = episode.writer.finish(
            {
                "outcome": outcome,
                "note": "\n".join(notes),
                "instruction": episode.instruction,
                "instructions": json.dumps(episode.instructions),
                "checkpoint_id": self._checkpoint_ids(episode),
                "drops": json.dumps(episode.writer.drops()),
            }
        )
        if result.error:
            self.diagnostics.report("write", result.error, ERROR)
            self._announce(Episode.FAILED, episode, result.error)
            return result
        lost = f", {sum(result.drops.values())} lost" if result.drops else ""
        self.get_logger().info(
            f"{episode.name}: {result.message_count} messages in {result.duration:.1f} s{lost}"
        )
        self._announce(Episode.STOPPED, episode)
        return result

    def _checkpoint_ids(self, episode: RunningEpisode) -> str:
        """Of the models whose results were recorded: one, unless they don't belong together."""
        classes = {reader.name: reader.plan.message_class for reader in self._readers}
        found = {
            deserialize_message(data, classes[name]).checkpoint_id
            for name, data in episode.derived_from.items()
        }
        return ",".join(sorted(filter(None, found)))

    def _start_metadata(self, name: str, note: str) -> dict[str, str]:
        contract = self._contract
        return {
            "episode_id": name,
            "contract_id": contract.contract_id,
            "contract": dump_yaml(contract.to_dict()),
            "robot": contract.name,
            "instruction": self._instruction.instruction,
            "package_version": vla.__version__,
            "note": note,
            "outcome": "",
        }

    def _announce(self, event: int, episode: RunningEpisode, message: str = "") -> None:
        discarded = event == Episode.DISCARDED
        note = Episode(
            event=event,
            episode_id=episode.name,
            uri="" if discarded else str(episode.writer.folder),
            instruction=episode.instruction,
            message_count=episode.writer.message_count,
            message=message,
        )
        note.header.stamp = self.get_clock().now().to_msg()
        self._events.publish(note)

    # Supervision

    def _check(self) -> None:
        """Looks after publishers, disk and writer once a second."""
        values = self.diagnostics.values
        if not self.is_active:
            values["episode"] = ""
            return
        silent = self._silent_topics()
        values["silent_topics"] = ", ".join(silent)
        episode = self._episode
        values["episode"] = episode.name if episode else ""
        if episode is None:
            for reader in self._readers:
                reader.match_publishers()
            return
        values["messages"] = str(episode.writer.message_count)
        values["queue_mib"] = f"{episode.writer.waiting_bytes / MEBIBYTE:.1f}"
        if silent:
            self.diagnostics.report("silent", f"silent while recording: {'; '.join(silent)}", WARN)
        if drops := episode.writer.drops():
            values["lost"] = json.dumps(drops)
        if episode.writer.error:
            self._finish("", "")
        elif _free_mebibytes(episode.writer.folder) < self.settings["minimum_free_space"]:
            text = f"the disk of {episode.writer.folder} is nearly full: recording ended"
            self._finish("", text)
            self._announce(Episode.FAILED, episode, text)
            self.diagnostics.report("disk", text, ERROR)

    def _recover(self, bags: list[Path]) -> None:
        for bag in bags:
            try:
                report = recover_bag(bag)
                text = f"completed {bag}, which a crash had left: {report.message_count} messages"
                self.get_logger().warning(text)
            except (BagError, OSError) as error:
                self.diagnostics.report("recover", f"cannot complete {bag}: {error}", WARN)

    def _directory(self) -> Path:
        return Path(self.settings["directory"]).expanduser().resolve()


def _instruction_entry(instruction: Instruction) -> dict:
    return {
        "instruction_id": instruction.instruction_id,
        "instruction": instruction.instruction,
        "mode": instruction.mode,
    }


def _check_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(
            f"cannot create the folder {directory}: {error.strerror}; set 'directory'"
        ) from error


def _free_mebibytes(directory: Path) -> float:
    return shutil.disk_usage(directory).free / MEBIBYTE


def main() -> int:
    """Runs the node."""
    return run(Recorder)
