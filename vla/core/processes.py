"""Worker processes that end when the process does that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def wait_asleep() -> None:
    """Has the threads of torch sleep while they wait for work, unless OMP_WAIT_POLICY is set.

    Else they spin, and take the cores from whatever else runs. To be called before torch is loaded,
    which reads this once; processes that are started later do so, too.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_pool(workers: int) -> Any:
    """A `multiprocessing.Pool` of workers that end with this process, however it ends.

    They are not forked: a process with threads of other libraries must not be copied.
    """
    return multiprocessing.get_context("spawn").Pool(workers, initializer=end_with_parent)


def results_in_order(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    killed: Callable[[Task], Exception],
) -> Iterator[Result]:
    """The results of the tasks, in their order, each computed in one of some processes.

    workers: 0 for one per core; 1 is this process. killed: what is raised where the process that
    did a task was killed. When the results are no longer asked for, the processes end at once.
    """
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers < 2:
        yield from map(function, tasks)
        return
    others = set(multiprocessing.active_children())
    # Not forked, as in worker_pool(). One pool each, which tells whose task it was that killed one.
    context = multiprocessing.get_context("spawn")
    pools = [
        ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)
        for _ in range(workers)
    ]
    try:
        waiting, idle = deque(range(len(tasks))), list(pools)
        running: dict[Future[Result], tuple[int, ProcessPoolExecutor]] = {}
        done: dict[int, Future[Result]] = {}
        for index in range(len(tasks)):
            while index not in done:
                while idle and waiting:
                    pool, task = idle.pop(), waiting.popleft()
                    running[pool.submit(function, tasks[task])] = task, pool
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, pool = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        raise killed(tasks[task]) from future.exception()
                    done[task] = future
                    idle.append(pool)
            yield done.pop(index).result()
    except BaseException:
        # The results are no longer needed.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        for pool in pools:
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
