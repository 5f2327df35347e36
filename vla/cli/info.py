"""`vla info`: parts and parameter counts of a preset or a checkpoint."""

from __future__ import annotations

import argparse
import json

from vla.cli.errors import CommandError

DESCRIPTION = """\
Show the parts of a preset or a checkpoint and their parameter counts. Nothing large is allocated.

examples:
  vla info                              the presets
  vla info --preset nano
  vla info --checkpoint checkpoints/nano --json
"""


def add_parser(subparsers) -> None:
    """Adds `vla info`."""
    parser = subparsers.add_parser(
        "info",
        help="parts and parameter counts of a preset or checkpoint",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--preset", help="name of a preset")
    group.add_argument("--checkpoint", help="checkpoint folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_info)


def count_parts(model) -> dict[str, int]:
    """Parameters by part of an InstructVLA model."""
    reasoning, expert = model.reasoning, model.expert
    backbone = reasoning.backbone.model

    def count(module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    parts = {
        "vision-language model: vision encoder": count(backbone.model.vision_tower),
        "vision-language model: connector": count(backbone.model.multi_modal_projector),
        "vision-language model: language model": count(backbone.model.language_model),
        "action queries": reasoning.query_embedding.numel() + reasoning.query_output.numel(),
        "expert: vision encoder with FiLM": count(expert.vision),
        "expert: transformer": count(expert.layers) + count(expert.norm),
        "expert: output MLP": count(expert.head),
    }
    parts["expert: projectors"] = count(expert) - sum(
        value for name, value in parts.items() if name.startswith("expert")
    )
    return parts


def run_info(arguments: argparse.Namespace) -> int:
    """Prints the counts."""
    import torch

    from vla.checkpoint import build_model, open_checkpoint
    from vla.contract import load_contract
    from vla.models.config import CheckpointError
    from vla.models.presets import PRESETS, preset
    from vla.resources import contract_path, given_or_shared

    if not arguments.preset and not arguments.checkpoint:
        print("presets: " + ", ".join(sorted(PRESETS)))
        return 0
    facts: dict[str, object] = {}
    try:
        if arguments.checkpoint:
            checkpoint = open_checkpoint(given_or_shared(arguments.checkpoint))
            config, contract = checkpoint.config, checkpoint.contract
            facts = {"checkpoint_id": checkpoint.checkpoint_id, "contract": contract.name}
        else:
            config = preset(arguments.preset)
            contract = load_contract(contract_path("sim_panda"))
    except (CheckpointError, ValueError) as error:
        raise CommandError(str(error)) from error
    with torch.device("meta"):
        parts = count_parts(build_model(config, contract))
    facts |= {
        "preset": config.preset,
        "action_queries": config.num_queries,
        "horizon": contract.horizon,
        "parameters": parts,
        "total": sum(parts.values()),
    }
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        if name != "parameters":
            print(f"{name:<40} {value:>12}" if name != "total" else f"{'total':<40} {value:>12,}")
    for name, value in parts.items():
        print(f"{name:<40} {value:>12,}")
    return 0
