"""Chains of five tasks as a benchmark, after CALVIN's long-horizon evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vla.envs.base import Episode, SuiteError
from vla.envs.chain_figures import LENGTH, chain_figures
from vla.envs.chains.chains import SHIPPED, read_chains
from vla.envs.chains.environment import ChainEnv
from vla.envs.tabletop.suite import TableTopSuite, require_split


@dataclass(frozen=True)
class Chains(TableTopSuite):
    """Five instructions in a row; the seeds are the numbers of the chains in the file."""

    split: str = "seen"  # or "unseen": another table, light, colours and front camera
    chains: str = ""  # file of chains; "" for the thousand that come with the package

    name = "chains"
    families = ("chain",)
    counted_figures = (LENGTH,)

    def __post_init__(self):
        require_split(self.split)
        if self.chains:
            read_chains(self.chains)

    def episodes(self, family: str, seeds: range) -> Iterator[Episode]:
        """The chains of those numbers. Raises SuiteError where the file has not so many."""
        chains = read_chains(self.chains or SHIPPED)
        if seeds.stop > len(chains):
            raise SuiteError(
                f"there are chains 0 to {len(chains) - 1}, not {seeds.stop - 1}: choose others "
                f"with --seeds, such as 0:{min(len(chains), 100)}"
            )
        for number in seeds:
            yield Episode(family, number, {"chain": chains[number], "split": self.split})

    def make(self, family: str, render_mode: str | None = None) -> ChainEnv:
        """The environment; one runs all chains."""
        return self.environment(ChainEnv, render_mode)

    def figures(self, info: dict[str, Any], said: str | None) -> dict[str, float | None]:
        """Whether as many tasks were done, first to fifth, and how many in all."""
        return chain_figures(info)


SUITE = Chains
