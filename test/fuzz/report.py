"""What fuzzing found: one line for each case that went wrong, and the figures of each target."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# A person waits no longer for an error [s]; and this long, at most, for a call that hangs.
LONGEST = 5.0
GIVEN_UP = 30.0
# No error text is longer: it stands on one line of a log.
LONGEST_TEXT = 1000


class HungError(BaseException):
    """A call that did not come back; no `except Exception` may swallow it."""


@dataclass(frozen=True)
class Finding:
    """One case that went wrong.

    kind: "foreign_exception", "too_slow", "nonsense_accepted", "bad_text", "data_lost",
    "limit_passed", "moved_by_foreign_input", "held_too_long", "node_died" or "not_recovered".
    """

    target: str
    case: str
    kind: str
    detail: str


@dataclass
class Target:
    """cases: run. refused: of them, with an error of ours. slowest: of all [s]."""

    name: str
    cases: int = 0
    refused: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """Of one run. folder: scratch, made by the caller."""

    folder: Path
    targets: dict[str, Target] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def target(self, name: str) -> Target:
        """The figures of a target, made at the first call."""
        return self.targets.setdefault(name, Target(name))

    def add(self, target: str, case: str, kind: str, detail: object) -> None:
        """Notes what went wrong."""
        self.findings.append(Finding(target, case, kind, str(detail)[:600]))

    def try_case(
        self,
        target: str,
        case: str,
        call: Callable[[], Any],
        wrong: Callable[[Any], str | None] = lambda result: None,
    ) -> Any:
        """Runs one case; returns the call's result, None where it raised.

        An error of ours is one whose class is defined in this project. wrong: what about a result
        is nonsense, None for a sound one.
        """
        figures = self.target(target)
        figures.cases += 1
        began, computed = time.monotonic(), time.process_time()
        result = None
        try:
            with _given_up_after(GIVEN_UP):
                result = call()
                problem = wrong(result)
            if problem:
                self.add(target, case, "nonsense_accepted", problem)
        except HungError:
            pass
        except Exception as error:
            figures.refused += 1
            if not type(error).__module__.startswith(("vla.", "vla_nodes.")):
                self.add(target, case, "foreign_exception", repr(error))
            elif problem := _text_problem(str(error)):
                self.add(target, case, "bad_text", f"{problem}: {str(error)[:200]!r}")
        waited, seconds = time.monotonic() - began, time.process_time() - computed
        figures.slowest = max(figures.slowest, seconds)
        figures.seconds += seconds
        # By the time that it computed, since other processes may have the cores. What only waits is
        # given up, also where the call took the interruption for an error of its own.
        if seconds > LONGEST or waited >= GIVEN_UP:
            self.add(target, case, "too_slow", f"{seconds:.1f} s of {waited:.1f}")
        return result

    def counts(self) -> dict[str, int]:
        """Findings by kind."""
        kinds = [finding.kind for finding in self.findings]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def write(self, path: Path, **more: Any) -> None:
        """Writes all of it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        value = more | {
            "findings_by_kind": self.counts(),
            "targets": [asdict(target) for target in self.targets.values()],
            "findings": [asdict(finding) for finding in self.findings],
        }
        path.write_text(json.dumps(value, indent=1) + "\n")


def _text_problem(text: str) -> str | None:
    """What is wrong with an error text."""
    if len(text) > LONGEST_TEXT:
        return f"{len(text)} characters"
    if any(ord(letter) < 32 and letter != "\n" for letter in text):
        return "control characters"
    return None if text.strip() else "no text"


@contextmanager
def _given_up_after(seconds: float) -> Iterator[None]:
    """Raises HungError in the main thread when the block takes longer."""

    def give_up(*_: object) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
