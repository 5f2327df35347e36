"""`vla scenes`: makes still scenes with their truth, to pretrain a vision-language model on."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Make still scenes: random tables and arm poses, rendered by the robot's cameras, with their ground
truth, from which questions and answers are drawn in training. Existing scenes are kept.

examples:
  vla scenes --out datasets/scenes --count 20000
  vla scenes --out datasets/scenes --llava output/llava     the same as LLaVA conversations
"""


def add_parser(subparsers) -> None:
    """Adds `vla scenes`."""
    parser = add_command(
        subparsers, "scenes", "make scenes to ask about in simulation", DESCRIPTION, run_scenes
    )
    parser.add_argument("--out", default="datasets/scenes", help="folder (datasets/scenes)")
    parser.add_argument("--count", type=int, default=20000, help="how many (20000)")
    parser.add_argument("--contract", default="sim_panda", help="embodiment contract (sim_panda)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument(
        "--llava", metavar="FOLDER", help="also write LLaVA conversations there, as JSON and PNG"
    )


def run_scenes(arguments: argparse.Namespace) -> int:
    """Makes the missing scenes, and exports them if asked to."""
    from vla.datasets.sources import ConversationData
    from vla.envs.tabletop.scene_conversations import SceneConversations, export_llava
    from vla.envs.tabletop.sources import SCENES

    if arguments.count < 1:
        raise CommandError(f"--count takes a number from 1 on, got {arguments.count}")
    if arguments.llava and Path(arguments.llava).exists():
        raise CommandError(f"{arguments.llava} is there already; name a new folder for --llava")
    try:
        contract = named_contract(arguments.contract)
        entry = ConversationData(arguments.out, options={"scenes": arguments.count})
        SCENES.make(entry, contract, arguments.workers)
        camera = contract.cameras[0].name
        scenes = SceneConversations(arguments.out, contract, camera)
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(f"{len(scenes)} scenes to ask about in {arguments.out}")
    if arguments.llava:
        print(f"written: {export_llava(scenes, arguments.llava)}")
    return 0
