"""Faults of inputs and clocks, and limits of each kind, on the control loop in virtual time.

Each case disturbs an arm that moves at 10 cm/s; docs/safety.md lists them all. Time to hold counts
from when the fault can be known: from the message that brings it, or from when an input's longest
silence is over.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fault_report import FaultReport, Motion, excess_of, judge, time_to_hold

from vla.contract.embodiment import load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk, ChunkError
from vla.control.loop import LATENT_ACTIONS, OBSERVATIONS, ControlLoop, LoopLimits
from vla.control.robots import panda
from vla.control.safety import SafetyLimits
from vla.control.session import HoldReason

pytestmark = pytest.mark.faults

CONTRACT = load_contract(Path(__file__).parents[1] / "config" / "contracts" / "sim_panda.yaml")
RATE = 200.0
PERIOD = 1.0 / RATE
LIMITS = LoopLimits()


class Bench:
    """The loop, an arm that follows, inputs that come; everything may be disturbed."""

    def __init__(self, keep_out=()):
        safety = SafetyLimits((0.25, -0.45, 0.012), (0.75, 0.45, 0.65), keep_out=keep_out)
        self.arm = ArmController(ArmControllerConfig(control_rate=RATE, safety=safety), CONTRACT)
        self.loop = ControlLoop(self.arm, LIMITS)
        self.joints = np.array(panda.HOME)
        self.measured = None
        # Joints of messages that come beside the true one: of the true joints and their number.
        self.false = lambda joints, number: []
        self.steady, self.clock_offset = 100.0, 0.0
        self.cut = set()
        self.velocity = np.array([0.1, 0.0, 0.0])
        self.turning = np.zeros(3)
        self.change = lambda chunk: chunk
        self.chunk_at = self.steady
        self.blocked = None
        self.times, self.commands = [], []
        self.report = None
        self.fault_at = None

    @property
    def now(self):
        return self.steady + self.clock_offset

    def chunk(self, **changes):
        actions = np.zeros((CONTRACT.horizon, 7))
        actions[:, :3] = self.velocity * CONTRACT.time_step
        actions[:, 3:6] = self.turning * CONTRACT.time_step
        position, quaternion = self.arm.kinematics.tool_pose(self.joints)
        values = {
            "stamp": self.now - 0.05,
            "time_step": CONTRACT.time_step,
            "actions": actions,
            "reference_position": position,
            "reference_quaternion": quaternion,
            "latent_stamp": self.now - 0.1,
        }
        return ActionChunk(**(values | changes))

    def offer(self, chunk):
        """Hands a chunk over; whether it was taken."""
        try:
            self.loop.take_chunk(chunk, self.now, self.steady)
        except ChunkError:
            return False
        return True

    def run(self, seconds):
        for number in range(round(seconds * RATE)):
            self.steady += PERIOD
            if "joint states" not in self.cut:
                measured = self.joints if self.measured is None else self.measured
                for joints in (measured, *self.false(measured, number)):
                    with suppress(ValueError):
                        self.loop.take_joint_state(CONTRACT.joint_names, joints, self.steady)
            for name in (OBSERVATIONS, LATENT_ACTIONS):
                if name not in self.cut:
                    self.loop.watchdog.heard(name, self.steady)
            if "chunks" not in self.cut and self.steady >= self.chunk_at:
                self.chunk_at = self.steady + 0.15
                self.offer(self.change(self.chunk()))
            cycle = self.loop.cycle(self.now, self.steady, True, self.blocked)
            self.report = cycle.report
            if cycle.command is not None:
                self.joints = cycle.command.joint_positions
                self.times.append(self.steady)
                self.commands.append(cycle.command)

    def fault(self):
        """From here on the time to hold counts."""
        self.fault_at = self.steady

    def finish(self, case, holds=True, since="the faulty message"):
        motion = Motion(
            np.array(self.times),
            np.array([command.joint_positions for command in self.commands]),
            np.array([command.joint_velocities for command in self.commands]),
            PERIOD,
        )
        over = excess_of(
            motion, self.arm.safety.joints, self.arm.config.safety, self.arm.kinematics
        )
        seconds = time_to_hold(motion, self.fault_at) if holds else None
        state = "executing" if self.report.executing else self.report.hold_reason.name.lower()
        judge(FaultReport(case, over, seconds, since, state))


@pytest.fixture
def bench(request):
    made = Bench(**getattr(request, "param", {}))
    made.run(1.1)
    assert made.report.executing and np.abs(made.commands[-1].joint_velocities).max() > 0.05
    return made


UNSOUND = {
    "chunk with NaN": ({"actions": np.full((16, 7), np.nan)}, HoldReason.NON_FINITE),
    "chunk with infinity": ({"actions": np.full((16, 7), np.inf)}, HoldReason.NON_FINITE),
    "chunk from a pose that is not finite": (
        {"reference_position": np.array([np.nan, 0.0, 0.0])},
        HoldReason.NON_FINITE,
    ),
    "chunk of another width": ({"actions": np.zeros((16, 6))}, HoldReason.CONTRACT_MISMATCH),
    "chunk of another time step": ({"time_step": 0.5}, HoldReason.CONTRACT_MISMATCH),
}


@pytest.mark.parametrize("case", list(UNSOUND))
def test_unsound_chunks(bench, case):
    changes, reason = UNSOUND[case]
    bench.fault()
    assert not bench.offer(bench.chunk(**changes))
    bench.cut.add("chunks")
    bench.run(0.6)
    assert bench.report.hold_reason == reason
    bench.finish(case)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("late chunk", lambda b: {"stamp": b.now - 1.3}),
        ("chunk from the future", lambda b: {"stamp": b.now + 3.0}),
        ("chunk of a stale latent action", lambda b: {"latent_stamp": b.now - 4.0}),
    ],
)
def test_chunks_out_of_time_change_nothing(bench, case, changes):
    place = bench.arm.executor.newest
    assert not bench.offer(bench.chunk(**changes(bench)))
    assert bench.arm.executor.newest is place
    bench.run(0.4)
    assert bench.report.executing
    bench.finish(case, holds=False)


def test_reordered_chunks(bench):
    first = bench.chunk(actions=bench.chunk().actions * -5.0)
    bench.run(0.2)
    assert not bench.offer(first), "a newer observation's chunk came before it"
    bench.run(0.3)
    bench.finish("reordered chunks", holds=False)


def test_duplicated_chunks(bench):
    chunk = bench.chunk()
    assert bench.offer(chunk) and not bench.offer(chunk)
    bench.run(0.3)
    bench.finish("duplicated chunks", holds=False)


def test_missing_chunks(bench):
    bench.cut.add("chunks")
    bench.run(LIMITS.max_chunk_gap - 0.15)
    bench.fault()
    bench.run(1.0)
    assert bench.report.hold_reason == HoldReason.STALE_CHUNK
    # The last chunk may have come up to 0.15 s before the cut.
    bench.finish("missing chunks", since="max_chunk_gap after the last chunk")


@pytest.mark.slow
def test_frozen_chunks(bench):
    """The model says the same again and again: the place it leads to is reached, and no more."""
    frozen = bench.chunk()
    bench.change = lambda chunk: ActionChunk(
        chunk.stamp,
        frozen.time_step,
        frozen.actions,
        frozen.reference_position,
        frozen.reference_quaternion,
    )
    bench.run(3.0)
    moved = np.linalg.norm(bench.commands[-1].tool_position - frozen.reference_position)
    assert moved < 0.1 * CONTRACT.horizon * CONTRACT.time_step + 0.01
    bench.finish("frozen chunks", holds=False)


@pytest.mark.slow
def test_fast_chunks(bench):
    """Up to ten times as fast as the limits: followed as fast as these allow."""
    bench.velocity = np.array([2.5, -2.0, 2.5])
    bench.turning = np.array([6.0, 8.0, -6.0])
    bench.run(1.5)
    bench.finish("fast actions", holds=False)


@pytest.mark.parametrize("speed", [1e3, 1e31])
def test_huge_chunks(bench, speed):
    bench.velocity = speed * np.array([1.0, -0.7, 0.8])
    bench.chunk_at = bench.steady
    bench.fault()
    bench.run(0.5)
    assert bench.report.hold_reason == HoldReason.LIMIT and " m in 0.1 s" in bench.report.message
    bench.finish(f"huge actions, {speed:g} m/s")


@pytest.mark.slow
def test_erratic_chunks(bench):
    rng = np.random.default_rng(0)
    for _ in range(20):
        bench.velocity, bench.turning = rng.normal(0, 0.8, 3), rng.normal(0, 2.0, 3)
        bench.run(0.2)
    bench.finish("erratic actions", holds=False)


def test_another_instruction_in_mid_chunk(bench):
    bench.fault()
    bench.loop.flush()
    bench.cut.add("chunks")
    bench.run(0.5)
    assert bench.arm.executor.newest is None
    bench.finish("instruction changed in mid-chunk", since="the new instruction")


@pytest.mark.parametrize(
    ("case", "name", "silence", "reason"),
    [
        (
            "observations stop",
            OBSERVATIONS,
            LIMITS.max_observation_gap,
            HoldReason.STALE_CHUNK,
        ),
        ("joint states stop", "joint states", LIMITS.max_state_age, HoldReason.STALE_STATE),
    ],
)
def test_inputs_that_fall_silent(bench, case, name, silence, reason):
    bench.cut.add(name)
    bench.fault()
    bench.run(0.8)
    assert bench.report.hold_reason == reason
    # From the last message on, so that the silence that is allowed counts, too.
    assert silence < 0.3
    bench.finish(case, since="the last message")


def test_latent_actions_stop(bench):
    bench.cut |= {LATENT_ACTIONS, "chunks"}
    bench.loop.watchdog.set_alive(LATENT_ACTIONS, False)
    bench.fault()
    bench.run(0.5)
    bench.finish("latent actions stop, their process is gone", since="the middleware's word")


@pytest.mark.parametrize(
    ("case", "names", "positions"),
    [
        ("joint states with NaN", CONTRACT.joint_names, [*panda.HOME[:6], np.nan]),
        ("joint states lack a joint", CONTRACT.joint_names[:6], panda.HOME[:6]),
    ],
)
def test_unusable_joint_states(bench, case, names, positions):
    bench.cut.add("joint states")
    bench.fault()
    for _ in range(60):
        with pytest.raises(ValueError):
            bench.loop.take_joint_state(names, positions, bench.steady)
        bench.run(0.01)
    assert bench.report.hold_reason == HoldReason.STALE_STATE
    bench.finish(case, since="the last usable message")


@pytest.mark.slow
def test_joint_states_frozen_with_fresh_stamps(bench):
    bench.measured = bench.joints.copy()
    bench.velocity = np.array([0.3, 0.2, 0.0])
    bench.run(4.0)
    away = max(np.abs(c.joint_positions - bench.measured).max() for c in bench.commands[-200:])
    assert away < bench.arm.config.safety.max_following_error + 0.05
    bench.finish("joint states frozen with fresh stamps", holds=False)


FORGED = {
    "one joint state that jumps": lambda joints, number: [joints + 1.0] if number == 0 else [],
    "joint states that jump, between true ones": lambda joints, number: [joints + 1.0],
    "joint states outside of the range, between true ones": lambda joints, number: [
        np.full(7, 1e308 * (-1) ** number)
    ],
    "joint states of a bag, between true ones": lambda joints, number: [
        panda.HOME + 0.4 * np.sin(0.03 * number + np.arange(7)) + 0.2
    ],
}


@pytest.mark.parametrize("case", list(FORGED))
def test_joint_states_that_cannot_be_true(bench, case):
    bench.fault()
    bench.false = FORGED[case]
    bench.run(0.4)
    assert bench.report.hold_reason == HoldReason.IMPLAUSIBLE_STATE
    assert "panda_joint" in bench.report.message
    bench.finish(case)


def test_an_arm_that_is_put_elsewhere(bench):
    """It is not dragged back, and the motion starts from there when it has stayed."""
    bench.cut.add("chunks")
    bench.loop.flush()
    bench.run(0.4)
    bench.fault()
    elsewhere = bench.measured = bench.joints + 0.3
    bench.run(0.6)
    bench.finish("the robot is put elsewhere", since="the jump")
    commands, bench.commands = len(bench.commands), []
    bench.joints, bench.measured = elsewhere, None
    bench.run(0.1)
    assert bench.report.hold_reason != HoldReason.IMPLAUSIBLE_STATE and not bench.commands
    bench.times = []
    bench.cut.clear()
    bench.run(0.4)
    assert bench.report.executing and commands
    assert np.abs(bench.commands[0].joint_positions - elsewhere).max() < 1e-3
    bench.finish("the robot starts where it was put", holds=False)


@pytest.mark.parametrize(
    ("case", "jump", "holds"),
    [
        ("clock jumps forward by 5 s", 5.0, True),
        ("clock jumps back by 5 s", -5.0, True),
        ("clock jumps back by 0.3 s", -0.3, False),
    ],
)
def test_clock_jumps(bench, case, jump, holds):
    bench.cut.add("chunks")
    bench.clock_offset = jump
    bench.fault()
    bench.run(0.6)
    assert bench.report.executing is not holds
    assert (bench.report.hold_reason == HoldReason.CLOCK) is holds
    bench.finish(case, holds=holds, since="the jump")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "velocity", "turning", "reasons"),
    [
        ("limit: wall of the workspace", [0.45, 0, 0], [0, 0, 0], {"workspace"}),
        ("limit: floor of the workspace", [0, 0, -0.45], [0, 0, 0], {"workspace"}),
        ("limit: tool speed", [0, 2.0, 0], [0, 0, 0], {"tool_speed"}),
        ("limit: tool turning speed", [0, 0, 0], [0, 0, 6.0], {"tool_turning_speed"}),
        ("limit: joint position", [0, 0, 0], [0, 0, 1.4], {"joint_position"}),
    ],
)
def test_limits_of_the_motion(bench, case, velocity, turning, reasons):
    bench.velocity, bench.turning = np.array(velocity, float), np.array(turning, float)
    bench.run(4.0)
    counts = bench.arm.safety.counts
    if case == "limit: joint position":
        low, high = panda.JOINT_LOWER, panda.JOINT_UPPER
        away = np.minimum(bench.joints - low, high - bench.joints).min()
        assert away < 0.05, "it went as far as it may"
    else:
        assert reasons <= set(counts)
    bench.finish(case, holds=False)


@pytest.mark.slow
@pytest.mark.parametrize("bench", [{"keep_out": ((0.6, -0.2, 0.0, 0.7, 0.2, 0.65),)}],
                         indirect=True)  # fmt: skip
def test_keep_out_box(bench):
    bench.velocity = np.array([0.3, 0.0, 0.0])
    bench.run(3.0)
    assert bench.arm.safety.counts["keep_out"] >= 1
    bench.finish("limit: keep-out box", holds=False)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("limit: joint velocity", "joint_velocity"),
        ("limit: joint acceleration", "joint_acceleration"),
        ("limit: joint jerk", "joint_jerk"),
    ],
)
def test_limits_of_the_joints(bench, case, kind):
    """Another target each moment, far away: what inverse kinematics may ask for at worst."""
    rng = np.random.default_rng(1)
    tracker, safety = bench.arm._tracker, bench.arm.safety
    for _ in range(300):
        if rng.random() < 0.05:
            target = panda.HOME + rng.normal(0.0, 0.7, 7)
            bench.target = target
        target = getattr(bench, "target", panda.HOME)
        wanted, why = tracker.step(safety.motion, target, PERIOD)
        safety.advance(wanted, PERIOD, why)
        bench.steady += PERIOD
        bench.times.append(bench.steady)
        bench.commands.append(bench.arm._command(
            bench.arm.kinematics.tool_pose(bench.joints), PERIOD, True, False, 0.0
        ))  # fmt: skip
    assert safety.counts[kind] >= 1
    bench.finish(case, holds=False)


def test_an_arm_that_is_blocked(bench):
    bench.measured = bench.joints.copy()
    bench.velocity = np.array([0.0, 0.4, -0.3])
    bench.run(3.0)
    assert bench.arm.safety.counts["step_from_measured"] >= 1
    bench.finish("the arm is blocked", holds=False)


def test_emergency_stop_during_motion(bench):
    bench.fault()
    bench.arm.safety.emergency_stop("the button was pressed")
    bench.run(0.6)
    assert not bench.report.executing
    bench.finish("emergency stop during motion", since="the button")


def test_the_robots_side_says_no(bench):
    bench.fault()
    bench.blocked = (HoldReason.BACKEND, "the gripper is stuck")
    bench.run(0.5)
    assert bench.report.hold_reason == HoldReason.BACKEND
    bench.finish("the robot's side says no", since="its word")


def test_cycles_that_come_late(bench):
    rng = np.random.default_rng(2)
    for _ in range(60):
        bench.steady += PERIOD * rng.integers(0, 4)
        bench.run(PERIOD)
    bench.finish("control cycles come late", holds=False)
