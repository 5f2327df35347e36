"""`vla demonstrate` and `vla train`: make demonstrations, train a policy on them."""

from __future__ import annotations

import argparse
import signal
from dataclasses import replace
from pathlib import Path

from vla.cli.errors import CommandError

TRAIN = """\
Train a policy from a configuration file, or continue a run that was interrupted.
Demonstrations that the configuration asks for and that are missing are made first; corrections,
where it asks for any, in the middle: episodes that the policy drives and the expert labels.
Ctrl-C saves and stops; the same command goes on from there.

examples:
  vla train                                         the shipped policy, config/training/nano.yaml
  vla train --config config/training/nano.yaml --device cuda --set steps=40000 batch_size=256
  tensorboard --logdir runs/nano/tensorboard
"""
DEMONSTRATE = """\
Make demonstrations with the scripted expert. What is already there is kept.

examples:
  vla demonstrate --out datasets/table_top --episodes 2200
"""
DEFAULT_CONFIG = "config/training/nano.yaml"


def add_parser(subparsers) -> None:
    """Adds both subcommands."""
    train = subparsers.add_parser(
        "train",
        help="train a policy, or continue",
        description=TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--config", default=DEFAULT_CONFIG, help=f"YAML file ({DEFAULT_CONFIG})")
    train.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    train.add_argument("--threads", type=int, help="CPU threads (default: all)")
    train.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="override entries of the file"
    )
    train.set_defaults(run=run_train)

    demonstrate = subparsers.add_parser(
        "demonstrate",
        help="make demonstrations in simulation",
        description=DEMONSTRATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demonstrate.add_argument(
        "--config", default=DEFAULT_CONFIG, help=f"YAML file ({DEFAULT_CONFIG})"
    )
    demonstrate.add_argument("--out", help="folder (default: the file's dataset)")
    demonstrate.add_argument("--episodes", type=int, help="how many (default: the file's)")
    demonstrate.add_argument("--workers", type=int, help="processes (default: one per core)")
    demonstrate.set_defaults(run=run_demonstrate)


def _read(path: str, overrides: list[str] = ()):
    """The configuration with NAME=VALUE overrides, read as YAML."""
    from dataclasses import asdict

    import yaml

    from vla.models.config import CheckpointError, from_dict
    from vla.resources import given_or_shared
    from vla.training.config import TrainConfig, read_train_config

    try:
        values = asdict(read_train_config(given_or_shared(path)))
        for override in overrides:
            name, separator, text = override.partition("=")
            if not separator:
                raise CheckpointError(f"--set takes NAME=VALUE, got '{override}'")
            value = yaml.safe_load(text)
            if isinstance(value, dict) and isinstance(values.get(name), dict):
                value = values[name] | value
            values[name] = value
        return from_dict(TrainConfig, values, "--set")
    except CheckpointError as error:
        raise CommandError(str(error)) from error


def _contract(config):
    """The embodiment contract that a configuration names."""
    from vla.contract import load_contract
    from vla.resources import contract_path

    try:
        return load_contract(contract_path(config.contract))
    except ValueError as error:
        raise CommandError(str(error)) from error


def _demonstrate(contract, config, folder: str, workers: int | None) -> None:
    from tqdm import tqdm

    from vla.sim.demonstrations import make_demonstrations

    total = -(-config.episodes // config.episodes_per_shard)
    present = sum((Path(folder) / f"shard-{index:05d}").exists() for index in range(total))
    if present == total:
        return
    print(
        f"making demonstrations in {folder}: {config.episodes} episodes, "
        f"{present} of {total} shards there"
    )
    with tqdm(total=total, unit="shard") as progress:
        failures = make_demonstrations(
            folder, contract, config, workers, lambda done, _: progress.update(done - progress.n)
        )
    print(f"the expert failed in {failures} disturbed episodes; they are left out")


def _correct(contract, config, folder: Path, checkpoint: Path) -> None:
    from tqdm import tqdm

    from vla.training.corrections import make_corrections

    total = -(-config.episodes // config.episodes_per_shard)
    if all((folder / f"shard-{index:05d}").exists() for index in range(total)):
        return
    print(f"the policy drives {config.episodes} episodes, which the expert labels, in {folder}")
    with tqdm(total=total, unit="shard") as progress:
        failures = make_corrections(
            folder,
            checkpoint,
            contract,
            config,
            on_shard=lambda done, _: progress.update(done - progress.n),
        )
    print(f"the policy failed in {failures} of them")


def run_demonstrate(arguments: argparse.Namespace) -> int:
    """Makes what is missing of a dataset."""
    config = _read(arguments.config)
    demonstrations = config.demonstrations
    if arguments.episodes:
        demonstrations = replace(demonstrations, episodes=arguments.episodes)
    contract = _contract(config)
    _demonstrate(contract, demonstrations, arguments.out or config.dataset, arguments.workers)
    return 0


def camera_views(contract):
    """Calibration of the simulated cameras, which the demonstrations were seen by."""
    from vla.rotations import quaternion_to_matrix
    from vla.sim.simulator import TableTopSimulator
    from vla.training.grounding import CameraView

    simulator = TableTopSimulator(contract.camera("front").width)
    size, views = simulator.camera_size, {}
    tool, quaternion = simulator.end_effector_pose()
    tool_rotation = quaternion_to_matrix(quaternion)
    for name in simulator.camera_names:
        position, rotation = simulator.camera_pose(name)
        on_tool = name == "wrist"
        if on_tool:
            position = tool_rotation.T @ (position - tool)
            rotation = tool_rotation.T @ rotation
        matrix = simulator.camera_matrix(name)
        views[name] = CameraView(position, rotation, matrix, size, on_tool)
    simulator.close()
    return views


def run_train(arguments: argparse.Namespace) -> int:
    """Trains, or continues."""
    import torch

    from vla.contract import ContractError
    from vla.data.frames import DatasetError, read_dataset
    from vla.models.config import CheckpointError
    from vla.training.loop import train

    config = _read(arguments.config, arguments.set)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # A scheduler ends a job with SIGTERM; it should save as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    contract = _contract(config)
    try:
        _demonstrate(contract, config.demonstrations, config.dataset, None)
        shards = read_dataset(config.dataset, contract)
        print(f"{sum(map(len, shards))} frames of {sum(len(s.episodes) for s in shards)} episodes")
        views, device = camera_views(contract), arguments.device
        corrections = config.corrections
        for step in sorted(corrections.after_steps):
            checkpoint = train(config, contract, shards, device, views, until=step)
            folder = Path(config.output) / f"corrections-{step:06d}"
            _correct(contract, corrections, folder, checkpoint)
            shards += read_dataset(folder, contract) * corrections.repeats
            corrections = replace(corrections, seed=corrections.seed + corrections.episodes)
        checkpoint = train(config, contract, shards, device, views)
    except (CheckpointError, ContractError, DatasetError) as error:
        raise CommandError(str(error)) from error
    print(f"checkpoint: {checkpoint}\nevaluate it with: vla eval --checkpoint {checkpoint}")
    return 0
