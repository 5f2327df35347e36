"""MetaWorld's speed here, and the success of its scripted policies in the evaluation's episodes.

python benchmarks/metaworld.py --tasks reach push --seeds 0:10 --json output/metaworld.json
python benchmarks/metaworld.py --seeds 0:3 --images 0
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla.envs.metaworld.environment import MetaWorldEnv
from vla.envs.metaworld.suite import MetaWorldSuite
from vla.evaluation.benchmark import (
    EpisodeResult,
    flat,
    group_lines,
    group_means,
    summarize,
    table,
)


@dataclass(frozen=True)
class Speed:
    """What one task took, on the wall's clock."""

    task: str
    open_seconds: float  # from no process to the first observation with its image
    images_per_second: float  # of the contract's size, as policies get them
    steps_per_second: float  # of the physics, with the scripted policy


def measure_speed(suite: MetaWorldSuite, task: str, images: int) -> tuple[Speed, MetaWorldEnv]:
    """Opens a task and draws so many images of its first scene."""
    (episode,) = suite.episodes(task, range(1))
    began = time.perf_counter()
    environment = suite.environment(task)
    observation, _ = environment.reset(options=episode.options)
    environment.seen(observation)
    opened = time.perf_counter()
    for _ in range(images):
        environment.seen(observation)
    drawn = time.perf_counter()
    for _ in range(images):
        environment.step(environment.expert_action())
    stepped = time.perf_counter()
    speed = Speed(task, opened - began, images / (drawn - opened), images / (stepped - drawn))
    return speed, environment


def run_expert(suite: MetaWorldSuite, environment: MetaWorldEnv, seed: int) -> EpisodeResult:
    """One episode of the scripted policy, until success or the end."""
    task = environment.task
    (episode,) = suite.episodes(task, range(seed, seed + 1))
    _, info = environment.reset(options=episode.options)
    steps, truncated = 0, False
    while not (info["success"] or truncated):
        _, _, _, truncated, info = environment.step(environment.expert_action())
        steps += 1
    failure = "" if info["success"] else "time_limit"
    seconds = steps * suite.contract.time_step
    return EpisodeResult(
        task, seed, info["instruction"], "", info["success"], seconds, failure=failure
    )


def main() -> None:
    """Runs the tasks one after the other, prints tables and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=(), help="or groups of them (all fifty)")
    parser.add_argument("--seeds", default="0:10", metavar="A:B", help="episodes A to B-1 (0:10)")
    parser.add_argument("--images", type=int, default=50, help="images and steps to time (50)")
    parser.add_argument("--shadows", action="store_true", help="draw shadows and reflections")
    parser.add_argument("--python", default="", help="of MetaWorld's environment")
    parser.add_argument("--json", type=Path, default=Path("output/metaworld.json"), help="results")
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.seeds.split(":"))
    suite = MetaWorldSuite(shadows=arguments.shadows, python=arguments.python)
    speeds, results = [], []
    for task in tqdm(suite.chosen_families(arguments.tasks), unit="task"):
        speed, environment = measure_speed(suite, task, max(arguments.images, 1))
        speeds.append(speed)
        results += [run_expert(suite, environment, seed) for seed in range(first, last)]
        environment.close()
    summaries = summarize(results)
    print(table(summaries))
    means = group_means(summaries, suite.groups)
    if means is not None:
        print(group_lines(means))
    for name, unit in (
        ("open_seconds", "s to open a task"),
        ("images_per_second", "images a second"),
        ("steps_per_second", "steps a second"),
    ):
        values = [getattr(speed, name) for speed in speeds]
        print(f"{np.median(values):.1f} {unit} (median; {min(values):.1f} to {max(values):.1f})")
    report = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "shadows": arguments.shadows,
        "speeds": [asdict(speed) for speed in speeds],
        "summary": [flat(entry) for entry in summaries],
        "groups": asdict(means) if means is not None else None,
        "episodes": [flat(result) for result in results],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
