r"""Instructions of every kind, with and without thinking, for several checkpoints: one table.

python benchmarks/wordings.py --checkpoints "stage 1=runs/nano_action/checkpoint" \
    "stage 2=runs/nano_instruct/checkpoint" --seeds 0:25 --json output/wordings.json

Each cell runs the same scenes: episodes of every family on unseen seeds, in instructions of one
kind, in sentences that training never has. Cells are shared among processes of one thread each, so
that the result does not depend on how many there are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from vla.envs.base import SuiteError
from vla.envs.tabletop.suite import TableTop
from vla.envs.tabletop.tasks import FAMILIES
from vla.envs.tabletop.wording import WORDINGS
from vla.evaluation.benchmark import EpisodeResult, evaluate, flat, wilson_interval
from vla.policies.checkpoint import open_checkpoint
from vla.policies.policy import Policy


@dataclass(frozen=True)
class Job:
    """Episodes of one family in one wording, by one checkpoint, thinking or not."""

    name: str
    folder: str
    think: bool
    wording: str
    family: str
    first: int
    last: int
    time_limit: float

    @property
    def column(self) -> str:
        """The column of the table that it belongs to."""
        return f"{self.name}, thinking" if self.think else self.name


def run(job: Job) -> list[EpisodeResult]:
    """The job's episodes; none where the family has no instruction of that wording."""
    torch.set_num_threads(1)
    suite = TableTop(wording=job.wording, time_limit=job.time_limit)
    policy = Policy.from_pretrained(job.folder)
    try:
        return evaluate(policy, suite, [job.family], range(job.first, job.last), job.think)
    except SuiteError:
        return []


def markdown(cells: dict[tuple[str, str], list[EpisodeResult]], columns: list[str]) -> str:
    """Successes and episodes, wordings down and checkpoints across."""
    lines = [f"| instruction | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for wording in WORDINGS:
        row = [wording]
        for column in columns:
            results = cells.get((column, wording), [])
            if not results:
                row.append("-")
                continue
            right = sum(result.success for result in results)
            low, high = wilson_interval(right, len(results))
            row.append(f"{right / len(results):.0%} ({low:.0%} to {high:.0%}, n={len(results)})")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs all cells, prints the table, writes every episode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoints", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--wordings", nargs="+", default=WORDINGS, choices=WORDINGS, help="(all)")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES, help="(all)")
    parser.add_argument("--seeds", default="0:25", metavar="FIRST:LAST", help="(0:25)")
    parser.add_argument("--time-limit", type=float, default=20.0, help="of an episode [s] (20)")
    parser.add_argument("--without-thinking", action="store_true", help="leave those columns out")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="(one per core)")
    parser.add_argument("--json", type=Path, default=Path("output/wordings.json"), help="results")
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split(":"))
    named = dict(entry.split("=", 1) for entry in arguments.checkpoints)
    jobs = [
        Job(name, folder, think, wording, family, first, last, arguments.time_limit)
        for name, folder in named.items()
        for think in ((False,) if arguments.without_thinking else (False, True))
        for wording in arguments.wordings
        for family in arguments.families
    ]
    cells: dict[tuple[str, str], list[EpisodeResult]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, spawn) as pool:
        waiting = {pool.submit(run, job): job for job in jobs}
        for done in tqdm(as_completed(waiting), total=len(jobs), unit="cell"):
            job = waiting[done]
            cells.setdefault((job.column, job.wording), []).extend(done.result())
    columns = list(dict.fromkeys(job.column for job in jobs))
    print(markdown(cells, columns))
    report = {
        "checkpoint_ids": {n: open_checkpoint(f).checkpoint_id for n, f in named.items()},
        "seeds": arguments.seeds,
        "cells": [
            {"column": column, "wording": wording, "episodes": [flat(r) for r in results]}
            for (column, wording), results in cells.items()
        ],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
