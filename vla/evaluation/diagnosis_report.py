"""What a diagnosis found, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vla.evaluation.diagnosis import (
    SEEDS_PER_CASE,
    ConditionResult,
    opposite_of,
    other_cases,
)
from vla.evaluation.direction_cases import CaseSet, DirectionCase
from vla.evaluation.language_following import (
    FollowingFigures,
    language_following,
)
from vla.evaluation.representations import Representations
from vla.policies.base import PolicyFeatures

# Figures as tables name them.
SHORT_NAMES = {
    "direction_alignment": "DAR",
    "direction_consistency": "DCS",
    "separability": "SR",
    "silhouette": "SS",
}
DEMONSTRATED = "demonstrated"


def demonstrated_figures(cases: Sequence[DirectionCase], seed: int) -> FollowingFigures:
    """The figures of the demonstrations themselves: what a policy that copies them reaches."""
    moved = np.array([case.demonstrated for case in cases])
    return language_following([case.direction for case in cases], moved, moved, seed)


def diagnosis_report(
    found: CaseSet,
    results: Sequence[ConditionResult],
    features: PolicyFeatures,
    named: dict[str, Any],
    steps: int,
    seed: int,
    representations: Representations | None = None,
) -> dict[str, Any]:
    """Everything that was measured, ready for JSON.

    named: what was diagnosed, and with which data. The displacements of every case are in it, so
    that its figures can be computed once more.
    """
    cases = found.cases
    others = other_cases(cases, seed)
    scenes = sum(bool(a.scene) and a.scene == b.scene for a, b in _pairs(cases))
    report = named | {
        "cases": len(cases),
        "pairs_of_one_scene": scenes,
        "left_out": found.left_out,
        "steps": steps,
        "seed": seed,
        "seeds_per_case": SEEDS_PER_CASE,
        "reads": {
            "images": bool(features.cameras),
            "state": features.uses_state,
            "words": features.reads_words,
        },
        DEMONSTRATED: asdict(demonstrated_figures(cases, seed)),
        "conditions": [_condition(result) for result in results],
        "case_list": [
            {
                "episode": case.episode,
                "frame": case.frame,
                "scene": case.scene,
                "instruction": case.instruction,
                "direction": case.direction,
                "opposite": opposite_of(number),
                "other": others[number],
                DEMONSTRATED: case.demonstrated.tolist(),
                "predicted": {
                    result.condition.name: result.paths[number, -1].tolist()
                    for result in results
                    if result.paths is not None
                },
            }
            for number, case in enumerate(cases)
        ],
    }
    if representations is not None:
        report["representations"] = asdict(representations) | {
            "points": representations.points.tolist()
        }
    return report


def _pairs(cases: Sequence[DirectionCase]) -> list[tuple[DirectionCase, DirectionCase]]:
    return list(zip(cases[::2], cases[1::2], strict=True))


def _condition(result: ConditionResult) -> dict[str, Any]:
    figures = None if result.figures is None else asdict(result.figures)
    entry = asdict(result.condition) | {"refused": result.refused, "unchanged": result.unchanged}
    return entry | {"figures": figures}


def diagnosis_table(report: dict[str, Any]) -> str:
    """The report's figures as text, one condition a line, then what to know of them."""
    cases = report["cases"]
    width = max(len(entry["name"]) for entry in report["conditions"])
    titles = "".join(f"  {short:<24}" for short in SHORT_NAMES.values())
    lines = [f"{'condition':<{width}}{titles}".rstrip()]
    rows = [(DEMONSTRATED, report[DEMONSTRATED])]
    rows += [(entry["name"], entry["figures"]) for entry in report["conditions"]]
    for name, figures in rows:
        if figures is not None:
            shown = "".join(f"  {_shown(figures[metric]):<24}" for metric in SHORT_NAMES)
            lines.append(f"{name:<{width}}{shown}".rstrip())
    for entry in report["conditions"]:
        if entry["refused"]:
            lines.append(f"{entry['name']}: refused by the policy: {entry['refused']}")
        elif entry["unchanged"] and entry["name"] != "paired":
            lines.append(
                f"{entry['name']}: in {entry['unchanged']} of {cases} cases the policy is given "
                "the same as when paired"
            )
    unread = [name for name, is_read in report["reads"].items() if not is_read]
    if unread:
        lines.append(f"the policy does not read: {', '.join(unread)}")
    for reason, count in report["left_out"].items():
        lines.append(f"left out: {count} with a direction: {reason}")
    if missing := report.get("representations", {}).get("missing"):
        lines.append(f"no picture of representations: {missing}")
    return "\n".join(lines)


def _shown(figure: dict[str, Any]) -> str:
    value, low, high = (
        None if figure[name] is None else _number(figure[name]) for name in ("value", "low", "high")
    )
    if value is None:
        return "-"
    return value if low is None else f"{value} ({low} to {high})"


def _number(value: float) -> str:
    """Two digits behind the point, and fewer of what is huge: SR has no bound."""
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:.0e}"
