"""`pip install .`: what an installed copy has, and what works in it without ROS."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package
from test_package import imported_modules

import vla

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("vla", "vla_nodes", "vla_cli", "config", "msg")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
# The name to import of each requirement that has another one.
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}
# Named for what they bring along: mink's solver, the Panda's meshes, the writer of torch.
NOT_IMPORTED = {"daqp", "gymnasium_robotics", "tensorboard"}
WITHOUT_ROS = "import sys; sys.modules['rclpy'] = None; from vla_cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed copy of the sources, without what they depend on."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("prefix")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
               "--no-build-isolation", "--prefix", target, source]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def packages(prefix: Path) -> Path:
    return next(prefix.glob("lib/python3*/site-packages"))


def in_copy(packages: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Runs Python with the installed copy alone on its path, away from the sources."""
    environment = {"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin", "MUJOCO_GL": "egl"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=packages.parent,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_version_is_the_same_everywhere(packages: Path):
    installed = next(iter(metadata.distributions(name="vla-ros", path=[str(packages)])))
    assert installed.version == vla.__version__ == parse_package(str(ROOT)).version
    assert vla.__version__ in (ROOT / "CHANGELOG.rst").read_text()


def test_copy_is_complete(prefix: Path, packages: Path):
    for name in ("config", "msg"):
        shipped = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
        there = prefix / "share/vla_ros"
        assert shipped == {p.relative_to(there) for p in (there / name).rglob("*") if p.is_file()}
    for name in ("vla", "vla_nodes", "vla_cli"):
        modules = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*.py")}
        assert modules <= {path.relative_to(packages) for path in packages.rglob("*.py")}
        assert (packages / name / "py.typed").exists()


def test_copy_finds_its_files(prefix: Path, packages: Path):
    script = "from vla.core.resources import contract_path; print(contract_path('sim_panda'))"
    found = in_copy(packages, "-c", script)
    assert found.stdout.strip() == str(prefix / "share/vla_ros/config/contracts/sim_panda.yaml")


@pytest.mark.slow
def test_command_runs_without_ros(prefix: Path, packages: Path):
    run = in_copy(packages, prefix / "bin/vla", "info", "--preset", "nano")
    assert run.returncode == 0, run.stderr
    assert "total" in run.stdout


@pytest.mark.parametrize(
    "words", ["status", "ask x", "record stop", "adapter drop", "preflight --robot fr3"]
)
def test_commands_that_need_a_graph_say_so(packages: Path, words: str):
    run = in_copy(packages, "-c", WITHOUT_ROS, *words.split())
    assert run.returncode == 2
    assert re.fullmatch(r"vla: this command needs ROS 2 .*source.*\n", run.stderr)


def test_launch_says_what_it_needs(packages: Path):
    run = in_copy(packages, "-c", WITHOUT_ROS, "launch", "sim.launch.xml")
    assert run.returncode == 1
    assert re.fullmatch(r"vla launch: launching needs ROS 2, .*source.*\n", run.stderr)


@pytest.mark.slow
def test_checkpoints_are_not_in_a_copy(packages: Path):
    run = in_copy(packages, "-c", WITHOUT_ROS, "eval", "--seeds", "0:1")
    assert run.returncode == 2
    assert "the shipped ones are in checkpoints/ of the source repository" in run.stderr


@pytest.mark.slow
def test_every_library_in_use_is_required(packages: Path):
    installed = next(iter(metadata.distributions(name="vla-ros", path=[str(packages)])))
    names = {re.match(r"[\w-]+", text)[0].lower() for text in installed.requires}
    required = {MODULES.get(name, name.replace("-", "_")) for name in names}
    optional = {"rerun"}  # a viewer, named to whoever asks for it
    used = imported_modules("vla") - set(sys.stdlib_module_names) - {"vla", "_typeshed"} - optional
    assert used == required - NOT_IMPORTED
