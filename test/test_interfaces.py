"""The interface definitions: every field is explained, and all are built and can be imported."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path for folder in ("msg", "srv", "action") for path in (ROOT / folder).glob(f"*.{folder}")
)
FIELD = re.compile(
    r"^(?P<type>[A-Za-z]\w*(/\w+)*(<=\d+)?(\[[^\]]*\])?)\s+(?P<name>\w+)\s*(?P<rest>.*)$"
)
SENTENCE = re.compile(r"[A-Za-z].*\s.*[A-Za-z]")


def fields(path: Path) -> list[tuple[str, bool]]:
    """Returns each field's or constant's name, and whether a comment says what it is.

    A comment counts when it ends the line, or stands directly above: above the field itself, or
    above the first of several that follow each other without an empty line.
    """
    found = []
    explained = False
    for line in path.read_text().splitlines():
        text = line.strip()
        if not text or set(text) == {"-"}:
            explained = False
        elif text.startswith("#"):
            explained = bool(SENTENCE.search(text)) or explained
        else:
            match = FIELD.match(text)
            assert match, f"{path.name}: cannot read the line {line!r}"
            own = SENTENCE.search(text.partition("#")[2]) is not None
            found.append((match["name"], explained or own))
    return found


def test_there_are_interfaces_of_each_kind():
    assert {path.suffix for path in FILES} == {".msg", ".srv", ".action"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_field_has_a_comment(path: Path):
    silent = [name for name, explained in fields(path) if not explained]
    assert not silent, f"{path.name}: no comment says what these are: {', '.join(silent)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_starts_by_saying_what_it_is_for(path: Path):
    assert SENTENCE.search(path.read_text().splitlines()[0].removeprefix("#"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_built_and_importable_with_the_fields_of_its_file(path: Path):
    kind = path.suffix.removeprefix(".")
    interface = getattr(importlib.import_module(f"vla_ros.{kind}"), path.stem)
    parts = {
        "msg": [interface],
        "srv": [getattr(interface, name, None) for name in ("Request", "Response")],
        "action": [getattr(interface, name, None) for name in ("Goal", "Result", "Feedback")],
    }[kind]
    built = {name for part in parts for name in dir(part)}
    missing = [name for name, _ in fields(path) if name not in built]
    assert not missing, f"{path.name}: the build lacks {missing}: run 'make setup'"


def test_a_field_without_a_comment_is_found(tmp_path: Path):
    file = tmp_path / "Example.msg"
    file.write_text("# What it is.\nfloat64 speed\n\nfloat64 mute\nint8 told  # said at the end\n")
    assert fields(file) == [("speed", True), ("mute", False), ("told", True)]
