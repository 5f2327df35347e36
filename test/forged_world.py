"""A control loop with the arm that it moves, the truth about that arm, and somebody who lies.

In simulated time and without ROS: joint states of the arm's driver and of a second publisher, each
with its own numbers, reach the loop as they do in the controller, and chunks lead the tool to the
walls of the workspace and beyond.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from vla.contract.embodiment import load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.execution import ExecutionConfig
from vla.control.joint_states import STEADY_TIME
from vla.control.loop import LATENT_ACTIONS, NEAR, OBSERVATIONS, ControlLoop, LoopLimits
from vla.control.robots import panda
from vla.control.safety import WALL_TOLERANCE
from vla.control.session import HoldReason, InstructionSession
from vla.control.sources import SourceTrack
from vla.core.resources import contract_path

RATE = 100.0
PERIOD = 1.0 / RATE
# As vla_nodes.core.sources shows a second publisher that has left [s].
SHOWN = 1.5
# How far the arm is behind its commands [s], and how much it trembles [rad].
LAG, NOISE = 0.03, 1e-4
CHUNK_PERIOD = 0.1


def make_arm(mode: str = "first") -> ArmController:
    """The simulated Panda with the limits that the nodes have by default."""
    execution = ExecutionConfig(mode)
    config = ArmControllerConfig(control_rate=RATE, execution=execution)
    return ArmController(config, load_contract(contract_path("sim_panda")))


@dataclass
class Sent:
    """One command, and where the arm was when it was given."""

    number: int  # cycles that went by before it
    duration: float  # that the motion went on by [s]
    positions: np.ndarray  # [n]
    velocities: np.ndarray  # [n]
    accelerations: np.ndarray  # [n]
    tool: np.ndarray  # [3]
    true: np.ndarray  # [n]


@dataclass
class World:
    """The loop, its arm and its inputs."""

    arm: ArmController
    rng: np.random.Generator
    joints: np.ndarray  # where the arm truly is [n]
    sent: list[Sent] = field(default_factory=list)
    publishers: int = 1  # of joint states, as the graph has it
    namesakes: bool = False  # the second one has the driver's name: it may be its successor
    driver_number: int = 5000  # of the driver's last message
    steady: float = 100.0  # [s]
    shift: float = 0.0  # of robot time against it [s]
    driver_talks: bool = True
    frozen: np.ndarray | None = None  # what the driver says again and again
    observes: bool = True
    resume_at: float = 0.0  # after a stop [s]
    # Whether everybody who speaks for a silent driver could be told from its successor.
    can_be_told: bool = True
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arm.reset()
        self.arm.safety.reset_emergency_stop()
        self.arm.safety.counts.clear()
        self.loop = ControlLoop(self.arm, LoopLimits())
        self.session = InstructionSession()
        self.track = SourceTrack()
        self.problem_until = -np.inf
        self.target: np.ndarray | None = None
        self.cycles = 0
        self.report = None
        self._chunk_at = -np.inf
        # Where the arm was, for chunks, which rest on older observations.
        self._past: deque[tuple[float, np.ndarray]] = deque(maxlen=30)
        self._goal = (np.zeros(3), 0.2, 0.05)

    @property
    def now(self) -> float:
        """Robot time [s]."""
        return self.steady + self.shift

    def hear(self, number: int, names, positions, ahead: float = 0.0) -> None:
        """One message of whomever, as the controller takes it."""
        if not set(names).isdisjoint(self.arm.contract.joint_names) and not self.track.follows(
            number, self.publishers, self.steady, self.namesakes
        ):
            return
        try:
            self.loop.take_joint_state(names, positions, self.steady, ahead)
        except ValueError as error:
            assert 10 < len(str(error)) < 1000

    def aim(self) -> None:
        """Another place that the chunks lead to: near a wall of the workspace, or beyond it."""
        limits, rng = self.arm.config.safety, self.rng
        low, high = np.array(limits.workspace_min), np.array(limits.workspace_max)
        place = rng.uniform(low, high)
        for axis in rng.permutation(3)[: rng.integers(1, 4)]:
            wall = (low, high)[rng.integers(2)][axis]
            place[axis] = wall + rng.uniform(-0.05, 0.15) * rng.choice([-1.0, 1.0])
        self._goal = (place, rng.choice([0.2, 0.5, 1.5]), rng.uniform(0.02, 0.3))

    def offer(self) -> None:
        """A chunk from an observation of a moment ago towards the place aimed at."""
        place, speed, delay = self._goal
        at, joints = next(
            (entry for entry in reversed(self._past) if entry[0] <= self.steady - delay),
            (self.steady, self.joints),
        )
        contract = self.arm.contract
        position, quaternion = self.arm.kinematics.tool_pose(joints)
        way = place - position
        reach = speed * contract.time_step
        steps = np.arange(1, contract.horizon + 1)[:, None] * reach
        length = np.linalg.norm(way)
        path = way / max(length, 1e-9) * np.minimum(steps, length)
        actions = np.zeros((contract.horizon, 7))
        actions[:, :3] = np.diff(path, axis=0, prepend=np.zeros((1, 3)))
        actions[:, 3:6] = self.rng.uniform(-0.1, 0.1, 3) * min(1.0, speed)
        chunk = ActionChunk(at + self.shift, contract.time_step, actions, position, quaternion)
        with suppress(ChunkError):
            self.loop.take_chunk(chunk, self.now, self.steady)

    def cycle(self, late: int = 0) -> None:
        """One cycle, some periods late: inputs, decision, and the arm that follows."""
        for _ in range(late + 1):
            self.steady += PERIOD
            self.cycles += 1
            self._move()
            self._past.append((self.steady, self.joints))
        if self.driver_talks:
            self.driver_number += late + 1
            noise = self.rng.normal(0.0, NOISE, len(self.joints))
            told = self.joints + noise if self.frozen is None else self.frozen
            self.hear(self.driver_number, self.arm.contract.joint_names, told)
        if self.track.in_doubt(self.publishers, self.steady) and self.publishers > 1:
            if self.steady > self.problem_until:
                self.loop.flush()
            self.problem_until = self.steady + SHOWN
        blocked = None
        if self.steady < self.problem_until:
            blocked = (HoldReason.SECOND_PUBLISHER, "two nodes publish joint states")
        if self.observes:
            for name in (OBSERVATIONS, LATENT_ACTIONS):
                self.loop.watchdog.heard(name, self.steady)
            offers = self.session.wants_motion and not blocked
            if offers and self.steady - self._chunk_at >= CHUNK_PERIOD:
                self._chunk_at = self.steady
                self.offer()
        before = self.loop._stepped_at
        went_on = self.loop._commands
        cycle = self.loop.cycle(self.now, self.steady, self.session.wants_motion, blocked)
        self.report, command = cycle.report, cycle.command
        self.session.update(cycle.report, self.steady)
        if command is None:
            return
        periods = min(max(round((self.steady - before) / PERIOD), 1), 5) if went_on else 1
        self.target = command.joint_positions
        if len(command.stop.times):
            self._rest = command.stop.positions[-1]
        else:
            self._rest = command.joint_positions
        self._commanded_at = self.steady
        self.sent.append(
            Sent(
                self.cycles,
                periods * PERIOD,
                command.joint_positions,
                command.joint_velocities,
                command.joint_accelerations,
                command.tool_position,
                self.joints,
            )
        )

    def run(self, seconds: float) -> None:
        """Cycles without anything else."""
        for _ in range(round(seconds / PERIOD)):
            self.cycle()

    def _move(self) -> None:
        """One period of the arm, which follows its commands with a lag, no faster than it can."""
        if self.target is None:
            return
        goal = self.target if self.steady - self._commanded_at < 1.5 * PERIOD else self._rest
        reach = self.arm.able.velocity * PERIOD
        step = (goal - self.joints) * (PERIOD / LAG)
        self.joints = self.joints + np.clip(step, -reach, reach)

    def put(self, joints: np.ndarray) -> None:
        """The arm is elsewhere at once: a simulator was reset, or it was moved by hand."""
        self.joints = np.array(joints, dtype=float)
        self.target = None


def outside(arm: ArmController, tool: np.ndarray) -> np.ndarray:
    """How far a place lies beyond the walls on each axis [3], 0 inside [m]."""
    limits = arm.config.safety
    return np.maximum(np.maximum(tool - limits.workspace_max, limits.workspace_min - tool), 0.0)


def faults_of(world: World) -> list[str]:
    """What is wrong with the commands: a place beyond a wall that the arm was not at, a jump."""
    found = []
    joints, last = world.arm.safety.joints, None
    beyond = np.zeros(3)
    for sent in world.sent:
        here = outside(world.arm, sent.tool)
        goes_on = last is not None and np.abs(sent.positions - last.positions).max() <= max(
            NEAR, 1.001 * (joints.velocity * sent.duration).max()
        )
        if goes_on:
            span = sent.duration
            change = np.abs(sent.velocities - last.velocities) / span
            jerk = np.abs(sent.accelerations - last.accelerations) / span
            # The end of a stop rounds off what is left.
            if (np.abs(sent.velocities) > joints.velocity * 1.001).any():
                found.append(f"velocity at {sent.number}")
            if (change > joints.acceleration * 1.001 + 0.2).any():
                found.append(f"acceleration {change.max():.3f} at {sent.number}")
            if (jerk > joints.jerk * 1.001 + 1.0).any():
                found.append(f"jerk {jerk.max():.1f} at {sent.number}")
        else:
            silence = (sent.number - last.number) * PERIOD if last else np.inf
            if silence < STEADY_TIME - 1e-6:
                found.append(f"a start elsewhere after {silence:.2f} s at {sent.number}")
            beyond = outside(world.arm, world.arm.kinematics.tool_pose(sent.true)[0])
            away = np.abs(sent.positions - sent.true).max()
            if away > 0.05 and world.can_be_told:
                found.append(f"start {away:.3f} rad from the arm at {sent.number}")
        if world.can_be_told and (here > np.maximum(beyond, WALL_TOLERANCE) + 2e-3).any():
            found.append(f"{here.max() * 1e3:.1f} mm outside at {sent.number}")
        beyond = np.minimum(beyond, np.maximum(here, WALL_TOLERANCE))
        last = sent
    return found


LIES = ("mutated", "constant", "near", "drift", "replay", "alternating")
EVENTS = (
    "nothing",
    "stop",
    "stop and resume",
    "instruction",
    "emergency stop",
    "blind",
    "late cycles",
    "put elsewhere",
    "reset",
    "driver silent",
    "driver frozen",
    "clock",
)


class Liar:
    """A second publisher of joint states."""

    def __init__(self, world: World, kind: str, recorded: np.ndarray):
        """recorded [n]: joints of an earlier time, which are replayed."""
        self.world, self.kind, self.recorded = world, kind, recorded
        self.number = 0
        rng = world.rng
        self.first = world.joints.copy()
        share = {"near": 0.14, "constant": 1.0, "drift": 0.6, "alternating": 0.3}.get(kind, 0.5)
        chosen = rng.random(len(self.first)) < rng.uniform(0.1, 1.0)
        self.offset = rng.uniform(-share, share, len(self.first)) * chosen
        self.speed = rng.uniform(0.1, 3.0)

    def speak(self) -> None:
        """One message."""
        world, rng = self.world, self.world.rng
        self.number += 1
        names, ahead = world.arm.contract.joint_names, 0.0
        if self.kind == "mutated":
            names, values, ahead = mutated(rng, names, self.recorded)
        elif self.kind == "replay":
            values = self.recorded
        elif self.kind == "drift":
            share = min(self.speed * self.number * PERIOD / 2, 1.0)
            values = self.first + share * self.offset
        elif self.kind == "alternating":
            values = world.joints + self.offset * (self.number % 2)
        else:
            values = self.first + self.offset
        world.hear(self.number, names, values, ahead)


def mutated(rng: np.random.Generator, names, joints: np.ndarray):
    """Names, positions and age of a message as test/fuzz changes them."""
    names, values, ahead = list(names), list(joints), 0.0
    for _ in range(rng.choice((1, 1, 1, 2, 3)) if rng.random() < 0.9 else 0):
        field = rng.integers(7)
        odd = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-308, 1e30, -1e30, 100.0, 3.14159, 1e308)
        if field == 0:
            ahead = rng.choice((-1e3, 1e9, -1.0, 0.0, 0.45, 10.0))
        elif field == 1:
            names = (names[:3], [], names * 2, ["x", *names[1:]])[rng.integers(4)]
        elif field == 2:
            change = rng.integers(6)
            if change < 4:
                values = ([], values[: rng.integers(8)], values * 2, values * 50)[change]
            else:
                for _ in range(rng.choice((1, max(len(values), 1)))):
                    if values:
                        place = rng.integers(len(values))
                        near = values[place] + rng.uniform(-1.0, 1.0)
                        values[place] = rng.choice(odd) if rng.random() < 0.5 else near
    return names, values, ahead


def play(arm: ArmController, seed: int) -> World:
    """One history: an arm on its way, lies, and what else may happen at the same time."""
    rng = np.random.default_rng(seed)
    world = World(arm, rng, panda.HOME + rng.uniform(-0.08, 0.08, 7))
    recorded = panda.HOME + rng.uniform(-0.4, 0.4, 7)
    world.session.start("pick", "act", world.steady, 1)
    world.aim()
    world.run(0.45)
    # The arm's start is half a second of rest and no news.
    lies_at_start = rng.random() < 0.1
    world.run(0.0 if lies_at_start else rng.uniform(0.1, 0.8))
    for _ in range(rng.integers(1, 4)):
        world.aim()
        kind, event = LIES[rng.integers(len(LIES))], EVENTS[rng.integers(len(EVENTS))]
        world.story.append(f"{world.steady:.2f} {kind}, {event}")
        liar = Liar(world, kind, recorded if rng.random() < 0.5 else world._past[0][1])
        hidden = rng.random() < 0.15
        # A publisher is on the graph before its messages are, and for a while after them.
        left_after = rng.uniform(0.0, 0.1)
        world.namesakes = rng.random() < 0.2
        # Nobody can tell somebody who speaks for a silent driver from its successor.
        is_told = not (event == "driver silent" and (hidden or world.namesakes))
        is_told &= event != "driver frozen"
        world.can_be_told &= is_told
        began, length = world.steady, rng.uniform(0.05, 1.3)
        happens, ends = began + rng.uniform(-0.3, length), began + length + rng.uniform(0.0, 0.5)
        silent = began + rng.uniform(-0.5, 0.2)
        while world.steady < ends:
            speaks = began <= world.steady < began + length
            if not hidden and began <= world.steady < began + length + left_after:
                world.publishers = 2
            else:
                world.publishers = 1
            if event == "driver frozen" and world.frozen is None and silent <= world.steady:
                world.frozen = world.joints.copy()
            if event == "driver silent":
                world.driver_talks = not silent <= world.steady < silent + length
            for _ in range(2 if speaks else 0):
                liar.speak()
            late = rng.integers(1, 8) if event == "late cycles" and rng.random() < 0.2 else 0
            if happens <= world.steady and event:
                event = happen(world, event)
            world.cycle(late)
        world.driver_talks, world.observes, world.frozen = True, True, None
        world.arm.safety.reset_emergency_stop()
        if world.session.instruction is None or not world.session.wants_motion:
            world.session.start("pick", "act", world.steady, 1)
        world.run(rng.uniform(0.0, 1.2))
    return world


def happen(world: World, event: str) -> str:
    """One event; returns what is left of it."""
    rng = world.rng
    if event == "stop" or event == "stop and resume":
        if world.session.wants_motion:
            world.session.stop(world.steady)
            world.loop.flush()
            world.resume_at = world.steady + rng.uniform(0.0, 0.8)
            return event
        if event == "stop and resume" and world.steady >= world.resume_at:
            world.session.resume(world.steady)
            return ""
        return event
    if event == "instruction":
        world.session.start("place", "act", world.steady, 1)
        world.loop.flush()
        world.aim()
    elif event == "emergency stop":
        world.arm.safety.emergency_stop("the button was pressed")
        world.session.emergency_stop("the button was pressed", world.steady)
        world.session.reset_emergency_stop()
        world.loop.flush()
    elif event == "blind":
        world.observes = False
    elif event == "put elsewhere":
        moved = world.joints + rng.uniform(-0.5, 0.5, 7) * (rng.random(7) < 0.5)
        world.put(np.clip(moved, world.arm.able.lower, world.arm.able.upper))
    elif event == "reset":
        world.put(panda.HOME + rng.uniform(-0.08, 0.08, 7))
    elif event == "clock":
        world.shift += rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(-2, 1)
    elif event in ("late cycles", "driver silent", "driver frozen"):
        return event
    return ""
