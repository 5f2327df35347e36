"""The arm controller: action chunks in, safe joint commands out. No ROS, no threads, no clock.

Chunks become a tool target (execution), the target joint positions (kinematics), these a smooth
motion (tracking), and the motion a command (safety). The controller node and the in-process
evaluation run this same class; times are seconds of one clock that the caller chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from mink import MinkError

from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.control.chunk import (
    ActionChunk,
    ChunkError,
    ChunkTrajectory,
    ToolTarget,
    check_chunk,
    check_reference,
    check_steps,
)
from vla.control.command import ArmCommand
from vla.control.execution import ChunkExecutor, ExecutionConfig, start_of
from vla.control.joint_states import unwrapped
from vla.control.kinematics import DifferentialIK
from vla.control.robot_model import RobotModel, able_limits, arm_limits, panda_model
from vla.control.safety import SafetyLimits, SafetyStage
from vla.control.tracking import JointTracker
from vla.core.rotations import difference, from_rotation_vector, multiply

# Share of a limit that targets are shaped to, so that the safety stage seldom intervenes.
SHAPED_SHARE = 0.9
# Steps of inverse kinematics from one position of a preview to the next.
PREVIEW_STEPS = 4
# The arm stops backing off when the following error is below this share of its limit.
FOLLOWS_AGAIN = 0.5


@dataclass(frozen=True)
class ArmControllerConfig:
    """How chunks become motion."""

    control_rate: float = 50.0  # calls of step() [Hz]
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    safety: SafetyLimits = field(
        default_factory=lambda: SafetyLimits((0.25, -0.45, 0.012), (0.75, 0.45, 0.65))
    )
    bandwidth: float = 25.0  # of the tracking [rad/s]; lower is smoother
    # How far ahead of now the arm's target is read, beyond the lag of the tracking [s]; compensates
    # the lag of the robot's own controllers.
    lookahead: float = 0.01
    # The robot takes tool poses and solves for its joints itself, so only the tool is compared with
    # the command.
    tool_commanded: bool = False
    close_below: float = 0.4  # between this and `open_above` the gripper stays as it is
    open_above: float = 0.6
    # The motion has settled when the targets of the last settle_time seconds stayed within the two
    # limits below.
    settle_time: float = 1.5
    settle_distance: float = 0.012  # [m]
    settle_angle: float = 0.15  # [rad]


@dataclass
class _Settling:
    since: float = np.inf
    position: np.ndarray = field(default_factory=lambda: np.full(3, np.inf))
    quaternion: np.ndarray = field(default_factory=lambda: np.array([0.0, 0.0, 0.0, 1.0]))
    gripper: float = np.nan


@dataclass
class _Reference:
    """The tool pose that the arm is guided by, and its joints [n]."""

    position: np.ndarray
    quaternion: np.ndarray
    joints: np.ndarray


class ArmController:
    """Follows chunks by time, within limits; comes to rest smoothly without one."""

    def __init__(
        self,
        config: ArmControllerConfig,
        contract: EmbodimentContract,
        model: RobotModel | None = None,
    ):
        """model: of the arm; None for the simulated Panda.

        Raises ContractError for a contract whose actions cannot be executed, LimitsError for
        missing or impossible limits.
        """
        contract.require_tool("the controller")
        if contract.representation != "delta":
            raise ContractError(
                f"contract '{contract.name}': actions of representation "
                f"'{contract.representation}' cannot be executed; the controller takes 'delta'"
            )
        self.config = config
        self.contract = contract
        model = model or panda_model()
        joints = arm_limits(contract, model)
        self.kinematics = DifferentialIK(
            model.model_xml, model.tool_site, joints.velocity, model.posture
        )
        self.safety = SafetyStage(config.safety, joints, self.kinematics)
        self.executor = ChunkExecutor(config.execution, contract.time_step)
        self._tracker = JointTracker(joints, config.bandwidth)
        self._joints = joints
        self.able, self.continuous = able_limits(contract, model), model.continuous
        self._reference: _Reference | None = None
        self._backs_off = False
        # When the arm came to rest with no chunk to follow [s]; infinite while it moves.
        self._still_since = -np.inf
        self._gripper_width = contract.gripper_open_width
        self._settling = _Settling()

    @property
    def period(self) -> float:
        """Time between two calls of step() [s]."""
        return 1.0 / self.config.control_rate

    @property
    def lookahead(self) -> float:
        """How far ahead of now chunks are read: the lag of the tracking and the robot [s]."""
        return self._tracker.lag + self.config.lookahead

    @property
    def backs_off(self) -> bool:
        """True while the arm does not follow, and the command returns to where the arm is."""
        return self._backs_off

    @property
    def moving(self) -> bool:
        """True while the commanded motion is not at rest."""
        return self.safety.anchored and not self.safety.motion.at_rest

    def accept(self, chunk: ActionChunk, now: float, measured: np.ndarray | None = None) -> None:
        """Takes over a chunk from the next step on, and skips steps whose time has passed.

        A chunk that finds the arm as still as its observation did is followed from its start.
        measured: joints [n] now, None for the commanded ones. Raises ChunkError for a chunk of
        another shape or time step, with values that are not finite or that no limit could follow,
        or from an observation older than max_chunk_age or than that of the current chunk, which
        then goes on.
        """
        try:
            self._check(chunk, now, measured)
            self.executor.accept(chunk, now, self._still_since)
        except ChunkError as error:
            self.safety.note(f"{error.reason}_chunk")
            raise

    def _check(self, chunk: ActionChunk, now: float, measured: np.ndarray | None) -> None:
        limits = self.config.safety
        check_chunk(chunk)
        check_steps(chunk, limits.max_linear_speed, limits.max_angular_speed)
        if measured is None and self.safety.anchored:
            measured = self.safety.motion.positions
        if measured is None:
            return
        age = min(max(now - chunk.stamp, 0.0), self.config.execution.max_chunk_age)
        check_reference(
            chunk,
            *self.kinematics.tool_pose(measured),
            limits.max_linear_speed * age,
            limits.max_angular_speed * age,
        )

    def preview(self, chunk: ActionChunk, now: float, count: int, joints: np.ndarray) -> np.ndarray:
        """Arm positions [count, n] along the rest of a chunk, by inverse kinematics [rad].

        joints: where the arm starts [n]. Raises ChunkError for a chunk of another shape.
        """
        trajectory = ChunkTrajectory(chunk, start_of(chunk, now, self._still_since))
        places = []
        for time in np.linspace(now + self.lookahead, trajectory.end, count + 1)[1:]:
            target = trajectory.target(float(time))
            for _ in range(PREVIEW_STEPS):
                joints = self.kinematics.step(joints, target.position, target.quaternion, 0.2)
            places.append(joints)
        return np.array(places)

    def hold(self) -> None:
        """Drops the chunks: the arm comes to rest and stays there until the next chunk."""
        self.executor.clear()
        self._settling = _Settling()

    def reset(self, gripper_width: float | None = None) -> None:
        """Forgets the last command, too: the next step starts from the measured joints.

        gripper_width: what the gripper is at or on its way to [m]; None for open.
        """
        self.hold()
        self.safety.forget()
        self._reference = None
        self._backs_off = False
        self._still_since = -np.inf
        self._gripper_width = (
            self.contract.gripper_open_width if gripper_width is None else gripper_width
        )

    def step(
        self, now: float, joint_positions: np.ndarray | None, duration: float | None = None
    ) -> ArmCommand:
        """The command for now.

        joint_positions: measured [n] [rad], continuous joints wrapped or not; None when unknown,
        which brings the arm to rest. duration: time since the last call [s], by default the control
        period. Raises ValueError when the joints are not n finite values, or unknown at the first
        step.
        """
        duration = duration or self.period
        measured = self._checked(joint_positions)
        if not self.safety.anchored:
            if measured is None:
                raise ValueError("where the arm is must be known before it is first moved")
            self.safety.anchor(measured)
        self._note_following(measured)
        target = None
        if measured is not None and not self.safety.emergency_stopped:
            target = self.executor.target(now + self.lookahead, now)
        age = self.executor.age(now)
        before = self.kinematics.tool_pose(self.safety.motion.positions)
        limited = False
        if target is None or measured is None or self._backs_off:
            # The next chunk is followed from where the arm is then.
            self._reference = None
        if target is None or measured is None:
            self.safety.advance(None, duration)
        elif self._backs_off:
            wanted, why = self._tracker.step(self.safety.motion, measured, duration)
            limited = bool(self.safety.advance(wanted, duration, {*why, "following_error"}))
        else:
            limited = self._follow(target, measured, duration)
            self._grip(target.gripper)
            self._note_motion(now, target)
        is_still = target is None and not self.moving
        self._still_since = min(self._still_since, now) if is_still else np.inf
        executing = target is not None and not self._backs_off
        return self._command(before, duration, executing, limited, age)

    def _checked(self, joint_positions: np.ndarray | None) -> np.ndarray | None:
        if joint_positions is None:
            return None
        measured = np.asarray(joint_positions, dtype=np.float64)
        count = len(self._joints.names)
        if measured.shape != (count,) or not np.isfinite(measured).all():
            raise ValueError(f"expected {count} finite joint positions, got {measured}")
        return self.near_command(measured)

    def near_command(self, measured: np.ndarray) -> np.ndarray:
        """Measured joints [n], the continuous ones within half a turn of the commanded ones."""
        if not self.safety.anchored:
            return measured
        return unwrapped(measured, self.safety.motion.positions, self.continuous)

    def following_error(self, measured: np.ndarray) -> float:
        """How far the measured arm [n] is from the command, as a share of the limit."""
        limits, measured = self.config.safety, self.near_command(measured)
        if not self.config.tool_commanded:
            lag = np.abs(self.safety.motion.positions - measured).max()
            return float(lag / limits.max_following_error)
        wanted, _ = self.kinematics.tool_pose(self.safety.motion.positions)
        here, _ = self.kinematics.tool_pose(measured)
        return float(np.linalg.norm(wanted - here) / limits.max_tool_error)

    def _note_following(self, measured: np.ndarray | None) -> None:
        """Updates whether the arm follows its commands."""
        if measured is not None:
            most = FOLLOWS_AGAIN if self._backs_off else 1.0
            self._backs_off = self.following_error(measured) > most

    def _follow(self, target: ToolTarget, measured: np.ndarray, duration: float) -> bool:
        """Moves on towards a target; returns whether a limit changed the motion."""
        motion = self.safety.motion
        if self._reference is None:
            self._reference = _Reference(
                *self.kinematics.tool_pose(motion.positions), motion.positions.copy()
            )
        reference = self._reference
        position, quaternion, why = self._shape(target, reference, duration)
        reference.position, reference.quaternion = position, quaternion
        try:
            reference.joints = self.kinematics.step(
                reference.joints, position, quaternion, duration
            )
        except MinkError:
            why.add("inverse_kinematics")
        if not self.config.tool_commanded:
            # With the target near the arm, the force on an obstacle stays small.
            reach = SHAPED_SHARE * self.config.safety.max_following_error
            near = np.clip(reference.joints, measured - reach, measured + reach)
            if (near != reference.joints).any():
                why.add("step_from_measured")
                reference.joints = near
        wanted, held_back = self._tracker.step(motion, reference.joints, duration)
        return bool(self.safety.advance(wanted, duration, why | held_back))

    def _shape(
        self, target: ToolTarget, reference: _Reference, duration: float
    ) -> tuple[np.ndarray, np.ndarray, set[str]]:
        """The next reference pose: towards the target, inside the boxes, no faster than allowed."""
        limits = self.config.safety
        why: set[str] = set()
        position = np.clip(target.position, limits.workspace_min, limits.workspace_max)
        if (position != target.position).any():
            why.add("workspace")
        for box in limits.keep_out:
            outside = _outside(position, np.array(box[:3]), np.array(box[3:]))
            if outside is not position:
                why.add("keep_out")
                position = outside
        here, orientation = reference.position, reference.quaternion
        reach = SHAPED_SHARE * limits.max_linear_speed * duration
        offset = position - here
        distance = float(np.linalg.norm(offset))
        if distance > reach:
            position = here + offset * (reach / distance)
            why.add("tool_speed")
        quaternion = target.quaternion
        reach = SHAPED_SHARE * limits.max_angular_speed * duration
        turn = difference(quaternion, orientation)
        angle = float(np.linalg.norm(turn))
        if angle > reach:
            quaternion = multiply(from_rotation_vector(turn * (reach / angle)), orientation)
            why.add("tool_turning_speed")
        return position, quaternion, why

    def _grip(self, value: float) -> None:
        if value < self.config.close_below:
            self._gripper_width = 0.0
        elif value > self.config.open_above:
            self._gripper_width = self.contract.gripper_open_width

    def _command(
        self, before: tuple, duration: float, executing: bool, limited: bool, age: float
    ) -> ArmCommand:
        motion = self.safety.motion
        position, quaternion = self.kinematics.tool_pose(motion.positions)
        velocity = np.concatenate([position - before[0], difference(quaternion, before[1])])
        return ArmCommand(
            motion.positions.copy(),
            motion.velocities.copy(),
            motion.accelerations.copy(),
            position,
            quaternion,
            velocity / duration,
            self._gripper_width,
            self.safety.stop,
            executing,
            limited,
            age if executing else np.nan,
        )

    def _note_motion(self, now: float, target: ToolTarget) -> None:
        settling, config = self._settling, self.config
        turned = np.linalg.norm(difference(target.quaternion, settling.quaternion))
        still = (
            np.linalg.norm(target.position - settling.position) < config.settle_distance
            and turned < config.settle_angle
            and settling.gripper == self._gripper_width
        )
        if not still:
            self._settling = _Settling(now, target.position, target.quaternion, self._gripper_width)

    def settled(self, now: float) -> bool:
        """True when the executed targets have stayed in place for settle_time seconds."""
        return now - self._settling.since > self.config.settle_time


def _outside(position: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The nearest point on a box's surface for a point inside it; the point itself outside."""
    if (position <= low).any() or (position >= high).any():
        return position
    depths = np.concatenate([position - low, high - position])
    nearest = int(np.argmin(depths))
    moved = position.copy()
    moved[nearest % 3] = low[nearest] if nearest < 3 else high[nearest - 3]
    return moved
