"""One cycle of the control loop: decides between following a chunk and holding. No ROS.

Two clocks meet here. Chunks are read in robot time, the clock of their observations' stamps, which
a simulator may slow down or stop. Silent inputs are judged by a steady clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.control.arm import ArmController
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.command import ArmCommand
from vla.control.joint_states import STEADY_TIME, MeasuredJoints
from vla.control.session import ArmReport, HoldReason
from vla.control.watchdog import InputWatchdog, SilentInput, WatchedInput
from vla.core.clock import CLOCK_STEP, CLOCK_TOLERANCE, from_future

JOINT_STATES = "joint states"
OBSERVATIONS = "observations"
LATENT_ACTIONS = "latent actions"
ACTION_CHUNKS = "action chunks"

# A command that holds is repeated for this long after the last instruction [s]; then the arm is
# released, so that it does not work against a reset of the scene or an operator's hands.
RELEASE_TIME = 0.5
# An arm this near its last command [rad] has not been moved: the motion continues from the command.
NEAR = 0.01
# A late cycle makes up for at most this many periods, so that the motion stays in time.
LONGEST_CATCH_UP = 5
# A clock that advances by less than this stands still [s].
CLOCK_TICK = 1e-6
# Refused chunks that show a faulty policy: the arm holds until a sound one comes.
HOLDS_FOR = {
    "non_finite": HoldReason.NON_FINITE,
    "shape": HoldReason.CONTRACT_MISMATCH,
    "impossible": HoldReason.LIMIT,
}


@dataclass(frozen=True)
class LoopLimits:
    """Longest silence of each input before the arm holds [s].

    The middleware reports a dead model process much sooner than max_latent_gap and max_chunk_gap.
    """

    max_state_age: float = 0.15
    max_observation_gap: float = 0.2
    max_latent_gap: float = 5.0
    max_chunk_gap: float = 1.0
    max_latent_age: float = 3.0  # oldest observation whose latent action may be behind a chunk [s]


@dataclass(frozen=True)
class Cycle:
    """The result of one cycle."""

    command: ArmCommand | None  # what to send, None when the arm is left alone
    report: ArmReport


class ControlLoop:
    """Joint states and chunks in, commands and reports out. One thread calls all methods."""

    def __init__(self, arm: ArmController, limits: LoopLimits):
        self.arm = arm
        self.watchdog = InputWatchdog(
            [
                WatchedInput(
                    JOINT_STATES,
                    limits.max_state_age,
                    HoldReason.STALE_STATE,
                    "is the robot's driver, or sim, running?",
                ),
                WatchedInput(
                    OBSERVATIONS,
                    limits.max_observation_gap,
                    HoldReason.STALE_CHUNK,
                    "is perception running, and do all cameras send images?",
                ),
                WatchedInput(
                    LATENT_ACTIONS,
                    limits.max_latent_gap,
                    HoldReason.STALE_CHUNK,
                    "is reasoning running and active?",
                ),
                WatchedInput(
                    ACTION_CHUNKS,
                    limits.max_chunk_gap,
                    HoldReason.STALE_CHUNK,
                    "is action_expert running and active?",
                ),
            ]
        )
        self._max_latent_age = limits.max_latent_age
        self.joints = MeasuredJoints(
            arm.contract.joint_names, arm.able, arm.continuous, limits.max_state_age
        )
        self._fault: tuple[HoldReason, str] | None = None
        # Whether commands are sent, or the arm is released and others may move it.
        self._commands = False
        self._noted_hold = HoldReason.NONE
        self._stepped_at = -math.inf
        # Observations until this robot time are in doubt.
        self._doubted_until = -math.inf
        self._robot_time = -math.inf
        # When robot time last advanced, by the steady clock.
        self._ticked_at = -math.inf
        self._quiet_since = -math.inf

    def take_joint_state(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        steady_now: float,
        ahead: float = 0.0,
    ) -> None:
        """Takes measured joints, found by name [rad].

        ahead: how far the message's stamp is ahead of robot time [s]. A message with other joints
        only, such as a gripper's, is skipped. Raises ValueError when the message is not used:
        joints are missing, not finite, stamped in the future, or cannot be true, which makes the
        arm hold.
        """
        try:
            values = self.joints.read(names, positions)
        except ValueError as error:
            self.watchdog.refused(JOINT_STATES, str(error))
            raise
        if values is None:
            return
        if ahead > CLOCK_TOLERANCE:
            why = f"the joint states are {from_future(ahead)}"
            self.watchdog.refused(JOINT_STATES, why)
            raise ValueError(why)
        doubted = bool(self.joints.doubt)
        why = self.joints.take(values, steady_now)
        self.watchdog.heard(JOINT_STATES, steady_now)
        if doubted and not self.joints.doubt:
            self._doubted_until = self._robot_time
        if why:
            raise ValueError(why)

    @property
    def start_positions(self) -> np.ndarray | None:
        """Where the next motion starts: commanded joints [n], else measured; None if unknown."""
        return self.arm.safety.motion.positions if self._commands else self.joints.positions

    def take_chunk(self, chunk: ActionChunk, robot_now: float, steady_now: float) -> None:
        """Takes over a chunk of the instruction in force.

        Raises ChunkError when it is refused. A late chunk leaves the current one alone; one that is
        not finite, has another shape or that no limit could follow makes the arm hold until a sound
        one comes.
        """
        try:
            self._check_time(chunk, robot_now)
            self.arm.accept(chunk, robot_now, self.joints.positions)
        except ChunkError as error:
            self.watchdog.refused(ACTION_CHUNKS, f"the last one was refused, {error}")
            if reason := HOLDS_FOR.get(error.reason):
                self.fail(reason, str(error))
            raise
        self._fault = None
        self.watchdog.heard(ACTION_CHUNKS, steady_now)
        # A chunk proves its latent action, whose message may arrive later, or never: a policy of
        # one part has none.
        unheard = math.isinf(self.watchdog.age(LATENT_ACTIONS, steady_now))
        if unheard or chunk.latent_stamp >= chunk.stamp:
            self.watchdog.heard(LATENT_ACTIONS, steady_now)

    def _check_time(self, chunk: ActionChunk, robot_now: float) -> None:
        """Raises ChunkError for a chunk from the future, or from before a moment of doubt."""
        for what, stamp in (("observation", chunk.stamp), ("latent action", chunk.latent_stamp)):
            if stamp > robot_now + CLOCK_TOLERANCE:
                self.arm.safety.note("future_chunk")
                raise ChunkError("stale", f"its {what} is {from_future(stamp - robot_now)}")
        if self.joints.doubt or chunk.stamp <= self._doubted_until:
            raise ChunkError(
                "stale",
                "its observation is from before the joint states, or the clock, could be relied on",
            )
        if robot_now - chunk.latent_stamp > self._max_latent_age:
            self.arm.safety.note("stale_latent")
            raise ChunkError(
                "stale",
                f"the latent action behind it is {robot_now - chunk.latent_stamp:.2f} s old, limit "
                f"{self._max_latent_age:g}",
            )

    def fail(self, reason: HoldReason, message: str) -> None:
        """Makes the arm hold until a sound chunk comes."""
        self._fault = (reason, message)
        self.arm.hold()

    def flush(self) -> None:
        """Drops the results for the last instruction."""
        self._fault = None
        self.arm.hold()
        self.watchdog.forget(LATENT_ACTIONS)
        self.watchdog.forget(ACTION_CHUNKS)

    def release(self) -> None:
        """Forgets the commands: the next motion starts from where the arm comes to rest."""
        self.flush()
        self.arm.reset()
        self._leave_alone()

    def _leave_alone(self) -> None:
        """Nothing is commanded from now on, and the arm's rest counts from now on, too.

        Joints that are repeated, by a driver that hangs or by a bag, have been at rest
        since long before the last command: a start from there would be a jump.
        """
        self._commands = False
        self.joints.forget_rest()

    def cycle(
        self,
        robot_now: float,
        steady_now: float,
        wants_motion: bool,
        blocked: tuple[HoldReason, str] | None = None,
    ) -> Cycle:
        """The command for now, and the arm's state; call it at the arm's control rate.

        blocked: why the arm holds meanwhile, although motion is wanted; None to follow the chunks.
        """
        robot_now = self._on_clock(robot_now, steady_now)
        if wants_motion:
            self._quiet_since = steady_now
        silent = self.watchdog.first_silent(steady_now)
        hold = self._why_hold(silent, blocked)
        if hold or not wants_motion:
            self.arm.hold()
        was_moving = self.arm.moving
        command = self._step(robot_now, steady_now)
        if hold is None and self._commands and self.arm.backs_off:
            hold = (
                HoldReason.LIMIT,
                "the arm does not follow its commands: is something in its way, are its brakes on, "
                "does its driver run?",
            )
        self._note_hold(hold, wants_motion)
        if command and command.executing:
            report = ArmReport(executing=True, settled=self.arm.settled(robot_now))
        else:
            reason, message = hold or (
                HoldReason.STALE_CHUNK,
                "the newest action chunk is too old to follow",
            )
            report = ArmReport(executing=False, hold_reason=reason, message=message)
        is_quiet = steady_now - self._quiet_since > RELEASE_TIME
        # In doubt, an arm at rest is released: its controller keeps the last command, and a reset
        # simulator, or an operator's hands, can move it.
        if (is_quiet or self.joints.doubt) and not (was_moving or self.arm.moving):
            command = None
            if self._commands:
                self._leave_alone()
        return Cycle(command, report)

    def _on_clock(self, robot_now: float, steady_now: float) -> float:
        """Robot time without small steps back; a jump makes the arm hold.

        It then holds until a chunk observed after the jump arrives.
        """
        way = robot_now - self._robot_time
        passed = steady_now - self._ticked_at
        if way > CLOCK_TICK:
            self._ticked_at = steady_now
        # Zero: no time has been received yet.
        if self._robot_time > 0.0 and not -CLOCK_STEP <= way <= passed + CLOCK_STEP:
            self.fail(
                HoldReason.CLOCK,
                f"the robot's clock jumped {'ahead' if way > 0 else 'back'} by "
                f"{abs(way - passed):.1f} s: was it set, or the simulator restarted? The arm "
                "goes on with the first chunk from after that",
            )
            self._doubted_until = robot_now
        elif way < 0.0:
            # A clock that is set back a little must not move the arm back.
            robot_now = self._robot_time
        self._robot_time = robot_now
        return robot_now

    def _why_hold(
        self, silent: SilentInput | None, blocked: tuple[HoldReason, str] | None
    ) -> tuple[HoldReason, str] | None:
        """The first reason why the arm must not move."""
        if stopped := self.arm.safety.emergency_stopped:
            return HoldReason.NONE, stopped
        if blocked:
            return blocked
        if self.joints.doubt and not (silent and silent.name == JOINT_STATES):
            return (
                HoldReason.IMPLAUSIBLE_STATE,
                f"{self.joints.doubt} The arm goes on when its joint states have been in range, "
                f"without a jump and at rest for {STEADY_TIME:g} s",
            )
        if self._fault:
            return self._fault
        if silent:
            return silent.hold_reason, silent.message
        if not (self._commands or self.joints.steady):
            return (
                HoldReason.NONE,
                f"waiting for the arm to be at rest for {STEADY_TIME:g} s: a motion starts from "
                "there",
            )
        return None

    def _note_hold(self, hold: tuple[HoldReason, str] | None, wants_motion: bool) -> None:
        """Counts a hold when it begins, as the safety stage counts its interventions."""
        reason = hold[0] if hold and wants_motion else HoldReason.NONE
        if reason not in (self._noted_hold, HoldReason.NONE):
            self.arm.safety.note(reason.name.lower())
        self._noted_hold = reason

    def _step(self, robot_now: float, steady_now: float) -> ArmCommand | None:
        """Steps the arm; None while it is released."""
        measured = None
        if self.watchdog.fresh(JOINT_STATES, steady_now) and not self.joints.doubt:
            measured = self.joints.positions
        period = self.arm.period
        periods = round((steady_now - self._stepped_at) / period) if self._commands else 1
        duration = period * min(max(periods, 1), LONGEST_CATCH_UP)
        self._stepped_at = steady_now
        if not self._commands:
            # Others may have moved it: a motion starts from where it is at rest.
            if measured is None or not self.joints.steady or self.arm.executor.newest is None:
                return None
            self._start_from(measured)
        was_moving = self.arm.moving
        command = self.arm.step(robot_now, measured, duration)
        if command.executing or self.arm.moving or was_moving:
            self._commands = True
            return command
        # Others moved the arm while we held it: release it.
        if measured is not None and self.arm.following_error(measured) > 1.0:
            self._leave_alone()
        return command if self._commands else None

    def _start_from(self, measured: np.ndarray) -> None:
        """Continues from the last command if the arm is still there, else from here."""
        safety = self.arm.safety
        if safety.anchored:
            away = np.abs(self.arm.near_command(measured) - safety.motion.positions).max()
        if not safety.anchored or away > NEAR:
            safety.anchor(measured)
