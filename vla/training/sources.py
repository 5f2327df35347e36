"""Opens the data that a training configuration names."""

from __future__ import annotations

from pathlib import Path

from vla.bags.episodes import BagEpisodes
from vla.contract.embodiment import ContractError, EmbodimentContract, load_contract
from vla.core.resources import contract_path, given_or_shared
from vla.core.shown import shown_path
from vla.datasets.conversations import LlavaConversations
from vla.datasets.frames import DatasetError, Shard, read_dataset
from vla.datasets.grounding import CameraView
from vla.datasets.image_check import require_images
from vla.datasets.lerobot.dataset import LeRobotEpisodes, read_mapping
from vla.datasets.sample import ConversationDataset, RobotDataset
from vla.envs.tabletop.samples import SimulatedDemonstrations
from vla.envs.tabletop.scene_conversations import SceneConversations
from vla.policies.config import CheckpointError
from vla.training.config import ConversationData, RobotData, TrainConfig
from vla.training.data import TrainingData, split

TRUTH = "truth"


def open_data(
    config: TrainConfig,
    contract: EmbodimentContract,
    views: dict[str, CameraView],
    corrections: list[Shard],
) -> TrainingData:
    """All data of a run. corrections: shards that the policy drove.

    Raises DatasetError, BagError, ContractError or CheckpointError that say what is wrong where.
    """
    robot = [open_robot(entry, contract_of(entry, contract), views) for entry in config.robot]
    weights = [entry.weight for entry in config.robot]
    robot_kept, robot_held = split(robot, weights, config.validation_share)
    if corrections and robot_kept is not None:
        annotated = any(entry.annotations == TRUTH for entry in config.robot)
        driven = SimulatedDemonstrations(corrections, contract, views, annotated)
        robot_kept.datasets.append(driven)
        robot_kept.weights.append(config.corrections.weight)
    talks = [open_conversations(entry, contract) for entry in config.conversations]
    weights = [entry.weight for entry in config.conversations]
    talks_kept, talks_held = split(talks, weights, config.validation_share)
    return TrainingData(robot_kept, talks_kept, robot_held, talks_held)


def contract_of(entry: RobotData, own: EmbodimentContract) -> EmbodimentContract:
    """The contract of a data set; ContractError where one model can't act for both robots."""
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
        ("steps in a chunk", own.horizon, other.horizon),
        ("cameras", _sizes(own), _sizes(other)),
    ):
        if ours != theirs:
            raise ContractError(
                f"'{other.name}' cannot be trained together with '{own.name}': {what}: {theirs}, "
                f"not {ours}; change one of the contracts, or train a model for each"
            )
    return other


def _sizes(contract: EmbodimentContract) -> str:
    """Names and sizes of a contract's cameras, in the order of names."""
    cameras = sorted(contract.cameras, key=lambda camera: camera.name)
    return ", ".join(f"{camera.name} {camera.width}x{camera.height}" for camera in cameras)


def open_robot(
    entry: RobotData, contract: EmbodimentContract, views: dict[str, CameraView]
) -> RobotDataset:
    """Robot episodes of one kind.

    Raises DatasetError, BagError or ContractError for what should not be trained on; of the images
    of a LeRobot data set, a part is looked at.
    """
    if entry.kind == "simulated":
        shards = read_dataset(entry.path, contract)
        return SimulatedDemonstrations(shards, contract, views, entry.annotations == TRUTH)
    if entry.kind == "lerobot":
        mapping = read_mapping(given_or_shared(entry.mapping)) if entry.mapping else None
        data = LeRobotEpisodes(entry.path, mapping, contract, entry.annotations)
        require_images(data.info, data.mapping.cameras.values())
        return data
    if entry.kind == "bags":
        return BagEpisodes(entry.path, contract, entry.annotations)
    raise CheckpointError(f"unknown robot data '{entry.kind}'; known: simulated, lerobot, bags")


def kind_of(folder: str | Path) -> str:
    """The kind of robot data that lies in a folder. Raises DatasetError where it is none."""
    path = Path(folder)
    if (path / "meta").is_dir():
        return "lerobot"
    if any(path.glob("shard-*")):
        return "simulated"
    if any(path.glob("**/metadata.yaml")):
        return "bags"
    raise DatasetError(
        f"{shown_path(folder)} holds neither a LeRobot data set nor bags; make one with: vla data "
        "convert"
    )


def open_conversations(
    entry: ConversationData, contract: EmbodimentContract
) -> ConversationDataset:
    """Conversations of one kind."""
    if entry.kind == "scenes":
        return SceneConversations(entry.path, contract, contract.reference_camera)
    if entry.kind == "llava":
        return LlavaConversations(entry.path, entry.images)
    raise CheckpointError(f"unknown conversations '{entry.kind}'; known: scenes, llava")
