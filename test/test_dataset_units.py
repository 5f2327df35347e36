"""Data sets in other units or with other columns: grippers, places, turns, and mappings."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
from foreign_datasets import BRIDGE, DATA, MAPPING, PANDA, panda, scaled
from lerobot_files import (
    STATES,
    replace_column,
    write_v2,
    write_v3,
)
from scipy.spatial.transform import Rotation

from vla.core.findings import PROBLEM
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes, read_mapping
from vla.datasets.plausible import check_gripper, check_motions, check_names, check_states, names_of
from vla.datasets.step_actions import state_motions
from vla_cli.parser import main


@pytest.mark.parametrize("more", [{}, {"binarize": True}, {"gripper": "closed"}])
def test_a_gripper_from_0_to_100_is_refused_with_the_line_that_mends_it(more):
    with pytest.raises(DatasetError, match=r"goes from 3 to 100.*'gripper_range: \[0, 100\]'"):
        panda("gripper-range", **more)
    data = panda("gripper-range", gripper_range=(0, 100), **more)
    opened = 0.0 if more.get("gripper") else 1.0
    assert data.actions()[0, 6] == opened and data.actions()[:, 6].min() >= 0
    assert abs(data.actions()[-1, 6] - (1 - opened)) < 0.04


def test_training_refuses_it_before_anything_is_written(tmp_path, capsys):
    case = DATA / "gripper-range"
    config = tmp_path / "train.yaml"
    config.write_text(
        "{stage: action, preset: nano, contract: sim_panda, lora: {experts: [action], rank: 4}, "
        f"robot: [{{path: {case}/set, kind: lerobot, mapping: {case}/mapping.yaml}}], "
        f"output: {tmp_path}/run, steps: 2, batch_size: 2}}"
    )
    assert main(["train", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert "gripper-range/set: the gripper of action goes from 3 to 100" in said
    assert not (tmp_path / "run").exists()
    assert main(["data", "check", "--config", str(config), "--json", str(tmp_path / "f.json")]) == 1
    (judged,) = json.loads((tmp_path / "f.json").read_text())["sets"]
    (finding,) = (f for f in judged["findings"] if f["level"] == PROBLEM)
    assert finding["area"] == "gripper" and "gripper_range: [0, 100]" in finding["cure"]


def wave(low: float, high: float, length: int = 80) -> np.ndarray:
    """Fingers that open and close slowly."""
    return low + (high - low) * (0.5 - 0.5 * np.cos(np.arange(length) * 2 * np.pi / 20))


@pytest.mark.parametrize(
    ("values", "said", "range_"),
    [
        (wave(0, 100), None, "[0, 100]"),
        (wave(3, 97), None, "[0, 100]"),
        (wave(-1, 1), None, "[-1, 1]"),
        (wave(0, 0.08), None, "[0, 0.08]"),
        (wave(0.01, 0.08), None, "[0, 0.08]"),
        (wave(0, 255), None, "[0, 255]"),
        (wave(0, 850), None, "[0, 850]"),
        (wave(0, 1), (0.0, 100.0), "[0, 1]"),
        (wave(0, 100), (0.0, 1.0), "[0, 100]"),
        (wave(-1, 1), (0.0, 1.0), "[-1, 1]"),
        (wave(0.55, 1), None, "[0.55, 1]"),
    ],
)
@pytest.mark.parametrize("opens", [True, False])
def test_gripper_ranges_are_told(values, said, range_, opens):
    (finding,) = check_gripper(values, said, opens, None, np.array([80]), "action")
    assert finding.level == PROBLEM and f"gripper_range: {range_}" in finding.cure
    low, high = map(float, range_.strip("[]").split(","))
    assert not check_gripper(values, (low, high), opens, None, np.array([80]), "action")


def test_inverted_grippers_are_told_by_their_fingers():
    told = (wave(0, 1) > 0.5).astype(float)
    fingers = np.roll(wave(0, 0.08), 3)
    ends = np.array([40, 80])
    assert not check_gripper(told, None, True, fingers, ends, "action")
    (finding,) = check_gripper(1 - told, None, True, fingers, ends, "action")
    assert finding.level == PROBLEM and "'gripper: closed'" in finding.cure
    assert not check_gripper(1 - told, None, False, fingers, ends, "action")


def arm(length: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """States and actions of a Panda that goes round in a circle and turns."""
    angle = np.arange(length + 1) * 0.1
    places = np.column_stack([0.4 + 0.1 * np.cos(angle), 0.1 * np.sin(angle), 0.3 + 0 * angle])
    turns = Rotation.from_rotvec(np.outer(0.5 * np.sin(angle), [0, 0, 1]))
    columns = turns.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)
    states = np.hstack([places, columns, np.full((length + 1, 1), 0.08)])
    motions = state_motions(states, PANDA.state_names, "delta")
    return states[:-1], np.hstack([motions, np.ones((length, 1))])


def test_units_are_told_by_their_numbers():
    states, actions = arm()
    ends = np.array([30, 60])

    def problems(states=states, actions=actions) -> str:
        found = check_states(states, PANDA, "s") + check_motions(states, actions, ends, PANDA, "a")
        return " / ".join(f"{f.message}; {f.cure}" for f in found if f.level == PROBLEM)

    assert problems() == ""
    assert problems(actions=scaled(actions, slice(0, 6), 0.5)) == "", "an arm may lag behind"
    assert "millimetres" in problems(states=scaled(states, slice(0, 3), 1000))
    assert "centimetres" in problems(states=scaled(states, slice(0, 3), 100))
    assert "action_scale" in problems(actions=scaled(actions, slice(0, 3), 1000))
    assert "action_scale" in problems(actions=scaled(actions, slice(0, 3), 20))
    assert "0.0175 for rx, ry and rz" in problems(actions=scaled(actions, slice(3, 6), 57.3))
    assert "no orientation" in problems(states=scaled(states, slice(3, 9), 57.3))
    assert "gripper_width" in problems(states=scaled(states, slice(9, 10), 1000))
    absolute = np.hstack([states[:, :3] + actions[:, :3], actions[:, 3:]])
    assert "relabel: true" in problems(actions=absolute)
    degrees = np.zeros((60, 8))
    degrees[:, 3:6] = np.arange(60)[:, None] * 3.0
    (finding,) = check_states(degrees, BRIDGE, "s")
    assert "degrees" in finding.cure and "state_scale" in finding.cure


def test_scales_of_the_mapping_mend_units(tmp_path):
    folder = write_v2(tmp_path / "set", images=True)
    for episode, path in enumerate(sorted(folder.glob("data/*/*.parquet"))):
        states = scaled(STATES[episode], slice(0, 3), 1e3)
        replace_column(path, "observation.state", states.tolist())
    with pytest.raises(DatasetError, match="are they millimetres"):
        LeRobotEpisodes(folder, MAPPING, BRIDGE)
    (tmp_path / "map.yaml").write_text(
        "cameras: {front: camera}\nstate_scale: [0.001, 0.001, 0.001, 1, 1, 1, 1, 1]\n"
    )
    data = LeRobotEpisodes(folder, read_mapping(tmp_path / "map.yaml"), BRIDGE)
    np.testing.assert_allclose(data.states(), np.concatenate(STATES), rtol=1e-5)
    with pytest.raises(DatasetError, match=r"has 2 factors for observation\.state; give 8"):
        LeRobotEpisodes(folder, replace(MAPPING, state_scale=(1.0, 2.0)), BRIDGE)


def test_names_are_compared_with_the_contract():
    names = BRIDGE.state_names

    def told(names) -> str:
        found = check_names(
            names_of({"names": names}), (), BRIDGE.state_names, "s", "state_columns"
        )
        return " / ".join(f"{f.message}; {f.cure}" for f in found)

    assert told(list(names)) == "" and told({"motors": list(names)}) == "" and told(None) == ""
    assert "'state_columns: [1, 0, 2, 3, 4, 5, 6, 7]'" in told(["y", "x", *names[2:]])
    joints = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist.pos"]
    assert "has joints (shoulder_pan.pos" in told([*joints, "a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("gripper_range: [1, 0]", "the smaller first"),
        ("gripper_range: [0, .inf]", "inf"),
        ("gripper_range: 100", "gripper_range must be a list, got 100"),
        ("state_scale: [0, 1]", "factors other than 0"),
        ("state_columns: [-2]", "whole number from -1 to 999, got -2"),
        ("drop_first: -3", "drop_first must be a whole number from 0 to"),
        ("binarize: yes please", "true or false"),
        ("state: [1]", "state 1 must be text"),
        ("state: []", "state must name a feature"),
        ("state_gripper: shut", "state_gripper must be one of open, closed, got 'shut'"),
        ("state_gripper: open\nstate_gripper_range: [1, 0]", "the smaller first"),
        ("state_gripper_range: [0, 1]", "needs state_gripper: open or closed"),
    ],
)
def test_mappings_are_checked(tmp_path, values, says):
    path = tmp_path / "map.yaml"
    path.write_text(f"cameras: {{front: camera}}\n{values}\n")
    with pytest.raises(DatasetError, match=says):
        read_mapping(path)


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize(
    ("low", "high", "more"),
    [
        (-1.0, 1.0, {}),
        (-1.0, 1.0, {"gripper": "closed"}),
        (0.0, 100.0, {"binarize": True}),
        (0.0, 0.08, {"binarize": True}),
        (0.0, 0.08, {"gripper": "closed", "binarize": True}),
    ],
)
def test_a_gripper_in_other_units_becomes_0_to_1_or_is_refused(
    tmp_path, write, images, low, high, more
):
    folder = write(tmp_path / "set", images, fps=10)
    for path in folder.glob("data/*/*.parquet"):
        actions = np.array(parquet.read_table(path).column("action").to_pylist())
        actions[:, 6] = low + (high - low) * actions[:, 6]
        replace_column(path, "action", actions.tolist())
    mapping = replace(MAPPING, **more)
    with pytest.raises(DatasetError, match=r"the gripper of action .*'gripper_range: \["):
        LeRobotEpisodes(folder, mapping, BRIDGE)
    data = LeRobotEpisodes(folder, replace(mapping, gripper_range=(low, high)), BRIDGE)
    # The last of two steps is the one with 1.
    expected = 0.0 if more.get("gripper") else 1.0
    np.testing.assert_allclose(data.actions()[:, 6], expected, atol=1e-6)
