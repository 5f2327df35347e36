"""`vla info`: parts and parameter counts of a preset or a checkpoint."""

from __future__ import annotations

import argparse
import json

from vla_cli.checkpoints import named_contract
from vla_cli.subcommands import add_command

DESCRIPTION = """\
Show the parts of a preset or a checkpoint and their parameter counts. No weights are allocated.

examples:
  vla info                              the presets
  vla info --preset nano
  vla info --preset base_generalist     the published size, after stage 2
  vla info --checkpoint checkpoints/nano --json
"""


def add_parser(subparsers) -> None:
    """Adds `vla info`."""
    parser = add_command(
        subparsers,
        "info",
        "parts and parameter counts of a preset or checkpoint",
        DESCRIPTION,
        run_info,
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--preset", help="name of a preset")
    group.add_argument("--checkpoint", help="checkpoint folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_info(arguments: argparse.Namespace) -> int:
    """Prints the counts."""
    import torch

    from vla.core.resources import given_or_shared
    from vla.policies.checkpoint import build_model, open_checkpoint
    from vla.policies.registry import policy_type, preset, presets
    from vla.policies.robots import read_robots

    if not arguments.preset and not arguments.checkpoint:
        print("presets: " + ", ".join(sorted(presets())))
        return 0
    facts: dict[str, object] = {}
    if arguments.checkpoint:
        checkpoint = open_checkpoint(given_or_shared(arguments.checkpoint))
        config, contract = checkpoint.config, checkpoint.contract
        robots = [robot.contract.name for robot in read_robots(checkpoint.folder)]
        facts = {"checkpoint_id": checkpoint.checkpoint_id, "contract": contract.name}
        facts |= {"robots": ", ".join(robots)} if len(robots) > 1 else {}
    else:
        config, contract = preset(arguments.preset), named_contract("sim_panda")
    with torch.device("meta"):
        model = build_model(config, contract)
    kind = policy_type(config.TYPE)
    parts = kind.parameter_counts(model)
    stages = kind.published_counts(model, parts)
    facts |= {
        "type": config.TYPE,
        **kind.facts(config),
        "horizon": contract.horizon,
        "parameters": parts,
        "total": sum(parts.values()),
        **({"of these": stages} if stages else {}),
    }
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        if not isinstance(value, dict) and name != "total":
            print(f"{name:<40} {value:>13}")
    for name, value in [*parts.items(), ("total", facts["total"])]:
        print(f"{name:<40} {value:>13,}")
    if stages:
        print("\nof these")
    for name, value in stages.items():
        print(f"{name:<40} {value:>13,}")
    return 0
