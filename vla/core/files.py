"""Reading files from elsewhere: YAML, JSON and text.

A file may be a pipe that never ends, gigabytes long, binary, nested without end, or a few hundred
bytes that expand to billions. Everything here returns plain, bounded values, or raises the error
class that the caller gives, with one short sentence that names the file and the remedy.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import yaml

from vla.core.shown import brief, listed, shown_path
from vla.core.text import one_line
from vla.core.yaml_nodes import MOST_DEPTH, YAML_LOADER, require_bounded, too_deep

MOST_JSON_BYTES = 4_000_000
MOST_YAML_BYTES = 1_000_000
MOST_NODES = 100_000  # Values in a YAML file, each counted as often as aliases repeat it.
BLOCK = 1 << 20  # Read and decoded at a time [bytes].
MOST_NUMBER = 2**63  # Larger whole numbers fit no message, array or index.


def require_regular(path: str | Path, error: type[Exception]) -> os.stat_result:
    """Raises `error` where a path is no regular file: a folder, pipe, socket or device.

    Nothing is opened, so nothing can block. Links are followed.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as problem:
        _unreadable(path, problem, error)
    if not stat.S_ISREG(found.st_mode):
        kind = next((k for is_kind, k in _KINDS if is_kind(found.st_mode)), "no regular file")
        raise error(f"{shown_path(path)} is {kind}; give a file")
    return found


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _unreadable(path: str | Path, problem: Exception, error: type[Exception]) -> NoReturn:
    reason = getattr(problem, "strerror", None) or one_line(problem)
    raise error(f"cannot read {shown_path(path)}: {reason}; check the path") from problem


def read_bytes(path: str | Path, error: type[Exception], most_bytes: int) -> bytes:
    """The content of a regular file of at most `most_bytes`. Raises `error`."""
    return b"".join(_blocks(path, error, most_bytes))


def _blocks(path: str | Path, error: type[Exception], most_bytes: int) -> Iterator[bytes]:
    require_regular(path, error)
    try:
        # The file may have become a pipe since: do not wait for its writer either.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise error(f"{shown_path(path)} is no regular file; give a file")
            left = found.st_size
            if left > most_bytes:
                raise error(
                    f"{shown_path(path)} is larger than {most_bytes / 1e6:g} MB, the most that is "
                    "read of such a file; give the right file"
                )
            # No more than its size, even if it grows.
            while block := stream.read(min(left, BLOCK)):
                left -= len(block)
                yield block
    except OSError as problem:
        _unreadable(path, problem, error)


def read_text(path: str | Path, error: type[Exception], most_bytes: int = MOST_JSON_BYTES) -> str:
    """The text of a regular file, UTF-8 with or without a byte order mark. Raises `error`.

    A large binary file is read only up to the first byte that gives it away.
    """
    return _decoded(_blocks(path, error, most_bytes), shown_path(path), error)


def _decoded(blocks: Iterable[bytes], where: str, error: type[Exception]) -> str:
    decoder, texts, begin = codecs.getincrementaldecoder("utf-8-sig")(), [], 0
    for block in chain(blocks, (b"",)):
        waiting = len(decoder.getstate()[0])
        try:
            texts.append(decoder.decode(block, final=not block))
        except UnicodeDecodeError as problem:
            place = begin - waiting + problem.start
            raise error(f"{where} is not UTF-8 (byte {place}); save it as UTF-8 text") from problem
        if (zero := block.find(0)) >= 0:
            raise error(
                f"{where} is no text (byte {begin + zero} is zero); give the right file, in UTF-8"
            )
        begin += len(block)
    return "".join(texts)


def read_json(
    path: str | Path,
    error: type[Exception],
    most_bytes: int = MOST_JSON_BYTES,
    finite: bool = True,
) -> Any:
    """What a JSON file holds: plain values. Raises `error`; see read_json_text()."""
    return read_json_text(read_text(path, error, most_bytes), shown_path(path), error, finite)


def read_json_lines(
    path: str | Path, error: type[Exception], most_bytes: int = MOST_JSON_BYTES
) -> list[Any]:
    """What each line of a JSON Lines file holds; empty lines are skipped. Raises `error`."""
    where = shown_path(path)
    return [
        read_json_text(line, f"{where}, line {number}", error)
        # Not splitlines(), which also splits at separators that JSON texts may hold.
        for number, line in enumerate(read_text(path, error, most_bytes).split("\n"), start=1)
        if line.strip()
    ]


def read_json_text(text: str, where: str, error: type[Exception], finite: bool = True) -> Any:
    """The value of a JSON text.

    where: its name in errors, such as its path. finite: whether NaN and infinity are refused.
    Raises `error` for these, invalid JSON, a repeated key, whole numbers beyond 64 bits, and
    nesting of more than MOST_DEPTH.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise error(f"{where} has {brief(twice)} twice; remove one")
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except RecursionError as problem:
        raise error(too_deep(where)) from problem
    except json.JSONDecodeError as problem:
        raise error(
            f"{where} is not valid JSON (line {problem.lineno}, column {problem.colno}: "
            f"{problem.msg}); correct it, or write it again"
        ) from problem
    except ValueError as problem:
        if isinstance(problem, error):
            raise
        raise error(f"{where} holds a number of too many digits; correct it") from problem
    _require_plain(value, where, error, finite)
    return value


def read_yaml(
    path: str | Path,
    error: type[Exception],
    most_bytes: int = MOST_YAML_BYTES,
    most_nodes: int = MOST_NODES,
    finite: bool = True,
    number_keys: bool = False,
) -> Any:
    """What a YAML file holds, None when empty. Raises `error`; see read_yaml_text()."""
    text = read_text(path, error, most_bytes)
    return read_yaml_text(text, shown_path(path), error, most_nodes, finite, number_keys)


def read_yaml_text(
    text: str,
    where: str,
    error: type[Exception],
    most_nodes: int = MOST_NODES,
    finite: bool = True,
    number_keys: bool = False,
) -> Any:
    """The value of a YAML text: text, numbers, booleans, None, lists, and mappings by name.

    where: its name in errors, such as its path. most_nodes: values that it may hold, repeats by
    aliases included. finite: whether NaN and infinity are refused. number_keys: whether whole
    numbers may be keys. Raises `error` for these, invalid YAML, other tags, repeated keys or keys
    that are not text, dates, whole numbers beyond 64 bits, and nesting of more than MOST_DEPTH.
    """
    try:
        require_bounded(text, where, error, most_nodes)
        value = yaml.load(text, Loader=YAML_LOADER)
    except RecursionError as problem:
        raise error(too_deep(where)) from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        reason = getattr(problem, "problem", None) or one_line(problem)
        raise error(
            f"{where} is not valid YAML ({line}{one_line(reason)}); correct it"
        ) from problem
    except Exception as problem:  # Constructors of YAML types raise anything
        if isinstance(problem, error):
            raise
        raise error(f"{where} is not valid YAML ({one_line(problem)}); correct it") from problem
    _require_plain(value, where, error, finite, (str, int) if number_keys else (str,))
    return value


def _require_plain(
    value: Any,
    where: str,
    error: type[Exception],
    finite: bool,
    keys: tuple[type, ...] = (str,),
) -> None:
    """Raises `error` where a value can't be what a file of this package holds."""
    seen: set[int] = set()
    # Each with its depth and its name.
    waiting: list[tuple[Any, int, Any]] = [(value, 0, None)]
    while waiting:
        entry, depth, name = waiting.pop()
        if isinstance(entry, (dict, list)):
            if id(entry) in seen:
                continue
            seen.add(id(entry))
            if depth > MOST_DEPTH:
                raise error(too_deep(where))
            if isinstance(entry, list):
                waiting.extend((inner, depth + 1, name) for inner in entry)
                continue
            for key in entry:
                if type(key) not in keys:
                    raise error(f"{where} has the key {brief(key)}, no text; put it in quotes")
            waiting.extend((key, depth + 1, name) for key in entry)
            waiting.extend((inner, depth + 1, key) for key, inner in entry.items())
        elif flaw := _flaw(entry, finite):
            raise error(f"{where if name is None else f'{where}: {one_line(name, 60)}'} {flaw}")


def _flaw(value: Any, finite: bool) -> str:
    """What is wrong with a single value; "" for nothing."""
    if isinstance(value, str):
        broken = not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)
        return f"holds text that is not Unicode, {brief(value)}; correct it" if broken else ""
    if isinstance(value, float):
        infinite = finite and not math.isfinite(value)
        return f"holds {value!r} for a number; give a finite one" if infinite else ""
    if value is None or isinstance(value, bool):
        return ""
    if not isinstance(value, int):
        kind = type(value).__name__
        return f"holds a {kind}, {brief(value)}; put it in quotes if text is meant"
    large = not -MOST_NUMBER <= value < MOST_NUMBER
    return f"holds {brief(value)}, which is too large; correct it" if large else ""


def checked_number(
    value: Any,
    what: str,
    error: type[Exception],
    lowest: float = -math.inf,
    highest: float = math.inf,
    whole: bool = False,
) -> Any:
    """A finite number from `lowest` to `highest`, as float, or with `whole` as int.

    what: the file and the entry, which errors begin with. Raises `error` for any other value.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and lowest <= value <= highest and abs(value) != math.inf:
        if not whole:
            return float(value)
        if value == int(value):
            return int(value)
    bounds = f" from {lowest:g} to {highest:g}"
    if math.isinf(highest):
        bounds = "" if math.isinf(lowest) else f" of at least {lowest:g}"
    elif math.isinf(lowest):
        bounds = f" of at most {highest:g}"
    raise error(f"{what} must be a {'whole ' if whole else ''}number{bounds}, got {brief(value)}")


def checked_numbers(
    values: Any, what: str, error: type[Exception], most: int, largest: float
) -> list[float]:
    """A list of at most `most` finite numbers from -`largest` to `largest`. Raises `error`."""
    if not isinstance(values, list) or len(values) > most:
        raise error(f"{what} must be a list of finite numbers, got {brief(values)}")
    return [checked_number(value, what, error, -largest, largest) for value in values]


def checked_text(value: Any, what: str, error: type[Exception], most: int = 4096) -> str:
    """A text of at most `most` characters. Raises `error` for any other value."""
    if not isinstance(value, str):
        raise error(f"{what} must be text, got {brief(value)}")
    if len(value) > most:
        raise error(f"{what} has {len(value)} characters, at most {most} can be used; shorten it")
    return value


def checked_entries(
    values: Any, what: str, error: type[Exception], known: Collection[str]
) -> dict[str, Any]:
    """A mapping whose entries are all among `known`. Raises `error` for any other value."""
    if not isinstance(values, dict):
        raise error(f"{what} must be a mapping of {listed(known)}, got {type(values).__name__}")
    if unknown := [key for key in values if key not in known]:
        near = get_close_matches(one_line(unknown[0], 60), known)
        known = [*near, *(name for name in known if name not in near)]
        raise error(f"{what}: unknown entries: {listed(unknown)}; known: {listed(known)}")
    return values


def checked_names(
    values: Any, what: str, error: type[Exception], least: int = 0, most: int = 100
) -> tuple[str, ...]:
    """A list of names, no two alike, of `least` to `most` entries. Raises `error`."""
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise error(f"{what} must be a list of names, got {brief(values)}")
    if not least <= len(values) <= most:
        raise error(f"{what} must have {least} to {most} names, it has {len(values)}")
    for name in values:
        checked_name(name, what, error)
    if len(set(values)) < len(values):
        raise error(f"{what} has a name twice: {listed(values)}; remove one")
    return tuple(values)


def checked_name(value: Any, what: str, error: type[Exception]) -> str:
    """A text without control characters, not empty, at most 200 long. Raises `error`."""
    checked_text(value, what, error, 200)
    if not value.strip() or not value.isprintable():
        raise error(f"{what} must be a name in printable characters, got {brief(value)}")
    return value


def inside(folder: str | Path, name: Any, where: str, error: type[Exception]) -> Path:
    """The path of a file that another file names: under `folder`, wherever links lead from there.

    where: the file that names it. Raises `error` for an absolute path, one with "..", and an empty
    one.
    """
    relative = PurePosixPath(checked_text(name, f"{where}: a file's name", error))
    if relative.is_absolute() or ".." in relative.parts or not relative.parts or "\0" in name:
        raise error(
            f"{where} names the file {brief(name)}, which is not in {shown_path(folder)}; put the "
            "file there and name it by its path in that folder"
        )
    return Path(folder) / relative
