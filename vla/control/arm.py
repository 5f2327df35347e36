"""The arm controller: action chunks in, safe joint commands out. No ROS, no threads, no clock.

The controller node and the in-process evaluation run this same class; times are seconds of one
clock that the caller chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vla.contract import ContractError, EmbodimentContract
from vla.control.chunk import ActionChunk, ChunkError, ChunkTrajectory
from vla.control.kinematics import DifferentialIK
from vla.rotations import difference, from_rotation_vector, multiply
from vla.sim import panda

# How far the tool may pass the workspace's walls [m]: without it, the smallest error of inverse
# kinematics would stop a tool that slides along one.
WORKSPACE_TOLERANCE = 0.004


@dataclass
class ArmControllerConfig:
    """Limits and timing of the arm controller.

    control_rate: calls of step() per second [Hz]. max_chunk_age: oldest observation that a chunk
    may still act on [s]. lookahead: how far ahead of now the chunk is read [s], which makes up for
    the lag of inverse kinematics and servos. workspace_min, workspace_max: box of the tool in the
    base frame [m]. max_linear_speed [m/s], max_angular_speed [rad/s]: of the tool.
    max_joint_velocity: [rad/s] each. max_following_error: between commanded and measured joints
    before the command is drawn back to the measured state [rad]. settle_time, settle_distance,
    settle_angle: the motion has settled when the targets of the last settle_time seconds stay
    within the other two.
    """

    control_rate: float = 50.0
    max_chunk_age: float = 1.2
    lookahead: float = 0.08
    workspace_min: tuple[float, ...] = (0.25, -0.45, 0.012)
    workspace_max: tuple[float, ...] = (0.75, 0.45, 0.65)
    max_linear_speed: float = 0.5
    max_angular_speed: float = 1.5
    max_joint_velocity: tuple[float, ...] = tuple(float(v) for v in panda.JOINT_MAX_VELOCITY)
    max_following_error: float = 0.25
    settle_time: float = 1.5
    settle_distance: float = 0.012
    settle_angle: float = 0.15


@dataclass
class ArmCommand:
    """What to send to the robot.

    joint_positions [7] in radians, gripper_width in metres. executing: a chunk is being followed
    (False: the arm holds). limited: a limit cut the target. chunk_age: of its observation [s], NaN
    without one.
    """

    joint_positions: np.ndarray
    gripper_width: float
    executing: bool
    limited: bool
    chunk_age: float


@dataclass
class _Settling:
    since: float = np.inf
    position: np.ndarray = field(default_factory=lambda: np.full(3, np.inf))
    quaternion: np.ndarray = field(default_factory=lambda: np.array([0.0, 0.0, 0.0, 1.0]))
    gripper: float = np.nan


class ArmController:
    """Executes the newest chunk by time, within limits; holds when there is none."""

    def __init__(self, config: ArmControllerConfig, contract: EmbodimentContract):
        if contract.representation != "delta":
            raise ContractError(
                f"contract '{contract.name}': actions of representation "
                f"'{contract.representation}' cannot be executed; the controller takes 'delta'"
            )
        self.config = config
        self.contract = contract
        self.kinematics = DifferentialIK(
            panda.arm_model_xml(),
            panda.TOOL_SITE,
            np.array(config.max_joint_velocity),
            panda.HOME,
        )
        self._trajectory: ChunkTrajectory | None = None
        self._commanded: np.ndarray | None = None
        self._gripper_width = contract.gripper_open_width
        self._settling = _Settling()

    def accept(self, chunk: ActionChunk, now: float) -> None:
        """Takes a chunk over from the next step on; steps whose time has passed are skipped.

        Raises ChunkError for a chunk of another shape or time step, with values that are not
        finite, or from an observation older than max_chunk_age or than the chunk in execution; what
        was being executed then goes on.
        """
        trajectory = ChunkTrajectory(chunk)
        if abs(chunk.time_step - self.contract.time_step) > 1e-6:
            raise ChunkError(
                "shape", f"time_step is {chunk.time_step}, the contract's {self.contract.time_step}"
            )
        age = now - chunk.stamp
        if age > self.config.max_chunk_age:
            raise ChunkError(
                "stale", f"observation is {age:.2f} s old, limit {self.config.max_chunk_age}"
            )
        if self._trajectory is not None and chunk.stamp < self._trajectory.chunk.stamp:
            raise ChunkError("stale", "an older observation's chunk came after a newer one's")
        self._trajectory = trajectory

    def hold(self) -> None:
        """Drops the chunk: the arm keeps its last command until the next chunk."""
        self._trajectory = None
        self._settling = _Settling()

    def reset(self) -> None:
        """Forgets the last command, too: the next step starts from the measured joints."""
        self.hold()
        self._commanded = None
        self._gripper_width = self.contract.gripper_open_width

    def step(self, now: float, joint_positions: np.ndarray) -> ArmCommand:
        """The command for now. joint_positions: measured [7] in radians.

        Raises ValueError when they are not 7 finite values.
        """
        measured = np.asarray(joint_positions, dtype=np.float64)
        if measured.shape != (7,) or not np.isfinite(measured).all():
            raise ValueError(f"expected 7 finite joint positions, got {measured}")
        if self._commanded is None:
            self._commanded = measured.copy()
        trajectory = self._trajectory
        if trajectory is None:
            return self._command(executing=False, limited=False, age=np.nan)
        age = now - trajectory.chunk.stamp
        if age > self.config.max_chunk_age:
            self.hold()
            return self._command(executing=False, limited=False, age=age)

        target = trajectory.target(now + self.config.lookahead)
        position, quaternion, limited = self._limit(target.position, target.quaternion)
        lag = self._commanded - measured
        error = self.config.max_following_error
        if np.abs(lag).max() > error:
            self._commanded = measured + np.clip(lag, -error, error)
            limited = True
        wanted = self.kinematics.step(
            self._commanded, position, quaternion, 1.0 / self.config.control_rate
        )
        share = self._allowed_share(wanted)
        self._commanded = self._commanded + share * (wanted - self._commanded)
        limited = limited or share < 1.0
        self._gripper_width = self.contract.gripper_open_width * float(target.gripper > 0.5)
        self._note_motion(now, target.position, target.quaternion)
        return self._command(executing=True, limited=limited, age=age)

    def _limit(self, position: np.ndarray, quaternion: np.ndarray) -> tuple:
        """Cuts the target to the workspace box and to the tool's speed limits."""
        boxed = np.clip(position, self.config.workspace_min, self.config.workspace_max)
        limited = bool(np.any(boxed != position))
        here, orientation = self.kinematics.tool_pose(self._commanded)
        # Beyond what one step may cover, as inverse kinematics leaves part of it for later; what
        # it does cover is limited afterwards.
        reach = self.config.max_linear_speed * 4 / self.config.control_rate
        offset = boxed - here
        distance = float(np.linalg.norm(offset))
        if distance > reach:
            boxed, limited = here + offset * (reach / distance), True
        turn = difference(quaternion, orientation)
        angle = float(np.linalg.norm(turn))
        reach = self.config.max_angular_speed * 4 / self.config.control_rate
        if angle > reach:
            turn = from_rotation_vector(turn * (reach / angle))
            quaternion, limited = multiply(turn, orientation), True
        return boxed, quaternion, limited

    def _allowed_share(self, wanted: np.ndarray) -> float:
        """How much of the step to joint positions `wanted` keeps the tool within its limits, 0..1.

        Inverse kinematics trades position for orientation and for joint limits, so that the tool
        may go elsewhere than its target, and faster.
        """
        here, orientation = self.kinematics.tool_pose(self._commanded)
        there, turned = self.kinematics.tool_pose(wanted)
        config = self.config
        offset = there - here
        share = min(
            1.0,
            config.max_linear_speed / config.control_rate / max(np.linalg.norm(offset), 1e-9),
            config.max_angular_speed
            / config.control_rate
            / max(np.linalg.norm(difference(turned, orientation)), 1e-9),
        )
        # A tool that is outside already may always come back.
        for wall, sign in (
            (np.array(config.workspace_max), 1),
            (np.array(config.workspace_min), -1),
        ):
            left = sign * (wall - here) + WORKSPACE_TOLERANCE
            leaving = (sign * offset > 0) & (sign * offset * share > left)
            if leaving.any():
                share = min(share, float((left[leaving] / (sign * offset[leaving])).min()))
        return max(0.0, share)

    def _command(self, executing: bool, limited: bool, age: float) -> ArmCommand:
        return ArmCommand(self._commanded.copy(), self._gripper_width, executing, limited, age)

    def _note_motion(self, now: float, position: np.ndarray, quaternion: np.ndarray) -> None:
        settling, config = self._settling, self.config
        still = (
            np.linalg.norm(position - settling.position) < config.settle_distance
            and np.linalg.norm(difference(quaternion, settling.quaternion)) < config.settle_angle
            and settling.gripper == self._gripper_width
        )
        if not still:
            self._settling = _Settling(now, position, quaternion, self._gripper_width)

    def settled(self, now: float) -> bool:
        """True when the executed targets have stayed in place for settle_time seconds."""
        return self._trajectory is not None and now - self._settling.since > self.config.settle_time
