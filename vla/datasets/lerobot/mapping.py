"""How the features of any LeRobot data set map to a contract's, from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.configuration import LARGEST, bounded, read_dataclass
from vla.core.files import read_yaml
from vla.core.shown import shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.episode_files import IMAGES
from vla.datasets.lerobot.meta import read_description

# What `vla data convert` and `vla data annotate` put beside LeRobot's own files in meta/.
CONTRACT_FILE, ANNOTATIONS_FILE = "contract.yaml", "annotations.json"


@dataclass(frozen=True)
class LeRobotMapping:
    """How a data set's features become a contract's."""

    cameras: dict[str, str]  # feature of each contract camera; one that is left out is black
    # Features whose columns, by *_columns (all by default), are the contract's names in order, and
    # a factor for each of these columns that makes metres, radians and shares of them. The columns
    # of several features are joined in their order; -1 is a column of zeros.
    state: str | tuple[str, ...] = "observation.state"
    state_columns: tuple[int, ...] = bounded((), -1, 999)
    state_scale: tuple[float, ...] = bounded((), -LARGEST, LARGEST)
    # What 1 of the state's gripper means, and which of its values are 0 and 1, by default these
    # themselves; None for a gripper that is as the contract has it.
    state_gripper: Literal["open", "closed"] | None = None
    state_gripper_range: tuple[float, float] | None = bounded(None, -LARGEST, LARGEST)
    action: str | tuple[str, ...] = "action"
    action_columns: tuple[int, ...] = bounded((), -1, 999)
    action_scale: tuple[float, ...] = bounded((), -LARGEST, LARGEST)
    # Values of the gripper's column of the actions that become 0 and 1, by default 0 and 1
    # themselves, and what that 1 means. binarize: values in between become 0 or 1, the next
    # definite one in time.
    gripper_range: tuple[float, float] | None = bounded(None, -LARGEST, LARGEST)
    gripper: Literal["open", "closed"] = "open"
    binarize: bool = False
    # The gripper's column says how the fingers are to move: its positive values open them, or, with
    # `gripper: closed`, close them. What was last done holds.
    gripper_moves: bool = False
    relabel: bool = False  # a step's motion is from the states around it, instead of the action
    # Actions are absolute: x, y, z, roll, pitch, yaw of the tool, and the gripper. A step's motion
    # is from the state of its own row, as LA4VLA has it.
    minus_state: bool = False
    drop_first: int = bounded(0, 0, 10**6)  # stored steps that are left out at an episode's start
    # Episodes in which a frame has no instruction are left out, instead of refused.
    drop_wordless: bool = False
    images: bool = True  # false: no camera is read, and the samples are without vision

    def __post_init__(self) -> None:
        for name in ("gripper_range", "state_gripper_range"):
            limits = getattr(self, name)
            if limits is not None and limits[0] >= limits[1]:
                raise ValueError(f"{name} must be two numbers, the smaller first")
        if self.state_gripper_range is not None and self.state_gripper is None:
            raise ValueError(
                "state_gripper_range needs state_gripper: open or closed, which its second means"
            )
        for name in ("state", "action"):
            if not features_in(getattr(self, name)):
                raise ValueError(f"{name} must name a feature")
        if 0.0 in self.state_scale + self.action_scale:
            raise ValueError("state_scale and action_scale must be factors other than 0")
        if self.cameras and not self.images:
            raise ValueError("'images: false' goes with 'cameras: {}'; correct one of the two")
        if self.gripper_moves and (self.binarize or self.gripper_range is not None):
            raise ValueError(
                "gripper_moves takes the sign of the gripper's values; leave out binarize and "
                "gripper_range"
            )
        if self.relabel and self.minus_state:
            raise ValueError(
                "relabel takes the motion from the states alone, and minus_state from the actions "
                "too; choose one"
            )

    @property
    def features(self) -> tuple[str, ...]:
        """All features that hold numbers, each once."""
        return tuple(dict.fromkeys(features_in(self.state) + features_in(self.action)))


def features_in(named: str | tuple[str, ...]) -> tuple[str, ...]:
    """The features that a mapping's `state` or `action` names, in the order of their columns."""
    return (named,) if isinstance(named, str) else named


def read_mapping(path: str | Path) -> LeRobotMapping:
    """Reads a mapping from YAML. Raises DatasetError that names an unknown or missing entry."""
    return read_dataclass(
        LeRobotMapping, read_yaml(path, DatasetError), shown_path(path), DatasetError
    )


def own_mapping(folder: str | Path, contract: EmbodimentContract) -> LeRobotMapping:
    """The mapping of a data set that carries its contract, as `vla data convert` writes it.

    Of one that says in meta/info.json that it is without images, no camera is mapped. Raises
    DatasetError where it carries none, ContractError where that is another one.
    """
    path = Path(folder) / "meta" / CONTRACT_FILE
    if not path.is_file():
        raise DatasetError(
            f"{folder} was not written by 'vla data convert' ({path} is missing): say by a mapping "
            "how its features become the contract's"
        )
    contract.require_same(load_contract(path), "ours", f"that of {folder}")
    if read_description(folder).without_images:
        return LeRobotMapping({}, images=False)
    return LeRobotMapping({camera.name: IMAGES + camera.name for camera in contract.cameras})
