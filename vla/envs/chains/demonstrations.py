"""Demonstrations of chains: every task of a chain, in the scene that those before it have left."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.envs.base import Episode
from vla.envs.chains.chains import draw_chain
from vla.envs.chains.environment import ChainEnv
from vla.envs.tabletop.demonstrations import (
    DemonstrationConfig,
    ShardFrames,
    demonstrate_task,
    fill_shard,
)
from vla.envs.tabletop.tasks import FIRST_TRAINING_SEED


@dataclass(frozen=True)
class ChainDemonstrationConfig(DemonstrationConfig):
    """How demonstrations of chains are made; `episodes` counts chains, of up to five tasks each."""

    episodes: int = 1000
    # None of the shipped chains has a seed from there on.
    seed: int = FIRST_TRAINING_SEED
    shares: dict[str, float] = field(default_factory=lambda: {"chain": 1.0})
    episodes_per_shard: int = 25


def make_chain_shard(
    arguments: tuple[int, str, EmbodimentContract, ChainDemonstrationConfig],
) -> int:
    """Makes one shard, unless it is there; returns in how many chains the expert failed."""
    index, folder, contract, config = arguments
    target = Path(folder) / f"shard-{index:05d}"
    if target.exists():
        return 0

    def one_chain(
        environment: ChainEnv, episode: Episode, frames: ShardFrames, generator: np.random.Generator
    ) -> bool:
        chain = draw_chain(episode.seed, environment.simulator)
        environment.reset(options={"chain": chain})
        while demonstrate_task(environment, frames, config, generator):
            if not environment.begin_next():
                return True
        return False

    return fill_shard(index, target, contract, config, one_chain, ChainEnv)
