"""Marks files as in use, so that no two processes write one."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import HasFileno


def lock_file(stream: HasFileno, wait: bool = False) -> bool:
    """Marks an open file as in use by this process, until it closes the file or dies.

    Returns False when another process has it, or with `wait` once that one is done with it. File
    systems without locks count as unlocked.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def unlock_file(stream: HasFileno) -> None:
    """Ends the mark, also for processes that were forked meanwhile and have the file open, too."""
    with suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_UN)
