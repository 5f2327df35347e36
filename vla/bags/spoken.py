"""Which of a bag's instructions were in force: bags hold whatever was published, by whomever.

Messages do not say who sent them. Where the bag has the controller's vla/status, an instruction
counts if a status has the same id and text. The controller's ids only grow, so one that comes back
after another was sent by two nodes, and then nothing tells which of them was followed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vla.bags.writer import METADATA_FILE
from vla.core.shown import brief
from vla.datasets.frames import DatasetError

# An instruction of this mode is only answered: the arm continues under the one before.
ASK = "ask"


@dataclass(frozen=True)
class Said:
    """An instruction as it was announced."""

    received: int  # [ns]
    number: int  # its id, 0 where it has none
    text: str

    @property
    def key(self) -> tuple[int, str]:
        """What a status confirms it by."""
        return self.number, self.text


class SpokenInstructions:
    """Takes a bag's messages of vla/instruction and vla/status in the order of receive times."""

    def __init__(self, topic: str) -> None:
        """topic: of the instructions, for errors."""
        self._topic = topic
        self._said: list[Said] = []
        self._told: set[tuple[int, str]] = set()
        self._has_status = False

    def announce(self, message: Any, received: int) -> None:
        """Takes an Instruction, received then [ns]. Raises TypeError for another definition's."""
        if message.mode != ASK:
            self._said.append(Said(received, *_named(message)))

    def confirm(self, message: Any) -> None:
        """Takes a PolicyStatus. Raises TypeError for another definition's."""
        self._has_status = True
        self._told.add(_named(message))

    def in_force(self, moments: Sequence[int], first: str) -> list[str]:
        """The text in force at each moment; "" where there is none.

        moments: receive times [ns]. first: the metadata's instruction, which counts
        before any other. Raises DatasetError where the messages do not tell.
        """
        said = self._said
        if self._has_status:
            # The arm holds under an id of 0, so the one before is as good a label.
            said = [entry for entry in said if entry.number and entry.key in self._told]
            confirmed = {entry.text for entry in said}
            foreign = {entry.text for entry in self._said if entry.key not in self._told}
            # The recorder may have heard the foreign one first.
            if first in foreign - confirmed:
                first = said[0].text if said else ""
        self._require_succession(said)
        said = sorted(said, key=lambda entry: entry.received)
        times = [entry.received for entry in said]
        places = [bisect_right(times, moment) for moment in moments]
        return [(place and said[place - 1].text) or first for place in places]

    def _require_succession(self, said: Sequence[Said]) -> None:
        """Raises DatasetError where an id comes back after another one.

        One that is stopped and resumed comes back after an id of 0.
        """
        numbered = [entry for entry in said if entry.number]
        over: set[tuple[int, str]] = set()
        for before, entry in pairwise(numbered):
            if before.key != entry.key:
                over.add(before.key)
            if entry.key in over:
                raise DatasetError(
                    f"'{self._topic}' has instructions of two nodes: {_shown(entry)} comes back "
                    f"after {_shown(before)}, and nothing in the bag tells which was in force; "
                    f"leave this episode out, or give it the right instruction in {METADATA_FILE} "
                    "(custom_data: instruction, and demonstration: 'true')"
                )


def _named(message: Any) -> tuple[int, str]:
    """Id and text of an Instruction or a PolicyStatus."""
    number, text = message.instruction_id, message.instruction
    if not isinstance(number, int) or not isinstance(text, str):
        raise TypeError("instruction_id is no number, or instruction no text")
    return number, text


def _shown(said: Said) -> str:
    return f"id {said.number} ({brief(said.text)})"
