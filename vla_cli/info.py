"""`vla info`: parts and parameter counts of a preset or a checkpoint."""

from __future__ import annotations

import argparse
import json

from vla_cli.errors import CommandError

DESCRIPTION = """\
Show the parts of a preset or a checkpoint and their parameter counts. Nothing large is allocated.

examples:
  vla info                              the presets
  vla info --preset nano
  vla info --preset base_generalist     the published size, after stage 2
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
    """Parameters by part of an InstructVLA model; together they are all of them.

    Parts that a model does not have are left out.
    """
    from vla.policies.lora import lora_layers

    reasoning, expert = model.reasoning, model.expert
    backbone = reasoning.backbone

    def count(*modules) -> int:
        # Tied weights count once.
        found = {id(p): p.numel() for m in modules if m is not None for p in m.parameters()}
        return sum(found.values())

    adapters = sum(
        layer.lora_a.numel() + layer.lora_b.numel() for layer in lora_layers(backbone).values()
    )
    vision = {name: count(module) for name, module in backbone.vision_parts.items()}
    kind = "DINOv2 with FiLM" if expert.config.vision == "dinov2" else "vision encoder with FiLM"
    parts = {
        **vision,
        "language model": count(backbone.model) - sum(vision.values()) - adapters,
        "LoRA": adapters,
        "scale head": count(backbone.scale_head),
        "action queries": reasoning.query_embedding.numel() + reasoning.query_output.numel(),
        kind: count(expert.vision),
        "visual projector": count(expert.vision_projector),
        "latent projector": count(expert.latent_projector),
        "state encoder": count(expert.state_projector),
        "action encoder": count(expert.action_embedding, expert.action_projector),
        "action expert": count(expert.layers, expert.norm),
        "output MLP": count(expert.head),
    }
    return {name: value for name, value in parts.items() if value}


def count_stages(model, parts: dict[str, int]) -> dict[str, int]:
    """What the published figures count of a model with LoRA experts: sums that overlap.

    Stage 1 trains the action half and one adapter, stage 2 all adapters. The action queries, which
    both stages train too, are not in the published figures and not in these.
    """
    experts = len(model.config.lora.experts)
    if not experts:
        return {}
    adapter = parts["LoRA"] // experts
    action_half = sum(p.numel() for p in model.expert.parameters() if p.requires_grad)
    stages = {"LoRA (per expert)": adapter, "stage 1 trainable": action_half + adapter}
    if experts > 1:
        stages["stage 2 LoRA"] = parts["LoRA"]
    return stages


def run_info(arguments: argparse.Namespace) -> int:
    """Prints the counts."""
    import torch

    from vla.contract.embodiment import load_contract
    from vla.core.resources import contract_path, given_or_shared
    from vla.policies.checkpoint import build_model, open_checkpoint
    from vla.policies.config import CheckpointError
    from vla.policies.instructvla.presets import PRESETS, preset
    from vla.policies.robots import read_robots

    if not arguments.preset and not arguments.checkpoint:
        print("presets: " + ", ".join(sorted(PRESETS)))
        return 0
    facts: dict[str, object] = {}
    try:
        if arguments.checkpoint:
            checkpoint = open_checkpoint(given_or_shared(arguments.checkpoint))
            config, contract = checkpoint.config, checkpoint.contract
            robots = [robot.contract.name for robot in read_robots(checkpoint.folder)]
            facts = {"checkpoint_id": checkpoint.checkpoint_id, "contract": contract.name}
            facts |= {"robots": ", ".join(robots)} if len(robots) > 1 else {}
        else:
            config = preset(arguments.preset)
            contract = load_contract(contract_path("sim_panda"))
    except (CheckpointError, ValueError) as error:
        raise CommandError(str(error)) from error
    with torch.device("meta"):
        model = build_model(config, contract)
    parts = count_parts(model)
    stages = count_stages(model, parts)
    facts |= {
        "preset": config.preset,
        "action_queries": config.num_queries,
        "horizon": contract.horizon,
        "parameters": parts,
        "total": sum(parts.values()),
        **({"of these": stages} if stages else {}),
    }
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name in ("checkpoint_id", "contract", "robots", "preset", "action_queries", "horizon"):
        if name in facts:
            print(f"{name:<40} {facts[name]:>13}")
    for name, value in [*parts.items(), ("total", facts["total"])]:
        print(f"{name:<40} {value:>13,}")
    if stages:
        print("\nof these")
    for name, value in stages.items():
        print(f"{name:<40} {value:>13,}")
    return 0
