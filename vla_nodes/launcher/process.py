"""One `<node>` or `<executable>` as the command line, environment and rules to run it by."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from vla.core.files import read_text
from vla.core.shown import brief
from vla.core.text import one_line
from vla_nodes.core.parameters_file import require_parameters, require_parameters_text
from vla_nodes.launcher.document import Element
from vla_nodes.launcher.packages import PackageError, package_executable
from vla_nodes.launcher.substitution import (
    Scope,
    SubstitutionError,
    as_boolean,
    evaluate,
    parse_template,
    substitute,
)
from vla_nodes.launcher.values import (
    ValueTypeError,
    as_yaml,
    literal_boolean,
    literal_number,
    parameter_value,
)

# A node needs well under a second to clean up, and several on a busy machine. The first is that of
# ros2 launch, the second shorter than its 5 s: everything is down within 7 s.
SIGTERM_TIMEOUT = 5.0
SIGKILL_TIMEOUT = 1.5
MATCH_TIMEOUT = 2.0  # Of an expression that a launch file gives [s].

_OUTPUTS = ("screen", "log", "both", "own_log", "full")


@dataclass(frozen=True)
class ProcessDescription:
    """Everything that is needed to start one process, and to start it again."""

    label: str
    command: tuple[str, ...]
    environment: dict[str, str]
    working_directory: str | None = None
    shell: bool = False
    output: str = "log"
    respawn: bool = False
    respawn_delay: float = 0.0  # From a death to the next start [s].
    respawn_max_retries: int = -1  # Negative: no limit.
    shutdown_on_exit: bool = False
    sigterm_timeout: float = SIGTERM_TIMEOUT  # From SIGINT to SIGTERM [s].
    sigkill_timeout: float = SIGKILL_TIMEOUT  # From SIGTERM to SIGKILL [s].


@contextmanager
def located(element: Element):
    """Turn errors of substitutions and values into a `LaunchError` that names the element."""
    try:
        yield
    except (SubstitutionError, ValueTypeError, PackageError) as error:
        raise element.error(str(error)) from error


def describe_process(
    element: Element,
    *,
    scope: Scope,
    scratch: Path,
    parameters: list[Any],
    remaps: list[tuple[str, str]],
    number: int,
    warn: Callable[[str], None],
) -> ProcessDescription:
    """Resolves a `<node>` or `<executable>` element, whose syntax has been checked.

    scope: for its substitutions. scratch: an existing folder for the parameter files of nodes.
    parameters, remaps: in force from `<set_parameter>` as (name, value),
    `<set_parameters_from_file>` as paths, and `<set_remap>` as (from, to). number: of the process,
    part of its label. warn: called with a message where the file is suspect but can be run. Raises
    LaunchError where the element is wrong, its executable is missing, or a parameter file is
    invalid.
    """
    reader = _Attributes(element, scope)
    if element.tag == "node":
        command = _node_command(reader, scratch, parameters, remaps, number, warn)
        name = reader.text("exec_name")
    else:
        command = _split_words(element.get("cmd"), scope)
        name = reader.text("name")
    if not command:
        raise element.error("there is nothing to run")
    environment = dict(scope.environment)
    for variable in element.named("env"):
        inner = _Attributes(variable, scope)
        environment[inner.required("name")] = inner.required("value")
    output = os.environ.get("OVERRIDE_LAUNCH_PROCESS_OUTPUT") or reader.text("output") or "log"
    if output not in _OUTPUTS:
        raise element.error(f"output is '{output}'; it must be one of: {', '.join(_OUTPUTS)}")
    on_exit = element.get("on_exit")
    if on_exit not in (None, "shutdown"):
        raise element.error(f"on_exit is '{on_exit}'; the only choice is shutdown")
    return ProcessDescription(
        label=f"{name or os.path.basename(command[0])}-{number}",
        command=(*_launch_prefix(reader, command), *command),
        environment=environment,
        working_directory=reader.text("cwd"),
        shell=literal_boolean(element.get("shell") or "false"),
        output=output,
        respawn=as_boolean(reader.text("respawn") or "false"),
        respawn_delay=literal_number(element.get("respawn_delay") or "0", float, 0),
        respawn_max_retries=literal_number(element.get("respawn_max_retries") or "-1", int, -1),
        shutdown_on_exit=on_exit is not None,
        sigterm_timeout=_timeout(reader, "sigterm_timeout", SIGTERM_TIMEOUT),
        sigkill_timeout=_timeout(reader, "sigkill_timeout", SIGKILL_TIMEOUT),
    )


class _Attributes:
    """Attributes of one element, with their substitutions resolved on request."""

    def __init__(self, element: Element, scope: Scope) -> None:
        self.element = element
        self.scope = scope

    def text(self, name: str) -> str | None:
        return None if self.element.get(name) is None else self.required(name)

    def required(self, name: str) -> str:
        """Return an attribute that the element's syntax requires."""
        with located(self.element):
            return substitute(self.element.attributes[name], self.scope)


def _timeout(reader: _Attributes, name: str, default: float) -> float:
    text = reader.element.get(name) or reader.scope.configurations.get(name)
    return default if text is None else literal_number(text, float, 0)


def _launch_prefix(reader: _Attributes, command: list[str]) -> list[str]:
    prefix = reader.text("launch-prefix")
    if prefix is None:
        configurations = reader.scope.configurations
        prefix = configurations.get("launch-prefix", "")
        pattern = configurations.get("launch-prefix-filter", "")
        if not _begins_with(pattern, os.path.basename(command[0])):
            prefix = ""
    return _shell_words(prefix)


def _begins_with(pattern: str, name: str) -> bool:
    """Whether a regular expression matches the beginning of a name; raises ValueTypeError.

    Another process matches, since some expressions take years.
    """
    if not pattern:
        return True
    try:
        re.compile(pattern)
        code = "import re, sys; sys.exit(3 if re.match(*sys.argv[1:]) is None else 0)"
        done = subprocess.run([sys.executable, "-c", code, pattern, name], timeout=MATCH_TIMEOUT)
    except (re.error, RecursionError, ValueError, subprocess.TimeoutExpired) as error:
        reason = "it takes too long" if isinstance(error, subprocess.TimeoutExpired) else error
        raise ValueTypeError(
            f"launch-prefix-filter {brief(pattern)} cannot be used ({one_line(reason)}); give a "
            "simpler expression"
        ) from error
    return done.returncode == 0


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueTypeError(
            f"cannot split '{text}' into words: {error} (a quote cannot span a substitution)"
        ) from error


def _split_words(text: str | None, scope: Scope) -> list[str]:
    """Split a command line at spaces outside of substitutions; their values stay one word."""
    words: list[str] = []
    open_word: str | None = None
    for part in parse_template(text or ""):
        if not isinstance(part, str):
            open_word = (open_word or "") + evaluate((part,), scope)
            continue
        tokens = _shell_words(part)
        if open_word is not None and (not tokens or part[0].isspace()):
            words.append(open_word)
            open_word = None
        for index, token in enumerate(tokens):
            if index > 0 and open_word is not None:
                words.append(open_word)
                open_word = None
            open_word = (open_word or "") + token
        if open_word is not None and part[-1].isspace():
            words.append(open_word)
            open_word = None
    return words if open_word is None else [*words, open_word]


def _node_command(
    reader: _Attributes,
    scratch: Path,
    parameters: list[Any],
    remaps: list[tuple[str, str]],
    number: int,
    warn: Callable[[str], None],
) -> list[str]:
    element, scope = reader.element, reader.scope
    executable, package = reader.text("exec") or "", reader.text("pkg")
    if package is not None:
        executable = str(package_executable(package, executable, scope.environment))
    command = [executable, *_split_words(element.get("args"), scope)]
    if element.get("ros_args") is not None:
        command += ["--ros-args", *_split_words(element.get("ros_args"), scope)]
    command.append("--ros-args")
    name = reader.text("name")
    if name is not None:
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
            raise element.error(f"'{name}' cannot be a node name (letters, digits and _ only)")
        command += ["-r", f"__node:={name}"]
    base, own = scope.configurations.get("ros_namespace"), reader.text("namespace")
    namespace = None
    if base is not None or own is not None:
        namespace = join_namespace(base, own)
        command += ["-r", f"__ns:={namespace}"]
    for item in parameters:
        if isinstance(item, Path):
            command += ["--params-file", str(item)]
        else:
            command += ["-p", f"{item[0]}:={as_yaml(item[1])}"]
    known = name is not None and namespace is not None
    node = f"{namespace.rstrip('/')}/{name}" if known and namespace else "/**"
    for index, param in enumerate(element.named("param")):
        file = scratch / f"{number}_{index}.yaml"
        with located(param):
            source = _parameter_file(param, scope, file, node)
        # What is there and is no file is refused below.
        if source.exists():
            command += ["--params-file", str(source)]
        else:
            warn(f"{param.file}:{param.line}: there is no parameter file '{source}'")
    of_ros = command[command.index("--ros-args") :]
    with located(element):
        for flag, value in pairwise(of_ros):
            if flag == "--params-file":
                require_parameters(value, ValueTypeError)
    rules = list(remaps)
    for remap in element.named("remap"):
        inner = _Attributes(remap, scope)
        rules.append((inner.required("from"), inner.required("to")))
    for source_name, target_name in rules:
        command += ["-r", f"{source_name}:={target_name}"]
    return command


def _parameter_file(param: Element, scope: Scope, file: Path, node: str) -> Path:
    """Return the file that carries one `<param>`: an existing one, or `file`, written here."""
    source = param.get("from")
    if (source is None) == (param.get("name") is None):
        raise param.error("needs either 'name' or 'from'")
    if source is None:
        values = dict(_named_values(param, scope, ""))
        file.write_text(yaml.safe_dump({node: {"ros__parameters": values}}))
        return file
    if param.children or {"value", "type", "value-sep"} & param.attributes.keys():
        raise param.error("'from' stands alone; give values in another <param>")
    path = Path(substitute(source, scope))
    if not literal_boolean(param.get("allow_substs") or "false"):
        return path
    try:
        text = substitute(read_text(path, ValueTypeError), scope)
        require_parameters_text(text, f"{path}, its substitutions replaced", ValueTypeError)
    except ValueTypeError as error:
        raise param.error(str(error)) from error
    file.write_text(text)
    return file


def _named_values(param: Element, scope: Scope, prefix: str) -> list[tuple[str, Any]]:
    if param.get("name") is None or "from" in param.attributes:
        raise param.error("a nested parameter needs 'name', and no 'from'")
    if "allow_substs" in param.attributes:
        raise param.error("'allow_substs' goes with 'from' only")
    with located(param):
        name = prefix + substitute(param.attributes["name"], scope)
        raw = param.get("value")
        if (raw is None) == (not param.children):
            raise param.error("needs either 'value' or nested <param> elements")
        if raw is not None:
            value = parameter_value(raw, param.get("value-sep"), param.get("type"), scope)
            return [(name, value)]
        if "type" in param.attributes:
            raise param.error("'type' goes with 'value' only")
    return [pair for child in param.children for pair in _named_values(child, scope, f"{name}.")]


def join_namespace(base: str | None, namespace: str | None) -> str:
    """Return an absolute namespace: `namespace` below `base` unless it is absolute itself.

    Raises `ValueTypeError` when the result cannot be a ROS namespace.
    """
    joined = namespace or ""
    if base and not joined.startswith("/"):
        joined = f"{base.rstrip('/')}/{joined}"
    joined = "/" + joined.lstrip("/").rstrip("/")
    if re.fullmatch(r"/|(/[A-Za-z_][A-Za-z0-9_]*)+", joined) is None:
        raise ValueTypeError(
            f"'{joined}' cannot be a namespace (names of letters, digits and _, between slashes)"
        )
    return joined
