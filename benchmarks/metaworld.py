"""MetaWorld's speed here, and the success of its scripted policies in the evaluation's episodes.

python benchmarks/metaworld.py --tasks reach push --seeds 0:10 --json output/metaworld.json
python benchmarks/metaworld.py --seeds 0:3 --images 0
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla.envs.metaworld.environment import MetaWorldEnv
from vla.envs.metaworld.suite import MetaWorldSuite
from vla.evaluation.benchmark import (
    EpisodeResult,
    flat,
    group_line,
    group_means,
    summarize,
    table,
)


@dataclass(frozen=True)
class Speed:
    """What one task took, on the wall's clock and of its process's time on the cores."""

    task: str
    open_seconds: float  # from no process to the first observation with its image
    open_core_seconds: float
    images_per_second: float  # of the contract's size, as policies get them
    images_per_core_second: float
    steps_per_second: float  # of the physics, with the scripted policy
    steps_per_core_second: float


@dataclass(frozen=True)
class Moment:
    """A time on the wall's clock, and what a process has had of the cores by then [s]."""

    wall: float
    cores: float

    @classmethod
    def now(cls, process: int | None) -> Moment:
        """process: its number; None as long as there is none."""
        ticks = 0
        if process is not None:
            # The name in brackets may hold anything; user and system time are entries 14 and 15.
            entries = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks = int(entries[11]) + int(entries[12])
        return cls(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"))


def measure_speed(suite: MetaWorldSuite, task: str, images: int) -> tuple[Speed, MetaWorldEnv]:
    """Opens a task and draws so many images of its first scene."""
    (episode,) = suite.episodes(task, range(1))
    moments = [Moment.now(None)]
    environment = suite.environment(task)
    observation, _ = environment.reset(options=episode.options)
    environment.seen(observation)
    moments.append(Moment.now(environment.worker.pid))
    for _ in range(images):
        environment.seen(observation)
    moments.append(Moment.now(environment.worker.pid))
    for _ in range(images):
        environment.step(environment.expert_action())
    moments.append(Moment.now(environment.worker.pid))
    walls = np.diff([moment.wall for moment in moments])
    # No less than the unit in which the system counts.
    cores = np.maximum(np.diff([moment.cores for moment in moments]), 0.01)
    drawn, stepped = (images / seconds for seconds in np.stack([walls, cores])[:, 1:].T)
    speed = Speed(task, *map(float, (walls[0], cores[0], *drawn, *stepped)))
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
    for entry in means:
        print(group_line(entry))
    for field in fields(Speed)[1:]:
        values = [getattr(speed, field.name) for speed in speeds]
        name = field.name.replace("_", " ")
        print(f"{name}: median {np.median(values):.1f}, {min(values):.1f} to {max(values):.1f}")
    report = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "shadows": arguments.shadows,
        "speeds": [asdict(speed) for speed in speeds],
        "summary": [flat(entry) for entry in summaries],
        "groups": [asdict(entry) for entry in means],
        "episodes": [flat(result) for result in results],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
