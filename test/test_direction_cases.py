"""Cases for a diagnosis: which episodes and segments become one, and with which partner."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from following_policies import CONTRACT, STEP

from vla.contract.dimensions import Dimension
from vla.contract.embodiment import ContractError
from vla.datasets.frames import DatasetError
from vla.datasets.sample import RobotSample
from vla.datasets.windows import Timeline
from vla.evaluation.diagnosis import CONDITIONS, input_of, opposite_of, other_cases
from vla.evaluation.direction_cases import find_cases, require_translations
from vla.evaluation.language_following import DIRECTIONS
from vla.language_action.clips import with_origin
from vla.language_action.segments import Segment, Segmentation

LENGTH = 20


@dataclass
class Moves:
    """Episodes of LENGTH frames in memory, each (instruction, motion, scene)."""

    episodes: list
    steps: int | None = None  # left in each, as the samples tell

    contract = CONTRACT
    read = 0

    def __len__(self):
        return LENGTH * len(self.episodes)

    @property
    def episode_ends(self):
        return LENGTH * np.arange(1, len(self.episodes) + 1)

    def episode_tasks(self):
        return [words for words, _, _ in self.episodes]

    def episode_scenes(self):
        return [scene for _, _, scene in self.episodes]

    def timeline(self):
        return Timeline(0.1 * np.arange(len(self)), self.episode_ends)

    def states(self):
        return np.repeat(np.arange(len(self.episodes), dtype=np.float32), LENGTH)[:, None]

    def actions(self):
        ways = [DIRECTIONS[motion] for _, motion, _ in self.episodes]
        return np.repeat(np.array(ways, np.float32), LENGTH, axis=0)

    def sample(self, index, generator):
        self.read += 1
        number = index // LENGTH
        words, motion, _ = self.episodes[number]
        actions = np.zeros((16, 7), np.float32)
        actions[:, :3] = STEP * np.array(DIRECTIONS[motion])
        image = np.full((4, 4, 3), number % 256, np.uint8)
        state = np.full(10, float(number))
        return RobotSample({"front": image}, state, actions, words, steps=self.steps)


def move(direction, scene="", motion=""):
    return (f"move the gripper {direction}", motion or direction, scene)


def test_cases_are_opposite_pairs_in_turns_from_each_axis():
    names = ["left"] * 5 + ["right"] * 3 + ["up"] * 2 + ["down"] * 9 + ["forward"] * 4
    found = find_cases(Moves([move(name) for name in names]), "ours", 8, 16)
    directions = [case.direction for case in found.cases]
    assert directions == ["left", "right", "up", "down"] * 2
    assert len({case.episode for case in found.cases}) == 8 and not found.left_out
    case = found.cases[0]
    assert case.instruction == "move the gripper left" and case.frame == LENGTH * case.episode
    assert case.demonstrated == pytest.approx([0, 16 * STEP, 0])
    assert case.images["front"][0, 0, 0] == case.state[0] == case.episode
    everything = find_cases(Moves([move(name) for name in names]), "ours", 100, 16)
    assert len(everything.cases) == 10, "3 pairs to the side, 2 up and down"


def test_pairs_are_from_one_scene_where_there_are_such():
    episodes = [move("up", f"scene {n}") for n in range(6)]
    episodes += [move("down", f"scene {n}") for n in (5, 3, 1)] + [move("down")] * 3
    found = find_cases(Moves(episodes), "ours", 6, 16)
    scenes = [(a.scene, b.scene) for a, b in zip(found.cases[::2], found.cases[1::2], strict=True)]
    assert sorted(scenes) == [(f"scene {n}", f"scene {n}") for n in (1, 3, 5)]


def test_the_seed_alone_decides_and_a_large_data_set_is_not_read_to_its_end():
    episodes = [move(name) for name in ("left", "right") for _ in range(200)]
    data = Moves(episodes)
    first, again, other = (find_cases(data, "ours", 10, 16, seed) for seed in (1, 1, 2))
    chosen = [[case.episode for case in found.cases] for found in (first, again, other)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert data.read <= 3 * (40 + 10)


def test_what_says_no_single_direction_is_no_case_and_what_moves_elsewhere_is_left_out():
    episodes = [
        move("left"),
        move("right"),
        move("left", motion="right"),
        move("up and left", motion="up"),
    ]
    episodes += [("pick up the can", "up", ""), ("put it down", "down", "")]
    found = find_cases(Moves(episodes), "ours", 100, 16)
    assert sorted(case.episode for case in found.cases) == [0, 1]
    assert found.left_out == {"does not move where it is told": 1}


def test_segments_are_cases_of_their_episode_s_scene():
    pieces = (
        Segment("move", 0.3, 0.9, instruction="move the gripper left"),
        Segment("move", 0.9, 1.1, instruction="move the gripper left"),
        Segment("grasp", 1.1, 1.2, "HOLDING", "close the gripper"),
        Segment("move", 1.2, 1.9, instruction="move the gripper right"),
    )
    made = Segmentation("ours", "rules", {0: 1.9, 1: 1.9}, {0: pieces[:3], 1: pieces[3:]})
    data = Moves([("pick the can", "left", ""), ("open the drawer", "right", "")])
    found = find_cases(data, "ours", 10, 6, segmentation=made)
    left, right = found.cases
    assert (left.episode, left.frame, left.scene) == (0, 3, "episode 0")
    assert (right.episode, right.frame, right.instruction) == (1, 32, "move the gripper right")
    assert found.left_out == {"shorter than 6 steps": 1}
    assert left.demonstrated == pytest.approx([0, 6 * STEP, 0])
    for segments, says in (
        ({0: pieces[:1], 7: pieces[:1]}, "has 2 episodes, and segments of episode 7"),
        ({0: (replace(pieces[0], end=5.0),)}, "episode 0 of ours lasts 1.90 s, its segment 0 to"),
    ):
        wrong = replace(made, durations=dict.fromkeys(segments, 9.0), episodes=segments)
        with pytest.raises(DatasetError, match=says):
            find_cases(data, "ours", 10, 6, segmentation=wrong)
    known = with_origin(made, data)
    other = Moves([("pick the can", "up", ""), ("open the drawer", "right", "")])
    with pytest.raises(DatasetError, match="episode 0 of ours has changed since it was cut"):
        find_cases(other, "ours", 10, 6, segmentation=known)


def test_segments_that_annotators_reject_are_no_cases():
    piece = Segment("move", 0.3, 0.9, instruction="move the gripper left", quality=3)
    pieces = [replace(piece, instruction=f"move the gripper {way}") for way in ("left", "right")]
    data = Moves([("pick the can", way, "") for way in ("left", "right", "left")])
    rejected = (replace(pieces[0], quality=1),)
    episodes = {0: rejected, 1: (pieces[1],), 2: (pieces[0],)}
    made = Segmentation("ours", "rules", dict.fromkeys(episodes, 1.9), episodes)
    cases = find_cases(data, "ours", 10, 6, segmentation=made).cases
    assert [case.episode for case in cases] == [2, 1]


@pytest.mark.parametrize(
    ("episodes", "steps", "says"),
    [
        ([move("left")] * 3, None, r"ours has no two .* opposite directions \(3 left\)"),
        ([move("left"), move("up")], None, r"opposite directions \(1 left, 1 up\); give data"),
        (
            [move("up"), move("down", motion="up")],
            None,
            r"\(1 up, 1 left out: does not move where it is told\)",
        ),
        ([("pick the can", "up", "")], None, r"\(none\); give data that says .* --segments"),
        ([move("up"), move("down")], 9, "has 9 steps at most, and 16 of a chunk .* --steps 9"),
    ],
)
def test_data_without_a_pair_is_refused(episodes, steps, says):
    with pytest.raises(DatasetError, match=says) as error:
        find_cases(Moves(episodes, steps), "ours", 100, 16)
    assert "\n" not in str(error.value)


def test_actions_must_begin_with_the_tool_s_motion():
    require_translations(CONTRACT)
    joints = tuple(Dimension(f"joint_{n}", "joint_position") for n in range(7))
    names = tuple(joint.name for joint in joints)
    arm = replace(CONTRACT, representation="", action_names=names, action_dimensions=joints)
    with pytest.raises(ContractError, match=r"directions can be measured where .* x, y, z"):
        require_translations(arm)


# What a policy is given of them


def test_conditions_change_what_they_say_and_nothing_else():
    names = ["left", "right", "up", "down"]
    cases = find_cases(Moves([move(name) for name in names]), "ours", 4, 16).cases
    others = other_cases(cases, 0)
    for number, case in enumerate(cases):
        opposite = cases[opposite_of(number)]
        assert {case.direction, opposite.direction} in ({"left", "right"}, {"up", "down"})
        assert cases[others[number]].direction not in (case.direction, opposite.direction)
        given = {
            condition.name: input_of(cases, number, others, condition) for condition in CONDITIONS
        }
        seen = {name: one.images and one.images["front"][0, 0, 0] for name, one in given.items()}
        own, turned, elsewhere = case.episode, opposite.episode, cases[others[number]].episode
        assert seen == {
            "paired": own, "removed": {}, "unaligned": elsewhere, "conflicting_vision": turned,
            "conflicting_state": own, "conflicting_both": turned, "removed_conflicting_state": {},
            "blank_instruction": own, "flipped_instruction": own,
        }  # fmt: skip
        states = {name for name, one in given.items() if one.state[0] == turned}
        assert states == {"conflicting_state", "conflicting_both", "removed_conflicting_state"}
        said = {name: one.instruction for name, one in given.items()}
        assert said.pop("blank_instruction") == ""
        assert said.pop("flipped_instruction") == opposite.instruction
        assert set(said.values()) == {case.instruction}


def test_another_case_is_of_the_same_scene_where_it_can_be():
    episodes = [move(name, f"scene {n}") for n in range(3) for name in DIRECTIONS]
    cases = find_cases(Moves(episodes), "ours", 18, 16).cases
    for number, other in enumerate(other_cases(cases, 0)):
        assert cases[other].scene == cases[number].scene
        assert cases[other].direction not in (
            cases[number].direction,
            cases[opposite_of(number)].direction,
        )
    two = find_cases(Moves([move("up"), move("down")]), "ours", 2, 16).cases
    assert other_cases(two, 0) == [1, 0]
