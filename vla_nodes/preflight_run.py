"""The whole of `vla preflight`: one look, and every check in the order of a person's questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from rclpy.parameter import Parameter

from vla.contract import EmbodimentContract, load_contract
from vla.control.kinematics import DifferentialIK
from vla.control.robot_model import RobotModel, arm_limits, model_from_urdf, panda_model
from vla.preflight import (
    PROBLEM,
    SLOWEST_STATES,
    Finding,
    check_camera,
    check_joints,
    check_policy,
    check_pose,
    check_topic,
)
from vla.resources import contract_path, given_or_shared
from vla.rotations import difference
from vla_nodes.client import RobotClient
from vla_nodes.controller_settings import CONTROLLER_SETTINGS, FROM_TOPIC, SIMULATED
from vla_nodes.preflight import (
    IMAGE_KINDS,
    JOINT_KINDS,
    POSE_KINDS,
    Look,
    RobotSeen,
    check_commands,
    check_middleware,
)


def preflight(arguments) -> list[Finding]:
    """All findings for the command's arguments; raises ValueError for bad ones."""
    contract = load_contract(contract_path(arguments.contract or arguments.robot))
    file = arguments.params_file or given_or_shared(f"config/robots/{arguments.robot}.yaml")
    parameters = controller_parameters(Path(file))
    findings = check_middleware()
    with RobotClient(arguments.namespace) as client:
        client.node.set_parameters([Parameter("use_sim_time", value=arguments.use_sim_time)])
        look = Look(client, contract, arguments.compressed)
        seen = look.finish(arguments.seconds)
        findings += check_inputs(contract, seen, arguments.compressed)
        findings += check_arm(contract, seen, parameters)
        findings += check_commands(client.node, parameters)
    if arguments.checkpoint:
        findings += check_policy(
            contract, arguments.checkpoint, arguments.adapter, arguments.device
        )
    return findings


def controller_parameters(file: Path) -> dict:
    """The controller's parameters by name: defaults, and what the file says.

    Raises ValueError when it cannot be read.
    """
    parameters = {setting.name: setting.default for setting in CONTROLLER_SETTINGS}
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    for node, values in content.items():
        if node in ("/**", "/**/controller", "controller", "/controller"):
            _flatten(values.get("ros__parameters", {}), "", parameters)
    return parameters


def _flatten(values: dict, prefix: str, into: dict) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", into)
        else:
            into[prefix + name] = value


def check_inputs(contract: EmbodimentContract, seen: RobotSeen, compressed: bool) -> list[Finding]:
    """Cameras, joint states and pose as topics, and the cameras' images."""
    findings = []
    # What the contract names already is no better name for anything else in it.
    known = {name: kinds for name, kinds in seen.known.items() if name[1:] not in seen.topics}
    suffix, kind = ("/compressed", IMAGE_KINDS[1:]) if compressed else ("", IMAGE_KINDS[:1])
    for camera in contract.cameras:
        topic = seen.topics[camera.topic + suffix]
        findings += check_topic("cameras", topic, kind, contract.rate, known)
        if topic.count:
            findings += check_camera(camera, seen.cameras[camera.name])
    findings += check_topic(
        "joints",
        seen.topics[contract.joint_states_topic],
        JOINT_KINDS,
        SLOWEST_STATES,
        known,
        several_publishers=True,
    )
    findings += check_topic(
        "end-effector pose",
        seen.topics[contract.end_effector_pose_topic],
        POSE_KINDS,
        SLOWEST_STATES,
        known,
    )
    return findings


def check_arm(contract: EmbodimentContract, seen: RobotSeen, parameters: dict) -> list[Finding]:
    """Robot model, limits, joints, and the pose against the joints' kinematics."""
    findings, limits, solver = [], None, None
    try:
        model = _model(contract, seen, parameters["robot_model"])
        limits = arm_limits(contract, model)
        solver = DifferentialIK(model.model_xml, model.tool_site, limits.velocity, model.posture)
        findings.append(Finding("robot model", f"{parameters['robot_model']}: limits complete"))
    except ValueError as error:
        findings.append(
            Finding(
                "robot model",
                str(error),
                PROBLEM,
                "correct robot_model, the contract or the driver's URDF",
            )
        )
    findings += check_joints(contract, seen.positions, limits)
    if seen.pose is not None:
        frame, position, quaternion = seen.pose
        expected = None
        joints = [seen.positions.get(name, np.nan) for name in contract.joint_names]
        if solver is not None and np.isfinite(joints).all():
            place, turn = solver.tool_pose(np.array(joints))
            expected = place, float(np.linalg.norm(difference(turn, quaternion)))
        workspace = parameters["workspace_min"], parameters["workspace_max"]
        findings += check_pose(contract, frame, position, quaternion, expected, workspace)
    return findings


def _model(contract: EmbodimentContract, seen: RobotSeen, source: str) -> RobotModel:
    if source == SIMULATED:
        return panda_model()
    if source == FROM_TOPIC:
        if not seen.urdf:
            raise ValueError(
                "nothing came on topic robot_description: start the driver's robot_state_publisher"
            )
        urdf = seen.urdf
    else:
        try:
            urdf = given_or_shared(source).read_text()
        except OSError as error:
            raise ValueError(f"robot_model {source}: {error.strerror}") from error
    return model_from_urdf(urdf, contract.joint_names, contract.base_frame, contract.tool_frame)
