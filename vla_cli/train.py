"""`vla demonstrate` and `vla train`: make demonstrations, train a policy on them."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from vla.core.processes import usable_cores
from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError
from vla_cli.overrides import overridden
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.training.config import TrainConfig

TRAIN = """\
Train from configuration files, one after the other, or continue where a run was interrupted.
Missing simulated data is made first. Corrections, if a configuration asks for them, are made during
the run: episodes that the policy drives and the expert labels. Ctrl-C saves and stops; the same
command resumes from there. On many cores, --processes shares each batch among as many processes; on
many GPUs, start it with torchrun or accelerate, where batch sizes are those of each process.

A file may name a `parent` whose entries it begins with; --dry-run prints what follows, the model's
parameters, the memory of a GPU among 1, 8 and 64, and what would be loaded.

examples:
  vla train --processes 2                           the small policy from nothing, all stages
  vla train --config config/training/recipes/few_shot.yaml --dry-run
  vla train --config config/training/nano_action.yaml --device cuda --set batch_size=256
  accelerate launch --config_file config/training/fsdp2.yaml scripts/vla train --config mine.yaml
  tensorboard --logdir runs
"""
DEMONSTRATE = """\
Make demonstrations with a scripted expert. Existing ones are kept.

examples:
  vla demonstrate --out datasets/table_top --episodes 2200
  vla demonstrate --config config/training/nano_metaworld.yaml       50 of each of MetaWorld's tasks
"""
SHIPPED = tuple(
    f"config/training/nano_{stage}.yaml"
    for stage in ("pretrain", "full", "refine", "refuse", "spoken")
)
DEMONSTRATED = SHIPPED[1]


def add_parser(subparsers) -> None:
    """Adds both subcommands."""
    train = add_command(subparsers, "train", "train a policy, or continue", TRAIN, run_train)
    train.add_argument(
        "--config", nargs="+", default=SHIPPED, help="YAML files (those of the small policy)"
    )
    train.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    train.add_argument("--threads", type=int, help="CPU threads (default: all)")
    train.add_argument(
        "--processes",
        type=int,
        default=1,
        help="that share each batch on a CPU, at most one a core (1)",
    )
    train.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="override entries of the files"
    )
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="print the whole configurations and the memory they need, and train nothing",
    )

    demonstrate = add_command(
        subparsers, "demonstrate", "make demonstrations in simulation", DEMONSTRATE, run_demonstrate
    )
    demonstrate.add_argument("--config", default=DEMONSTRATED, help=f"YAML file ({DEMONSTRATED})")
    demonstrate.add_argument("--out", help="folder (default: that of the file's simulated data)")
    demonstrate.add_argument("--episodes", type=int, help="how many (default: the file's)")
    demonstrate.add_argument("--workers", type=int, help="processes (default: one per core)")


def _read(path: str, overrides: Sequence[str] = ()):
    """The configuration of a file, with overrides."""
    from dataclasses import asdict

    from vla.core.resources import given_or_shared
    from vla.policies.config import CheckpointError
    from vla.training.config import read_train_config, train_config

    values = asdict(read_train_config(given_or_shared(path)))
    return train_config(overridden(values, overrides, CheckpointError), "--set")


def run_demonstrate(arguments: argparse.Namespace) -> int:
    """Makes the missing part of a data set."""
    from vla.datasets.sources import RobotData
    from vla.training.source_registry import ROBOT_SOURCES

    config = _read(arguments.config)
    found = [entry for entry in config.robot if ROBOT_SOURCES[entry.kind].makes_data]
    if not arguments.out and not found:
        raise CommandError(f"{arguments.config} names no simulated data; give --out")
    entry = found[0] if found else RobotData(arguments.out)
    if arguments.episodes:
        entry = replace(entry, options={**entry.options, "episodes": arguments.episodes})
    entry = replace(entry, path=arguments.out or entry.path)
    ROBOT_SOURCES[entry.kind].make(entry, named_contract(config.contract), arguments.workers)
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    """Trains, or continues, each configuration in turn."""
    if arguments.processes < 1:
        raise CommandError(f"--processes {arguments.processes}: give 1 or more")
    if arguments.processes > 1 and arguments.device != "cpu":
        raise CommandError("--processes is for a CPU: on GPUs, start it with torchrun")
    processes = min(arguments.processes, usable_cores())
    if processes > 1 and "RANK" not in os.environ and not arguments.dry_run:
        _start_processes(processes)
    import torch

    from vla.training.config import train_config_text
    from vla.training.config_check import check_train_config
    from vla.training.objectives.base import Objective
    from vla.training.objectives.registry import objective_of
    from vla.training.run import train_run

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # A scheduler ends a job with SIGTERM; it should save as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configs = [_read(path, arguments.set) for path in arguments.config]
    configs = [shared(config, processes) for config in configs]
    for path, config in zip(arguments.config, configs, strict=True):
        check_train_config(config)
        command = objective_of(config).command
        if command != Objective.command:
            raise CommandError(f"stage '{config.stage}' is trained by '{command}'")
        _check_model(path, config)
    if arguments.dry_run:
        for path, config in zip(arguments.config, configs, strict=True):
            print(f"# {path}\n{train_config_text(config)}", end="")
            _print_footprint(config)
        return 0
    for path, config in zip(arguments.config, configs, strict=True):
        print(f"{path}: stage {config.stage}, {config.steps} steps, to {config.output}")
        contract = named_contract(config.contract)
        checkpoint = train_run(config, contract, arguments.device)
    print(f"checkpoint: {checkpoint}\nevaluate it with: vla eval --checkpoint {checkpoint}")
    return 0


def _start_processes(count: int) -> NoReturn:
    """Becomes torchrun, which starts this command in each process."""
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores() // count))
    launched = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    command = [sys.executable, "-m", *launched, "vla_cli", *sys.argv[1:]]
    os.execv(sys.executable, command)


def shared(config: TrainConfig, processes: int) -> TrainConfig:
    """The configuration of each of so many processes, with its share of a batch, rounded up."""
    sizes = {
        name: math.ceil(getattr(config, name) / processes)
        for name in ("batch_size", "conversation_batch_size")
    }
    return replace(config, **sizes)


def _print_footprint(config) -> None:
    """Prints what a run would hold and load, as comments behind its configuration."""
    from vla.policies.config import CheckpointError
    from vla.training.footprint import footprint, loads_text

    contract = named_contract(config.contract)
    try:
        text = f"{footprint(config, contract).text()}\nwould load\n{loads_text(config, contract)}"
    except CheckpointError as error:  # Its start is still to come, and is no such preset.
        text = f"not counted: {error}"
    print("\n".join(f"# {line}" for line in text.split("\n")))


def _check_model(path: str, config) -> None:
    """Raises CommandError for a model that can't be built, before anything is made or trained.

    path: of the configuration. What is still to be trained or downloaded is not looked at.
    """
    from vla.policies.config import CheckpointError
    from vla.training.footprint import as_far_as_here
    from vla.training.loop import model_config, open_start

    here = as_far_as_here(config)
    if config.initialize_from and not here.initialize_from:
        return
    try:
        model_config(here, open_start(here))
    except CheckpointError as error:
        raise CommandError(f"{path}: {error}") from error
