"""The process that a benchmark of another Python environment runs in, seen from here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla.core.shown import brief, shown_path
from vla.core.text import one_line
from vla.envs.base import EnvironmentFailure, SuiteError
from vla.envs.worker import served

KEPT_OUTPUT = 8192  # bytes of what the benchmark printed last
SHOWN_LINES = 5  # of that, in an error text
BLOCK = 1 << 20  # bytes that a pipe holds, and that are read at a time
# Where the source tree's `make NAME` puts the environment of a benchmark.
MADE = Path(__file__).resolve().parents[3] / "build" / "benchmarks"
# Of ours, for another Python environment nothing but wrong.
OWN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class WorkerCommand:
    """How a benchmark's process is started, and how long it may take."""

    benchmark: str  # its name, in error texts
    python: Path  # the interpreter
    adapter: Path  # see vla.envs.worker.served
    install: str  # the command that installs the benchmark, for an error text
    settings: dict[str, Any] = field(default_factory=dict)  # of the adapter's open_benchmark
    # Time until the benchmark is loaded, and for any later answer [s].
    start_seconds: float = 600.0
    answer_seconds: float = 120.0


class WorkerProcess:
    """A benchmark in a process of its own, which is started when it is first asked something.

    One that dies, is silent for too long or sends no message is ended; the next call starts
    another.
    """

    def __init__(self, command: WorkerCommand):
        self.command = command
        self._running: _Running | None = None

    def call(
        self,
        name: str,
        fields: dict[str, Any] | None = None,
        arrays: dict[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Has the benchmark run one of its adapter's calls; gives what it answers.

        Raises EnvironmentFailure when the process died, was silent, sent something else or says
        that the call failed; SuiteError when the benchmark can't be started here at all.
        """
        if self._running is None:
            self._start()
        return self._ask(name, fields or {}, arrays or {}, self.command.answer_seconds)

    def _start(self) -> None:
        command = self.command
        try:
            self._running = _Running(command)
        except OSError as error:
            raise SuiteError(
                f"cannot start {shown_path(command.python)}, in which benchmark "
                f"'{command.benchmark}' runs ({one_line(error.strerror or error)}): "
                f"{command.install}"
            ) from error
        self._ask("open", command.settings, {}, command.start_seconds)

    def _ask(
        self, name: str, fields: dict[str, Any], arrays: dict[str, np.ndarray], seconds: float
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        running = self._running
        assert running is not None
        deadline = time.monotonic() + seconds
        try:
            running.send(served.encode_message(name, fields, arrays), deadline)
            kind, answer, values = running.receive(deadline)
        except TimeoutError:
            raise self._failure(f"gave no answer to '{name}' within {seconds:g} s") from None
        except (EOFError, OSError):
            raise self._failure(f"ended while it was asked for '{name}'") from None
        except served.MessageError as error:
            raise self._failure(f"sent what is no message: {one_line(error)}") from error
        if kind == "done":
            return answer, values
        text = one_line(answer.get("error", ""))
        if kind == "missing":
            self.close()
            raise SuiteError(
                f"benchmark '{self.command.benchmark}' is not installed for "
                f"{shown_path(self.command.python)} ({text}): {self.command.install}"
            )
        what = f"failed at '{name}': {text}" if kind == "failed" else f"answered {brief(kind)}"
        failure = self._failure(what)
        # What can't be opened now can't be for the next episode.
        raise SuiteError(str(failure)) if name == "open" else failure

    def _failure(self, what: str) -> EnvironmentFailure:
        """Ends the process; the error that says what it did, and what it printed last."""
        running = self._running
        assert running is not None
        status = running.end()
        self._running = None
        said = f"benchmark '{self.command.benchmark}' {what}{status}"
        if printed := running.printed():
            said += f"; it printed last: {printed}"
        return EnvironmentFailure(said)

    @property
    def pid(self) -> int | None:
        """The number of the process; None as long as none runs."""
        return self._running.process.pid if self._running else None

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._running is not None:
            self._running.end()
            self._running = None


class _Running:
    """One process with its pipes."""

    def __init__(self, command: WorkerCommand):
        """Starts it. Raises OSError."""
        environment = {k: v for k, v in os.environ.items() if k not in OWN_VARIABLES}
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._ours = [ours_in, ours_out]
        arguments = [command.python, served.__file__, command.adapter, theirs_in, theirs_out]
        try:
            # Own descriptors carry the messages; what is printed goes where errors go. In a session
            # of its own, so that Ctrl-C reaches us alone and its children end with it.
            self.process = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs_in, theirs_out),
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            self._close_pipes()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        for pipe in self._ours:
            os.set_blocking(pipe, False)
            # An image at once, not in sixteen turns. Linux may allow less; smaller ones serve, too.
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, BLOCK)
        self._finalizer = weakref.finalize(self, _kill, self.process)
        self._received = bytearray()
        self._output = bytearray()
        self._printing = threading.Thread(
            target=_keep_last, args=(self.process.stdout, self._output), daemon=True
        )
        self._printing.start()

    def send(self, message: bytes, deadline: float) -> None:
        """Writes a message. Raises TimeoutError at the deadline (monotonic), or OSError."""
        left = memoryview(message)
        while left:
            self._wait(self._ours[1], select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self._ours[1], left[:BLOCK]) :]

    def receive(self, deadline: float) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
        """Kind, fields and arrays of the next message.

        Raises MessageError, EOFError, or TimeoutError at the deadline.
        """
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > served.MOST_HEADER:
                break
            self._read(deadline)
        kind, fields, specs = served.decode_header(
            bytes(self._received[: end + 1 if end >= 0 else None])
        )
        del self._received[: end + 1]
        size = served.array_bytes(specs)
        while len(self._received) < size:
            self._read(deadline)
        payload = bytes(self._received[:size])
        del self._received[:size]
        if self._received:
            raise served.MessageError(f"it goes on after its end: {bytes(self._received[:60])!r}")
        return kind, fields, served.decode_arrays(specs, payload)

    def _read(self, deadline: float) -> None:
        self._wait(self._ours[0], select.POLLIN, deadline)
        with contextlib.suppress(BlockingIOError):
            block = os.read(self._ours[0], BLOCK)
            if not block:
                raise EOFError
            self._received += block

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        """Returns when a pipe is ready. Raises TimeoutError at the deadline, EOFError at an end."""
        poll = select.poll()
        poll.register(descriptor, event)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            # A child of the benchmark may keep the pipe open after its end, so look at both.
            if poll.poll(min(1000.0, 1000 * left)):
                return
            if self.process.poll() is not None and not poll.poll(0):
                raise EOFError

    def end(self) -> str:
        """Ends the process and its children; how it had ended before, as a part of a sentence."""
        # A process whose pipe has just closed is about to end, and its status says more.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.2)
        status = self.process.returncode
        self._finalizer()
        self._close_pipes()
        self._printing.join(1.0)
        if status is None:
            return ""
        name = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f", by {name}" if status < 0 else f", with {name}"

    def _close_pipes(self) -> None:
        for descriptor in self._ours:
            os.close(descriptor)
        self._ours = []

    def printed(self) -> str:
        """The last lines of what it printed, on one line."""
        lines = bytes(self._output).decode("utf-8", "replace").split("\n")
        return one_line(" | ".join([line for line in lines if line.strip()][-SHOWN_LINES:]), 500)


def _kill(process: subprocess.Popen) -> None:
    # Its group lasts as long as one of its children, even when it has ended itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _keep_last(stream: Any, output: bytearray) -> None:
    """Reads a stream to its end, and keeps its last bytes."""
    with stream:
        while block := stream.read1(BLOCK):
            output += block
            del output[:-KEPT_OUTPUT]


def python_of(benchmark: str, given: str, install: str) -> Path:
    """The interpreter of a benchmark's environment.

    That is `given`, or what the environment variable VLA_NAME_PYTHON names, or what `make NAME`
    made in this source tree. Raises SuiteError with the command that makes it.
    """
    variable = f"VLA_{benchmark.upper()}_PYTHON"
    named = given or os.environ.get(variable, "")
    python = Path(named) if named else MADE / benchmark / "environment" / "bin" / "python"
    if os.access(python, os.X_OK) and python.is_file():
        return python
    what = f"has no interpreter {brief(named)}" if named else "is not there"
    raise SuiteError(
        f"benchmark '{benchmark}' runs in a Python environment of its own, which {what}: "
        f"{install}, or name its interpreter by {variable}"
    )
