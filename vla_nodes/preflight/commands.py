"""Part of `vla preflight`: whether commands would reach the robot, and ours alone; our own nodes.

It reads the graph, states and parameters, and commands nothing.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches

import rclpy
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from vla_ros.msg import PolicyStatus

from vla.contract.embodiment import ContractError, EmbodimentContract, load_contract
from vla.core.findings import Finding, fine, problem, warning
from vla.core.resources import contract_path
from vla.core.shown import brief
from vla_nodes.client.graph import RobotClient, UnreachableError
from vla_nodes.core import qos
from vla_nodes.preflight.probe import DESCRIPTION, RobotMeasurements, incompatible, node_name

TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
POSE = "geometry_msgs/msg/PoseStamped"
_SERVO = [
    ("service", "{moveit_servo.node}/switch_command_type", "moveit_msgs/srv/ServoCommandType"),
    ("status", "{moveit_servo.node}/status", "moveit_msgs/msg/ServoStatus"),
]
# What each backend, gripper and monitor needs: use, name and type. Names in braces are parameters
# of the controller. "command": a topic that a controller of the robot reads. "silent": a topic
# without publishers. "status": a topic that must be alive. "active": one that ros2_control's
# controllers, if they have it, publish on while they are active.
NEEDS = {
    "joint_trajectory.topic": [
        ("command", "{joint_trajectory.controller}/joint_trajectory", TRAJECTORY),
        ("active", "{joint_trajectory.controller}/controller_state", ""),
    ],
    "joint_trajectory.action": [
        (
            "action",
            "{joint_trajectory.controller}/follow_joint_trajectory",
            "control_msgs/action/FollowJointTrajectory",
        ),
        ("silent", "{joint_trajectory.controller}/joint_trajectory", TRAJECTORY),
        ("active", "{joint_trajectory.controller}/controller_state", ""),
    ],
    "moveit_servo.pose": [("command", "{moveit_servo.node}/pose_target_cmds", POSE), *_SERVO],
    "moveit_servo.twist": [
        ("command", "{moveit_servo.node}/delta_twist_cmds", "geometry_msgs/msg/TwistStamped"),
        *_SERVO,
    ],
    "cartesian_pose": [
        ("command", "{cartesian_pose.topic}", POSE),
        ("status", "{cartesian_pose.current_pose_topic}", POSE),
    ],
    "gripper.position": [("command", "{gripper_position.topic}", "std_msgs/msg/Float64MultiArray")],
    "gripper.gripper_command": [
        ("action", "{gripper_command.action}", "control_msgs/action/GripperCommand")
    ],
    "gripper.parallel_gripper_command": [
        ("action", "{gripper_command.action}", "control_msgs/action/ParallelGripperCommand")
    ],
    "gripper.franka": [
        ("action", "{franka_gripper.node}/move", "franka_msgs/action/Move"),
        ("action", "{franka_gripper.node}/grasp", "franka_msgs/action/Grasp"),
    ],
    "monitor.none": [],
    "monitor.franka": [
        ("status", "{franka.state_topic}", "franka_msgs/msg/FrankaRobotState"),
        ("action", "{franka.recovery_action}", "franka_msgs/action/ErrorRecovery"),
    ],
}
# Packages that every ROS has.
WITHOUT_PACKAGE = ("geometry_msgs", "std_msgs", "trajectory_msgs", "")
OUR_NODES = ("perception", "reasoning", "action_expert", "controller")
# Parameters of a running node that must be the same as those checked.
COMPARED = {
    "perception": ("compressed",),
    "controller": (
        "backend",
        "gripper",
        "monitor",
        "robot_model",
        "workspace_min",
        "workspace_max",
    ),
}
# Longest wait for the answer of one of our own nodes [s].
PATIENCE = 3.0
FIX = "load and activate its controller or driver, or correct the controller's parameter"


def chosen(parameters: Mapping) -> list[str]:
    """The keys of NEEDS for the controller's parameters."""
    backend = parameters["backend"]
    if backend == "joint_trajectory":
        backend += f".{parameters['joint_trajectory.interface']}"
    elif backend == "moveit_servo":
        backend += f".{parameters['moveit_servo.command']}"
    return [backend, f"gripper.{parameters['gripper']}", f"monitor.{parameters['monitor']}"]


def needs(name: str, parameters: Mapping) -> list[tuple[str, str, str]]:
    """What one of them needs: use, name on the graph, type."""
    filled = [
        (use, re.sub(r"\{(.+?)\}", lambda match: str(parameters[match[1]]), pattern), kind)
        for use, pattern, kind in NEEDS[name]
    ]
    # An empty name is not needed.
    return [(use, text, kind) for use, text, kind in filled if text]


def watched(parameters: Mapping) -> list[str]:
    """Topics that must be alive."""
    return [
        text
        for name in chosen(parameters)
        for use, text, _ in needs(name, parameters)
        if use in ("status", "active")
    ]


def check_commands(node, parameters: Mapping, seen: RobotMeasurements) -> list[Finding]:
    """Whether backend, gripper and monitor find what they need, and no other program commands.

    parameters: of the controller, by name.
    """
    findings = []
    services = dict(node.get_service_names_and_types())
    for name in chosen(parameters):
        problems = []
        wanted = needs(name, parameters)
        packages = dict.fromkeys(kind.partition("/")[0] for _, _, kind in wanted)
        for package in packages:
            if package not in WITHOUT_PACKAGE and importlib.util.find_spec(package) is None:
                cure = f"install ros-jazzy-{package.replace('_', '-')}, and source it first"
                text = f"{name} needs {package}, which is not installed"
                problems.append(problem("commands", text, cure))
        for use, text, kind in wanted:
            full = node.resolve_topic_name(text)
            if use in ("action", "service"):
                problems += _check_server(name, use, full, kind, services)
            elif use in ("status", "active"):
                problems += _check_alive(name, use, full, node, seen)
            else:
                problems += _check_command(name, use, full, kind, node)
        if not problems and wanted:
            shown = ", ".join(node.resolve_topic_name(text) for use, text, _ in wanted
                              if use not in ("silent", "active"))  # fmt: skip
            problems = [fine("commands", f"{name}: {shown}")]
        findings += problems
    return findings


def _check_server(name: str, use: str, full: str, kind: str, services: Mapping) -> list[Finding]:
    """An action or service: there, and of the right type."""
    ending = "/_action/send_goal" if use == "action" else ""
    kinds = services.get(full + ending)
    if kinds is None:
        alike = [n.removesuffix(ending) for n in services if n.endswith(ending)]
        near = get_close_matches(full, alike, 1, 0.7)
        hint = f"; there is {near[0]}" if near else ""
        return [problem("commands", f"{name}: nobody serves the {use} {full}", FIX + hint)]
    theirs = [text.removesuffix("_SendGoal") for text in kinds]
    if kind not in theirs:
        text = f"{name}: the {use} {full} is {', '.join(theirs)}, not {kind}"
        return [problem("commands", text, "choose the backend or gripper that speaks it")]
    return []


def _check_alive(name: str, use: str, full: str, node, seen: RobotMeasurements) -> list[Finding]:
    """A topic that must have messages."""
    if node.count_publishers(full) == 0:
        if use == "active":
            return []
        return [problem("commands", f"{name}: nobody publishes {full}", FIX)]
    if seen.heard.get(full) == 0:
        text = f"{name}: {full} is announced, but nothing came"
        return [problem("commands", text, "activate its controller, or see its log")]
    return []


def _check_command(name: str, use: str, full: str, kind: str, node) -> list[Finding]:
    """A topic of commands: its reader takes the right type, and only we publish."""
    found = []
    readers = node.get_subscriptions_info_by_topic(full)
    kinds = dict.fromkeys(info.topic_type for info in readers)
    if use == "command" and not readers:
        found.append(problem("commands", f"{name}: nobody listens on {full}", FIX))
    elif use == "command" and kind not in kinds:
        text = f"{name}: {full} is read as {', '.join(kinds)}, not as {kind}"
        found.append(problem("commands", text, "choose the backend or gripper that speaks it"))
    for reason in incompatible(readers, qos.COMMAND, ours_writes=True):
        text = f"{name}: the quality of service of {full} does not fit ours: {reason}"
        found.append(problem("commands", text, "change it in the parameters of its controller"))
    ours = f"{node.get_namespace().rstrip('/')}/controller"
    others = [node_name(info) for info in node.get_publishers_info_by_topic(full)]
    others = [other for other in others if other != ours]
    if others:
        text = f"{', '.join(others)} publishes on {full}"
        found.append(problem("commands", text, "stop it: two must not command one arm"))
    return found


def check_latched(node, parameters: Mapping) -> list[Finding]:
    """Publishers that offer less than our nodes request, so that they are never heard."""
    wanted = [("vla/emergency_stop_button", qos.COMMAND, "publish it reliable: it is not heard")]
    if parameters["robot_model"] == DESCRIPTION:
        cure = "publish it reliable and transient local, as robot_state_publisher does"
        wanted.append((DESCRIPTION, qos.LATCHED, cure))
    return [
        problem(
            "commands" if name != DESCRIPTION else "robot model",
            f"the quality of service of {name} does not fit ours: {reason}",
            cure,
        )
        for name, profile, cure in wanted
        for reason in incompatible(node.get_publishers_info_by_topic(name), profile)
    ]


def check_nodes(
    client: RobotClient,
    contract: EmbodimentContract,
    parameters: Mapping,
    compressed: bool,
    use_sim_time: bool,
    status: PolicyStatus | None,
) -> list[Finding]:
    """Our own nodes: once each, active, and with the settings that were checked.

    parameters: of the controller, by name. compressed, use_sim_time: of perception, and of all.
    """
    judged = dict(parameters) | {"compressed": compressed, "use_sim_time": use_sim_time}
    area, space = "nodes", client.node.get_namespace().rstrip("/")
    there = [
        name
        for name, namespace in client.node.get_node_names_and_namespaces()
        if namespace.rstrip("/") == space
    ]
    if not set(there) & set(OUR_NODES):
        return [fine(area, "ours do not run yet")]
    found, active = [], []
    for name in OUR_NODES:
        if there.count(name) > 1:
            text = f"there are {there.count(name)} nodes {space}/{name}"
            found.append(problem(area, text, "end all but one"))
        elif name in there:
            try:
                state = client.call(GetState, f"{name}/get_state", GetState.Request(), PATIENCE)
                label = state.current_state.label
                differing = _differences(client, name, contract, judged)
            except UnreachableError as error:
                found.append(warning(area, str(error), "start it again"))
                continue
            found += [
                problem(area, f"{space}/{name} has {text}", "give both the same settings")
                for text in differing
            ]
            if label == "active":
                active.append(name)
            else:
                cure = f"its log says why; then ros2 lifecycle set {space}/{name} activate"
                found.append(warning(area, f"{space}/{name} is {label}", cure))
    found += _check_status(area, status)
    return found or [fine(area, f"{', '.join(active)}: active")]


def _differences(
    client: RobotClient, name: str, contract: EmbodimentContract, judged: Mapping
) -> list[str]:
    """Settings of a running node that differ from those checked, in words."""
    names = ["use_sim_time", *COMPARED.get(name, ())]
    request = GetParameters.Request(names=["contract", *names])
    answer = client.call(GetParameters, f"{name}/get_parameters", request, PATIENCE)
    if not answer.values:
        return ["other parameters than ours: another program's node of that name"]
    contract_name, *values = map(parameter_value_to_python, answer.values)
    texts = []
    for key, other in zip(names, values, strict=True):
        value = judged[key]
        other = list(other) if isinstance(value, list) and other is not None else other
        if other is not None and other != value:
            texts.append(f"{key} {brief(other)}; checked was {brief(value)}")
    try:
        other = load_contract(contract_path(contract_name or ""))
    except (ContractError, ValueError):
        return texts
    if other != contract:
        texts.append(f"the contract '{other.name}' ({other.contract_id}); checked was "
                     f"'{contract.name}' ({contract.contract_id})")  # fmt: skip
    return texts


def _check_status(area: str, status: PolicyStatus | None) -> list[Finding]:
    """Whether the policy is idle, and may move."""
    if status is None:
        return []
    if status.state == PolicyStatus.EMERGENCY_STOPPED:
        cure = "when all is well: ros2 service call vla/reset_emergency_stop std_srvs/srv/Trigger"
        return [warning(area, f"emergency stop: {status.message}", cure)]
    if status.state == PolicyStatus.EXECUTING:
        text = f"the arm follows '{status.instruction}' now"
        return [warning(area, text, "vla stop; then check again")]
    return []


def check_middleware(node) -> list[Finding]:
    """The ROS environment of this shell, and whether it reaches other nodes."""
    area = "middleware"
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    rmw = rclpy.get_rmw_implementation_identifier()
    text = f"ROS_DOMAIN_ID {domain}, discovery range {reach}, {rmw}"
    others = [name for name in node.get_node_names() if name != node.get_name()]
    if not others:
        cure = (
            "start the robot, in the same ROS_DOMAIN_ID, RMW_IMPLEMENTATION and "
            "ROS_AUTOMATIC_DISCOVERY_RANGE (SUBNET where it is another machine)"
        )
        return [problem(area, f"no other node is heard ({text})", cure)]
    text += f", other nodes: {len(others)}"
    if reach == "LOCALHOST":
        text += "; robots and cameras on other machines are not heard"
    return [fine(area, text)]
