"""`vla serve-chat`: a checkpoint as a chat model, for harnesses of multimodal benchmarks."""

from __future__ import annotations

import argparse
import sys

from vla_cli.checkpoints import add_inference_options, checkpoint_folder
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Serve a checkpoint's vision-language model behind OpenAI's chat completions interface, so that the
OpenAI clients of lmms-eval and VLMEvalKit can evaluate it. Answers are greedy. Images are data URIs
in the first user message. It listens on this machine alone, unless --host says otherwise, and asks
for no key: on a network, anyone who reaches it can use it.

examples:
  vla serve-chat
  vla serve-chat --checkpoint output/generalist --name instructvla --device cuda --port 8100
"""
DEFAULT_CHECKPOINT = "checkpoints/nano_vlm"


def add_parser(subparsers) -> None:
    """Adds `vla serve-chat`."""
    parser = add_command(
        subparsers, "serve-chat", "serve a checkpoint as a chat model", DESCRIPTION, run_serve_chat
    )
    parser.add_argument(
        "--checkpoint", default=DEFAULT_CHECKPOINT, help=f"folder ({DEFAULT_CHECKPOINT})"
    )
    parser.add_argument("--adapter", default="", help="folder of an adapter to load into it")
    parser.add_argument(
        "--name", default="", help="that clients call the model by (the folder's name)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8100, help="0 for any free one (8100)")
    add_inference_options(parser)


def run_serve_chat(arguments: argparse.Namespace) -> int:
    """Serves until Ctrl-C."""
    from vla.core.shown import shown_path
    from vla.core.text import one_line
    from vla.evaluation.chat_server import ChatHTTPServer
    from vla.policies.parts import ReasoningPart

    if not 0 <= arguments.port < 65536:
        raise CommandError(f"--port takes 0 to 65535, got {arguments.port}")
    folder = checkpoint_folder(arguments.checkpoint)
    part = ReasoningPart.from_pretrained(
        folder, arguments.device, arguments.adapter, arguments.dtype
    )
    if not part.chats:
        raise CommandError(
            f"{shown_path(folder)} holds a policy that does not chat: give one of type instructvla"
        )
    name = arguments.name or folder.resolve().name
    try:
        server = ChatHTTPServer(part, name, arguments.host, arguments.port)
    except OSError as error:
        raise CommandError(
            f"cannot listen at {arguments.host}:{arguments.port} "
            f"({one_line(error.strerror or error)}); give another --host or --port"
        ) from error
    print(f"serving {name} at {server.address}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        server.server_close()
    return 0
