"""Starts the simulator and all nodes for a command, and stops them when it ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cli.connection import require_ros
from vla_cli.errors import CommandError

if TYPE_CHECKING:
    from vla_nodes.client.demo import DemoClient

ACTIVE_TIMEOUT = 180.0
SHUTDOWN_TIMEOUT = 10.0


# Participants of a domain whose ports are looked at: the first of them may have ended.
PARTICIPANTS_LOOKED_AT = 10


def is_free(domain: int) -> bool:
    """Whether none of a domain's first participants runs on this machine."""
    for participant in range(PARTICIPANTS_LOOKED_AT):
        # DDS-RTPS: 7400 + 250 per domain, 10 is the first participant's unicast discovery port.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain + 10 + 2 * participant))
            except OSError:
                return False
    return True


def free_domain_id() -> int:
    """A ROS domain in which no participant of this machine has one of its first ports."""
    candidates = list(range(1, 100))
    random.shuffle(candidates)
    for domain in candidates:
        if is_free(domain):
            return domain
    raise CommandError("all ROS domains from 1 to 99 are in use on this machine; give --domain-id")


def enter_domain(domain_id: int | None) -> int:
    """Puts this process and its children into a separate ROS domain, and returns its number.

    Call it before the first import of ROS, which reads the environment once. Raises CommandError
    if ROS is not on the path.
    """
    domain = domain_id if domain_id is not None else free_domain_id()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    require_ros()
    return domain


@contextmanager
def driven_graph(
    launch_file: str, arguments: list[str], log: Path, namespace: str = ""
) -> Iterator[tuple[DemoClient, Callable[[], None]]]:
    """Runs a launch file; gives a client once all nodes are active, and a check that they run.

    arguments: NAME:=VALUE of the launch file. log: file for the output of the nodes. namespace: of
    the graph. Raises CommandError when a node does not answer; the check does when the nodes have
    ended.
    """
    from vla_nodes.client.demo import DemoClient
    from vla_nodes.client.graph import UnreachableError

    if namespace:
        arguments = [*arguments, f"namespace:={namespace}"]
    with _running(launch_file, arguments, log) as still_running:
        try:
            with DemoClient(namespace=namespace) as client:
                client.wait_until_active(ACTIVE_TIMEOUT, still_running, lambda: _warm_ups(log))
                yield client, still_running
        except UnreachableError as error:
            raise CommandError(f"{error}; {_last_words(log)}", 1) from error


@contextmanager
def _running(launch_file: str, arguments: list[str], log: Path) -> Iterator[Callable[[], None]]:
    """Runs a launch file; gives a function that raises CommandError once it has ended."""
    command = [sys.executable, "-m", "vla_cli", "launch", launch_file, *arguments]
    # On SIGTERM, too, the nodes must be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with log.open("ab") as stream:
        # Its own session, so that Ctrl-C reaches the launcher only through us, after the bags are
        # closed.
        launcher = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )

        def still_running() -> None:
            if launcher.poll() is not None:
                raise CommandError(f"the nodes ended early; {_last_words(log)}", 1)

        try:
            yield still_running
        finally:
            _end(launcher)


def _end(launcher: subprocess.Popen) -> None:
    if launcher.poll() is None:
        launcher.send_signal(signal.SIGINT)
    try:
        launcher.wait(SHUTDOWN_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def _warm_ups(log: Path) -> int:
    """How many passes the nodes have compiled, which takes minutes the first time."""
    return log.read_bytes().count(b"warming up: ")


def _last_words(log: Path) -> str:
    """Where the nodes' output is, and its last line that says what went wrong."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    said = (errors or lines or ["nothing"])[-1].strip()
    return f"see {short(log)}, which says: {said}"


def short(path: Path) -> str:
    """The path as seen from here, if it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
