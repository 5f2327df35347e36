"""The embodiment contract: what cameras, state and action of one robot mean.

One YAML file describes topics, names, units, frames and rates. Perception, controller, recorder,
data set conversion, training and checkpoints read that one description, and refuse data of another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla.contract.dimensions import (
    ACTION_NAMES,
    MOTION_KINDS,
    STATE_LAYOUTS,
    STATE_NAMES,
    Dimension,
    named_actions,
    named_states,
    normalized_as,
)
from vla.contract.joint_limits import JointLimits
from vla.core.configuration import read_dataclass
from vla.core.files import checked_entries, checked_name, checked_names, checked_number, read_yaml
from vla.core.rotations import matrix_to_euler, quaternion_to_matrix
from vla.core.shown import brief, listed, shown_path

LIMIT_KINDS = ("lower", "upper", "velocity", "acceleration", "jerk")
# What a joint's limits may be, in rad or m, and per s, s^2 and s^3.
POSITION_BOUNDS = (-10_000, 10_000)
LIMIT_BOUNDS = (0.000001, 1_000_000)


class ContractError(ValueError):
    """A contract that cannot be read, or two that do not agree."""


@dataclass(frozen=True)
class CameraContract:
    """One camera."""

    name: str  # what models and data sets call it
    # Size that every consumer gets [px].
    width: int = field(metadata={"bounds": (1, 8192)})
    height: int = field(metadata={"bounds": (1, 8192)})
    max_age: float = field(metadata={"bounds": (0.001, 3600)})  # of an image that may be used [s]
    topic: str = ""  # where its images come from; "" of a robot that is not a tool with a gripper
    # What becomes of frames of another aspect ratio. "crop": the middle is kept. "squash": all of
    # the frame, distorted. "pad": all of it, undistorted, between black bars.
    fit: Literal["crop", "squash", "pad"] = "crop"
    # How frames are resized. "area": by averaging; "lanczos": as the loaders of Open X-Embodiment.
    resampling: Literal["area", "lanczos"] = "area"


_CAMERA_DEFAULTS = {"fit": CameraContract.fit, "resampling": CameraContract.resampling}


@dataclass(frozen=True, kw_only=True)
class EmbodimentContract:
    """Topics, names, units and frames of one robot (REP-103: metres, radians, x forward).

    A robot that is not a tool with a gripper declares its dimensions, and leaves out what it lacks.
    """

    name: str
    base_frame: str = ""  # of poses and actions
    tool_frame: str = ""
    rate: float = field(metadata={"bounds": (0.1, 1000)})  # policy steps per second [Hz]
    horizon: int = field(metadata={"bounds": (1, 1024)})  # steps of a chunk
    joint_names: tuple[str, ...] = field(default=(), metadata={"length": (0, 100)})
    finger_joint_names: tuple[str, ...] = field(default=(), metadata={"length": (0, 100)})
    gripper_open_width: float = field(default=0.0, metadata={"bounds": (0.001, 1)})  # [m]
    cameras: tuple[CameraContract, ...] = field(default=(), metadata={"length": (1, 16)})
    reference_camera: str = ""  # the one whose stamp an observation carries
    joint_states_topic: str = ""
    end_effector_pose_topic: str = ""
    # Oldest state that may go with an image [s].
    state_max_age: float = field(default=0.0, metadata={"bounds": (0.001, 3600)})
    # One of STATE_LAYOUTS, or those of state_dimensions. r11..r32 are the first two columns of the
    # tool's rotation matrix; roll, pitch and yaw turn about the base's x, y and z in that order.
    state_names: tuple[str, ...] = field(default=(), metadata={"length": (0, 1000)})
    # ACTION_NAMES, or those of action_dimensions. The gripper is absolute, 1 open and 0 closed.
    action_names: tuple[str, ...] = field(default=(), metadata={"length": (0, 1000)})
    # What rotation deltas are. "delta": rotation vectors in the base frame; steps go from the
    # target before, the first from the observed tool pose. "delta_euler": differences of roll,
    # pitch and yaw, as Bridge has them, which only models use here. "": there are none.
    representation: Literal["delta", "delta_euler", ""] = ""
    state_dimensions: tuple[Dimension, ...] = ()  # of another layout
    action_dimensions: tuple[Dimension, ...] = ()
    # None where only the robot's description has them. Not compared with data and checkpoints, so
    # that an arm can be slowed down at any time.
    joint_limits: JointLimits | None = field(default=None, compare=False)

    @property
    def time_step(self) -> float:
        """Time between two policy steps [s]."""
        return 1.0 / self.rate

    @property
    def contract_id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of everything but the joint limits."""
        canonical = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def states(self) -> tuple[Dimension, ...]:
        """What the numbers of a state are."""
        return self.state_dimensions or named_states(self.state_names)

    @property
    def actions(self) -> tuple[Dimension, ...]:
        """What the numbers of one action are."""
        return self.action_dimensions or named_actions(self.action_names)

    @property
    def asks_for_motion(self) -> np.ndarray:
        """Dimensions [A] of the action that are zero for no motion; the others say where to be."""
        return np.array([dimension.kind in MOTION_KINDS for dimension in self.actions])

    @property
    def is_of_tool(self) -> bool:
        """Whether state and action are those of a tool with a gripper."""
        return (
            self.state_names in STATE_LAYOUTS
            and self.action_names == ACTION_NAMES
            and self.states == named_states(self.state_names)
            and self.actions == named_actions(ACTION_NAMES)
            and self.representation != ""
        )

    def require_tool(self, what: str) -> None:
        """Raises ContractError unless `is_of_tool`. what: needs it; begins the sentence."""
        if not self.is_of_tool:
            raise ContractError(
                f"{what} needs a contract with the actions {', '.join(ACTION_NAMES)} and the state "
                f"of a tool; '{self.name}' has the actions {listed(self.action_names)} and the "
                f"state {listed(self.state_names)}"
            )

    def camera(self, name: str) -> CameraContract:
        """The camera of that name; raises ContractError when there is none."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        known = listed(camera.name for camera in self.cameras)
        raise ContractError(
            f"contract {brief(self.name)} has no camera {brief(name)}; it has: {known}"
        )

    def require_same(self, other: EmbodimentContract, own: str = "ours", theirs: str = "the other"):
        """Raises ContractError naming every field in which the two contracts differ."""
        differences = [
            f"{field.name}: {own} {brief(getattr(self, field.name), 100)}, "
            f"{theirs} {brief(getattr(other, field.name), 100)}"
            for field in fields(self)
            if field.compare and getattr(self, field.name) != getattr(other, field.name)
        ]
        if differences:
            raise ContractError(
                "embodiment contracts differ (use a checkpoint made for this robot, or correct the "
                "contract file): " + "; ".join(differences)
            )

    def to_dict(self) -> dict[str, Any]:
        """The contract as plain lists and dictionaries, as in the YAML file, less the limits."""
        values = asdict(self)
        del values["joint_limits"]
        # Contracts from before these entries keep their id.
        for name in ("state_dimensions", "action_dimensions"):
            if not values[name]:
                del values[name]
        for camera in values["cameras"]:
            for name, value in _CAMERA_DEFAULTS.items():
                if camera[name] == value:
                    del camera[name]
        return json.loads(json.dumps(values))


def dimension_kinds(contract: EmbodimentContract) -> dict[str, tuple[str, ...]]:
    """Kinds of the dimensions of "state" and "action": see vla.contract.normalization."""
    euler = contract.representation == "delta_euler"
    return {
        vector: tuple(normalized_as(entry.kind, vector == "action", euler) for entry in dimensions)
        for vector, dimensions in (("state", contract.states), ("action", contract.actions))
    }


def _require_file_name(name: str, what: str) -> None:
    """Names of robots and cameras are parts of paths in checkpoints and data sets."""
    if "/" in name or name.startswith("."):
        raise ContractError(f"{what} must not begin with '.' or hold '/', got {brief(name)}")


def _require_names(contract: Any, source: str, unnamed: Iterable[str] = ()) -> None:
    """Raises ContractError unless all texts are names. unnamed: entries that may be empty."""
    for entry in fields(contract):
        value, what = getattr(contract, entry.name), f"{source}: {entry.name}"
        if isinstance(value, str) and (value or entry.name not in unnamed):
            checked_name(value, what, ContractError)
        elif entry.name.endswith("_names"):
            checked_names(value, what, ContractError, most=1000)
    _require_file_name(contract.name, f"{source}: name")


def _joint_limits(values: Any, names: tuple[str, ...], source: str) -> JointLimits:
    """Limits from the contract file: for each kind a number for all joints or one for each."""
    checked_entries(values, source, ContractError, LIMIT_KINDS)
    limits = {}
    for kind in LIMIT_KINDS:
        value, what = values.get(kind), f"{source}: {kind}"
        entries = value if isinstance(value, list) else [value] * len(names)
        if len(entries) != len(names):
            raise ContractError(
                f"{what} has {len(entries)} values for {len(names)} joints; give one "
                "number for all, or one for each"
            )
        lowest, highest = POSITION_BOUNDS if kind in ("lower", "upper") else LIMIT_BOUNDS
        limits[kind] = np.array(
            [
                np.nan
                if entry is None
                else checked_number(entry, what, ContractError, lowest, highest)
                for entry in entries
            ]
        )
    for name, low, high in zip(names, limits["lower"], limits["upper"], strict=True):
        if low >= high:
            raise ContractError(f"{source}: {name}: lower {low:g} is not below upper {high:g}")
    return JointLimits(names, **limits)


def contract_from_dict(values: Any, source: str = "contract") -> EmbodimentContract:
    """Builds and checks a contract from the content of a YAML file.

    Raises ContractError that names the missing, unknown or impossible entry and `source`.
    """
    known = {entry.name: entry for entry in fields(EmbodimentContract)}
    values = dict(checked_entries(values, source, ContractError, sorted(known)))
    limits = values.pop("joint_limits", None)
    optional = {"joint_limits", "state_dimensions", "action_dimensions"}
    for vector in ("state", "action"):
        if values.get(f"{vector}_dimensions"):
            optional |= {name for name, entry in known.items() if entry.default is not MISSING}
    if missing := [name for name in known if name not in values and name not in optional]:
        raise ContractError(f"{source}: missing entries: {', '.join(missing)}")
    if "cameras" in optional:
        # Absent entries may be empty, as to_dict() writes them.
        values = {name: v for name, v in values.items() if v or name not in optional}
    contract = read_dataclass(EmbodimentContract, values, source, ContractError)
    contract = replace(
        contract,
        state_names=_names("state", contract.state_names, contract.state_dimensions, source),
        action_names=_names("action", contract.action_names, contract.action_dimensions, source),
    )
    _require_names(contract, source, optional)
    for number, camera in enumerate(contract.cameras, start=1):
        unnamed = () if contract.is_of_tool else ("topic",)
        _require_names(camera, f"{source}: cameras {number}", unnamed)
    names = [camera.name for camera in contract.cameras]
    if len(set(names)) < len(names):
        raise ContractError(f"{source}: two cameras have the same name: {listed(names)}")
    if contract.cameras or contract.reference_camera:
        contract.camera(contract.reference_camera)
    if not contract.representation and any(d.kind == "rotation_delta" for d in contract.actions):
        raise ContractError(
            f"{source}: representation must say what rotation deltas are: delta (rotation vectors) "
            "or delta_euler (differences of Euler angles)"
        )
    if limits is not None:
        limits = _joint_limits(limits, contract.joint_names, f"{source}: joint_limits")
        contract = replace(contract, joint_limits=limits)
    return contract


def _names(
    vector: str, names: tuple[str, ...], dimensions: tuple[Dimension, ...], source: str
) -> tuple[str, ...]:
    """The names of a state or an action, declared or of a known layout."""
    declared = tuple(dimension.name for dimension in dimensions)
    if declared and names and names != declared:
        raise ContractError(
            f"{source}: {vector}_names and {vector}_dimensions differ; leave the names out"
        )
    layouts = STATE_LAYOUTS if vector == "state" else (ACTION_NAMES,)
    if not declared and names not in layouts:
        known = " or ".join(str(list(layout)) for layout in layouts)
        raise ContractError(
            f"{source}: {vector}_names must be {known}; declare others, with kind and unit, as "
            f"{vector}_dimensions"
        )
    return declared or names


def load_contract(path: str | Path) -> EmbodimentContract:
    """Reads a contract file (YAML or JSON). Raises ContractError when it can't be used."""
    values = read_yaml(path, ContractError)
    return contract_from_dict(values, source=shown_path(path))


def state_vector(
    position: np.ndarray,
    quaternion_xyzw: np.ndarray,
    gripper_width: float,
    names: tuple[str, ...] = STATE_NAMES,
    open_width: float = 0.08,
) -> np.ndarray:
    """The state vector of one of STATE_LAYOUTS, from a tool pose in the base frame and the fingers.

    position [3] in metres, unit quaternion [4] x y z w, gripper_width and open_width (of an open
    gripper) in metres. Raises ValueError when a value is not finite or the quaternion not of unit
    length.
    """
    values = np.concatenate([position, quaternion_xyzw, [gripper_width]]).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"end-effector pose or gripper width is not finite: {values.tolist()}")
    if abs(np.linalg.norm(values[3:7]) - 1.0) > 1e-2:
        raise ValueError(f"end-effector quaternion is not of unit length: {values[3:7].tolist()}")
    openness = float(np.clip(gripper_width / open_width, 0.0, 1.0))
    if "qx" in names:
        return np.concatenate([values[:7], [1.0 - openness]])
    matrix = quaternion_to_matrix(values[3:7])
    if "roll" in names:
        pad = [0.0] if "pad" in names else []
        return np.concatenate([values[:3], matrix_to_euler(matrix), pad, [openness]])
    return np.concatenate([values[:3], matrix[:, 0], matrix[:, 1], values[7:]])
