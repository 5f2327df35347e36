"""What a SIGKILL of each node does while the simulated arm moves: hold, and recovery.

source ./env.sh
python benchmarks/node_kills.py --kills 3 --json output/node_kills.json
python benchmarks/node_kills.py --kills 300 --nodes perception reasoning action_expert
python benchmarks/node_kills.py --kills 100 --nodes action_expert --transport udp

Each kill is added to the JSON file at once, and what is there counts: a run that was ended goes on
where it was. command_ms: from the kill until the commands to the arm stand still. rest_ms: until
its joints do, too; the arm of a killed `sim` is gone with it. hold: what the status said.
recovery_s: from the kill until the arm moves again, while the launcher starts the killed node, and
no other, again; null where it never did within RECOVERY_LIMIT, and the graph was restarted.
went_on: it moved without another instruction. `recorder` has no part in the motion, so the arm may
go on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vla_cli.graph import free_domain_id

MOVING = 0.10  # rad/s: the arm is on its way
RESTING = 0.02  # rad/s: servo compliance stays below it
REST_TIME = 0.2
COMMAND_RESTING = 1e-4  # rad between two commands
HOLD_LIMIT = 3.0
RECOVERY_LIMIT = 90.0
MOTION_LIMIT = 30.0
# After this long without motion the arm may be done with its task, and is given another [s].
PATIENCE = 15.0
HELD_IN_TIME = 300.0  # ms
TRANSPORTS = {"default": "DEFAULT", "udp": "UDPv4"}


def pid_of(node: str, domain: int) -> int:
    """The process of a node in this ROS domain. Raises LookupError."""
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"ROS_DOMAIN_ID={domain}".encode() in environment and (
            f"__node:={node}".encode() in command
        ):
            return int(entry.name)
    raise LookupError(f"no process of node {node}")


class Bench:
    """The running graph, and how the arm moves."""

    def __init__(self, client):
        from sensor_msgs.msg import JointState
        from trajectory_msgs.msg import JointTrajectory
        from vla_ros.msg import PolicyStatus

        from vla_nodes.core import qos

        self.client = client
        self.speeds: deque[tuple[float, float]] = deque(maxlen=4000)
        self.steps: deque[tuple[float, float]] = deque(maxlen=4000)
        self.held_by = ""
        self._command = np.zeros(7)
        client.node.create_subscription(PolicyStatus, "vla/status", self._on_status, qos.LATCHED)
        client.node.create_subscription(JointState, "joint_states", self._on_joints, qos.SENSOR)
        client.node.create_subscription(
            JointTrajectory,
            "joint_trajectory_controller/joint_trajectory",
            self._on_command,
            qos.COMMAND,
        )

    def _on_joints(self, message) -> None:
        self.speeds.append((time.monotonic(), float(np.abs(message.velocity[:7]).max())))

    def _on_command(self, message) -> None:
        command = np.array(message.points[-1].positions)
        self.steps.append((time.monotonic(), float(np.abs(command - self._command).max())))
        self._command = command

    def _on_status(self, message) -> None:
        if message.hold_reason and not self.held_by:
            self.held_by = message.message

    def wait_for_motion(self, since: float, limit: float) -> float:
        """Time at which the arm was first moving after `since`. Raises TimeoutError."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            self.client.spin(0.02)
            for at, speed in self.speeds:
                if at > since and speed > MOVING:
                    return at
        raise TimeoutError(f"the arm did not move within {limit:.0f} s")

    def instruct(self, seed: int) -> None:
        """A new scene, and the instruction that belongs to it."""
        from vla_ros.srv import ResetScene

        request = ResetScene.Request(seed=seed, family="pick")
        scene = self.client.call(ResetScene, "sim/reset_scene", request)
        accepted = self.client.set_instruction(scene.instruction, "act")
        if not accepted.success:
            raise RuntimeError(accepted.message)

    def kill(self, node: str, domain: int, seed: int) -> dict[str, float | bool | str | None]:
        """One round; times in milliseconds and seconds from the kill."""
        self._wait_until_moving(seed)
        pid = pid_of(node, domain)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.held_by = ""
        while time.monotonic() - killed < HOLD_LIMIT:
            self.client.spin(0.1)
            rest = time_to_rest(self.steps, killed, COMMAND_RESTING, time.monotonic())
            if rest is not None and time.monotonic() - killed > 0.5:
                break
        self.client.spin(0.3)
        now = time.monotonic()
        result: dict[str, float | bool | str | None] = {
            "node": node,
            "command_ms": time_to_rest(self.steps, killed, COMMAND_RESTING, now),
            "rest_ms": time_to_rest(self.speeds, killed, RESTING, now) if node != "sim" else None,
            "hold": self.held_by,
        }
        try:
            self._wait_for_process(node, domain, pid)
            moved, result["went_on"] = self._wait_until_moved(killed, seed)
            result["recovery_s"] = round(moved - killed, 2)
        except TimeoutError:
            result["recovery_s"] = None
        return result

    def _wait_until_moving(self, seed: int) -> None:
        """Until commands move the arm, at a random moment of it."""
        deadline = time.monotonic() + 4 * MOTION_LIMIT
        while time.monotonic() < deadline:
            try:
                self.wait_for_motion(time.monotonic(), 3.0)
            except TimeoutError:
                seed += 1000
                self.instruct(seed)
                continue
            self.client.spin(random.uniform(0.0, 0.3))
            now = time.monotonic()
            recent = [step for at, step in self.steps if at > now - 0.1]
            if len(recent) > 2 and min(recent) > COMMAND_RESTING:
                return
        raise TimeoutError("the arm is not to be moved")

    def _wait_until_moved(self, killed: float, seed: int) -> tuple[float, bool]:
        """When the arm moved again, and whether by itself. Raises TimeoutError."""
        from vla_nodes.client.graph import UnreachableError

        went_on = True
        since = time.monotonic()
        while True:
            left = killed + RECOVERY_LIMIT - time.monotonic()
            try:
                return self.wait_for_motion(since, min(PATIENCE, max(left, 0.0))), went_on
            except TimeoutError:
                if left <= 0.0:
                    raise
            try:
                self.instruct(seed + 500)
                went_on = False
            except (RuntimeError, UnreachableError):
                # A node that is not back yet; the limit above decides.
                continue

    def _wait_for_process(self, node: str, domain: int, old: int) -> None:
        deadline = time.monotonic() + RECOVERY_LIMIT
        while time.monotonic() < deadline:
            self.client.spin(0.1)
            try:
                if pid_of(node, domain) != old:
                    return
            except LookupError:
                continue
        raise TimeoutError(f"{node} was not started again")


def time_to_rest(track, since: float, limit: float, now: float) -> float | None:
    """[ms] from `since` until the track stays below the limit for REST_TIME; None if it does not.

    track: times [s] and values. Silence is rest, too: no command reaches an arm whose commander is
    gone.
    """
    started = since
    for at, value in track:
        if at <= since:
            continue
        if at - started >= REST_TIME:
            break
        if value > limit:
            started = at
    else:
        if now - started < REST_TIME:
            return None
    return round(1e3 * (started - since), 1)


def summarize(rounds: list[dict]) -> dict[str, dict]:
    """Figures of the rounds, by node and transport."""
    figures = {}
    for key in dict.fromkeys((r["node"], r["transport"]) for r in rounds):
        own = [r for r in rounds if (r["node"], r["transport"]) == key]
        held = [r["command_ms"] for r in own]
        again = [r["recovery_s"] for r in own if r["recovery_s"] is not None]
        rest = [r["rest_ms"] for r in own if r["rest_ms"] is not None]
        known = [ms for ms in held if ms is not None]
        figures[" ".join(key)] = {
            "kills": len(own),
            "command_ms_p50": float(np.median(known)) if known else None,
            "command_ms_max": max(known, default=None),
            "over_300_ms": sum(ms is None or ms > HELD_IN_TIME for ms in held),
            "rest_ms_p50": float(np.median(rest)) if rest else None,
            "rest_ms_max": max(rest, default=None),
            "recovery_s_p50": float(np.median(again)) if again else None,
            "recovery_s_max": max(again, default=None),
            "never_moved_again": len(own) - len(again),
        }
    return figures


@contextmanager
def running_graph(checkpoint: Path, folder: Path) -> Iterator[Bench]:
    """The simulated robot's whole graph, active."""
    from vla_nodes.client.demo import DemoClient

    command = [sys.executable, "-m", "vla_cli", "launch", "sim.launch.xml"]
    command += [f"checkpoint:={checkpoint.resolve()}", f"bag_directory:={folder}/bags"]
    with (folder / "nodes.log").open("ab") as log:
        launcher = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with DemoClient() as client:
                client.wait_until_active(180.0, lambda: None)
                yield Bench(client)
        finally:
            launcher.send_signal(signal.SIGINT)
            launcher.wait(timeout=30)


def main() -> None:
    """Kills each node `kills` times and writes what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/nano"))
    parser.add_argument("--kills", type=int, default=3, help="of each node, earlier ones too (3)")
    parser.add_argument("--nodes", nargs="+", help="only these nodes")
    parser.add_argument("--transport", choices=TRANSPORTS, default="default", help="of Fast DDS")
    parser.add_argument("--json", type=Path, default=Path("output/node_kills.json"))
    arguments = parser.parse_args()
    domain = free_domain_id()
    os.environ |= {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_BUILTIN_TRANSPORTS": TRANSPORTS[arguments.transport],
    }
    from vla_nodes.client.demo import NODES

    folder = Path(tempfile.mkdtemp(prefix="node_kills_"))
    rounds = json.loads(arguments.json.read_text())["rounds"] if arguments.json.exists() else []
    arguments.json.parent.mkdir(parents=True, exist_ok=True)

    def next_node() -> str | None:
        """The node that was killed least often, None when all have been often enough."""
        done = dict.fromkeys(arguments.nodes or NODES, 0)
        for entry in rounds:
            if entry["transport"] == arguments.transport and entry["node"] in done:
                done[entry["node"]] += 1
        node = min(done, key=done.get)
        return node if done[node] < arguments.kills else None

    while next_node():
        with running_graph(arguments.checkpoint, folder) as bench:
            bench.instruct(seed=100 + len(rounds))
            while node := next_node():
                result = bench.kill(node, domain, seed=100 + len(rounds))
                rounds.append({"transport": arguments.transport} | result)
                print(json.dumps(rounds[-1]), flush=True)
                text = json.dumps({"figures": summarize(rounds), "rounds": rounds}, indent=2)
                whole = arguments.json.with_suffix(".new")
                whole.write_text(text + "\n")
                whole.replace(arguments.json)
                if result["recovery_s"] is None:
                    break
    columns = ("command_ms", "rest_ms", "recovery_s")
    heads = "".join(f"{name + ' p50, max':>24}" for name in columns)
    print(f"{'node, transport':<24}{'kills':>6}{heads}{'over 300 ms':>13}{'never moved':>13}")
    for name, figure in summarize(rounds).items():
        line = f"{name:<24}{figure['kills']:>6}"
        for column in columns:
            middle, most = figure[f"{column}_p50"], figure[f"{column}_max"]
            line += f"{'-' if middle is None else f'{middle:.1f}, {most:.1f}':>24}"
        print(f"{line}{figure['over_300_ms']:>13}{figure['never_moved_again']:>13}")
    print(f"results: {arguments.json}; the nodes' output: {folder}/nodes.log")


if __name__ == "__main__":
    main()
