r"""Speed of training: samples per second of both stages, and the share of the processor's peak.

python benchmarks/training.py --preset nano --batch 8 --json output/training.json
python benchmarks/training.py --preset base base_generalist --device cuda --precision bf16 \
    --batch 32 --steps 20 --json output/training_gpu.json

Weights and data are random. A step of stage "action" is one of the robot batch. A step of stage
"instruct" has a batch of conversations of the same size as well, with an optimiser step of its own.
The stages take turns, so that a noisy machine is noisy for both. Making batches is left out of
these figures; "with batches" is stage "action" as it runs, where --workers processes make them from
frames, as training does, or the training process itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import transformers
from masked_training import AUGMENTATION, random_sample, random_stats
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.policies.collation import CollationOptions
from vla.policies.config import LoraConfig
from vla.policies.expert_mixture import GATES
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.vision_language_action import ActingRows, InstructVLABatch
from vla.policies.registry import policy_type
from vla.policies.sequence import IGNORE, IMAGE, TextBatch
from vla.policies.tokenizer import train_tokenizer
from vla.training.batches import worker_count
from vla.training.config import TrainConfig
from vla.training.loop import Trainer
from vla.training.objectives.base import Step
from vla.training.precision import usable_precision

STAGES = {"action": ("action",), "instruct": ("language", "action")}
QUESTION_TOKENS, ANSWER_TOKENS = 40, 20
# Dense bf16 matrix products of the data sheets [FLOP/s].
PEAKS = {"A100": 312e12, "H100": 989.4e12, "H200": 989.4e12}


def text_batch(model: InstructVLAConfig, rows: int, images: int, acts: bool) -> TextBatch:
    """Rows of image tokens, a question, an answer that is learned and, where they act, queries."""
    vocabulary = model.backbone.vocabulary
    words = torch.randint(5, min(300, vocabulary), (rows, QUESTION_TOKENS + ANSWER_TOKENS))
    parts = [torch.full((rows, images * model.backbone.image_tokens), IMAGE), words]
    if acts:
        parts.append((vocabulary + torch.arange(model.num_queries)).expand(rows, -1))
    ids = torch.cat(parts, dim=1)
    learned = ANSWER_TOKENS + model.num_queries * int(acts)
    labels = ids.clone()
    labels[:, :-learned] = IGNORE
    start = ids.shape[1] - model.num_queries if acts else -1
    return TextBatch(ids, torch.ones_like(ids), labels, torch.full((rows,), start))


def random_step(
    model: InstructVLAConfig, contract: EmbodimentContract, rows: int, talks: bool
) -> Step:
    """The batches of one step of so many rows each."""

    def images(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    cameras, size = model.vlm_images, model.backbone.image_size
    expert_size = model.expert.image_size
    robot = InstructVLABatch(
        vlm_images=images(rows * cameras, 3, size, size),
        text=text_batch(model, rows, cameras, acts=True),
        acting=ActingRows(
            images(rows, len(model.expert_cameras), 3, expert_size, expert_size),
            torch.rand(rows, len(contract.state_names)) * 2 - 1,
            torch.rand(rows, contract.horizon, len(contract.action_names)) * 2 - 1,
        ),
    )
    if not talks:
        return {"robot": robot}
    text = text_batch(model, rows, 1, acts=False)
    return {"robot": robot, "conversations": InstructVLABatch(images(rows, 3, size, size), text)}


class Subject:
    """A stage of training of a preset with random weights, and one step's batches."""

    def __init__(self, name: str, stage: str, arguments: argparse.Namespace):
        contract = load_contract(contract_path("sim_panda"))
        config = TrainConfig(
            stage=stage,
            preset=name,
            lora=LoraConfig(
                experts=STAGES[stage], gate=arguments.gate if stage == "instruct" else "sum"
            ),
            precision=arguments.precision,
            checkpoint_activations=arguments.checkpoint_activations,
        )
        self.trainer = Trainer(config, contract, None, arguments.device)
        model = self.trainer.plain_model.config
        self.step = random_step(model, contract, arguments.batch, stage == "instruct")
        self.samples = arguments.batch * (2 if stage == "instruct" else 1)
        self.cuda = arguments.device != "cpu"
        self.seconds: list[float] = []
        self.run()
        with FlopCounterMode(display=False) as counter:
            self.run()
        self.operations = counter.get_total_flops()

    def run(self, step: Step | None = None) -> float:
        """One training step, on the batches of another step where they are given; its time [s]."""
        started = time.perf_counter()
        self.trainer.train_step(step or self.step)
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def report(self, peak: float) -> dict[str, float]:
        """Figures of the median step. peak: of the processor [FLOP/s]."""
        seconds = statistics.median(self.seconds)
        trained = [p for p in self.trainer.plain_model.parameters() if p.requires_grad]
        return {
            "samples_per_second": self.samples / seconds,
            "p50_ms": 1000 * seconds,
            "steps": len(self.seconds),
            "trained_parameters": sum(p.numel() for p in trained),
            "teraflop_per_step": self.operations / 1e12,
            "share_of_peak": self.operations / seconds / peak,
        }


class Frames(Dataset[Step]):
    """Robot batches of random frames, made as in training; without end."""

    def __init__(self, model: InstructVLAConfig, contract: EmbodimentContract, rows: int):
        generator, kind = np.random.default_rng(0), policy_type(model.TYPE)
        self.samples = [random_sample(contract, generator, 0, masked=False) for _ in range(rows)]
        sentences = kind.corpus(model, self.samples[0], generator)
        tokenizer = train_tokenizer(sentences * 10, kind.vocabulary(model))
        self.collator = kind.collator(model, tokenizer, CollationOptions(AUGMENTATION))
        self.stats = random_stats(contract, generator)

    def __getitem__(self, step: int) -> Step:
        """The batch of a step."""
        rows = [self.stats] * len(self.samples)
        generator = np.random.default_rng(step)
        return {"robot": self.collator.robot_batch(self.samples, rows, generator)}


def with_batches(subject: Subject, arguments: argparse.Namespace) -> dict[str, float]:
    """Figures of steps whose batches are made meanwhile; by a subject of stage "action"."""
    contract = load_contract(contract_path("sim_panda"))
    frames = Frames(subject.trainer.plain_model.config, contract, arguments.batch)
    workers = worker_count(arguments.workers, subject.trainer.accelerator.device.type)
    steps = range(arguments.steps + 1)
    loader: DataLoader[Step] = DataLoader(
        frames, batch_size=None, sampler=steps, num_workers=workers
    )
    ends = []
    for batch in loader:
        subject.run(batch)
        ends.append(time.perf_counter())
    seconds = statistics.median(b - a for a, b in pairwise(ends))
    started = time.perf_counter()
    frames[0]
    return {
        "samples_per_second": arguments.batch / seconds,
        "p50_ms": 1000 * seconds,
        "batch_ms": 1000 * (time.perf_counter() - started),
        "workers": workers,
    }


def peak_of(device: str) -> tuple[float, str]:
    """Peak of matrix products [FLOP/s] and where it is from: a data sheet, or measured.

    In bf16, but on a processor that has no fast one.
    """
    if device != "cpu":
        name = torch.cuda.get_device_name()
        for known, peak in PEAKS.items():
            if known in name:
                return peak, f"data sheet of the {known}"
    size, best = 8192 if device != "cpu" else 1024, float("inf")
    kind = "bf16" if usable_precision("bf16", device) == "bf16" else "float32"
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(10):
        started = time.perf_counter()
        matrix @ matrix
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best, f"{kind} product of {size} x {size} matrices, measured"


def main() -> None:
    """Measures every preset, prints a table, writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", nargs="+", default=["nano"], help="(nano)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--precision", default="no", choices=("no", "bf16"))
    parser.add_argument(
        "--gate", default="layer", choices=GATES, help="of two LoRA experts (layer)"
    )
    parser.add_argument("--batch", type=int, default=8, help="rows of each batch (8)")
    parser.add_argument("--steps", type=int, default=10, help="of each stage (10)")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--workers", type=int, default=-1, help="processes that make batches")
    parser.add_argument("--json", type=Path, default=Path("output/training.json"), help="results")
    arguments = parser.parse_args()
    cuda = arguments.device != "cpu"
    peak, source = peak_of(arguments.device)
    report = {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "precision": usable_precision(arguments.precision, arguments.device),
        "batch": arguments.batch,
        "peak_teraflop_per_second": peak / 1e12,
        "peak_from": source,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "presets": {},
    }
    for name in arguments.preset:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        subjects = {stage: Subject(name, stage, arguments) for stage in STAGES}
        for _ in range(arguments.steps):
            for subject in subjects.values():
                subject.seconds.append(subject.run())
        figures: dict = {stage: subject.report(peak) for stage, subject in subjects.items()}
        made = with_batches(subjects["action"], arguments)
        print(f"\n{name}, {report['device']}, peak {peak / 1e12:.2f} TFLOP/s ({source})")
        print("stage      samples/s    p50 ms   trained M   share of peak")
        for stage, row in figures.items():
            print(
                f"{stage:<10} {row['samples_per_second']:>9.1f} {row['p50_ms']:>9.0f} "
                f"{row['trained_parameters'] / 1e6:>11.1f} {row['share_of_peak']:>15.1%}"
            )
        print(
            f"with batches: {made['samples_per_second']:.1f} samples/s, {made['p50_ms']:.0f} ms; "
            f"one is made in {made['batch_ms']:.0f} ms, by {made['workers']} workers"
        )
        figures["with batches"] = made
        if cuda:
            # Of both stages' models together.
            figures["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        report["presets"][name] = figures
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
