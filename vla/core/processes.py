"""Worker processes that end when the process does that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess
from typing import Any


def worker_pool(workers: int) -> Any:
    """A `multiprocessing.Pool` of workers that end with this process, however it ends.

    They are not forked: a process with threads of other libraries must not be copied.
    """
    return multiprocessing.get_context("spawn").Pool(workers, initializer=end_with_parent)


def end_with_parent() -> None:
    """What a worker does first. Ctrl-C and SIGTERM are the parent's, whose end is this one's.

    A worker of multiprocessing otherwise outlives a parent that was killed: it ends its task, then
    waits for the next for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
