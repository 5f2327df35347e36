"""Corrections: the policy drives, and the scripted expert says what it should have done.

A policy that is trained on the expert's states alone meets others as soon as it errs. Labelling
those that it meets mends that (DAgger; Ross et al., 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.frames import EpisodeWords
from vla.envs.tabletop.demonstrations import Frames, fill_shard, object_places, record, run_jobs
from vla.envs.tabletop.expert import plan_chunk
from vla.envs.tabletop.rollout import ChunkPolicy, run_episode
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import Task


@dataclass(frozen=True)
class CorrectionConfig:
    """Episodes that the policy drives.

    after_steps: of the training, whose averaged weights then drive `episodes` each time; empty for
    no corrections. seed: of the first scene; each time goes on from the last one's scenes. shares:
    of each task family. expert_share: of chunks that are the expert's all the same, drawn anew for
    each episode from 0 to this, so that later parts of a task are seen before the policy masters
    the earlier ones. weight: of each of their frames, next to a demonstration's.
    time_limit: of an episode [s].
    """

    after_steps: tuple[int, ...] = ()
    episodes: int = 400
    seed: int = 2_000_000
    shares: dict[str, float] = field(
        default_factory=lambda: {
            "pick": 0.4, "place": 0.5, "open_drawer": 0.05, "close_drawer": 0.05
        }
    )  # fmt: skip
    expert_share: float = 0.6
    weight: float = 2.0
    time_limit: float = 12.0
    episodes_per_shard: int = 50


def labelling(
    policy: ChunkPolicy,
    frames: Frames,
    contract: EmbodimentContract,
    expert_share: float,
    generator: np.random.Generator,
) -> ChunkPolicy:
    """The policy, with each state that it is asked about recorded under the expert's chunk.

    expert_share: chance that the expert's chunk is executed instead.
    """

    def drive(simulator: TableTopSimulator, task: Task) -> np.ndarray:
        label = plan_chunk(simulator, task, contract.horizon)
        record(frames, simulator, contract, label)
        return label if generator.random() < expert_share else policy(simulator, task)

    return drive


def make_correction_shard(
    arguments: tuple[int, str, str, EmbodimentContract, CorrectionConfig],
) -> int:
    """Makes one shard, unless it is there, and returns in how many episodes the policy failed."""
    index, folder, checkpoint, contract, config = arguments
    target = Path(folder) / f"shard-{index:05d}"
    if target.exists():
        return 0
    import torch

    from vla.envs.tabletop.driving import learned_policy
    from vla.policies.instructvla.inference import ActionModel, Reasoner

    torch.set_num_threads(1)
    reasoner = Reasoner.from_pretrained(checkpoint)
    action_model = ActionModel.from_pretrained(checkpoint)

    def one_episode(simulator, controller, task, frames, generator, seed) -> bool:
        objects = object_places(simulator)
        share = generator.uniform(0.0, config.expert_share)
        policy = learned_policy(reasoner, action_model, None, 1, seed)
        driving = labelling(policy, frames, contract, share, generator)
        result = run_episode(simulator, controller, driving, task, config.time_limit, delay_steps=2)
        words = EpisodeWords(task.family, task.instruction, task.answer(), objects)
        frames.episodes.append(words)
        return result.success

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
