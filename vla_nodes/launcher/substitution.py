"""The `$(name argument ...)` substitutions of launch files: their grammar and their values.

The grammar is that of the launch front ends: text outside a substitution takes backslash
escapes, arguments are separated by exactly one space, and an argument that holds spaces or
parentheses stands in single or double quotes.
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vla.core.files import read_text, read_yaml_text
from vla.core.shown import brief
from vla_nodes.launcher.expression import ExpressionError, evaluate_expression
from vla_nodes.launcher.packages import (
    PackageError,
    package_executable,
    package_prefix,
    package_share,
)


class SubstitutionError(Exception):
    """A substitution is malformed, unknown, or has no value; the message says which."""


@dataclass(frozen=True)
class Call:
    """One substitution."""

    name: str
    arguments: tuple[tuple[str | Call, ...], ...]  # each a sequence of parts
    text: str


Template = tuple["str | Call", ...]


@dataclass
class Scope:
    """What substitutions are resolved against; changed by `<let>`, `<arg>`, `<set_env>`."""

    configurations: dict[str, str]
    environment: dict[str, str]
    file: Path
    used_configurations: set[str] = field(default_factory=set)


@cache
def parse_template(text: str) -> Template:
    """Split text into plain strings and substitutions.

    Raises `SubstitutionError` on a syntax error, an unknown substitution, or a wrong number of
    arguments.
    """
    reader = _Reader(text)
    parts: list[str | Call] = []
    while not reader.done():
        parts.append(reader.call(None) if reader.at_call() else reader.plain(None, argument=False))
    return tuple(parts)


def substitute(text: str, scope: Scope) -> str:
    """Replace every substitution in text by its value; raises `SubstitutionError`."""
    return evaluate(parse_template(text), scope)


def evaluate(template: Template, scope: Scope) -> str:
    """Return the text that a parsed template stands for; raises `SubstitutionError`."""
    return "".join(part if isinstance(part, str) else _call(part, scope) for part in template)


def as_boolean(text: str) -> bool:
    """Read a boolean by YAML's rules, `1` and `0` included; raises `SubstitutionError`."""
    try:
        value = {"1": True, "0": False}[text] if text in ("0", "1") else _plain(text)
    except SubstitutionError:
        value = None
    if not isinstance(value, bool):
        raise SubstitutionError(f"expected true or false, got {brief(text)}")
    return value


def _plain(text: str) -> Any:
    return read_yaml_text(text, brief(text), SubstitutionError)


def as_condition(text: str) -> bool:
    """Read the value of an `if` or `unless` attribute; raises `SubstitutionError`."""
    word = text.strip().lower()
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    raise SubstitutionError(f"a condition must be true, false, 1 or 0, got '{text}'")


class _Reader:
    """Recursive descent over one attribute; `quote` is the quote character around, or None."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def done(self) -> bool:
        return self.position >= len(self.text)

    def at(self, expected: str) -> bool:
        return self.text.startswith(expected, self.position)

    def at_call(self) -> bool:
        return self.at("$(")

    def plain(self, quote: str | None, argument: bool) -> str:
        """Read text up to the next substitution, or the end of the quotes or the argument."""
        stops = {quote} if quote else set()
        if argument:
            stops |= {" ", "(", ")"} if quote else {" ", "(", ")", "'", '"'}
        out: list[str] = []
        while not self.done() and not self.at_call():
            character = self.text[self.position]
            if character in stops:
                break
            self.position += 1
            # A backslash keeps the space between two arguments a separator.
            if character == "\\" and not self.done() and not (argument and self.at(" ")):
                character = self.text[self.position]
                self.position += 1
            out.append(character)
        return "".join(out)

    def call(self, quote: str | None) -> Call:
        start = self.position
        self.position += 2
        match = re.compile(r"[A-Za-z][A-Za-z0-9_-]*").match(self.text, self.position)
        if match is None:
            raise SubstitutionError(f"a name is expected after '$(' in '{self.text}'")
        self.position = match.end()
        arguments: list[Template] = []
        while self.at(" "):
            self.position += 1
            arguments.append(self.argument(quote))
        if not self.at(")"):
            raise SubstitutionError(
                f"')' is missing or a character must be quoted at column {self.position + 1} "
                f"of '{self.text}'"
            )
        self.position += 1
        call = Call(match.group(), tuple(arguments), self.text[start : self.position])
        _check_call(call)
        return call

    def argument(self, quote: str | None) -> Template:
        if quote is None and (self.at("'") or self.at('"')):
            return self.quoted()
        parts: list[str | Call] = []
        while not self.done():
            part = self.call(quote) if self.at_call() else self.plain(quote, argument=True)
            if not part:
                break
            parts.append(part)
        if not parts:
            raise SubstitutionError(
                f"an argument is missing at column {self.position + 1} of '{self.text}' "
                "(arguments are separated by one space)"
            )
        return tuple(parts)

    def quoted(self) -> Template:
        quote = self.text[self.position]
        self.position += 1
        parts: list[str | Call] = []
        while not self.done() and not self.at(quote):
            parts.append(self.call(quote) if self.at_call() else self.plain(quote, argument=False))
        if self.done():
            raise SubstitutionError(f"the quote {quote} is not closed in '{self.text}'")
        self.position += 1
        return tuple(parts)


def _variable(values: list[str], scope: Scope) -> str:
    name = values[0]
    scope.used_configurations.add(name)
    if name in scope.configurations:
        return scope.configurations[name]
    if len(values) == 2:
        return values[1]
    raise SubstitutionError(f"there is no launch argument or <let> named '{name}'")


def _environment(values: list[str], scope: Scope) -> str:
    name = values[0]
    if name in scope.environment:
        return scope.environment[name]
    if len(values) == 2:
        return values[1]
    raise SubstitutionError(
        f"environment variable '{name}' is not set; give a default: $(env {name} DEFAULT)"
    )


def _anonymous(values: list[str], scope: Scope) -> str:
    key = "anon" + values[0]
    if key not in scope.configurations:
        number = random.randrange(sys.maxsize)
        name = f"{values[0]}_{socket.gethostname()}_{os.getpid()}_{number}"
        scope.configurations[key] = re.sub(r"[.:-]", "_", name)
    return scope.configurations[key]


def _equal(values: list[str], scope: Scope) -> bool:
    left, right = values
    booleans = {"true": True, "1": True, "false": False, "0": False}
    if left.lower() in booleans and right.lower() in booleans:
        return booleans[left.lower()] == booleans[right.lower()]
    try:
        return math.isclose(float(left), float(right))
    except ValueError:
        return left == right


def _find_executable(values: list[str], scope: Scope) -> str:
    found = shutil.which(values[0], path=scope.environment.get("PATH"))
    if found is None:
        raise SubstitutionError(f"executable '{values[0]}' is not on PATH")
    return found


def _file_content(values: list[str], scope: Scope) -> str:
    return read_text(values[0], SubstitutionError)


def _choose(values: list[str], scope: Scope) -> str:
    otherwise = values[2] if len(values) == 3 else ""
    return values[1] if as_boolean(values[0]) else otherwise


def _python(values: list[str], scope: Scope) -> str:
    modules = [name.strip() for name in values[1].split(",")] if len(values) == 2 else ["math"]
    if modules != ["math"]:
        raise SubstitutionError("eval can use the module math only")
    return str(evaluate_expression(values[0]))


def _booleans(values: list[str]) -> list[bool]:
    # Every argument must be a boolean, also those after the one that decides.
    return [as_boolean(value) for value in values]


def _text(value: bool) -> str:
    return "true" if value else "false"


_Function = Callable[[list[str], Scope], str]
# name: (fewest arguments, most arguments, value)
_FUNCTIONS: dict[str, tuple[int, int, _Function]] = {
    "var": (1, 2, _variable),
    "env": (1, 2, _environment),
    "find-pkg-prefix": (1, 1, lambda v, s: str(package_prefix(v[0], s.environment))),
    "find-pkg-share": (1, 1, lambda v, s: str(package_share(v[0], s.environment))),
    "exec-in-pkg": (2, 2, lambda v, s: str(package_executable(v[1], v[0], s.environment))),
    "find-exec": (1, 1, _find_executable),
    "dirname": (0, 0, lambda v, s: str(s.file.parent)),
    "filename": (0, 0, lambda v, s: str(s.file)),
    "file-content": (1, 1, _file_content),
    "anon": (1, 1, _anonymous),
    "eval": (1, 2, _python),
    "if": (2, 3, _choose),
    "not": (1, 1, lambda v, s: _text(not as_boolean(v[0]))),
    "and": (2, 2, lambda v, s: _text(all(_booleans(v)))),
    "or": (2, 2, lambda v, s: _text(any(_booleans(v)))),
    "equals": (2, 2, lambda v, s: _text(_equal(v, s))),
    "not-equals": (2, 2, lambda v, s: _text(not _equal(v, s))),
}


def _check_call(call: Call) -> None:
    if call.name not in _FUNCTIONS:
        hint = " (write $(env NAME DEFAULT))" if call.name == "optenv" else ""
        known = ", ".join(sorted(_FUNCTIONS))
        raise SubstitutionError(f"unknown substitution {call.text}{hint}; known are: {known}")
    fewest, most, _ = _FUNCTIONS[call.name]
    if not fewest <= len(call.arguments) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise SubstitutionError(
            f"'{call.name}' takes {wanted} arguments, {call.text} has {len(call.arguments)}"
        )


def _call(call: Call, scope: Scope) -> str:
    values = [evaluate(argument, scope) for argument in call.arguments]
    try:
        return _FUNCTIONS[call.name][2](values, scope)
    except (PackageError, ExpressionError, SubstitutionError) as error:
        message = str(error)
        prefix = "" if message.startswith("$(") else f"{call.text}: "
        raise SubstitutionError(prefix + message) from error
