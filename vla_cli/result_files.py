"""Result files of a command: refused before the work if they cannot be written."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from vla.core.replacing import replacing
from vla.core.shown import shown_path
from vla_cli.errors import CommandError


def require_writable(*paths: str | Path | None) -> None:
    """Raises CommandError, which names the file, where a result could not be written.

    Makes the folders of the paths. An existing file keeps its content. None and "" are skipped.
    """
    for path in (Path(given) for given in paths if given):
        known = os.path.lexists(path)
        try:
            # Where a file has the folder's name, opening gives the best message.
            with suppress(FileExistsError):
                path.parent.mkdir(parents=True, exist_ok=True)
            # Non-blocking: a pipe may have no reader.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))
            if not known:
                path.unlink()
        except (OSError, ValueError) as error:
            raise unwritable(path, error) from error


def write_result(path: str | Path, content: Any) -> None:
    """Writes JSON, whole or not at all. Raises CommandError, which names the file."""
    path = Path(path)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    # File names may be invalid Unicode, for which JSON has the same escapes.
    data = text.encode("utf-8", errors="backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.resolve()
        if target.exists() and not (target.is_file() and os.access(target.parent, os.W_OK)):
            path.write_bytes(data)  # a pipe, a device, or where no other file may be made
            return
        with replacing(target) as new:
            new.write_bytes(data)
    except OSError as error:
        raise unwritable(path, error) from error


def write_and_say(path: str | Path | None, content: Any) -> None:
    """As write_result, and prints the path; nothing where there is none."""
    if path:
        write_result(path, content)
        print(f"written: {path}")


def unwritable(path: str | Path, error: Exception) -> CommandError:
    """The error of a file that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return CommandError(f"cannot write {shown_path(path)}: {reason}; name another file")
