"""A tiny policy with random weights: everything but skill, in a second."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.contract.embodiment import EmbodimentContract, dimension_kinds, load_contract
from vla.contract.normalization import measure
from vla.policies.checkpoint import build_model, save_checkpoint
from vla.policies.registry import preset
from vla.policies.robots import Robot
from vla.policies.tokenizer import train_tokenizer

CONTRACT_PATH = Path(__file__).parents[1] / "config" / "contracts" / "sim_panda.yaml"
SENTENCES = ("pick the red block", "put the can in the bowl", "what is on the table ?")


def save_tiny_checkpoint(
    folder: Path,
    contract: EmbodimentContract | None = None,
    scale: float = 1.0,
    config: Any = None,
) -> Path:
    """Writes a checkpoint into `folder` and returns it; every weight is multiplied by `scale`.

    config: of the policy, by default the preset "test".
    """
    contract = contract or load_contract(CONTRACT_PATH)
    config = config or preset("test")
    torch.manual_seed(0)
    model = build_model(config, contract)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    generator = np.random.default_rng(0)
    kinds = dimension_kinds(contract)
    stats = {
        "state": measure(generator.uniform(-1, 1, (100, 10)), contract.state_names, kinds["state"]),
        "action": measure(
            generator.uniform(-0.01, 0.01, (100, 7)), contract.action_names, kinds["action"]
        ),
    }
    tokenizer = train_tokenizer(SENTENCES, config.backbone.vocabulary)
    save_checkpoint(folder, config, model.state_dict(), [Robot(contract, stats)], tokenizer)
    return folder
