"""Chains as a source of training data: shards of demonstrations, as those of single tasks."""

from __future__ import annotations

from functools import partial

from vla.datasets.sources import RobotData
from vla.envs.chains.demonstrations import ChainDemonstrationConfig, make_chain_shard
from vla.envs.tabletop.demonstrations import make_demonstrations
from vla.envs.tabletop.sources import SimulatedSource


class ChainSource(SimulatedSource):
    """Shards of chains by the scripted expert; each task is an episode."""

    name = "chains"
    options = ChainDemonstrationConfig
    make_shards = staticmethod(partial(make_demonstrations, one_shard=make_chain_shard))
    former_entries = {}  # noqa: RUF012

    def correction_steps(self, entry: RobotData) -> tuple[int, ...]:
        """None: corrections are of single tasks."""
        return ()


CHAINS = ChainSource()
