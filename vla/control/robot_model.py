"""Kinematics and limits of an arm, from its URDF or for the simulated Panda. No ROS."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np
from scipy.spatial.transform import Rotation

from vla.contract.embodiment import EmbodimentContract
from vla.contract.joint_limits import JointLimits, stricter
from vla.control.robots import panda
from vla.core.shown import listed
from vla.core.text import one_line

MOVABLE = ("revolute", "continuous", "prismatic")
LIMITED = ("lower", "upper", "velocity", "acceleration")


MOST_URDF_BYTES = 32_000_000


class RobotModelError(ValueError):
    """A robot description that cannot be used; the text says what is missing and what there is."""


@dataclass(frozen=True)
class RobotModel:
    """An arm as inverse kinematics and the safety stage need it."""

    # MJCF of the arm alone, in the contract's base frame, with its joints in the contract's order.
    model_xml: str
    joint_names: tuple[str, ...]
    tool_site: str  # name of the site at the tool frame
    limits: JointLimits  # from the description, NaN where it gives none
    posture: np.ndarray  # [n]: joint positions that redundancy is drawn to [rad]
    # [n]: True for joints without end stops, whose drivers may report -pi..pi.
    continuous: np.ndarray


def panda_model() -> RobotModel:
    """The simulated Panda."""
    limits = JointLimits(
        panda.ARM_JOINTS,
        panda.JOINT_LOWER,
        panda.JOINT_UPPER,
        panda.JOINT_MAX_VELOCITY,
        panda.JOINT_MAX_ACCELERATION,
        panda.JOINT_MAX_JERK,
    )
    return RobotModel(
        panda.arm_model_xml(),
        panda.ARM_JOINTS,
        panda.TOOL_SITE,
        limits,
        panda.HOME,
        np.zeros(len(panda.ARM_JOINTS), dtype=bool),
    )


def arm_limits(contract: EmbodimentContract, model: RobotModel) -> JointLimits:
    """The stricter of the contract's and the model's limits for each joint.

    Raises LimitsError for a joint that lacks one: it must not be moved.
    """
    limits = model.limits
    if contract.joint_limits is not None:
        limits = stricter(limits, contract.joint_limits)
    limits.require_complete()
    return limits


def able_limits(contract: EmbodimentContract, model: RobotModel) -> JointLimits:
    """What the joints can do, independently of a contract: the model's limits where known.

    The arm may be, and may be guided by hand, where its contract does not let it be commanded.
    """
    own, allowed = model.limits, arm_limits(contract, model)
    return JointLimits(
        own.names,
        *(
            np.where(np.isfinite(getattr(own, kind)), getattr(own, kind), getattr(allowed, kind))
            for kind in ("lower", "upper", "velocity", "acceleration", "jerk")
        ),
    )


def model_from_urdf(
    urdf: str,
    joint_names: Sequence[str],
    base_frame: str,
    tool_frame: str,
    posture: np.ndarray | None = None,
) -> RobotModel:
    """The arm between two frames of a URDF, without meshes and side branches.

    joint_names: the arm's joints, as in the contract: all that move between the two frames, in
    order. posture [n]: by default the middle of each joint's range. Raises RobotModelError when the
    text is no URDF, a frame is missing, or other joints lie between the two.
    """
    joints = _read_joints(urdf)
    by_child = {joint.child: joint for joint in joints}
    frames = {joint.child for joint in joints} | {joint.parent for joint in joints}
    for what, frame in (("base_frame", base_frame), ("tool_frame", tool_frame)):
        if frame not in frames:
            raise RobotModelError(
                f"the URDF has no frame '{frame}', which the contract names as {what}; it has: "
                f"{listed(sorted(frames), 300)}"
            )
    down, up = _way(by_child, tool_frame), _way(by_child, base_frame)
    shared = 0
    while shared < min(len(down), len(up)) and down[shared].name == up[shared].name:
        shared += 1
    down, up = down[shared:], up[shared:]
    moving = [joint.name for joint in up if joint.kind != "fixed"]
    if moving:
        raise RobotModelError(
            f"base_frame '{base_frame}' moves with joint {', '.join(moving)}: choose a frame that "
            "is fixed to the arm's foot"
        )
    arm = [joint for joint in down if joint.kind != "fixed"]
    on_way = [joint.name for joint in arm]
    if on_way != list(joint_names) or not arm:
        known = listed(joint.name for joint in joints if joint.kind != "fixed")
        raise RobotModelError(
            f"the joints from '{base_frame}' to '{tool_frame}' are {listed(on_way) or 'none'}, "
            f"the contract has {', '.join(joint_names)}; movable joints of the URDF: {known}"
        )
    for joint in arm:
        if joint.kind not in MOVABLE:
            raise RobotModelError(
                f"joint {joint.name} of the URDF is {joint.kind}: only {', '.join(MOVABLE)} ones "
                "can be driven"
            )
    limits = JointLimits(
        tuple(joint_names),
        **{kind: np.array([getattr(joint, kind) for joint in arm]) for kind in LIMITED},
        jerk=np.full(len(arm), np.nan),
    )
    if posture is None:
        middle = (limits.lower + limits.upper) / 2
        posture = np.where(np.isfinite(middle), middle, 0.0)
    xml = _mjcf(up, down, limits)
    return RobotModel(
        xml,
        tuple(joint_names),
        "tool",
        limits,
        np.asarray(posture, dtype=float),
        np.array([joint.kind == "continuous" for joint in arm]),
    )


@dataclass(frozen=True)
class _Joint:
    name: str
    kind: str
    parent: str
    child: str
    position: np.ndarray
    rotation: Rotation
    axis: np.ndarray
    lower: float
    upper: float
    velocity: float
    acceleration: float


def _vector(element, name: str, default: str) -> np.ndarray:
    text = default if element is None else element.get(name, default)
    values = np.array([float(part) for part in text.split()])
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ValueError(f"{name} '{text}' is not three finite numbers")
    return values


def _read_joints(urdf: str) -> list[_Joint]:
    try:
        root = ElementTree.fromstring(urdf)
        if root.tag != "robot":
            raise RobotModelError(f"the robot description is <{root.tag}>, not a URDF's <robot>")
        joints = [_read_joint(element) for element in root.findall("joint")]
    except ElementTree.ParseError as error:
        raise RobotModelError(
            f"the robot description is not valid XML: {one_line(error)}"
        ) from error
    for what, names in (
        ("joints named", [joint.name for joint in joints]),
        ("joints that hold link", [joint.child for joint in joints]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise RobotModelError(f"the URDF has several {what} '{twice[0]}'")
    return joints


def _read_joint(element) -> _Joint:
    """One joint. Its position limits are the stricter of hard and soft limits."""
    name, kind = element.get("name", "?"), element.get("type", "?")
    parent, child = (
        link.get("link") if (link := element.find(which)) is not None else None
        for which in ("parent", "child")
    )
    if not parent or not child:
        raise RobotModelError(f"joint {name} of the URDF lacks its parent or child")
    origin, axis, limit = element.find("origin"), element.find("axis"), element.find("limit")
    soft = element.find("safety_controller")
    try:
        bounds = {
            key: float("nan") if limit is None else float(limit.get(key, "nan")) for key in LIMITED
        }
        if endless := [key for key, value in bounds.items() if np.isinf(value)]:
            raise ValueError(f"{endless[0]} is infinite; leave it out where there is no limit")
        if kind == "continuous":
            # A continuous joint is kept to two turns, for the sake of its cables.
            bounds |= {"lower": -2 * np.pi, "upper": 2 * np.pi}
        if soft is not None:
            low, high = soft.get("soft_lower_limit"), soft.get("soft_upper_limit")
            if low is not None and high is not None and float(low) < float(high):
                bounds["lower"] = max(bounds["lower"], float(low))
                bounds["upper"] = min(bounds["upper"], float(high))
        direction = _vector(axis, "xyz", "1 0 0")
        if kind in MOVABLE and np.linalg.norm(direction) < 1e-6:
            raise ValueError("its axis has no direction")
        return _Joint(
            name,
            kind,
            parent,
            child,
            _vector(origin, "xyz", "0 0 0"),
            Rotation.from_euler("xyz", _vector(origin, "rpy", "0 0 0")),
            direction,
            **bounds,
        )
    except ValueError as error:
        raise RobotModelError(f"joint {name} of the URDF has a bad number: {error}") from error


def _way(by_child: dict[str, _Joint], frame: str) -> list[_Joint]:
    """The joints from the root to a frame."""
    way: list[_Joint] = []
    while frame in by_child:
        joint = by_child[frame]
        if joint in way:
            raise RobotModelError(f"the URDF goes round in a circle at '{frame}'")
        way.append(joint)
        frame = joint.parent
    return way[::-1]


def _mjcf(up: list[_Joint], down: list[_Joint], limits: JointLimits) -> str:
    """Nested bodies along the chain: first back from the base to the common frame, then out."""
    steps: list[tuple[np.ndarray, Rotation, _Joint | None]] = []
    for joint in reversed(up):
        back = joint.rotation.inv()
        steps.append((back.apply(-joint.position), back, None))
    for joint in down:
        steps.append((joint.position, joint.rotation, None if joint.kind == "fixed" else joint))
    body = '<site name="tool" size="0.005"/>'
    for number, (position, rotation, joint) in reversed(list(enumerate(steps))):
        x, y, z, w = rotation.as_quat()
        hinge = ""
        if joint is not None:
            index = limits.names.index(joint.name)
            low, high = limits.lower[index], limits.upper[index]
            bounds = f'range="{low} {high}"' if np.isfinite([low, high]).all() else ""
            kind = "slide" if joint.kind == "prismatic" else "hinge"
            axis = " ".join(f"{value:.17g}" for value in joint.axis)
            hinge = f'<joint name={quoteattr(joint.name)} type="{kind}" axis="{axis}" {bounds}/>'
        place = " ".join(f"{value:.17g}" for value in position)
        body = (
            f'<body name="frame{number}" pos="{place}" quat="{w:.17g} {x:.17g} {y:.17g} {z:.17g}">'
            f'<inertial pos="0 0 0" mass="1" diaginertia="0.01 0.01 0.01"/>{hinge}{body}</body>'
        )
    return f'<mujoco><compiler angle="radian"/><worldbody>{body}</worldbody></mujoco>'
