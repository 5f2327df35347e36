"""The control loop: what makes the arm follow, hold, and be left alone."""

import math
from pathlib import Path

import numpy as np
import pytest

from vla.contract.embodiment import load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.loop import (
    ACTION_CHUNKS,
    LATENT_ACTIONS,
    OBSERVATIONS,
    RELEASE_TIME,
    ControlLoop,
    LoopLimits,
)
from vla.control.robots import panda
from vla.control.safety import WALL_TOLERANCE
from vla.control.session import HoldReason

CONTRACT = load_contract(Path(__file__).parents[1] / "config" / "contracts" / "sim_panda.yaml")
PERIOD = 0.02


class Bench:
    """A control loop with an arm that goes where it is told, and inputs that come unless cut."""

    def __init__(self):
        self.arm = ArmController(ArmControllerConfig(), CONTRACT)
        self.loop = ControlLoop(self.arm, LoopLimits())
        self.joints = np.array(panda.HOME, dtype=float)
        self.now = 100.0
        self.cut = set()
        self.commands = []
        # What is reported of the joints where it is not where they are; how far the clock is off.
        self.measured = None
        self.shift = 0.0

    @property
    def robot_now(self):
        return self.now + self.shift

    def chunk(self, speed=0.1, **changes):
        """A chunk along +x at `speed` metres per second from the arm's present tool pose."""
        actions = np.zeros((CONTRACT.horizon, 7))
        actions[:, 0] = speed * CONTRACT.time_step
        actions[:, 6] = 1.0
        position, quaternion = self.arm.kinematics.tool_pose(self.joints)
        values = {
            "stamp": self.robot_now,
            "time_step": CONTRACT.time_step,
            "actions": actions,
            "reference_position": position,
            "reference_quaternion": quaternion,
        }
        return ActionChunk(**(values | changes))

    def take(self, chunk):
        self.loop.take_chunk(chunk, self.robot_now, self.now)

    def run(self, duration, wants_motion=True, blocked=None):
        for _ in range(round(duration / PERIOD)):
            self.now += PERIOD
            if "joint states" not in self.cut:
                joints = self.joints if self.measured is None else self.measured
                self.loop.take_joint_state(CONTRACT.joint_names, joints, self.now)
            for name in (OBSERVATIONS, LATENT_ACTIONS):
                if name not in self.cut:
                    self.loop.watchdog.heard(name, self.now)
            cycle = self.loop.cycle(self.robot_now, self.now, wants_motion, blocked)
            if cycle.command is not None:
                self.joints = cycle.command.joint_positions
                self.commands.append(cycle.command)
        return cycle


@pytest.fixture
def bench():
    bench = Bench()
    bench.run(0.6)
    bench.take(bench.chunk())
    assert bench.run(0.2).report.executing
    return bench


def tool_x(bench):
    return bench.arm.kinematics.tool_pose(bench.joints)[0][0]


def test_leaves_the_arm_alone_until_the_first_chunk():
    bench = Bench()
    cycle = bench.run(0.5)
    assert cycle.command is None and not bench.commands
    assert "action_expert" in cycle.report.message


def test_follows_a_chunk_and_holds_when_it_is_too_old(bench):
    start = tool_x(bench)
    bench.run(0.5)
    assert 0.03 < tool_x(bench) - start < 0.07
    cycle = bench.run(1.0)
    assert cycle.report.hold_reason == HoldReason.STALE_CHUNK
    held = bench.joints.copy()
    cycle = bench.run(0.2)
    assert np.array_equal(cycle.command.joint_positions, held) and not cycle.command.executing


@pytest.mark.parametrize(
    ("name", "reason"),
    [("joint states", HoldReason.STALE_STATE), (OBSERVATIONS, HoldReason.STALE_CHUNK)],
)
def test_holds_within_300_ms_of_an_input_falling_silent(bench, name, reason):
    bench.cut.add(name)
    report = bench.run(0.3).report
    assert not report.executing and report.hold_reason == reason and name in report.message
    bench.cut.clear()
    bench.take(bench.chunk())
    assert bench.run(0.1).report.executing


@pytest.mark.parametrize("name", [LATENT_ACTIONS, ACTION_CHUNKS])
def test_holds_at_once_when_a_model_process_is_gone(bench, name):
    bench.loop.watchdog.set_alive(name, False)
    report = bench.run(PERIOD).report
    assert not report.executing and "gone" in report.message
    bench.loop.watchdog.set_alive(name, True)
    bench.take(bench.chunk())
    assert bench.run(PERIOD).report.executing


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"actions": np.full((16, 7), np.nan)}, HoldReason.NON_FINITE),
        ({"reference_position": np.array([np.inf, 0, 0])}, HoldReason.NON_FINITE),
        ({"actions": np.zeros((16, 6))}, HoldReason.CONTRACT_MISMATCH),
        ({"time_step": 0.5}, HoldReason.CONTRACT_MISMATCH),
    ],
)
def test_an_unsound_chunk_makes_the_arm_hold_until_a_sound_one(bench, changes, reason):
    with pytest.raises(ChunkError):
        bench.take(bench.chunk(**changes))
    report = bench.run(0.2).report
    assert report.hold_reason == reason and report.message
    held = bench.joints.copy()
    bench.run(0.2)
    assert np.array_equal(bench.joints, held)
    bench.take(bench.chunk())
    assert bench.run(0.1).report.executing


@pytest.mark.parametrize("offset", [-5.0, 5.0])
def test_a_chunk_from_another_time_is_refused_and_the_good_one_goes_on(bench, offset):
    with pytest.raises(ChunkError):
        bench.take(bench.chunk(stamp=bench.now + offset))
    assert bench.run(0.1).report.executing


@pytest.mark.parametrize(
    ("names", "positions", "says"),
    [
        (CONTRACT.joint_names, [0.0] * 6 + [math.nan], "panda_joint7"),
        (CONTRACT.joint_names[:6], [0.0] * 6, "panda_joint7"),
        ((), (), "panda_joint1"),
    ],
)
def test_bad_joint_states_are_refused_and_do_not_keep_the_arm_moving(bench, names, positions, says):
    bench.cut.add("joint states")
    with pytest.raises(ValueError, match=says):
        bench.loop.take_joint_state(names, positions, bench.now)
    report = bench.run(0.2).report
    assert report.hold_reason == HoldReason.STALE_STATE and says in report.message


def test_joints_are_found_by_name_and_others_passed_over():
    bench = Bench()
    names = [*reversed(CONTRACT.joint_names), "panda_finger_joint1"]
    positions = [0.6, 0.5, 0.4, -0.3, 0.2, 0.1, 0.0, 0.04]
    bench.loop.take_joint_state(names, positions, 1.0)
    bench.loop.take_joint_state(["panda_finger_joint1"], [math.nan], 2.0)
    assert bench.loop.watchdog.age("joint states", 2.0) == 1.0
    assert list(bench.loop.start_positions) == positions[6::-1]


def test_an_arm_with_other_names_of_joints_is_told_both_until_its_own_come():
    bench = Bench()
    bench.cut.add("joint states")
    left = [f"left_{name}" for name in CONTRACT.joint_names]
    says = "the joint states call it left_panda_joint1, the contract panda_joint1"
    with pytest.raises(ValueError, match=says):
        bench.loop.take_joint_state(left, [0.0] * 7, bench.now)
    assert says in bench.run(0.2).report.message
    bench.loop.take_joint_state(CONTRACT.joint_names, bench.joints, bench.now)
    bench.loop.take_joint_state(left, [0.0] * 7, bench.now)
    assert says not in bench.run(0.02).report.message


def test_repeats_the_hold_and_then_leaves_the_arm_alone(bench):
    held = bench.run(PERIOD, wants_motion=False).command
    assert held is not None and not held.executing
    assert bench.run(RELEASE_TIME + 0.1, wants_motion=False).command is None


def test_gives_way_when_other_hands_move_the_arm(bench):
    bench.run(1.5)
    start = bench.joints
    for step in range(20):
        bench.now += PERIOD
        bench.loop.take_joint_state(CONTRACT.joint_names, start + 0.02 * step, bench.now)
        cycle = bench.loop.cycle(bench.now, bench.now, True)
    assert cycle.command is None


def test_flush_drops_the_chunk(bench):
    bench.loop.flush()
    report = bench.run(PERIOD).report
    assert not report.executing


def test_a_robot_clock_that_starts_anew_drops_the_chunk(bench):
    bench.now += PERIOD
    bench.loop.take_joint_state(CONTRACT.joint_names, bench.joints, bench.now)
    bench.loop.watchdog.heard(OBSERVATIONS, bench.now)
    assert not bench.loop.cycle(0.0, bench.now, True).report.executing


def test_commands_stay_within_limits_for_wild_chunks(bench):
    generator = np.random.default_rng(0)
    for _ in range(20):
        actions = generator.normal(0.0, 0.12, (CONTRACT.horizon, 7))
        bench.take(bench.chunk(actions=actions))
        bench.run(0.2)
    joints = np.array([command.joint_positions for command in bench.commands])
    assert np.isfinite(joints).all() and any(command.limited for command in bench.commands)
    speed = np.abs(np.diff(joints, axis=0)).max(axis=0) / PERIOD
    assert (speed <= panda.JOINT_MAX_VELOCITY * 1.001).all()
    assert (joints >= panda.JOINT_LOWER).all() and (joints <= panda.JOINT_UPPER).all()
    limits = bench.arm.config.safety
    for command in bench.commands[::7]:
        position, _ = bench.arm.kinematics.tool_pose(command.joint_positions)
        assert (position >= np.array(limits.workspace_min) - WALL_TOLERANCE).all()
        assert (position <= np.array(limits.workspace_max) + WALL_TOLERANCE).all()
    assert bench.arm.safety.counts["tool_speed"] > 0


IMPOSSIBLE = {
    "100 m a step": {"actions": np.tile([100.0, 0, 0, 0, 0, 0, 1], (16, 1))},
    "1e30 m a step": {"actions": np.full((16, 7), 1e30)},
    "1e308 m a step": {"actions": np.full((16, 7), 1e308)},
    "one long step": {"actions": np.eye(16, 7)[::-1] * 0.6},
    "a fast turn": {"actions": np.tile([0.0, 0, 0, 0, 2.0, 0, 1], (16, 1))},
    "no gripper's value": {"actions": np.tile([0.0, 0, 0, 0, 0, 0, 255.0], (16, 1))},
    "a reference in millimetres": {"reference_position": np.array([307.0, 0.0, 487.0])},
    "a reference behind the arm": {"reference_position": np.array([-0.5, 0.0, 0.4])},
    "a reference far off": {"reference_position": np.full(3, 1e300)},
    "a reference turned round": {"reference_quaternion": np.array([0.0, 0.0, 0.0, 1.0])},
}


@pytest.mark.parametrize("case", list(IMPOSSIBLE))
def test_a_chunk_that_no_limit_could_follow_is_refused_as_a_whole(bench, case):
    with pytest.raises(ChunkError) as caught:
        bench.take(bench.chunk(**IMPOSSIBLE[case]))
    assert caught.value.reason == "impossible" and len(str(caught.value)) < 300
    report = bench.run(0.3).report
    assert report.hold_reason == HoldReason.LIMIT and report.message == str(caught.value)
    held = bench.joints.copy()
    bench.run(0.2)
    assert np.array_equal(bench.joints, held)
    assert bench.arm.safety.counts["impossible_chunk"] == 1
    bench.take(bench.chunk())
    assert bench.run(0.1).report.executing


def test_a_cycle_that_comes_late_moves_on_by_the_time_that_has_passed():
    bench = Bench()
    bench.run(0.6)
    bench.take(bench.chunk(speed=0.2))
    bench.run(0.4)
    before = bench.commands[-1]
    bench.now += 2 * PERIOD
    bench.run(PERIOD)
    after = bench.commands[-1]
    moved = np.abs(after.joint_positions - before.joint_positions).max()
    assert moved == pytest.approx(3 * PERIOD * np.abs(before.joint_velocities).max(), rel=0.1)


def test_a_clock_that_is_set_back_a_little_does_not_lead_the_arm_back(bench):
    places = []
    for number in range(20):
        bench.now += PERIOD
        bench.loop.take_joint_state(CONTRACT.joint_names, bench.joints, bench.now)
        bench.loop.watchdog.heard(OBSERVATIONS, bench.now)
        robot_now = bench.now - (0.3 if number > 5 else 0.0)
        bench.joints = bench.loop.cycle(robot_now, bench.now, True).command.joint_positions
        places.append(tool_x(bench))
    assert np.diff(places).min() > -1e-6


def test_a_chunk_from_too_old_a_latent_action_is_refused(bench):
    with pytest.raises(ChunkError, match=r"latent action behind it is 3\.50 s old"):
        bench.take(bench.chunk(latent_stamp=bench.now - 3.5))
    assert bench.arm.safety.counts["stale_latent"] == 1


def test_the_arm_stops_where_it_does_not_follow_and_goes_on_when_it_does(bench):
    stuck = bench.joints.copy()
    bench.take(bench.chunk(speed=0.4))
    for _ in range(100):
        bench.now += PERIOD
        bench.loop.take_joint_state(CONTRACT.joint_names, stuck, bench.now)
        bench.loop.watchdog.heard(OBSERVATIONS, bench.now)
        cycle = bench.loop.cycle(bench.now, bench.now, True)
        away = np.abs(cycle.command.joint_positions - stuck).max()
        assert away <= bench.arm.config.safety.max_following_error + 0.05
    assert bench.arm.safety.counts["step_from_measured"] >= 1


def test_a_hold_is_counted_when_it_begins(bench):
    for _ in range(5):
        bench.run(0.1, blocked=(HoldReason.BACKEND, "the driver is away"))
    assert bench.arm.safety.counts["backend"] == 1


def test_an_emergency_stop_brings_the_arm_to_rest_within_its_limits(bench):
    bench.take(bench.chunk(speed=0.4))
    bench.run(0.4)
    bench.arm.safety.emergency_stop("the button was pressed")
    bench.commands.clear()
    report = bench.run(0.3).report
    assert not report.executing and report.message == "the button was pressed"
    places = np.array([command.joint_positions for command in bench.commands])
    speeds = np.abs(np.diff(places, axis=0)).max(axis=1)
    assert speeds[0] > 0 and (np.diff(speeds[2:]) <= 1e-9).all() and speeds[-1] == 0.0
    bench.take(bench.chunk(speed=0.4))
    assert not bench.run(0.2).report.executing


def test_a_robot_that_was_put_elsewhere_starts_from_there_when_it_has_stayed(bench):
    """As by a reset of the simulator: its own controllers have forgotten the last command."""
    before = bench.chunk()
    bench.run(1.5)
    held = bench.joints.copy()
    place = held + 0.3
    bench.measured = place
    with pytest.raises(ValueError, match="faster than it can move"):
        bench.run(PERIOD)
    cycle = bench.run(0.3)
    assert cycle.report.hold_reason == HoldReason.IMPLAUSIBLE_STATE and cycle.command is None
    assert np.array_equal(bench.joints, held), "nothing follows the jump"
    bench.run(0.4)
    with pytest.raises(ChunkError, match="could be relied on"):
        bench.take(before)
    bench.joints, bench.measured = place, None
    bench.take(bench.chunk())
    assert bench.run(PERIOD).report.executing
    assert np.abs(bench.joints - place).max() < 0.001


@pytest.mark.parametrize("jump", [5.0, -5.0, 0.7])
def test_a_clock_that_jumps_is_named_and_the_next_chunk_goes_on(bench, jump):
    before = bench.chunk()
    bench.shift = jump
    report = bench.run(0.1).report
    assert report.hold_reason == HoldReason.CLOCK
    assert f"jumped {'ahead' if jump > 0 else 'back'} by {abs(jump):.1f} s" in report.message
    with pytest.raises(ChunkError):
        bench.take(before)
    assert bench.run(0.1).report.hold_reason == HoldReason.CLOCK
    bench.take(bench.chunk())
    assert bench.run(0.1).report.executing


def test_a_clock_that_stood_still_and_catches_up_has_not_jumped(bench):
    for _ in range(50):
        bench.shift -= PERIOD
        bench.run(PERIOD)
    bench.shift += 1.0
    assert bench.run(PERIOD).report.hold_reason != HoldReason.CLOCK


def test_the_first_time_of_a_clock_is_no_jump():
    bench = Bench()
    bench.shift = -bench.now - PERIOD
    bench.run(PERIOD)
    bench.shift = 0.0
    bench.run(0.6)
    bench.take(bench.chunk())
    assert bench.run(0.1).report.executing


@pytest.mark.parametrize("name", ["stamp", "latent_stamp"])
@pytest.mark.parametrize("ahead", [0.25, 0.45, 1e9])
def test_chunks_from_the_future_are_refused_with_the_reason(bench, name, ahead):
    with pytest.raises(ChunkError, match=r"in the future.*same clock") as caught:
        bench.take(bench.chunk(**{name: bench.now + ahead}))
    assert caught.value.reason == "stale"
    assert bench.arm.safety.counts["future_chunk"] == 1
    assert bench.run(0.1).report.executing, "the one before goes on"


def test_joint_states_from_the_future_are_refused_with_the_reason(bench):
    bench.cut.add("joint states")
    for _ in range(20):
        bench.run(PERIOD)
        with pytest.raises(ValueError, match=r"0\.45 s in the future.*same clock"):
            bench.loop.take_joint_state(CONTRACT.joint_names, bench.joints, bench.now, ahead=0.45)
        bench.loop.take_joint_state(["other"], [0.0], bench.now, ahead=0.45)
    report = bench.run(PERIOD).report
    assert report.hold_reason == HoldReason.STALE_STATE and "in the future" in report.message


def test_holds_while_an_adapter_is_loaded_and_keeps_the_command(bench):
    blocked = (HoldReason.LOADING, "loading an adapter")
    bench.run(0.3, blocked=blocked)
    held = bench.joints.copy()
    for _ in range(3):
        cycle = bench.run(RELEASE_TIME, blocked=blocked)
        assert cycle.report.hold_reason == HoldReason.LOADING
        assert cycle.report.message == "loading an adapter"
        assert np.array_equal(cycle.command.joint_positions, held) and not cycle.command.executing
    assert not bench.run(0.1).report.executing, "the chunk from before is gone"
    bench.take(bench.chunk())
    assert bench.run(0.1).report.executing
