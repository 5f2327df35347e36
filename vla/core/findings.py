"""What a check found, one finding per item, and the report on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vla.core.text import LONGEST_LINE, one_line

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    area: str
    message: str
    level: str = OK  # OK, WARNING or PROBLEM
    cure: str = ""  # what to do, "" if OK


def fine(area: str, message: str) -> Finding:
    """A finding that all is well."""
    return Finding(area, message)


def warning(area: str, message: str, cure: str) -> Finding:
    """A finding that may be intended."""
    return Finding(area, message, WARNING, cure)


def problem(area: str, message: str, cure: str) -> Finding:
    """A finding that must be fixed before anything moves, or is trained on."""
    return Finding(area, message, PROBLEM, cure)


def verdict(findings: Sequence[Finding]) -> dict:
    """Everything for programs: whether it is ready, the counts, and the findings in order."""
    problems = sum(finding.level == PROBLEM for finding in findings)
    return {
        "ready": problems == 0,
        "problems": problems,
        "warnings": sum(finding.level == WARNING for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def report(findings: Sequence[Finding]) -> str:
    """The findings as text, by area, with a line for each cure."""
    marks = {OK: "  ok     ", WARNING: "  WARNING", PROBLEM: "  PROBLEM"}
    lines = []
    for area in dict.fromkeys(finding.area for finding in findings):
        lines.append(area)
        for finding in (f for f in findings if f.area == area):
            lines.append(f"{marks[finding.level]} {one_line(finding.message, LONGEST_LINE)}")
            if finding.cure:
                lines.append(f"            -> {one_line(finding.cure, LONGEST_LINE)}")
    counts = verdict(findings)
    lines.append(
        f"{'ready' if counts['ready'] else 'not ready'}: {counts['problems']} problems, "
        f"{counts['warnings']} warnings, {len(findings)} checks"
    )
    return "\n".join(lines)
