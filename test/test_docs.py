"""What README.md and docs/ say is held to the code: commands, links, parameters, interfaces."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from vla_cli.parser import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

sys.path.insert(0, str(ROOT / "tools"))
import describe_parameters  # noqa: E402


def commands(page: Path) -> list[str]:
    """The `vla` commands of a page: lines of shell blocks, and whole code spans."""
    text = page.read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`(vla \w[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line for line in [*lines, *spans] if line.startswith("vla ")]


def words_of(command: str) -> list[str]:
    words = shlex.split(command.replace("\n", " "), comments=True)[1:]
    # In running text a command may be named without its arguments.
    return [*words, "text"] if words in (["instruct"], ["ask"]) else words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one(page):
    for command in commands(page):
        try:
            build_parser().parse_args(words_of(command))
        except SystemExit:
            pytest.fail(f"{page.name}: '{command}' is not understood")


def test_the_readme_has_commands_to_check():
    assert len(commands(ROOT / "README.md")) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_or_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
            assert heading in slugs, f"{page.name}: {target}"


def test_the_parameter_tables_are_what_the_nodes_declare():
    text = describe_parameters.DOCUMENT.read_text()
    assert [found[2] for found in describe_parameters.TABLE.finditer(text)] == list(
        describe_parameters.NODES
    )
    assert describe_parameters.filled(text) == text, "run tools/describe_parameters.py"


def test_every_interface_is_documented():
    text = (ROOT / "docs" / "nodes.md").read_text()
    for folder in ("msg", "srv", "action"):
        for path in (ROOT / folder).iterdir():
            assert f"vla_ros/{path.stem}" in text, path.name
