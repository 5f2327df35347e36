"""What may import what: the rules of [tool.importlinter] in pyproject.toml hold, and can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vla", "vla_nodes", "vla_cli")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Judges the packages below a folder."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_imports_keep_to_the_rules():
    judged = lint_imports(ROOT)
    assert judged.returncode == 0, judged.stdout
    assert "0 broken" in judged.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources that a test may spoil."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "line", "said"),
    [
        ("vla/control/chunk.py", "import vla.training.loop", "to import vla.training"),
        ("vla/policies/base.py", "    import vla.envs", "to import vla.envs"),
        (
            "vla/policies/parts.py",
            "import vla.policies.robovlms.config",
            "to import vla.policies.robovlms",
        ),
        (
            "vla/training/loop.py",
            "import vla.policies.instructvla.config",
            "to import vla.policies.instructvla",
        ),
        ("vla/core/clock.py", "from rclpy.time import Time", "vla.core.clock -> rclpy"),
        ("vla/preflight/checks.py", "import vla_nodes.core.qos", "not allowed to import vla_nodes"),
        ("vla_nodes/mover.py", "import vla_cli.errors", "not allowed to import vla_cli"),
        ("vla_nodes/core/qos.py", "import vla_nodes.client.graph", "to import vla_nodes.client"),
        ("vla_nodes/sim/node.py", "import vla_nodes.mover", "to import vla_nodes.mover"),
        ("vla/control/chunk.py", "import vla.control.arm", "cycles are allowed in vla.control"),
        ("vla/helpers/__init__.py", '"""A package that has no place."""', "vla.helpers"),
    ],
)
def test_a_forbidden_import_is_found(copy: Path, path: str, line: str, said: str):
    (copy / path).parent.mkdir(exist_ok=True)
    with (copy / path).open("a") as file:
        file.write(f"\n\ndef spoiled():\n{line}\n" if line.startswith(" ") else f"\n{line}\n")
    judged = lint_imports(copy)
    assert judged.returncode == 1
    assert said in judged.stdout.replace("\n", " ")


def test_an_import_for_type_checking_alone_is_allowed(copy: Path):
    with (copy / "vla/control/chunk.py").open("a") as file:
        file.write(
            "\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import vla.training\n"
        )
    assert lint_imports(copy).returncode == 0


def test_the_architecture_shows_the_imports_as_they_are():
    command = [sys.executable, "tools/import_graph.py"]
    drawn = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "vla_cli --> vla.evaluation" in drawn
    assert drawn in (ROOT / "docs/architecture.md").read_text(), "draw it again: " + drawn
