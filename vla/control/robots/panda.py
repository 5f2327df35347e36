"""MJCF of the Franka Panda: kinematics from Franka's published parameters, meshes from a wheel.

The meshes are those that gymnasium-robotics ships; that package is located, not imported. Geoms of
group 2 are the detailed visual meshes, geoms of group 3 the light collision meshes, which are also
what small policy images are rendered from.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np

ARM_JOINTS = tuple(f"panda_joint{index}" for index in range(1, 8))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")
TOOL_SITE = "panda_hand_tcp"
HOME = np.array([0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398])
JOINT_LOWER = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_UPPER = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
JOINT_MAX_VELOCITY = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])
# Gentler than the arm could: 10 rad/s^2 and 400 rad/s^3 already stop it from its top speed within
# a quarter of a second.
JOINT_MAX_ACCELERATION = np.full(7, 10.0)
JOINT_MAX_JERK = np.full(7, 400.0)
OPEN_WIDTH = 0.08

# Per link: offset and orientation (w x y z) from its parent, mass, actuator stiffness and damping.
_LINKS = (
    ("0 0 0.333", "1 0 0 0", 2.74, 4500, 260),
    ("0 0 0", "0.707107 -0.707107 0 0", 2.74, 4500, 260),
    ("0 -0.316 0", "0.707107 0.707107 0 0", 2.38, 3500, 200),
    ("0.0825 0 0", "0.707107 0.707107 0 0", 2.38, 3500, 200),
    ("-0.0825 0.384 0", "0.707107 -0.707107 0 0", 2.74, 2000, 110),
    ("0 0 0", "0.707107 0.707107 0 0", 1.55, 2000, 110),
    ("0.088 0 0", "0.707107 0.707107 0 0", 0.54, 2000, 110),
)
_TORQUE_LIMITS = (87, 87, 87, 87, 12, 12, 12)

# Links as the arm bends in its plane [m]: heights of shoulder, upper and lower arm, the elbow's
# offset, from the wrist out to the flange, from the wrist down to the tool.
_SHOULDER, _UPPER_ARM, _FOREARM, _ELBOW, _FLANGE, _TOOL = 0.333, 0.316, 0.384, 0.0825, 0.088, 0.2104


def upright_joints(position: np.ndarray, yaw: float) -> np.ndarray:
    """Joints [7] that bring the tool to a place with the fingers pointing down.

    position: [3] in metres in the base frame. yaw: turn about the vertical [rad]; at 0 the fingers
    close along the base's y axis. Raises ValueError when the place is out of reach.
    """
    bearing = np.arctan2(position[1], position[0])
    out = np.hypot(position[0], position[1]) - _FLANGE
    up = position[2] + _TOOL - _SHOULDER
    upper, fore = np.hypot(_UPPER_ARM, _ELBOW), np.hypot(_FOREARM, _ELBOW)
    distance = np.hypot(out, up)
    elbow = (upper**2 + fore**2 - distance**2) / (2 * upper * fore)
    shoulder = (upper**2 + distance**2 - fore**2) / (2 * upper * distance)
    if abs(elbow) > 1.0 or abs(shoulder) > 1.0:
        raise ValueError(f"the tool does not reach {np.round(position, 3).tolist()}")
    lean = np.arctan2(_ELBOW, _UPPER_ARM)
    second = np.arctan2(out, up) - np.arccos(shoulder) - lean
    fourth = np.arccos(elbow) - np.pi - lean - np.arctan2(_ELBOW, _FOREARM)
    joints = np.array([bearing, second, 0.0, fourth, 0.0, second - fourth, bearing - yaw + HOME[6]])
    if (joints < JOINT_LOWER).any() or (joints > JOINT_UPPER).any():
        raise ValueError(f"the joints do not allow {np.round(position, 3).tolist()}")
    return joints


def mesh_folder() -> Path:
    """Folder of the installed Panda meshes. Raises FileNotFoundError that says what to install."""
    spec = importlib.util.find_spec("gymnasium_robotics")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("Panda meshes not found: pip install --no-deps gymnasium-robotics")
    assets = Path(spec.submodule_search_locations[0]) / "envs/assets/kitchen_franka/franka_assets"
    if not (assets / "meshes").is_dir():
        raise FileNotFoundError(f"Panda meshes not found under {assets}")
    return assets / "meshes"


def mesh_assets() -> str:
    """The <mesh> elements of the arm."""
    names = [f"link{index}" for index in range(8)] + ["hand", "finger"]
    return "\n".join(
        f'<mesh name="{kind}_{name}" file="{kind}/{name}.stl"/>'
        for kind in ("visual", "collision")
        for name in names
    )


def _geoms(name: str, color: str) -> str:
    return (
        f'<geom class="visual" mesh="visual_{name}" rgba="{color}"/>'
        f'<geom class="collision" mesh="collision_{name}" rgba="{color}"/>'
    )


def _finger(index: int, orientation: str, axis: str) -> str:
    """One finger; its pad is a box, which grips more steadily than the mesh's convex hull."""
    return f"""
    <body name="panda_finger{index}" pos="0 0 0.0584" quat="{orientation}" gravcomp="1">
      <inertial pos="0 0.01 0.03" mass="0.1" diaginertia="6e-5 6e-5 1e-5"/>
      <joint name="panda_finger_joint{index}" type="slide" axis="{axis}" range="0 0.04"
             armature="0.2" damping="20"/>
      <geom class="visual" mesh="visual_finger" rgba="0.25 0.26 0.28 1"/>
      <geom class="collision" mesh="collision_finger" rgba="0.25 0.26 0.28 1"
            contype="0" conaffinity="0"/>
      <geom name="pad{index}" type="box" group="4" pos="0 0.0075 0.0445" size="0.012 0.0075 0.011"
            friction="2.5 0.4 0.002" condim="6" priority="1" solref="0.01 1"/>
      <geom type="box" group="4" pos="0 0.014 0.022" size="0.009 0.009 0.014"/>
    </body>"""


def _wrist_camera(position: np.ndarray, target: np.ndarray) -> str:
    backward = position - target
    backward /= np.linalg.norm(backward)
    right = np.cross(np.array([1.0, 0.0, 0.0]), backward)
    right /= np.linalg.norm(right)
    up = np.cross(backward, right)
    axes = " ".join(f"{value:.5f}" for value in [*right, *up])
    place = " ".join(f"{value:.5f}" for value in position)
    return f'<camera name="wrist" pos="{place}" xyaxes="{axes}" fovy="75"/>'


def arm_body() -> str:
    """The arm and hand as nested bodies, base at the origin."""
    hand = f"""
      <body name="panda_hand" pos="0 0 0.107" quat="0.9238795 0 0 -0.3826834" gravcomp="1">
        <inertial pos="-0.01 0 0.03" mass="0.73" diaginertia="0.001 0.0025 0.0017"/>
        {_geoms("hand", "0.92 0.92 0.94 1")}
        <site name="{TOOL_SITE}" pos="0 0 0.1034" size="0.005" group="5"/>
        {_wrist_camera(np.array([0.09, 0.0, 0.0]), np.array([0.03, 0.0, 0.15]))}
        {_finger(1, "1 0 0 0", "0 1 0")}
        {_finger(2, "0 0 0 1", "0 1 0")}
      </body>"""
    body = hand
    for index in range(7, 0, -1):
        position, orientation, mass, _, _ = _LINKS[index - 1]
        color = "0.92 0.93 0.95 1" if index != 7 else "0.55 0.56 0.58 1"
        body = f"""
      <body name="panda_link{index}" pos="{position}" quat="{orientation}" gravcomp="1">
        <inertial pos="0 0 0" mass="{mass}" diaginertia="0.02 0.02 0.01"/>
        <joint name="panda_joint{index}" axis="0 0 1" armature="0.1" damping="1"
               range="{JOINT_LOWER[index - 1]} {JOINT_UPPER[index - 1]}"/>
        {_geoms(f"link{index}", color)}
        {body}
      </body>"""
    return f'<body name="panda_link0">{_geoms("link0", "0.92 0.93 0.95 1")}{body}</body>'


def arm_actuators() -> str:
    """Joint position servos, as a real arm's position interface offers them."""
    arm = "".join(
        f'<position name="panda_joint{i + 1}" joint="panda_joint{i + 1}" kp="{kp}" kv="{kv}" '
        f'forcerange="-{limit} {limit}" ctrlrange="{JOINT_LOWER[i]} {JOINT_UPPER[i]}"/>'
        for i, ((_, _, _, kp, kv), limit) in enumerate(zip(_LINKS, _TORQUE_LIMITS, strict=True))
    )
    fingers = "".join(
        f'<position name="{joint}" joint="{joint}" kp="1500" kv="60" forcerange="-35 35" '
        'ctrlrange="0 0.04"/>'
        for joint in FINGER_JOINTS
    )
    return arm + fingers


def defaults() -> str:
    """Default classes of the arm's geoms."""
    return """
    <default class="visual">
      <geom type="mesh" group="2" contype="0" conaffinity="0" mass="0"/>
    </default>
    <default class="collision"><geom type="mesh" group="3" mass="0"/></default>"""


def arm_model_xml() -> str:
    """The arm alone, without meshes: what kinematics needs."""
    bones = re.sub(r"<(geom|camera)[^>]*/>", "", arm_body())
    return f'<mujoco><compiler angle="radian"/><worldbody>{bones}</worldbody></mujoco>'
