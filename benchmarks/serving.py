r"""One served policy and several robots: chunks per second for each, and how long each waits.

python benchmarks/serving.py --json output/serving.json
python benchmarks/serving.py --checkpoint output/base --device cuda --robots 1 2 4 8 --rate 15
python benchmarks/serving.py --address ws://127.0.0.1:8200 --transport jpeg
python benchmarks/serving.py --batches

Each robot is a thread with a connection of its own. It sends an observation, waits for the chunk,
and sends the next one at once, or at --rate. Without --address the server is a process of
its own on this machine. hz: of one robot, the mean of all. wait: from the observation's sending to
its chunk. batch: mean size. With --batches no server runs: the CPU time of a batch of each size is
measured in one thread, which other programs of a busy machine change little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vla.serving.link import LinkError, ServerLink
from vla.serving.requests import encode_jpeg

WORDS = ("pick the red block", "put the can in the bowl", "open the drawer", "pick the can")
SKIPPED = 2  # of the first answers of each robot
ROUNDS = 15  # of each batch


@contextmanager
def started(checkpoint: str, device: str):
    """The address of a server that runs meanwhile."""
    command = [sys.executable, "-m", "vla_cli", "serve", "--port", "0", "--checkpoint", checkpoint]
    with subprocess.Popen(
        [*command, "--device", device], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if " at " not in line:
                raise SystemExit("the server did not start")
            yield line.split(" at ")[1].strip()
        finally:
            process.terminate()


def observation(metadata: dict[str, Any], robot: int, transport: str) -> dict[str, Any]:
    """A request whose images compress as a camera's do: slow changes of colour, and noise."""
    generator = np.random.default_rng(robot)
    images: dict[str, Any] = {}
    for camera in metadata["contract"]["cameras"]:
        height, width = camera["height"], camera["width"]
        y, x = np.mgrid[:height, :width] / max(height, width)
        slow = np.stack([np.sin(6 * x + robot), np.cos(5 * y), np.sin(4 * x * y)], -1)
        noise = generator.normal(0, 3, (height, width, 3))
        image = (127 + 100 * slow + noise).clip(0, 255).astype(np.uint8)
        images[camera["name"]] = encode_jpeg(image) if transport == "jpeg" else image
    size = len(metadata["contract"]["state_names"])
    return {"images": images, "state": np.linspace(-0.5, 0.5, size), "prompt": WORDS[robot % 4]}


class RobotThread(threading.Thread):
    """Asks for chunks until the time is up."""

    def __init__(self, number: int, arguments: argparse.Namespace, address: str, token: str):
        super().__init__(daemon=True)
        self.number, self.arguments = number, arguments
        self.link = ServerLink(address, 30.0, token, arguments.authority)
        self.waits: list[float] = []
        self.batches: list[int] = []
        self.refused = 0

    def run(self) -> None:
        """Fills `waits` [s]."""
        request = observation(self.link.metadata(), self.number, self.arguments.transport)
        period = 1.0 / self.arguments.rate if self.arguments.rate else 0.0
        end = time.monotonic() + self.arguments.seconds
        while (started := time.monotonic()) < end:
            try:
                answer = self.link.ask(request | {"stamp": started})
                self.waits.append(time.monotonic() - started)
                self.batches.append(answer["server_timing"]["batch"])
            except LinkError:
                self.refused += 1
            time.sleep(max(0.0, started + period - time.monotonic()))
        self.link.close()


def measure(count: int, arguments: argparse.Namespace, address: str, token: str) -> dict[str, Any]:
    """Figures of so many robots at once."""
    robots = [RobotThread(number, arguments, address, token) for number in range(count)]
    for robot in robots:
        robot.start()
    for robot in robots:
        robot.join()
    waits = np.array([wait for robot in robots for wait in robot.waits[SKIPPED:]] or [np.nan])
    p50, p99 = 1e3 * np.percentile(waits, [50, 99])
    answers = sum(len(robot.waits) for robot in robots)
    return {
        "robots": count,
        "transport": arguments.transport,
        "hz": answers / count / arguments.seconds,
        "wait_p50_ms": float(p50),
        "wait_p99_ms": float(p99),
        "batch": float(np.mean([size for robot in robots for size in robot.batches] or [np.nan])),
        "refused": sum(robot.refused for robot in robots),
    }


def cpu_times(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU time of batches of each size, the smallest of some rounds [ms]."""
    import torch

    from vla.serving.policy import RobotSession, ServedPolicy
    from vla.serving.requests import read_request

    torch.set_num_threads(1)
    policy = ServedPolicy.from_pretrained(arguments.checkpoint, arguments.device)
    metadata, rows = policy.metadata(), []
    for size in arguments.robots:
        sessions = [RobotSession(policy) for _ in range(size)]
        requests = [
            read_request(observation(metadata, robot, "raw"), policy.contract, policy.features, 0.0)
            for robot in range(size)
        ]
        taken = []
        for _ in range(ROUNDS):
            started = time.thread_time()
            policy.run(sessions, requests)
            taken.append(1e3 * (time.thread_time() - started))
        rows.append({"batch": size, "cpu_ms": min(taken), "cpu_ms_per_robot": min(taken) / size})
        print(
            "batch of {batch}: {cpu_ms:.1f} ms, {cpu_ms_per_robot:.1f} a robot".format(**rows[-1])
        )
    return rows


def main() -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="checkpoints/nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--address", default="", help="of a server that runs already")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--authority", default="", help="PEM file of certificates to trust")
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--transport", choices=("raw", "jpeg"), default="raw")
    parser.add_argument("--rate", type=float, default=0.0, help="of each robot [Hz]; 0: any")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number of robots")
    parser.add_argument("--batches", action="store_true", help="only the CPU time of batches")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    token = arguments.token_file.read_text().strip() if arguments.token_file else ""
    rows = []

    def run(address: str) -> None:
        for count in arguments.robots:
            rows.append(measure(count, arguments, address, token))
            print(
                "{robots} robots: {hz:6.2f} Hz each, wait p50 {wait_p50_ms:7.1f} ms, p99 "
                "{wait_p99_ms:7.1f} ms, batch {batch:.1f}, refused {refused}".format(**rows[-1]),
                flush=True,
            )

    if arguments.batches:
        rows = cpu_times(arguments)
    elif arguments.address:
        run(arguments.address)
    else:
        with started(arguments.checkpoint, arguments.device) as address:
            run(address)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
