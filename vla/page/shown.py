"""What the operator page shows of a running graph, as plain values for its JSON.

Messages only need the attributes of their `.msg`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from vla.control.session import HoldReason, State
from vla.core.text import escape_unseen
from vla.observations.streams import camera_stream

# A limit is shown as intervening for this long after it last did [s].
INTERVENING = 2.0
LEVELS = ("ok", "warn", "error", "stale")
# Nodes report their diagnostics once in this time [s].
REPORT_PERIOD = 1.0
# A node that has reported nothing for so long is shown as silent [s].
SILENT_AFTER = 3.5


def number(value: float, digits: int = 3) -> float | None:
    """A number that JSON can hold; None for NaN and infinity."""
    return round(value, digits) if math.isfinite(value) else None


def policy_values(status: Any, mode: str) -> dict[str, Any]:
    """What the policy was told, does, and why it holds. mode: of the instruction in force."""
    return {
        "state": _name(State, status.state),
        "reason": "" if not status.hold_reason else _name(HoldReason, status.hold_reason),
        "message": escape_unseen(status.message),
        "instruction": escape_unseen(status.instruction),
        "mode": mode if status.instruction_id else "",
        "settled": bool(status.settled),
        "accepted": int(status.chunks_accepted),
        "rejected": int(status.chunks_rejected),
        "limited": int(status.limited_steps),
        "execution": status.execution_mode,
        "chunk_age": number(status.chunk_age),
    }


def _name(kind: type[State] | type[HoldReason], value: int) -> str:
    try:
        return kind(value).name.lower().replace("_", " ")
    except ValueError:
        return f"unknown ({value})"


class LimitWatch:
    """Which limits of the safety stage intervened, and which do so now."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._last: dict[str, float] = {}

    def update(self, reasons: Sequence[str], counts: Sequence[int], now: float) -> None:
        """Takes the counts of a status. now: of a steady clock [s]."""
        for reason, count in zip(reasons, counts, strict=False):
            if count > self._counts.get(reason, 0):
                self._last[reason] = now
            self._counts[reason] = int(count)

    def values(self, now: float) -> list[dict[str, Any]]:
        """The limits that ever intervened, those that do so now first."""
        found = [
            {
                "reason": escape_unseen(reason),
                "count": count,
                "now": now - self._last.get(reason, -math.inf) < INTERVENING,
            }
            for reason, count in self._counts.items()
            if count
        ]
        return sorted(found, key=lambda entry: (not entry["now"], -entry["count"]))


class DiagnosticsWatch:
    """The newest diagnostic of each node of a namespace."""

    def __init__(self, namespace: str = ""):
        """namespace: without slashes around it; those of other nodes are left out."""
        self._prefix = f"{namespace}/" if namespace else ""
        self._newest: dict[str, tuple[float, Any]] = {}

    def update(self, statuses: Sequence[Any], now: float) -> None:
        """Takes what a message of /diagnostics holds. now: of a steady clock [s]."""
        for status in statuses:
            # "NODE: TASK", as diagnostic_updater names them.
            name = status.name.partition(":")[0].lstrip("/")
            if name.startswith(self._prefix) and "/" not in name[len(self._prefix) :]:
                self._newest[name[len(self._prefix) :]] = (now, status)

    def values(self, now: float) -> list[dict[str, Any]]:
        """Level, sentence and figures of each node, by name."""
        return [
            {
                "node": escape_unseen(name),
                "level": self._level(name, now),
                "message": escape_unseen(self._message(name, now)),
                "values": [
                    [escape_unseen(entry.key), escape_unseen(entry.value)]
                    for entry in self._newest[name][1].values
                ],
            }
            for name in sorted(self._newest)
        ]

    def stages(self, reference_camera: str) -> list[dict[str, Any]]:
        """Median delays [ms] from light to command, in their order; those that are known.

        "camera" is from the stamp of the image to its arrival, the others from a node's input to
        its output. "reasoning" runs beside the rest.
        """
        age = self._figure("perception", f"age_{camera_stream(reference_camera)}_p50_ms")
        perception = self._figure("perception", "latency_p50_ms")
        camera = None if age is None or perception is None else max(0.0, age - perception)
        found = {
            "camera": camera,
            "perception": perception,
            "action expert": self._figure("action_expert", "latency_p50_ms"),
            "control": self._figure("controller", "latency_p50_ms"),
            "reasoning": self._figure("reasoning", "latency_p50_ms"),
            "light to command": self._figure("controller", "age_observation_p50_ms"),
        }
        return [
            {"stage": name, "ms": round(value, 1)}
            for name, value in found.items()
            if value is not None
        ]

    def heard_at(self, node: str) -> float:
        """When a node's newest diagnostic came, by the clock of update(); -inf without one."""
        return self._newest[node][0] if node in self._newest else -math.inf

    def value(self, node: str, key: str) -> str:
        """One value of a node's newest diagnostic; "" without it."""
        entry = self._newest.get(node)
        return (
            next((each.value for each in entry[1].values if each.key == key), "") if entry else ""
        )

    def _figure(self, node: str, key: str) -> float | None:
        try:
            return number(float(self.value(node, key)))
        except ValueError:
            return None

    def _level(self, name: str, now: float) -> str:
        time, status = self._newest[name]
        # rclpy has a level of one byte, a recorded one is a number.
        level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
        return "silent" if now - time > SILENT_AFTER else LEVELS[min(level, len(LEVELS) - 1)]

    def _message(self, name: str, now: float) -> str:
        time, status = self._newest[name]
        return f"silent for {now - time:.0f} s" if now - time > SILENT_AFTER else status.message


class RecentAnswers:
    """The last answers of the policy, the newest first."""

    def __init__(self, most: int = 10):
        """most: that are kept."""
        self._answers: deque[dict[str, Any]] = deque(maxlen=most)

    def add(self, response: Any) -> None:
        """Takes a message of vla/response."""
        entry = {
            "prompt": escape_unseen(response.prompt),
            "text": escape_unseen(response.text),
            "seconds": number(response.inference_time),
        }
        # A text that is generated again for the same instruction takes the earlier one's place.
        if self._answers and self._answers[0]["prompt"] == entry["prompt"]:
            self._answers.popleft()
        self._answers.appendleft(entry)

    def values(self) -> list[dict[str, Any]]:
        """As JSON shows them."""
        return list(self._answers)


class RecordingWatch:
    """Which episode is being recorded, by the recorder's events and, should it die, diagnostics."""

    def __init__(self) -> None:
        self._running, self._message, self._changed = "", "", -math.inf

    def update(self, event: Any, now: float) -> None:
        """Takes a message of vla/episode. now: of a steady clock [s]."""
        name = escape_unseen(event.episode_id)
        self._changed = now
        if event.event in (event.STARTED, event.SUBTASK):
            self._running, self._message = name, ""
        elif event.event in (event.STOPPED, event.DISCARDED, event.FAILED):
            self._running = ""
            self._message = escape_unseen(event.message)

    def values(self, diagnostics: DiagnosticsWatch, now: float) -> dict[str, Any]:
        """As JSON shows it. now: of the same clock."""
        heard = diagnostics.heard_at("recorder")
        running, message = self._running, self._message
        if running and now - max(heard, self._changed) > SILENT_AFTER:
            running, message = "", f"the recorder is silent; {running} may have ended"
        elif running and heard - self._changed > REPORT_PERIOD:
            running = diagnostics.value("recorder", "episode")
            message = "" if running else f"{self._running} ended with its recorder"
        return {"episode": running, "message": message}
