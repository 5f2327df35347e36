"""Data sources: the entries of a training configuration, and how each kind is opened.

The `kind` of an entry names a source. Kinds of stored data are in vla/training/stored_sources.py;
an environment that makes data brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vla.contract.embodiment import EmbodimentContract
from vla.core.configuration import bounded
from vla.core.findings import Finding, warning
from vla.datasets.sample import ConversationDataset, RobotDataset


def no_contract() -> list[Finding]:
    """The finding of a kind that cannot be checked without a contract."""
    text = "without a contract only LeRobot data sets and conversations can be checked"
    return [warning("description", text, "give --contract")]


@dataclass
class RobotData:
    """Robot episodes for training: an entry of `robot`."""

    path: str  # folder
    # "simulated" (shards of vla demonstrate, made where missing), "lerobot" (v2.1 or v3.0), "bags"
    # (rosbag2 folders with the contract's topics, one per episode), "metaworld" (shards of its
    # scripted policies, made where missing), or that of another package.
    kind: str = "simulated"
    # With lerobot, YAML file that says how its features become the contract's; empty for a data set
    # that carries its contract.
    mapping: str = ""
    # VLA-IT file; empty for the data set's own or none; "truth" with simulated ones.
    annotations: str = ""
    # Share of its episodes whose annotations, and answers to their own instruction, are used; drawn
    # as `share` is. All are acted on.
    annotation_share: float = bounded(1.0, 0, 1)
    # Of another robot than the run's, which the model also learns, with separate statistics.
    contract: str = ""
    # Times the number of frames, its share of a batch.
    weight: float = bounded(1.0, 0, 1e6)
    # Share of its drawn frames that are masked: delivered without images, which are not decoded.
    masked_share: float = bounded(0.0, 0, 1)
    # Which of its episodes are used, see vla.training.subsets: those of these tasks, () for all; at
    # most so many of each task, 0 for all; a share of them, drawn once, so that a smaller one is
    # part of a larger one; or those of a list, a file that a run wrote.
    tasks: tuple[str, ...] = ()
    per_task: int = bounded(0, 0, 1e9)
    share: float = bounded(1.0, 0, 1)
    episode_list: str = ""
    # What else the kind asks for, by name.
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ConversationData:
    """Images with questions and answers: an entry of `conversations`."""

    path: str  # folder or file
    # "llava" (a JSON file in LLaVA's format), "scenes" (simulated ones of vla scenes, made where
    # missing), or that of another package.
    kind: str = "llava"
    images: str = ""  # with llava, folder of its images
    # Times the number of conversations, its share of a batch.
    weight: float = bounded(1.0, 0, 1e6)
    # What else the kind asks for, by name.
    options: dict[str, Any] = field(default_factory=dict)


class RobotSource:
    """One kind of robot data. A stored kind needs `open`, `holds` and `check`.

    Everything that opens or makes data raises DatasetError, BagError, ContractError or
    CheckpointError that says what is wrong where.
    """

    # The `kind` of an entry.
    name: ClassVar[str]
    # Dataclass of the options of an entry; None for a kind that takes none.
    options: ClassVar[type | None] = None
    # Entries at the top of a configuration, as version 0.1 had them, which are options now: the
    # option's name, or "" for the options themselves.
    former_entries: ClassVar[dict[str, str]] = {}
    # Whether it is made for the run's own contract, so that an entry may not name another.
    own_contract_only: ClassVar[bool] = False

    @property
    def makes_data(self) -> bool:
        """Whether missing data can be made."""
        return type(self).make is not RobotSource.make

    def open(self, entry: RobotData, contract: EmbodimentContract) -> RobotDataset:
        """Its frames. contract: of the robot whose frames these are."""
        raise NotImplementedError

    def holds(self, folder: Path) -> bool:
        """Whether the data in a folder is of this kind."""
        return False

    def check(self, entry: RobotData, contract: EmbodimentContract | None) -> list[Finding]:
        """What `vla data check` finds. contract: None where none is known, see no_contract()."""
        raise NotImplementedError

    def make(
        self, entry: RobotData, contract: EmbodimentContract, workers: int | None = None
    ) -> None:
        """Makes missing data, and shows the progress. workers: processes."""

    def correction_steps(self, entry: RobotData) -> tuple[int, ...]:
        """Steps of the training after which the policy drives and is corrected (DAgger)."""
        return ()

    def correct(
        self,
        entry: RobotData,
        contract: EmbodimentContract,
        checkpoint: Path,
        folder: Path,
        number: int,
    ) -> None:
        """Makes the corrections of a checkpoint in a folder, unless they exist.

        number: of this round, from 0.
        """
        raise NotImplementedError

    def open_corrections(
        self, entry: RobotData, contract: EmbodimentContract, folders: list[Path]
    ) -> tuple[RobotDataset, float]:
        """The frames of all rounds so far, and the weight of each."""
        raise NotImplementedError


class ConversationSource:
    """One kind of conversations. A stored kind needs `open` and `check`."""

    # As of RobotSource.
    name: ClassVar[str]
    options: ClassVar[type | None] = None
    former_entries: ClassVar[dict[str, str]] = {}

    def open(self, entry: ConversationData, contract: EmbodimentContract) -> ConversationDataset:
        """Its conversations. contract: of the run."""
        raise NotImplementedError

    def check(self, entry: ConversationData, contract: EmbodimentContract) -> list[Finding]:
        """What `vla data check` finds."""
        raise NotImplementedError

    def make(
        self, entry: ConversationData, contract: EmbodimentContract, workers: int | None = None
    ) -> None:
        """Makes missing data, and shows the progress. workers: processes."""
