r"""Training without images against training with them: samples a second, and memory of a step.

python benchmarks/masked_training.py --preset nano nano_policy_head

The frames are random, of the simulated Panda's size, with an instruction of the table top. A step
makes its batch as training does, images changed and words drawn, and moves the optimiser. Steps
with images and without take turns on one model, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vla.contract.embodiment import EmbodimentContract, dimension_kinds, load_contract
from vla.contract.normalization import NormStats, measure
from vla.core.resources import contract_path
from vla.datasets.sample import RobotSample
from vla.policies.augment import Augmentation
from vla.policies.collation import CollationOptions
from vla.policies.config import LoraConfig
from vla.policies.registry import policy_type, preset
from vla.policies.roles import ACTION_EXPERT
from vla.policies.tokenizer import train_tokenizer
from vla.training.config import TrainConfig
from vla.training.loop import Trainer

INSTRUCTION = "put the red can into the bowl"
# As the shipped policies are trained.
AUGMENTATION = Augmentation(1.0, 1, 0.2, 0.0, 0.0, 0.0, 0.01)
SEEN, MASKED = "with images", "without images"


def random_sample(
    contract: EmbodimentContract, generator: np.random.Generator, past: int, masked: bool
) -> RobotSample:
    """A frame, and so many before it."""
    images = {
        camera.name: generator.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in contract.cameras
    }
    chunk = generator.uniform(-0.01, 0.01, (contract.horizon, len(contract.action_names)))
    state = generator.uniform(-1, 1, len(contract.state_names))
    frame = RobotSample({} if masked else images, state, chunk, INSTRUCTION)
    return replace(frame, past=(frame,) * past)


def random_stats(
    contract: EmbodimentContract, generator: np.random.Generator
) -> dict[str, NormStats]:
    """Normalisation statistics of states and actions."""
    kinds = dimension_kinds(contract)
    names = {"state": contract.state_names, "action": contract.action_names}
    return {
        vector: measure(generator.uniform(-1, 1, (100, len(own))), own, kinds[vector])
        for vector, own in names.items()
    }


class Run:
    """A policy with random weights in training."""

    def __init__(self, name: str, arguments: argparse.Namespace):
        self.contract, self.rows = load_contract(contract_path("sim_panda")), arguments.batch
        model, generator = preset(name), np.random.default_rng(0)
        kind, lora = policy_type(model.TYPE), LoraConfig()
        stage = "policy"
        if ACTION_EXPERT in kind.roles:
            stage, lora = "action", LoraConfig(("action",))
        config = TrainConfig(stage=stage, preset=name, lora=lora, precision=arguments.precision)
        self.trainer = Trainer(config, self.contract, None, arguments.device)
        model = self.trainer.plain_model.config
        past = kind.features(model, self.contract).window - 1
        self.samples = {
            mode: [
                random_sample(self.contract, generator, past, mode == MASKED)
                for _ in range(self.rows)
            ]
            for mode in (SEEN, MASKED)
        }
        sentences = kind.corpus(model, self.samples[SEEN][0], generator)
        tokenizer = train_tokenizer(sentences * 10, kind.vocabulary(model))
        self.collator = kind.collator(model, tokenizer, CollationOptions(AUGMENTATION))
        self.stats = random_stats(self.contract, generator)
        self.generator, self.cuda = generator, arguments.device != "cpu"
        self.seconds: dict[str, list[float]] = {mode: [] for mode in self.samples}

    def step(self, mode: str) -> float:
        """One step, its batch included; how long it took [s]."""
        started = time.perf_counter()
        batch = self.collator.robot_batch(
            self.samples[mode], [self.stats] * self.rows, self.generator
        )
        self.trainer.train_step({"robot": batch})
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def activation_bytes(self, mode: str) -> int:
        """What a step keeps for its backward pass, weights left out."""
        weights = {p.untyped_storage().data_ptr() for p in self.trainer.plain_model.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.step(mode)
        return sum(kept.values())

    def report(self, mode: str) -> dict[str, float]:
        """Figures of the median step."""
        seconds = statistics.median(self.seconds[mode])
        return {
            "samples_per_second": self.rows / seconds,
            "p50_ms": 1000 * seconds,
            "steps": len(self.seconds[mode]),
            "activation_mb": self.activation_bytes(mode) / 1e6,
        }


def main() -> None:
    """Measures every preset, prints a table, writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", nargs="+", default=["nano"], help="(nano)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--batch", type=int, default=16, help="samples of a batch (16)")
    parser.add_argument("--steps", type=int, default=8, help="of each kind (8)")
    parser.add_argument(
        "--json", type=Path, default=Path("output/masked_training.json"), help="results"
    )
    arguments = parser.parse_args()
    cuda = arguments.device != "cpu"
    report: dict = {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "batch": arguments.batch,
        "torch": torch.__version__,
        "presets": {},
    }
    for name in arguments.preset:
        run = Run(name, arguments)
        for index in range(arguments.steps + 1):  # The first one allocates.
            for mode, seconds in run.seconds.items():
                taken = run.step(mode)
                if index:
                    seconds.append(taken)
        figures: dict = {mode: run.report(mode) for mode in run.seconds}
        for mode, row in figures.items():
            print(
                f"{name:<20} {mode:<15} {row['samples_per_second']:>8.1f} samples/s "
                f"{row['p50_ms']:>8.0f} ms {row['activation_mb']:>8.0f} MB of activations"
            )
        rates = [figures[mode]["samples_per_second"] for mode in (MASKED, SEEN)]
        figures["speedup"] = rates[0] / rates[1]
        print(f"{name:<20} {figures['speedup']:.1f} times the samples without images")
        report["presets"][name] = figures
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
