"""Contracts with declared dimensions: of any robot, from the file to checkpoint and data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from linear_policy import LinearConfig, LinearModel

from vla.contract.dimensions import Dimension
from vla.contract.embodiment import (
    ContractError,
    EmbodimentContract,
    contract_from_dict,
    dimension_kinds,
    load_contract,
)
from vla.contract.normalization import measure
from vla.control.arm import ArmController, ArmControllerConfig
from vla.core.resources import contract_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import LeRobotEpisodes, LeRobotMapping
from vla.datasets.lerobot.writer import LeRobotWriter
from vla.observations.streams import observation_streams
from vla.policies.checkpoint import open_checkpoint, save_checkpoint
from vla.policies.robots import Robot
from vla_cli.parser import main
from vla_nodes.recorder.topics import plan_topics

# MetaWorld's arm: the tool's motion without its turns, and the fingers.
METAWORLD = """
name: metaworld
rate: 80.0
horizon: 8
cameras: [{name: corner, topic: corner, width: 64, height: 64, max_age: 1.0}]
reference_camera: corner
state_dimensions:
  - {name: x, kind: position}
  - {name: y, kind: position}
  - {name: z, kind: position}
  - {name: opening, kind: gripper}
action_dimensions:
  - {name: x, kind: position_delta, unit: m}
  - {name: y, kind: position_delta, unit: m}
  - {name: z, kind: position_delta, unit: m}
  - {name: gripper, kind: gripper}
"""
# gymnasium's pendulum: one torque, and no camera.
PENDULUM = """
name: pendulum
rate: 20.0
horizon: 4
state_dimensions:
  - {name: cosine}
  - {name: sine}
  - {name: velocity, kind: joint_velocity}
action_dimensions: [{name: torque, unit: N m}]
"""
TWO_ARMS = """
name: two_arms
rate: 50.0
horizon: 50
joint_names: [left, right]
state_dimensions: [{name: left, kind: joint_position}, {name: right, kind: joint_position}]
action_dimensions:
  - {name: left, kind: joint_position}
  - {name: right, kind: joint_velocity}
  - {name: left_gripper, kind: gripper}
  - {name: right_gripper, kind: gripper}
"""


@pytest.mark.parametrize(
    ("text", "sizes", "units", "kinds"),
    [
        (METAWORLD, (4, 4), ["m", "m", "m", ""], ["relative"] * 3 + ["binary"]),
        (PENDULUM, (3, 1), ["N m"], ["absolute"]),
        (TWO_ARMS, (2, 4), ["rad", "rad/s", "", ""], ["absolute"] * 2 + ["binary"] * 2),
    ],
)
def test_any_state_and_action_can_be_declared(tmp_path, text, sizes, units, kinds):
    (tmp_path / "robot.yaml").write_text(text)
    contract = load_contract(tmp_path / "robot.yaml")
    assert (len(contract.state_names), len(contract.action_names)) == sizes
    assert [dimension.unit for dimension in contract.actions] == units
    assert list(dimension_kinds(contract)["action"]) == kinds
    again = contract_from_dict(yaml.safe_load(yaml.safe_dump(contract.to_dict())))
    assert again == contract and again.contract_id == contract.contract_id
    changed = contract_from_dict(yaml.safe_load(text.replace("horizon: ", "horizon: 1")))
    assert changed.contract_id != contract.contract_id


@pytest.mark.parametrize("text", [METAWORLD, PENDULUM])
def test_a_checkpoint_keeps_such_a_contract(tmp_path, text):
    contract = contract_from_dict(yaml.safe_load(text))
    kinds, generator = dimension_kinds(contract), np.random.default_rng(0)
    stats = {
        vector: measure(generator.normal(size=(50, len(names))), names, kinds[vector])
        for vector, names in (("state", contract.state_names), ("action", contract.action_names))
    }
    torch.manual_seed(0)
    weights = LinearModel(LinearConfig(), contract).state_dict()
    robots = [Robot(contract, stats)]
    save_checkpoint(tmp_path / "checkpoint", LinearConfig(), weights, robots, None)
    opened = open_checkpoint(tmp_path / "checkpoint")
    assert opened.contract == contract
    assert opened.contract.contract_id == contract.contract_id
    assert opened.stats["action"].kinds == kinds["action"]


def test_what_is_written_in_code_is_what_the_file_says():
    contract = EmbodimentContract(
        name="pendulum",
        rate=20.0,
        horizon=4,
        state_names=("cosine", "sine", "velocity"),
        state_dimensions=(
            Dimension("cosine"),
            Dimension("sine"),
            Dimension("velocity", "joint_velocity"),
        ),
        action_names=("torque",),
        action_dimensions=(Dimension("torque", unit="N m"),),
    )
    assert contract == contract_from_dict(yaml.safe_load(PENDULUM))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"action_dimensions": [{"name": "a", "kind": "speed"}]}, "kind must be one of position, "),
        (
            {"action_dimensions": [{"name": "a", "kin": "other"}]},
            "unknown entries: kin; known: kind",
        ),
        ({"action_dimensions": [{"kind": "other"}]}, "action_dimensions 1: missing entries: name"),
        ({"action_dimensions": [{"name": "a"}, {"name": "a"}]}, "action_names has a name twice"),
        (
            {"action_dimensions": [{"name": "a", "kind": "joint_velocity", "unit": "deg/s"}]},
            "'a' is a joint_velocity in 'deg/s'; it must be in rad/s or m/s",
        ),
        ({"action_dimensions": [{"name": "a", "unit": "x" * 30}]}, "at most 20 characters"),
        ({"action_dimensions": [{"name": "a", "kind": "rotation_delta"}]}, "representation must"),
        ({"action_dimensions": [{"name": ""}]}, "must be a name"),
        ({"action_dimensions": 3}, "action_dimensions must be a list, got 3"),
        ({"action_names": ["b"]}, "action_names and action_dimensions differ"),
        ({"action_dimensions": []}, "action_names must be .*; declare others"),
        ({"action_dimensions": [], "action_names": ["a"]}, "declare others, with kind and unit"),
        ({"reference_camera": "left"}, "has no camera 'left'"),
        ({"rate": 0}, "rate must be a number from 0.1 to 1000, got 0"),
    ],
)
def test_a_wrong_declaration_is_named(change, says):
    with pytest.raises(ContractError, match=says) as caught:
        contract_from_dict(yaml.safe_load(PENDULUM) | change, "my.yaml")
    assert "my.yaml" in str(caught.value) or "pendulum" in str(caught.value)
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


def test_a_data_set_of_such_a_robot_is_written_and_read(tmp_path):
    contract = contract_from_dict(yaml.safe_load(METAWORLD))
    states, actions = np.random.default_rng(0).uniform(0, 1, (2, 12, 4)).astype(np.float32)
    with LeRobotWriter(tmp_path / "set", contract) as writer:
        images = writer.begin()
        for _ in states:
            images.add({"corner": np.zeros((64, 64, 3), np.uint8)})
        writer.add(images.finish(states, actions, ["open the door"] * len(states)))
    data = LeRobotEpisodes(tmp_path / "set", None, contract)
    np.testing.assert_array_equal(data.states(), states)
    np.testing.assert_array_equal(data.actions(), actions)
    chunk = data.sample(10, np.random.default_rng(0)).actions
    np.testing.assert_array_equal(chunk[:2], actions[10:])
    np.testing.assert_array_equal(chunk[2:], np.tile([0, 0, 0, actions[-1, 3]], (6, 1)))
    with pytest.raises(ContractError, match="'relabel: true' of the mapping needs a contract"):
        mapping = LeRobotMapping({"corner": "observation.images.corner"}, relabel=True)
        LeRobotEpisodes(tmp_path / "set", mapping, contract)
    with pytest.raises(DatasetError, match="only actions of a tool can be thinned out"):
        LeRobotEpisodes(tmp_path / "set", mapping, replace(contract, rate=40.0))


def test_only_cameras_of_a_robot_with_topics_need_one():
    values = yaml.safe_load(METAWORLD)
    del values["cameras"][0]["topic"]
    contract = contract_from_dict(values)
    assert contract.cameras[0].topic == ""
    assert contract_from_dict(contract.to_dict()) == contract
    panda = load_contract(contract_path("sim_panda")).to_dict()
    del panda["cameras"][1]["topic"]
    with pytest.raises(ContractError, match="cameras 2: topic must be a name"):
        contract_from_dict(panda, "my.yaml")


@pytest.mark.parametrize("text", [METAWORLD, PENDULUM])
def test_what_moves_a_tool_refuses_another_layout(text):
    contract = contract_from_dict(yaml.safe_load(text))
    with pytest.raises(ContractError, match="the controller needs a contract with the actions x, "):
        ArmController(ArmControllerConfig(), contract)
    with pytest.raises(ContractError, match=r"observing a robot needs .* the actions .* the state"):
        observation_streams(contract)


def test_recording_and_checking_a_robot_refuse_another_layout(capsys):
    contract = load_contract(contract_path("metaworld"))
    with pytest.raises(ContractError, match=r"recording a robot needs .*; 'metaworld' has the act"):
        plan_topics(contract, False, False)
    assert main(["preflight", "--contract", "metaworld"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("vla: the check of a robot needs a contract with the actions x, y, ")
    assert said.count("\n") == 1


def test_a_declared_tool_is_one_only_with_the_same_kinds(contract):
    values = load_contract(contract_path("sim_panda")).to_dict()
    kinds = ["position_delta"] * 3 + ["rotation_delta"] * 3 + ["gripper"]
    declared = [
        {"name": name, "kind": kind}
        for name, kind in zip(values["action_names"], kinds, strict=True)
    ]
    assert contract_from_dict(values | {"action_dimensions": declared}).is_of_tool
    declared[0]["kind"] = "other"
    assert not contract_from_dict(values | {"action_dimensions": declared}).is_of_tool
