"""The table top as a source of training data: demonstrations, corrections, still scenes.

What a configuration asks for and that is missing is made when the training begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from vla.contract.embodiment import EmbodimentContract
from vla.core.findings import Finding, fine
from vla.datasets.frames import Shard, read_dataset
from vla.datasets.sources import (
    ConversationData,
    ConversationSource,
    RobotData,
    RobotSource,
    no_contract,
)
from vla.envs.tabletop.corrections import CorrectionConfig, make_corrections
from vla.envs.tabletop.demonstrations import DemonstrationConfig, make_demonstrations
from vla.envs.tabletop.samples import SimulatedDemonstrations, simulated_views
from vla.envs.tabletop.scene_conversations import TURNS, CommandOptions, SceneConversations
from vla.envs.tabletop.scenes import SceneConfig, make_scenes
from vla.policies.config import bounded, from_dict

# The `annotations` of an entry whose frames are annotated from the scene's truth.
TRUTH = "truth"
_LATER = "not there yet: made when the training begins"


@dataclass(frozen=True)
class SimulatedOptions(DemonstrationConfig):
    """Options of simulated robot data: how demonstrations are made, and corrections to them."""

    corrections: CorrectionConfig = field(default_factory=CorrectionConfig)
    # Share of the instructions that are said as people talk, see vla.envs.tabletop.spoken.
    spoken: float = bounded(0.0, 0, 1)


class SimulatedSource(RobotSource):
    """Shards of demonstrations by the scripted expert."""

    name = "simulated"
    options: ClassVar[type[DemonstrationConfig]] = SimulatedOptions
    # Makes the shards that are missing, see make_demonstrations.
    make_shards: ClassVar[Callable[..., int]] = staticmethod(make_demonstrations)
    former_entries = {"demonstrations": "", "corrections": "corrections"}  # noqa: RUF012
    own_contract_only = True

    def open(self, entry: RobotData, contract: EmbodimentContract) -> SimulatedDemonstrations:
        """Its frames, with annotations where the entry asks for the truth."""
        return self._samples(entry, contract, read_dataset(entry.path, contract))

    def holds(self, folder: Path) -> bool:
        """There are shards in it."""
        return any(folder.glob("shard-*"))

    def check(self, entry: RobotData, contract: EmbodimentContract | None) -> list[Finding]:
        """Whether all shards can be read."""
        if contract is None:
            return no_contract()
        area = "description"
        if not Path(entry.path).exists():
            return [fine(area, _LATER)]
        shards = read_dataset(entry.path, contract)
        frames = sum(map(len, shards))
        return [fine(area, f"{len(shards)} shards of demonstrations, {frames} frames")]

    def make(
        self, entry: RobotData, contract: EmbodimentContract, workers: int | None = None
    ) -> None:
        """Makes the shards that are missing."""
        options = from_dict(self.options, entry.options, f"{entry.path}: options")
        total, present = _shards(entry.path, options.episodes, options.episodes_per_shard)
        if present == total:
            return
        print(
            f"making demonstrations in {entry.path}: {options.episodes} episodes, "
            f"{present} of {total} shards there"
        )
        failures = _with_progress(
            total, lambda done: self.make_shards(entry.path, contract, options, workers, done)
        )
        print(f"the expert failed in {failures} disturbed episodes; the failures are left out")

    def correction_steps(self, entry: RobotData) -> tuple[int, ...]:
        """As the options say."""
        return tuple(sorted(simulated_options(entry).corrections.after_steps))

    def correct(
        self,
        entry: RobotData,
        contract: EmbodimentContract,
        checkpoint: Path,
        folder: Path,
        number: int,
    ) -> None:
        """The policy drives, on scenes that go on from those of the round before."""
        config = simulated_options(entry).corrections
        config = replace(config, seed=config.seed + number * config.episodes)
        total, present = _shards(folder, config.episodes, config.episodes_per_shard)
        if present == total:
            return
        print(f"the policy drives {config.episodes} episodes, which the expert labels, in {folder}")
        failures = _with_progress(
            total,
            lambda done: make_corrections(folder, checkpoint, contract, config, on_shard=done),
        )
        print(f"the policy failed in {failures} of them")

    def open_corrections(
        self, entry: RobotData, contract: EmbodimentContract, folders: list[Path]
    ) -> tuple[SimulatedDemonstrations, float]:
        """One data set of all rounds, annotated as the demonstrations are."""
        shards = [shard for folder in folders for shard in read_dataset(folder, contract)]
        return self._samples(entry, contract, shards), simulated_options(entry).corrections.weight

    def _samples(
        self, entry: RobotData, contract: EmbodimentContract, shards: list[Shard]
    ) -> SimulatedDemonstrations:
        options = from_dict(self.options, entry.options, f"{entry.path}: options")
        spoken = options.spoken if isinstance(options, SimulatedOptions) else 0.0
        annotated = entry.annotations == TRUTH
        return SimulatedDemonstrations(
            shards, contract, simulated_views(contract), annotated, spoken
        )


@dataclass(frozen=True)
class SceneOptions(SceneConfig):
    """Options of scenes: how they are made, and how conversations ask about commands."""

    commands: CommandOptions = field(default_factory=CommandOptions)
    turns: int = bounded(TURNS, 1, 16)  # questions about an image
    apart: bool = False  # each is asked alone, and sees no other's answer
    # Share of the questions that are about where things are; 0 for the usual one.
    place_share: float = bounded(0.0, 0, 1)


class SceneSource(ConversationSource):
    """Still scenes, with questions and answers from their truth."""

    name = "scenes"
    options = SceneOptions
    former_entries = {"scenes": ""}  # noqa: RUF012

    def open(self, entry: ConversationData, contract: EmbodimentContract) -> SceneConversations:
        """Its scenes, as the contract's reference camera sees them."""
        options = from_dict(SceneOptions, entry.options, f"{entry.path}: options")
        camera = contract.reference_camera
        asked = options.commands, options.turns, options.place_share, options.apart
        return SceneConversations(entry.path, contract, camera, *asked)

    def check(self, entry: ConversationData, contract: EmbodimentContract) -> list[Finding]:
        """Whether all shards can be read."""
        area = "conversations"
        if not Path(entry.path).exists():
            return [fine(area, _LATER)]
        return [fine(area, f"{len(self.open(entry, contract))} scenes")]

    def make(
        self, entry: ConversationData, contract: EmbodimentContract, workers: int | None = None
    ) -> None:
        """Makes the shards that are missing."""
        config = from_dict(SceneOptions, entry.options, f"{entry.path}: options")
        total, present = _shards(entry.path, config.scenes, config.scenes_per_shard)
        if present == total:
            return
        print(f"making {config.scenes} scenes in {entry.path}, {present} of {total} shards there")
        _with_progress(total, lambda done: make_scenes(entry.path, contract, config, workers, done))


def simulated_options(entry: RobotData) -> SimulatedOptions:
    """The options of an entry. Raises CheckpointError that names one that is not known."""
    return from_dict(SimulatedOptions, entry.options, f"{entry.path}: options")


def _shards(folder: str | Path, entries: int, per_shard: int) -> tuple[int, int]:
    """How many shards there should be in a folder, and how many are there."""
    total = -(-entries // per_shard)
    return total, sum((Path(folder) / f"shard-{index:05d}").exists() for index in range(total))


def _with_progress(total: int, make: Callable[[Callable[[int, int], None]], int]) -> int:
    """What make(on_shard) returns, with a bar of the shards that are done."""
    with tqdm(total=total, unit="shard") as progress:
        return make(lambda done, _: progress.update(done - progress.n))


SIMULATED = SimulatedSource()
SCENES = SceneSource()
