"""Demonstrations of MetaWorld's tasks by its own scripted policies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.frames import DatasetError, EpisodeWords, write_shard
from vla.datasets.lerobot.dataset import chunk_with_padding
from vla.envs.base import EnvironmentFailure
from vla.envs.metaworld.environment import MetaWorldEnv
from vla.envs.metaworld.suite import MOST_STEPS, MetaWorldSuite
from vla.envs.metaworld.tasks import INSTRUCTIONS
from vla.envs.tabletop.demonstrations import ShardFrames
from vla.envs.tabletop.tasks import FIRST_TRAINING_SEED

# Seeds that belong to each shard; those of failures are passed over.
SEEDS_OF_SHARD = 1000


@dataclass(frozen=True)
class MetaWorldDemonstrationConfig:
    """How demonstrations are made."""

    episodes: int = 50  # of each task
    tasks: tuple[str, ...] = ()  # or groups of them; () for all fifty
    seed: int = FIRST_TRAINING_SEED  # of the first scene of each task
    frame_stride: int = 5  # steps between two frames
    tail_steps: int = 15  # recorded after success, so that the last chunks show a motion to its end
    episodes_per_shard: int = 25
    python: str = ""  # of MetaWorld's environment, see vla.envs.worker.process


def make_shard(
    arguments: tuple[str, int, str, EmbodimentContract, MetaWorldDemonstrationConfig],
) -> int:
    """Makes one shard of a task, unless it is there; returns how many episodes failed.

    arguments: the task, the shard's number in it, its folder, contract and configuration. Raises
    DatasetError where the scripted policy fails more often than not, or MetaWorld itself does.
    """
    task, number, folder, contract, config = arguments
    target = Path(folder)
    if target.exists():
        return 0
    suite = MetaWorldSuite(
        privileged="object_x" in contract.state_names, steps=MOST_STEPS, python=config.python
    )
    environment = suite.for_contract(contract).environment(task)
    first = config.seed + number * SEEDS_OF_SHARD
    wanted = min(config.episodes_per_shard, config.episodes - number * config.episodes_per_shard)
    frames, failures = ShardFrames(), 0
    try:
        while len(frames.episodes) < wanted:
            seed = first + len(frames.episodes) + failures
            if not demonstrate(environment, task, seed, frames, config):
                failures += 1
            if failures > wanted:
                raise DatasetError(
                    f"MetaWorld's scripted policy failed in {failures} of "
                    f"{failures + len(frames.episodes)} episodes of {task}: leave the task out"
                )
    except EnvironmentFailure as failure:
        raise DatasetError(
            f"{target}: {failure}; the same command goes on from the shards that are there"
        ) from failure
    finally:
        environment.close()
    write_shard(target, frames.to_shard(), contract)
    return failures


def demonstrate(
    environment: MetaWorldEnv,
    task: str,
    seed: int,
    frames: ShardFrames,
    config: MetaWorldDemonstrationConfig,
) -> bool:
    """Adds frames of an episode, each with the actions that followed; False if it failed."""
    contract, stride = environment.contract, config.frame_stride
    observation, _ = environment.reset(options={"seed": seed})
    seen: list[tuple[int, dict[str, Any]]] = []
    actions: list[np.ndarray] = []
    truncated, after = False, 0  # steps since success, itself the first
    while not truncated and after <= config.tail_steps:
        if (len(actions) - seed) % stride == 0:
            seen.append((len(actions), environment.seen(observation)))
        actions.append(environment.expert_action())
        observation, _, _, truncated, info = environment.step(actions[-1])
        after += bool(after or info["success"])
    if not after:
        return False
    taken = np.array(actions, dtype=np.float32)
    for step, frame in seen:
        for name, image in frame["images"].items():
            frames.images.setdefault(name, []).append(image)
        frames.state.append(frame["state"])
        frames.action.append(chunk_with_padding(taken, step, contract))
        frames.episode.append(len(frames.episodes))
        frames.time.append(step * contract.time_step)
        # Of the table top, which this is not.
        frames.drawer_opening.append(0.0)
        frames.held.append("")
    frames.episodes.append(EpisodeWords(task, INSTRUCTIONS[task], "", {}))
    return True
