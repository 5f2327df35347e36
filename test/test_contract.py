"""The embodiment contract: what it refuses, and that differences are named."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import yaml
from conftest import CONTRACT_PATH
from mutations import mutated
from scipy.spatial.transform import Rotation

from vla.contract.dimensions import STATE_LAYOUTS, STATE_NAMES
from vla.contract.embodiment import (
    ContractError,
    contract_from_dict,
    load_contract,
    state_vector,
)
from vla.control.arm import ArmController, ArmControllerConfig
from vla.core.resources import contract_path, given_or_shared, shared_file


def values() -> dict:
    return yaml.safe_load(CONTRACT_PATH.read_text())


def test_shipped_contract(contract):
    assert contract.time_step == pytest.approx(0.1)
    assert [camera.name for camera in contract.cameras] == ["front", "wrist"]
    assert contract.camera("wrist").topic == "camera/wrist/image_raw"
    assert len(contract.contract_id) == 12 and int(contract.contract_id, 16)


def test_what_is_written_reads_as_the_same_contract(contract):
    again = contract_from_dict(yaml.safe_load(yaml.safe_dump(contract.to_dict())))
    assert again == contract and again.contract_id == contract.contract_id


def test_numbers_of_another_type_are_the_same_contract(contract):
    again = contract_from_dict(values() | {"rate": 10, "horizon": 16.0})
    assert again.contract_id == contract.contract_id


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rate": 0.0}, "rate must be a number from 0.1 to 1000, got 0.0"),
        ({"rate": "ten"}, "rate must be a number from 0.1 to 1000, got 'ten'"),
        ({"horizon": 2.5}, "horizon must be a whole number from 1 to 1024, got 2.5"),
        ({"joint_names": "panda_joint1"}, "joint_names must be a list, got 'panda_joint1'"),
        ({"base_frame": 3}, "base_frame must be text"),
        ({"colour": "white"}, "unknown entries: colour"),
        ({"state_names": ["x", "y"]}, "state_names must be"),
        ({"action_names": ["x"]}, "action_names must be"),
        ({"representation": "absolute"}, "representation must be one of"),
        ({"reference_camera": "left"}, "no camera 'left'; it has: front, wrist"),
        ({"cameras": [{"name": "front"}]}, "cameras 1: missing entries: width, height"),
        ({"cameras": 3}, "cameras must be a list, got 3"),
        ({"cameras": [values()["cameras"][0]] * 2}, "same name: front, front"),
    ],
)
def test_impossible_entry_is_named(change, says):
    with pytest.raises(ContractError, match=says) as caught:
        contract_from_dict(values() | change, "my.yaml")
    assert "my.yaml" in str(caught.value) or "sim_panda" in str(caught.value)


def test_missing_entry_is_named():
    incomplete = values()
    del incomplete["rate"]
    with pytest.raises(ContractError, match=r"my\.yaml: missing entries: rate"):
        contract_from_dict(incomplete, "my.yaml")


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ContractError, match=r"none\.yaml: No such file"):
        load_contract(tmp_path / "none.yaml")
    path = tmp_path / "broken.yaml"
    path.write_text("rate: [")
    with pytest.raises(ContractError, match=r"broken\.yaml is not valid YAML"):
        load_contract(path)
    path.write_text("just words")
    with pytest.raises(ContractError, match=r"must be a mapping of .*, got str"):
        load_contract(path)


@pytest.mark.parametrize("entry", ["name", "horizon", "joint_names", "state_names"])
def test_a_contract_with_aliases_without_end_is_refused_at_once(tmp_path, entry):
    path = tmp_path / "contract.yaml"
    path.write_text(with_bomb(values(), entry))
    with pytest.raises(ContractError, match="stands for more than 100000 values") as caught:
        load_contract(path)
    assert len(str(caught.value)) < 500 and str(path) in str(caught.value)
    # And where the values come from elsewhere, already read.
    aliased = ["x"]
    for _ in range(60):
        aliased = [aliased] * 9
    with pytest.raises(ContractError, match=f"my.yaml: {entry} .*must") as caught:
        contract_from_dict(values() | {entry: aliased}, "my.yaml")
    assert len(str(caught.value)) < 500


def with_bomb(contract: dict, entry: str, levels: int = 10) -> str:
    """A contract's YAML text in which one entry is a list that aliases repeat without end."""
    lines = ["&a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 8)
        lines.append(f"&a{level} [{lines[-1]}, {aliases}]")
    rest = {name: value for name, value in contract.items() if name != entry}
    return f"{entry}: {lines[-1]}\n{yaml.safe_dump(rest)}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rate": 1e9}, "rate must be a number from 0.1 to 1000"),
        ({"rate": float("nan")}, "rate must be a number from 0.1 to 1000, got nan"),
        ({"rate": 10**400}, "rate must be a number .*, got a number of 1329 bits"),
        ({"horizon": float("inf")}, "horizon must be a whole number"),
        ({"horizon": 10**9}, "horizon must be a whole number from 1 to 1024"),
        ({"gripper_open_width": 80.0}, "gripper_open_width must be a number from 0.001 to 1"),
        ({"state_max_age": 1e300}, "state_max_age"),
        ({"name": "../../etc"}, "name must not begin with '.' or hold '/'"),
        ({"name": "x" * 10**6}, "name has 1000000 characters"),
        ({"name": "\x1b[2J"}, "printable"),
        ({"base_frame": ""}, "base_frame must be a name"),
        ({"joint_names": ["a", "a"]}, "joint_names has a name twice"),
        ({"joint_names": ["a"] * 10**6}, "joint_names must have 0 to 100 entries"),
        ({"cameras": []}, "cameras must have 1 to 16 entries, it has 0"),
        ({"cameras": [{**values()["cameras"][0], "width": 10**7}]}, "width must be"),
        ({"cameras": [{**values()["cameras"][0], "name": "a/b"}]}, "hold '/'"),
        ({"cameras": [{**values()["cameras"][0], 3: 4}]}, "unknown entries: 3"),
        ({"joint_limits": {"upper": 1e300}}, "upper must be a number"),
        ({3: 4}, "unknown entries: 3"),
    ],
)
def test_absurd_entry_is_named_in_one_short_line(change, says):
    with pytest.raises(ContractError, match=says) as caught:
        contract_from_dict(values() | change, "my.yaml")
    assert "my.yaml" in str(caught.value)
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


@pytest.mark.slow
def test_a_mutated_contract_is_sound_or_refused(tmp_path):
    chance = random.Random(3)
    path = tmp_path / "contract.yaml"
    refused = 0
    for _ in range(300):
        path.write_bytes(mutated(yaml.safe_dump(values()).encode(), chance))
        try:
            contract = load_contract(path)
        except ContractError as problem:
            refused += 1
            assert len(str(problem)) < 500 and str(problem).isprintable()
            continue
        assert 0.1 <= contract.rate <= 1000 and 1 <= contract.horizon <= 1024
        assert len(contract.contract_id) == 12
        assert contract_from_dict(contract.to_dict()) == contract
    assert refused > 100


def test_require_same_names_every_difference(contract):
    contract.require_same(replace(contract))
    other = replace(contract, rate=20.0, tool_frame="flange")
    with pytest.raises(ContractError) as caught:
        contract.require_same(other, own="of the robot", theirs="of the dataset")
    text = str(caught.value)
    assert "rate: of the robot 10.0, of the dataset 20.0" in text
    assert "tool_frame" in text and "'flange'" in text
    assert "horizon" not in text
    assert contract.contract_id != other.contract_id


def test_state_vector_holds_position_rotation_columns_and_width():
    rotation = Rotation.from_euler("xyz", [2.9, 0.3, -1.1])
    state = state_vector(np.array([0.4, 0.1, 0.3]), rotation.as_quat(), 0.05)
    matrix = rotation.as_matrix()
    assert state.shape == (len(STATE_NAMES),) and state.dtype == np.float64
    np.testing.assert_allclose(state[:3], [0.4, 0.1, 0.3])
    np.testing.assert_allclose(state[3:9], [*matrix[:, 0], *matrix[:, 1]], atol=1e-12)
    assert state[9] == 0.05


@pytest.mark.parametrize(
    ("position", "quaternion", "width", "says"),
    [
        ([0, 0, np.nan], [0, 0, 0, 1], 0.0, "not finite"),
        ([0, 0, 0], [0, 0, 0, 1], np.inf, "not finite"),
        ([0, 0, 0], [0, 0, 0, 0], 0.0, "not of unit length"),
    ],
)
def test_state_of_a_broken_pose_is_refused(position, quaternion, width, says):
    with pytest.raises(ValueError, match=says):
        state_vector(np.array(position), np.array(quaternion), width)


def test_shipped_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert contract_path("sim_panda").read_text() == CONTRACT_PATH.read_text()
    assert contract_path("config/contracts/sim_panda.yaml") == contract_path("sim_panda")
    assert given_or_shared("config/training/nano_action.yaml").is_file()
    with pytest.raises(ValueError, match="there is no contract 'fr9'"):
        contract_path("fr9")
    with pytest.raises(FileNotFoundError, match=r"no/such\.yaml"):
        shared_file("no/such.yaml")


def test_a_persons_own_file_comes_before_the_shipped_one(tmp_path, monkeypatch):
    own = tmp_path / "config" / "contracts" / "sim_panda.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(CONTRACT_PATH.read_text())
    monkeypatch.chdir(tmp_path)
    assert contract_path("config/contracts/sim_panda.yaml").resolve() == own
    assert str(given_or_shared("runs/none")) == "runs/none"


def test_installed_files_are_found_by_the_ros_environment(tmp_path, monkeypatch):
    share = tmp_path / "share" / "vla_ros" / "extra"
    share.mkdir(parents=True)
    (share / "robot.yaml").write_text("")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    assert shared_file("extra/robot.yaml") == share / "robot.yaml"


TURN = Rotation.from_euler("xyz", [0.2, -0.3, 0.4]).as_quat()


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (STATE_LAYOUTS[1], [0.4, 0.1, 0.3, 0.2, -0.3, 0.4, 0.0, 0.5]),
        (STATE_LAYOUTS[2], [0.4, 0.1, 0.3, *TURN, 0.5]),
    ],
)
def test_other_layouts_of_the_state(layout, expected):
    state = state_vector(np.array([0.4, 0.1, 0.3]), TURN, 0.04, layout, 0.08)
    np.testing.assert_allclose(state, expected, atol=1e-9)
    values = load_contract(contract_path("sim_panda")).to_dict() | {"state_names": list(layout)}
    assert contract_from_dict(values).state_names == layout


def test_actions_that_cannot_be_executed_are_refused():
    values = load_contract(contract_path("sim_panda")).to_dict()
    contract = contract_from_dict(values | {"representation": "delta_euler"})
    with pytest.raises(ContractError, match="'delta_euler' cannot be executed"):
        ArmController(ArmControllerConfig(), contract)


def limited(**limits):
    values = load_contract(contract_path("sim_panda")).to_dict()
    return contract_from_dict(values | {"joint_limits": limits}, source="lab.yaml")


def test_joint_limits_are_for_all_or_for_each():
    limits = limited(velocity=1, acceleration=[1, 2, 3, 4, 5, 6, 7.5], upper=None).joint_limits
    assert limits.names == load_contract(contract_path("sim_panda")).joint_names
    np.testing.assert_array_equal(limits.velocity, np.ones(7))
    np.testing.assert_array_equal(limits.acceleration, [1, 2, 3, 4, 5, 6, 7.5])
    for kind in ("lower", "upper", "jerk"):
        assert np.isnan(getattr(limits, kind)).all(), "what is not said is left to the robot"


def test_an_arm_is_slowed_down_without_training_anew():
    plain = contract_from_dict(load_contract(contract_path("sim_panda")).to_dict())
    slow = limited(velocity=0.2, jerk=50)
    assert slow.joint_limits is not None and plain.joint_limits is None
    assert slow.contract_id == plain.contract_id and slow == plain
    slow.require_same(plain)
    assert "joint_limits" not in slow.to_dict()
    for name in ("sim_panda", "fr3", "ur5e"):
        shipped = load_contract(contract_path(name))
        assert shipped.joint_limits is not None
        assert contract_from_dict(shipped.to_dict()).contract_id == shipped.contract_id


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"velocity": 0}, "velocity must be a number from 1e-06 to 1e\\+06, got 0"),
        ({"jerk": [1, 1, 1, -1, 1, 1, 1]}, "jerk must be a number .*, got -1"),
        ({"velocity": [1, 2]}, "velocity has 2 values for 7 joints; give one number for all"),
        ({"velocity": "fast"}, "velocity must be a number from 1e-06 to 1e\\+06, got 'fast'"),
        ({"acceleration": True}, "acceleration must be a number from 1e-06 to 1e\\+06, got True"),
        ({"velocity": [[1]] * 7}, "velocity"),
        ({"speed": 1}, "unknown entries: speed; known: lower, upper, velocity"),
        ({"lower": 1, "upper": -1}, r"panda_joint1: lower 1 is not below upper -1"),
    ],
)
def test_impossible_joint_limits_are_refused(limits, says):
    with pytest.raises(ContractError, match=rf"lab\.yaml: joint_limits: .*{says}"):
        limited(**limits)
    values = load_contract(contract_path("sim_panda")).to_dict()
    with pytest.raises(ContractError, match=r"joint_limits must be a mapping of lower, upper"):
        contract_from_dict(values | {"joint_limits": [1.0]})


def test_how_frames_fit_is_part_of_a_contract():
    values = load_contract(contract_path("sim_panda")).to_dict()
    plain = contract_from_dict(values)
    assert "fit" not in values["cameras"][0], "contracts from before keep their id"
    values["cameras"][0] |= {"fit": "crop", "resampling": "area"}
    assert contract_from_dict(values).contract_id == plain.contract_id
    values["cameras"][0]["fit"] = "pad"
    padded = contract_from_dict(values)
    assert (
        padded.contract_id != plain.contract_id and contract_from_dict(padded.to_dict()) == padded
    )
    with pytest.raises(ContractError, match="cameras"):
        plain.require_same(padded)
    values["cameras"][0]["fit"] = "stretch"
    with pytest.raises(ContractError, match="fit"):
        contract_from_dict(values)
    for name in ("widowx_bridge", "google_fractal", "libero"):
        assert {c.fit for c in load_contract(contract_path(name)).cameras} == {"squash"}
