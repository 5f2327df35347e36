"""The recorder's disk: free space, and work that waits for it without blocking messages."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.executors import Executor
from rclpy.task import Future

MEBIBYTE = 1024 * 1024


class RefusedError(ValueError):
    """An episode that cannot be recorded, or a request that makes no sense; the text says why."""


class DiskWork:
    """Work in separate threads, which coroutines of an executor can await."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()

    async def done(self, executor: Executor | None, work: Callable[[], Any]) -> Any:
        """The result or exception of `work`; the executor goes on meanwhile."""
        future = Future(executor=executor)

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)
            self._threads.discard(thread)

        thread = threading.Thread(target=run, name="recorder disk", daemon=True)
        self._threads.add(thread)
        thread.start()
        return await future

    def join(self) -> None:
        """Waits until all work is done."""
        for thread in list(self._threads):
            thread.join()


def check_writable(directory: Path) -> None:
    """Creates the folder if it is missing. Raises RefusedError when that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(
            f"cannot create the folder {directory}: {error.strerror}; set 'directory'"
        ) from error


def free_mebibytes(directory: Path) -> float:
    """Room on the disk of a folder [MiB]."""
    return shutil.disk_usage(directory).free / MEBIBYTE


def check_room(directory: Path, minimum: float, size: int) -> None:
    """Raises RefusedError unless `minimum` [MiB] would be free beside `size` [bytes]."""
    free = free_mebibytes(directory) - size / MEBIBYTE
    if free < minimum:
        raise RefusedError(
            f"only {max(free, 0.0):.0f} MiB would be left on the disk of {directory}: free some, "
            "or lower 'minimum_free_space'"
        )
