"""Ends the nodes when the launcher itself is killed. Run as a script, by the launcher only.

Reads lines `+GROUP` and `-GROUP` from standard input, which name process groups that started
and ended. When the input closes while groups are left, the launcher is gone: they get SIGINT,
then SIGTERM, then SIGKILL.
"""

import os
import signal
import sys
import time

STEPS = ((signal.SIGINT, 5.0), (signal.SIGTERM, 1.5), (signal.SIGKILL, 0.0))


def send(groups: set, number: int) -> set:
    """Signal every group; return those that still exist."""
    left = set()
    for group in groups:
        try:
            os.killpg(group, number)
            left.add(group)
        except OSError:
            pass
    return left


def main() -> None:
    """Follow the launcher's groups, and end what is left of them after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for number, patience in STEPS:
        groups = send(groups, number)
        deadline = time.monotonic() + patience
        while groups and time.monotonic() < deadline:
            time.sleep(0.02)
            groups = send(groups, 0)


if __name__ == "__main__":
    main()
