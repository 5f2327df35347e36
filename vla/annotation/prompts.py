"""Prompts for annotation, in files.

A file has two parts under the headings "# system" and "# user". In both, {instruction}, {frames},
{questions}, {rewrites} and {contexts} are filled in; other text in braces, such as JSON with
quotes, stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from vla.annotation.replies import PairCounts
from vla.control.session import LONGEST_INSTRUCTION
from vla.core.files import read_text
from vla.core.shown import listed
from vla.core.text import one_line

DEFAULT_PROMPT = "config/annotation/vla_it.md"
MOST_BYTES = 100_000
PLACEHOLDERS = ("instruction", "frames", "questions", "rewrites", "contexts")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class PromptError(ValueError):
    """An unusable prompt file."""


@dataclass(frozen=True)
class Prompt:
    """The request for each episode."""

    name: str  # of the file
    version: str  # digest of its text
    system: str
    user: str

    def messages(self, instruction: str, frames: int, wanted: PairCounts) -> tuple[str, str]:
        """The system and the user text for an episode with that many images."""
        values = {
            # One line, so that it cannot begin a part of the prompt.
            "instruction": one_line(instruction, LONGEST_INSTRUCTION),
            "frames": str(frames),
            "questions": str(wanted.questions),
            "rewrites": str(wanted.rewrites),
            "contexts": str(wanted.contexts),
        }

        def fill(text: str) -> str:
            return _PLACEHOLDER.sub(lambda found: values[found[1]], text)

        return fill(self.system), fill(self.user)


def read_prompt(path: str | Path) -> Prompt:
    """Reads a prompt file. Raises PromptError for missing parts or unknown placeholders."""
    path = Path(path)
    text = read_text(path, PromptError, MOST_BYTES)
    pieces = re.split(r"^# *(system|user) *$", text, flags=re.MULTILINE)
    parts = dict(zip(pieces[1::2], (piece.strip() for piece in pieces[2::2]), strict=True))
    if pieces[0].strip() or set(parts) != {"system", "user"} or len(pieces) != 5:
        raise PromptError(f"{path} needs just two parts, under the headings '# system', '# user'")
    if not all(parts.values()):
        raise PromptError(f"{path}: a part is empty")
    used = set(_PLACEHOLDER.findall(text))
    if unknown := sorted(used - set(PLACEHOLDERS)):
        raise PromptError(
            f"{path}: nothing fills in {listed(f'{{{name}}}' for name in unknown)}; known are "
            f"{', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}"
        )
    if "instruction" not in _PLACEHOLDER.findall(parts["user"]):
        raise PromptError(f"{path}: the user's part needs {{instruction}}")
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Prompt(path.name, version, parts["system"], parts["user"])
