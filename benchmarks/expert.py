"""Success of the scripted expert, through the arm controller, on many seeds of every task family.

python benchmarks/expert.py --seeds 0:200 --json output/expert.json
python benchmarks/expert.py --benchmark chains --seeds 0:120 --delay-steps 2 --time-limit 20
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import gymnasium
from tqdm import tqdm

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.envs.base import Suite
from vla.envs.registry import make_suite
from vla.envs.rollout import run_episode
from vla.envs.tabletop.expert_policy import ExpertPolicy
from vla.evaluation.benchmark import EpisodeResult, flat, pooled_summaries, summarize, table


@functools.cache
def suite(benchmark: str, delay_steps: int, time_limit: float) -> Suite:
    """The benchmark without cameras, which the expert does not need."""
    contract = load_contract(contract_path("sim_panda"))
    made = make_suite(benchmark, delay_steps=delay_steps, time_limit=time_limit)
    return made.for_contract(replace(contract, cameras=()))


@functools.lru_cache(maxsize=1)
def environment(benchmark: str, family: str, delay_steps: int, time_limit: float) -> gymnasium.Env:
    """One environment per process."""
    return suite(benchmark, delay_steps, time_limit).make(family)


def run_seed(job: tuple[str, str, int, float, int]) -> EpisodeResult:
    """One episode: benchmark, family, delay of chunks [steps], time limit [s], seed."""
    benchmark, family, delay_steps, time_limit, seed = job
    at = suite(benchmark, delay_steps, time_limit)
    table_top = environment(benchmark, family, delay_steps, time_limit)
    (episode,) = at.episodes(family, range(seed, seed + 1))
    rollout = run_episode(table_top, ExpertPolicy(table_top), episode)
    return EpisodeResult(
        family,
        seed,
        rollout.instruction,
        "",
        rollout.success,
        rollout.seconds,
        at.figures(rollout.info, None),
        failure=rollout.failure,
        digest=rollout.digest,
    )


def main() -> None:
    """Runs all episodes, prints a table and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:200", metavar="A:B", help="seeds A to B-1 (0:200)")
    parser.add_argument("--delay-steps", type=int, default=0, help="steps until a chunk arrives")
    parser.add_argument("--benchmark", default="tabletop", help="such as chains, atomic (tabletop)")
    parser.add_argument("--time-limit", type=float, default=15.0, help="of a task [s] (15)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--json", type=Path, default=Path("output/expert.json"), help="results")
    parser.add_argument("--families", nargs="+", help="(those of the benchmark)")
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.seeds.split(":"))
    settings = arguments.delay_steps, arguments.time_limit
    chosen = suite(arguments.benchmark, *settings)
    families = arguments.families or chosen.families
    chosen.require_families(families)
    jobs = [
        (arguments.benchmark, family, *settings, seed)
        for family in families
        for seed in range(first, last)
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        results = list(tqdm(pool.imap(run_seed, jobs), total=len(jobs), unit="episode"))
    summaries = summarize(results)
    shown = pooled_summaries(results, chosen.pooled) or summaries
    print(table(shown, chosen.counted_figures))
    report = {
        "benchmark": arguments.benchmark,
        "delay_steps": arguments.delay_steps,
        "summary": [flat(entry) for entry in summaries],
        "episodes": [flat(result) for result in results],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
