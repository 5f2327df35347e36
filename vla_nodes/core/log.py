"""The log of a node: one bounded line per call, whatever the strings in it, and tracebacks."""

from __future__ import annotations

import os
import traceback

from rclpy.impl import rcutils_logger

from vla.core.text import LONGEST_LINE, one_line

LONGEST_TRACEBACK = 60

# rclpy keys its state of a call by the calling line, which must not be in this file.
rcutils_logger._internal_callers.append(os.path.realpath(__file__))


class OneLineLogger(rcutils_logger.RcutilsLogger):
    """A logger whose lines cannot be split, coloured or flooded by a message."""

    def log(self, message: str, severity, **options) -> bool:
        """As rclpy's, with control characters escaped and the middle of a long line left out."""
        return super().log(one_line(message, LONGEST_LINE), severity, **options)

    def traceback(self, error: BaseException, **options) -> bool:
        """Logs where an exception came from, over several lines, as an error."""
        return super().log(traceback_text(error), rcutils_logger.LoggingSeverity.ERROR, **options)


def error_text(error: BaseException) -> str:
    """An exception's message, on one line; its type where it has none."""
    return one_line(error, LONGEST_LINE) or type(error).__name__


def traceback_text(error: BaseException) -> str:
    """Python's traceback of an exception, with each message on one line."""
    parts = [
        # Frames of the stack keep their lines; everything else is an exception's text.
        part.rstrip("\n") if part.startswith("  File ") else one_line(part, LONGEST_LINE)
        for part in traceback.format_exception(error)
    ]
    if len(parts) > LONGEST_TRACEBACK:
        half = LONGEST_TRACEBACK // 2
        parts = [*parts[:half], "  ...", *parts[-half:]]
    return "\n".join(parts)
