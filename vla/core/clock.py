"""How far clocks may differ, in one place for all inputs. No ROS."""

from __future__ import annotations

# A stamp further ahead of our clock than this [s] is refused: its clock differs, or it is forged.
# Far above the error of NTP or PTP, and the latency of simulated time.
CLOCK_TOLERANCE = 0.2
# A clock that jumps back, or ahead of the steady clock, by more than this was set, or belongs to a
# simulator that restarted [s].
CLOCK_STEP = 0.5


def from_future(seconds: float) -> str:
    """The words for a stamp that is so far ahead of our clock [s], and what to do."""
    return (
        f"{min(seconds, 1e9):.3g} s in the future: do all nodes use the same clock (use_sim_time), "
        "and are the clocks of all machines synchronised?"
    )


class ClockSteps:
    """Detects jumps of a clock by comparison with a steady one."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def note(self, now: float, steady: float) -> float:
        """Takes both clocks [s]; returns by how much the first has jumped, 0.0 when it has not.

        Call it several times a second. Simulated time may be slow, stand still, or run up to six
        times as fast as the steady clock; before its first message it is 0.
        """
        before, self._before = self._before, (now, steady)
        if before is None or before[0] == 0.0:
            return 0.0
        way, passed = now - before[0], steady - before[1]
        return way - passed if not -CLOCK_STEP <= way <= passed + CLOCK_STEP else 0.0
