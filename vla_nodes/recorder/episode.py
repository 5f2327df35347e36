"""The episode that is being recorded, and its bag's metadata."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from rclpy.serialization import deserialize_message
from vla_ros.msg import Instruction

import vla
from vla.bags.episode_writer import EpisodeWriter
from vla.bags.labels import joined_notes
from vla.bags.ring_buffer import Recent
from vla.bags.writer import dump_yaml
from vla.contract.embodiment import EmbodimentContract
from vla.control.session import LONGEST_INSTRUCTION
from vla.core.text import one_line

NANOSECONDS = 1_000_000_000
# Longest checkpoint id, or mode, that is kept.
LONGEST_ID = 200


@dataclass
class RunningEpisode:
    """The episode that is being recorded."""

    name: str
    writer: EpisodeWriter
    note: str
    instruction: str  # given at the start, or else the first in force
    started: int  # receive times begin here [ns]
    demonstration: bool = False
    automatic: bool = False  # started by auto_record
    outcome: str = ""
    instructions: list[dict] = field(default_factory=list)  # as the metadata holds them
    subtasks: list[dict] = field(default_factory=list)  # as the metadata holds them
    # Spans of silence [ns] by topic of the contract.
    gaps: dict[str, list[list[int]]] = field(default_factory=dict)
    checkpoint_ids: set[str] = field(default_factory=set)
    derived_from: dict[str, bytes] = field(default_factory=dict)
    heard_at: dict[str, int] = field(default_factory=dict)

    def take_instruction(self, instruction: Instruction) -> None:
        """Notes a new instruction; a repeated announcement counts once."""
        known = self.instructions and self.instructions[-1]["instruction_id"]
        if instruction.instruction_id and instruction.instruction_id != known:
            self.instruction = self.instruction or shown_instruction(instruction)
            self.instructions.append(instruction_entry(instruction))

    def note_arrival(self, topic: str, time: int, limit: float) -> None:
        """Notes that a topic of the contract was heard; silence beyond `limit` [s] is a gap."""
        before = self.heard_at.get(topic, self.started)
        if time - before > limit * NANOSECONDS:
            self.gaps.setdefault(topic, []).append([before, time])
        self.heard_at[topic] = time

    def take_recent(
        self, recent: Recent, required: Collection[str], classes: Mapping[str, type], limit: float
    ) -> None:
        """Notes losses, gaps and models in the messages of the ring buffer."""
        for message in recent.messages:
            if message.lost:
                self.writer.count_lost(message.topic, message.lost)
            if message.topic in required:
                self.note_arrival(message.topic, message.receive_time, limit)
            if hasattr(classes[message.topic], "checkpoint_id"):
                self.derived_from[message.topic] = message.data

    def end(self, now: int, required: Iterable[str], limit: float) -> None:
        """Notes the gaps that last until the end of the recording, `now` [ns]."""
        for topic in required:
            self.note_arrival(topic, now, limit)

    def metadata(self, classes: Mapping[str, type]) -> dict[str, str]:
        """The bag's metadata that changes while it is recorded.

        classes: message classes by topic name.
        """
        self.checkpoint_ids |= checkpoint_ids(self.derived_from, classes)
        return {
            "outcome": self.outcome,
            "note": self.note,
            "instruction": self.instruction,
            "instructions": json.dumps(self.instructions),
            "subtasks": json.dumps(self.subtasks),
            "checkpoint_id": ",".join(sorted(self.checkpoint_ids)),
            "drops": json.dumps(self.writer.drops()),
            "gaps": json.dumps(self.gaps),
        }

    def add_note(self, note: str) -> None:
        """Adds a line to the note."""
        self.note = joined_notes(self.note, note)


def start_metadata(
    contract: EmbodimentContract, name: str, note: str, instruction: str, demonstration: bool
) -> dict[str, str]:
    """A bag's metadata at its start."""
    return {
        "episode_id": name,
        "contract_id": contract.contract_id,
        "contract": dump_yaml(contract.to_dict()),
        "robot": contract.name,
        "instruction": instruction,
        "demonstration": "true" if demonstration else "false",
        "package_version": vla.__version__,
        "note": note,
        "outcome": "",
        "subtasks": "[]",
    }


def instructions_in(recent: Recent, topic: str) -> list[Instruction]:
    """Instructions of the ring buffer's messages, with the one in force before them first."""
    return [
        deserialize_message(message.data, Instruction)
        for message in (*recent.latched, *recent.messages)
        if message.topic == topic
    ]


def instruction_entry(instruction: Instruction) -> dict:
    """An instruction as the metadata holds it."""
    return {
        "instruction_id": instruction.instruction_id,
        "instruction": shown_instruction(instruction),
        "mode": one_line(instruction.mode, LONGEST_ID),
    }


def shown_instruction(instruction: Instruction) -> str:
    """The words of an instruction from the graph as they are kept: one line, bounded, escaped."""
    return one_line(instruction.instruction, LONGEST_INSTRUCTION)


def checkpoint_ids(newest: Mapping[str, bytes], classes: Mapping[str, type]) -> set[str]:
    """Ids of the models whose newest messages these are, as bytes by topic."""
    found = {
        one_line(deserialize_message(data, classes[name]).checkpoint_id, LONGEST_ID)
        for name, data in newest.items()
    }
    return found - {""}


def gaps_in_words(gaps: Mapping[str, list]) -> str:
    """One sentence on the topics that fell silent; empty where none did."""
    parts = []
    for topic, spans in gaps.items():
        seconds = sum(end - begin for begin, end in spans) / NANOSECONDS
        parts.append(f"{topic} for {seconds:.1f} s")
    return f"silent while recording: {', '.join(parts)}" if parts else ""


def drops_in_words(drops: Mapping[str, int]) -> str:
    """One sentence on the messages that were lost; empty where none were."""
    parts = [f"{count} of {topic}" for topic, count in drops.items()]
    return f"messages lost: {', '.join(parts)}" if parts else ""
