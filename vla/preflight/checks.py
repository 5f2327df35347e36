"""Judges the clock, joints, pose and limits of a robot before anything moves. No ROS.

Each function turns measurements into findings: what was checked, whether it is right, and what to
do where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.contract.joint_limits import JointLimits
from vla.contract.state_checks import joints_fault, missing_joints, opening_fault, place_fault
from vla.control.safety import REACH, SafetyLimits
from vla.core.findings import Finding, fine, problem, warning

# Joint states and poses slower than this leave the controller without a measured state [Hz].
SLOWEST_STATES = 20.0
# How far the pose topic may lie from the joints' own kinematics [m, rad].
POSE_TOLERANCE, TURN_TOLERANCE = 0.01, 0.05
# A tool this fast is not what anybody begins with [m/s].
FAST_TOOL = 1.0


def check_clock(
    publishers: Sequence[str], runs: bool, use_sim_time: bool, topic: str = "/clock"
) -> list[Finding]:
    """Simulated time has one source, and is used exactly where that source runs.

    publishers: of `topic`. runs: whether a time came from it.
    """
    area = "time"
    if use_sim_time and not runs:
        cure = "start the simulator, or leave --use-sim-time out on a real robot"
        return [problem(area, f"nothing comes on {topic}", cure)]
    if len(publishers) > 1:
        text = f"{topic} has {len(publishers)} publishers: {', '.join(publishers)}"
        return [problem(area, text, "stop all but one")]
    if publishers and not use_sim_time:
        text = f"{publishers[0]} publishes {topic}, but the time is taken from this machine"
        return [warning(area, text, "give --use-sim-time, or end the simulator or bag player")]
    return [fine(area, f"simulated time, from {topic}" if use_sim_time else "time of this machine")]


def check_joints(
    contract: EmbodimentContract, positions: Mapping[str, float], limits: JointLimits | None
) -> list[Finding]:
    """Names, values and limits of the measured joints [rad, m]."""
    area = "joints"
    wanted = (*contract.joint_names, *contract.finger_joint_names)
    arm = missing_joints(contract.joint_names, positions)
    if fault := arm or missing_joints(contract.finger_joint_names, positions):
        return [problem(area, fault.message, fault.cure)]
    if bad := [name for name in wanted if not np.isfinite(positions[name])]:
        text = f"no finite position of {', '.join(bad)}"
        return [problem(area, text, "restart the robot's driver")]
    found = []
    width = sum(positions[name] for name in contract.finger_joint_names)
    for fault in (opening_fault(width, contract), joints_fault(contract, positions)):
        if fault is not None:
            found.append(problem(area, fault.message, fault.cure))
    if found:
        return found
    if limits is not None:
        for name, low, high in zip(limits.names, limits.lower, limits.upper, strict=True):
            if not low <= positions[name] <= high:
                text = f"{name} is at {positions[name]:.3f} rad, outside of {low:.3f} to {high:.3f}"
                found.append(
                    problem(area, text, "move the arm back by hand, or correct the limits")
                )
    text = f"{len(wanted)} joints, all inside of their limits; fingers {width:.3f} m apart"
    return found or [fine(area, text)]


def check_pose(
    contract: EmbodimentContract,
    frame: str,
    position: np.ndarray,
    quaternion: np.ndarray,
    expected: tuple[np.ndarray, float] | None,
    workspace: tuple[Sequence[float], Sequence[float]],
) -> list[Finding]:
    """The end-effector pose: frame, unit length, place, and agreement with the joints.

    expected: the tool's position by the joints' kinematics, and the angle between the two
    orientations [rad]; None where the kinematics are not known. workspace: its two corners [m].
    """
    area, topic = "end-effector pose", contract.end_effector_pose_topic
    if not np.isfinite([*position, *quaternion]).all():
        return [problem(area, f"{topic} is not finite", "restart the robot's driver")]
    found = []
    if frame != contract.base_frame:
        cure = f"the contract says '{contract.base_frame}': correct base_frame, or the driver"
        found.append(problem(area, f"{topic} is in frame '{frame}'", cure))
    if abs(np.linalg.norm(quaternion) - 1.0) > 1e-2:
        text = f"the quaternion of {topic} is not of unit length"
        return [*found, problem(area, text, "correct its publisher")]
    if expected is not None:
        away, turn = float(np.linalg.norm(position - expected[0])), expected[1]
        if away > POSE_TOLERANCE or turn > TURN_TOLERANCE:
            found.append(
                problem(
                    area,
                    f"{topic} is {1e3 * away:.0f} mm and {turn:.2f} rad from where the joints "
                    f"put '{contract.tool_frame}'",
                    "tool_frame and the driver's end-effector frame must be the same (in Desk: "
                    "Settings, End effector); check robot_model",
                )
            )
    low, high = np.array(workspace[0]), np.array(workspace[1])
    if fault := place_fault(position):
        found.append(problem(area, f"{topic}: {fault.message}", fault.cure))
    elif (position < low).any() or (position > high).any():
        found.append(
            warning(
                area,
                f"the tool is at {np.round(position, 3).tolist()}, outside of the workspace",
                "move it inside before you start: it may only come back, or correct "
                "workspace_min and workspace_max",
            )
        )
    if expected is None:
        return found or [fine(area, f"{topic} is in frame '{frame}' and of unit length")]
    return found or [fine(area, f"{topic} agrees with the joints")]


def check_limits(limits: SafetyLimits, tool: np.ndarray | None) -> list[Finding]:
    """The safety stage's settings. tool: its measured position in the base frame [m], if known."""
    area = "limits"
    try:
        limits.require_sound()
    except ValueError as error:
        return [problem(area, str(error), "correct the controller's parameters")]
    low, high = np.array(limits.workspace_min), np.array(limits.workspace_max)
    found = []
    if max(np.abs(low).max(), np.abs(high).max()) > REACH:
        text = f"the workspace {low.tolist()} to {high.tolist()} is larger than the arm's reach"
        cure = "set workspace_min and workspace_max to your table, or it protects nothing"
        found.append(warning(area, text, cure))
    if limits.max_linear_speed > FAST_TOOL:
        text = f"the tool may move at {limits.max_linear_speed:g} m/s"
        found.append(warning(area, text, "begin with max_linear_speed 0.1 and raise it later"))
    for box in limits.keep_out:
        if tool is not None and (tool > box[:3]).all() and (tool < box[3:]).all():
            text = f"the tool is at {np.round(tool, 3).tolist()}, inside of the keep-out box {box}"
            found.append(problem(area, text, "move it out by hand, or correct keep_out"))
    text = (
        f"workspace {low.tolist()} to {high.tolist()} m, {len(limits.keep_out)} keep-out boxes, "
        f"{limits.max_linear_speed:g} m/s, {limits.max_angular_speed:g} rad/s"
    )
    return found or [fine(area, text)]
