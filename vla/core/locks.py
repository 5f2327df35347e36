"""Marks files as in use, so that no two processes write one."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import HasFileno


def lock_file(stream: HasFileno) -> bool:
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
