r"""What a slow, lossy link between a robot and its server costs, by delay, loss and transport.

sudo -E env "PATH=$PATH" "PYTHONPATH=$PYTHONPATH" python benchmarks/lossy_link.py

Server and robot are in two network namespaces. Each has a TUN device, and this process carries the
packets between them, so that the kernel's own TCP runs over the link: every packet is delayed by
half of --delays, and lost with the chance --losses, each way. It needs root and /dev/net/tun, and
no kernel module for emulated networks. The link is encrypted and asks for a token, as it must
beyond one machine; openssl makes the certificate.
"""

from __future__ import annotations

import argparse
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

NAMES = ("vla_server", "vla_robot")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 8200
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 1500


def ip(*words: str) -> None:
    """Runs `ip`."""
    subprocess.run(["ip", *words], check=True)


def inside(name: str, *command: str) -> list[str]:
    """A command in a namespace."""
    return ["ip", "netns", "exec", name, *command]


def open_device(name: str, address: str, other: str) -> int:
    """A TUN device in a new namespace of that name; its packets are read and written here."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    ip("netns", "add", name)
    ip("link", "set", name, "netns", name)
    ip("-n", name, "addr", "add", address, "peer", other, "dev", name)
    ip("-n", name, "link", "set", name, "up", "mtu", str(MTU))
    ip("-n", name, "link", "set", "lo", "up")
    return device


class Link(threading.Thread):
    """Carries packets both ways. delay: of each way [s]. loss: chance of each packet."""

    def __init__(self, devices: list[int]):
        super().__init__(daemon=True)
        self.delay = self.loss = 0.0
        self.packets = self.bytes = self.lost = 0
        self._devices = devices
        self._chance = random.Random(0)

    def run(self) -> None:
        """Runs until the process ends."""
        waiting: list[tuple[float, int, int, bytes]] = []
        order = itertools.count()
        while True:
            left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            readable, _, _ = select.select(self._devices, [], [], left)
            for device in readable:
                packet = os.read(device, 65536)
                self.packets += 1
                self.bytes += len(packet)
                if self._chance.random() < self.loss:
                    self.lost += 1
                    continue
                other = self._devices[1 - self._devices.index(device)]
                due = time.monotonic() + self.delay
                heapq.heappush(waiting, (due, next(order), other, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(waiting)
                os.write(device, packet)


def main() -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="checkpoints/nano")
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 20, 50, 100, 200],
                        help="there and back [ms]")  # fmt: skip
    parser.add_argument("--losses", type=float, nargs="+", default=[0, 1, 2, 5], help="[%%]")
    parser.add_argument("--transports", nargs="+", default=["raw", "jpeg"])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case")
    parser.add_argument("--rate", type=float, default=10.0, help="of observations, at most [Hz]")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        certificate, key, token = (folder / name for name in ("c.pem", "k.pem", "token"))
        token.write_text("0123456789abcdef")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key),
             "-out", str(certificate), "-days", "2", "-subj", "/CN=vla",
             "-addext", f"subjectAltName=IP:{ADDRESSES[0]}"],
            check=True, capture_output=True,
        )  # fmt: skip
        try:
            devices = [
                open_device(name, address, other)
                for name, address, other in zip(NAMES, ADDRESSES, ADDRESSES[::-1], strict=True)
            ]
            link = Link(devices)
            link.start()
            serve = [sys.executable, "-m", "vla_cli", "serve", "--host", ADDRESSES[0]]
            serve += ["--port", str(PORT), "--checkpoint", arguments.checkpoint]
            serve += ["--token-file", str(token), "--certificate", str(certificate)]
            command = inside(NAMES[0], *serve, "--key", str(key))
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
                try:
                    assert server.stdout is not None and "serving" in server.stdout.readline()
                    for case in itertools.product(
                        arguments.transports, arguments.delays, arguments.losses
                    ):
                        rows.append(measure(link, *case, arguments, certificate, token, folder))
                finally:
                    server.terminate()
        finally:
            for name in NAMES:
                subprocess.run(["ip", "netns", "del", name], check=False)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def measure(
    link: Link,
    transport: str,
    delay: float,
    loss: float,
    arguments: argparse.Namespace,
    certificate: Path,
    token: Path,
    folder: Path,
) -> dict:
    """Figures of one case. delay: there and back [ms]. loss [%]."""
    link.delay, link.loss = delay / 2e3, loss / 100
    link.packets = link.bytes = link.lost = 0
    figures = folder / "figures.json"
    command = [sys.executable, str(Path(__file__).with_name("serving.py")), "--robots", "1"]
    command += ["--address", f"wss://{ADDRESSES[0]}:{PORT}", "--authority", str(certificate)]
    command += ["--token-file", str(token), "--transport", transport, "--json", str(figures)]
    command += ["--rate", str(arguments.rate), "--seconds", str(arguments.seconds)]
    subprocess.run(inside(NAMES[1], *command), check=True, stdout=subprocess.DEVNULL)
    (row,) = json.loads(figures.read_text())
    row |= {"delay_ms": delay, "loss_percent": loss, "packets": link.packets, "lost": link.lost}
    row["kb_per_answer"] = link.bytes / 1e3 / max(1.0, row["hz"] * arguments.seconds)
    print(
        "{transport}, {delay_ms:g} ms, {loss_percent:g}%: {hz:.2f} Hz, wait p50 {wait_p50_ms:.0f} "
        "ms, p99 {wait_p99_ms:.0f} ms, {kb_per_answer:.0f} kB an answer".format(**row),
        flush=True,
    )
    return row


if __name__ == "__main__":
    sys.exit(main())
