"""The node `recorder`: one rosbag2 MCAP bag per episode, with everything needed to train from it.

Messages are kept as the bytes that arrived, and written by a thread of vla.bags.episode_writer.
topics.py and intake.py read them, services.py answers requests, start_stop.py begins and ends
episodes, episode.py makes the metadata. The node's one thread never waits for the disk, since
messages keep arriving.
"""

from __future__ import annotations

import json
import threading

from rclpy.serialization import deserialize_message
from vla_ros.msg import Instruction, PolicyStatus

from vla.bags.message_types import load_message_type
from vla.bags.ring_buffer import ReceivedMessage
from vla.bags.writer import BagError
from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla_nodes.core import qos
from vla_nodes.core.diagnostics import ERROR, WARN
from vla_nodes.core.instruction_watch import InstructionWatch
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.polled import PolledSubscription
from vla_nodes.core.running import run
from vla_nodes.recorder.disk import MEBIBYTE, RefusedError, check_writable, free_mebibytes
from vla_nodes.recorder.intake import Intake
from vla_nodes.recorder.repair import complete_bags
from vla_nodes.recorder.services import RecorderServices
from vla_nodes.recorder.settings import SETTINGS
from vla_nodes.recorder.start_stop import Recording
from vla_nodes.recorder.topics import (
    INSTRUCTION,
    OBSERVATION,
    TopicPlan,
    TopicReader,
    plan_topics,
    type_name,
)

POLL_PERIOD = 0.04


class Recorder(ManagedNode):
    """Listens all the time, and writes between start and stop."""

    SETTINGS = SETTINGS
    TASK = "recording"

    def __init__(self) -> None:
        super().__init__("recorder")
        self._recording = Recording(self)
        self._instructions: InstructionWatch | None = None
        self.diagnostics.checks.append(self._check)

    def configure(self) -> None:
        """Loads the contract and offers the services, which refuse until the node is active."""
        contract = load_contract(contract_path(self.settings["contract"]))
        self._plans = plan_topics(
            contract,
            self.settings["compressed"],
            self.get_parameter("use_sim_time").value,
            self.settings["extra_topics"],
            self.settings["excluded_topics"],
        )
        for plan in self._plans:
            load_message_type(type_name(plan.message_class))
        self._recording.configure(contract)
        self._instructions = InstructionWatch(self)
        RecorderServices(self, self._recording, lambda: self._poll(everything=True))

    def activate(self) -> None:
        """Starts listening, and completes bags that a crash left behind."""
        directory = self._recording.directory()
        check_writable(directory)
        ring_bytes = int(self.settings["ring_buffer_size"] * MEBIBYTE)
        self._recording.listen(
            Intake(self, self._plans, self._is_wanted, self.settings["ring_buffer"], ring_bytes)
        )
        # Of its own, since the recorded topic may be excluded.
        self._statuses = PolledSubscription(self, PolicyStatus, "vla/status", qos.LATCHED)
        self.create_steady_timer(POLL_PERIOD, self._poll)
        threading.Thread(target=complete_bags, args=(self, directory), daemon=True).start()

    def deactivate(self) -> None:
        """Closes the running episode with its label, and waits for all writing."""
        self._recording.deactivate()

    def cleanup(self) -> None:
        """Forgets what was heard."""
        self._recording.instruction = Instruction()
        if self._instructions is not None:
            self._instructions.destroy()
            self._instructions = None

    def _poll(self, everything: bool = False) -> None:
        intake, watch = self._recording.intake, self._instructions
        if watch is None:
            return
        watch.poll()
        while (status := self._statuses.take()) is not None:
            if watch.confirm(status):
                self._follow(watch.instruction)
        silence = self.settings["freshness"]
        for reader, message in intake.take(everything):
            self._record(reader, message, silence)
            if reader.plan.name == INSTRUCTION:
                watch.announce(deserialize_message(message.data, Instruction))
                self._follow(watch.instruction)

    def _record(self, reader: TopicReader, message: ReceivedMessage, silence: float) -> None:
        episode = self._recording.episode
        if message.lost:
            self.diagnostics.drop(f"lost_{reader.plan.name}", message.lost)
        if episode is None:
            return
        if message.lost:
            episode.writer.count_lost(reader.name, message.lost)
        if episode.writer.put(message):
            self.diagnostics.output((message.receive_time - message.publish_time) * 1e-9)
        else:
            self.diagnostics.drop(f"queue_{reader.plan.name}")
        if reader.plan.required:
            episode.note_arrival(reader.name, message.receive_time, silence)
        if hasattr(reader.plan.message_class, "checkpoint_id"):
            episode.derived_from[reader.name] = message.data

    def _is_wanted(self, plan: TopicPlan) -> bool:
        return plan.name != OBSERVATION or self.settings["record_observation"]

    def _follow(self, instruction: Instruction) -> None:
        if not self._recording.follow(instruction):
            return
        if self.settings["auto_record"]:
            self._record_by_itself(instruction)
        if self._recording.episode is not None:
            self._recording.episode.take_instruction(instruction)

    def _record_by_itself(self, instruction: Instruction) -> None:
        if self._recording.episode is not None and self._recording.episode.automatic:
            self._recording.finish_soon()
        wanted = instruction.instruction_id and instruction.mode != Instruction.MODE_ASK
        if wanted and self._recording.episode is None:
            try:
                self._recording.begin("", automatic=True)
            except (RefusedError, BagError) as error:
                self.diagnostics.report("not_recorded", f"instruction is not recorded: {error}")

    def _check(self) -> None:
        """Checks publishers, disk and writer once a second."""
        values = self.diagnostics.values
        if not self._recording.is_listening:
            values["episode"] = ""
            return
        if self._instructions is not None and (problem := self._instructions.problem):
            self.diagnostics.report("second_publisher", problem)
        intake, episode = self._recording.intake, self._recording.episode
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
        self._recording.renew_metadata(episode)
        failure = ""
        if free_mebibytes(episode.writer.folder) < self.settings["minimum_free_space"]:
            failure = f"the disk of {episode.writer.folder} is nearly full: recording ended"
            episode.add_note(failure)
            self.diagnostics.report("disk", failure, ERROR)
        if failure or episode.writer.error:
            self._recording.finish_soon(failure)


def main() -> int:
    """Runs the node."""
    return run(Recorder)
