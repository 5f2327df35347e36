"""An end that nothing holds up, not even a thread that keeps Python's lock.

In one of twenty graphs that a launcher interrupted, the controller came to rest and then hung while
it was leaving the graph, until it was killed.
"""

from __future__ import annotations

import ctypes
import time

# Of glibc: what a timer does when it expires, and a system call's clock.
_CALL_IN_THREAD = 2  # SIGEV_THREAD


class _Notification(ctypes.Structure):
    """`struct sigevent` of a 64-bit system."""

    _fields_ = (
        ("value", ctypes.c_uint64),  # what the function is called with
        ("signal", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("unused", ctypes.c_int * 8),
    )


class _Setting(ctypes.Structure):
    """`struct itimerspec`: seconds and nanoseconds between expirations, and until the first."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every", "every_ns", "first", "first_ns"))


def end_after(seconds: int) -> None:
    """Ends this process after that time, with status 0, unless it has ended by then.

    The system calls `_exit` in a thread of its own, without Python. Raises OSError where it has no
    timer to give.
    """
    system = ctypes.CDLL(None, use_errno=True)
    leave = ctypes.cast(system._exit, ctypes.c_void_p)
    notification, timer = _Notification(kind=_CALL_IN_THREAD, function=leave), ctypes.c_void_p()
    clock = ctypes.c_int(time.CLOCK_MONOTONIC)
    if system.timer_create(clock, ctypes.byref(notification), ctypes.byref(timer)) or (
        system.timer_settime(timer, 0, ctypes.byref(_Setting(first=seconds)), None)
    ):
        raise OSError(ctypes.get_errno(), "the system gives no timer")
