"""What a SIGKILL of each node does while the simulated arm moves: hold, and recovery.

source ./env.sh
python benchmarks/node_kills.py --rounds 3 --json output/node_kills.json

command_ms: from the kill until the commands to the arm stand still. rest_ms: until its joints do,
too; the arm of a killed `sim` is gone with it. recovery_s: from the kill until the arm moves again,
while the launcher starts the killed node, and no other, again. `recorder` has no part in the
motion, so the arm may go on.
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

from vla.cli.graph import free_domain_id

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

    def kill(self, node: str, domain: int, seed: int) -> dict[str, float | bool | str | None]:
        """One round; times in milliseconds and seconds from the kill."""
        self.instruct(seed)
        self.wait_for_motion(time.monotonic(), MOTION_LIMIT)
        self.client.spin(0.3)
        pid = pid_of(node, domain)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.client.spin(1.0)
        result: dict[str, float | bool | str | None] = {
            "node": node,
            "command_ms": self._time_to_rest(self.steps, killed, COMMAND_RESTING),
            "rest_ms": self._time_to_rest(self.speeds, killed, RESTING) if node != "sim" else None,
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

    def _time_to_rest(self, track, since: float, limit: float) -> float | None:
        """[ms] from `since` until the track stays below the limit for REST_TIME; None if never."""
        started = since
        for at, value in track:
            if at <= since:
                continue
            if value > limit:
                started = at
            elif at - started >= REST_TIME:
                return round(1e3 * (started - since), 1)
        last = track[-1][0] if track else since
        # Silence is rest, too: no command reaches an arm whose commander is gone.
        silent = time.monotonic() - max(last, started) > REST_TIME
        return round(1e3 * (started - since), 1) if silent else None


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
    columns = ("command_ms", "rest_ms", "recovery_s")
    print(f"{'node':<14}" + "".join(f"{name + ' p50, max':>24}" for name in columns))
    for node in dict.fromkeys(result["node"] for result in results):
        rounds = [result for result in results if result["node"] == node]
        line = f"{node:<14}"
        for name in columns:
            values = [result[name] for result in rounds if result[name] is not None]
            shown = f"{np.median(values):.1f}, {max(values):.1f}" if values else "-"
            line += f"{shown:>24}"
        print(line)
    print(f"results: {arguments.json}; the nodes' output: {folder}/nodes.log")


if __name__ == "__main__":
    main()
