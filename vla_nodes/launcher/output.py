"""What the launcher shows and logs: lines of processes with their prefix, and its own reports."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
_LEVEL_COLOURS = {"WARNING": 33, "ERROR": 31}

# output attribute: stream -> (on the screen, in launch.log, in its own files)
_ROUTES: dict[str, dict[str, tuple[bool, bool, bool]]] = {
    "screen": {"stdout": (True, False, False), "stderr": (True, False, False)},
    "log": {"stdout": (False, True, False), "stderr": (True, True, False)},
    "both": {"stdout": (True, True, False), "stderr": (True, True, False)},
    "own_log": {"stdout": (False, False, True), "stderr": (False, False, True)},
    "full": {"stdout": (True, True, True), "stderr": (True, True, True)},
}


def log_folder(environment: Mapping[str, str]) -> Path:
    """Return a new folder's path for the logs of one launch, by ROS_LOG_DIR and ROS_HOME."""
    home = environment.get("ROS_HOME") or str(Path.home() / ".ros")
    base = Path(environment.get("ROS_LOG_DIR") or Path(home) / "log")
    stamp = time.strftime("%Y-%m-%d-%H-%M-%S")
    return base.expanduser() / f"{stamp}-{socket.gethostname()}-{os.getpid()}"


class Output:
    """Writes lines to the screen and to the log files of one launch.

    Colours appear on a terminal only, and never with NO_COLOR set. `broken` turns true when the
    reader of the screen output has gone.
    """

    def __init__(self, folder: Path, screen: TextIO | None = None) -> None:
        self.folder = folder
        self.screen = screen or sys.stdout
        self.colours = self.screen.isatty() and not os.environ.get("NO_COLOR")
        self.broken = False
        self._files: dict[str, TextIO] = {}
        self._columns: dict[str, int] = {}

    def report(self, level: str, source: str, message: str) -> None:
        """Write a line of the launcher itself: `[INFO] [source]: message`."""
        line = f"[{level}] [{source}]: {message}"
        self._log("launch.log", line)
        if self.colours and level in _LEVEL_COLOURS:
            line = f"\x1b[{_LEVEL_COLOURS[level]}m{line}\x1b[0m"
        self._show(line)

    def line(self, label: str, stream: str, text: str, output: str) -> None:
        """Write one line that a process wrote on `stdout` or `stderr`."""
        on_screen, in_log, own_log = _ROUTES[output][stream]
        prefixed = f"[{label}] {text}"
        if in_log:
            self._log("launch.log", prefixed)
        if own_log:
            self._log(f"{label}-{stream}.log", text)
            self._log(f"{label}.log", text)
        if on_screen:
            if self.colours:
                column = self._columns.setdefault(label, len(self._columns))
                prefixed = f"\x1b[{_COLOURS[column % len(_COLOURS)]}m[{label}]\x1b[0m {text}"
            self._show(prefixed)

    def reader_descriptor(self) -> int | None:
        """Return the screen's descriptor if it is a pipe, which shows when its reader goes."""
        try:
            descriptor = self.screen.fileno()
            return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None
        except (OSError, ValueError):
            return None

    def abandon_screen(self) -> None:
        """Write nothing more to the screen, because nobody reads it."""
        self.broken = True
        # What is still buffered would fail again when the interpreter ends.
        with open(os.devnull, "w") as nothing, contextlib.suppress(OSError, ValueError):
            os.dup2(nothing.fileno(), self.screen.fileno())

    def close(self) -> None:
        """Close the log files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _show(self, line: str) -> None:
        if self.broken:
            return
        try:
            self.screen.write(line + "\n")
            self.screen.flush()
        except UnicodeEncodeError:
            self.screen.write(ascii(line)[1:-1] + "\n")
        except OSError:
            self.abandon_screen()

    def _log(self, name: str, line: str) -> None:
        try:
            if name not in self._files:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._files[name] = (self.folder / name).open("a", buffering=1, errors="replace")
            stamp = f"{time.time():.7f} " if name == "launch.log" else ""
            self._files[name].write(f"{stamp}{line}\n")
        except OSError:
            # A full or read-only disk must not stop the robot's nodes.
            pass
