"""`vla data check`: checks data sets before anything is trained on them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cli.checkpoints import named_contract
from vla_cli.errors import CommandError
from vla_cli.result_files import require_writable, write_result
from vla_cli.subcommands import add_command

if TYPE_CHECKING:
    from vla.core.findings import Finding

CHECK = """\
Check data sets before anything is trained on them: what they claim beside what they hold, and both
beside the contract. Rate, rows, timestamps, instructions, names and units of states and actions,
the gripper's range, images and videos, conversations. Nothing is changed.

`vla train` and `vla finetune` refuse by themselves what is a problem here.

examples:
  vla data check datasets/mine                          it carries its contract
  vla data check datasets/theirs --contract sim_panda --mapping mapping.yaml
  vla data check --config train.yaml                    every data set of a training
  vla data check talk.json output/bags --contract fr3 --json output/check.json

exit status: 0 nothing is wrong, 1 problems were found, 2 the check could not run
"""


def add_parser(commands) -> None:
    """Adds the subcommand."""
    check = add_command(
        commands, "check", "check data sets before they are trained on", CHECK, run_check
    )
    check.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="LeRobot data sets, folders of bags or shards, or JSON files of conversations",
    )
    check.add_argument(
        "--config", nargs="+", default=[], help="YAML files of vla train or vla finetune"
    )
    check.add_argument(
        "--contract", default="", help="embodiment contract (default: the data set's own)"
    )
    check.add_argument("--mapping", default="", help="YAML file for LeRobot sets of others")
    check.add_argument("--annotations", default="", help="VLA-IT file that goes with them")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, too")


def run_check(arguments: argparse.Namespace) -> int:
    """Checks and prints."""
    from vla.core.findings import report, verdict
    from vla.core.shown import shown_path
    from vla.training.data_check import check_config, check_folder

    if not arguments.folders and not arguments.config:
        raise CommandError("name folders of data sets, or a training by --config")
    require_writable(arguments.json)
    found: dict[str, list[Finding]] = {}
    contract = named_contract(arguments.contract) if arguments.contract else None
    for path in arguments.config:
        config = _read(path)
        found |= check_config(config, contract or named_contract(config.contract))
    for folder in arguments.folders:
        more = check_folder(folder, contract, arguments.mapping, arguments.annotations)
        found[folder] = [*found.get(folder, []), *more]
    for path, findings in found.items():
        print(f"== {shown_path(path)}\n{report(findings)}\n")
    judged = [{"path": path} | verdict(findings) for path, findings in found.items()]
    together = {
        "ready": all(entry["ready"] for entry in judged),
        "problems": sum(entry["problems"] for entry in judged),
        "warnings": sum(entry["warnings"] for entry in judged),
        "sets": judged,
    }
    if arguments.json:
        write_result(arguments.json, together)
    if not found:
        print("the configuration names no data", file=sys.stderr)
    return 0 if together["ready"] else 1


def _read(path: str):
    """The configuration of a training, or the one inside of a fine-tuning's."""
    from vla.core.files import read_yaml
    from vla.core.resources import given_or_shared
    from vla.policies.config import CheckpointError
    from vla.training.config import read_train_config
    from vla.training.finetune import read_finetune_config

    given = given_or_shared(path)
    values = read_yaml(given, CheckpointError)
    if isinstance(values, dict) and "train" in values:
        return read_finetune_config(given).train
    return read_train_config(given)
