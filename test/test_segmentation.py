"""Segments of data sets: the command, its files, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bag_files import write_demonstration
from foreign_datasets import DATA
from lerobot_files import LENGTHS, write_v2, write_v3

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.windows import Timeline
from vla.language_action.primitives import PRIMITIVES, primitive_name
from vla.language_action.segmentation import report_text, segment_data_set
from vla.language_action.segments import (
    Segment,
    Segmentation,
    banned_words,
    check_segments,
    read_segmentation,
    write_segmentation,
)
from vla.language_action.trajectory import opening_of_states, trajectory_of
from vla_cli import main

PANDA, BRIDGE, FRACTAL = (
    load_contract(contract_path(name)) for name in ("sim_panda", "widowx_bridge", "google_fractal")
)
MOVE = Segment("move", 0.0, 1.0, "EMPTY", "move the gripper left")
LIFT = Segment("lift", 1.0, 2.0, "HOLDING", "lift the object up")
MADE = Segmentation("theirs", "rules", {0: 2.0, 3: 2.5}, {0: (MOVE, LIFT), 3: ()})


def test_there_are_13_primitives_with_their_aliases():
    assert len(PRIMITIVES) == 13
    assert all(primitive_name(name.upper()) == name for name in PRIMITIVES)
    assert primitive_name(" Wrist rotate") == "wrist_rotate"
    assert primitive_name("place / release") == primitive_name("release") == "place"
    assert primitive_name("rotate_free") == "rotate" and primitive_name("throw") == ""


def test_what_is_written_is_read(tmp_path):
    write_segmentation(MADE, tmp_path / "segments.json")
    assert read_segmentation(tmp_path) == MADE
    assert [path.name for path in tmp_path.iterdir()] == ["segments.json"]


def test_an_episode_may_have_many_segments(tmp_path):
    many = tuple(replace(MOVE, start=k, end=k + 1) for k in range(1500))
    made = Segmentation("long", "rules", {0: 1500.0}, {0: many})
    write_segmentation(made, tmp_path / "segments.json")
    assert read_segmentation(tmp_path) == made


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "segments.json").mkdir()
    with pytest.raises(DatasetError, match=r"cannot write .*segments\.json: "):
        write_segmentation(MADE, tmp_path / "segments.json")
    assert [path.name for path in tmp_path.iterdir()] == ["segments.json"]


@pytest.mark.parametrize(
    ("segments", "says"),
    [
        ([replace(MOVE, primitive="throw")], "segment 0: unknown primitive 'throw'; known: grasp"),
        ([replace(MOVE, status="FULL")], "unknown status 'FULL'; known: HOLDING, EMPTY"),
        ([replace(MOVE, status="HOLDING")], "'move' is of a gripper that is EMPTY, not HOLDING"),
        ([LIFT, MOVE], "segment 1 starts at 0.00 s, before the one before it ends"),
        ([MOVE, replace(LIFT, start=0.9)], "segment 1 starts at 0.90 s, before"),
        ([replace(MOVE, end=0.0)], "ends at 0.00 s, not after its start"),
        ([replace(MOVE, end=2.2)], r"ends at 2.20 s, after the episode \(2.00 s\)"),
        ([replace(MOVE, instruction=" \n")], "an instruction has 1 to 300 characters, not 0"),
        ([replace(MOVE, instruction="x" * 400)], "1 to 300 characters"),
        (
            [replace(MOVE, instruction="move left to the red mug")],
            "the instruction says 'red', which only an image would show",
        ),
    ],
)
def test_segments_that_do_not_fit_are_refused(segments, says):
    with pytest.raises(ValueError, match=says):
        check_segments(segments, 2.0)


def test_words_of_what_things_are_are_found():
    assert banned_words("put the Cans into the wooden boxes") == ["cans", "wooden", "boxes"]
    assert banned_words("lift the object up, which can be heavy") == ["can"]
    assert banned_words("scan the target, reduced, tablets, plated") == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(version=2), "is of version 2; this program reads 1"),
        (lambda v: v.update(episodes={}), "'episodes' is no list"),
        (lambda v: v.update(more=1), "unknown entries: more"),
        (lambda v: v["episodes"].append(v["episodes"][0]), "episode 0 stands there twice"),
        (lambda v: v["episodes"][0].update(duration=1.5), "segment 1 ends at 2.00 s, after"),
        (lambda v: v["episodes"][0]["segments"][0].update(start=[0]), "segment 0"),
        (
            lambda v: v["episodes"][0]["segments"][0].update(start="0.5"),
            "segment 0: start must be a number from 0 to 1e.06, got '0.5'",
        ),
        (
            lambda v: v["episodes"][0]["segments"][0].update(end=float("nan")),
            "end holds nan for a number",
        ),
        (lambda v: v["episodes"][0]["segments"].append([1]), "segment 2"),
    ],
)
def test_a_damaged_file_is_refused_with_its_entry(tmp_path, change, says):
    path = tmp_path / "segments.json"
    write_segmentation(MADE, path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=says) as caught:
        read_segmentation(path)
    assert "segments.json" in str(caught.value) and "\n" not in str(caught.value)


def test_fingers_of_all_layouts_of_a_state():
    panda, bridge, fractal = np.zeros((2, 10)), np.zeros((2, 8)), np.zeros((2, 8))
    panda[:, 9], bridge[:, 7], fractal[:, 7] = [0.08, 0.02], [1.0, 0.25], [0.0, 0.75]
    assert opening_of_states(panda, PANDA).tolist() == [0.08, 0.02]
    for states, contract in ((bridge, BRIDGE), (fractal, FRACTAL)):
        expected = contract.gripper_open_width * np.array([1.0, 0.25])
        assert np.allclose(opening_of_states(states, contract), expected)


@pytest.mark.parametrize(
    ("states", "times", "says"),
    [
        (np.zeros((3, 8)), np.arange(3.0), "3 frames are too few to cut: at least 5"),
        (np.full((6, 8), np.nan), np.arange(6.0), "NaN or infinity"),
        (np.zeros((6, 8)), np.array([0, 1, 2, 2, 3, 4.0]), "its times don't increase"),
    ],
)
def test_an_episode_that_cannot_be_cut_says_why(states, times, says):
    with pytest.raises(ValueError, match=says):
        trajectory_of(states, times, BRIDGE)


@pytest.mark.parametrize("contract", [PANDA, FRACTAL])
def test_an_episode_without_a_pose_says_so(contract):
    states = np.zeros((6, len(contract.state_names)))
    with pytest.raises(ValueError, match=r"it has frames without a pose \(.*[^.]\); leave it out"):
        trajectory_of(states, np.arange(6.0), contract)


# The command


def segment(capsys, source, out, *options) -> tuple[int, str]:
    status = main(["data", "segment", str(source), str(out), "--rules", *map(str, options)])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_a_lerobot_data_set_of_either_version(tmp_path, capsys, write):
    folder = write(tmp_path / "set", images=True)
    (tmp_path / "mapping.yaml").write_text("cameras: {}\n")
    options = ("--contract", "widowx_bridge", "--mapping", tmp_path / "mapping.yaml")
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    status, printed = segment(capsys, folder, tmp_path / "out", *options)
    assert status == 0, printed
    made = read_segmentation(tmp_path / "out")
    assert sorted(made.episodes) == list(range(len(LENGTHS))) and any(made.episodes.values())
    assert f"of {len(LENGTHS)} episodes" in printed
    assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before
    status, printed = segment(capsys, folder, tmp_path / "out", *options)
    assert status == 2 and "--overwrite replaces a file" in printed
    assert segment(capsys, folder, tmp_path / "out", *options, "--overwrite")[0] == 0


def test_a_data_set_that_lerobots_own_converter_made(tmp_path, capsys):
    (tmp_path / "mapping.yaml").write_text("cameras: {}\n")
    options = ("--contract", "sim_panda", "--mapping", tmp_path / "mapping.yaml")
    source = DATA / "lerobot-v21-to-v30" / "set"
    status, printed = segment(capsys, source, tmp_path / "out", *options)
    assert status == 0, printed
    assert read_segmentation(tmp_path / "out").episodes


@pytest.mark.slow
def test_bags_are_cut_by_the_contract_that_they_carry(tmp_path, capsys):
    for name in ("a", "b"):
        write_demonstration(tmp_path / "bags" / name, PANDA, 5.0)
    status, printed = segment(capsys, tmp_path / "bags", tmp_path / "out")
    assert status == 0, printed
    made = read_segmentation(tmp_path / "out")
    assert len(made.episodes) == 2 and made.durations[0] == pytest.approx(5.0, abs=0.5)


class Stored:
    """Episodes of states, at 10 Hz."""

    contract = BRIDGE

    def __init__(self, *episodes: np.ndarray):
        self._states = np.concatenate(episodes)
        self.episode_ends = np.cumsum([len(states) for states in episodes])
        self._times = np.concatenate([0.1 * np.arange(len(states)) for states in episodes])

    def states(self) -> np.ndarray:
        return self._states

    def timeline(self) -> Timeline:
        return Timeline(self._times, self.episode_ends)


def moving(length: int) -> np.ndarray:
    states = np.zeros((length, 8))
    states[:, 0] = 0.3 + 0.02 * np.arange(length)
    return states


def test_one_bad_episode_takes_no_other_with_it():
    faulty = moving(20)
    faulty[7, 2] = np.inf
    segmentation, report = segment_data_set(Stored(moving(20), faulty, moving(3), moving(30)), "x")
    assert sorted(segmentation.episodes) == [0, 3] == sorted(segmentation.durations)
    assert [s.primitive for s in segmentation.episodes[3]] == ["move"]
    assert sorted(report.refused) == [1, 2] and report.still == [0, 3]
    text = report_text(report)
    assert "2 segments in 2 of 4 episodes, 1.0 an episode" in text
    assert "left out: episode 1: its states or times hold NaN or infinity" in text
    assert "the gripper never moves in episodes 0, 3: no grasp, no place" in text


def test_nothing_to_cut_is_an_error():
    with pytest.raises(DatasetError, match="x: no segment in any of 2 episodes: 3 frames are too"):
        segment_data_set(Stored(moving(3), moving(4)), "x")
    with pytest.raises(DatasetError, match="no segment in any of 1 episodes: nothing in them"):
        segment_data_set(Stored(np.zeros((5, 8))), "x")


def test_a_robot_without_a_tool_is_one_sentence():
    joints = Stored(moving(20))
    joints.contract = load_contract(contract_path("calvin"))
    with pytest.raises(
        DatasetError, match=r"'calvin' has the state .*, without the pose of a tool"
    ):
        segment_data_set(joints, "x")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "carries no contract: name one by --contract"),
        (("--contract", "widowx_bridge"), "was not written by 'vla data convert'"),
        (("--contract", "nobody"), "nobody"),
        (("--set", "shortest"), "--set takes NAME=VALUE"),
        (("--set", "shortest=-1"), "shortest"),
        (("--set", "longest=1"), "unknown entries: longest"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, capsys, options, says):
    folder = write_v3(tmp_path / "set", images=True)
    status, printed = segment(capsys, folder, tmp_path / "out", *options)
    assert status == 2 and says in printed and printed.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_folder_without_data_is_named(tmp_path, capsys):
    status, printed = segment(capsys, tmp_path, tmp_path / "out")
    assert status == 2 and "holds neither a LeRobot data set nor bags" in printed
