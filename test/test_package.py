"""The package's own files: dependencies as declared and as used, executables, the licence."""

from __future__ import annotations

import ast
import os
import re
import stat
import sys
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = parse_package(str(ROOT / "package.xml"))
# Needed by the build and by every user of generated interfaces; no file of ours names them.
BUILD_TOOLS = {"ament_cmake", "ament_cmake_python", "rosidl_default_generators"}
RUN_TIME_OF_INTERFACES = {"rosidl_default_runtime", "action_msgs"}
# Read the launch files where they are installed; vla launch does where they are not.
LAUNCH = {"launch_ros", "launch_xml", "ros2launch"}
# From a robot maker's own workspace: rosdep has no key.
NO_KEY = {"franka_msgs", "franka_bringup", "franka_fr3_moveit_config"}
SYSTEM_KEYS = {
    "PIL": "python3-pil",
    "moveit": "moveit_py",
    "typing_extensions": "python3-typing-extensions",
    **{n: f"python3-{n}" for n in ("aiohttp", "numpy", "scipy", "tqdm", "yaml")},
}
IMPORTED_AS = {"PIL": "pillow", "yaml": "pyyaml"}
# What type checkers alone import, and MoveIt's Python package, whose ROS package has another name.
NOT_FROM_PIP = {"_typeshed", "typing_extensions", "moveit"}


def installed_ros_packages() -> set[str]:
    """Returns the names of the ROS packages in the environment, without our own."""
    names: set[str] = set()
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        names |= {path.parent.name for path in Path(prefix).glob("share/*/package.xml")}
    return names - {PACKAGE.name}


def imported_modules(folder: str) -> set[str]:
    """Returns the top-level modules that a folder's Python files import.

    Adapters of benchmarks run in other Python environments, which have what they import.
    """
    names = set()
    adapters = set((ROOT / folder).glob("envs/*/adapter.py"))
    for path in set((ROOT / folder).rglob("*.py")) - adapters:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.partition(".")[0])
    return names


def interfaces_found_at_run_time() -> set[str]:
    """Returns the packages that backends import by name, since they can be absent."""
    sources = [path.read_text() for path in (ROOT / "vla_nodes").rglob("*.py")]
    return set(re.findall(r'import_interfaces\(\s*"(\w+)"', "\n".join(sources)))


def interface_packages() -> set[str]:
    """Returns the packages whose messages our interface files use."""
    names = set()
    for folder in ("msg", "srv", "action"):
        for path in (ROOT / folder).iterdir():
            names |= set(re.findall(r"^(\w+)/\w+[\[\s<]", path.read_text(), re.MULTILINE))
    return names


def drivers() -> set[str]:
    """Returns the packages that the launch files of robots start."""
    texts = [path.read_text() for path in (ROOT / "launch").iterdir()]
    names = re.findall(r'(?:pkg="|find-pkg-share )(\w+)', "\n".join(texts))
    return set(names) - {PACKAGE.name}


def declared(*kinds: str, of_drivers: bool = False) -> set[str]:
    """Returns the names in package.xml's depend elements, those of drivers or all others."""
    found = [depend for kind in kinds for depend in getattr(PACKAGE, f"{kind}_depends")]
    return {depend.name for depend in found if bool(depend.condition) == of_drivers}


def test_package_file_is_valid():
    PACKAGE.validate()
    assert PACKAGE.package_format == 3
    assert PACKAGE.licenses == ["Apache-2.0"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.slow
def test_every_ros_package_in_use_is_declared():
    ros = installed_ros_packages()
    assert "rclpy" in ros, "source env.sh first"
    used = (imported_modules("vla_nodes") | imported_modules("vla_cli")) & ros
    used |= interfaces_found_at_run_time() - NO_KEY
    assert {"control_msgs", "moveit_msgs"} < used
    assert used - {PACKAGE.name} <= declared("exec"), "add an exec_depend to package.xml"
    assert interface_packages() <= declared("build") & declared("exec"), "add a depend"


@pytest.mark.slow
def test_every_declared_package_is_used():
    imported = imported_modules("vla_nodes") | imported_modules("vla")
    used = imported | interface_packages() | {SYSTEM_KEYS.get(name, name) for name in imported}
    used |= interfaces_found_at_run_time() | LAUNCH
    unused = declared("build", "exec") - used - RUN_TIME_OF_INTERFACES
    assert not unused, "drop these from package.xml"
    assert declared("buildtool") == BUILD_TOOLS
    assert declared("test") == {"ament_cmake_pytest", "python3-pytest"}


def test_every_python_package_in_use_is_declared_where_it_can_be():
    """In package.xml what rosdep has a key for, in pyproject.toml all that pip is to install."""
    imported = imported_modules("vla") | imported_modules("vla_cli") | imported_modules("vla_nodes")
    ours = {"vla", "vla_cli", "vla_nodes", PACKAGE.name}
    optional = {"rerun"}  # a viewer, named to whoever asks for it
    foreign = imported - ours - optional - declared("exec") - set(sys.stdlib_module_names)
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(
        r"^(?:dependencies|annotate|serve|openvino|metrics|page) = \[(.*?)\]",
        text,
        re.MULTILINE | re.DOTALL,
    )
    named = {name.replace("-", "_") for name in re.findall(r'"([\w-]+)', "".join(lists))}
    named |= {name for name, package in IMPORTED_AS.items() if package in named}
    assert not foreign - named - NOT_FROM_PIP, "add these to pyproject.toml"
    assert {SYSTEM_KEYS[name] for name in foreign & SYSTEM_KEYS.keys()} <= declared("exec")


def test_drivers_are_a_group_that_rosdep_installs_when_asked():
    assert declared("exec", of_drivers=True) == drivers() - NO_KEY
    for wish, wanted in (("true", True), ("", False)):
        PACKAGE.evaluate_conditions({"VLA_ROS_DRIVERS": wish})
        conditional = [depend for depend in PACKAGE.exec_depends if depend.condition]
        assert {depend.evaluated_condition for depend in conditional} == {wanted}


def test_description_says_what_a_real_arm_needs_beside_it():
    assert "MoveIt:" in PACKAGE.description
    assert "franka_ros2:" in PACKAGE.description


@pytest.mark.slow
def test_the_library_does_not_import_ros():
    assert not imported_modules("vla") & (installed_ros_packages() | {PACKAGE.name})


@pytest.mark.parametrize(
    "path", sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file()), ids=lambda p: p.name
)
def test_executables_run_with_the_python_of_the_environment(path: Path):
    text = path.read_text()
    assert path.stat().st_mode & stat.S_IXUSR
    assert text.startswith("#!/usr/bin/env python3\n")
    module = re.search(r"^from ([\w.]+) import main$", text, re.M)[1].replace(".", "/")
    places = [ROOT / f"{module}.py", ROOT / module / "__init__.py"]
    source = next(place for place in places if place.exists()).read_text()
    assert re.search(r"^def main\(|import .*\bmain\b", source, re.M)
    assert any(path.name == Path(p).name for p in (ROOT / "install/vla_ros/lib/vla_ros").iterdir())
