"""What a model starts from: what was loaded, what stays random, and what was left over.

Everything that loads weights from elsewhere says so in these words, and refuses what nobody
expected: a training run by its entries allow_missing and allow_unexpected, `vla convert` by its
options of these names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from vla.core.shown import first_few
from vla.core.text import one_line
from vla.policies.config import CheckpointError
from vla.policies.lora import is_lora_weight

Sizes = Mapping[str, int]  # parameters of weights by name
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Allowed:
    """What a start may lack or leave over: patterns of names, each for all that is below, too."""

    missing: tuple[str, ...] = ()  # weights of the model that may stay random
    unexpected: tuple[str, ...] = ()  # weights of a source that may be left over


@dataclass(frozen=True)
class Loaded:
    """What one source gave a model."""

    source: str  # as it is shown
    taken: Sizes  # the model's weights that it filled
    left_over: Sizes = field(default_factory=dict)  # its weights that the model has no place for
    unread: Sizes = field(default_factory=dict)  # those of which that is known

    def text(self) -> str:
        """What was loaded and left over, by part."""
        lines = [self.source, *_lines("loaded", self.taken)]
        lines += _lines("left over, since nothing reads them", self.unread, names=True)
        lines += _lines("left over", self.left_over, names=True)
        return "\n".join(lines)


def random_text(random: Sizes) -> str:
    """The weights that stay random, by part; "" without any."""
    return "\n".join(_lines("stays random", random, names=True))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name, or a path that leads to it, fits one of the patterns, with * for anything."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)


def split_unread(weights: Sizes, unread: tuple[str, ...]) -> tuple[dict[str, int], dict[str, int]]:
    """Left-over weights, and those of them that are unread: whose names begin with one of these."""
    known = {name: size for name, size in weights.items() if name.startswith(unread)}
    return {name: size for name, size in weights.items() if name not in known}, known


def require_fit(
    what: str,
    missing: Iterable[str],
    left_over: Iterable[str],
    odd: Iterable[str] = (),
    allowed: Allowed | None = None,
) -> None:
    """Raises CheckpointError where weights are missing, left over or of another shape.

    what: that the weights do not fit. odd: names of weights, with both shapes.
    """
    allowed = allowed or Allowed()
    lists = (
        ("missing", [n for n in missing if not matches(n, allowed.missing)], "allow_missing"),
        ("left over", [n for n in left_over if not matches(n, allowed.unexpected)],
         "allow_unexpected"),
        ("of another shape", list(odd), ""),
    )  # fmt: skip
    complaints, options = [], []
    for kind, names, option in lists:
        if found := {one_line(name, 200) for name in names}:
            complaints.append(f"{kind} {first_few(sorted(found), 4, 200)}")
            options += [option] if option else []
    if complaints:
        cure = f"; if that is meant, name them in {' and '.join(options)}" if options else ""
        raise CheckpointError(f"the weights do not fit {what}: {'; '.join(complaints)}{cure}")


def _lines(title: str, weights: Sizes, names: bool = False) -> list[str]:
    """A line with the total, and one for each part where there are several."""
    if not weights:
        return []
    parts: dict[str, list[str]] = {}
    for name in weights:
        parts.setdefault(_part(name), []).append(name)
    lines = [f"  {title}: {_total(weights.values())}"]
    for part, members in sorted(parts.items()):
        some = f": {first_few(sorted(members), SHOWN_NAMES)}" if names else ""
        lines.append(f"    {part}: {_total(weights[name] for name in members)}{some}")
    return lines


def _total(sizes: Iterable[int]) -> str:
    sizes = list(sizes)
    tensors = f"{len(sizes):,} tensor{'s' * (len(sizes) != 1)}"
    # Of what a library passes over, the size may not be known.
    return f"{tensors}, {sum(sizes):,} parameters" if sum(sizes) else tensors


def _part(name: str) -> str:
    """The first two steps of a weight's path, which is what a pattern may name."""
    steps = [step for step in name.split(".") if not step.isdigit()]
    path = ".".join(steps[: min(2, max(1, len(steps) - 1))])
    return f"{path}, LoRA" if is_lora_weight(name) else path
