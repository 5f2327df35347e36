"""Bags as training data: every sample is what the robot knew then, and faulty bags are named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from bag_files import (
    BEGIN,
    GRASP,
    HELD,
    MILLISECOND,
    SPEED,
    TURN,
    grey,
    position,
    width,
    write_demonstration,
)

from vla.bags.episodes import BagEpisodes, bag_folders, read_bag_episode
from vla.bags.writer import BagError
from vla.contract.embodiment import ContractError, load_contract
from vla.contract.normalization import read_norm_stats
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.step_actions import gripper_commands
from vla.policies.config import LoraConfig
from vla.training.config import RobotData, TrainConfig, write_train_config
from vla_cli.parser import main

CONTRACT = load_contract(contract_path("sim_panda"))
GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_frame_is_what_the_robot_knew(tmp_path, compressed):
    write_demonstration(tmp_path / "bags/one", CONTRACT, compressed=compressed)
    data = BagEpisodes(tmp_path / "bags", CONTRACT)
    episode = data.episodes[0]
    since = (episode.times - BEGIN) // MILLISECOND
    assert list(since) == list(range(0, 2900, 100)), "from the first to a step before the last"
    for row, milliseconds in enumerate(since):
        sample, seconds = data.sample(row, GENERATOR), milliseconds / 1000
        assert set(sample.images) == {"front", "wrist"}
        for image in sample.images.values():
            assert image.shape == (96, 96, 3) and (image == grey(milliseconds)).all()
        np.testing.assert_allclose(sample.state[:3], position(seconds), atol=1e-6)
        np.testing.assert_allclose(sample.state[9], width(seconds), atol=1e-6)
        assert sample.instruction == "pick up the cup" and "one, frame" in sample.source
        left = len(data) - row
        np.testing.assert_allclose(sample.actions[:left, :3], SPEED[None].repeat(16, 0)[:left] / 10)
        np.testing.assert_allclose(
            sample.actions[:left, 3:6], TURN[None].repeat(16, 0)[:left] / 10, atol=1e-6
        )
        assert not sample.actions[left:, :6].any(), "nothing is known to move past the end"
        assert sample.actions[0, 6] == float(seconds < GRASP), "closed from the step they close in"
    assert width(2.0) == HELD and data.sample(20, GENERATOR).actions[:, 6].max() == 0
    assert data.sample(0, GENERATOR).motion == "move forward, rotate counterclockwise"
    assert data.states().shape == (29, 10) and data.actions().shape == (29, 7)
    assert data.episode_ends.tolist() == [29]


@pytest.mark.slow
def test_training_draws_on_several_bags_and_leaves_failures_out(tmp_path):
    write_demonstration(tmp_path / "a", CONTRACT)
    write_demonstration(tmp_path / "b", CONTRACT, custom={"outcome": "failure"})
    write_demonstration(tmp_path / "c", CONTRACT, 2.0, custom={"instruction": "close it"})
    annotation = {"c": {"0": {"alt_instruction": {"CR": [{"question": "shut", "answer": "yes"}]}}}}
    (tmp_path / "labels.json").write_text(json.dumps(annotation))
    data = BagEpisodes(tmp_path, CONTRACT, tmp_path / "labels.json")
    assert [episode.folder.name for episode in data.episodes] == ["a", "c"]
    assert len(data) == 29 + 19
    assert data.sample(28, GENERATOR).instruction == "pick up the cup"
    assert data.sample(28, GENERATOR).annotation is None
    assert data.sample(29, GENERATOR).instruction == "close it"
    assert data.sample(29, GENERATOR).annotation.command_rewrites == (("shut", "yes"),)
    write_demonstration(tmp_path / "only/d", CONTRACT, custom={"outcome": "failure"})
    with pytest.raises(DatasetError, match="labelled as failures"):
        BagEpisodes(tmp_path / "only", CONTRACT)


def test_an_instruction_holds_from_when_it_was_received(tmp_path):
    said = (
        (0.95, "pick up the spoon", "act"),
        (1.5, "what do you see", "ask"),
        (2.05, "put it down", "think"),
    )
    bag = write_demonstration(tmp_path / "bag", CONTRACT, instructions=said)
    instructions = read_bag_episode(bag, CONTRACT)[0].instructions
    assert instructions == (
        ["pick up the cup"] * 10 + ["pick up the spoon"] * 11 + ["put it down"] * 8
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"silent": {"camera/wrist/image_raw": (1.0, 1.5)}}, "image_raw' is silent for 0.350 s"),
        (
            {"silent": {"end_effector_pose": (1.0, 1.5)}},
            "pose' is silent for 0.110 s at second 1.1",
        ),
        ({"silent": {"joint_states": (0.0, 9.0)}}, "needs one topic 'joint_states', but has none"),
        ({"silent": {"camera/front/image_raw": (0.0, 9.0)}}, "needs one topic 'camera/front"),
        ({"custom": {"instruction": ""}}, "no instruction"),
        ({"frame": "world"}, "is in frame 'world'; the contract says 'panda_link0'"),
        ({"seconds": 0.1}, "overlap too little"),
        ({"silent": {"camera/front/image_raw": (1.0, 1.5)}}, "is silent for 0.550 s at second 0.9"),
        ({"silent": {"joint_states": (1.5, 9.0)}}, "joint_states' ends at second 1.49, 1.50 s bef"),
        (
            {"silent": {"camera/front/image_raw": (1.5, 9.0)}},
            "camera/front/image_raw' ends at second 1.45, 1.54 s before the others",
        ),
    ],
)
def test_a_bag_that_cannot_be_used_is_named(tmp_path, changes, said):
    bag = write_demonstration(tmp_path / "bag", CONTRACT, **changes)
    with pytest.raises(DatasetError, match="bag: ") as caught:
        read_bag_episode(bag, CONTRACT)
    assert said in str(caught.value) and str(bag) in str(caught.value)


def test_a_bag_of_another_robot_and_a_folder_without_bags_are_refused(tmp_path):
    bag = write_demonstration(tmp_path / "bag", replace(CONTRACT, base_frame="base"))
    with pytest.raises(ContractError, match="base_frame"):
        read_bag_episode(bag, CONTRACT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no bags in"):
        bag_folders(tmp_path / "empty")
    damaged = write_demonstration(tmp_path / "damaged", CONTRACT)
    file = damaged / "damaged.mcap"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(BagError, match="damaged"):
        read_bag_episode(damaged, CONTRACT)


@pytest.mark.slow
def test_a_killed_recorder_s_bag_is_used_as_far_as_it_goes(tmp_path):
    bag = write_demonstration(tmp_path / "bag", CONTRACT, 60.0)
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(BagError, match=r"truncated|not complete|end"):
        read_bag_episode(bag, CONTRACT)
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("complete: 'true'", "complete: 'false'"))
    assert 100 < len(read_bag_episode(bag, CONTRACT)[0].times) < 590


def test_a_camera_that_is_slower_than_the_contract_is_refused(tmp_path):
    fast = replace(CONTRACT, rate=30.0)
    bag = write_demonstration(tmp_path / "bag", fast)
    with pytest.raises(DatasetError, match=r"image_raw' gives 60 images for \d+ frames"):
        read_bag_episode(bag, fast)


def test_what_a_person_demonstrates_is_not_what_the_topic_says(tmp_path):
    bag = write_demonstration(
        tmp_path / "bag",
        CONTRACT,
        custom={"demonstration": "true"},
        instructions=((0.5, "go home", "act"),),
    )
    assert set(read_bag_episode(bag, CONTRACT)[0].instructions) == {"pick up the cup"}


def test_a_held_object_is_not_an_open_gripper():
    widths = np.array([0.08, 0.08, 0.07, 0.06, 0.05, 0.048, 0.05, 0.05, 0.06, 0.07, 0.08])
    told = gripper_commands(widths[:-1], widths[1:], CONTRACT)
    assert told.tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.slow
def test_a_policy_learns_from_bags(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    write_demonstration(tmp_path / "bags/one", CONTRACT)
    config = TrainConfig(
        preset="test", contract="sim_panda", robot=(RobotData(str(tmp_path / "bags"), "bags"),),
        lora=LoraConfig(("action",), rank=4), output=str(tmp_path / "run"), steps=2, batch_size=3,
        validation_share=0.2, validate_every=2, validation_batches=1,
    )  # fmt: skip
    write_train_config(config, tmp_path / "train.yaml")
    command = ["train", "--config", str(tmp_path / "train.yaml")]
    assert main(command) == 0
    stats = read_norm_stats(
        tmp_path / "run/checkpoint/norm_stats.json",
        {"state": CONTRACT.state_names, "action": CONTRACT.action_names},
    )
    middle = (stats["action"].q01 + stats["action"].q99) / 2
    np.testing.assert_allclose(middle[:3], SPEED / 10, atol=1e-4)
    write_demonstration(tmp_path / "bags/two", CONTRACT, frame="world")
    assert main(command) == 2
    assert "two: '/robot/end_effector_pose' is in frame 'world'" in capsys.readouterr().err
