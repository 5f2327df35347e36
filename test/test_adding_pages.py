"""The pages on adding a backbone and a robot work to the letter."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vla.contract.embodiment import load_contract
from vla_nodes.controller.settings import CONTROLLER_SETTINGS

ROOT = Path(__file__).resolve().parent.parent


def block(page: str, language: str, number: int = 0) -> str:
    """A block of code of a page in docs/."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number]


def insert_after(path: Path, line: str, text: str) -> None:
    before, found, after = path.read_text().partition(line)
    assert found, f"{path.name} has no line {line!r}"
    path.write_text(before + found + text + after)


@pytest.mark.slow
def test_a_backbone_is_added_as_the_page_says(tmp_path: Path):
    for name in ("vla", "vla_cli", "config", "test"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    backbones = tmp_path / "vla/policies/backbones"
    (backbones / "vipllava.py").write_text(block("adding_a_backbone.md", "python"))
    kinds = backbones / "__init__.py"
    insert_after(
        kinds, "import SmolVLM\n", "from vla.policies.backbones.vipllava import VipLlava\n"
    )
    insert_after(kinds, "dict[str, type[Backbone]] = {\n", '    "vipllava": VipLlava,\n')
    chats = block("adding_a_backbone.md", "python", 1)
    insert_after(tmp_path / "test/test_pretrained.py", "CHATS = {\n", chats)
    command = shlex.split(block("adding_a_backbone.md", "bash"))
    assert command[0] == "pytest"
    run = subprocess.run(
        [sys.executable, "-m", *command, "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"\b(2\d|3\d) passed", run.stdout), run.stdout[-300:]


def test_a_robot_is_described_as_the_page_says(tmp_path: Path):
    (tmp_path / "my_arm.yaml").write_text(block("adding_a_robot.md", "yaml"))
    contract = load_contract(tmp_path / "my_arm.yaml")
    assert contract.name == "my_arm" and len(contract.joint_names) == 7
    parameters = yaml.safe_load(block("adding_a_robot.md", "yaml", 1))
    assert set(parameters) == {"/**/controller"}
    given = parameters["/**/controller"]["ros__parameters"]
    known = {setting.name for setting in CONTROLLER_SETTINGS}
    assert given and set(given) <= known
