"""The set-up: what it finds on the machine, its steps, the locks, and the shell of env.sh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import machine  # noqa: E402
import setup_environment  # noqa: E402

SHELLS = [
    "bash",
    pytest.param("zsh", marks=pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh")),
]
EXECUTABLES = ["vla", "perception", "reasoning", "action_expert", "controller", "recorder", "sim"]


def in_new_shell(shell: str, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a shell that inherits nothing from this one but a sourced ROS 2."""
    kept = {"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin", **variables}
    if not (ROOT / ".venv" / "share" / "rclpy").exists():
        for name in ("AMENT_PREFIX_PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "ROS_DISTRO"):
            kept[name] = os.environ.get(name, "")
    return subprocess.run(
        [shell, "-c", script], env=kept, cwd="/", capture_output=True, text=True, timeout=60
    )


def program(folder: Path, name: str, script: str) -> None:
    """Puts an executable shell script into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("shell", SHELLS)
def test_env_finds_executables_and_interfaces_from_any_folder(shell: str):
    script = f"""
set -eu
source {ROOT}/env.sh
command -v {" ".join(EXECUTABLES)}
python -c 'import rclpy, vla, vla_nodes; from vla_ros.msg import ActionChunk; print(vla.__file__)'
"""
    result = in_new_shell(shell, script)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split()
    assert [Path(line).name for line in lines[:-1]] == EXECUTABLES
    assert Path(lines[-1]) == ROOT / "vla" / "__init__.py", "an edit would need a build"


@pytest.mark.parametrize("shell", SHELLS)
def test_env_twice_changes_nothing_and_leaves_no_names_behind(shell: str):
    script = f"""
source {ROOT}/env.sh; env | grep -v ^_= | sort; echo ---
source {ROOT}/env.sh; env | grep -v ^_= | sort; echo ---
set | grep ^_vla; typeset -f _vla_prepend
"""
    once, twice, left = in_new_shell(shell, script).stdout.split("---\n")
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST\n" in once
    assert once == twice
    assert left == ""


def test_env_puts_no_empty_entry_on_a_search_path():
    result = in_new_shell("bash", f"source {ROOT}/env.sh; env", PYTHONPATH="")
    for line in result.stdout.splitlines():
        if re.match(r"(PATH|PYTHONPATH|LD_LIBRARY_PATH|AMENT_PREFIX_PATH)=", line):
            assert "" not in line.partition("=")[2].split(":"), "that means the current folder"


def test_env_leaves_a_chosen_discovery_range_alone():
    script = f"source {ROOT}/env.sh; echo $ROS_AUTOMATIC_DISCOVERY_RANGE"
    result = in_new_shell("bash", script, ROS_AUTOMATIC_DISCOVERY_RANGE="SUBNET")
    assert result.stdout == "SUBNET\n"


def test_env_says_what_to_do_before_the_set_up(tmp_path: Path):
    shutil.copy(ROOT / "env.sh", tmp_path)
    result = in_new_shell("bash", f"source {tmp_path}/env.sh || echo refused; set | grep ^_vla")
    assert result.stdout == "refused\n"
    assert result.stderr.count("\n") == 1
    assert f"run 'make setup' in {tmp_path}" in result.stderr


@pytest.mark.parametrize("distribution", ["jazzy", "kilted"])
def test_lock_pins_everything_and_brings_no_cuda(distribution: str):
    lines = machine.lock_file(distribution).read_text().splitlines()[1:]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9-]+==[^ ,*]+( ; .+)?$", line), line
        assert not line.startswith(("torch", "nvidia", "cuda", "triton"))


def test_the_locks_differ_only_in_ros():
    jazzy, kilted = (
        set(machine.lock_file(name).read_text().splitlines()[1:]) for name in ("jazzy", "kilted")
    )
    assert {line.partition("-")[0] for line in jazzy ^ kilted} == {"ros"}
    assert "ros-rclpy==7.1.6" in jazzy
    assert "ros-rclpy==9.1.2" in kilted


def test_a_version_manager_shim_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch):
    program(tmp_path, "python3.12", "echo 'command not found' >&2; exit 127")
    program(tmp_path, "python3.11", "echo 3.11")
    program(tmp_path, "python3.10", "echo 3.10")
    program(tmp_path, "python3", "echo 3.14")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VLA_PYTHON", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    wheels = machine.Ros("jazzy", from_wheels=True)
    assert machine.choose_python(wheels) == str(tmp_path / "python3.11")

    (tmp_path / f"torch-{machine.TORCH_VERSION}+cpu-cp310-cp310-linux_x86_64.whl").touch()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert machine.choose_python(wheels) == str(tmp_path / "python3.10")

    sourced = machine.Ros("jazzy", False, ("/opt/ros/jazzy",), "3.12")
    with pytest.raises(machine.SetupError, match=r"install python3\.12"):
        machine.choose_python(sourced)


def test_a_sourced_ros_is_used_and_our_own_environment_is_not_taken_for_one(
    tmp_path: Path, monkeypatch
):
    own = tmp_path / "checkout" / ".venv"
    installed = tmp_path / "ros"
    for prefix in (own, installed):
        (prefix / "lib" / "python3.12" / "site-packages" / "rclpy").mkdir(parents=True)
    (own / "pyvenv.cfg").touch()
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    monkeypatch.delenv("VLA_ROS_DISTRO", raising=False)
    monkeypatch.setattr(machine, "ENVIRONMENT", tmp_path / "none")

    monkeypatch.setenv("AMENT_PREFIX_PATH", str(own))
    assert machine.detect_ros() == machine.Ros("jazzy", from_wheels=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{own}{os.pathsep}{installed}")
    assert machine.detect_ros() == machine.Ros("kilted", False, (str(installed),), "3.12")

    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    monkeypatch.setenv("VLA_ROS_DISTRO", "foxy")
    with pytest.raises(machine.SetupError, match="one of jazzy, kilted"):
        machine.detect_ros()


def test_a_step_is_done_once_and_again_after_a_failure_or_a_change(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(setup_environment, "STAMPS", tmp_path)
    calls = []

    def fail():
        raise setup_environment.SetupError("cut off")

    step = setup_environment.step
    with pytest.raises(setup_environment.SetupError):
        step("name", "key", "title", fail)
    assert step("name", "key", "title", lambda: calls.append(1)) is True
    assert step("name", "key", "title", lambda: calls.append(2)) is False
    assert step("name", "other key", "title", lambda: calls.append(3)) is True
    assert calls == [1, 3]


def test_a_failing_command_is_told_with_its_last_lines(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(setup_environment, "LOG", tmp_path / "log")
    with pytest.raises(setup_environment.SetupError, match="the disk is full"):
        setup_environment.run_logged(
            ["sh", "-c", "echo the disk is full; exit 3"], dict(os.environ), lambda line: None
        )
    assert "the disk is full" in (tmp_path / "log").read_text()


def test_cmake_files_of_the_wheels_are_pointed_at_this_environment(tmp_path: Path, monkeypatch):
    file = tmp_path / "share" / "some_msgs" / "cmake" / "export.cmake"
    file.parent.mkdir(parents=True)
    builder = "/opt/python/cp312-cp312"
    file.write_text(
        f'INCLUDES "{builder}/include/python3.12;'
        f'{builder}/lib/python3.12/site-packages/numpy/_core/include"\n'
    )
    monkeypatch.setattr(setup_environment, "ENVIRONMENT", tmp_path)
    setup_environment.point_cmake_files_here()
    folders = re.search('"(.*)"', file.read_text())[1].split(";")
    assert (Path(folders[0]) / "Python.h").exists()
    assert (Path(folders[1]) / "numpy" / "arrayobject.h").exists()


def test_interfaces_that_a_ros_here_has_are_not_built_for_the_tests(tmp_path: Path, monkeypatch):
    commands = []
    monkeypatch.setattr(setup_environment, "ROOT", tmp_path)
    monkeypatch.setattr(
        setup_environment, "run_logged", lambda command, *more: commands.append(command)
    )
    declared = {
        path.parent.name for path in setup_environment.TEST_INTERFACES.glob("*/package.xml")
    }
    assert {"control_msgs", "moveit_msgs", "franka_msgs"} <= declared
    ros = machine.Ros("jazzy", False, (str(tmp_path / "ros"),), "3.12")
    variables = {"AMENT_PREFIX_PATH": os.pathsep.join([str(tmp_path / "own"), ros.prefixes[0]])}

    def built():
        commands.clear()
        setup_environment.build_test_interfaces(ros, variables)
        return {Path(part).name for command in commands for part in command} & declared

    assert built() == declared
    installed = tmp_path / "ros" / "share" / "control_msgs" / "package.xml"
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert built() == declared - {"control_msgs"}
    assert commands[0][commands[0].index("--install-base") + 1] == str(tmp_path / "install_test")
    for name in declared:
        (tmp_path / "ros" / "share" / name).mkdir(exist_ok=True)
        (tmp_path / "ros" / "share" / name / "package.xml").touch()
    assert built() == set() and commands == []
    assert (tmp_path / "install_test").is_dir(), "or the step would be done again and again"


def test_interfaces_that_the_wheels_lack_are_built_with_ours(tmp_path: Path, monkeypatch):
    commands = []
    monkeypatch.setattr(
        setup_environment, "run_logged", lambda command, *more: commands.append(command)
    )
    ros = machine.Ros("jazzy", False, (str(tmp_path),), "3.12")
    for is_there in (False, True):
        if is_there:
            (tmp_path / "share" / "tf2_msgs").mkdir(parents=True)
            (tmp_path / "share" / "tf2_msgs" / "package.xml").touch()
        setup_environment.build_interfaces(ros, {"AMENT_PREFIX_PATH": str(tmp_path)})
        paths = [Path(part).name for part in commands.pop() if "tf2_msgs" in part]
        assert paths == ([] if is_there else ["tf2_msgs"])


@pytest.mark.slow
def test_interfaces_for_tests_are_seen_by_tests_alone():
    if not (ROOT / "install_test" / "lib").exists():
        pytest.skip("a ROS here has them all, or 'tools/setup.sh --tests' was not run")
    shown = in_new_shell("bash", f"source {ROOT}/env.sh; env; python -c 'import vla_ros'")
    assert shown.returncode == 0 and "install_test" not in shown.stdout
    script = f"""
source {ROOT}/env.sh
cd {ROOT}/test && python -c '
from node_harness import use_test_interfaces
use_test_interfaces()
from control_msgs.action import FollowJointTrajectory
from franka_msgs.msg import FrankaRobotState
from moveit_msgs.srv import GetStateValidity
from rclpy.serialization import deserialize_message, serialize_message
sent = FollowJointTrajectory.Result(error_string="outside")
print(deserialize_message(serialize_message(sent), FollowJointTrajectory.Result).error_string)
for kind in (FrankaRobotState, GetStateValidity.Request):
    assert deserialize_message(serialize_message(kind()), kind) == kind()
'
"""
    result = in_new_shell("bash", script)
    assert (result.returncode, result.stdout) == (0, "outside\n"), result.stderr


def test_the_finished_set_up_is_quiet():
    result = subprocess.run(
        [ROOT / "tools" / "setup.sh"], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_without_root_the_missing_packages_are_one_line_to_paste(monkeypatch):
    missing = (["g++", "cmake"], ["libxml2-utils"])
    monkeypatch.setattr(setup_environment, "missing_system_packages", lambda python: missing)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(setup_environment.SetupError) as told:
        setup_environment.install_system_packages("python3")
    assert "  sudo apt-get install -y g++ cmake libxml2-utils" in str(told.value).splitlines()


def test_this_machine_lacks_nothing_after_the_set_up():
    needed, _ = machine.missing_system_packages(str(machine.PYTHON))
    assert needed == []
