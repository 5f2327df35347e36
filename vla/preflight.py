"""What a robot's topics say before anything moves, judged against contract and checkpoint. No ROS.

Each function turns measurements into findings: what was looked at, whether it is as it should be,
and what to do where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from vla.contract import CameraContract, ContractError, EmbodimentContract
from vla.control.limits import JointLimits

OK, WARNING, PROBLEM = "ok", "warning", "problem"

# Clocks that differ by more than this put images and joints of different moments together [s].
LARGEST_OFFSET = 0.05
# Joint states slower than this leave the controller without a measured state for long [Hz].
SLOWEST_STATES = 20.0
# How far the pose topic may lie from the joints' own kinematics [m, rad].
POSE_TOLERANCE, TURN_TOLERANCE = 0.01, 0.05
# Share of a rate that still counts as met: rates are measured over a few seconds.
RATE_SHARE = 0.9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. level: OK, WARNING or PROBLEM. cure: what to do, "" if OK."""

    area: str
    message: str
    level: str = OK
    cure: str = ""


@dataclass
class TopicSeen:
    """A topic over some seconds.

    kinds: types that its publishers say. publishers: names of their nodes. best_effort: whether any
    of them is. count: messages that came. seconds: time looked at. gap: longest time between two
    [s]. offsets: stamp less the time of arrival of each [s]. zero_stamps, standing_stamps: messages
    with a zero stamp, or with the stamp of the one before.
    """

    name: str
    kinds: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()
    best_effort: bool = False
    count: int = 0
    seconds: float = 0.0
    gap: float = 0.0
    offsets: list[float] = field(default_factory=list)
    zero_stamps: int = 0
    standing_stamps: int = 0

    @property
    def rate(self) -> float:
        """Messages per second [Hz]."""
        return self.count / self.seconds if self.seconds > 0 else 0.0


@dataclass
class CameraSeen:
    """Images of one camera. changed: whether any two differ. dark, bright: mean value 0 to 255."""

    width: int = 0
    height: int = 0
    encoding: str = ""
    error: str = ""
    changed: bool = False
    mean: float = 127.0


def check_topic(
    area: str,
    topic: TopicSeen,
    kinds: Sequence[str],
    least_rate: float,
    known: Mapping[str, Sequence[str]],
    several_publishers: bool = False,
) -> list[Finding]:
    """Presence, type, publishers, rate and stamps of one topic.

    kinds: types that will do. least_rate [Hz]. known: all topics of the graph with their types.
    """
    if not topic.publishers:
        alike = [name for name, types in known.items() if set(types) & set(kinds)]
        near = get_close_matches(topic.name, alike, 1, 0.4) or alike[:1]
        hint = f"; there is {near[0]}: name it in the contract, or remap it" if near else ""
        return [Finding(area, f"nobody publishes {topic.name}", PROBLEM, f"start its driver{hint}")]
    found = []
    if not set(topic.kinds) & set(kinds):
        return [
            Finding(
                area,
                f"{topic.name} is {', '.join(topic.kinds)}",
                PROBLEM,
                f"it must be {' or '.join(kinds)}",
            )
        ]
    if len(topic.publishers) > 1 and not several_publishers:
        found.append(
            Finding(
                area,
                f"{topic.name} has {len(topic.publishers)} publishers: "
                f"{', '.join(topic.publishers)}",
                PROBLEM,
                "stop all but one",
            )
        )
    if topic.count == 0:
        return [
            *found,
            Finding(
                area,
                f"{topic.name} is announced, but nothing came",
                PROBLEM,
                "see its driver's log; look at the network's multicast and at ROS_DOMAIN_ID",
            ),
        ]
    if topic.rate < RATE_SHARE * least_rate:
        found.append(
            Finding(
                area,
                f"{topic.name} comes at {topic.rate:.1f} Hz",
                PROBLEM,
                f"it needs {least_rate:g} Hz: raise the rate of its driver",
            )
        )
    elif topic.gap > 5.0 / topic.rate + 0.05:
        found.append(
            Finding(
                area,
                f"{topic.name} paused for {topic.gap:.2f} s at a rate of {topic.rate:.0f} Hz",
                WARNING,
                "look at the load and the network: the arm holds during longer pauses",
            )
        )
    found += check_stamps(area, topic)
    if not found:
        offset = f", stamps {1e3 * np.median(topic.offsets):+.0f} ms" if topic.offsets else ""
        quality = "best effort" if topic.best_effort else "reliable"
        found.append(Finding(area, f"{topic.name}: {topic.rate:.1f} Hz, {quality}{offset}"))
    return found


def check_stamps(area: str, topic: TopicSeen) -> list[Finding]:
    """Stamps that are zero, stand still, or come from another clock."""
    if topic.zero_stamps:
        return [
            Finding(
                area,
                f"{topic.name} has zero stamps",
                PROBLEM,
                "its driver must stamp with the time of the measurement",
            )
        ]
    if topic.standing_stamps > 0.2 * topic.count:
        return [
            Finding(
                area,
                f"the stamps of {topic.name} stand still",
                PROBLEM,
                "restart its driver: it sends an old measurement again and again",
            )
        ]
    if not topic.offsets:
        return []
    offset = float(np.median(topic.offsets))
    if abs(offset) > 1.0:
        return [
            Finding(
                area,
                f"the stamps of {topic.name} are {offset:+.1f} s from this machine's clock",
                PROBLEM,
                "synchronise the clocks (chrony or PTP), and set use_sim_time alike in all nodes",
            )
        ]
    if offset > 0.005 or offset < -LARGEST_OFFSET:
        return [
            Finding(
                area,
                f"the stamps of {topic.name} are {1e3 * offset:+.0f} ms from their arrival",
                WARNING,
                "synchronise the clocks of camera, robot and this machine",
            )
        ]
    return []


def check_camera(camera: CameraContract, seen: CameraSeen) -> list[Finding]:
    """Size, encoding and content of a camera's images."""
    area, name = "cameras", f"camera '{camera.name}'"
    if seen.error:
        return [Finding(area, f"{name}: {seen.error}", PROBLEM, "set its driver to rgb8 or bgr8")]
    found = []
    if seen.width < camera.width or seen.height < camera.height:
        found.append(
            Finding(
                area,
                f"{name} sends {seen.width} x {seen.height}",
                PROBLEM,
                f"the contract needs {camera.width} x {camera.height}: raise its resolution",
            )
        )
    if not seen.changed:
        found.append(
            Finding(
                area,
                f"{name} sent the same image all the time",
                WARNING,
                "normal in simulation; a real camera is frozen: restart its driver",
            )
        )
    if not 8.0 < seen.mean < 247.0:
        found.append(
            Finding(
                area,
                f"{name} is nearly {'black' if seen.mean < 100 else 'white'}",
                PROBLEM,
                "take its cap off, or set its exposure",
            )
        )
    return found or [Finding(area, f"{name}: {seen.width} x {seen.height}, {seen.encoding}")]


def check_joints(
    contract: EmbodimentContract, positions: Mapping[str, float], limits: JointLimits | None
) -> list[Finding]:
    """Names, values and limits of the measured joints [rad, m]."""
    area = "joints"
    wanted = (*contract.joint_names, *contract.finger_joint_names)
    missing = [name for name in wanted if name not in positions]
    if missing:
        return [
            Finding(
                area,
                f"the joint states lack {', '.join(missing)}; they have "
                f"{', '.join(sorted(positions)) or 'none'}",
                PROBLEM,
                "correct joint_names and finger_joint_names of the contract, or start the missing "
                "driver (the gripper's, most often)",
            )
        ]
    bad = [name for name in wanted if not np.isfinite(positions[name])]
    if bad:
        return [
            Finding(
                area,
                f"no finite position of {', '.join(bad)}",
                PROBLEM,
                "restart the robot's driver",
            )
        ]
    found = []
    width = sum(positions[name] for name in contract.finger_joint_names)
    if not -0.005 <= width <= contract.gripper_open_width + 0.005:
        found.append(
            Finding(
                area,
                f"the fingers are {width:.3f} m apart; open is {contract.gripper_open_width:g}",
                PROBLEM,
                "check the gripper's joints and sign: their sum must be the opening in "
                "metres, 0 closed",
            )
        )
    if limits is not None:
        for index, name in enumerate(limits.names):
            low, high, value = limits.lower[index], limits.upper[index], positions[name]
            if not low <= value <= high:
                found.append(
                    Finding(
                        area,
                        f"{name} is at {value:.3f} rad, outside of {low:.3f} to {high:.3f}",
                        PROBLEM,
                        "move the arm back by hand, or correct the limits",
                    )
                )
    return found or [Finding(area, f"{len(wanted)} joints, all inside of their limits")]


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
    found = []
    if frame != contract.base_frame:
        found.append(
            Finding(
                area,
                f"{topic} is in frame '{frame}'",
                PROBLEM,
                f"the contract says '{contract.base_frame}': correct base_frame, or the driver",
            )
        )
    if abs(np.linalg.norm(quaternion) - 1.0) > 1e-2:
        return [
            *found,
            Finding(
                area,
                f"the quaternion of {topic} is not of unit length",
                PROBLEM,
                "correct its publisher",
            ),
        ]
    if expected is not None:
        away, turn = float(np.linalg.norm(position - expected[0])), expected[1]
        if away > POSE_TOLERANCE or turn > TURN_TOLERANCE:
            found.append(
                Finding(
                    area,
                    f"{topic} is {1e3 * away:.0f} mm and {turn:.2f} rad from where the joints "
                    f"put '{contract.tool_frame}'",
                    PROBLEM,
                    "tool_frame and the driver's end-effector frame must be the same (in Desk: "
                    "Settings, End effector); check robot_model",
                )
            )
    low, high = np.array(workspace[0]), np.array(workspace[1])
    if (position < low).any() or (position > high).any():
        found.append(
            Finding(
                area,
                f"the tool is at {np.round(position, 3).tolist()}, outside of the workspace",
                WARNING,
                "move it inside before you start: it may only come back, or correct "
                "workspace_min and workspace_max",
            )
        )
    return found or [Finding(area, f"{topic} agrees with the joints")]


def check_policy(
    contract: EmbodimentContract, checkpoint: str | Path, adapter: str | Path, device: str
) -> list[Finding]:
    """Checkpoint, adapter and device: everything but the loading of the weights."""
    from vla.adapter import open_adapter
    from vla.checkpoint import open_checkpoint
    from vla.models.config import CheckpointError

    area = "policy"
    try:
        opened = open_checkpoint(checkpoint)
        contract.require_same(opened.contract, "of this robot", "of the checkpoint")
        if not opened.stats:
            raise CheckpointError(f"{checkpoint} has no norm_stats.json: it cannot act yet")
        if adapter:
            open_adapter(adapter)
    except ContractError as error:
        return [
            Finding(
                area, str(error), PROBLEM, "train or fine-tune for this contract (docs/training.md)"
            )
        ]
    except CheckpointError as error:
        return [Finding(area, str(error), PROBLEM, "give the folder of another one")]
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            return [
                Finding(
                    area,
                    f"device '{device}' is not there",
                    PROBLEM,
                    "install a CUDA build of torch and the driver, or use device cpu",
                )
            ]
    return [Finding(area, f"checkpoint {opened.checkpoint_id} is made for this contract")]


def report(findings: Sequence[Finding]) -> str:
    """The findings as text, by area, with a line for each cure."""
    marks = {OK: "  ok     ", WARNING: "  WARNING", PROBLEM: "  PROBLEM"}
    lines = []
    for area in dict.fromkeys(finding.area for finding in findings):
        lines.append(area)
        for finding in (f for f in findings if f.area == area):
            lines.append(f"{marks[finding.level]} {finding.message}")
            if finding.cure:
                lines.append(f"            -> {finding.cure}")
    problems = sum(finding.level == PROBLEM for finding in findings)
    warnings = sum(finding.level == WARNING for finding in findings)
    verdict = "ready" if not problems else "not ready"
    lines.append(f"{verdict}: {problems} problems, {warnings} warnings, {len(findings)} checks")
    return "\n".join(lines)
