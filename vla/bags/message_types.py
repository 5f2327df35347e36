"""ROS message definitions without ROS: finds them, hashes them, and decodes CDR bytes with them.

A bag must describe its own messages, so that it can be read years later on a machine without ROS.
The definitions come from the `.msg` files of installed ROS packages, else from `rosbags`, or from
this package.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla.core.files import read_text
from vla.core.resources import PACKAGE, shared_file
from vla.core.shown import brief

SEPARATOR = "=" * 80
_TYPE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*/msg/[A-Za-z][A-Za-z0-9_]*")


class MessageTypeError(ValueError):
    """A message type whose definition cannot be found or read."""


@dataclass(frozen=True)
class MessageType:
    """What a bag keeps about a message type."""

    name: str  # "package/msg/Name"
    definition: str  # the `.msg` text, followed by the text of every type that it uses
    type_hash: str  # REP-2016 hash ("RIHS01_..."): whether two machines mean the same message


def installed_share_folders() -> tuple[Path, ...]:
    """The `share` folders of the sourced ROS environment, best first; empty without one."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return tuple(Path(prefix) / "share" for prefix in prefixes if prefix)


def load_message_type(name: str, share_folders: Iterable[Path] | None = None) -> MessageType:
    """Finds the definition of `name` ("sensor_msgs/msg/Image") and of everything it uses.

    share_folders: folders that hold `<package>/msg/<Name>.msg`, best first; by default those of
    the sourced ROS environment. Raises MessageTypeError when a definition is missing.
    """
    folders = installed_share_folders() if share_folders is None else tuple(share_folders)
    return _load_message_type(name, folders)


@cache
def _load_message_type(name: str, folders: tuple[Path, ...]) -> MessageType:
    texts: dict[str, str] = {}
    store = get_typestore(Stores.EMPTY)
    pending = [name]
    while pending:
        current = pending.pop(0)
        if current in texts:
            continue
        texts[current] = _find_text(current, folders)
        try:
            fields = get_types_from_msg(texts[current], current)
        except Exception as error:
            raise MessageTypeError(f"cannot parse the definition of {current}: {error}") from error
        store.register(fields)
        pending.extend(_used_types(fields[current][1]))
    parts = [texts.pop(name)]
    for used, text in texts.items():
        package, _, short = used.split("/")
        parts.append(f"{SEPARATOR}\nMSG: {package}/{short}\n{text}")
    definition = "\n".join(part.rstrip("\n") for part in parts) + "\n"
    return MessageType(name, definition, store.hash_rihs01(name))


def _find_text(name: str, folders: tuple[Path, ...]) -> str:
    package, _, short = name.partition("/msg/")
    # It comes from bags and graphs, and becomes part of a path.
    if _TYPE_NAME.fullmatch(name) is None:
        raise MessageTypeError(f"{brief(name)} is not a message type; expected 'package/msg/Name'")
    for folder in folders:
        path = folder / package / "msg" / f"{short}.msg"
        if path.is_file():
            return read_text(path, MessageTypeError)
    if package == PACKAGE:
        with contextlib.suppress(FileNotFoundError):
            return shared_file(f"msg/{short}.msg").read_text()
    store = get_typestore(Stores.ROS2_JAZZY)
    if name in store.fielddefs:
        return store.generate_msgdef(name, ros_version=2)[0].split(SEPARATOR)[0]
    raise MessageTypeError(
        f"no definition of {name} found; build and source the workspace that holds '{package}'"
    )


def _used_types(fields: list) -> list[str]:
    used = []
    for _, (kind, detail) in fields:
        # Arrays and sequences wrap the element's (kind, detail) one level deeper.
        if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            kind, detail = detail[0]
        if kind == Nodetype.NAME:
            used.append(detail)
    return used


class MessageDecoder:
    """Decodes CDR bytes into plain objects whose array fields are numpy arrays.

    It learns types from the definitions in a bag, so neither ROS nor the defining package is
    needed.
    """

    def __init__(self) -> None:
        self._store = get_typestore(Stores.EMPTY)

    def add(self, name: str, definition: str) -> None:
        """Learns a type from its definition. Raises MessageTypeError when unreadable."""
        try:
            self._store.register(get_types_from_msg(definition, name))
        except Exception as error:
            raise MessageTypeError(f"cannot use the definition of {name}: {error}") from error

    def decode(self, name: str, data: bytes) -> object:
        """The message of type `name` in `data`. Raises MessageTypeError when it doesn't fit."""
        try:
            return self._store.deserialize_cdr(data, name)
        except Exception as error:
            raise MessageTypeError(f"cannot decode a {name}: {error}") from error

    def encode(self, name: str, message: object) -> bytes:
        """The CDR bytes of `message`, the counterpart of decode."""
        return bytes(self._store.serialize_cdr(message, name))
