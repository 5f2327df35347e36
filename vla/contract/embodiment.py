"""The embodiment contract: what cameras, state and action of one robot mean.

One YAML file describes topics, names, units, frames and rates. Perception, controller, recorder,
dataset conversion, training and checkpoints all read that one description, and refuse each other's
data when the descriptions differ.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract.joint_limits import JointLimits
from vla.core.files import checked_entries, checked_name, checked_names, checked_number, read_yaml
from vla.core.rotations import matrix_to_euler, quaternion_to_matrix
from vla.core.shown import brief, listed, shown_path

# The state vectors that there are: the tool's position, its orientation in one form or another, the
# gripper. The first has no angle that wraps; the others are those of Bridge and of Fractal.
STATE_NAMES = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32", "gripper_width")
STATE_LAYOUTS = (
    STATE_NAMES,
    ("x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper_open"),
    ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper_closed"),
)
ACTION_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")
REPRESENTATIONS = ("delta", "delta_euler")
LIMIT_KINDS = ("lower", "upper", "velocity", "acceleration", "jerk")
MOST_CAMERAS = 16
# What a number of a contract may be at all: [Hz], steps, [px], [s] and [m].
BOUNDS = {
    "rate": (0.1, 1000),
    "horizon": (1, 1024),
    "width": (1, 8192),
    "height": (1, 8192),
    "max_age": (0.001, 3600),
    "state_max_age": (0.001, 3600),
    "gripper_open_width": (0.001, 1),
}
# The same of a joint's limits, in rad or m, and per s, s^2 and s^3.
POSITION_BOUNDS = (-10_000, 10_000)
LIMIT_BOUNDS = (0.000001, 1_000_000)


class ContractError(ValueError):
    """A contract that cannot be read, or two that do not agree."""


@dataclass(frozen=True)
class CameraContract:
    """One camera, known by name.

    name: what models and datasets call it. topic: where its images come from. width, height: size
    that every consumer gets [px]. max_age: oldest image that may still be used [s].
    """

    name: str
    topic: str
    width: int
    height: int
    max_age: float


@dataclass(frozen=True)
class EmbodimentContract:
    """Topics, names, units and frames of one robot (REP-103: metres, radians, x forward).

    rate: policy steps per second [Hz]. state_names: one of STATE_LAYOUTS; r11..r32 are the first
    two columns of the tool's rotation matrix; roll, pitch and yaw turns about the base's x, y and z
    in that order. action_names: one action; the gripper value is absolute, 1 open and 0 closed.
    representation: "delta" gives metres and a rotation vector from the previous step's target, in
    the base frame, the first step counted from the observed tool pose; "delta_euler" gives
    differences of roll, pitch and yaw instead, as Bridge has them, which only models use here.
    joint_limits: of the joints' motion, None where only the robot's description has them; it is no
    part of what data and checkpoints agree on, so that an arm can be slowed down at any time.
    """

    name: str
    base_frame: str
    tool_frame: str
    rate: float
    horizon: int
    joint_names: tuple[str, ...]
    finger_joint_names: tuple[str, ...]
    gripper_open_width: float
    cameras: tuple[CameraContract, ...]
    reference_camera: str
    joint_states_topic: str
    end_effector_pose_topic: str
    state_max_age: float
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    representation: str
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
        return json.loads(json.dumps(values))


def dimension_kinds(contract: EmbodimentContract) -> dict[str, tuple[str, ...]]:
    """Kinds of the dimensions of "state" and "action", by which new data are normalised.

    See vla.contract.normalization for what each means. A rotation vector from one step to the next
    never comes near half a turn; a difference of Euler angles does where the angle goes round.
    """
    turn = "relative_angle" if contract.representation == "delta_euler" else "relative"
    kinds = {"rx": turn, "ry": turn, "rz": turn, "gripper": "binary"}
    angles = {"roll": "angle", "pitch": "angle", "yaw": "angle"}
    return {
        "state": tuple(angles.get(name, "absolute") for name in contract.state_names),
        "action": tuple(kinds.get(name, "relative") for name in contract.action_names),
    }


def _typed(kind: type, values: dict[str, Any], source: str) -> dict[str, Any]:
    """The entries of a contract or camera, each as its field says.

    Numbers become floats where fields are, so that 10 and 10.0 give the same contract id.
    """
    typed = {}
    for name, value in values.items():
        wanted, what = kind.__annotations__[name], f"{source}: {name}"
        if wanted == "tuple[str, ...]":
            value = checked_names(value, what, ContractError)
        elif wanted in ("int", "float"):
            value = checked_number(value, what, ContractError, *BOUNDS[name], wanted == "int")
        elif wanted == "str":
            value = checked_name(value, what, ContractError)
        typed[name] = value
    return typed


def _camera(values: Any, source: str) -> CameraContract:
    known = [field.name for field in fields(CameraContract)]
    checked_entries(values, source, ContractError, known)
    if missing := [name for name in known if name not in values]:
        raise ContractError(f"{source}: missing entries: {', '.join(missing)}")
    camera = CameraContract(**_typed(CameraContract, values, source))
    _require_file_name(camera.name, f"{source}: name")
    return camera


def _cameras(values: Any, source: str) -> tuple[CameraContract, ...]:
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= MOST_CAMERAS:
        raise ContractError(
            f"{source} must be a list of 1 to {MOST_CAMERAS} cameras, got {brief(values)}"
        )
    cameras = tuple(_camera(camera, source) for camera in values)
    names = [camera.name for camera in cameras]
    if len(set(names)) < len(names):
        raise ContractError(f"{source}: two cameras have the same name: {listed(names)}")
    return cameras


def _require_file_name(name: str, what: str) -> None:
    """Names of robots and cameras are parts of paths in checkpoints and data sets."""
    if "/" in name or name.startswith("."):
        raise ContractError(f"{what} must not begin with '.' or hold '/', got {brief(name)}")


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
    """Builds and checks a contract from what the YAML file holds.

    Raises ContractError that names the missing, unknown or impossible entry and `source`.
    """
    known = sorted(field.name for field in fields(EmbodimentContract))
    values = dict(checked_entries(values, source, ContractError, known))
    limits = values.pop("joint_limits", None)
    if missing := [name for name in known if name not in values and name != "joint_limits"]:
        raise ContractError(f"{source}: missing entries: {', '.join(missing)}")
    values["cameras"] = _cameras(values["cameras"], f"{source}: cameras")
    contract = EmbodimentContract(**_typed(EmbodimentContract, values, source))
    _require_file_name(contract.name, f"{source}: name")
    if limits is not None:
        limits = _joint_limits(limits, contract.joint_names, f"{source}: joint_limits")
        contract = replace(contract, joint_limits=limits)
    if contract.state_names not in STATE_LAYOUTS:
        known = " or ".join(str(list(names)) for names in STATE_LAYOUTS)
        raise ContractError(f"{source}: state_names must be {known}")
    if contract.action_names != ACTION_NAMES:
        raise ContractError(f"{source}: action_names must be {list(ACTION_NAMES)}")
    if contract.representation not in REPRESENTATIONS:
        raise ContractError(f"{source}: representation must be one of {list(REPRESENTATIONS)}")
    contract.camera(contract.reference_camera)
    return contract


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

    position [3] in metres, unit quaternion [4] as x y z w, gripper_width and open_width, that of an
    open gripper, in metres. Raises ValueError when a value is not finite or the quaternion is not
    of unit length.
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
        return np.concatenate([values[:3], matrix_to_euler(matrix), [0.0, openness]])
    return np.concatenate([values[:3], matrix[:, 0], matrix[:, 1], values[7:]])
