"""Removes what a killed process left half made in shared memory, before this one joins the graph.

Fast DDS makes its ports and buffers as files of shared memory. One that is killed in the midst of
it leaves a file whose first word never says "ready", and the next process that is given this port
waits for that word for ever, with Python's global lock held: no log line comes, and no signal is
answered (Boost.Interprocess, `managed_open_or_create_impl`; Fast DDS 2.14, `open_port_internal`).
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.signals import SignalHandlerOptions

SEGMENT_NAME = re.compile(r"(fastrtps|fastdds)_(port\d+|[0-9a-f]{16})")
READY = 2  # the first word of a whole segment, and 3 of one that Fast DDS itself gives up
FIRST_WORD = 4  # [bytes]
# Making a segment takes well under a millisecond; one that is older than this is nobody's work.
UNFINISHED_AFTER = 1.0


def join_graph(arguments: list[str] | None = None, context: Context | None = None) -> None:
    """Calls `rclpy.init`, without its signal handlers, once nothing half made can hang it.

    arguments: of ROS, for the whole process; those of the command line unless given.
    context: to initialise; the process's own unless given.
    """
    removed = remove_half_made_segments()
    rclpy.init(args=arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    if removed:
        rclpy.logging.get_logger("shared_memory").warning(
            f"removed {len(removed)} segments that a killed process left half made"
            f" ({removed[0]} the first)"
        )


def remove_half_made_segments(folder: Path = Path("/dev/shm")) -> list[str]:
    """Removes the segments that nobody finishes; returns their names, in order.

    folder: where the system keeps shared memory; one that does not exist has none. Waits for
    segments that were begun within the last second (`UNFINISHED_AFTER`) until they are made or
    older. What belongs to other users, and cannot be read or removed, is left alone.
    """
    removed = []
    for path in _segments(folder):
        try:
            while not _is_made(path):
                age = time.time() - path.stat().st_mtime
                # A clock that was set back makes a file of the future; it has had its time, too.
                if not 0 <= age < UNFINISHED_AFTER:
                    path.unlink()
                    removed.append(path.name)
                    break
                time.sleep(UNFINISHED_AFTER / 20)
        except OSError:  # gone meanwhile, or another user's
            continue
    return removed


def _segments(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if SEGMENT_NAME.fullmatch(path.name))
    except OSError:
        return []


def _is_made(path: Path) -> bool:
    with path.open("rb") as file:
        return int.from_bytes(file.read(FIRST_WORD), "little") >= READY
