"""Interrupts that wait for a safe moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collects signals that would raise KeyboardInterrupt in the list that it yields.

    For work that must not be cut in two, and checks the list where it may end. Outside the main
    thread, where no signal arrives, nothing changes.
    """
    noted: list[int] = []
    previous = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is signal.default_int_handler
        and threading.current_thread() is threading.main_thread()
    }
    for number in previous:
        signal.signal(number, lambda received, _: noted.append(received))
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
