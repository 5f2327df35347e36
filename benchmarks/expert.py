"""Success of the scripted expert, through the arm controller, on many seeds of every task family.

python benchmarks/expert.py --seeds 0:200 --json output/expert.json
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.envs.base import Episode
from vla.envs.rollout import run_episode
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.envs.tabletop.tasks import ALL_FAMILIES, FAMILIES
from vla.evaluation.benchmark import EpisodeResult, flat, summarize, table


@functools.cache
def table_top(delay_steps: int) -> TableTopEnv:
    """One environment per process, without cameras, which the expert does not need."""
    contract = load_contract(contract_path("sim_panda"))
    return TableTopEnv(replace(contract, cameras=()), delay_steps=delay_steps, time_limit=15.0)


def run_seed(job: tuple[str, int, int]) -> EpisodeResult:
    """One episode: family, seed, policy steps between an observation and its chunk."""
    family, seed, delay_steps = job
    environment = table_top(delay_steps)
    episode = Episode(family, seed, {"family": family})
    rollout = run_episode(environment, ExpertPolicy(environment), episode)
    figures = {"wrong_object": rollout.info["wrong_object"]}
    return EpisodeResult(
        family, seed, rollout.instruction, "", rollout.success, rollout.seconds, figures
    )


def main() -> None:
    """Runs all episodes, prints a table and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:200", metavar="A:B", help="seeds A to B-1 (0:200)")
    parser.add_argument("--delay-steps", type=int, default=0, help="steps until a chunk arrives")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--json", type=Path, default=Path("output/expert.json"), help="results")
    parser.add_argument(
        "--families",
        nargs="+",
        default=FAMILIES,
        choices=ALL_FAMILIES,
        help="(those that the shipped policy knows)",
    )
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.seeds.split(":"))
    jobs = [
        (family, seed, arguments.delay_steps)
        for family in arguments.families
        for seed in range(first, last)
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        results = list(tqdm(pool.imap(run_seed, jobs), total=len(jobs), unit="episode"))
    summaries = summarize(results)
    print(table(summaries))
    report = {
        "delay_steps": arguments.delay_steps,
        "summary": [flat(entry) for entry in summaries],
        "episodes": [flat(result) for result in results],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
