"""README.md and docs/ match the code: commands, links, paths, names, parameters, interfaces."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vla_cli.parser import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PACKAGES = ("vla", "vla_nodes", "vla_cli")
FOLDERS = "action|benchmarks|checkpoints|config|docs|launch|msg|requirements|scripts|srv|test|tools"

sys.path.insert(0, str(ROOT / "tools"))
import describe_parameters  # noqa: E402


def commands(page: Path) -> list[str]:
    """The `vla` commands of a page: lines of shell blocks, and whole code spans."""
    text = page.read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
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


def repository_files() -> list[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in out.splitlines() if (ROOT / name).exists()]


def is_placeholder(name: str) -> bool:
    """Whether a name stands for one of the reader's own, such as config/contracts/NAME.yaml."""
    own = r"(?<![A-Za-z])(?:[A-Z]{2,}|my_\w+|mine)(?![A-Za-z])"
    return re.search(own, name.replace("README.md", "")) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_is_one(page):
    files = repository_files()
    known = {*files, *(parent.as_posix() for name in files for parent in Path(name).parents)}
    topics = set(
        re.findall(r"vla/\w+", "".join(p.read_text() for p in ROOT.glob("vla_nodes/**/*.py")))
    )
    text = page.read_text()
    named = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]+\.\w+)", text)
    spans = re.findall(r"`([\w./-]+)`", text)
    named += [span for span in spans if re.match(r"(vla|vla_nodes|vla_cli)/", span)]
    for path in named:
        path = path.rstrip("./")
        assert is_placeholder(path) or path in known or path in topics, f"{page.name}: {path}"
    basenames = {Path(name).name for name in files}
    for span in spans if not page.name.startswith("adding_") else []:  # these name new files
        if re.fullmatch(r"\w+\.py", span) and not is_placeholder(span):
            assert span in basenames, f"{page.name}: {span}"


def defines(tree: ast.AST, name: str) -> bool:
    """Whether a module or class body defines or imports `name`."""
    for node in ast.iter_child_nodes(tree):
        if getattr(node, "name", None) == name:
            return True
        if isinstance(node, ast.ImportFrom) and any(
            name in (alias.asname, alias.name) for alias in node.names
        ):
            return True
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return True
    return False


def exists(dotted: str) -> bool:
    """Whether a package, a module, or a name in a module is there."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[:count])
        module = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        if module.exists():
            rest = parts[count:]
            return not rest or defines(ast.parse(module.read_text()), rest[0])
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_dotted_name_is_one(page):
    text = page.read_text()
    packages = "|".join(PACKAGES)
    named = re.findall(rf"(?:`|^::: )((?:{packages})(?:\.\w+)+)", text, re.MULTILINE)
    imports = re.findall(rf"^ *from ((?:{packages})[\w.]*) import (.+)$", text, re.MULTILINE)
    named += [f"{module}.{name.strip()}" for module, names in imports for name in names.split(",")]
    for dotted in named:
        assert is_placeholder(dotted) or exists(dotted), f"{page.name}: {dotted}"


def test_pages_that_the_code_names_exist():
    for name in repository_files():
        if Path(name).suffix in {".py", ".xml", ".yaml", ".msg", ".srv", ".sh", ".toml", ".rst"}:
            for page in re.findall(r"\bdocs/[\w/]+\.(?:md|svg|png)\b", (ROOT / name).read_text()):
                assert is_placeholder(page) or (ROOT / page).exists(), f"{name}: {page}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 1800


def test_the_parameter_tables_are_what_the_nodes_declare():
    text = describe_parameters.DOCUMENT.read_text()
    assert [found[2] for found in describe_parameters.TABLE.finditer(text)] == list(
        describe_parameters.MODULES
    )
    assert describe_parameters.filled(text) == text, "run tools/describe_parameters.py"


def test_every_interface_is_documented():
    text = (ROOT / "docs" / "nodes.md").read_text()
    for folder in ("msg", "srv", "action"):
        for path in (ROOT / folder).iterdir():
            assert f"vla_ros/{path.stem}" in text, path.name
