"""The parameters of the node `controller`, and the library's configuration made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rclpy.node import Node
from rclpy.wait_for_message import wait_for_message
from std_msgs.msg import String

from vla.contract.embodiment import EmbodimentContract
from vla.control.arm import ArmControllerConfig
from vla.control.execution import MODES, WEIGHTS
from vla.control.loop import LoopLimits
from vla.control.robot_model import (
    MOST_URDF_BYTES,
    RobotModel,
    RobotModelError,
    model_from_urdf,
    panda_model,
)
from vla.control.safety import SafetyLimits
from vla.core.files import read_text
from vla_nodes.backends import (
    BACKENDS,
    GRIPPERS,
    MONITORS,
    TOOL_BACKENDS,
    all_settings,
)
from vla_nodes.controller.planning_scene import SETTINGS as PLANNING_SCENE_SETTINGS
from vla_nodes.core import qos
from vla_nodes.core.settings import Setting, Settings

SIMULATED = "sim_panda"
FROM_TOPIC = "robot_description"
# Stands for no box, since a parameter's list cannot be empty.
NO_BOX = [0.0]

_ARM = ArmControllerConfig()
_EXECUTION, _SAFETY = _ARM.execution, _ARM.safety
_LIMITS = LoopLimits()


def _seconds(name: str, default: float, description: str, most: float, least: float = 0.01):
    return Setting(name, default, f"{description} [s].", bounds=(least, most))


CONTROLLER_SETTINGS = (
    Setting(
        "contract",
        "sim_panda",
        "Embodiment contract: path of a YAML file, or name of one in config/contracts.",
    ),
    Setting(
        "robot_model",
        SIMULATED,
        "Kinematics and limits of the arm: 'sim_panda', the path of a URDF file, or "
        "'robot_description' for the URDF on the topic of that name.",
    ),
    _seconds(
        "robot_description_timeout",
        10.0,
        "Longest wait of configure for the URDF on robot_description",
        most=600.0,
    ),
    Setting("backend", "joint_trajectory", "How the arm is commanded.", choices=BACKENDS),
    Setting("gripper", "position", "How the gripper is commanded.", choices=GRIPPERS),
    Setting("monitor", "none", "What watches the robot's own safety system.", choices=MONITORS),
    Setting("control_rate", 50.0, "Commands to the arm per second [Hz].", bounds=(10.0, 500.0)),
    Setting(
        "realtime_priority",
        0,
        "Priority of the control thread under SCHED_FIFO, which needs the right to it (rtprio in "
        "/etc/security/limits.conf); 0 for the ordinary scheduler.",
        bounds=(0, 98),
    ),
    Setting("execution", _EXECUTION.mode, "How chunks are followed.", choices=MODES),
    Setting(
        "execute_steps",
        _EXECUTION.execute_steps,
        "Steps of a chunk that mode 'chunk' follows before it takes the next; 0 for all of them.",
        bounds=(0, 1000),
    ),
    Setting(
        "ensemble_weights",
        _EXECUTION.weights,
        "How mode 'ensemble' weighs the chunks.",
        choices=WEIGHTS,
    ),
    Setting(
        "ensemble_size",
        _EXECUTION.ensemble_size,
        "Newest chunks that mode 'ensemble' combines.",
        bounds=(1, 1000),
    ),
    _seconds(
        "max_chunk_age",
        _EXECUTION.max_chunk_age,
        "Oldest observation whose chunk is accepted, and how long a chunk is followed from its "
        "start: from that observation on, or, if the arm has been at rest since, from its arrival",
        most=60.0,
    ),
    _seconds(
        "max_latent_age",
        _LIMITS.max_latent_age,
        "Oldest observation whose latent action may be behind a chunk that is accepted",
        most=60.0,
    ),
    _seconds(
        "max_state_age",
        _LIMITS.max_state_age,
        "Longest silence of the joint states before the arm holds",
        most=10.0,
    ),
    _seconds(
        "max_observation_gap",
        _LIMITS.max_observation_gap,
        "Longest silence of the observations before the arm holds",
        most=10.0,
    ),
    Setting(
        "max_latent_gap",
        _LIMITS.max_latent_gap,
        "Longest silence of the latent actions before the arm holds [s]; a dead process is noticed "
        "at once.",
        bounds=(0.05, 60.0),
    ),
    Setting(
        "max_chunk_gap",
        _LIMITS.max_chunk_gap,
        "Longest silence of the action chunks before the arm holds [s]; a dead process is noticed "
        "at once.",
        bounds=(0.05, 60.0),
    ),
    _seconds(
        "max_heartbeat_age",
        0.1,
        "Longest silence of the heartbeat of perception, reasoning or action_expert before the arm "
        "holds, for those that send one",
        least=0.05,
        most=10.0,
    ),
    Setting(
        "lookahead",
        _ARM.lookahead,
        "How far ahead of now the arm's target is read, which compensates the lag of the robot's "
        "own controllers [s].",
        bounds=(0.0, 1.0),
    ),
    Setting(
        "tracking_bandwidth",
        _ARM.bandwidth,
        "How closely the commands follow the chunk [rad/s]: lower is smoother. Reading ahead "
        "compensates the lag.",
        bounds=(5.0, 200.0),
    ),
    Setting(
        "default_timeout",
        60.0,
        "Longest time for ExecuteInstruction goals that name none [s].",
        bounds=(0.1, 86400.0),
        live=True,
    ),
    _seconds(
        "fault_timeout",
        15.0,
        "How long the arm may hold before an ExecuteInstruction goal ends with FAULT",
        least=0.1,
        most=86400.0,
    ),
    Setting(
        "load_timeout",
        60.0,
        "Longest time for each model node to load or drop an adapter [s].",
        bounds=(0.1, 3600.0),
        live=True,
    ),
    Setting(
        "workspace_min",
        list(_SAFETY.workspace_min),
        "Lower corner x, y, z of the box that the tool stays in, base frame [m].",
        bounds=(-10.0, 10.0),
    ),
    Setting(
        "workspace_max",
        list(_SAFETY.workspace_max),
        "Upper corner x, y, z of the box that the tool stays in, base frame [m].",
        bounds=(-10.0, 10.0),
    ),
    Setting(
        "keep_out",
        NO_BOX,
        "Boxes that the tool stays out of, base frame: x, y, z of the lower and of the upper "
        "corner for each, one after the other [m]; a single number for none.",
        bounds=(-10.0, 10.0),
    ),
    Setting(
        "max_linear_speed",
        _SAFETY.max_linear_speed,
        "Limit of the tool's speed [m/s].",
        bounds=(0.001, 10.0),
    ),
    Setting(
        "max_angular_speed",
        _SAFETY.max_angular_speed,
        "Limit of the tool's turning speed [rad/s].",
        bounds=(0.001, 10.0),
    ),
    Setting(
        "max_following_error",
        _SAFETY.max_following_error,
        "Largest distance of commanded from measured joints before the command backs off [rad].",
        bounds=(0.001, 3.0),
    ),
    Setting(
        "max_tool_error",
        _SAFETY.max_tool_error,
        "The same for the tool, with backends that command the tool and leave the joints to the "
        "robot [m].",
        bounds=(0.001, 1.0),
    ),
    Setting(
        "gripper_close_below",
        _ARM.close_below,
        "Gripper values of the policy, 0 closed to 1 open, below which it closes.",
        bounds=(0.0, 1.0),
    ),
    Setting(
        "gripper_open_above",
        _ARM.open_above,
        "Gripper values of the policy above which it opens; in between it stays as it is.",
        bounds=(0.0, 1.0),
    ),
    _seconds(
        "settle_time",
        _ARM.settle_time,
        "The motion has settled when it stayed within the two limits below for this long",
        least=0.1,
        most=60.0,
    ),
    Setting(
        "settle_distance",
        _ARM.settle_distance,
        "Motion of the tool's target that still counts as settled [m].",
        bounds=(0.0, 1.0),
    ),
    Setting(
        "settle_angle",
        _ARM.settle_angle,
        "Turn of the tool's target that still counts as settled [rad].",
        bounds=(0.0, 3.0),
    ),
    *PLANNING_SCENE_SETTINGS,
    *all_settings(),
)


def arm_config(settings: Settings | Mapping[str, Any]) -> ArmControllerConfig:
    """The arm's configuration from parameters; raises ValueError when they contradict each other.

    Limits that contradict each other are found where they are used.
    """
    flat = settings["keep_out"]
    if len(flat) % 6 and flat != NO_BOX:
        raise ValueError(f"keep_out {flat} must have six numbers for each box")
    boxes = [] if flat == NO_BOX else [tuple(flat[i : i + 6]) for i in range(0, len(flat), 6)]
    close_below, open_above = settings["gripper_close_below"], settings["gripper_open_above"]
    if close_below > open_above:
        raise ValueError(
            f"gripper_close_below {close_below:g} must not be above gripper_open_above "
            f"{open_above:g}"
        )
    return ArmControllerConfig(
        control_rate=settings["control_rate"],
        execution=replace(
            _EXECUTION,
            mode=settings["execution"],
            max_chunk_age=settings["max_chunk_age"],
            execute_steps=settings["execute_steps"],
            weights=settings["ensemble_weights"],
            ensemble_size=settings["ensemble_size"],
        ),
        safety=SafetyLimits(
            workspace_min=tuple(settings["workspace_min"]),
            workspace_max=tuple(settings["workspace_max"]),
            keep_out=tuple(boxes),
            max_linear_speed=settings["max_linear_speed"],
            max_angular_speed=settings["max_angular_speed"],
            max_following_error=settings["max_following_error"],
            max_tool_error=settings["max_tool_error"],
        ),
        bandwidth=settings["tracking_bandwidth"],
        lookahead=settings["lookahead"],
        tool_commanded=settings["backend"] in TOOL_BACKENDS,
        close_below=close_below,
        open_above=open_above,
        settle_time=settings["settle_time"],
        settle_distance=settings["settle_distance"],
        settle_angle=settings["settle_angle"],
    )


def loop_limits(settings: Settings) -> LoopLimits:
    """Ages and silences of the inputs from parameters."""
    return LoopLimits(**{field.name: settings[field.name] for field in fields(LoopLimits)})


def robot_model(node: Node, settings: Settings, contract: EmbodimentContract) -> RobotModel:
    """The arm's kinematics and limits; waits for the URDF where it comes by topic.

    Raises ValueError with one sentence when it is not available.
    """
    source = settings["robot_model"]
    if source == SIMULATED:
        return panda_model()
    if source == FROM_TOPIC:
        patience = settings["robot_description_timeout"]
        came, message = wait_for_message(
            String, node, "robot_description", qos_profile=qos.LATCHED, time_to_wait=patience
        )
        if not came:
            raise ValueError(
                f"no URDF came on topic robot_description within {patience:g} s: start the robot's "
                "driver with its robot_state_publisher, or name a URDF file by robot_model"
            )
        urdf = message.data
    else:
        try:
            urdf = read_text(source, RobotModelError, MOST_URDF_BYTES)
        except RobotModelError as error:
            raise ValueError(
                f"robot_model: {error}: give 'sim_panda', 'robot_description' or the path of a "
                "URDF file"
            ) from error
    return model_from_urdf(urdf, contract.joint_names, contract.base_frame, contract.tool_frame)
