"""Opens the data that a training configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from vla.bags.conversion import contract_of_bags
from vla.bags.episodes import bag_folders
from vla.contract.embodiment import ContractError, EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.core.shown import listed, shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import CONTRACT_FILE
from vla.datasets.sample import ConversationDataset, EpisodeDataset, RobotDataset
from vla.datasets.sources import ConversationData, RobotData
from vla.policies.config import CheckpointError, with_entries
from vla.policies.registry import policy_type
from vla.training.config import TrainConfig
from vla.training.config_check import base_config
from vla.training.data import ConversationSlice, RobotSlice, TrainingData, split
from vla.training.source_registry import CONVERSATION_SOURCES, ROBOT_SOURCES
from vla.training.stored_sources import BAGS
from vla.training.subsets import chosen


def open_data(
    config: TrainConfig,
    contract: EmbodimentContract,
    corrections: tuple[RobotDataset, float] | None = None,
) -> TrainingData:
    """All data of a run. corrections: frames that the policy drove, and the weight of each.

    Raises DatasetError, BagError, ContractError or CheckpointError that say what is wrong where.
    """
    padded = pads_robots(config)
    robot = [open_robot(entry, contract_of(entry, contract, padded)) for entry in config.robot]
    weights = [entry.weight for entry in config.robot]
    masked = [entry.masked_share for entry in config.robot]
    robot_kept, robot_held = split(robot, weights, config.validation_share, RobotSlice, masked)
    if robot_kept is not None and corrections is not None:
        robot_kept.add(*corrections)
    talks = [open_conversations(entry, contract) for entry in config.conversations]
    weights = [entry.weight for entry in config.conversations]
    talks_kept, talks_held = split(talks, weights, config.validation_share, ConversationSlice)
    return TrainingData(robot_kept, talks_kept, robot_held, talks_held)


def make_data(config: TrainConfig, contract: EmbodimentContract) -> None:
    """Makes what a configuration asks for, where it can be made and is not there yet."""
    padded = pads_robots(config)
    for entry in config.robot:
        ROBOT_SOURCES[entry.kind].make(entry, contract_of(entry, contract, padded))
    for talk in config.conversations:
        CONVERSATION_SOURCES[talk.kind].make(talk, contract)


def pads_robots(config: TrainConfig) -> bool:
    """Whether the model that a run trains takes robots of unlike state and action sizes."""
    if not any(entry.contract for entry in config.robot):
        return False
    model = with_entries(base_config(config), config.model, "model")
    return policy_type(model.TYPE).pads(model)


def contract_of(
    entry: RobotData, own: EmbodimentContract, padded: bool = False
) -> EmbodimentContract:
    """The contract of a data set; ContractError where one model can't act for both robots.

    padded: whether the model takes states and actions of unlike sizes, see pads_robots().
    """
    if not entry.contract:
        return own
    try:
        other = load_contract(contract_path(entry.contract))
    except ValueError as error:
        raise ContractError(f"{entry.path}: {error}") from error
    if other.name == own.name:
        own.require_same(other, "that of the run", f"that of {entry.path}")
    for what, ours, theirs in (
        ("values of state", len(own.state_names), len(other.state_names)),
        ("values of action", len(own.action_names), len(other.action_names)),
        ("steps in a chunk", own.horizon, other.horizon),
        ("cameras", _sizes(own), _sizes(other)),
    ):
        if ours != theirs and not (padded and what.startswith("values")):
            raise ContractError(
                f"'{other.name}' cannot be trained together with '{own.name}': {what}: {theirs}, "
                f"not {ours}; change one of the contracts, or train a model for each"
            )
    return other


def require_cameras(read: Sequence[str], contract: EmbodimentContract) -> None:
    """Raises CheckpointError where a model reads cameras that a robot does not have."""
    own = [camera.name for camera in contract.cameras]
    if missing := [name for name in read if name not in own]:
        raise CheckpointError(
            f"the model reads the cameras {listed(missing)}, and '{contract.name}' has "
            f"{listed(own) or 'none'}: name those in the model's entries (vla info shows them)"
        )


def _sizes(contract: EmbodimentContract) -> str:
    """Names and sizes of a contract's cameras, in the order of names."""
    cameras = sorted(contract.cameras, key=lambda camera: camera.name)
    return ", ".join(f"{camera.name} {camera.width}x{camera.height}" for camera in cameras)


def open_robot(entry: RobotData, contract: EmbodimentContract) -> RobotDataset:
    """Robot episodes, those that the entry asks for. contract: of the robot of these frames.

    Raises DatasetError, BagError or ContractError for what should not be trained on.
    """
    return chosen(entry, ROBOT_SOURCES[entry.kind].open(entry, contract))


def open_episodes(entry: RobotData, contract: EmbodimentContract) -> EpisodeDataset:
    """As open_robot(). Raises DatasetError for data that doesn't tell where its episodes end."""
    dataset = open_robot(entry, contract)
    if not (hasattr(dataset, "episode_ends") and hasattr(dataset, "episode_tasks")):
        raise DatasetError(f"{shown_path(entry.path)}: it doesn't tell where its episodes end")
    return cast("EpisodeDataset", dataset)


def open_conversations(
    entry: ConversationData, contract: EmbodimentContract
) -> ConversationDataset:
    """Conversations. contract: of the run."""
    return CONVERSATION_SOURCES[entry.kind].open(entry, contract)


def own_contract(entry: RobotData) -> EmbodimentContract:
    """The contract that a data set carries. Raises DatasetError where it carries none."""
    kept = Path(entry.path) / "meta" / CONTRACT_FILE
    if kept.exists():
        return load_contract(kept)
    if entry.kind == BAGS.name:
        return contract_of_bags(bag_folders(entry.path))
    raise DatasetError(f"{shown_path(entry.path)} carries no contract: name one by --contract")


def kind_of(folder: str | Path) -> str:
    """The kind of robot data that lies in a folder. Raises DatasetError where it is none."""
    for name in ROBOT_SOURCES.names():
        if ROBOT_SOURCES[name].holds(Path(folder)):
            return name
    raise DatasetError(
        f"{shown_path(folder)} holds neither a LeRobot data set nor bags; make one with: vla data "
        "convert"
    )
