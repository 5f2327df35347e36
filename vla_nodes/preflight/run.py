"""All of `vla preflight`: one measurement, then every check, in the operator's order."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.control.kinematics import DifferentialIK
from vla.control.robot_model import (
    MOST_URDF_BYTES,
    RobotModel,
    RobotModelError,
    arm_limits,
    model_from_urdf,
    panda_model,
)
from vla.core.files import read_text, read_yaml
from vla.core.findings import Finding, fine, problem
from vla.core.resources import contract_path, given_or_shared
from vla.core.rotations import difference
from vla.core.shown import brief
from vla.preflight.checks import (
    SLOWEST_STATES,
    check_clock,
    check_joints,
    check_limits,
    check_pose,
)
from vla.preflight.policy import check_policy
from vla.preflight.topics import (
    check_camera,
    check_joint_publishers,
    check_stamps,
    check_together,
    check_topic,
)
from vla_nodes.client.graph import RobotClient
from vla_nodes.controller.settings import (
    CONTROLLER_SETTINGS,
    FROM_TOPIC,
    SIMULATED,
    arm_config,
)
from vla_nodes.core.node import COMMON_SETTINGS
from vla_nodes.core.parameters_file import PARAMETERS, require_parameters
from vla_nodes.core.settings import Setting
from vla_nodes.preflight.commands import (
    check_commands,
    check_latched,
    check_middleware,
    check_nodes,
    watched,
)
from vla_nodes.preflight.probe import RobotMeasurements, RobotProbe

JOINT_KIND, POSE_KIND = "sensor_msgs/msg/JointState", "geometry_msgs/msg/PoseStamped"
CHOICES = ("backend", "gripper", "monitor")
DECLARED = {setting.name: setting for setting in CONTROLLER_SETTINGS}


def preflight(arguments) -> list[Finding]:
    """All findings for the command's arguments; raises ValueError for bad ones."""
    if arguments.adapter and not arguments.checkpoint:
        raise ValueError("--adapter needs the --checkpoint that it is for")
    contract = load_contract(contract_path(arguments.contract or arguments.robot))
    contract.require_tool("the check of a robot")
    file = arguments.params_file or given_or_shared(f"config/robots/{arguments.robot}.yaml")
    given = given_parameters(Path(file), "controller")
    given |= {name: value for name in CHOICES if (value := getattr(arguments, name))}
    findings = check_parameters(given)
    parameters = {name: setting.default for name, setting in DECLARED.items()} | given
    of_perception = given_parameters(Path(file), "perception", ("compressed",))
    compressed = arguments.compressed or bool(of_perception.get("compressed"))
    sim_time, image_suffix = arguments.use_sim_time, "/compressed" if compressed else ""
    with RobotClient(arguments.namespace, clock_topic=arguments.clock_topic) as client:
        probe = RobotProbe(client, contract, compressed, sim_time, watched(parameters))
        seen = probe.measure(arguments.seconds)
        findings = [
            *check_middleware(client.node),
            *check_clock(seen.clocks, seen.clock_runs, sim_time, seen.clock_topic),
            *check_inputs(contract, seen, compressed, sim_time),
            *check_arm(contract, seen, parameters),
            *findings,
            *check_commands(client.node, parameters, seen),
            *check_latched(client.node, parameters),
            *check_nodes(client, contract, parameters, compressed, sim_time, seen.status),
        ]
    if not arguments.checkpoint:
        return [*findings, fine("policy", "not checked: no --checkpoint was given")]
    live = [c.name for c in contract.cameras if seen.topics[c.topic + image_suffix].count]
    return findings + check_policy(
        contract,
        arguments.checkpoint,
        arguments.adapter,
        arguments.device,
        live,
        parameters["control_rate"],
        parameters["execute_steps"],
    )


def given_parameters(file: Path, node: str, known: Container[str] = DECLARED) -> dict:
    """A node's parameters in a file, by name; of those for all nodes, the known ones.

    Raises ValueError when it is no parameters file.
    """
    content = read_yaml(file, ValueError, finite=False) or {}
    require_parameters(file, ValueError)
    found: dict[str, Any] = {}
    for name, values in _by_node(content):
        if name.rpartition("/")[2] == node:
            found |= _flatten(values)
        elif name == "/**":
            # Parameters for all nodes may belong to another one.
            found |= {k: v for k, v in _flatten(values).items() if k in known}
    return found


def _by_node(content: Mapping, namespace: str = "") -> Iterator[tuple[str, dict]]:
    """Each node with its namespaces, and its parameters."""
    for name, values in content.items():
        if name == PARAMETERS:
            yield namespace, values
        else:
            yield from _by_node(values, f"{namespace}/{name}" if namespace else name)


def _flatten(values: Mapping, prefix: str = "") -> dict:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def check_parameters(given: Mapping) -> list[Finding]:
    """The controller's parameters by name: known, and possible.

    Raises ValueError where one is of so wrong a kind that nothing else can be judged.
    """
    area, found = "limits", []
    common = {"use_sim_time", *(setting.name for setting in COMMON_SETTINGS)}
    for name, value in given.items():
        setting = DECLARED.get(name)
        if setting is None and name not in common:
            near = get_close_matches(name, DECLARED, 1)
            hint = f"; it has {near[0]}" if near else ""
            text = f"the controller has no parameter '{name}'{hint}"
            found.append(problem(area, text, "correct the parameters file"))
        elif setting is not None:
            found += _check_value(area, setting, value)
    return found


def _check_value(area: str, setting: Setting, value) -> list[Finding]:
    name, default = setting.name, setting.default
    if setting.choices and value not in setting.choices:
        known = ", ".join(setting.choices)
        raise ValueError(f"{name} cannot be {brief(value)}: it must be one of {known}")
    entries = value if isinstance(value, list) else [value]
    model = default[0] if isinstance(default, list) else default
    number = isinstance(model, int | float) and not isinstance(model, bool)
    kind = int | float if number else type(model)
    if isinstance(value, list) is not isinstance(default, list) or not all(
        isinstance(entry, kind) and isinstance(entry, bool) is isinstance(model, bool)
        for entry in entries
    ):
        raise ValueError(f"{name} cannot be {brief(value)}: it must be like {default!r}")
    low, high = setting.bounds or (-np.inf, np.inf)
    if number and not all(isfinite(entry) for entry in entries):
        text = f"{name} is {brief(value)}, which is no finite number"
        return [problem(area, text, "correct it: the controller will refuse it")]
    if number and not all(low <= entry <= high for entry in entries):
        text = f"{name} is {brief(value)}, outside of {low:g} to {high:g}"
        return [problem(area, text, "correct it: the controller will refuse it")]
    return []


def check_inputs(
    contract: EmbodimentContract, seen: RobotMeasurements, compressed: bool, simulated: bool
) -> list[Finding]:
    """Cameras, joint states and pose as topics, the cameras' images, and how all fit in time."""
    findings = []
    # Topics that the contract uses are no suggestions for its other entries.
    taken = [topic for topic, of in seen.topics.items() if of.publishers]
    known = {
        name: kinds
        for name, kinds in seen.known.items()
        if not any(name.endswith(f"/{topic.lstrip('/')}") for topic in taken)
    }
    suffix, kind = ("/compressed", "CompressedImage") if compressed else ("", "Image")
    kind = f"sensor_msgs/msg/{kind}"
    streams = {}
    for camera in contract.cameras:
        topic = seen.topics[camera.topic + suffix]
        streams[camera.name] = (f"camera '{camera.name}'", topic, camera.max_age)
        findings += check_topic("cameras", topic, kind, contract.rate, camera.max_age, known)
        if topic.count:
            findings += check_camera(camera, seen.cameras[camera.name], simulated)
    joints = seen.topics[contract.joint_states_topic]
    pose = seen.topics[contract.end_effector_pose_topic]
    for area, topic, kind in (
        ("joints", joints, JOINT_KIND),
        ("end-effector pose", pose, POSE_KIND),
    ):
        several, age = topic is joints, contract.state_max_age
        findings += check_topic(area, topic, kind, SLOWEST_STATES, age, known, several)
    findings += check_joint_publishers(joints, seen.joint_sets)
    _, reference, max_age = streams.pop(contract.reference_camera)
    others = [
        *streams.values(),
        ("joint states", joints, contract.state_max_age),
        ("end-effector pose", pose, contract.state_max_age),
    ]
    # Stamps that are wrong by themselves have been reported.
    if reference.count and not check_stamps("", reference, max_age):
        findings += check_together(
            reference, [other for other in others if not check_stamps("", other[1], other[2])]
        )
    return findings


def check_arm(
    contract: EmbodimentContract, seen: RobotMeasurements, parameters: dict
) -> list[Finding]:
    """Robot model, joints, the pose against the joints' kinematics, and the settings' limits."""
    findings, limits, solver, expected = [], None, None, None
    source = parameters["robot_model"]
    try:
        model = _model(contract, seen, source)
        limits = arm_limits(contract, model)
        solver = DifferentialIK(model.model_xml, model.tool_site, limits.velocity, model.posture)
        findings.append(fine("robot model", f"{source}: joints, frames and limits complete"))
    except ValueError as error:
        cure = "correct robot_model, the contract or the driver's URDF"
        findings.append(problem("robot model", str(error), cure))
    if seen.joint_sets:
        findings += check_joints(contract, seen.positions, limits)
    joints = np.array([seen.positions.get(name, np.nan) for name in contract.joint_names])
    if solver is not None and np.isfinite(joints).all():
        expected = solver.tool_pose(joints)
    if seen.pose is not None:
        frame, position, quaternion = seen.pose
        away = None
        if expected is not None:
            away = expected[0], float(np.linalg.norm(difference(expected[1], quaternion)))
        workspace = parameters["workspace_min"], parameters["workspace_max"]
        findings += check_pose(contract, frame, position, quaternion, away, workspace)
    try:
        safety = arm_config(parameters).safety
    except ValueError as error:
        cure = "correct the controller's parameters"
        return [*findings, problem("limits", str(error), cure)]
    return findings + check_limits(safety, None if expected is None else expected[0])


def _model(contract: EmbodimentContract, seen: RobotMeasurements, source: str) -> RobotModel:
    if source == SIMULATED:
        return panda_model()
    if source == FROM_TOPIC:
        if not seen.urdf:
            raise ValueError(
                "nothing came on topic robot_description: start the driver's robot_state_publisher"
            )
        urdf = seen.urdf
    else:
        urdf = read_text(given_or_shared(source), RobotModelError, MOST_URDF_BYTES)
    return model_from_urdf(urdf, contract.joint_names, contract.base_frame, contract.tool_frame)
