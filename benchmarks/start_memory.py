"""How much memory a start takes: the peak of resident memory, relative to the model's own size.

Writes a checkpoint of a preset in half precision into a temporary folder, then loads it in fresh
processes, as training starts from it, alone and sharded over two, and as the nodes open its parts,
and prints JSON. What two processes share is on the CPU, so their memory holds the shards, too:

    python benchmarks/start_memory.py --preset small
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from training_matrix import PROCESSES, enter

from vla.contract.embodiment import load_contract
from vla.contract.normalization import NormStats
from vla.core.resources import contract_path
from vla.policies.checkpoint import build_model, open_checkpoint, save_checkpoint
from vla.policies.registry import preset
from vla.policies.released import unread_state
from vla.policies.robots import Robot
from vla.policies.tokenizer import train_tokenizer
from vla.training.config import TrainConfig
from vla.training.loop import Trainer, model_config
from vla.training.start import started_model

CONTRACT = load_contract(contract_path("sim_panda"))


def write_checkpoint(folder: Path, name: str) -> None:
    """A checkpoint of a preset, in half precision, every weight zero."""
    config = preset(name)
    with torch.device("meta"):
        weights = build_model(config, CONTRACT).state_dict()
    zeros = {n: torch.zeros(v.shape, dtype=torch.float16) for n, v in weights.items()}
    limits = [torch.ones(len(CONTRACT.action_names)).numpy() * sign for sign in (-1, 1)]
    action = NormStats(CONTRACT.action_names, ("absolute",) * len(CONTRACT.action_names), *limits)
    stats = {"action": action, "state": unread_state(CONTRACT)}
    tokenizer = train_tokenizer(["pick the can"], config.backbone.vocabulary)
    if config.backbone.chat.end not in tokenizer.get_vocab():
        tokenizer.add_special_tokens([config.backbone.chat.end])
    save_checkpoint(folder, config, zeros, [Robot(CONTRACT, stats)], tokenizer)


def megabytes(name: str) -> float:
    """An entry of this process's status, such as VmHWM, the peak of its resident memory."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) / 1024


def measure(load: Callable[[], torch.nn.Module]) -> dict[str, float]:
    """What loading takes at its peak, and the size of what it gives [MB]."""
    Path("/proc/self/clear_refs").write_text("5")  # Begins a new peak.
    before = megabytes("VmRSS")
    model = load()
    peak = megabytes("VmHWM") - before
    # Tied weights count once.
    size = sum(p.nbytes for p in model.parameters()) / 2**20
    return {
        "model_megabytes": round(size, 1),
        "peak_megabytes": round(peak, 1),
        "peak_per_model": round(peak / size, 3),
    }


def load_as(use: str, folder: str) -> Callable[[], torch.nn.Module]:
    """How a checkpoint is loaded for a use, see USES."""
    checkpoint = open_checkpoint(folder)
    if use in ("reasoning", "action_expert"):
        opened = checkpoint.type
        part = opened.open_reasoning if use == "reasoning" else opened.open_action
        return lambda: part(checkpoint, "cpu", torch.float32).module
    config = TrainConfig(lora=checkpoint.config.lora, initialize_from=folder, contract="sim_panda")
    if use == "sharded":
        enter("fsdp2")
        return lambda: Trainer(replace(config, ema_decay=0.0), CONTRACT, checkpoint).plain_model
    built = model_config(config, checkpoint)
    return lambda: started_model(config, built, CONTRACT, checkpoint, lambda _: None)


def measured(use: str, folder: str) -> Any:
    """The figures of a use in fresh processes, whose memory nothing has touched before."""
    command = [sys.executable]
    if use == "sharded":
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(PROCESSES)]
    command += [__file__, "--use", use, "--folder", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob(f"{use}-*.json"))]
    return found if use == "sharded" else found[0]


USES = ("training", "sharded", "reasoning", "action_expert")


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="small", help="size of the model (small)")
    parser.add_argument("--use", choices=USES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.use:
        figures = measure(load_as(arguments.use, arguments.folder))
        path = Path(arguments.folder) / f"{arguments.use}-{os.environ.get('RANK', '0')}.json"
        path.write_text(json.dumps(figures))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), arguments.preset)
        found = {use: measured(use, folder) for use in USES}
    print(json.dumps({"preset": arguments.preset} | found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
