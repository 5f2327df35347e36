"""The launcher and the real `ros2 launch` start the same processes from the same files."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from background_launch import start_launch
from launcher_prefix import PACKAGE, SHOW, install_vla_ros, make_prefix, shown, write

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ros2launch") is None, reason="ros2 launch is not installed here"
)

FEATURES = f"""
<arg name="a" default="1"/><arg name="b" default="$(var a)2" description="text"/>
<arg name="flag" default="true"/><arg name="empty" default=""/>
<let name="words" value="two words"/>
<set_env name="T_ONE" value="one"/><append_env name="T_ONE" value="two"/>
<append_env name="T_ONE" value="zero" prepend="true" separator=";"/>
<set_parameter name="g" value="1.5"/><set_remap from="x" to="y"/>
<node {SHOW} name="n1" output="screen" args="a $(var b) $(var words)/x b$(var a)c 'r s'"
      ros_args="--log-level $(var empty)info">
  <param name="i" value="5"/><param name="f" value="5.0"/><param name="t" value="true"/>
  <param name="s" value="hi there"/><param name="q" value="'5'"/><param name="e" value=""/>
  <param name="qs" value="'$(var a)'"/><param name="typed" value="$(var a)" type="str"/>
  <param name="fl" value="$(var a)" type="float"/><param name="l" value="[1, 2]"/>
  <param name="ls" value="[$(var a), $(var b)]"/><param name="off" value="off"/>
  <param name="lst" value="[$(var a), $(var b)]" type="list_of_str"/>
  <param name="sep" value="a;b;$(var a)x" value-sep=";"/><param name="colon" value="a: b: c"/>
  <param name="nest"><param name="x" value="1"/><param name="$(var words)" value="v"/></param>
  <param name="esc" value="\\$(var x) \\\\ \\a"/><param name="exp" value="1e-3"/>
  <param name="cmp" value="$(equals $(var a) 1.0)"/><param name="envq" value="$(env NONE '')x"/>
  <param name="iff" value="$(if $(var flag) 'yes it is' no)"/>
  <param name="ev" value="$(eval '\\'$(var words)\\'.upper() + str(math.floor(2.5))')"/>
  <remap from="r1" to="r2"/><env name="T_TWO" value="$(var b)"/>
</node>
<group scoped="false"><let name="leak" value="L"/></group>
<group>
  <let name="a" value="inner"/><set_env name="T_ONE" value="inner"/><unset_env name="T_HOST"/>
  <push-ros-namespace namespace="outer"/>
  <node {SHOW} name="n2" output="screen"/>
  <node {SHOW} name="n3" namespace="in/" output="screen"><param name="p" value="1"/></node>
  <node {SHOW} name="n4" namespace="/abs" output="screen"/>
  <group>
    <push_ros_namespace namespace="more"/><push_ros_namespace namespace=""/>
    <node {SHOW} output="screen"/>
  </group>
  <group unless="$(var flag)"><node pkg="nowhere" exec="nothing"/></group>
  <group forwarding="false">
    <keep name="a" value="$(var a)2"/>
    <node {SHOW} args="$(var a) $(var b none)" output="screen"/>
  </group>
</group>
<include file="$(dirname)/inner.launch.xml"><arg name="needed" value="$(var a)n"/></include>
<node {SHOW} name="n5" args="$(var a) $(var leak) $(dirname) $(var own)" output="screen"/>
<executable cmd="$(exec-in-pkg show {PACKAGE}) w1 $(var words)w2 'w 3'" output="screen"/>
"""


@pytest.fixture
def environment(tmp_path):
    environment = make_prefix(tmp_path / "prefix")
    # The real launch reads its grammar from its own share folder.
    rest = os.environ.get("AMENT_PREFIX_PATH", "")
    return {**environment, "AMENT_PREFIX_PATH": f"{tmp_path / 'prefix'}:{rest}", "T_HOST": "h"}


def started(lines: list[str]) -> list[tuple]:
    processes = []
    for told in shown(lines):
        files = iter(range(len(told["argv"])))
        # Parameter files have other names, and the real launch writes True for true.
        words = [
            f"FILE {next(files)}" if before == "--params-file" else word.replace("True", "true")
            for before, word in zip(["", *told["argv"]], told["argv"], strict=False)
        ]
        environment = {k: v for k, v in told["env"].items() if k.startswith("T_")}
        parameters = [yaml.safe_load(text) for text in told["files"]]
        processes.append((words, environment, parameters))
    return sorted(processes, key=repr)


def real_launch(words: list[str], environment: dict[str, str], status: int = 0) -> list[str]:
    code = (
        "import sys; from ros2launch.api import launch_a_launch_file as run; "
        "sys.exit(run(launch_file_path=sys.argv[1], launch_file_arguments=sys.argv[2:], "
        "noninteractive=True))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True
    )
    assert result.returncode == status, result.stdout + result.stderr
    return (result.stdout + result.stderr).splitlines()


def test_the_same_processes_are_started(tmp_path, environment):
    inner = f'<arg name="needed"/><arg name="own" default="o"/><node {SHOW} output="screen"'
    write(tmp_path, f'{inner} args="$(var needed) $(dirname)"/>', "inner.launch.xml")
    words = [str(write(tmp_path, FEATURES)), "a:=7"]
    ours = start_launch(words, environment=environment)
    assert ours.process.wait(30) == 0
    ours.stop()
    expected = started(real_launch(words, environment))
    assert len(expected) == 9 and started(ours.lines) == expected


@pytest.mark.parametrize("name", ["sim", "bringup", "record"])
def test_our_launch_files_are_read_alike(tmp_path, environment, name):
    install_vla_ros(tmp_path / "prefix", ROOT)
    path = str(ROOT / "launch" / f"{name}.launch.xml")
    words = [path, "respawn:=false", "namespace:=left", "device:=cuda:0", "log_level:=warn"]
    ours = start_launch(words, environment=environment)
    assert ours.process.wait(30) == 0
    ours.stop()
    expected = started(real_launch(words, environment))
    assert len(expected) == {"sim": 6, "bringup": 5, "record": 1}[name]
    assert started(ours.lines) == expected


@pytest.mark.parametrize(("robot", "namespace"), [("fr3", ""), ("fr3", "left"), ("ur5e", "")])
def test_a_driver_is_a_launch_of_its_own(tmp_path, environment, robot, namespace):
    """It ends all of its launch when it fails, and the recorder is not in it."""
    words, environment = with_drivers(tmp_path, environment, robot, namespace)
    ours = start_launch(words, environment=environment)
    assert ours.process.wait(60) == 0
    ours.stop()
    expected = started(real_launch(words, environment))
    assert started(ours.lines) == expected
    (driver,) = (argv for argv, _, _ in expected if argv[0] == "launch")
    assert driver[1].endswith(".launch.py")
    assert [w for w in driver if w.startswith("namespace")] == ["namespace:=left"] * bool(namespace)
    assert all(":=" in word and not word.endswith(":=") for word in driver[2:])


def with_drivers(tmp_path, environment, robot, namespace) -> tuple[list[str], dict[str, str]]:
    """How to start a robot's launch file, where drivers and ros2 only tell their arguments."""
    prefix = tmp_path / "prefix"
    install_vla_ros(prefix, ROOT)
    show = prefix / "lib" / PACKAGE / "show"
    for package in ("franka_bringup", "franka_fr3_moveit_config", "ur_robot_driver"):
        (prefix / "share/ament_index/resource_index/packages" / package).touch()
        (prefix / "share" / package).mkdir()
    (prefix / "share/ament_index/resource_index/packages/controller_manager").touch()
    for program in ("lib/controller_manager/spawner", "bin/ros2"):
        (prefix / program).parent.mkdir()
        (prefix / program).symlink_to(show)
    words = [str(ROOT / "launch" / f"{robot}.launch.xml"), "cameras:=false", "respawn:=false"]
    words += [f"namespace:={namespace}"] * bool(namespace)
    path = f"{prefix / 'bin'}:{environment['PATH']}"
    return words, environment | {"PATH": path}


@pytest.mark.parametrize("name", ["sim", "fr3", "ur5e"])
def test_a_wrong_boolean_starts_nothing(tmp_path, environment, name):
    install_vla_ros(tmp_path / "prefix", ROOT)
    words = [str(ROOT / "launch" / f"{name}.launch.xml"), "drivers:=false", "record:=off"]
    ours = start_launch(words, environment=environment)
    assert ours.process.wait(30) == 1
    ours.stop()
    for lines in (ours.lines, real_launch(words, environment, 1)):
        told = "\n".join(lines)
        assert "record" in told and re.search("true.*false", told)
        assert not shown(lines) and "process started" not in told
