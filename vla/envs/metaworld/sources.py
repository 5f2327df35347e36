"""MetaWorld as a source of training data, made where it is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from vla.contract.embodiment import EmbodimentContract
from vla.core.findings import Finding, fine
from vla.datasets.frames import read_dataset
from vla.datasets.sample import RobotSample
from vla.datasets.sources import RobotData, RobotSource, no_contract
from vla.envs.metaworld.demonstrations import MetaWorldDemonstrationConfig, make_shard
from vla.envs.metaworld.suite import MetaWorldSuite
from vla.envs.tabletop.demonstrations import run_jobs
from vla.envs.tabletop.samples import SimulatedDemonstrations
from vla.policies.config import from_dict


class MetaWorldDemonstrations(SimulatedDemonstrations):
    """Frames of shards; their words are always the same, and no place in an image is labelled."""

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame. images: False leaves its images out."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard, row = self.shards[number], int(index - self._starts[number])
        words = shard.episodes[shard.episode[row]]
        return RobotSample(
            images={name: shard.images[name][row] for name in self.cameras} if images else {},
            state=shard.state[row],
            actions=shard.action[row],
            instruction=words.instruction,
            source=f"{shard.folder}, episode {shard.episode[row]}, frame {row}",
        )


class MetaWorldSource(RobotSource):
    """Shards of demonstrations by MetaWorld's scripted policies, some for each task."""

    name = "metaworld"
    options = MetaWorldDemonstrationConfig

    def open(self, entry: RobotData, contract: EmbodimentContract) -> MetaWorldDemonstrations:
        """Its frames."""
        return MetaWorldDemonstrations(read_dataset(entry.path, contract), contract, {})

    def holds(self, folder: Path) -> bool:
        """There are shards in it that are named after tasks."""
        return any(folder.glob("shard-*-*"))

    def check(self, entry: RobotData, contract: EmbodimentContract | None) -> list[Finding]:
        """Whether all shards can be read."""
        if contract is None:
            return no_contract()
        shards = read_dataset(entry.path, contract)
        text = f"{len(shards)} shards of demonstrations, {sum(map(len, shards))} frames"
        return [fine("description", text)]

    def make(
        self, entry: RobotData, contract: EmbodimentContract, workers: int | None = None
    ) -> None:
        """Makes the shards that are missing."""
        config = from_dict(MetaWorldDemonstrationConfig, entry.options, f"{entry.path}: options")
        suite = MetaWorldSuite(python=config.python)
        per_task = -(-config.episodes // config.episodes_per_shard)
        jobs = [
            (task, number, str(folder), contract, config)
            for task in suite.chosen_families(config.tasks)
            for number in range(per_task)
            if not (folder := Path(entry.path) / f"shard-{task}-{number:03d}").exists()
        ]
        if not jobs:
            return
        suite.require_installed()
        Path(entry.path).mkdir(parents=True, exist_ok=True)
        print(f"making demonstrations of MetaWorld in {entry.path}: {len(jobs)} shards are missing")
        with tqdm(total=len(jobs), unit="shard") as progress:
            failures = run_jobs(make_shard, jobs, workers, lambda done, _: progress.update())
        print(f"the scripted policies failed in {failures} episodes; the failures are left out")


METAWORLD = MetaWorldSource()
