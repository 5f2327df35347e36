"""The robot interfaces that the controller can drive, by the names that parameters use.

Each module names its parameters in SETTINGS and its class in one of BACKEND, GRIPPER and MONITOR.
"""

from __future__ import annotations

import importlib

BACKENDS = ("joint_trajectory", "moveit_servo", "cartesian_pose")
# Those that command the tool and leave the joints to the robot.
TOOL_BACKENDS = ("moveit_servo", "cartesian_pose")
GRIPPERS = ("position", "gripper_command", "parallel_gripper_command", "franka")
MONITORS = ("none", "franka")

_MODULES = {
    "joint_trajectory": "joint_trajectory",
    "moveit_servo": "moveit_servo",
    "cartesian_pose": "cartesian_pose",
    "gripper.position": "gripper_position",
    "gripper.gripper_command": "gripper_command",
    "gripper.parallel_gripper_command": "gripper_command",
    "gripper.franka": "gripper_franka",
    "monitor.franka": "franka_monitor",
}


def _module(name: str):
    return importlib.import_module(f"vla_nodes.backends.{_MODULES[name]}")


def all_settings() -> tuple:
    """The parameters of all backends, each once."""
    names = dict.fromkeys(_MODULES.values())
    found = (importlib.import_module(f"vla_nodes.backends.{name}") for name in names)
    return tuple(setting for module in found for setting in module.SETTINGS)


def make_backend(name: str, context):
    """The arm's backend; raises ValueError with one sentence when it is not available here."""
    return _module(name).BACKEND(context)


def make_gripper(name: str, context):
    """The gripper; raises ValueError with one sentence when it is not available here."""
    return _module(f"gripper.{name}").GRIPPER(context)


def make_monitor(name: str, context):
    """The robot's monitor, None for "none"; raises ValueError when it is not available here."""
    return None if name == "none" else _module(f"monitor.{name}").MONITOR(context)
