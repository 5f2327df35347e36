"""Habits of the source that no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for name in ("vla", "vla_nodes", "vla_cli") for path in (ROOT / name).rglob("*.py")
)


def described_fields(source: str) -> list[str]:
    """Fields that a class explains in its docstring, as "name: text" or "name [N]: text"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            text = ast.get_docstring(node) or ""
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    name = statement.target.id
                    if re.search(rf"(?<!\w)`?{name}`?(?: \[[^\]]*\])?(?:, \w+)*:\s", text):
                        found.append(f"{node.name}.{name}")
    return found


@pytest.mark.slow
def test_fields_are_explained_beside_the_field():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in described_fields(path.read_text())
    ]
    assert not found, "explain these in a comment beside the field"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A pose. width: of the gripper [m].", ["Pose.width"]),
        ("A pose.\n\n    position [3]: in metres.\n    ", ["Pose.position"]),
        ("A pose.\n\n    position, width: measured.\n    ", ["Pose.position", "Pose.width"]),
        ("A pose. Both are measured: the width too.", []),
    ],
)
def test_a_field_in_a_docstring_is_found(text: str, found: list[str]):
    source = f'class Pose:\n    """{text}"""\n\n    position: tuple[float, ...]\n    width: float\n'
    assert described_fields(source) == found


def test_files_have_at_most_400_lines():
    long = {path.name: len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name: lines for name, lines in long.items() if lines > 400}


def class_names(path: Path) -> list[str]:
    return [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]


@pytest.mark.slow
def test_a_class_name_has_one_meaning():
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for name in class_names(path):
            if not name.startswith("_"):
                places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}
