"""Measured joints that cannot be true: what they are found by, and that no command follows them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fault_report import Motion, excess_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.contract.embodiment import load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.execution import MODES, ExecutionConfig
from vla.control.joint_states import STEADY_TIME, STILL, MeasuredJoints, unwrapped
from vla.control.loop import LATENT_ACTIONS, NEAR, OBSERVATIONS, ControlLoop, LoopLimits
from vla.control.robot_model import model_from_urdf
from vla.control.robots import panda
from vla.control.safety import SafetyLimits
from vla.control.session import HoldReason

CONFIG = Path(__file__).parents[1] / "config"
RATE = 100.0
PERIOD = 1.0 / RATE
START = {
    "sim_panda": panda.HOME,
    "fr3": panda.HOME,
    "ur5e": np.array([0.5, -1.4, 1.6, -1.7, -1.6, 0.4]),
}
WIDE = SafetyLimits((-1.5, -1.5, -0.5), (1.5, 1.5, 1.5))
# Small movements of a real arm at rest, and of one that others guide slowly [rad].
NOISE, GUIDED = 1e-4, 0.5


def arm_of(robot: str, mode: str) -> ArmController:
    contract = load_contract(CONFIG / "contracts" / f"{robot}.yaml")
    model = None
    if robot != "sim_panda":
        urdf = (CONFIG / "robots" / f"{robot}.urdf").read_text()
        model = model_from_urdf(
            urdf, contract.joint_names, contract.base_frame, contract.tool_frame
        )
    execution = ExecutionConfig(mode)
    config = ArmControllerConfig(control_rate=RATE, execution=execution, safety=WIDE)
    return ArmController(config, contract, model)


@pytest.fixture(scope="module")
def arms():
    made = {}

    def get(robot, mode):
        if (robot, mode) not in made:
            made[robot, mode] = arm_of(robot, mode)
        return made[robot, mode]

    return get


class World:
    """A loop, an arm that goes where it is told, and what is reported of it, which may be a lie."""

    def __init__(self, arm: ArmController, start: np.ndarray):
        self.arm, self.joints = arm, np.array(start, dtype=float)
        arm.reset()
        arm.safety.reset_emergency_stop()
        self.loop = ControlLoop(arm, LoopLimits())
        self.steady, self.shift = 100.0, 0.0
        self.wants_motion = True
        self.sent: list[list] = []  # commands, a list of its own for each time without silence
        self.before_start: list[np.ndarray] = []  # what had been reported before each of these
        self.report = None
        self.left_alone = True
        self._reported: list[tuple[float, np.ndarray]] = []

    @property
    def now(self):
        return self.steady + self.shift

    def tell(self, joints, names=None):
        """A message about the joints; whether it was used."""
        names = self.arm.contract.joint_names if names is None else names
        if len(joints) == len(self.joints) and np.isfinite(joints).all():
            self._reported.append((self.steady, np.array(joints, dtype=float)))
        try:
            self.loop.take_joint_state(names, joints, self.steady)
        except ValueError as error:
            assert 10 < len(str(error)) < 500
            return False
        return True

    def offer(self, seed, delay=0.05, speed=0.2):
        rng = np.random.default_rng(seed)
        contract = self.arm.contract
        actions = rng.uniform(-1.0, 1.0, (contract.horizon, 7))
        actions[:, :3] *= speed * contract.time_step
        actions[:, 3:6] *= 3.0 * speed * contract.time_step
        pose = self.arm.kinematics.tool_pose(self.joints)
        chunk = ActionChunk(self.now - delay, contract.time_step, actions, *pose)
        try:
            self.loop.take_chunk(chunk, self.now, self.steady)
        except ChunkError:
            return False
        return True

    def cycle(self):
        for name in (OBSERVATIONS, LATENT_ACTIONS):
            self.loop.watchdog.heard(name, self.steady)
        cycle = self.loop.cycle(self.now, self.steady, self.wants_motion)
        self.report, command = cycle.report, cycle.command
        if command is None:
            self.left_alone = True
            return
        if self.left_alone:
            self.sent.append([])
            recent = [told for at, told in self._reported if at > self.steady - STEADY_TIME]
            self.before_start.append(np.array(recent))
        self.left_alone = False
        self.sent[-1].append(command)
        self.joints = command.joint_positions

    def run(self, seconds, tell=True):
        for _ in range(round(seconds * RATE)):
            self.steady += PERIOD
            if tell:
                self.tell(self.joints)
            self.cycle()

    @property
    def last(self):
        return self.sent[-1][-1].joint_positions

    def check(self):
        """Asserts that all commands keep all limits, each after the one before it."""
        limits, last = self.arm.safety.joints, None
        for commands, told in zip(self.sent, self.before_start, strict=True):
            places = np.array([command.joint_positions for command in commands])
            speeds = np.array([command.joint_velocities for command in commands])
            assert np.isfinite(places).all() and np.isfinite(speeds).all()
            mean = np.diff(places, axis=0) / PERIOD
            assert (np.abs(mean) <= limits.velocity * (1 + 1e-6)).all()
            # The positions go as the velocities say, whose limits are looked at below.
            bent = np.abs(mean - (speeds[1:] + speeds[:-1]) / 2) / PERIOD**2
            assert (bent <= limits.jerk / 8 + 0.1).all()
            motion = Motion(np.arange(len(places)) * PERIOD, places, speeds, PERIOD)
            over = excess_of(motion, limits, self.arm.config.safety, self.arm.kinematics)
            # The end of a stop rounds off what is left of velocity and acceleration.
            assert {name: value for name, value in over.items() if value > 0.2} == {}
            first = limits.jerk * PERIOD**3 + 1e-9
            goes_on = last is not None and (np.abs(places[0] - last) <= first + NEAR).all()
            if not goes_on:
                assert len(told) > 0.8 * STEADY_TIME * RATE
                assert (np.abs(told - places[0]).max(axis=1) <= 2 * STILL).all()
            last = places[-1]


LIES = {
    "jumps": lambda rng, joints: joints + rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 2.0),
    "one joint jumps": lambda rng, joints: joints + np.eye(len(joints))[0] * rng.uniform(0.2, 1.5),
    "anything": lambda rng, joints: rng.uniform(-4.0, 4.0, len(joints)),
    "huge": lambda rng, joints: rng.choice([1e308, -1e308, 1e30, 7.0], len(joints)),
    "tiny": lambda rng, joints: np.full(len(joints), 5e-324),
    "not a number": lambda rng, joints: np.where(rng.random(len(joints)) < 0.5, np.nan, joints),
    "infinite": lambda rng, joints: np.where(rng.random(len(joints)) < 0.5, np.inf, joints),
    "too few": lambda rng, joints: joints[: rng.integers(0, len(joints))],
    "too many": lambda rng, joints: np.append(joints, 0.0),
}
OTHERS = (
    "drifts",
    "guided",
    "put elsewhere",
    "silence",
    "stop",
    "release",
    "flush",
    "clock",
    "emergency stop",
)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    robot=st.sampled_from(list(START)),
    mode=st.sampled_from(MODES),
    events=st.lists(
        st.tuples(
            st.integers(1, 70),  # cycles until the next event
            st.sampled_from(
                [*LIES, *["chunks"] * 3, *OTHERS],
            ),
            st.booleans(),  # whether the true state is told as well
            st.integers(0, 2**32 - 1),
        ),
        min_size=4,
        max_size=14,
    ),
)
def test_no_command_leaves_a_limit_whatever_is_measured(arms, robot, mode, events):
    world = World(arms(robot, mode), START[robot])
    world.run(STEADY_TIME + 0.1)
    world.offer(0)
    world.run(0.2)
    for cycles, kind, truth_too, seed in events:
        rng = np.random.default_rng(seed)
        world.wants_motion = kind != "stop"
        base, drift = world.joints.copy(), rng.uniform(-2.0, 2.0, len(world.joints))
        if kind == "put elsewhere":
            moved = world.joints + rng.uniform(-0.5, 0.5, len(world.joints))
            # No arm can be put where its joints do not go.
            world.joints = np.clip(moved, world.arm.able.lower, world.arm.able.upper)
        elif kind == "release":
            world.loop.release()
        elif kind == "flush":
            world.loop.flush()
        elif kind == "clock":
            world.shift += rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(-2, 2)
        elif kind == "emergency stop":
            world.arm.safety.emergency_stop("the button was pressed")
        for number in range(cycles):
            world.steady += PERIOD
            if number % 15 == 0 and kind not in ("stop", "silence"):
                world.offer(seed + number, delay=rng.uniform(0.0, 0.6))
            if kind == "guided" and world.left_alone:
                world.joints = np.minimum(world.joints + GUIDED * PERIOD, world.arm.able.upper)
            if kind in LIES:
                world.tell(LIES[kind](rng, world.joints))
            elif kind == "drifts":
                world.tell(base + drift * number * PERIOD)
            if kind != "silence" and (truth_too or kind not in (*LIES, "drifts")):
                world.tell(world.joints + rng.normal(0.0, NOISE, len(world.joints)))
            world.cycle()
        world.arm.safety.reset_emergency_stop()
    world.wants_motion = True
    world.check()
    # Whatever it was, it is over when its cause is: after a while of truth the arm moves again.
    world.run(2 * STEADY_TIME)
    assert world.offer(1), "a sound chunk is taken"
    world.run(0.1)
    assert world.report.executing
    world.check()


@pytest.fixture
def world(arms):
    made = World(arms("sim_panda", "first"), panda.HOME)
    made.run(STEADY_TIME + 0.1)
    made.offer(0)
    made.run(0.2)
    assert made.report.executing
    return made


@pytest.mark.parametrize("offset", [0.2, 1.0, -2.0, 1e308])
def test_a_forged_state_between_true_ones_moves_nothing(world, offset):
    told = []
    for number in range(200):
        world.steady += PERIOD
        forged = world.joints + np.eye(7)[0] * offset
        told.append(world.tell(world.joints))
        told.append(world.tell(forged))
        if number % 10 == 0:
            world.offer(number)
        world.cycle()
        if number == 60:
            held = world.joints.copy()
    assert world.report.hold_reason == HoldReason.IMPLAUSIBLE_STATE
    assert "panda_joint1" in world.report.message and "second" in world.report.message
    np.testing.assert_array_equal(world.joints, held)
    assert np.abs(world.joints - panda.HOME)[0] < 0.1
    world.check()
    world.run(STEADY_TIME + 0.1)
    assert world.offer(5)
    world.run(0.1)
    assert world.report.executing and len(world.sent) == 2
    world.check()


def test_one_forged_state_holds_the_arm_at_its_last_command(world):
    world.tell(world.joints + 1.0)
    world.run(0.3)
    assert world.report.hold_reason == HoldReason.IMPLAUSIBLE_STATE
    assert np.abs(world.joints - world.last).max() == 0.0
    world.run(STEADY_TIME)
    world.offer(3)
    world.run(0.1)
    assert world.report.executing
    world.check()


def test_an_arm_that_others_moved_while_it_was_left_alone_starts_where_it_is(world):
    world.wants_motion = False
    world.run(1.0)
    assert len(world.sent) == 1
    for _ in range(100):
        world.joints = world.joints + GUIDED * PERIOD / 2
        world.run(PERIOD)
    world.wants_motion = True
    assert world.offer(2)
    world.run(0.1)
    assert not world.report.executing and "rest" in world.report.message
    place = world.joints.copy()
    world.run(STEADY_TIME)
    world.offer(3)
    world.run(PERIOD)
    assert world.report.executing and np.abs(world.joints - place).max() < 0.01
    world.check()


def test_a_start_from_outside_of_the_range_is_refused(arms):
    start = panda.HOME.copy()
    start[3] = 0.5
    world = World(arms("sim_panda", "first"), start)
    world.run(1.0)
    world.offer(0)
    world.run(0.2)
    assert not world.sent and world.report.hold_reason == HoldReason.IMPLAUSIBLE_STATE
    assert "panda_joint4 is reported at 0.5" in world.report.message
    assert "-3.072 to -0.0698" in world.report.message


def test_a_joint_a_little_outside_of_its_range_may_come_back(arms):
    start = panda.HOME.copy()
    start[6] = panda.JOINT_UPPER[6] + 0.05
    arm = arms("sim_panda", "first")
    world = World(arm, start)
    world.run(1.0)
    position, quaternion = arm.kinematics.tool_pose(start)
    axis = np.array([0.0, 0.0, 1.0])
    for sign in (1.0, -1.0):
        world.run(STEADY_TIME)
        place = world.joints[6]
        actions = np.zeros((16, 7))
        actions[:, 3:6] = sign * 0.05 * axis
        chunk = ActionChunk(world.now, 0.1, actions, position, quaternion)
        world.loop.take_chunk(chunk, world.now, world.steady)
        world.run(0.8)
        assert world.report.executing
        assert world.joints[6] <= start[6] + 1e-9
        if abs(world.joints[6] - place) > 0.1:
            return
    pytest.fail("neither way led back")


def reader(**changes):
    arm = arm_of("sim_panda", "first")
    values = {"continuous": arm.continuous, "max_gap": 0.15} | changes
    return MeasuredJoints(arm.contract.joint_names, arm.able, **values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda names, values: (names[:-1], values[:-1]), "lack panda_joint7"),
        (lambda names, values: (names, values[:-1]), "7 names and 6 positions"),
        (lambda names, values: (names, []), "7 names and 0 positions"),
        (lambda names, values: (names, [*values, 1.0]), "7 names and 8 positions"),
        (lambda names, values: ([*names, names[2]], [*values, 1.0]), "panda_joint3 twice"),
        (lambda names, values: (names, [math.inf, *values[1:]]), "no finite position for"),
        (lambda names, values: ([], []), "lack panda_joint1"),
    ],
)
def test_messages_that_cannot_be_read_are_refused(change, says):
    names, values = change(list(panda.ARM_JOINTS), list(panda.HOME))
    with pytest.raises(ValueError, match=says):
        reader().read(names, values)


def test_as_fast_as_a_joint_goes_is_no_jump_even_in_bursts():
    joints, values, now = reader(), panda.HOME.copy(), 10.0
    rng = np.random.default_rng(0)
    arrived = now
    for _ in range(500):
        now += 0.01
        values = values + 0.01 * panda.JOINT_MAX_VELOCITY * np.sin(3 * now) * 0.9
        # Up to six of a hundred a second arrive at once.
        if rng.random() < 0.3:
            arrived = now
        arrived = max(arrived, now - 0.06)
        assert joints.take(values, arrived) == ""


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_unwrapped_angles_are_the_same_and_near(seed):
    rng = np.random.default_rng(seed)
    joints, near = rng.uniform(-np.pi, np.pi, 5), rng.uniform(-10.0, 10.0, 5)
    turning = rng.random(5) < 0.5
    same = unwrapped(joints, near, turning)
    np.testing.assert_allclose(np.sin(same - joints), 0.0, atol=1e-9)
    assert (np.abs(same - near)[turning] <= np.pi + 1e-9).all()
    np.testing.assert_array_equal(same[~turning], joints[~turning])


@pytest.mark.slow
@pytest.mark.parametrize("rate", [50.0, 200.0])
@pytest.mark.parametrize("wraps", [False, True])
def test_a_continuous_joint_goes_on_past_half_a_turn(wraps, rate):
    """Each chunk turns the tool on; the driver reports the angle in -pi..pi, or counts turns."""
    contract = load_contract(CONFIG / "contracts" / "ur5e.yaml")
    urdf = (CONFIG / "robots" / "ur5e.urdf").read_text()
    urdf = urdf.replace(
        'name="wrist_3_joint" type="revolute"', 'name="wrist_3_joint" type="continuous"'
    )
    model = model_from_urdf(urdf, contract.joint_names, contract.base_frame, contract.tool_frame)
    config = ArmControllerConfig(control_rate=rate, safety=replace(WIDE, max_following_error=0.15))
    arm = ArmController(config, contract, model)
    loop = ControlLoop(arm, LoopLimits())
    joints = np.array([0.5, -1.4, 1.6, -1.7, -1.6, 3.0])
    steady, gave_way, places = 10.0, 0, []

    def reported():
        return (joints + np.pi) % (2 * np.pi) - np.pi if wraps else joints

    for number in range(round(3.0 * rate)):
        steady += 1.0 / rate
        loop.take_joint_state(contract.joint_names, reported(), steady)
        loop.watchdog.heard(OBSERVATIONS, steady)
        loop.watchdog.heard(LATENT_ACTIONS, steady)
        if number % round(0.2 * rate) == 0:
            position, quaternion = arm.kinematics.tool_pose(joints)
            x, y, z, w = quaternion
            axis = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
            actions = np.zeros((contract.horizon, 7))
            actions[:, 3:6] = 0.03 * axis
            chunk = ActionChunk(steady, contract.time_step, actions, position, quaternion)
            loop.take_chunk(chunk, steady, steady)
        command = loop.cycle(steady, steady, True).command
        if command is not None:
            gave_way += arm.backs_off
            joints = command.joint_positions
            places.append(joints[5])
    assert places[-1] > 3.5 and np.diff(places).min() > -1e-6
    assert gave_way == 0
