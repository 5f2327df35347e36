"""The launch files of this package: what they start, with which parameters, by which arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from launcher_prefix import install_vla_ros, make_prefix, parameters_of

from vla.contract.embodiment import load_contract
from vla.control.kinematics import DifferentialIK
from vla.control.robot_model import arm_limits, model_from_urdf
from vla.control.robots import panda
from vla_nodes.controller.settings import CONTROLLER_SETTINGS
from vla_nodes.core.settings import _allowed
from vla_nodes.launcher.arguments import declared_arguments
from vla_nodes.launcher.document import LaunchError
from vla_nodes.launcher.expansion import expand
from vla_nodes.launcher.process import ProcessDescription

ROOT = Path(__file__).resolve().parents[1]
FILES = ("sim", "bringup", "record", "page", "mover", "fr3", "ur5e")
NODES = ["perception", "reasoning", "action_expert", "controller", "recorder"]


@pytest.fixture
def environment(tmp_path):
    environment = make_prefix(tmp_path / "prefix")
    install_vla_ros(tmp_path / "prefix", ROOT)
    return environment


@pytest.fixture
def processes(tmp_path, environment):
    """Expands one of our launch files into its processes by node name."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def expand_file(name: str, **arguments: str) -> dict[str, ProcessDescription]:
        expansion = expand(ROOT / "launch" / f"{name}.launch.xml", arguments, environment, scratch)
        named = {node_name(process): process for process in expansion.processes}
        assert len(named) == len(expansion.processes), "two nodes of one name"
        return named

    return expand_file


def node_name(process: ProcessDescription) -> str:
    (name,) = {word[8:] for word in process.command if word.startswith("__node:=")}
    return name


def test_each_file_starts_its_nodes(processes):
    assert list(processes("sim")) == [*NODES, "sim"]
    assert list(processes("sim", bringup="false")) == ["sim"]
    assert list(processes("bringup")) == NODES
    assert list(processes("bringup", record="false")) == NODES[:-1]
    assert list(processes("record")) == ["recorder"]
    assert list(processes("page")) == ["page"]


def test_only_the_simulator_brings_simulated_time(processes):
    for name, process in processes("sim").items():
        if name != "sim":
            assert parameters_of(process.command)["use_sim_time"] is True
    for process in processes("bringup").values():
        assert parameters_of(process.command)["use_sim_time"] is False


def test_a_simulator_and_its_nodes_have_the_time_of_their_namespace(processes):
    for name, process in processes("sim").items():
        assert ("/clock:=clock" in process.command) == (name != "sim")
    for process in [*processes("bringup").values(), *processes("record").values()]:
        assert "/clock:=/clock" in process.command


def test_who_reads_transforms_reads_those_of_its_namespace(processes):
    for name in ("sim", "bringup"):
        started, inner = processes(name), "" if name == "sim" else "/"
        for reader in ("perception", "recorder"):
            rules = set(started[reader].command)
            assert {f"/tf:={inner}tf", f"/tf_static:={inner}tf_static"} <= rules


def test_arguments_reach_the_nodes_from_the_outermost_file(processes):
    started = processes(
        "sim",
        namespace="left",
        checkpoint="5",
        contract="c.yaml",
        device="cuda:1",
        dtype="float32",
        adapter="6",
        server="ws://there:8200",
        observation_transport="jpeg",
        autostart="false",
        bag_directory="b",
        log_level="debug",
        respawn="false",
    )
    for name, process in started.items():
        parameters = parameters_of(process.command)
        assert {f"__node:={name}", "__ns:=/left"} <= set(process.command)
        assert process.command[1:4] == ("--ros-args", "--log-level", "debug")
        assert parameters["autostart"] is False and process.respawn is False
        if name != "sim":
            assert parameters["contract"] == "c.yaml"
        if name in ("reasoning", "action_expert"):
            assert (parameters["checkpoint"], parameters["device"]) == ("5", "cuda:1")
            assert (parameters["adapter"], parameters["dtype"]) == ("6", "float32")
            assert parameters["server"] == "ws://there:8200"
            assert parameters["observation_transport"] == "jpeg"
    assert parameters_of(started["recorder"].command)["directory"] == "b"


@pytest.mark.parametrize("name", [name for name in FILES if name != "page"])
def test_the_operator_page_is_started_where_it_is_asked_for(processes, name):
    asked = {"page": "true", "page_port": "9000", "bag_directory": "b", "checkpoint": "c"}
    asked |= {"drivers": "false", "cameras": "false"}
    if name != "ur5e":
        asked["namespace"] = "left"
    page = processes(name, **asked)["page"]
    parameters = parameters_of(page.command)
    assert (parameters["port"], parameters["directory"]) == (9000, "b")
    assert parameters["address"] == "127.0.0.1"
    assert parameters["use_sim_time"] is (name == "sim")
    assert ("__ns:=/left" in page.command) == (name != "ur5e")


def test_the_first_scene_is_chosen(processes):
    parameters = parameters_of(processes("sim", family="place", seed="7")["sim"].command)
    assert (parameters["family"], parameters["seed"]) == ("place", 7)


def test_nodes_come_back_after_a_second(processes):
    for process in processes("sim").values():
        assert process.respawn and process.respawn_delay == 1.0
        assert process.respawn_max_retries == -1


def test_the_robot_chooses_contract_and_parameters(processes):
    controller = processes("bringup", robot="other")["controller"]
    contract = parameters_of(controller.command)["contract"]
    assert contract.endswith("share/vla_ros/config/contracts/other.yaml")
    shipped = parameters_of(processes("bringup")["controller"].command)["contract"]
    assert Path(shipped).is_file()


def test_parameters_of_the_user_beat_those_of_the_node(tmp_path, processes):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {from_the_user: 1}\n")
    for name, process in processes("bringup", params_file=str(file)).items():
        files = [b for a, b in pairwise(process.command) if a == "--params-file"]
        own = [path for path in files if path.endswith(f"config/{name}.yaml")]
        assert files.index(str(file)) == len(own)


@pytest.mark.parametrize("name", FILES)
def test_every_argument_has_a_description_and_a_default(name, environment):
    for argument in declared_arguments(ROOT / "launch" / f"{name}.launch.xml", environment):
        assert argument.description and argument.default is not None


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_boolean_is_refused_with_the_choices(name, environment, tmp_path):
    """By choices, which ros2 launch checks before it starts anything; see the next test."""
    path = ROOT / "launch" / f"{name}.launch.xml"
    root = ElementTree.parse(path).getroot()
    conditions = {each.get("if", "") for each in root.iter()}
    conditions = {found for found in conditions if found.startswith("$(var")}
    switches = {
        argument.attrib["name"]
        for argument in root.findall("arg")
        if argument.get("default") in ("true", "false") and len(argument) > 1
    }
    assert conditions <= {f"$(var {switch})" for switch in switches} and switches
    for switch in switches:
        given = {"drivers": "false", switch: "off"}
        wrong = f"'{switch}' is 'off'; it must be one of: true, false, True, False"
        with pytest.raises(LaunchError, match=wrong):
            expand(path, given, environment, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_no_process_starts_before_the_last_argument_is_checked(name):
    """What ros2 launch started before it met a mistake lives on without it."""
    elements = list(in_order(ROOT / "launch" / f"{name}.launch.xml", set()))
    processes = [tag in ("node", "executable") for tag in elements]
    assert "arg" not in elements[processes.index(True) :]


def in_order(path: Path, declared: set[str]) -> Iterator[str]:
    """The tags of a launch file and of ours that it includes; of arguments, only the first."""
    for element in ElementTree.parse(path).getroot().iter():
        name = element.get("name", "")
        if element.tag == "include":
            inner = ROOT / "launch" / Path(element.get("file", "")).name
            declared |= {argument.get("name", "") for argument in element.iter("arg")}
            yield from in_order(inner, declared) if inner.is_file() else ()
        elif element.tag != "arg" or name not in declared:
            declared.add(name)
            yield element.tag


@pytest.mark.parametrize("name", FILES)
def test_no_path_is_tied_to_a_machine(name):
    text = (ROOT / "launch" / f"{name}.launch.xml").read_text()
    paths = re.findall(r'(?:default|file|from|value|exec)="(/[^"]*)"', text)
    assert set(paths) <= {"/clock", "/tf", "/tf_static"}, "topics, not paths"


def test_the_mover_gets_its_own_the_robots_and_moveits_parameters(tmp_path, processes):
    moveit = tmp_path / "moveit.yaml"
    moveit.write_text("/**:\n  ros__parameters: {robot_description: urdf}\n")
    started = processes("mover", robot="fr3", moveit_params=str(moveit), namespace="left")
    assert list(started) == ["mover"]
    command = started["mover"].command
    files = [b for a, b in pairwise(command) if a == "--params-file"]
    assert [Path(path).name for path in files[:3]] == ["mover.yaml", "fr3.yaml", "moveit.yaml"]
    assert {"__node:=mover", "__ns:=/left"} <= set(command)


def test_a_wrong_log_level_is_refused(processes):
    with pytest.raises(LaunchError, match="'log_level' is 'loud'; it must be one of: debug, info"):
        processes("sim", log_level="loud")


def test_the_execution_mode_reaches_both_who_take_part_in_it(processes):
    for mode in ("first", "real_time"):
        started = processes("bringup", execution=mode, backend="moveit_servo")
        controller = parameters_of(started["controller"].command)
        assert (controller["execution"], controller["backend"]) == (mode, "moveit_servo")
        expert = parameters_of(started["action_expert"].command)
        assert expert["real_time_chunking"] is (mode == "real_time")


@pytest.mark.parametrize("robot", ["fr3", "ur5e"])
def test_a_robot_is_its_contract_its_parameters_and_its_drivers(processes, robot):
    started = processes(robot, drivers="false", cameras="false", checkpoint="c", device="cpu")
    assert list(started) == NODES
    parameters = parameters_of(started["controller"].command)
    assert parameters["contract"].endswith(f"config/contracts/{robot}.yaml")
    assert parameters["execution"] == "real_time"
    files = [b for a, b in pairwise(started["controller"].command) if a == "--params-file"]
    assert any(path.endswith(f"config/robots/{robot}.yaml") for path in files)
    known = {setting.name: setting for setting in CONTROLLER_SETTINGS}
    for name, value in flat(robot_parameters(robot)).items():
        assert _allowed(known[name], value), name


@pytest.mark.parametrize("robot", ["fr3", "ur5e"])
def test_cameras_and_arm_are_where_contract_and_parameters_look_for_them(
    processes, tmp_path, robot
):
    prefix = tmp_path / "prefix"
    (prefix / "share/ament_index/resource_index/packages/realsense2_camera").touch()
    (prefix / "lib/realsense2_camera").mkdir()
    node = prefix / "lib/realsense2_camera/realsense2_camera_node"
    node.symlink_to(prefix / "lib/demo_package/show")
    started = processes(
        robot, drivers="false", checkpoint="c", front_serial="_1", wrist_serial="_2"
    )
    contract = load_contract(ROOT / "config" / "contracts" / f"{robot}.yaml")
    for camera in contract.cameras:
        command = started[camera.name].command
        namespace = next(word for word in command if word.startswith("__ns:="))
        # The driver's topics lie below its node's name.
        assert f"{namespace[6:]}/{camera.name}/color/image_raw" == f"/{camera.topic}"
        parameters = parameters_of(command)
        assert parameters["camera_name"] == camera.name
        assert parameters["serial_no"] == {"front": "_1", "wrist": "_2"}[camera.name]
        width, height, rate = map(int, parameters["rgb_camera.color_profile"].split("x"))
        assert width >= camera.width and height >= camera.height and rate >= contract.rate
    values = robot_parameters(robot)
    text = (ROOT / "launch" / f"{robot}.launch.xml").read_text()
    if robot == "fr3":
        (spawned,) = re.findall(r'args="(\w+) --controller-manager', text)
        assert spawned == values["joint_trajectory"]["controller"]
        # Room for both fingers of the hand, each of which goes half of the way.
        assert len(contract.finger_joint_names) == 2 and contract.gripper_open_width == 0.08
    else:
        fingers = values["gripper_command"]
        assert fingers["joint"] in contract.finger_joint_names
        assert 2 * fingers["open_position"] == contract.gripper_open_width


@pytest.mark.parametrize("robot", ["fr3", "ur5e"])
def test_a_workspace_box_is_in_reach_of_the_tool(robot):
    contract = load_contract(ROOT / "config" / "contracts" / f"{robot}.yaml")
    urdf = (ROOT / "config" / "robots" / f"{robot}.urdf").read_text()
    frames = contract.base_frame, contract.tool_frame
    model = model_from_urdf(urdf, contract.joint_names, *frames)
    limits = arm_limits(contract, model)
    solver = DifferentialIK(model.model_xml, model.tool_site, limits.velocity, model.posture)
    values = robot_parameters(robot)
    low, high = np.array(values["workspace_min"]), np.array(values["workspace_max"])
    assert (low < high).all() and low[2] > 0
    # To the corners of the box's middle half, one after the other, fingers down.
    down = np.array([1.0, 0.0, 0.0, 0.0])
    joints = {"fr3": panda.HOME, "ur5e": np.array([0.3, -1.4, 1.6, -1.77, -1.57, 0.3])}[robot]
    for corner in np.ndindex(2, 2, 2):
        place = low + (high - low) * (0.25 + 0.5 * np.array(corner))
        for _ in range(150):
            joints = np.clip(solver.step(joints, place, down, 0.1), limits.lower, limits.upper)
        assert np.linalg.norm(solver.tool_pose(joints)[0] - place) < 0.01, place


def robot_parameters(robot):
    """What config/robots/ROBOT.yaml says of the controller."""
    text = (ROOT / "config" / "robots" / f"{robot}.yaml").read_text()
    return yaml.safe_load(text)["/**/controller"]["ros__parameters"]


@pytest.mark.parametrize(
    ("robot", "given", "why"),
    [
        ("ur5e", {"namespace": "left"}, "the driver's parameter files name its nodes at the root"),
        ("fr3", {"use_fake_hardware": "true"}, "neither the tool's pose nor a gripper"),
    ],
)
def test_what_a_driver_cannot_do_is_refused(processes, robot, given, why):
    with pytest.raises(LaunchError, match=why):
        processes(robot, drivers="false", cameras="false", **given)


@pytest.mark.parametrize("robot", ["fr3", "ur5e"])
def test_missing_drivers_are_named(processes, robot):
    package = {"fr3": "franka_bringup", "ur5e": "ur_robot_driver"}[robot]
    with pytest.raises(LaunchError, match=package):
        processes(robot)


def flat(values, prefix=""):
    """Nested parameters by their names with dots."""
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
