"""How a node ends that is asked to before it has begun. It imports next to nothing.

A node's imports take seconds, more on a busy machine. Python would answer Ctrl-C meanwhile with a
traceback, and SIGTERM would kill it, both with an exit status that launchers report as a death.
"""

from __future__ import annotations

import os
import signal


def end_at_signals() -> None:
    """Ends the process with status 0 at SIGINT and SIGTERM, until `run` of a node takes over.

    There is nothing to clean up yet.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
