"""The latest value wins: a slot that holds one value, and a worker thread that empties it.

    self.worker = Worker("reasoning", self.think, self.on_error)
    self.worker.start()
    self.worker.put(observation)    # from a callback: returns at once, replaces what still waits
    self.worker.stop()              # waits for the value in work

A model that is slower than its input thus always works on the newest value and never queues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """A slot for one value, safe between threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._value: T | None = None
        self._fresh = False
        self._closed = False

    def put(self, value: T) -> bool:
        """Stores `value`. Returns whether it replaced one that was not taken."""
        with self._condition:
            replaced, self._value, self._fresh = self._fresh, value, True
            self._condition.notify()
        return replaced

    def get(self) -> T | None:
        """The newest value, taken or not; None before the first."""
        with self._condition:
            return self._value

    def take(self, timeout: float | None = None) -> T | None:
        """Waits for a value that was not taken yet; None after `timeout` [s] or once closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._fresh or self._closed, timeout)
            if self._closed or not self._fresh:
                return None
            self._fresh = False
            return self._value

    def clear(self) -> None:
        """Forgets the value."""
        with self._condition:
            self._value, self._fresh = None, False

    def close(self) -> None:
        """Wakes all waiting calls of `take`; no value is returned any more."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class Worker(Generic[T]):
    """A thread that calls `function` with the newest value put in, one at a time.

    on_error: called in the thread with any exception of `function`; the thread goes on.
    """

    def __init__(
        self, name: str, function: Callable[[T], None], on_error: Callable[[Exception], None]
    ):
        self._name = name
        self._function = function
        self._on_error = on_error
        self._slot: Latest[T] = Latest()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread. A worker that was stopped can be started again."""
        self._slot = Latest()
        self._thread = threading.Thread(
            target=self._loop, args=(self._slot,), name=self._name, daemon=True
        )
        self._thread.start()

    def put(self, value: T) -> bool:
        """Hands over `value`. Returns whether it replaced one that was still waiting."""
        return self._slot.put(value)

    def clear(self) -> None:
        """Drops the value that waits, if any; the one in work is not interrupted."""
        self._slot.clear()

    def stop(self, timeout: float | None = None) -> bool:
        """Ends the thread after the value in work; False when `timeout` [s] was too short."""
        self._slot.close()
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _loop(self, slot: Latest[T]) -> None:
        while (value := slot.take()) is not None:
            try:
                self._function(value)
            except Exception as error:
                self._on_error(error)
