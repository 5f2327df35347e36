"""What a grid's episodes say: a table of cells, and a verdict on each claim."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vla.evaluation.benchmark import wilson_interval
from vla.evaluation.comparison_statistics import at_floor, holm, paired_bootstrap, verdict
from vla.evaluation.episode_files import EpisodeLine
from vla.evaluation.errors import GridError
from vla.evaluation.grid import Cell, Claim, Grid, chosen, plain

CHAIN_LENGTH = 5.0  # the most that the metric "length" can be
Lines = dict[str, list[EpisodeLine]]  # by the name of the cell


def require_same_scenes(lines: Lines) -> None:
    """Raises GridError where one episode began with another observation in another cell."""
    first: dict[tuple, tuple[str, str]] = {}
    for name, own in lines.items():
        for line in own:
            cell, digest = first.setdefault(line.scene, (name, line.digest))
            if digest != line.digest:
                raise GridError(
                    f"episode {line.task} {line.seed} begins with another observation in cell "
                    f"{name} ({line.digest}) than in {cell} ({digest}): they can't be compared; "
                    "run both on one machine with one version of the simulator"
                )


def report(grid: Grid, cells: list[Cell], lines: Lines, where: str) -> dict[str, Any]:
    """Cells with their Wilson intervals, and claims, ready for JSON. where: the grid's file.

    Raises GridError where first observations disagree, or a benchmark has no chains to measure.
    """
    require_same_scenes(lines)
    compared = [_compare(c, cells, lines, f"{where}: claim {c.name}") for c in grid.claims]
    known = [entry for entry in compared if "p_value" in entry]
    # All claims of the grid are one family, those that wait for episodes too.
    waiting = [1.0] * (len(compared) - len(known))
    corrected = holm([entry["p_value"] for entry in known] + waiting)
    for entry, p_value in zip(known, corrected, strict=False):
        entry["p_holm"] = p_value
        entry["verdict"], entry["reason"] = verdict(
            entry.pop("_difference"), p_value, entry["seeds"], entry.pop("_floor"), entry["margin"]
        )
    return {
        "grid": where,
        "evaluations": {name: plain(entry) for name, entry in grid.evaluations.items()},
        "cells": [_cell(cell, lines.get(cell.name, [])) for cell in cells],
        "claims": compared,
    }


def _cell(cell: Cell, lines: list[EpisodeLine]) -> dict[str, Any]:
    successes = sum(line.success for line in lines)
    low, high = wilson_interval(successes, len(lines))
    lengths = [line.length for line in lines if line.length is not None]
    return {
        "name": cell.name,
        **cell.kind,
        "training_seed": cell.training.seed,
        "frames": cell.training.frames,
        "checkpoint_id": lines[0].checkpoint_id if lines else "",
        "episodes": len(lines),
        "success": successes / len(lines) if lines else None,
        "success_low": low,
        "success_high": high,
        "length": float(np.mean(lengths)) if lengths else None,
        "failures": dict(Counter(line.failure for line in lines if line.failure).most_common()),
    }


def _compare(claim: Claim, cells: list[Cell], lines: Lines, where: str) -> dict[str, Any]:
    """A claim's figures; without those where there are no episodes of both kinds yet."""
    margin = claim.equal_within or None
    entry: dict[str, Any] = {
        "name": claim.name,
        "metric": claim.metric,
        "first": claim.first,
        "second": claim.second,
        "margin": margin,
        "paper": claim.paper,
        "source": claim.source,
        "verdict": "undecided",
        "reason": "there are no episodes of both yet",
    }
    kinds = [chosen(cells, selector, where) for selector in (claim.first, claim.second)]
    by_seed = [
        {c.training.seed: _values(lines.get(c.name, []), claim.metric, where) for c in kind}
        for kind in kinds
    ]
    seeds = sorted(s for s in by_seed[0] if by_seed[0][s] and by_seed[1].get(s))
    tables = [[found[seed] for seed in seeds] for found in by_seed]
    known = [set(values) for table in tables for values in table]
    scenes = sorted(set.intersection(*known)) if known else []
    if not scenes:
        return entry
    first, second = (
        np.array([[values[scene] for scene in scenes] for values in table]) for table in tables
    )
    found = paired_bootstrap(first, second, margin or 0.0)
    best = CHAIN_LENGTH if claim.metric == "length" else 1.0
    return entry | {
        "seeds": len(seeds),
        "episodes": len(scenes),
        "first_mean": float(first.mean()),
        "second_mean": float(second.mean()),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "detectable": found.detectable,
        "p_value": found.p_equal if margin else found.p_value,
        "_difference": found,
        "_floor": at_floor(first, second, best),
    }


def _values(lines: list[EpisodeLine], metric: str, where: str) -> dict[tuple, float]:
    """The metric of each episode by its scene."""
    if metric == "success":
        return {line.scene: float(line.success) for line in lines}
    values: dict[tuple, float] = {}
    for line in lines:
        if line.length is None:
            raise GridError(f"{where}: benchmark '{line.suite}' has no chains; take metric success")
        values[line.scene] = line.length
    return values


def table(content: dict[str, Any]) -> str:
    """A report as text."""
    width = max([4, *(len(cell["name"]) for cell in content["cells"])])
    text = [f"{'cell':<{width}}  episodes  success  95% interval   length    frames"]
    for cell in content["cells"]:
        share, length = cell["success"], cell["length"]
        shown = "-" if share is None else f"{share:.0%}"
        interval = f"{cell['success_low']:.0%} to {cell['success_high']:.0%}"
        text.append(
            f"{cell['name']:<{width}}  {cell['episodes']:>8}  {shown:>7}  {interval:<12}  "
            f"{'-' if length is None else f'{length:.2f}':>7}  {cell['frames']:>8}"
        )
    for claim in content["claims"]:
        text.append(f"\n{claim['name']} ({claim['metric']}): {claim['verdict']}, {claim['reason']}")
        if "difference" in claim:
            paper = "" if claim["paper"] is None else f"; the paper has {claim['paper']:+g}"
            source = f" ({claim['source']})" if paper and claim["source"] else ""
            text.append(
                f"  {claim['difference']:+.3g}, {claim['low']:+.3g} to {claim['high']:+.3g}, on "
                f"{claim['seeds']} trainings of each and {claim['episodes']} episodes; "
                f"detectable {claim['detectable']:.2g}; p {claim['p_holm']:.2g}{paper}{source}"
            )
    return "\n".join(text)


def report_files(output: Path) -> tuple[Path, Path]:
    """Where a report lies: as JSON, and as text."""
    return output / "report.json", output / "report.txt"
