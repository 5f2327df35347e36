"""Whatever chunks come, however late, in whatever order: what targets and commands never are.

First the executor alone, against what is said of it without its code; then the whole control loop.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.control.arm import ArmController, ArmControllerConfig
from vla.control.chunk import ActionChunk, ChunkError, ChunkTrajectory, ToolTarget
from vla.control.execution import MODES, WEIGHTS, ChunkExecutor, ExecutionConfig
from vla.control.loop import LATENT_ACTIONS, OBSERVATIONS, ControlLoop, LoopLimits
from vla.control.robots import panda
from vla.control.session import HoldReason
from vla.core.rotations import difference

STEP, HORIZON = 0.1, 8
PERIOD, AHEAD, LIMIT = 0.02, 0.13, 0.7
# Fastest tool motion in the chunks made here [m/s per axis, rad/s per axis].
SPEED, TURNING = 0.3, 1.0

events = st.lists(
    st.tuples(
        st.integers(0, 20),  # periods until then
        st.floats(0.0, 1.0),  # delay of the chunk, beyond the limit at times
        st.sampled_from(["chunk"] * 6 + ["again", "clear", "lost"]),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=20,
)


def random_chunk(rng, stamp, position=None, quaternion=None, horizon=HORIZON) -> ActionChunk:
    actions = rng.uniform(-1.0, 1.0, (horizon, 7))
    actions[:, :3] *= SPEED * STEP
    actions[:, 3:6] *= TURNING * STEP
    # Values of its own, so that a target tells whose gripper it has.
    actions[:, 6] = rng.random() * 0.4 + 0.6 * rng.integers(0, 2, horizon)
    if position is None:
        position = rng.uniform(-0.3, 0.3, 3)
        quaternion = rng.normal(size=4)
        quaternion /= np.linalg.norm(quaternion)
    return ActionChunk(stamp, STEP, actions, position, quaternion)


def same(one: ToolTarget, other: ToolTarget) -> bool:
    return (
        bool(np.allclose(one.position, other.position, atol=1e-12))
        and bool(np.allclose(one.quaternion, other.quaternion, atol=1e-12))
        and one.gripper == other.gripper
    )


def angle(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(difference(one, other)))


def usable(accepted: list[ActionChunk], now: float) -> list[ActionChunk]:
    """Those of this instruction that are neither too old at `now` nor over."""
    return [
        chunk
        for chunk in accepted
        if now - chunk.stamp <= LIMIT and now <= chunk.stamp + (HORIZON + 1) * STEP
    ]


def assert_mean_of(target: ToolTarget, members: list[ToolTarget]) -> None:
    """In the hull of the members' places and turns, with one of their grippers' values."""
    places = np.array([member.position for member in members])
    assert (target.position >= places.min(axis=0) - 1e-9).all()
    assert (target.position <= places.max(axis=0) + 1e-9).all()
    newest = members[-1].quaternion
    widest = max(angle(member.quaternion, newest) for member in members)
    assert angle(target.quaternion, newest) <= widest + 1e-6
    assert np.linalg.norm(target.quaternion) == pytest.approx(1.0)
    assert target.gripper in {member.gripper for member in members}


@pytest.mark.slow
@settings(max_examples=80)
@given(
    mode=st.sampled_from(MODES),
    weights=st.sampled_from(WEIGHTS),
    steps=st.integers(0, 5),
    events=events,
)
def test_targets_belong_to_the_instruction_are_young_and_do_not_jump(mode, weights, steps, events):
    config = ExecutionConfig(mode, LIMIT, steps, ensemble_size=3, weights=weights)
    made = ChunkExecutor(config, STEP)
    accepted: list[ActionChunk] = []
    last: ActionChunk | None = None
    tick, before = 500, None
    for periods, delay, kind, seed in events:
        for _ in range(periods):
            tick += 1
            now = tick * PERIOD
            target = made.target(now + AHEAD, now)
            left = usable(accepted, now)
            if not left:
                assert target is None and math.isnan(made.age(now))
                before = None
                continue
            assert target is not None, "a sound chunk is there"
            assert made.age(now) <= LIMIT + 1e-9
            paths = [ChunkTrajectory(chunk) for chunk in left]
            if mode == "ensemble":
                members = [p.target(now + AHEAD) for p in paths[-3:] if now + AHEAD <= p.end]
                assert_mean_of(target, members or [paths[-1].target(now + AHEAD)])
                origin = tuple(path.chunk.stamp for path in paths[-3:] if now + AHEAD <= path.end)
            else:
                own = [p.chunk.stamp for p in paths if same(p.target(now + AHEAD), target)]
                assert own, "of none of the chunks that count"
                assert now - made.age(now) == pytest.approx(own[0])
                if mode != "chunk":
                    assert own == [left[-1].stamp], "of the newest"
                origin = tuple(own)
            if before is not None and before[0] == origin:
                # Weights of an ensemble turn with the actions, so its mean may move faster.
                often = 10.0 if mode == "ensemble" else 1.0
                moved = np.abs(target.position - before[1].position).max()
                assert moved <= often * SPEED * PERIOD + 1e-9
                if mode != "ensemble":
                    turned = angle(target.quaternion, before[1].quaternion)
                    assert turned <= math.sqrt(3) * TURNING * PERIOD + 1e-6
            before = origin, target
        now = tick * PERIOD
        chunk = random_chunk(np.random.default_rng(seed), now - delay)
        if kind == "clear":
            made.clear()
            accepted.clear()
            assert made.newest is None and math.isnan(made.age(now))
        elif kind != "lost":
            chunk = last if kind == "again" and last is not None else chunk
            sound = now - chunk.stamp <= LIMIT
            sound &= not accepted or chunk.stamp > accepted[-1].stamp
            if sound:
                made.accept(chunk, now)
                accepted.append(chunk)
            else:
                with pytest.raises(ChunkError) as caught:
                    made.accept(chunk, now)
                assert caught.value.reason == "stale"
            assert made.newest is (accepted[-1] if accepted else None)
            last = chunk


def test_a_tie_of_the_gripper_is_the_newest_ones_to_decide():
    for newest, other in ((1.0, 0.0), (0.0, 1.0)):
        made = ChunkExecutor(ExecutionConfig("ensemble", weights="uniform"), STEP)
        for number, gripper in enumerate((other, newest, other, newest)):
            chunk = random_chunk(np.random.default_rng(number), 10.0 + number * STEP)
            chunk.actions[:, 6] = gripper
            made.accept(chunk, 10.4)
        assert made.target(10.5, 10.4).gripper == newest


def test_the_last_of_an_ensemble_is_the_one_that_ends_last():
    made = ChunkExecutor(ExecutionConfig("ensemble"), STEP)
    rng = np.random.default_rng(0)
    longer, shorter = random_chunk(rng, 10.0), random_chunk(rng, 10.1, horizon=4)
    made.accept(longer, 10.1)
    made.accept(shorter, 10.1)
    # Both have ended for the reader; shorter has, for long.
    target = made.target(longer.stamp + HORIZON * STEP + 0.05, 10.5)
    assert same(target, ChunkTrajectory(longer).target(20.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_chunk_age": 0.0}, "max_chunk_age must be positive"),
        ({"max_chunk_age": math.nan}, "max_chunk_age must be positive"),
        ({"execute_steps": -1}, "execute_steps -1"),
        ({"ensemble_size": 0}, "ensemble_size 0"),
        ({"exponential_decay": math.nan}, "must be finite"),
        ({"cosine_alpha": math.inf}, "must be finite"),
    ],
)
def test_impossible_numbers_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        ExecutionConfig(**changes)


LOOP_RATE = 100.0


@pytest.fixture(scope="module")
def arms(contract):
    made = {}
    for mode in MODES:
        execution = ExecutionConfig(mode, max_chunk_age=LIMIT)
        made[mode] = ArmController(
            replace(ArmControllerConfig(), control_rate=LOOP_RATE, execution=execution), contract
        )
    return made


def assert_smooth(before, command, joints) -> None:
    """Position, velocity and acceleration go on from one command to the next, within limits."""
    dt, above = 1.0 / LOOP_RATE, 1 + 1e-6
    velocity, acceleration = command.joint_velocities, command.joint_accelerations
    assert (np.abs(velocity) <= joints.velocity * above).all()
    assert (np.abs(acceleration) <= joints.acceleration * above).all()
    positions = command.joint_positions
    assert (positions <= joints.upper).all() and (positions >= joints.lower).all()
    if before is None:
        return
    # The end of a stop rounds off what is left of velocity and acceleration.
    jerk = np.abs(acceleration - before.joint_accelerations) / dt
    assert (jerk <= joints.jerk * above + 0.2).all()
    grown = np.abs(velocity - before.joint_velocities) / dt
    assert (grown <= joints.acceleration * above + 2e-3).all()
    ahead = positions - before.joint_positions - dt * (velocity + before.joint_velocities) / 2
    assert (np.abs(ahead) <= joints.jerk * dt**3 / 8 + 1e-6).all()


@pytest.mark.slow
@settings(max_examples=15)
@given(
    mode=st.sampled_from(MODES),
    events=st.lists(
        st.tuples(
            st.integers(0, 30),
            st.floats(0.0, 0.9),
            st.sampled_from(
                ["chunk"] * 8 + ["again", "flush", "lost", "nan", "blocked", "shifted"]
            ),
            st.integers(0, 2**32 - 1),
        ),
        min_size=4,
        max_size=16,
    ),
)
def test_commands_stay_smooth_and_of_the_instruction_through_the_whole_loop(arms, mode, events):
    arm = arms[mode]
    arm.reset()
    contract, joints = arm.contract, panda.HOME.copy()
    loop = ControlLoop(arm, LoopLimits())
    steady, shift = 100.0, 0.0
    before, newest, may_follow, poses = None, None, False, []
    for cycles, delay, kind, seed in events:
        rng = np.random.default_rng(seed)
        blocked = None
        robot = steady + shift
        if kind == "flush":
            loop.flush()
            may_follow = False
        elif kind == "blocked":
            blocked = (HoldReason.BACKEND, "the robot refuses")
            may_follow &= cycles == 0  # the loop hears of it in a cycle alone
        elif kind == "shifted":
            shift += rng.uniform(-0.3, 0.3)  # clocks that are set while running
        elif kind != "lost":
            index = max(0, len(poses) - 1 - round(delay * LOOP_RATE))
            position, quaternion = poses[index] if poses else arm.kinematics.tool_pose(joints)
            chunk = random_chunk(rng, robot - delay, position, quaternion, contract.horizon)
            if kind == "nan":
                chunk.actions[3, 2] = np.nan
            chunk = newest if kind == "again" and newest is not None else chunk
            try:
                loop.take_chunk(chunk, robot, steady)
                newest, may_follow = chunk, True
            except ChunkError as error:
                may_follow &= error.reason == "stale"
        for _ in range(cycles):
            steady += 1.0 / LOOP_RATE
            loop.take_joint_state(contract.joint_names, joints, steady)
            for name in (OBSERVATIONS, LATENT_ACTIONS):
                loop.watchdog.heard(name, steady)
            command = loop.cycle(steady + shift, steady, True, blocked).command
            if command is None:
                before = None
                continue
            assert_smooth(before, command, arm.safety.joints)
            if command.executing:
                assert may_follow, "nothing of this instruction is there"
                # Once until it was taken, once from its start on where the arm had stood still.
                assert command.chunk_age <= 2 * LIMIT + 1e-9
            joints, before = command.joint_positions, command
            poses.append((command.tool_position, command.tool_quaternion))
    loop.flush()
    for _ in range(round(0.5 * LOOP_RATE)):
        steady += 1.0 / LOOP_RATE
        loop.take_joint_state(contract.joint_names, joints, steady)
        command = loop.cycle(steady + shift, steady, True, None).command
        if command is not None:
            assert_smooth(before, command, arm.safety.joints)
            joints, before = command.joint_positions, command
    assert not arm.moving
