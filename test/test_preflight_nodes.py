"""`vla preflight` on real processes: a robot that is ready, and robots with a lab's mistakes."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from node_harness import ROOT, Graph, use_test_interfaces
from rclpy.qos import DurabilityPolicy, QoSProfile

from vla.contract.embodiment import load_contract
from vla.control.robots import panda
from vla.core.findings import OK, PROBLEM, WARNING
from vla_cli.parser import build_parser, main
from vla_nodes.client.graph import RobotClient
from vla_nodes.controller.settings import CONTROLLER_SETTINGS
from vla_nodes.preflight.commands import check_commands, watched
from vla_nodes.preflight.probe import RobotMeasurements, RobotProbe
from vla_nodes.preflight.run import check_parameters, given_parameters, preflight

pytestmark = pytest.mark.nodes
CONTRACT = load_contract(ROOT / "config" / "contracts" / "sim_panda.yaml")

JOINTS = dict(zip(panda.ARM_JOINTS, panda.HOME.tolist(), strict=True))
JOINTS |= dict.fromkeys(panda.FINGER_JOINTS, 0.04)
COMMANDS = "joint_trajectory_controller/joint_trajectory"
LATCHED_READER = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


# The faults of a robot, and the problems to be found: all of them, by their first words.
ROBOTS = {
    "sound": ({}, []),
    "frame": ({"frame": "world"}, ["end_effector_pose is in frame 'world'"]),
    "tool": ({"away": 0.1}, ["end_effector_pose is 100 mm and 0.00 rad from where the joints put"]),
    "twice": ({"publishers": 2}, ["joint_states has 2 publishers of panda_"]),
    "late": (
        {"late": 3600.0},
        ["the stamps of joint_states are -3600.0 s from this machine's clock"],
    ),
    "joint": ({"without": "panda_joint4"}, ["the joint states lack panda_joint4; they have"]),
    "frozen": (
        {"frozen": True},
        ["camera 'front' is frozen", "camera 'wrist' is frozen"],
    ),
    "small": (
        {"size": 48},
        ["camera 'front' sends 48 x 48", "camera 'wrist' sends 48 x 48"],
    ),
    "name": ({"wrist": "wrist/image_raw"}, ["nobody publishes camera/wrist/image_raw"]),
    "compressed": ({"compressed": True}, ["nobody publishes camera/front/image_raw"]),
    "button": (
        {"button": "best effort"},
        ["the quality of service of vla/emergency_stop_button does not fit ours: /robots: "
         "Best effort publisher and reliable subscription"],
    ),
    "reader": (
        {"reader": "transient local"},
        ["joint_trajectory.topic: the quality of service of /reader/joint_trajectory_controller"],
    ),
    "inactive": (
        {"inactive": True},
        ["joint_trajectory.topic: /inactive/joint_trajectory_controller/controller_state is "
         "announced, but nothing came"],
    ),
    "commander": (
        {"commander": True},
        ["/robots publishes on /commander/joint_trajectory_controller/joint_trajectory"],
    ),
}  # fmt: skip


def look(*arguments):
    return preflight(build_parser().parse_args(["preflight", *arguments]))


def looks(graph, pool, namespaces):
    """Findings of each namespace, looked at all at once."""
    futures = {
        name: pool.submit(look, "--namespace", name, "--seconds", "2") for name in namespaces
    }
    graph.wait(lambda: all(future.done() for future in futures.values()), "findings", 60.0)
    return {name: future.result() for name, future in futures.items()}


def of_level(findings, level):
    return [finding.message for finding in findings if finding.level == level]


def test_each_mistake_is_named_and_nothing_else(tmp_path, monkeypatch):
    with Graph() as graph, ThreadPoolExecutor(len(ROBOTS)) as pool:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(graph.domain))
        file = tmp_path / "robots.json"
        file.write_text(json.dumps({name: faults for name, (faults, _) in ROBOTS.items()}))
        graph.start_robot("mistaken_robots", arguments=("--", str(file)))
        graph.wait(lambda: graph.node.count_publishers("/sound/joint_states"), "the robots")
        findings = looks(graph, pool, ROBOTS)
        # The fake robots are slow where the machine is busy.
        slow = [name for name in ROBOTS if " Hz" in str(of_level(findings[name], PROBLEM))]
        findings |= looks(graph, pool, slow)
        for name, (_, expected) in ROBOTS.items():
            problems = of_level(findings[name], PROBLEM)
            assert len(problems) == len(expected), (name, problems)
            for message, words in zip(problems, expected, strict=True):
                assert message.startswith(words), name
        cures = [finding.cure for finding in findings["compressed"] if finding.cure]
        assert "give --compressed" in cures[0]


def test_a_robot_that_is_ready(tmp_path, monkeypatch):
    with Graph() as graph:
        graph.start("sim")
        graph.start("controller", use_sim_time=True)
        graph.wait_state("controller", "active")
        graph.wait_state("sim", "active")
        file = tmp_path / "findings.json"
        command = [sys.executable, "-m", "vla_cli", "preflight", "--use-sim-time", "--seconds", "2"]
        command += ["--checkpoint", "checkpoints/nano", "--json", str(file)]
        process = subprocess.Popen(
            command, env=graph.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE
        )
        graph.wait(lambda: process.poll() is not None, "the end of preflight", 60.0)
        text = process.stdout.read()
        assert process.returncode == 0, text
        assert text.splitlines()[-1].startswith("ready: 0 problems")
        judgement = json.loads(file.read_text())
        assert judgement["ready"] is True
        assert list(dict.fromkeys(finding["area"] for finding in judgement["findings"])) == [
            "middleware", "time", "cameras", "joints", "end-effector pose", "robot model",
            "limits", "commands", "nodes", "policy",
        ]  # fmt: skip
        assert "controller: active" in text
        # The same robot, judged for another backend and another time than the controller has.
        monkeypatch.setenv("ROS_DOMAIN_ID", str(graph.domain))
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(look, "--backend", "cartesian_pose", "--seconds", "1")
            graph.wait(future.done, "findings")
        findings = future.result()
        assert of_level(findings, PROBLEM)[-3:] == [
            "cartesian_pose: nobody listens on /target_pose",
            "/controller has use_sim_time True; checked was False",
            "/controller has backend 'joint_trajectory'; checked was 'cartesian_pose'",
        ]
        assert "/sim publishes /clock, but the time is taken from this machine" in of_level(
            findings, WARNING
        )


def test_the_clock_of_a_namespace_is_found():
    with Graph() as graph:
        graph.start("sim", arguments=("-r", "__ns:=/left"))
        graph.wait_state("left/sim", "active")
        command = [sys.executable, "-m", "vla_cli", "preflight", "--use-sim-time", "--seconds", "1"]
        command += ["--namespace", "left", "--clock-topic", "clock"]
        process = subprocess.Popen(
            command, env=graph.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE
        )
        graph.wait(lambda: process.poll() is not None, "the end of preflight", 120.0)
        assert "simulated time, from /left/clock" in process.stdout.read()


def test_the_receivers_of_commands_are_told_apart(monkeypatch):
    use_test_interfaces()
    with Graph() as graph:
        graph.start_robot("gripper_command_controller", parallel=True)
        graph.start_robot("servo")
        parameters = {setting.name: setting.default for setting in CONTROLLER_SETTINGS}
        parameters["backend"] = "moveit_servo"
        monkeypatch.setenv("ROS_DOMAIN_ID", str(graph.domain))
        with RobotClient() as client:

            def judged(**changes):
                return check_commands(client.node, parameters | changes, RobotMeasurements())

            def good(**changes):
                client.spin(0.1)
                findings = judged(**changes)
                return findings if all(finding.level == OK for finding in findings) else None

            right = {"gripper": "parallel_gripper_command"}
            findings = graph.wait(lambda: good(**right), "the gripper and Servo")
            assert [finding.message for finding in findings] == [
                "moveit_servo.pose: /servo_node/pose_target_cmds, "
                "/servo_node/switch_command_type, /servo_node/status",
                "gripper.parallel_gripper_command: /gripper_controller/gripper_cmd",
            ]
            assert of_level(judged(gripper="gripper_command"), PROBLEM) == [
                "gripper.gripper_command: the action /gripper_controller/gripper_cmd is "
                "control_msgs/action/ParallelGripperCommand, not control_msgs/action/GripperCommand"
            ]
            silent = RobotMeasurements(heard={"/servo_node/status": 0})
            findings = check_commands(client.node, parameters | right, silent)
            assert of_level(findings, PROBLEM) == [
                "moveit_servo.pose: /servo_node/status is announced, but nothing came"
            ]
            probe = RobotProbe(client, CONTRACT, False, False, watched(parameters))
            heard = probe.measure(0.5).heard
            assert list(heard) == ["/servo_node/status"] and heard["/servo_node/status"] > 0
            wrong = right | {"gripper_command.action": "grippr_controller/gripper_cmd"}
            (finding,) = [f for f in judged(**wrong) if f.level == PROBLEM]
            assert "nobody serves the action /grippr_controller/gripper_cmd" in finding.message
            assert "there is /gripper_controller/gripper_cmd" in finding.cure


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--robot", "nobody"], "there is no contract 'nobody'"),
        (["--adapter", "somewhere"], "--adapter needs the --checkpoint that it is for"),
        (["--gripper", "magnet"], "gripper cannot be 'magnet': it must be one of position"),
    ],
)
def test_bad_arguments_are_refused(capsys, arguments, says):
    assert main(["preflight", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_parameters_files_are_judged(tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text(
        "/**/controller:\n  ros__parameters:\n    workspace_mim: [0.1, 0.0, 0.0]\n"
        "    control_rate: 2000.0\n    gripper_command: {joint: left, max_effort: 20}\n"
    )
    given = given_parameters(file, "controller")
    assert given["gripper_command.joint"] == "left"
    assert of_level(check_parameters(given), PROBLEM) == [
        "the controller has no parameter 'workspace_mim'; it has workspace_min",
        "control_rate is 2000.0, outside of 10 to 500",
    ]
    with pytest.raises(ValueError, match="max_linear_speed cannot be 'fast'"):
        check_parameters({"max_linear_speed": "fast"})
    for text in ("- a list\n", "/**: {ros__parameters: [1, 2]}\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="cannot read the parameters"):
            given_parameters(file, "controller")


def test_parameters_of_a_node_are_found_in_its_namespaces(tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text("/left: {arm: {controller: {ros__parameters: {control_rate: 50.0}}}}\n")
    assert given_parameters(file, "controller") == {"control_rate": 50.0}


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_every_number_must_be_finite(tmp_path, value):
    file = tmp_path / "robot.yaml"
    for setting in CONTROLLER_SETTINGS:
        if isinstance(setting.default, float):
            file.write_text(f"controller: {{ros__parameters: {{{setting.name}: {value}}}}}\n")
            (told,) = of_level(check_parameters(given_parameters(file, "controller")), PROBLEM)
            assert told.startswith(f"{setting.name} is {value.replace('.', '')}, ")


@pytest.mark.parametrize("robot", ["sim_panda", "fr3", "ur5e"])
def test_shipped_parameters_are_sound(robot):
    assert (
        check_parameters(given_parameters(ROOT / f"config/robots/{robot}.yaml", "controller")) == []
    )
