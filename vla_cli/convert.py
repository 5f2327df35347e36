"""`vla convert`: released weights of other code into checkpoint folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Convert released weights into a checkpoint folder that everything here loads.

examples:
  vla convert instructvla run/checkpoints/step-034500.pt output/expert --unnorm-key bridge_dataset
  vla convert eagle2 Eagle2-2B output/eagle2         to start stage 1 of training from
"""

# Robots of the data sets that the released weights were trained on.
CONTRACTS = {"bridge_dataset": "widowx_bridge", "fractal20220817_data": "google_fractal"}
DTYPES = ("float32", "bfloat16", "float16")


def add_parser(subparsers) -> None:
    """Adds `vla convert`."""
    parser = add_command(
        subparsers, "convert", "make a checkpoint of released weights", DESCRIPTION
    )
    formats = parser.add_subparsers(title="formats", metavar="FORMAT", required=True)
    instructvla = formats.add_parser("instructvla", help="a checkpoint of InstructVLA's authors")
    instructvla.add_argument("source", metavar="FILE", help="the .pt file")
    instructvla.add_argument(
        "--stats", metavar="FILE", help="dataset_statistics.json (default: of the file's run)"
    )
    instructvla.add_argument(
        "--unnorm-key", metavar="KEY", help="data set in the statistics whose robot is to act"
    )
    instructvla.add_argument(
        "--contract", help="embodiment contract (default: the one of the data set's robot)"
    )
    instructvla.add_argument("--queries", type=int, help="action queries (default: the preset's)")
    eagle = formats.add_parser(
        "eagle2", help="the vision-language model that InstructVLA starts from"
    )
    eagle.add_argument("source", metavar="SOURCE", help="folder of Eagle2-2B")
    eagle.add_argument("--contract", default="sim_panda", help="embodiment contract (sim_panda)")
    for format_parser, preset in ((instructvla, "published"), (eagle, "base")):
        format_parser.add_argument("folder", metavar="FOLDER", help="the checkpoint to write")
        format_parser.add_argument("--preset", default=preset, help=f"its sizes ({preset})")
        format_parser.add_argument(
            "--tokenizer", help="folder or Hugging Face id of the tokenizer (that of Eagle2-2B)"
        )
        format_parser.add_argument(
            "--dtype", choices=DTYPES, help="of the weights (default: as they are)"
        )
    instructvla.set_defaults(run=run_instructvla)
    eagle.set_defaults(run=run_eagle)


def run_instructvla(arguments: argparse.Namespace) -> int:
    """Converts a checkpoint of InstructVLA's authors."""
    from dataclasses import replace

    from vla.policies.backbones.eagle import Eagle
    from vla.policies.instructvla.conversion import (
        convert_released,
        data_sets,
        read_released,
        read_statistics,
    )
    from vla.policies.registry import preset
    from vla.policies.robots import Robot

    _check_target(arguments.folder)
    try:
        template = preset(arguments.preset)
        if arguments.queries is not None:
            template = replace(template, num_queries=arguments.queries)
        name = arguments.contract or CONTRACTS.get(arguments.unnorm_key)
        if name is None:
            raise CommandError("give --contract NAME: the robot that is to act")
        contract = named_contract(name)
        groups = read_released(arguments.source)
        converted = convert_released(groups, template, contract)
        # As the authors lay a run out: RUN/checkpoints/FILE, RUN/dataset_statistics.json.
        beside = Path(arguments.source).parent.parent / "dataset_statistics.json"
        stats, uses_state = arguments.stats or beside, converted.config.expert.use_state
        acting = {arguments.unnorm_key: contract}
        if not arguments.contract:
            acting |= {k: named_contract(CONTRACTS[k]) for k in data_sets(stats) if k in CONTRACTS}
        robots = [Robot(c, read_statistics(stats, k, c, uses_state)) for k, c in acting.items()]
        _write(arguments, converted, robots, arguments.tokenizer or Eagle.SOURCE, True)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return 0


def run_eagle(arguments: argparse.Namespace) -> int:
    """Converts a released Eagle 2."""
    from vla.policies.instructvla.conversion import convert_eagle, read_eagle
    from vla.policies.registry import preset
    from vla.policies.robots import Robot

    _check_target(arguments.folder)
    try:
        contract = named_contract(arguments.contract)
        groups = read_eagle(arguments.source)
        converted = convert_eagle(groups, preset(arguments.preset), contract)
        robots = [Robot(contract, {})]
        _write(arguments, converted, robots, arguments.tokenizer or arguments.source, False)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return 0


def _check_target(folder: str) -> None:
    if Path(folder).exists() and any(Path(folder).iterdir()):
        raise CommandError(f"{folder} is there already; name a new folder")


def _write(arguments, converted, robots, tokenizer_source: str, resized: bool) -> None:
    import torch

    from vla.policies.backbones.pretrained import load_tokenizer_of
    from vla.policies.checkpoint import save_checkpoint
    from vla.policies.instructvla.conversion import check_tokenizer
    from vla.policies.robots import ROBOTS
    from vla.policies.tokenizer import load_tokenizer

    # A tokenizer.json needs nothing around it.
    given = Path(tokenizer_source)
    alone = (given / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(given) if alone else load_tokenizer_of(tokenizer_source)
    check_tokenizer(tokenizer, converted.config, resized)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    save_checkpoint(
        arguments.folder,
        converted.config,
        converted.weights,
        robots,
        tokenizer,
        dtype,
    )
    if converted.idle:
        print(f"left out, since nothing uses them: {', '.join(converted.idle)}")
    print(f"written: {arguments.folder}, for {robots[0].contract.name}")
    for robot in robots[1:]:
        print(f"and {Path(arguments.folder) / ROBOTS / robot.contract.name}, its other robot")
