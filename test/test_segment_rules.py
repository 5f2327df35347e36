"""Rules that cut an episode into atomic actions, on motions of which it is known what they are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from motions import EMPTY_CLOSED, GRIPPED, OPEN, Phase, motion

from vla.language_action.keyframes import KeyframeConfig, gripper_events, keyframes
from vla.language_action.rules import RuleConfig, segment_by_rules
from vla.language_action.segments import banned_words, check_segments
from vla.language_action.trajectory import ToolTrajectory

REACH = Phase(2.0, (0.1, 0.0, -0.2))
CLOSE = Phase(0.6, opening=GRIPPED)
LIFT = Phase(1.5, (0.0, 0.0, 0.2))
CARRY = Phase(2.0, (0.0, 0.25, 0.0))
LOWER = Phase(1.5, (0.0, 0.0, -0.2))
RELEASE = Phase(0.6, opening=OPEN)
LEAVE = Phase(1.5, (-0.15, 0.0, 0.0))
PLACING = (REACH, CLOSE, LIFT, CARRY, LOWER, RELEASE, LEAVE)
PLACED = ["move", "grasp", "lift", "transport", "lower", "place", "move"]


def names(trajectory: ToolTrajectory, config: RuleConfig | None = None) -> list[str]:
    return [segment.primitive for segment in segment_by_rules(trajectory, config)]


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two spans."""
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (max(a[1], b[1]) - min(a[0], b[0]))


@pytest.mark.parametrize("rate", [10.0, 15.0, 30.0, 100.0])
@pytest.mark.parametrize("noise", [0.0, 0.0005])
def test_a_placing_is_cut_at_its_phases_at_any_rate(rate, noise):
    trajectory, spans = motion(*PLACING, rate=rate, noise=noise)
    segments = segment_by_rules(trajectory)
    assert [segment.primitive for segment in segments] == PLACED
    assert [s.status for s in segments] == ["EMPTY", *["HOLDING"] * 5, "EMPTY"]
    for segment, span in zip(segments, spans, strict=True):
        assert overlap((segment.start, segment.end), span) > 0.5, segment
    check_segments(segments, float(trajectory.times[-1]))


@pytest.mark.parametrize(
    ("phase", "held", "name", "says"),
    [
        (Phase(2, (0.2, 0, 0)), False, "move", "move the gripper forward"),
        (Phase(2, (-0.2, 0, 0)), False, "move", "move the gripper backward"),
        (Phase(2, (0, 0.2, 0)), False, "move", "move the gripper left"),
        (Phase(2, (0, -0.2, 0)), False, "move", "move the gripper right"),
        (Phase(2, (0, 0, 0.2)), False, "move", "move the gripper up"),
        (Phase(2, (0, 0.2, -0.1)), False, "move", "move the gripper left and down"),
        # 0.3 of the largest is no direction of its own.
        (Phase(2, (0, 0.2, -0.06)), False, "move", "move the gripper left"),
        (Phase(2, (0, 0, 0.2)), True, "lift", "lift the object up"),
        (Phase(2, (0.1, 0, -0.2)), True, "lower", "lower the object and forward"),
        (Phase(2, (0, 0.2, 0)), True, "transport", "carry the object left"),
        (Phase(2, (0, 0.2, 0.1)), True, "transport", "carry the object left while moving it up"),
        # The tool points down, so that what turns about -z turns clockwise as seen along it.
        (Phase(2, turn=(0, 0, -1)), False, "rotate", "turn the gripper clockwise about its axis"),
        (Phase(2, turn=(0, 0, 1)), True, "wrist_rotate", "turn the object counterclockwise"),
        (Phase(3, turn=(0, -1.57, 0)), True, "reorient", "turn the object until it is flat"),
        (Phase(3, turn=(1.57, 0, 0)), False, "reorient", "turn the gripper until it is horizontal"),
        (Phase(2), False, "wait", "wait without moving"),
        (Phase(2), True, "wait", "wait without moving, holding the object"),
    ],
)  # fmt: skip
def test_each_motion_has_its_name_and_its_words(phase, held, name, says):
    before = (REACH, CLOSE) if held else ()
    segments = segment_by_rules(motion(*before, phase)[0])
    assert segments[-1].primitive == name and segments[-1].instruction.startswith(says)
    assert len(segments) == 1 + len(before)
    assert not banned_words(segments[-1].instruction)


@pytest.mark.parametrize(
    ("shift", "name"),
    [((0.15, 0, 0), "push"), ((-0.15, 0, 0), "pull"), ((0, 0, -0.05), "press")],
)
def test_what_is_touched_is_pushed_pulled_or_pressed(shift, name):
    touching = Phase(1.5, shift, touching=True)
    assert names(motion(REACH, touching, LEAVE)[0]) == ["move", name, "move"]


def test_without_a_sign_of_contact_nothing_is_pushed():
    assert "push" not in names(motion(REACH, Phase(1.5, (0.15, 0, 0)), LEAVE)[0])


def test_fingers_that_close_on_nothing_hold_nothing():
    shut = Phase(0.6, opening=EMPTY_CLOSED)
    segments = segment_by_rules(motion(REACH, shut, LIFT, RELEASE, LEAVE)[0])
    assert [s.primitive for s in segments] == ["move", "grasp", "move", "move"]
    assert {s.status for s in segments} == {"EMPTY"}
    assert segments[1].instruction == "close the gripper"


def test_an_episode_that_begins_with_a_held_object():
    segments = segment_by_rules(motion(CARRY, LOWER, RELEASE, LEAVE, opening=GRIPPED)[0])
    assert [s.primitive for s in segments] == ["transport", "lower", "place", "move"]


def test_measured_holding_counts_more_than_the_fingers():
    trajectory, _ = motion(*PLACING)
    held = np.zeros(len(trajectory), bool)
    empty = ToolTrajectory(*list(vars(trajectory).values())[:4], held=held)
    assert names(empty) == ["move", "grasp", "move", "move", "move", "move"]


def test_a_gripper_that_never_moves_has_no_events():
    trajectory, _ = motion(REACH, LIFT, CARRY, opening=GRIPPED)
    assert gripper_events(trajectory, KeyframeConfig()) == []
    assert set(names(trajectory)) == {"move"}


def test_what_is_shorter_than_an_action_joins_its_neighbour():
    jerk = Phase(0.1, (0.0, 0.0, 0.01))
    assert names(motion(REACH, CLOSE, CARRY, jerk, CARRY)[0]) == ["move", "grasp", "transport"]


@pytest.mark.parametrize(
    ("phases", "found"),
    [
        ((LIFT, LOWER), ["lift the object up", "lower the object"]),
        ((CARRY, Phase(2, (0, -0.25, 0))), ["carry the object left", "carry the object right"]),
        (
            (Phase(2, turn=(0, 0, -1)), Phase(2, turn=(0, 0, 1))),
            [
                "turn the object clockwise about the tool's axis",
                "turn the object counterclockwise about the tool's axis",
            ],
        ),
        (
            (Phase(2, turn=(1.6, 0, 0)), Phase(2, turn=(-1.6, 0, 0))),
            ["turn the object until it is flat", "turn the object until it is upright"],
        ),
    ],
)
def test_a_motion_is_cut_where_it_turns_back(phases, found):
    segments = segment_by_rules(motion(REACH, CLOSE, *phases, Phase(0.1))[0])
    assert [segment.instruction for segment in segments[2:]] == found


@pytest.mark.parametrize("rate", [10.0, 50.0, 200.0])
def test_noise_is_no_motion_at_any_rate(rate):
    still, _ = motion(Phase(10.0), rate=rate, noise=0.0005)
    noise = 1e-3 * np.random.default_rng(1).standard_normal(still.quaternions.shape)
    assert names(replace(still, quaternions=still.quaternions + noise)) == ["wait"]


def test_a_turn_before_a_release_is_an_action_of_its_own():
    turn = Phase(3.0, turn=(0.0, 0.0, -1.5))
    assert names(motion(REACH, CLOSE, turn, RELEASE)[0]) == [*PLACED[:2], "wrist_rotate", "place"]


def test_a_long_rest_before_a_release_is_an_action_of_its_own():
    found = names(motion(REACH, CLOSE, LIFT, Phase(20.0), RELEASE)[0])
    assert found == ["move", "grasp", "lift", "wait", "place"]


@pytest.mark.parametrize("widths", [(0.01, 0.05), (0.04, 0.065), (0.065, 0.02)])
def test_objects_of_unlike_widths_are_grasped_and_placed(widths):
    each = [(REACH, Phase(0.6, opening=width), LIFT, CARRY, LOWER, RELEASE) for width in widths]
    found = names(motion(*each[0], *each[1], LEAVE)[0])
    assert found == [*PLACED[:6], *PLACED[:6], "move"]


def test_a_wrong_reading_of_the_fingers_takes_no_event_away():
    trajectory, _ = motion(*PLACING)
    opening = trajectory.opening.copy()
    opening[100] = 0.5
    assert names(replace(trajectory, opening=opening)) == PLACED


def test_fingers_that_open_and_close_at_once_have_done_nothing():
    flick = (Phase(0.1, opening=OPEN), Phase(0.3), Phase(0.1, opening=GRIPPED))
    found = segment_by_rules(motion(REACH, CLOSE, LIFT, *flick, CARRY, LOWER, RELEASE)[0])
    assert [s.primitive for s in found if s.primitive != "wait"] == PLACED[:6]
    assert all(s.status == "HOLDING" for s in found[1:])


def test_a_slow_motion_is_one_action():
    slow = motion(Phase(10.0, (0.0, 0.0, 0.2)), Phase(12.0, (0.0, 0.24, 0.0)))[0]
    said = [segment.instruction for segment in segment_by_rules(slow)]
    assert said == ["move the gripper up", "move the gripper left"]


def test_keyframes_are_where_the_arm_rests_and_the_gripper_moves():
    trajectory, _ = motion(REACH, Phase(1.0), CLOSE, Phase(0.5), LIFT)
    found = keyframes(trajectory)
    assert [k.kind for k in found].count("gripper_close") == 1
    closing = next(k for k in found if k.kind == "gripper_close")
    assert 3.0 < closing.time < 3.6 and str(closing) == f"- {closing.time:.2f}s: gripper_close"
    resting = [k.time for k in found if k.kind == "static"]
    assert resting and all(1.7 < time < 4.4 for time in resting)


def test_events_that_are_too_close_count_as_one():
    flutter = [Phase(0.2, opening=OPEN), Phase(0.2, opening=GRIPPED)] * 3
    trajectory, _ = motion(REACH, CLOSE, *flutter, LIFT)
    events = gripper_events(trajectory, KeyframeConfig())
    gaps = np.diff([event.time for event in events])
    assert events[0].kind == "gripper_close" and (gaps >= KeyframeConfig().gripper_gap).all()


_phases = st.lists(
    st.builds(
        Phase,
        st.floats(0.1, 2.0),
        st.tuples(*[st.floats(-0.3, 0.3)] * 3),
        st.tuples(*[st.floats(-1.5, 1.5)] * 3),
        st.one_of(st.none(), st.sampled_from([OPEN, GRIPPED, EMPTY_CLOSED])),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@given(_phases, st.sampled_from([5.0, 12.5, 30.0]), st.sampled_from([0.0, 0.002]))
def test_segments_of_any_motion_can_be_used(phases, rate, noise):
    trajectory, _ = motion(Phase(1.0), *phases, rate=rate, noise=noise)
    check_segments(segment_by_rules(trajectory), float(trajectory.times[-1]))


@pytest.mark.slow
@given(_phases)
def test_a_mirrored_motion_has_mirrored_words(phases):
    trajectory, _ = motion(*phases)
    sides = np.array([1.0, -1.0, 1.0])
    # Mirrored about the plane y = 0, rotations change sign about x and z.
    turned = trajectory.quaternions * np.array([-1.0, 1.0, -1.0, 1.0])
    mirrored = ToolTrajectory(
        trajectory.times, trajectory.positions * sides, turned, trajectory.opening,
        contact=trajectory.contact,
    )  # fmt: skip
    swap = {"left": "right", "right": "left",
            "clockwise": "counterclockwise", "counterclockwise": "clockwise"}  # fmt: skip
    for one, other in zip(segment_by_rules(trajectory), segment_by_rules(mirrored), strict=True):
        words = " ".join(swap.get(word, word) for word in one.instruction.split())
        assert (other.primitive, other.instruction) == (one.primitive, words)


def test_a_button_that_is_left_is_not_pulled():
    down, up = (0.0, 0.0, -0.03), (0.0, 0.0, 0.03)
    trajectory, _ = motion(
        Phase(1.5, (0.0, 0.0, -0.1)),
        Phase(0.8, down, touching=True),
        Phase(0.8, up, touching=True),
        Phase(1.5, (0.0, 0.0, 0.1)),
        opening=EMPTY_CLOSED,
    )
    assert names(trajectory) == ["move", "press", "move"]
    held = replace(trajectory, held=np.ones(len(trajectory), bool))
    assert "pull" in names(held), "fingers that hold it can pull it up"
