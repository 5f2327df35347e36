"""Worker processes that end when the process does that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def worker_pool(workers: int) -> Any:
    """A `multiprocessing.Pool` of workers that end with this process, however it ends.

    They are not forked: a process with threads of other libraries must not be copied.
    """
    return multiprocessing.get_context("spawn").Pool(workers, initializer=end_with_parent)


def results_in_order(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, killed: Exception
) -> Iterator[Result]:
    """The results of the tasks, in their order, each computed in one of some processes.

    workers: 0 for one per core; 1 is this process. killed: raised where a process was killed. When
    the results are no longer asked for, the processes end.
    """
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers < 2:
        yield from map(function, tasks)
        return
    others = set(multiprocessing.active_children())
    # Not forked, as in worker_pool().
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    try:
        yield from pool.map(function, tasks)
    except BaseException as error:
        # The results are no longer needed.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise killed from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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
