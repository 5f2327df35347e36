"""Corrections: the policy drives, and the scripted expert says what it should have done.

A policy that is trained on the expert's states alone meets others as soon as it errs. Labelling
those that it meets fixes that (DAgger; Ross et al., 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.frames import EpisodeWords
from vla.envs.rollout import ActingPolicy, run_episode
from vla.envs.tabletop.demonstrations import (
    ShardFrames,
    fill_shard,
    object_places,
    record,
    run_jobs,
)
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.expert import plan_chunk


@dataclass(frozen=True)
class CorrectionConfig:
    """Episodes that the policy drives."""

    # Training steps after which the averaged weights drive `episodes` each time; empty for no
    # corrections.
    after_steps: tuple[int, ...] = ()
    episodes: int = 400
    seed: int = 2_000_000  # of the first scene; later rounds continue from there
    # Of each task family.
    shares: dict[str, float] = field(
        default_factory=lambda: {
            "pick": 0.4, "place": 0.5, "open_drawer": 0.05, "close_drawer": 0.05
        }
    )  # fmt: skip
    # Share of chunks that are the expert's all the same, drawn for each episode from 0 to this, so
    # that later parts of a task are seen before the policy masters the earlier ones.
    expert_share: float = 0.6
    # Time steps from an observation to its chunk, drawn for each episode. A robot's model takes
    # more or less than a step, and the sooner a chunk comes the less it is ahead of an arm that
    # pulls.
    delay_steps: tuple[int, ...] = (2,)
    weight: float = 2.0  # of each of their frames, next to a demonstration's
    time_limit: float = 12.0  # of an episode [s]
    episodes_per_shard: int = 50


class LabelledPolicy(ActingPolicy):
    """A policy of which each state that it is asked about is recorded under the expert's chunk."""

    def __init__(
        self,
        policy: ActingPolicy,
        environment: TableTopEnv,
        frames: ShardFrames,
        expert_share: float,
        generator: np.random.Generator,
    ):
        """expert_share: chance that the expert's chunk is executed instead of the policy's."""
        self.policy, self.environment, self.frames = policy, environment, frames
        self.expert_share, self.generator = expert_share, generator
        self.contract = environment.contract
        self.said: str | None = None
        self.objects: dict[str, list[float]] = {}  # places when the episode began

    def reset(self, instruction: str, seed: int | None = None, think: bool = False) -> None:
        """An episode begins."""
        self.policy.reset(instruction, seed, think)
        self.objects = object_places(self.environment.simulator)

    def chunk(self, images: dict[str, np.ndarray], state: np.ndarray, time: float) -> np.ndarray:
        """Records the expert's chunk [H, A]; gives that or the policy's."""
        simulator = self.environment.simulator
        label = plan_chunk(simulator, self.environment.task, self.contract.horizon)
        record(self.frames, simulator, images, state, label)
        if self.generator.random() < self.expert_share:
            self.policy.observe(images, state, time)
            return label
        return self.policy.chunk(images, state, time)

    @property
    def window(self) -> int:
        """The policy's."""
        return self.policy.window

    def observe(self, images: dict[str, np.ndarray], state: np.ndarray, time: float) -> None:
        """The policy sees what happens between two chunks, whoever made them."""
        self.policy.observe(images, state, time)

    def is_due(self, time: float) -> bool:
        """Whether the policy would read it."""
        return self.policy.is_due(time)


def make_correction_shard(
    arguments: tuple[int, str, str, EmbodimentContract, CorrectionConfig],
) -> int:
    """Makes one shard, unless it is there, and returns in how many episodes the policy failed."""
    index, folder, checkpoint, contract, config = arguments
    target = Path(folder) / f"shard-{index:05d}"
    if target.exists():
        return 0
    import torch

    from vla.policies.policy import Policy

    torch.set_num_threads(1)
    policy = Policy.from_pretrained(checkpoint)

    def one_episode(environment, episode, frames, generator) -> bool:
        share = generator.uniform(0.0, config.expert_share)
        delays = config.delay_steps
        environment.delay_steps = delays[0] if len(delays) == 1 else int(generator.choice(delays))
        labelled = LabelledPolicy(policy, environment, frames, share, generator)
        rollout = run_episode(environment, labelled, episode)
        task = environment.task
        words = EpisodeWords(task.family, task.instruction, task.answer(), labelled.objects)
        frames.episodes.append(words)
        return rollout.success

    return fill_shard(index, target, contract, config, one_episode)


def make_corrections(
    folder: str | Path,
    checkpoint: str | Path,
    contract: EmbodimentContract,
    config: CorrectionConfig,
    workers: int | None = None,
    on_shard: Callable[[int, int], None] | None = None,
) -> int:
    """Makes all shards that are missing; returns in how many episodes the policy failed.

    on_shard(done, total) is called after each shard. Raises CheckpointError.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    total = -(-config.episodes // config.episodes_per_shard)
    jobs = [(index, str(folder), str(checkpoint), contract, config) for index in range(total)]
    return run_jobs(make_correction_shard, jobs, workers, on_shard)
