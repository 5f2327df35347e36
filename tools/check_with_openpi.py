"""Asks `vla serve` for actions with openpi's own client, as robots with openpi do.

    python3 -m venv build/openpi
    build/openpi/bin/pip install openpi-client==0.1.2 typing_extensions
    vla serve --port 8200 &
    build/openpi/bin/python tools/check_with_openpi.py 8200

Runs in openpi's environment, so it uses nothing of this project. Prints OK, or what is wrong. With
`--record FILE` it writes every byte that the client sends, which test_serving_server.py replays.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
from pathlib import Path

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def main() -> int:
    """Asks; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args()
    port, sent = arguments.port, bytearray()
    if arguments.record:
        port = relay(arguments.port, sent)
    client = WebsocketClientPolicy("127.0.0.1", port)
    told = client.get_server_metadata()
    contract = told["contract"]
    generator = np.random.default_rng(0)
    observation = {
        "images": {
            camera["name"]: generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            for camera in contract["cameras"]
        },
        "state": np.array([0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.08], np.float32),
        "prompt": "pick the red block",
        "seed": np.int64(3),
    }
    shape = (contract["horizon"], len(contract["action_names"]))
    chunk = client.infer(observation)["actions"]
    assert chunk.shape == shape and chunk.dtype == np.float32, (chunk.shape, chunk.dtype)
    if arguments.record:
        arguments.record.write_bytes(sent)
        return 0
    np.testing.assert_allclose(client.infer(observation)["actions"], chunk, atol=1e-5)
    try:
        client.infer({"observation/state": observation["state"]})
        raise AssertionError("a request without images was answered")
    except RuntimeError as error:
        print(error)
    # What openpi's runtime puts before a policy.
    steps = ActionChunkBroker(client, shape[0])
    first = [steps.infer(observation)["actions"] for _ in range(shape[0])]
    np.testing.assert_allclose(np.stack(first), chunk, atol=1e-5)
    print("OK")
    return 0


def relay(port: int, sent: bytearray) -> int:
    """A port that leads to `port`; what comes in there is appended to `sent`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        client = listener.accept()[0]
        server = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=copy, args=(server, client, bytearray()), daemon=True).start()
        copy(client, server, sent)

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def copy(source: socket.socket, target: socket.socket, seen: bytearray) -> None:
    """Passes bytes on until the source ends."""
    while content := source.recv(1 << 16):
        seen += content
        target.sendall(content)


if __name__ == "__main__":
    sys.exit(main())
