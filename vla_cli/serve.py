"""`vla serve`: one copy of a policy for several robots."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from vla_cli.checkpoints import add_inference_options, checkpoint_folder
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Serve a checkpoint to several robots over openpi's WebSocket protocol. The weights are in memory
once; observations that come within 2 ms run together, up to eight of them. It listens on this
machine alone, unless --host says otherwise, which takes a token and a certificate.

examples:
  vla serve
  vla serve --checkpoint output/generalist --device cuda --adapter red=output/red/adapter
  vla serve --host 0.0.0.0 --token-file token --certificate server.pem --key server.key
"""
DEFAULT_CHECKPOINT = "checkpoints/nano"
LEAST_TOKEN = 16  # characters


def add_parser(subparsers) -> None:
    """Adds `vla serve`."""
    parser = add_command(
        subparsers, "serve", "serve a policy to several robots", DESCRIPTION, run_serve
    )
    parser.add_argument(
        "--checkpoint", default=DEFAULT_CHECKPOINT, help=f"folder ({DEFAULT_CHECKPOINT})"
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="that robots may ask for by that name; may be given several times",
    )
    add_inference_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8200, help="0 for any free one (8200)")
    parser.add_argument("--token-file", metavar="FILE", help="text that clients must send")
    parser.add_argument("--certificate", default="", metavar="FILE", help="of TLS, PEM")
    parser.add_argument("--key", default="", metavar="FILE", help="of the certificate, PEM")
    parser.add_argument(
        "--connections", type=int, default=16, help="at most; more are refused (16)"
    )
    parser.add_argument(
        "--longest-wait",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="for an answer, beyond which requests are refused (1)",
    )


def run_serve(arguments: argparse.Namespace) -> int:
    """Serves until Ctrl-C."""
    try:
        import msgpack  # noqa: F401
        import websockets  # noqa: F401
    except ImportError:
        raise CommandError(
            "vla serve needs the packages websockets and msgpack: pip install 'vla-ros[serve]'"
        ) from None
    from vla.core.text import one_line
    from vla.serving.engine import Engine
    from vla.serving.policy import ServedPolicy
    from vla.serving.server import PolicyServer, ServerAccess, ServingError

    if not 0 <= arguments.port < 65536:
        raise CommandError(f"--port takes 0 to 65535, got {arguments.port}")
    if arguments.connections < 1 or arguments.longest_wait <= 0:
        raise CommandError("--connections and --longest-wait take numbers above 0")
    access = ServerAccess(
        arguments.host,
        arguments.port,
        _token(arguments.token_file),
        arguments.certificate,
        arguments.key,
        arguments.connections,
    )
    try:
        access.context()  # before the checkpoint is loaded
    except ServingError as error:
        raise CommandError(str(error)) from error
    policy = ServedPolicy.from_pretrained(
        checkpoint_folder(arguments.checkpoint),
        arguments.device,
        arguments.dtype,
        _adapters(arguments.adapter),
    )
    policy.warm_up()
    server = PolicyServer(Engine(policy, arguments.longest_wait), access)
    try:
        server.start()
    except OSError as error:
        raise CommandError(
            f"cannot listen at {arguments.host}:{arguments.port} "
            f"({one_line(error.strerror or error)}); give another --host or --port"
        ) from error
    print(f"serving {policy.reasoning.checkpoint_id} at {server.address}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        server.close()
    return 0


def _token(file: str | None) -> str:
    """The token in a file, "" without one. Raises CommandError."""
    from vla.core.files import read_text

    if file is None:
        return ""
    token = read_text(file, CommandError, 4096).strip()
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise CommandError(
            f"{file} must hold {LEAST_TOKEN} printable ASCII characters or more; "
            "openssl rand -hex 16 writes some"
        )
    return token


def _adapters(given: list[str]) -> dict[str, Path]:
    """Folders by name. Raises CommandError."""
    adapters: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in adapters:
            raise CommandError(f"--adapter takes NAME=FOLDER, each name once, got '{text}'")
        adapters[name] = Path(folder)
    return adapters
