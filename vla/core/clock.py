"""How far clocks may differ, in one place for all inputs. Free of ROS."""

from __future__ import annotations

# A stamp that is further ahead of our clock than this [s] is refused: it comes from a clock that
# differs, or is forged. Much more than a clock that is synchronised by NTP or PTP is off, and than
# simulated time takes on its way.
CLOCK_TOLERANCE = 0.2
# A clock that goes back, or ahead of the steady clock, by more than this at once was set, or is
# that of a simulator which restarted [s].
CLOCK_STEP = 0.5


def from_future(seconds: float) -> str:
    """How to say that a stamp is so far ahead of our clock [s], and what to do."""
    return (
        f"{min(seconds, 1e9):.3g} s in the future: do all nodes use the same clock (use_sim_time), "
        "and are the clocks of all machines synchronised?"
    )


class ClockSteps:
    """Notices that a clock jumps, by comparison with a steady one."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def note(self, now: float, steady: float) -> float:
        """Takes both clocks [s]; returns by how much the first has jumped, 0.0 when it has not.

        To be called several times a second. Simulated time may be slow, stand still, or run up to
        six times as fast as the steady clock; before its first message it is 0.
        """
        before, self._before = self._before, (now, steady)
        if before is None or before[0] == 0.0:
            return 0.0
        way, passed = now - before[0], steady - before[1]
        return way - passed if not -CLOCK_STEP <= way <= passed + CLOCK_STEP else 0.0
