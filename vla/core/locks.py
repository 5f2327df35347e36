"""Marks files as in use, so that no two processes write one."""

from __future__ import annotations

import fcntl
from typing import Protocol


class OpenFile(Protocol):
    """Anything with a file descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


def lock_file(stream: OpenFile) -> bool:
    """Marks an open file as in use by this process, until it closes the file or dies.

    Returns False when another process has it. File systems without locks count as unlocked.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
