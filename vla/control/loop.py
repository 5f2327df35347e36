"""One cycle of the control loop: decides between following a chunk and holding. Free of ROS.

Two clocks meet here. Chunks are read in robot time, the clock of their observations' stamps, which
a simulator may slow down or stop. Whether an input has fallen silent is judged by a steady clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from mink import MinkError

from vla.control.arm import ArmCommand, ArmController
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.session import ArmReport, HoldReason
from vla.control.watchdog import InputWatchdog, WatchedInput

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
# Shortest motion of one cycle [s]: cycles come early when a chunk does.
SHORTEST_STEP = 1e-3
# A step back of robot time by more than this means that the robot or simulator started anew [s].
CLOCK_STEP = 0.5


@dataclass(frozen=True)
class LoopLimits:
    """Longest silence of each input before the arm holds [s].

    The middleware reports a dead model process much sooner than max_latent_gap and max_chunk_gap.
    """

    max_state_age: float = 0.15
    max_observation_gap: float = 0.25
    max_latent_gap: float = 5.0
    max_chunk_gap: float = 1.0


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
        self._joint_positions: np.ndarray | None = None
        self._fault: tuple[HoldReason, str] | None = None
        self._command: ArmCommand | None = None
        self._config = arm.config
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
        self, robot_now: float, steady_now: float, wants_motion: bool, loading: str = ""
    ) -> Cycle:
        """The command for now, and how the arm is.

        loading: why the arm holds meanwhile, although motion is wanted; "" to follow the chunks.
        To be called at the arm's control rate, and in between when a chunk has come: the limits on
        speed then count for the time since the last call.
        """
        if robot_now < self._robot_time - CLOCK_STEP:
            self.arm.hold()
            self._jumped_at = -math.inf
        self._robot_time = robot_now
        if wants_motion:
            self._quiet_since = steady_now
        silent = self.watchdog.first_silent(steady_now)
        if self._fault or silent or loading or not wants_motion:
            self.arm.hold()
        has_state = self.watchdog.fresh(JOINT_STATES, steady_now)
        command = self._step(robot_now, steady_now) if has_state else self._held()
        if loading:
            reason, message = HoldReason.LOADING, loading
        elif self._fault:
            reason, message = self._fault
        elif silent:
            reason, message = silent.hold_reason, silent.message
        else:
            reason, message = HoldReason.STALE_CHUNK, "the newest action chunk is too old to follow"
        if command and command.executing:
            report = ArmReport(executing=True, settled=self.arm.settled(robot_now))
        else:
            report = ArmReport(executing=False, hold_reason=reason, message=message)
        if steady_now - self._quiet_since > RELEASE_TIME:
            command = None
        return Cycle(command, report)

    def _step(self, robot_now: float, steady_now: float) -> ArmCommand | None:
        """Steps the arm; None as long as it has not been moved by us."""
        measured = self._joint_positions
        since, self._stepped_at = steady_now - self._stepped_at, steady_now
        rate = max(self._config.control_rate, 1.0 / max(since, SHORTEST_STEP))
        self.arm.config = replace(self._config, control_rate=rate)
        try:
            command = self.arm.step(robot_now, measured)
        except MinkError as error:
            self.fail(HoldReason.STALE_CHUNK, f"no joint motion within the limits: {error}")
            return self._held()
        if command.executing:
            self._command = command
            return command
        if self._command is not None:
            lag = np.abs(self._command.joint_positions - measured).max()
            if lag <= self.arm.config.max_following_error:
                return self._held()
        self._start_anew()
        return None

    def _start_anew(self) -> None:
        """Never moved by us, or moved since by other hands: the next motion starts where it is."""
        self.arm.reset()
        self._command = None

    def _hold_anew(self, joint_positions: np.ndarray) -> None:
        """The robot was put elsewhere: a command that was on its way must not drag it back."""
        is_ours = self._command is not None
        self._start_anew()
        self._jumped_at = self._robot_time
        if is_ours:
            self._command = self.arm.step(self._robot_time, joint_positions)

    def _held(self) -> ArmCommand | None:
        """The last command, to be kept."""
        if self._command is None:
            return None
        return replace(self._command, executing=False, limited=False, chunk_age=math.nan)
