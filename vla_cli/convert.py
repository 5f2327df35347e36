"""`vla convert`: released weights of other code into checkpoint folders."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vla.policies.loaded import Allowed
    from vla.policies.released import Converted
    from vla.policies.robots import Robot

DESCRIPTION = """\
Convert released weights into a checkpoint folder that everything here loads.

examples:
  vla convert instructvla run/checkpoints/step-034500.pt output/expert --unnorm-key bridge_dataset
  vla convert instructvla libero/checkpoints/step-030000.pt output/libero_goal \\
      --preset published_two_cameras --unnorm-key libero_goal_no_noops
  vla convert eagle2 Eagle2-2B output/eagle2         to start stage 1 of training from
  vla convert eagle2 Eagle2-2B output/eagle2 --vision-source facebook/dinov2-with-registers-large
  vla convert robovlms run/last.pt output/kosmos --config run/config.json \\
      --contract my_robot.yaml
"""

# The data sets of LIBERO, whose actions are in units of its own.
LIBERO = tuple(f"libero_{suite}_no_noops" for suite in ("spatial", "object", "goal", "10"))
# Robots of the data sets that the released weights were trained on.
CONTRACTS = {
    "bridge_dataset": "widowx_bridge",
    "fractal20220817_data": "google_fractal",
    **dict.fromkeys(LIBERO, "libero_instructvla"),
}
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
    robovlms = formats.add_parser("robovlms", help="a checkpoint of RoboVLMs' authors")
    robovlms.add_argument("source", metavar="FILE", help="the .pt or .ckpt file")
    robovlms.add_argument(
        "--config", required=True, metavar="FILE", help="the run's configuration (JSON)"
    )
    robovlms.add_argument(
        "--contract", required=True, help="embodiment contract of the robot that is to act"
    )
    robovlms.add_argument(
        "--backbone",
        metavar="SOURCE",
        help="folder or Hugging Face id of the vision-language model that it was trained from "
        "(default: the usual one of its kind)",
    )
    robovlms.add_argument(
        "--stats",
        metavar="FILE",
        help="dataset_statistics.json, where actions were normalised by one",
    )
    robovlms.add_argument("--unnorm-key", metavar="KEY", help="data set in the statistics")
    robovlms.add_argument(
        "--units",
        nargs=2,
        type=float,
        default=(1.0, 1.0),
        metavar=("M", "RAD"),
        help="what 1 is of the data's translations and rotations; 0.02 0.05 for CALVIN (1 1)",
    )
    for format_parser in (instructvla, eagle, robovlms):
        format_parser.add_argument("folder", metavar="FOLDER", help="the checkpoint to write")
        format_parser.add_argument(
            "--dtype", choices=DTYPES, help="of the weights (default: as they are)"
        )
        for option, what in (
            ("--allow-missing", "weights that may be missing and then have to be trained"),
            ("--allow-unexpected", "weights of the source that may be left over"),
        ):
            format_parser.add_argument(
                option, nargs="+", default=(), metavar="PATTERN", help=f"{what} (none)"
            )
    for format_parser, preset in ((instructvla, "published"), (eagle, "base")):
        format_parser.add_argument("--preset", default=preset, help=f"its sizes ({preset})")
        format_parser.add_argument(
            "--tokenizer", help="folder or Hugging Face id of the tokenizer (that of Eagle2-2B)"
        )
        format_parser.add_argument(
            "--vision-source",
            default="",
            metavar="SOURCE",
            help="folder, Hugging Face id or timm file of the DINOv2 that the action expert gets",
        )
    instructvla.set_defaults(run=run_instructvla)
    eagle.set_defaults(run=run_eagle)
    robovlms.set_defaults(run=run_robovlms)


def run_instructvla(arguments: argparse.Namespace) -> int:
    """Converts a checkpoint of InstructVLA's authors."""
    from dataclasses import replace

    from vla.envs.libero.environment import UNITS
    from vla.policies.backbones.eagle import Eagle
    from vla.policies.instructvla.conversion import (
        convert_released,
        read_released,
    )
    from vla.policies.registry import preset
    from vla.policies.released import data_sets, in_units, read_statistics
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
        converted = convert_released(
            groups, template, contract, arguments.vision_source, _allowed(arguments)
        )
        # As the authors lay a run out: RUN/checkpoints/FILE, RUN/dataset_statistics.json.
        beside = Path(arguments.source).parent.parent / "dataset_statistics.json"
        stats, uses_state = arguments.stats or beside, converted.config.expert.use_state
        acting = {arguments.unnorm_key: contract}
        if not arguments.contract:
            acting |= {k: named_contract(CONTRACTS[k]) for k in data_sets(stats) if k in CONTRACTS}
        robots = []
        for key, own in acting.items():
            normalization = read_statistics(stats, key, own, uses_state)
            if key in LIBERO:
                normalization["action"] = in_units(normalization["action"], UNITS)
            robots.append(Robot(own, normalization))
        tokenizer = _tokenizer(arguments.tokenizer or Eagle.SOURCE, converted.config, True)
        _write(arguments, converted, robots, tokenizer)
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
        template = preset(arguments.preset)
        converted = convert_eagle(
            groups, template, contract, arguments.vision_source, _allowed(arguments)
        )
        tokenizer = _tokenizer(arguments.tokenizer or arguments.source, converted.config, False)
        _write(arguments, converted, [Robot(contract, {})], tokenizer)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return 0


def run_robovlms(arguments: argparse.Namespace) -> int:
    """Converts a checkpoint of RoboVLMs' authors."""
    from vla.policies.backbones import KINDS
    from vla.policies.backbones.pretrained import backbone_config, load_tokenizer_of
    from vla.policies.released import read_statistics
    from vla.policies.robots import Robot
    from vla.policies.robovlms.conversion import convert_released, read_released, released_stats
    from vla.policies.robovlms.conversion_config import kind_of, read_released_config

    _check_target(arguments.folder)
    try:
        contract = named_contract(arguments.contract)
        released = read_released_config(arguments.config)
        source = arguments.backbone or KINDS[kind_of(released)].SOURCE
        stats = None
        if arguments.stats:
            every = read_statistics(arguments.stats, arguments.unnorm_key, contract, False)
            stats = every["action"]
        robot = Robot(contract, released_stats(released, contract, stats, arguments.units))
        tensors = read_released(arguments.source)
        backbone = backbone_config(kind_of(released), source)
        converted = convert_released(tensors, released, backbone, contract, _allowed(arguments))
        _write(arguments, converted, [robot], load_tokenizer_of(source))
    except ValueError as error:
        raise CommandError(str(error)) from error
    return 0


def _allowed(arguments: argparse.Namespace) -> Allowed:
    from vla.policies.loaded import Allowed

    return Allowed(tuple(arguments.allow_missing), tuple(arguments.allow_unexpected))


def _check_target(folder: str) -> None:
    if Path(folder).exists() and any(Path(folder).iterdir()):
        raise CommandError(f"{folder} is there already; name a new folder")


def _tokenizer(source: str, config, resized: bool) -> Tokenizer:
    """The tokenizer of a folder or id, checked against a converted InstructVLA."""
    from vla.policies.backbones.pretrained import load_tokenizer_of
    from vla.policies.instructvla.conversion import check_tokenizer
    from vla.policies.tokenizer import load_tokenizer

    # A tokenizer.json needs nothing around it.
    given = Path(source)
    alone = (given / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(given) if alone else load_tokenizer_of(source)
    check_tokenizer(tokenizer, config, resized)
    return tokenizer


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside it that takes its place at the end, and is gone after an error."""
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()  # It is empty.
        partial.rename(folder)
    except OSError as error:
        raise CommandError(f"{folder} can't be written: {error}; give another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    arguments: argparse.Namespace, converted: Converted, robots: list[Robot], tokenizer: Tokenizer
) -> None:
    import torch

    from vla.policies.checkpoint import save_checkpoint
    from vla.policies.loaded import random_text
    from vla.policies.robots import ROBOTS

    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    with _whole(Path(arguments.folder)) as folder:
        save_checkpoint(folder, converted.config, converted.weights, robots, tokenizer, dtype)
    for loaded in converted.loaded:
        print(loaded.text())
    if converted.random:
        print(random_text(converted.random))
    print(f"written: {arguments.folder}, for {robots[0].contract.name}")
    for robot in robots[1:]:
        print(f"and {Path(arguments.folder) / ROBOTS / robot.contract.name}, its other robot")
