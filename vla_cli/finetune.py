"""`vla finetune`: teaches a policy something new from a few demonstrations, as an adapter."""

from __future__ import annotations

import argparse
import signal
from dataclasses import asdict, replace
from pathlib import Path

from vla_cli.checkpoints import named_contract
from vla_cli.overrides import overridden
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Train an adapter on a few demonstrations: low-rank changes of the language model and of the action
expert, with vision left as it is. Frames of the base's own training data are mixed in, so that old
skills and language are kept; --no-replay turns that off. The last demonstrations are held out; the
adapter that does best on them is kept, and training ends when it stops improving. Ctrl-C saves, and
the same command resumes from there.

Data is a LeRobot data set (vla data convert), a folder of bags, or shards of vla demonstrate. The
base's normalisation statistics are kept, and the share of data outside their bounds is reported.

examples:
  vla finetune --data datasets/mine --output runs/mine
  vla finetune --checkpoint checkpoints/nano --data datasets/mine --set learning_rate=0.0005
  vla adapter load runs/mine/adapter              into the running robot
  vla eval --adapter runs/mine/adapter            in simulation
"""
CONFIG = "config/training/finetune.yaml"


def add_parser(subparsers) -> None:
    """Adds `vla finetune`."""
    parser = add_command(
        subparsers,
        "finetune",
        "teach a policy from a few demonstrations",
        DESCRIPTION,
        run_finetune,
    )
    parser.add_argument(
        "--checkpoint", default="checkpoints/nano", help="folder of the base (checkpoints/nano)"
    )
    parser.add_argument("--data", nargs="+", required=True, help="folders of demonstrations")
    parser.add_argument("--output", default="runs/finetune", help="folder (runs/finetune)")
    parser.add_argument("--config", default=CONFIG, help=f"YAML file ({CONFIG})")
    parser.add_argument("--no-replay", action="store_true", help="train on the new data alone")
    parser.add_argument("--steps", type=int, help="most steps (default: by the episodes)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="override entries of `train`"
    )


def run_finetune(arguments: argparse.Namespace) -> int:
    """Trains, or continues, and prints the report."""
    import torch

    from vla.core.resources import given_or_shared
    from vla.training.config_check import check_train_config
    from vla.training.finetune import finetune, read_finetune_config
    from vla.training.sources import make_data

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = read_finetune_config(given_or_shared(arguments.config))
    steps = [] if arguments.steps is None else [f"steps={arguments.steps}"]
    run = _overridden(config.train, [*arguments.set, *steps])
    checkpoint = given_or_shared(arguments.checkpoint)
    run = replace(run, initialize_from=str(checkpoint), output=arguments.output)
    if arguments.no_replay:
        run = replace(run, robot=(), conversations=())
    check_train_config(run)
    contract = named_contract(run.contract)
    # First what takes no time: making data takes minutes.
    new = [_open(folder, contract) for folder in arguments.data]
    make_data(run, contract)
    config = replace(config, train=run)
    report = finetune(config, contract, new, _replay(run, contract), arguments.device)
    print(_summary(report, Path(arguments.output) / "adapter"))
    return 0


def _overridden(run, overrides: list[str]):
    from vla.policies.config import CheckpointError
    from vla.training.config import train_config

    return train_config(overridden(asdict(run), overrides, CheckpointError), "--set")


def _open(folder: str, contract):
    """Demonstrations in a folder, whatever their format."""
    from vla.datasets.sources import RobotData
    from vla.training.sources import kind_of, open_robot

    return open_robot(RobotData(folder, kind_of(folder)), contract)


def _replay(run, contract):
    from vla.training.finetune import replay_data
    from vla.training.sources import open_conversations, open_robot

    return replay_data(
        [open_robot(entry, contract) for entry in run.robot],
        [entry.weight for entry in run.robot],
        [entry.masked_share for entry in run.robot],
        [open_conversations(entry, contract) for entry in run.conversations],
        [entry.weight for entry in run.conversations],
    )


def _summary(report: dict, adapter: Path) -> str:
    data = report["data"]
    lines = [
        f"{data['episodes']} demonstrations, {data['held_out_episodes']} held out; best at step "
        f"{report['best_step']} of {report['steps']}, {report['seconds']} s",
        f"{'figure':<44} {'before':>9} {'after':>9}",
    ]
    for name, after in report["after"].items():
        lines.append(f"{name:<44} {report['before'][name]:>9.4f} {after:>9.4f}")
    for name, share in report["clipped"].items():
        lines.append(f"{share:.0%} of {name} lie outside the base's bounds")
    lines.append(f"adapter: {adapter}\nload it with: vla adapter load {adapter}")
    return "\n".join(lines)
