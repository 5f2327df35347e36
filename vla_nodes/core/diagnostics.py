"""What every node says about itself on /diagnostics, once a second.

    node.diagnostics.output(latency)            # one result went out, `latency` seconds after input
    node.diagnostics.input_age("latent", age)   # how old an input was when it was used [s]
    node.diagnostics.drop("replaced")           # an input was not used, which is normal
    node.diagnostics.report("bad_image", text)  # something is wrong: counted, logged at most every
                                                # 5 s, shown until 2 s after it last happened
    node.diagnostics.fault(text) / .fault(None) # the node cannot work until the cause is fixed
    node.diagnostics.values["checkpoint"] = "…" # any further key
    node.diagnostics.checks.append(function)    # called before each message, to look for silence

The level is ERROR with a fault or a recent report of that level, WARN with a recent warning, else
OK. Texts become one line each, of bounded length (see vla.core.text). Everything may be called from
any thread. Names follow diagnostic_updater: "controller: motion" is the node and its task.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from vla.core.text import LONGEST_LINE, LONGEST_VALUE, one_line
from vla_nodes.core.qos import DIAGNOSTICS

PERIOD = 1.0
WINDOW = 5.0
REPORT_SHOWN = 2.0
LOG_PERIOD = 5.0
# What diagnostic_updater says of nodes without hardware.
NO_HARDWARE = "none"

WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR


@dataclass
class _Report:
    """The newest report of one reason; times are of the steady clock [s]."""

    text: str
    level: bytes
    time: float
    logged: float


class Diagnostics:
    """Counts a node's results and problems, and publishes them at 1 Hz; see the module's text."""

    def __init__(
        self,
        node: Node,
        steady_time: Callable[[], float] = time.monotonic,
        task: str = "state",
        hardware_id: Callable[[], str] = lambda: NO_HARDWARE,
    ):
        """task: what the status is about, for its name. hardware_id: which robot it is about."""
        self._node = node
        self._task, self._hardware_id = task, hardware_id
        self._steady_time = steady_time
        self._lock = threading.Lock()
        self._outputs: deque[tuple[float, float]] = deque()
        self._ages: dict[str, deque[tuple[float, float]]] = {}
        self._drops: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._reports: dict[str, _Report] = {}
        self._fault: str | None = None
        self._started = steady_time()
        self.values: dict[str, str] = {}
        self.checks: list[Callable[[], None]] = []
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", DIAGNOSTICS)
        # On the steady clock, so that the node still reports when simulated time stands still.
        self._timer = node.create_timer(
            PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def output(self, latency: float = math.nan) -> None:
        """Counts one result, published `latency` seconds after its input was there."""
        with self._lock:
            self._outputs.append((self._steady_time(), latency))

    def input_age(self, name: str, age: float) -> None:
        """Notes how old [s] the input `name` was when it was used."""
        with self._lock:
            self._ages.setdefault(name, deque()).append((self._steady_time(), age))

    def drop(self, reason: str, count: int = 1) -> None:
        """Counts inputs that were not used although nothing is wrong with them."""
        with self._lock:
            self._drops[reason] += count

    def report(self, reason: str, text: str, level: bytes = ERROR) -> None:
        """Reports a problem: a word to count it by, and a sentence for people."""
        now, text = self._steady_time(), one_line(text, LONGEST_LINE)
        with self._lock:
            self._counts[reason] += 1
            logged = self._reports[reason].logged if reason in self._reports else -math.inf
            log = now - logged >= LOG_PERIOD
            self._reports[reason] = _Report(text, level, now, now if log else logged)
        if log:
            # Two call sites, because rclpy remembers the severity of each.
            if level == ERROR:
                self._node.get_logger().error(text)
            else:
                self._node.get_logger().warning(text)

    def fault(self, text: str | None) -> None:
        """Sets or, with None, clears what keeps the node from working."""
        with self._lock:
            self._fault = None if text is None else one_line(text, LONGEST_LINE)

    def reset(self) -> None:
        """Forgets rates, ages, counts and reports, as when the node is activated again."""
        with self._lock:
            for record in (self._outputs, self._ages, self._drops, self._counts, self._reports):
                record.clear()
            self._started = self._steady_time()

    def count(self, reason: str) -> int:
        """How often `reason` was reported since the last reset."""
        with self._lock:
            return self._counts[reason]

    def status(self) -> DiagnosticStatus:
        """What is published: level, one sentence, and the figures as keys."""
        now = self._steady_time()
        with self._lock:
            _prune([self._outputs, *self._ages.values()], now - WINDOW)
            span = max(min(WINDOW, now - self._started), 1e-3)
            values = {"rate_hz": f"{len(self._outputs) / span:.2f}"}
            latencies = [latency for _, latency in self._outputs if not math.isnan(latency)]
            values |= percentiles("latency", latencies)
            for name, ages in sorted(self._ages.items()):
                values |= percentiles(f"age_{name}", [age for _, age in ages])
            values["drops"] = str(sum(self._drops.values()))
            values |= {f"drops_{reason}": str(n) for reason, n in sorted(self._drops.items())}
            values["errors"] = str(sum(self._counts.values()))
            values |= {f"errors_{reason}": str(n) for reason, n in sorted(self._counts.items())}
            values |= self.values
            recent = [r for r in self._reports.values() if now - r.time <= REPORT_SHOWN]
            fault = self._fault
        name = self._node.get_fully_qualified_name().lstrip("/")
        status = DiagnosticStatus(name=f"{name}: {self._task}", hardware_id=self._hardware_id())
        if fault is not None:
            status.level, status.message = ERROR, fault
        elif recent:
            status.level = max(report.level for report in recent)
            worst = [report for report in recent if report.level == status.level]
            worst.sort(key=lambda report: report.time, reverse=True)
            # All of them: what came first is often the cause of the others.
            status.message = one_line("; ".join(report.text for report in worst), LONGEST_LINE)
        else:
            status.level, status.message = DiagnosticStatus.OK, "ok"
        status.values = [
            KeyValue(key=key, value=one_line(value, LONGEST_VALUE)) for key, value in values.items()
        ]
        return status

    def publish(self) -> None:
        """Runs the checks and publishes the status; called by the timer."""
        for check in list(self.checks):
            check()
        message = DiagnosticArray(status=[self.status()])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def _prune(records: Iterable[deque[tuple[float, float]]], before: float) -> None:
    for record in records:
        while record and record[0][0] < before:
            record.popleft()


def percentiles(name: str, seconds: Sequence[float] | np.ndarray) -> dict[str, str]:
    """Median and 99th percentile of times [s] as diagnostics show them; nothing of no times."""
    if not len(seconds):
        return {}
    middle, high = np.percentile(seconds, [50, 99]) * 1e3
    return {f"{name}_p50_ms": f"{middle:.2f}", f"{name}_p99_ms": f"{high:.2f}"}
