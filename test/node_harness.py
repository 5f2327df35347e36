"""Runs real nodes as processes for the node tests, and looks at them over real DDS.

    with Graph() as graph:                                  # a ROS domain of its own
        node = graph.start("perception", contract="…")      # keywords are parameters ("a.b" too:
                                                            # parameters={"a.b": 1})
        graph.wait_state("perception", "active")
        images = graph.publisher(Image, "camera/front/image_raw", qos.SENSOR)   # waits for a reader
        seen = graph.collect(Observation, "vla/observation", qos.LATEST)        # a list that fills
        graph.wait(lambda: len(seen) >= 3, "three observations")
        status = graph.wait_diagnostic("perception", lambda s: "stale" in s.message)
        answer = graph.call(Trigger, "vla/stop", Trigger.Request())
        assert node.stop(signal.SIGINT) == 0                # exit status

    use_test_interfaces()                                   # control_msgs and others, see there
    robot = graph.start_robot("servo", halt_x=0.6)          # a process of test/robots

Every wait has a deadline and fails with what it waited for and what the nodes printed. Nothing here
sleeps a fixed time, but a graph whose process a test killed ends 2.5 s after that at the earliest.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

from vla_cli.graph import is_free
from vla_nodes.core.shared_memory import remove_half_made_segments

ROOT = Path(__file__).resolve().parent.parent
ROBOTS = ROOT / "test" / "robots"
# control_msgs, moveit_msgs and franka_msgs, where no ROS here has them: see test/interfaces.
INTERFACES = ROOT / "install_test"
DEADLINE = 30.0
# 0 to 101 are the domains whose ports are free on every Linux; the low ones are people's.
DOMAINS = range(40, 100)
# Fast DDS waits 1 s for a lock in shared memory and checks the health of its ports every second.
PORTS_RECOVERED_AFTER = 2.5


def _take_domain() -> tuple[int, IO]:
    """A domain that no other test on this machine uses while the returned file is open.

    Nor anybody else, such as a benchmark, who has participants in it now.
    """
    first = os.getpid() % len(DOMAINS)
    for domain in [*DOMAINS[first:], *DOMAINS[:first]]:
        lock = (Path(tempfile.gettempdir()) / f"vla_ros_test_domain_{domain}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        if is_free(domain):
            return domain, lock
        lock.close()
    raise RuntimeError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by tests")


def use_test_interfaces() -> None:
    """Lets this process and those that it starts import the interface packages of the tests.

    Skips the test that calls it where they were not built: `make test` builds them.
    """
    if not INTERFACES.exists():
        pytest.skip("no install_test: run 'tools/setup.sh --tests' first")
    packages = next(iter(INTERFACES.glob("lib/python3.*/site-packages")), None)
    if packages is None:
        return
    for variable, folder in (
        ("AMENT_PREFIX_PATH", INTERFACES),
        ("LD_LIBRARY_PATH", INTERFACES / "lib"),
        ("PYTHONPATH", packages),
    ):
        parts = os.environ.get(variable, "").split(os.pathsep)
        if str(folder) not in parts:
            os.environ[variable] = os.pathsep.join([str(folder), *filter(None, parts)])
    if str(packages) not in sys.path:
        sys.path.append(str(packages))
        # This process looks libraries up where it did at its start; loaded ones it finds by name.
        for library in sorted((INTERFACES / "lib").glob("*typesupport_*_c.so")):
            ctypes.CDLL(str(library))


class NodeProcess:
    """One executable of this package, running."""

    def __init__(self, name: str, process: subprocess.Popen, log: Path):
        self.name = name
        self.process = process
        self.killed_at: float | None = None
        self._log = log
        self._forgotten = 0

    @property
    def output(self) -> str:
        """What it printed so far, or since forget_output(), both streams."""
        return self._log.read_bytes()[self._forgotten :].decode(errors="replace")

    def forget_output(self) -> None:
        """From now on `output` is what it prints after this."""
        self._forgotten = self._log.stat().st_size

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self.process.poll() is None

    @property
    def cpu_time(self) -> float:
        """Processor time that it has taken so far [s]."""
        return sum(psutil.Process(self.process.pid).cpu_times()[:2])

    def kill(self) -> None:
        """Sends SIGKILL and does not wait for the end."""
        self.killed_at = time.monotonic()
        self.process.kill()

    def stop(self, number: int = signal.SIGINT, timeout: float = 10.0) -> int:
        """Sends a signal and returns the exit status; kills it after `timeout` [s] and fails."""
        if number == signal.SIGKILL:
            self.kill()
        elif self.running:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
            raise AssertionError(
                f"{self.name} did not end within {timeout:g} s of signal {number}:\n{self.output}"
            ) from None


class Graph:
    """A ROS domain with our node processes in it and one node of the test's own."""

    def __init__(self, use_sim_time: bool = False):
        self.domain, self._domain_lock = _take_domain()
        self.processes: list[NodeProcess] = []
        self._started: list[NodeProcess] = []
        self._folder = tempfile.TemporaryDirectory(prefix="vla_nodes_")
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = rclpy.Context()
        remove_half_made_segments()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node(
            "test_observer",
            context=self.context,
            parameter_overrides=[Parameter("use_sim_time", value=use_sim_time)],
        )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}
        self._diagnostics: dict[str, list[DiagnosticStatus]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 100)

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        # A process killed while it holds a lock in shared memory makes Fast DDS 2.14 replace that
        # port, and a participant deleted at that moment locks unmapped memory. So the test's node
        # goes before the processes that still run, and some time after those that a test killed.
        kills = [process.killed_at for process in self._started if process.killed_at is not None]
        recovered_at = max(kills, default=-math.inf) + PORTS_RECOVERED_AFTER
        time.sleep(max(0.0, recovered_at - time.monotonic()))
        try:
            self._executor.shutdown()
            self.node.destroy_node()
            rclpy.try_shutdown(context=self.context)
        finally:
            for process in self.processes:
                if process.running:
                    process.kill()
                    process.process.wait()
        self._folder.cleanup()
        self._domain_lock.close()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the processes: this domain, this machine only."""
        return os.environ | {
            "ROS_DOMAIN_ID": str(self.domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "PYTHONUNBUFFERED": "1",
        }

    def start(
        self,
        executable: str,
        parameters: dict[str, Any] | None = None,
        parameters_file: Path | None = None,
        arguments: tuple[str, ...] = (),
        **more: Any,
    ) -> NodeProcess:
        """Starts scripts/`executable` with ROS parameters; does not wait for it."""
        script = ROOT / "scripts" / executable
        return self._start(script, parameters, parameters_file, arguments, more)

    def start_with_policy(self, checkpoint: Path, **controller: Any) -> dict[str, NodeProcess]:
        """The simulator and all that moves its arm by a checkpoint, active, by name.

        controller: further parameters of that node.
        """
        timed = {"use_sim_time": True}
        policy = timed | {"checkpoint": str(checkpoint)}
        given = {
            "sim": {},
            "perception": timed,
            "reasoning": policy,
            "action_expert": policy,
            "controller": timed | controller,
        }
        processes = {name: self.start(name, parameters=own) for name, own in given.items()}
        for name in given:
            self.wait_state(name, "active", 90.0)
        return processes

    def start_robot(
        self,
        name: str,
        parameters: dict[str, Any] | None = None,
        arguments: tuple[str, ...] = (),
        **more: Any,
    ) -> NodeProcess:
        """Starts test/robots/`name`.py, a fake part of a robot; does not wait for it."""
        return self._start(ROBOTS / f"{name}.py", parameters, None, arguments, more)

    def _start(
        self,
        script: Path,
        parameters: dict[str, Any] | None,
        parameters_file: Path | None,
        arguments: tuple[str, ...],
        more: dict[str, Any],
    ) -> NodeProcess:
        ros = ["--ros-args"]
        if parameters_file is not None:
            ros += ["--params-file", str(parameters_file)]
        for name, value in ((parameters or {}) | more).items():
            text = value if isinstance(value, str) else json.dumps(value)
            ros += ["-p", f"{name}:={text}"]
        return self.run_script(script, (*ros, *arguments))

    def run_script(self, script: Path, arguments: tuple[str, ...]) -> NodeProcess:
        """Starts any Python file in this graph's environment; does not wait for it."""
        log = Path(self._folder.name) / f"{script.stem}_{len(self._started)}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, str(script), *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        started = NodeProcess(script.stem, process, log)
        self.processes.append(started)
        self._started.append(started)
        return started

    def spin(self, seconds: float = 0.02) -> None:
        """Handles what arrives within `seconds`, at least one event if there is one."""
        self._executor.spin_once(timeout_sec=seconds)

    def wait(
        self, condition: Callable[[], Any], what: str, timeout: float = DEADLINE, alive: bool = True
    ) -> Any:
        """Spins until `condition` holds and returns its value; fails after `timeout` [s].

        alive: also fail as soon as one of the processes has ended.
        """
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            ended = [p.name for p in self.processes if alive and not p.running]
            if time.monotonic() > deadline or ended:
                reason = f"ended early: {', '.join(ended)}" if ended else f"after {timeout:g} s"
                logs = "\n".join(f"--- {p.name}\n{p.output}" for p in self.processes)
                raise AssertionError(f"no {what} ({reason})\n{logs}")
            self.spin()
        return value

    def publisher(self, kind: type, topic: str, profile: QoSProfile, readers: int = 1) -> Any:
        """A publisher that already has `readers` matched readers."""
        publisher = self.node.create_publisher(kind, topic, profile)
        self.wait(lambda: publisher.get_subscription_count() >= readers, f"reader of {topic}")
        return publisher

    def collect(self, kind: type, topic: str, profile: QoSProfile, writers: int = 1) -> list:
        """A list to which every message of the topic is appended; waits for matched writers."""
        messages: list = []
        self.node.create_subscription(kind, topic, messages.append, profile)
        self.wait(lambda: self.node.count_publishers(topic) >= writers, f"writer of {topic}")
        return messages

    def call(
        self,
        kind: type,
        service: str,
        request: Any,
        timeout: float = DEADLINE,
        repeat_after: float = math.inf,
    ) -> Any:
        """Calls a service and returns the response.

        repeat_after: time after which a request that may come twice is sent again [s]. A server
        drops the answer to a client that it has not discovered by then.
        """
        # Kept from call to call: a client that is long known loses no answers.
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self.node.create_client(kind, service)
        self.wait(client.service_is_ready, f"service {service}", timeout)
        futures = [client.call_async(request)]
        sent_at = time.monotonic()

        def answered():
            nonlocal sent_at
            if time.monotonic() - sent_at > repeat_after:
                futures.append(client.call_async(request))
                sent_at = time.monotonic()
            return any(future.done() for future in futures)

        try:
            self.wait(answered, f"answer of {service}", timeout)
            return next(future.result() for future in futures if future.done())
        finally:
            for future in futures:
                client.remove_pending_request(future)

    def set_parameters(self, node: str, **values: Any) -> None:
        """Sets parameters of a running node; fails when it refuses."""
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()
                        for name, value in values.items()]
        )  # fmt: skip
        results = self.call(SetParameters, f"{node}/set_parameters", request).results
        assert all(result.successful for result in results), results

    def state(self, node: str, timeout: float = DEADLINE) -> str:
        """Label of the lifecycle state that the node is in."""
        request = GetState.Request()
        response = self.call(GetState, f"{node}/get_state", request, timeout, repeat_after=2.0)
        return response.current_state.label

    def wait_state(self, node: str, state: str, timeout: float = DEADLINE) -> None:
        """Waits until the node is in that lifecycle state."""
        self.wait(lambda: self.state(node, timeout) == state, f"{node} in state {state}", timeout)

    def transition(self, node: str, label: str) -> bool:
        """Asks for "configure", "activate", "deactivate", "cleanup"; returns whether it worked."""
        request = ChangeState.Request(transition=Transition(label=label))
        return self.call(ChangeState, f"{node}/change_state", request).success

    def wait_diagnostic(
        self, node: str, condition: Callable[[DiagnosticStatus], bool], timeout: float = DEADLINE
    ) -> DiagnosticStatus:
        """Waits for a status of the node, from now on, that fulfils the condition; returns it."""
        statuses = self._diagnostics.setdefault(node, [])
        statuses.clear()
        self.wait(lambda: any(map(condition, statuses)), f"such a diagnostic of {node}", timeout)
        return next(filter(condition, statuses))

    def diagnostic(self, node: str) -> dict[str, str]:
        """Keys and values of the node's next status."""
        status = self.wait_diagnostic(node, lambda _: True)
        return {entry.key: entry.value for entry in status.values}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, _ = status.name.partition(":")
            self._diagnostics.setdefault(node, []).append(status)
