"""Runs the processes of a launch: starts, reports, respawns, and brings all of them down."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from vla_nodes.launcher.output import Output
from vla_nodes.launcher.process import ProcessDescription

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a process may end with after it was asked to end by SIGINT or SIGTERM.
_CLEAN_STOPS = {0, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}


@dataclass
class _Stream:
    name: str
    rest: bytes = b""


@dataclass
class _Child:
    description: ProcessDescription
    process: subprocess.Popen | None = None
    streams: dict[int, _Stream] = field(default_factory=dict)
    respawn_at: float | None = None
    respawns: int = 0
    # Signals still to come while it is brought down, with the time of each.
    escalation: list[tuple[float, signal.Signals]] = field(default_factory=list)


class Runner:
    """One launch. Every process leads a session of its own, so that its children end with it."""

    def __init__(self, descriptions: list[ProcessDescription], output: Output) -> None:
        self._children = [_Child(description) for description in descriptions]
        self._output = output
        self._selector = selectors.DefaultSelector()
        self._guardian: subprocess.Popen | None = None
        self._stopping = False
        self._stop_requests = 0
        self._exit_status = 0

    def run(self) -> int:
        """Run until every process has ended.

        Returns 0 when all ended cleanly or were stopped cleanly by SIGINT, SIGTERM or SIGHUP;
        otherwise the exit status of the first process that failed, 128 plus its number for a
        signal. Must be called on the main thread.
        """
        wake_up, wake_up_write = os.pipe()
        for descriptor in (wake_up, wake_up_write):
            os.set_blocking(descriptor, False)
        handled = (*_STOP_SIGNALS, signal.SIGCHLD)
        previous = {number: signal.signal(number, _wake_only) for number in handled}
        previous_descriptor = signal.set_wakeup_fd(wake_up_write, warn_on_full_buffer=False)
        self._selector.register(wake_up, selectors.EVENT_READ)
        # The write end of a pipe becomes readable only when its reader has gone.
        reader = self._output.reader_descriptor()
        if reader is not None:
            self._selector.register(reader, selectors.EVENT_READ)
        try:
            self._start_guardian()
            for child in self._children:
                self._start(child)
            while any(child.process or child.respawn_at for child in self._children):
                self._wait(wake_up)
                self._reap()
                self._fire_timers()
                if self._output.broken and not self._stopping:
                    self._stop("the reader of the output has gone")
        finally:
            self._kill_everything()
            signal.set_wakeup_fd(previous_descriptor)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(wake_up)
            os.close(wake_up_write)
        return self._exit_status

    def _start_guardian(self) -> None:
        script = Path(__file__).with_name("guardian.py")
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _tell_guardian(self, line: str) -> None:
        if self._guardian is not None and self._guardian.stdin is not None:
            with contextlib.suppress(OSError):
                self._guardian.stdin.write(line.encode() + b"\n")
                self._guardian.stdin.flush()

    def _start(self, child: _Child) -> None:
        what = child.description
        child.respawn_at = None
        command = " ".join(what.command) if what.shell else list(what.command)
        try:
            child.process = subprocess.Popen(
                command,
                shell=what.shell,
                cwd=what.working_directory,
                env=what.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            self._output.report("ERROR", what.label, f"could not be started: {error}")
            self._failed(127)
            self._after_exit(child, may_respawn=False)
            return
        self._tell_guardian(f"+{child.process.pid}")
        for name in ("stdout", "stderr"):
            pipe = getattr(child.process, name)
            os.set_blocking(pipe.fileno(), False)
            child.streams[pipe.fileno()] = _Stream(name)
            self._selector.register(pipe.fileno(), selectors.EVENT_READ, child)
        self._output.report("INFO", what.label, f"process started with pid [{child.process.pid}]")

    def _wait(self, wake_up: int) -> None:
        times = [child.respawn_at for child in self._children if child.respawn_at is not None]
        times += [child.escalation[0][0] for child in self._children if child.escalation]
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        for key, _ in self._selector.select(timeout):
            if key.fd == wake_up:
                with contextlib.suppress(BlockingIOError):
                    for number in os.read(wake_up, 4096):
                        if number in _STOP_SIGNALS:
                            self._stop_requested(signal.Signals(number))
            elif key.data is None:
                self._selector.unregister(key.fd)
                self._output.abandon_screen()
            else:
                self._read(key.data, key.fd)

    def _read(self, child: _Child, descriptor: int) -> bool:
        """Take one chunk of output; returns False when there is none now, or no more."""
        stream = child.streams[descriptor]
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close_stream(child, descriptor)
            return False
        *lines, stream.rest = (stream.rest + data).split(b"\n")
        for line in lines:
            self._line(child, stream, line)
        return True

    def _line(self, child: _Child, stream: _Stream, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self._output.line(child.description.label, stream.name, text, child.description.output)

    def _close_stream(self, child: _Child, descriptor: int) -> None:
        stream = child.streams.pop(descriptor)
        if stream.rest:
            self._line(child, stream, stream.rest)
        self._selector.unregister(descriptor)
        if child.process is not None:
            getattr(child.process, stream.name).close()

    def _reap(self) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, child.process)

    def _ended(self, child: _Child, process: subprocess.Popen) -> None:
        # What the process left behind in its group would otherwise outlive it.
        _signal_group(process.pid, signal.SIGKILL)
        for descriptor in list(child.streams):
            while self._read(child, descriptor):
                pass
            if descriptor in child.streams:
                self._close_stream(child, descriptor)
        self._tell_guardian(f"-{process.pid}")
        child.process = None
        child.escalation.clear()
        label, code = child.description.label, process.returncode
        if code == 0 or (self._stopping and code in _CLEAN_STOPS):
            self._output.report("INFO", label, f"process has finished cleanly [pid {process.pid}]")
        else:
            how = f"exit code {code}"
            if code < 0:
                how += f" ({_signal_name(-code)})"
            command = " ".join(child.description.command)
            self._output.report(
                "ERROR", label, f"process has died [pid {process.pid}, {how}, cmd '{command}']."
            )
            if self._stopping or not child.description.respawn:
                self._failed(code if code > 0 else 128 - code)
        self._after_exit(child, may_respawn=True)

    def _failed(self, status: int) -> None:
        if self._exit_status == 0:
            self._exit_status = status

    def _after_exit(self, child: _Child, may_respawn: bool) -> None:
        what = child.description
        if self._stopping:
            return
        if what.shutdown_on_exit:
            self._stop(f"process [{what.label}] was required")
            return
        if not what.respawn or not may_respawn:
            return
        if 0 <= what.respawn_max_retries <= child.respawns:
            self._output.report("ERROR", what.label, "it has died too often: no more respawns")
            self._failed(1)
            return
        child.respawns += 1
        child.respawn_at = time.monotonic() + what.respawn_delay
        self._output.report("WARNING", what.label, f"respawning in {what.respawn_delay:g} s")

    def _stop_requested(self, number: signal.Signals) -> None:
        self._stop_requests += 1
        if self._stop_requests == 1:
            self._stop(f"received {number.name}")
            return
        # An impatient user gets the next step at once.
        for child in self._children:
            if child.escalation:
                child.escalation[0] = (time.monotonic(), child.escalation[0][1])

    def _stop(self, reason: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._output.report("INFO", "launch", f"shutting down: {reason}")
        now = time.monotonic()
        for child in self._children:
            child.respawn_at = None
            if child.process is not None:
                sigterm_at = now + child.description.sigterm_timeout
                sigkill_at = sigterm_at + child.description.sigkill_timeout
                child.escalation = [(sigterm_at, signal.SIGTERM), (sigkill_at, signal.SIGKILL)]
                _signal_group(child.process.pid, signal.SIGINT)

    def _fire_timers(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.respawn_at is not None and child.respawn_at <= now:
                self._start(child)
            if child.escalation and child.escalation[0][0] <= now and child.process is not None:
                _, number = child.escalation.pop(0)
                self._output.report(
                    "ERROR", child.description.label, f"process did not end: sending {number.name}"
                )
                _signal_group(child.process.pid, number)

    def _kill_everything(self) -> None:
        for child in self._children:
            if child.process is not None:
                _signal_group(child.process.pid, signal.SIGKILL)
                child.process.wait()
                self._tell_guardian(f"-{child.process.pid}")
        if self._guardian is not None:
            self._guardian.communicate()


def _wake_only(number: int, frame: object) -> None:
    """Stand in for a handler: the number arrives through the wake-up descriptor."""


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _signal_name(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"
