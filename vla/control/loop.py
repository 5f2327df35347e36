"""One cycle of the control loop: decides between following a chunk and holding. Free of ROS.

Two clocks meet here. Chunks are read in robot time, the clock of their observations' stamps, which
a simulator may slow down or stop. Whether an input has fallen silent is judged by a steady clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.control.arm import ArmController
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.command import ArmCommand
from vla.control.session import ArmReport, HoldReason
from vla.control.watchdog import InputWatchdog, SilentInput, WatchedInput

JOINT_STATES = "joint states"
OBSERVATIONS = "observations"
LATENT_ACTIONS = "latent actions"
ACTION_CHUNKS = "action chunks"

# A command that holds is repeated for this long after the last instruction [s]; then the arm is
# left alone, so that a reset of the scene, or a person's hands, need not fight it.
RELEASE_TIME = 0.5
# A joint that moves by more than this, and faster than any arm, was put there: the scene was reset.
JUMP = 0.1
JUMP_SPEED = 3.0
# A cycle that comes late makes up for at most this many [periods]: the motion then stays in time.
LONGEST_CATCH_UP = 5
# A step back of robot time by more than this means that the robot or simulator started anew [s].
CLOCK_STEP = 0.5


@dataclass(frozen=True)
class LoopLimits:
    """Longest silence of each input before the arm holds [s].

    The middleware reports a dead model process much sooner than max_latent_gap and max_chunk_gap.
    max_latent_age: oldest observation whose latent action may be behind a chunk that is accepted.
    """

    max_state_age: float = 0.15
    max_observation_gap: float = 0.2
    max_latent_gap: float = 5.0
    max_chunk_gap: float = 1.0
    max_latent_age: float = 3.0


@dataclass(frozen=True)
class Cycle:
    """What one cycle came to. command: what to send, None when the arm is left alone."""

    command: ArmCommand | None
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
        self._joint_positions: np.ndarray | None = None
        self._fault: tuple[HoldReason, str] | None = None
        self._commands = False
        self._noted_hold = HoldReason.NONE
        self._stepped_at = -math.inf
        self._jumped_at = -math.inf
        self._robot_time = -math.inf
        self._quiet_since = -math.inf

    def take_joint_state(
        self, names: Sequence[str], positions: Sequence[float], steady_now: float
    ) -> None:
        """Takes measured joints, found by name [rad].

        A message about other joints only, such as a gripper's, is passed over. Raises ValueError,
        and does not count the message, when some joints are missing or not finite.
        """
        wanted = self.arm.contract.joint_names
        by_name = dict(zip(names, positions, strict=False))
        missing = [name for name in wanted if name not in by_name]
        if len(missing) == len(wanted) and len(names) > 0:
            return
        if missing:
            self._refuse_state(f"the joint states lack {', '.join(missing)}")
        values = np.array([by_name[name] for name in wanted], dtype=np.float64)
        bad = [name for name, value in zip(wanted, values, strict=True) if not math.isfinite(value)]
        if bad:
            self._refuse_state(f"the joint states give no finite position for {', '.join(bad)}")
        if self._joint_positions is not None:
            way = np.abs(values - self._joint_positions).max()
            if way > JUMP + JUMP_SPEED * self.watchdog.age(JOINT_STATES, steady_now):
                self._hold_anew(values)
        self._joint_positions = values
        self.watchdog.heard(JOINT_STATES, steady_now)

    @property
    def whereabouts(self) -> np.ndarray | None:
        """Where the next motion starts: commanded joints [n], else measured; None if unknown."""
        motion = self.arm.safety.motion
        return self._joint_positions if motion is None else motion.positions

    def _refuse_state(self, why: str) -> None:
        self.watchdog.refused(JOINT_STATES, why)
        raise ValueError(why)

    def take_chunk(self, chunk: ActionChunk, robot_now: float, steady_now: float) -> None:
        """Takes a chunk of the instruction in force over.

        Raises ChunkError when it is refused. A chunk that is merely late leaves the one in
        execution alone; one that is not finite or has another shape makes the arm hold until a
        sound one comes.
        """
        if chunk.stamp > robot_now + CLOCK_STEP:
            raise ChunkError(
                "stale",
                f"its observation is {chunk.stamp - robot_now:.1f} s in the future: do all nodes "
                "use the same clock (use_sim_time)?",
            )
        if chunk.stamp <= self._jumped_at:
            raise ChunkError("stale", "it was computed before the robot was put elsewhere")
        if robot_now - chunk.latent_stamp > self._max_latent_age:
            self.arm.safety.note("stale_latent")
            raise ChunkError(
                "stale",
                f"the latent action behind it is {robot_now - chunk.latent_stamp:.2f} s old, limit "
                f"{self._max_latent_age:g}",
            )
        try:
            self.arm.accept(chunk, robot_now)
        except ChunkError as error:
            if error.reason == "non_finite":
                self.fail(HoldReason.NON_FINITE, str(error))
            elif error.reason == "shape":
                self.fail(HoldReason.CONTRACT_MISMATCH, str(error))
            raise
        self._fault = None
        self.watchdog.heard(ACTION_CHUNKS, steady_now)
        # A chunk proves a latent, whose own message may arrive after it.
        if math.isinf(self.watchdog.age(LATENT_ACTIONS, steady_now)):
            self.watchdog.heard(LATENT_ACTIONS, steady_now)

    def fail(self, reason: HoldReason, message: str) -> None:
        """Makes the arm hold until a sound chunk comes."""
        self._fault = (reason, message)
        self.arm.hold()

    def flush(self) -> None:
        """Another instruction, or none: whatever was computed for the last one is dropped."""
        self._fault = None
        self.arm.hold()
        self.watchdog.forget(LATENT_ACTIONS)
        self.watchdog.forget(ACTION_CHUNKS)

    def release(self) -> None:
        """Forgets what was commanded: the next motion starts from where the arm is then."""
        self.flush()
        self._start_anew()

    def cycle(
        self,
        robot_now: float,
        steady_now: float,
        wants_motion: bool,
        blocked: tuple[HoldReason, str] | None = None,
    ) -> Cycle:
        """The command for now, and how the arm is.

        blocked: why the arm holds meanwhile, although motion is wanted; None to follow the chunks.
        To be called at the arm's control rate.
        """
        if robot_now < self._robot_time - CLOCK_STEP:
            self.arm.hold()
            self._jumped_at = -math.inf
        elif robot_now < self._robot_time:
            # A clock that is set back a little must not have the arm go back on its way.
            robot_now = self._robot_time
        self._robot_time = robot_now
        if wants_motion:
            self._quiet_since = steady_now
        silent = self.watchdog.first_silent(steady_now)
        hold = self._why_hold(silent, blocked)
        if hold or not wants_motion:
            self.arm.hold()
        has_state = self.watchdog.fresh(JOINT_STATES, steady_now)
        command = self._step(robot_now, steady_now, has_state)
        if hold is None and self.arm.gives_way:
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
        if steady_now - self._quiet_since > RELEASE_TIME and not self.arm.moving:
            command = None
        return Cycle(command, report)

    def _why_hold(
        self, silent: SilentInput | None, blocked: tuple[HoldReason, str] | None
    ) -> tuple[HoldReason, str] | None:
        """The first cause for which the arm must not move."""
        if stopped := self.arm.safety.emergency_stopped:
            return HoldReason.NONE, stopped
        if blocked:
            return blocked
        if self._fault:
            return self._fault
        if silent:
            return silent.hold_reason, silent.message
        return None

    def _note_hold(self, hold: tuple[HoldReason, str] | None, wants_motion: bool) -> None:
        """Counts a hold when it begins, as the safety stage counts its own interventions."""
        reason = hold[0] if hold and wants_motion else HoldReason.NONE
        if reason not in (self._noted_hold, HoldReason.NONE):
            self.arm.safety.note(reason.name.lower())
        self._noted_hold = reason

    def _step(self, robot_now: float, steady_now: float, has_state: bool) -> ArmCommand | None:
        """Steps the arm; None as long as it has not been moved by us."""
        measured = self._joint_positions if has_state else None
        period = self.arm.period
        periods = round((steady_now - self._stepped_at) / period) if self._commands else 1
        duration = period * min(max(periods, 1), LONGEST_CATCH_UP)
        self._stepped_at = steady_now
        if measured is None and not self._commands:
            return None
        command = self.arm.step(robot_now, measured, duration)
        if command.executing or self.arm.moving:
            self._commands = True
            return command
        if self._commands and (measured is None or self._stays(measured)):
            return command
        self._start_anew()
        return None

    def _stays(self, measured: np.ndarray) -> bool:
        """False when other hands have moved an arm that we held."""
        return self.arm.following_error(measured) <= 1.0

    def _start_anew(self) -> None:
        """Never moved by us, or moved since by other hands: the next motion starts where it is."""
        self.arm.reset()
        self._commands = False

    def _hold_anew(self, joint_positions: np.ndarray) -> None:
        """The robot was put elsewhere: a command that was on its way must not drag it back."""
        is_ours = self._commands
        self._start_anew()
        self._jumped_at = self._robot_time
        if is_ours:
            self.arm.safety.anchor(joint_positions)
            self._commands = True
