"""Execution modes: which chunk is followed when, and what is never done, whatever comes how."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.control.chunk import ActionChunk, ChunkError, ChunkTrajectory
from vla.control.execution import MODES, WEIGHTS, ChunkExecutor, ExecutionConfig

STEP, HORIZON = 0.1, 16
IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])


def chunk(stamp, speed=0.1, start=0.0, gripper=1.0, turning=0.0):
    actions = np.zeros((HORIZON, 7))
    actions[:, 0], actions[:, 5], actions[:, 6] = speed * STEP, turning * STEP, gripper
    return ActionChunk(stamp, STEP, actions, np.array([start, 0.0, 0.0]), IDENTITY)


def executor(mode, **changes):
    return ChunkExecutor(ExecutionConfig(mode=mode, **changes), STEP)


def x(made, time, now=None):
    target = made.target(time, time if now is None else now)
    return None if target is None else target.position[0]


@pytest.mark.parametrize("mode", MODES)
def test_steps_whose_time_has_passed_are_skipped(mode):
    made = executor(mode)
    made.accept(chunk(10.0), 10.5)
    assert x(made, 10.5) == pytest.approx(0.05)
    assert x(made, 10.55) == pytest.approx(0.055), "interpolated between steps"
    assert made.age(10.55) == pytest.approx(0.55)


def test_chunk_follows_one_to_its_end_and_then_the_newest():
    made = executor("chunk", max_chunk_age=1.6)
    made.accept(chunk(10.0, 0.1), 10.2)
    assert x(made, 10.2) == pytest.approx(0.02)
    made.accept(chunk(10.5, 0.2, 1.0), 10.7)
    made.accept(chunk(10.9, 0.3, 2.0), 11.1)
    assert x(made, 11.5) == pytest.approx(0.15)
    assert x(made, 11.7) == pytest.approx(2.0 + 0.3 * 0.8)


def test_chunk_follows_as_many_steps_as_it_is_told():
    made = executor("chunk", execute_steps=4)
    made.accept(chunk(10.0, 0.1), 10.2)
    assert x(made, 10.2) == pytest.approx(0.02)
    made.accept(chunk(10.3, 0.2, 1.0), 10.4)
    assert x(made, 10.59) == pytest.approx(0.059)
    assert x(made, 10.61) == pytest.approx(1.0 + 0.2 * 0.31)


@pytest.mark.parametrize("mode", ["first", "real_time"])
def test_a_newer_chunk_replaces_the_one_before_at_once(mode):
    made = executor(mode)
    made.accept(chunk(10.0, 0.1), 10.2)
    made.accept(chunk(10.3, 0.2, 1.0), 10.4)
    assert x(made, 10.4) == pytest.approx(1.02)


def test_uniform_ensemble_is_the_mean_and_the_gripper_is_voted_on():
    made = executor("ensemble", weights="uniform")
    made.accept(chunk(10.0, 0.1, 0.0, gripper=1.0), 10.0)
    made.accept(chunk(10.1, 0.1, 0.3, gripper=0.0, turning=1.0), 10.1)
    made.accept(chunk(10.2, 0.1, 0.6, gripper=0.0), 10.2)
    target = made.target(10.5, 10.5)
    assert target.position[0] == pytest.approx(0.3 + 0.1 * 0.4)
    assert target.gripper == 0.0
    assert np.linalg.norm(target.quaternion) == pytest.approx(1.0)
    assert 0.0 < target.quaternion[2] < math.sin(0.2)
    assert made.age(10.5) == pytest.approx(0.5), "of the oldest that has a part"


def test_exponential_weights_favour_the_oldest_and_cosine_weights_those_that_agree():
    for weights, config in (
        ("exponential", {"exponential_decay": 1.0}),
        ("cosine", {"cosine_alpha": 5.0}),
    ):
        made = executor("ensemble", weights=weights, **config)
        made.accept(chunk(10.0, 0.1), 10.0)
        made.accept(chunk(10.1, -0.1), 10.1)
        made.accept(chunk(10.2, -0.1), 10.2)
        mean = np.mean([0.05, -0.04, -0.03])
        assert bool(x(made, 10.5) > mean) is (weights == "exponential")


@pytest.mark.parametrize("mode", MODES)
def test_nothing_old_is_used_and_nothing_is_left_after_clear(mode):
    made = executor(mode, max_chunk_age=0.5)
    made.accept(chunk(10.0), 10.1)
    assert x(made, 10.5) is not None and x(made, 10.51) is None
    assert math.isnan(made.age(10.51))
    made.accept(chunk(10.6), 10.7)
    made.clear()
    assert x(made, 10.7) is None and made.newest is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("stamp", "now", "says"),
    [(10.0, 10.1, "or the same"), (9.9, 10.1, "newer observation"), (8.0, 10.1, "2.10 s old")],
)
def test_late_reordered_and_duplicated_chunks_change_nothing(mode, stamp, now, says):
    made = executor(mode)
    made.accept(chunk(10.0), 10.0)
    with pytest.raises(ChunkError, match=says) as caught:
        made.accept(chunk(stamp, 5.0), now)
    assert caught.value.reason == "stale"
    assert x(made, 10.1) == pytest.approx(0.01)


def test_unknown_modes_and_weights_are_refused():
    with pytest.raises(ValueError, match="unknown execution mode 'fast'"):
        ExecutionConfig(mode="fast")
    with pytest.raises(ValueError, match="unknown weights 'mine'"):
        ExecutionConfig(weights="mine")


@settings(max_examples=60)
@given(
    mode=st.sampled_from(MODES),
    weights=st.sampled_from(WEIGHTS),
    events=st.lists(
        st.tuples(
            st.floats(0.0, 0.4),  # until the next event
            st.floats(0.0, 1.5),  # delay of the chunk
            st.sampled_from(["chunk", "chunk", "chunk", "again", "clear", "lost"]),
            st.booleans(),  # gripper
        ),
        max_size=25,
    ),
)
def test_whatever_comes_how_no_target_is_old_or_of_another_instruction(mode, weights, events):
    limit = 0.9
    made = executor(mode, weights=weights, max_chunk_age=limit)
    now, accepted, last = 10.0, [], None
    for wait, delay, kind, is_open in events:
        now += wait
        made_at = chunk(now - delay, 0.1, start=now, gripper=float(is_open))
        if kind == "clear":
            made.clear()
            accepted.clear()
        elif kind != "lost":
            candidate = last if kind == "again" and last is not None else made_at
            try:
                made.accept(candidate, now)
                accepted.append(candidate)
                last = candidate
            except ChunkError:
                pass
        target = made.target(now + 0.15, now)
        usable = [entry for entry in accepted if now - entry.stamp <= limit]
        if target is None:
            continue
        assert usable and made.age(now) <= limit + 1e-9
        places = [ChunkTrajectory(entry).target(now + 0.15) for entry in usable]
        low = min(place.position[0] for place in places)
        high = max(place.position[0] for place in places)
        assert low - 1e-9 <= target.position[0] <= high + 1e-9
        assert target.gripper in {place.gripper for place in places}
        # Between two moments without an event the target goes on without a jump.
        following = made.target(now + 0.1501, now + 0.0001)
        if following is not None and mode != "chunk":
            assert abs(following.position[0] - target.position[0]) < 0.2 or mode == "ensemble"
