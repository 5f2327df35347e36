"""The launch arguments that a launch file declares, for `--show-args`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vla_nodes.launcher.document import DEEPEST_INCLUDE, Element, LaunchError, load_document
from vla_nodes.launcher.substitution import Scope, SubstitutionError, substitute


def parse_arguments(words: list[str]) -> dict[str, str]:
    """Read `name:=value` words of a command line; of duplicates the last one wins.

    Raises `LaunchError` on a word of another form.
    """
    arguments: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition(":=")
        # An empty value is refused, as ros2 launch does.
        if not separator or not name or not value:
            raise LaunchError(f"launch argument '{word}' is not of the form name:=value")
        arguments[name] = value
    return arguments


@dataclass(frozen=True)
class DeclaredArgument:
    """A launch argument as `--show-args` lists it."""

    name: str
    description: str
    default: str | None
    choices: tuple[str, ...]
    conditional: bool


def declared_arguments(path: Path, environment: Mapping[str, str]) -> list[DeclaredArgument]:
    """List the arguments of a launch file and of the files it includes, each name once.

    An included file whose path depends on launch arguments is not looked into. Raises
    `LaunchError` when a file cannot be read.
    """
    found: dict[str, DeclaredArgument] = {}
    _collect(load_document(path.resolve()), environment, False, found, 0)
    return list(found.values())


def _collect(
    root: Element,
    environment: Mapping[str, str],
    conditional: bool,
    found: dict[str, DeclaredArgument],
    depth: int,
) -> None:
    for element in root.children:
        here = conditional or bool({"if", "unless"} & element.attributes.keys())
        if element.tag == "arg":
            name = element.attributes["name"]
            choices = tuple(choice.attributes["value"] for choice in element.named("choice"))
            argument = DeclaredArgument(
                name, element.get("description") or "", element.get("default"), choices, here
            )
            found.setdefault(name, argument)
        elif element.tag == "group":
            _collect(element, environment, here, found, depth)
        elif element.tag == "include" and depth < DEEPEST_INCLUDE:
            scope = Scope({}, dict(environment), root.file)
            try:
                included = Path(substitute(element.attributes["file"], scope))
            except SubstitutionError:
                continue
            if included.is_file():
                _collect(load_document(included.resolve()), environment, here, found, depth + 1)


def format_arguments(arguments: list[DeclaredArgument]) -> str:
    """Write the list that `--show-args` prints."""
    lines = ["Arguments (pass arguments as '<name>:=<value>'):"]
    for argument in arguments:
        star = "*" if argument.conditional else ""
        lines += ["", f"    '{argument.name}':{star}"]
        lines.append(f"        {argument.description or 'no description given'}")
        if argument.choices:
            lines.append(f"        (one of: {', '.join(argument.choices)})")
        if argument.default is not None:
            lines.append(f"        (default: '{argument.default}')")
    if not arguments:
        lines += ["", "  No arguments."]
    if any(argument.conditional for argument in arguments):
        lines += ["", "* argument(s) which are only used if specific conditions occur"]
    return "\n".join(lines)
