"""What a SIGKILL of each node does while the simulated arm moves: hold, and recovery.

source ./env.sh
python benchmarks/node_kills.py --rounds 3 --json output/node_kills.json

hold: from the kill until the joints (for `sim`, whose arm goes with it: the commands) rest for
0.2 s. recovery: from the kill until the arm moves again; only the killed node is started again, by
the launcher. `recorder` has no part in the motion, so the arm may go on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import numpy as np

from vla.cli.demo import free_domain_id

MOVING = 0.10  # rad/s: the arm is on its way
RESTING = 0.02  # rad/s: servo compliance stays below it
REST_TIME = 0.2
COMMAND_RESTING = 1e-4  # rad between two commands
RECOVERY_LIMIT = 90.0
MOTION_LIMIT = 30.0


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

        from vla_nodes import qos

        self.client = client
        self.speeds: deque[tuple[float, float]] = deque(maxlen=4000)
        self.steps: deque[tuple[float, float]] = deque(maxlen=4000)
        self._command = np.zeros(7)
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
        accepted = self.client.set_instruction(scene.instruction)
        if not accepted.success:
            raise RuntimeError(accepted.message)

    def kill(self, node: str, domain: int, seed: int) -> dict[str, float | bool | str]:
        """One round; times in milliseconds and seconds from the kill."""
        self.instruct(seed)
        self.wait_for_motion(time.monotonic(), MOTION_LIMIT)
        self.client.spin(0.3)
        pid = pid_of(node, domain)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.client.spin(1.0)
        track, rest = (self.steps, COMMAND_RESTING) if node == "sim" else (self.speeds, RESTING)
        hold = self._hold_time(track, killed, rest)
        result: dict[str, float | bool | str] = {
            "node": node,
            "hold_ms": round(1e3 * hold, 1) if hold is not None else None,
        }
        if node == "recorder":
            # Nothing to recover in the motion; the node itself must be back.
            self._wait_for_process(node, domain, pid)
        self.client.wait_until_active(RECOVERY_LIMIT, lambda: None)
        result["active_s"] = round(time.monotonic() - killed, 2)
        again = time.monotonic()
        try:
            # What goes on by itself needs no new instruction.
            moved = self.wait_for_motion(again, 2.0)
            result["went_on"] = True
        except TimeoutError:
            self.instruct(seed + 1000)
            moved = self.wait_for_motion(time.monotonic(), MOTION_LIMIT)
            result["went_on"] = False
        result["recovery_s"] = round(moved - killed, 2)
        self.client.stop()
        return result

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

    def _hold_time(self, track, since: float, limit: float) -> float | None:
        """From `since` until the track stays below the limit for REST_TIME; None if it does not."""
        started = since
        for at, value in track:
            if at <= since:
                continue
            if value > limit:
                started = at
            elif at - started >= REST_TIME:
                return started - since
        last = track[-1][0] if track else since
        # Silence is rest, too: no command reaches an arm whose commander is gone.
        return started - since if time.monotonic() - max(last, started) > REST_TIME else None


def main() -> None:
    """Kills each node `rounds` times and writes what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/nano"))
    parser.add_argument("--rounds", type=int, default=3, help="kills of each node (3)")
    parser.add_argument("--nodes", nargs="+", help="only these nodes")
    parser.add_argument("--json", type=Path, default=Path("output/node_kills.json"))
    arguments = parser.parse_args()
    domain = free_domain_id()
    os.environ |= {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    from vla_nodes.demo_client import NODES, DemoClient

    folder = tempfile.mkdtemp(prefix="node_kills_")
    command = [sys.executable, "-m", "vla.cli", "launch", "sim.launch.xml"]
    command += [f"checkpoint:={arguments.checkpoint.resolve()}", f"bag_directory:={folder}/bags"]
    results = []
    with (Path(folder) / "nodes.log").open("wb") as log:
        launcher = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with DemoClient() as client:
                client.wait_until_active(180.0, lambda: None)
                bench = Bench(client)
                for index in range(arguments.rounds):
                    for node in arguments.nodes or NODES:
                        results.append(bench.kill(node, domain, seed=100 + index))
                        print(json.dumps(results[-1]), flush=True)
        finally:
            launcher.send_signal(signal.SIGINT)
            launcher.wait(timeout=15)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"rounds": results}, indent=2) + "\n")
    print(f"{'node':<14} {'hold p50 ms':>12} {'hold max ms':>12} {'recovery max s':>15}")
    for node in dict.fromkeys(result["node"] for result in results):
        rounds = [result for result in results if result["node"] == node]
        holds = [r["hold_ms"] for r in rounds if r["hold_ms"] is not None]
        shown = (f"{np.median(holds):.0f}", f"{max(holds):.0f}") if holds else ("-", "-")
        recovery = max(result["recovery_s"] for result in rounds)
        print(f"{node:<14} {shown[0]:>12} {shown[1]:>12} {recovery:>15.1f}")
    print(f"results: {arguments.json}; the nodes' output: {folder}/nodes.log")


if __name__ == "__main__":
    main()
