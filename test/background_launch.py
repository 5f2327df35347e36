"""A launch file running in the background."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
# The launcher brings everything down within 7 s; a little more for a loaded machine.
STOP_TIMEOUT = 10.0


class BackgroundLaunch:
    """A running launch: its output so far, its nodes' process ids, and a way to stop it.

    Made by `start_launch`. As a context manager it stops the launch at the end of the block.
    """

    def __init__(self, process: subprocess.Popen, log: Path | None) -> None:
        self.process = process
        self.lines: list[str] = []
        self._log = log
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> BackgroundLaunch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self.process.stdout is not None
        file = self._log.open("a") if self._log is not None else None
        for line in self.process.stdout:
            if file is not None:
                file.write(line)
                file.flush()
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        if file is not None:
            file.close()
        with self._changed:
            self._changed.notify_all()

    def running(self) -> bool:
        """Say whether the launcher is still there."""
        return self.process.poll() is None

    def wait_for(self, pattern: str, timeout: float, start: int = 0) -> str:
        """Return the first output line, from line number `start` on, that matches a pattern.

        Raises `TimeoutError` with the last lines when none comes within `timeout` seconds, or
        when the launch ends before one comes.
        """
        deadline = time.monotonic() + timeout
        expression = re.compile(pattern)
        position = start
        with self._changed:
            while True:
                for line in self.lines[position:]:
                    position += 1
                    if expression.search(line):
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    last = "\n".join(self.lines[-20:])
                    raise TimeoutError(f"no line matches '{pattern}'; the last ones are:\n{last}")
                # The bound covers the end of the reader, which nothing announces afterwards.
                self._changed.wait(min(left, 0.2))

    def node_process(self, executable: str) -> int | None:
        """Return the process id of the newest process of an executable, or None.

        `executable` is the name without its number: `controller` for `[controller-4]`.
        """
        started = re.compile(
            rf"^\[INFO\] \[{re.escape(executable)}-\d+\]: process started with pid \[(\d+)\]"
        )
        with self._changed:
            found = [match for match in map(started.match, self.lines) if match]
        return int(found[-1].group(1)) if found else None

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """Stop everything as Ctrl-C does and return the exit status of the launch.

        Whatever is left after `timeout` seconds is killed.
        """
        if self.running():
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(timeout)
        return self.process.returncode


def start_launch(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> BackgroundLaunch:
    """Start a launch file in a process of its own.

    Args:
        arguments: as on the command line after `vla launch`, for example
            `["vla_ros", "sim.launch.xml", "record:=true"]`.
        environment: environment variables; those of this process when None.
        log: a file that the output is appended to.
    """
    # Not PYTHONPATH, which the nodes would inherit and find this copy of the packages by.
    code = (
        f"import sys; sys.path.insert(0, {str(_ROOT)!r}); "
        "from vla_nodes.launcher import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    return BackgroundLaunch(process, log)
