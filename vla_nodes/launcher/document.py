"""Launch XML files as trees of elements that know their file and line.

Only what `ros2 launch` accepts in XML is accepted here, and only the part of it that this
launcher can run; everything else is refused when the file is read, before any process starts.
"""

from __future__ import annotations

import xml.parsers.expat
from dataclasses import dataclass, field
from pathlib import Path

from vla.core.files import read_bytes
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla_nodes.launcher.substitution import SubstitutionError, parse_template

# Beyond this many files inside each other, a launch file includes itself.
DEEPEST_INCLUDE = 50
MOST_BYTES = 4_000_000


class LaunchError(Exception):
    """A launch file or a launch argument is wrong; the message is one line for the user."""


@dataclass(frozen=True)
class Element:
    """One XML element of a launch file."""

    tag: str
    attributes: dict[str, str]
    file: Path
    line: int
    children: list[Element] = field(default_factory=list)

    def error(self, message: str) -> LaunchError:
        """Return a `LaunchError` whose message starts with file, line and element."""
        where = f"{shown_path(self.file)}:{self.line}: <{one_line(self.tag, 40)}>"
        return LaunchError(f"{where}: {one_line(message, 250)}")

    def get(self, name: str) -> str | None:
        """Return the raw text of an attribute, or None where it is absent."""
        return self.attributes.get(name)

    def named(self, tag: str) -> list[Element]:
        """Return the children with this tag, in order."""
        return [child for child in self.children if child.tag == tag]


@dataclass(frozen=True)
class Syntax:
    """What one element may hold."""

    # Names, separated by spaces.
    required: str = ""
    optional: str = ""
    literal: str = ""  # attributes without substitutions
    children: str = ""
    conditional: bool = True  # it may have `if` or `unless`


_PROCESS = (
    "name cwd on_exit launch-prefix output respawn respawn_delay respawn_max_retries "
    "sigterm_timeout sigkill_timeout shell"
)
_PROCESS_LITERAL = "on_exit respawn_delay respawn_max_retries sigterm_timeout sigkill_timeout shell"
_ACTIONS = (
    "arg let include group node executable push_ros_namespace push-ros-namespace set_env "
    "unset_env append_env reset_env set_parameter set_parameters_from_file set_remap log"
)

ACTION_SYNTAX: dict[str, Syntax] = {
    "arg": Syntax("name", "default description", "name description", "choice"),
    "let": Syntax("name value"),
    "include": Syntax("file", children="arg"),
    "group": Syntax("", "scoped forwarding", "scoped forwarding", f"{_ACTIONS} keep"),
    "node": Syntax(
        "exec",
        f"pkg namespace exec_name args ros_args {_PROCESS}",
        _PROCESS_LITERAL,
        "param remap env",
    ),
    "executable": Syntax("cmd", _PROCESS, _PROCESS_LITERAL, "env"),
    "push_ros_namespace": Syntax("namespace"),
    "push-ros-namespace": Syntax("namespace"),
    "set_env": Syntax("name value"),
    "unset_env": Syntax("name"),
    "append_env": Syntax("name value", "prepend separator"),
    "reset_env": Syntax(),
    "set_parameter": Syntax("name value"),
    "set_parameters_from_file": Syntax("filename"),
    "set_remap": Syntax("from to"),
    "log": Syntax("message"),
}

# By parent and tag, or by tag alone.
_NESTED_SYNTAX: dict[tuple[str, ...], Syntax] = {
    ("arg", "choice"): Syntax("value", literal="value", conditional=False),
    ("include", "arg"): Syntax("name value", conditional=False),
    ("group", "keep"): Syntax("name value", conditional=False),
    ("remap",): Syntax("from to", conditional=False),
    ("env",): Syntax("name value", conditional=False),
    ("param",): Syntax(
        "",
        "name from value value-sep type allow_substs",
        "value value-sep type allow_substs",
        "param",
        conditional=False,
    ),
}


def load_document(path: Path) -> Element:
    """Read a launch XML file and check every element of it.

    Returns the root element, `<launch>`. Raises `LaunchError` with file and line when the file
    cannot be read, is not XML, or holds an element, attribute or substitution that `ros2 launch`
    would refuse or that this launcher cannot run.
    """
    if path.suffix != ".xml" and path.suffix != ".launch":
        raise LaunchError(
            f"{path}: only launch files in XML can be run here; "
            "use `ros2 launch` of a ROS 2 installation for Python and YAML files"
        )
    root = _parse(read_bytes(path, LaunchError, MOST_BYTES), path)
    if root.tag != "launch":
        raise root.error("the outermost element must be <launch>")
    for child in root.children:
        _check(child, _actionSyntax(child))
    return root


def _parse(text: bytes, path: Path) -> Element:
    parser = xml.parsers.expat.ParserCreate()
    top: list[Element] = []
    open_elements: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, path, parser.CurrentLineNumber)
        (open_elements[-1].children if open_elements else top).append(element)
        open_elements.append(element)

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: open_elements.pop()
    try:
        parser.Parse(text, True)
    except xml.parsers.expat.ExpatError as error:
        reason = xml.parsers.expat.ErrorString(error.code)
        raise LaunchError(f"{path}:{error.lineno}: not well-formed XML: {reason}") from error
    return top[0]


def _actionSyntax(element: Element) -> Syntax:
    if element.tag not in ACTION_SYNTAX:
        known = ", ".join(sorted(ACTION_SYNTAX))
        raise element.error(f"this element cannot be run by this launcher; it knows {known}")
    return ACTION_SYNTAX[element.tag]


def _check(element: Element, syntax: Syntax) -> None:
    required = set(syntax.required.split())
    allowed = {*required, *syntax.optional.split()}
    allowed |= {"if", "unless"} if syntax.conditional else set()
    for name, value in element.attributes.items():
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise element.error(f"attribute '{name}' is not supported; known are: {known}")
        if name not in syntax.literal.split():
            try:
                parse_template(value)
            except SubstitutionError as error:
                raise element.error(f"attribute '{name}': {error}") from error
    for name in sorted(required - element.attributes.keys()):
        raise element.error(f"attribute '{name}' is missing")
    if "if" in element.attributes and "unless" in element.attributes:
        raise element.error("'if' and 'unless' cannot both be given")
    for child in element.children:
        if child.tag not in syntax.children.split():
            raise child.error(f"this element is not supported inside <{element.tag}>")
        nested = _NESTED_SYNTAX.get((element.tag, child.tag)) or _NESTED_SYNTAX.get((child.tag,))
        _check(child, nested or _actionSyntax(child))
