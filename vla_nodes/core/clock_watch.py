"""Reports on /diagnostics that a node's clock jumped: set by hand, by NTP, or a simulator's."""

from __future__ import annotations

import time

from vla.core.clock import ClockSteps

# Where all of ROS looks for simulated time unless it is remapped.
CLOCK_TOPIC = "/clock"
# How often the clock is checked [s].
PERIOD = 0.1


class ClockWatch:
    """Watches the node's clock until the entities that were made with it are destroyed."""

    def __init__(self, node):
        """node: a ManagedNode; the timer is destroyed with its other entities."""
        self._node = node
        self._steps = ClockSteps()
        node.create_steady_timer(PERIOD, self._look)

    def _look(self) -> None:
        now = self._node.get_clock().now().nanoseconds * 1e-9
        if step := self._steps.note(now, time.monotonic()):
            self._node.diagnostics.report(
                "clock_jump",
                f"the clock jumped {'ahead' if step > 0 else 'back'} by {abs(step):.1f} s: was it "
                "set, or the simulator restarted? Earlier inputs are no longer used",
            )
