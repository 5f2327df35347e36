"""A thread that calls a function at a fixed rate of the steady clock, and measures how well."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from vla_nodes.core.diagnostics import percentiles

# A loop that catches up skips a backlog of more than this [s].
LARGEST_BACKLOG = 0.1
WINDOW = 5.0


class PacedLoop:
    """Calls `step` every `period` seconds in its own thread.

    on_error: called with an exception of `step` or `teardown`, which ends the loop. setup,
    teardown: called in the thread before the first step and after the last, for what belongs to a
    thread (a rendering context). catch_up: whether late steps follow each other at once, as
    simulated time needs; otherwise missed ones are left out.
    """

    def __init__(
        self,
        name: str,
        period: float,
        step: Callable[[], None],
        on_error: Callable[[Exception], None],
        setup: Callable[[], None] = lambda: None,
        teardown: Callable[[], None] = lambda: None,
        catch_up: bool = False,
    ):
        self._period, self._catch_up = period, catch_up
        self._step, self._setup, self._teardown = step, setup, teardown
        self._on_error = on_error
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Steady time at the end of each step within the window.
        self._ends: deque[float] = deque()

    def start(self) -> None:
        """Starts the thread and waits for `setup`; raises what `setup` raised."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self, wait: bool = True) -> None:
        """Ends the loop and, unless wait is False, waits for `teardown`."""
        self._stop.set()
        if wait:
            self._thread.join()

    @property
    def stopping(self) -> bool:
        """Whether stop() was called."""
        return self._stop.is_set()

    def real_time_factor(self) -> float:
        """Steps done over steps due in the last 5 s; 1 when on time, 0 before two steps."""
        ends = list(self._ends)
        if len(ends) < 2 or ends[-1] <= ends[0]:
            return 0.0
        return (len(ends) - 1) * self._period / (ends[-1] - ends[0])

    def _run(self) -> None:
        try:
            self._setup()
        except Exception as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        try:
            self._loop()
        except Exception as error:
            self._on_error(error)
        finally:
            try:
                self._teardown()
            except Exception as error:
                self._on_error(error)

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._step()
            now = time.monotonic()
            self._ends.append(now)
            while now - self._ends[0] > WINDOW:
                self._ends.popleft()
            due += self._period
            if not self._catch_up and now > due:
                due += math.ceil((now - due) / self._period) * self._period
            elif now - due > LARGEST_BACKLOG:
                due = now
            if due > now:
                self._stop.wait(due - now)


class PeriodMeter:
    """Measures how evenly something is called: periods of the last WINDOW seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def note(self, now: float) -> None:
        """Notes a call at `now` [s]."""
        self._times.append(now)
        while now - self._times[0] > WINDOW:
            self._times.popleft()

    def summary(self, period: float) -> dict[str, str]:
        """How far periods lie from `period` [s], as diagnostics give it; nothing before two."""
        jitter = np.abs(np.diff(self._times) - period)
        values = percentiles("period_jitter", jitter)
        if len(jitter):
            values["period_jitter_max_ms"] = f"{1e3 * jitter.max():.2f}"
        return values
