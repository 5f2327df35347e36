"""Prompts for annotation, in files.

A file has two parts under the headings "# system" and "# user". In both, placeholders such as
{instruction} are filled in; other text in braces, such as JSON with quotes, stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla.core.files import read_text
from vla.core.shown import listed

DEFAULT_PROMPT = "config/annotation/vla_it.md"
MOST_BYTES = 100_000
# Of the prompts that annotate.
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

    def filled(self, values: Mapping[str, str]) -> tuple[str, str]:
        """The system and the user text, with a value for each of the prompt's placeholders."""

        def fill(text: str) -> str:
            return _PLACEHOLDER.sub(lambda found: values[found[1]], text)

        return fill(self.system), fill(self.user)


def read_prompt(path: str | Path, placeholders: Sequence[str] = PLACEHOLDERS) -> Prompt:
    """Reads a prompt file. Raises PromptError for missing parts or unknown placeholders.

    placeholders: those that are filled in, of which {instruction} must be in the user's part.
    """
    path = Path(path)
    text = read_text(path, PromptError, MOST_BYTES)
    pieces = re.split(r"^# *(system|user) *$", text, flags=re.MULTILINE)
    parts = dict(zip(pieces[1::2], (piece.strip() for piece in pieces[2::2]), strict=True))
    if pieces[0].strip() or set(parts) != {"system", "user"} or len(pieces) != 5:
        raise PromptError(f"{path} needs just two parts, under the headings '# system', '# user'")
    if not all(parts.values()):
        raise PromptError(f"{path}: a part is empty")
    used = set(_PLACEHOLDER.findall(text))
    if unknown := sorted(used - set(placeholders)):
        raise PromptError(
            f"{path}: nothing fills in {listed(f'{{{name}}}' for name in unknown)}; known are "
            f"{', '.join(f'{{{name}}}' for name in placeholders)}"
        )
    if "instruction" not in _PLACEHOLDER.findall(parts["user"]):
        raise PromptError(f"{path}: the user's part needs {{instruction}}")
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Prompt(path.name, version, parts["system"], parts["user"])
