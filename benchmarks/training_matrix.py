r"""Every stage of training on one process, on two, and sharded over two: all give the same.

python benchmarks/training_matrix.py

A cell is a stage, the action expert's vision encoder, a layout of processes, a precision, and
whether activations are checkpointed. Layouts are one process, two with whole models (DDP), and two
that share one (FSDP2, with the options of config/training/fsdp2.yaml). Each cell trains three steps
of a tiny policy, and the last one again from what was saved before it, which must give the same to
the last bit. Two processes must export what one gives that takes the batches of both, and are
brought into steps in which one of them alone has images. All runs on the CPU; bfloat16 is computed
there, too, however slowly.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType

import vla.training.loop as loop
from vla.contract.embodiment import EmbodimentContract, dimension_kinds, load_contract
from vla.contract.normalization import measure
from vla.core.resources import contract_path
from vla.datasets.sample import Conversation, RobotSample
from vla.datasets.sources import ConversationData, RobotData
from vla.datasets.windows import Timeline
from vla.policies.backbones.internvl import small_internvl
from vla.policies.checkpoint import build_model, open_checkpoint, read_weights, save_checkpoint
from vla.policies.collation import Batch
from vla.policies.config import LoraConfig
from vla.policies.instructvla.config import ActionExpertConfig, InstructVLAConfig
from vla.policies.la4vla.config import CrossAttentionConfig, LA4VLAConfig
from vla.policies.robots import Robot
from vla.policies.robovlms.config import (
    HeadConfig,
    PointingConfig,
    RoboVLMConfig,
    StructureConfig,
)
from vla.policies.tokenizer import train_tokenizer
from vla.training.batches import Mixture, StepDataset
from vla.training.config import TrainConfig
from vla.training.data import TrainingData

LAYOUTS = ("one", "ddp", "fsdp2")
STEPS, BREAK, PROCESSES = 3, 2, 2
# Draws steps in which both processes see, one of them, and none.
SEED = 45
SHARDING = Path(__file__).parents[1] / "config" / "training" / "fsdp2.yaml"
SENTENCES = ("pick the red block", "put the can in the bowl", "what is on the table ?", "a can .")
# How far exported weights may be from those of one process, as a share of the way that training
# took them: sums are rounded otherwise, and sharded training in bfloat16 adds gradients in it.
CLOSE = {
    ("ddp", "no"): 0.01,
    ("ddp", "bf16"): 0.01,
    ("fsdp2", "no"): 0.01,
    ("fsdp2", "bf16"): 0.5,
}


@dataclass(frozen=True)
class Stage:
    """An objective, and what it is given."""

    objective: str
    policy: str  # that it trains, by its start
    experts: tuple[str, ...] = ()
    masked_share: float = 0.0
    talks: bool = True


STAGES = {
    "pretrain": Stage("pretrain", "instructvla"),
    "action": Stage("action", "instructvla", ("action",)),
    "language-action": Stage("action", "instructvla", ("action",), 0.7, talks=False),
    "instruct": Stage("instruct", "instructvla", ("language", "action")),
    "policy": Stage("policy", "robovlms"),
    "policy, language-action": Stage("policy", "robovlms", masked_share=0.7, talks=False),
    "la4vla": Stage("policy", "la4vla", masked_share=0.7, talks=False),
}


@dataclass(frozen=True)
class Cell:
    """What is trained, how, and on which processes."""

    stage: str
    vision: str  # of the action expert; of those without one, "-"
    layout: str
    precision: str
    checkpointed: bool

    @property
    def name(self) -> str:
        """As in the table, and of its folder."""
        kept = "checkpointed" if self.checkpointed else "kept"
        return f"{self.stage} | {self.vision} | {self.layout} | {self.precision} | {kept}"


def all_cells() -> list[Cell]:
    """The whole matrix."""
    return [
        Cell(stage, vision, layout, precision, checkpointed)
        for stage, given in STAGES.items()
        for vision in (("conv", "dinov2") if given.policy == "instructvla" else ("-",))
        for layout, precision, checkpointed in product(LAYOUTS, ("no", "bf16"), (False, True))
    ]


def pairwise(cells: list[Cell]) -> list[Cell]:
    """Few of the cells, in which each two choices meet that meet in any."""

    def pairs(cell: Cell) -> set:
        return set(combinations(enumerate(vars(cell).values()), 2))

    left, chosen = set().union(*map(pairs, cells)), []
    while left:
        chosen.append(max(cells, key=lambda cell: len(pairs(cell) & left)))
        left -= pairs(chosen[-1])
    return sorted(chosen, key=cells.index)


class Frames:
    """Frames of random images, states and actions."""

    def __init__(self, contract: EmbodimentContract, count: int = 24):
        self.contract, self.count = contract, count
        generator = np.random.default_rng(0)
        self._states = generator.uniform(-1, 1, (count, len(contract.state_names)))
        shape = count, contract.horizon, len(contract.action_names)
        self._chunks = generator.uniform(-0.01, 0.01, shape)

    def __len__(self) -> int:
        return self.count

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame."""
        pixels = np.random.default_rng(index)
        seen = {
            camera.name: pixels.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
            for camera in self.contract.cameras
        }
        words = SENTENCES[index % 2]
        return RobotSample(
            seen if images else {}, self._states[index], self._chunks[index], words,
            places={name: np.full((2, 2), 30.0) for name in seen},
        )  # fmt: skip

    def states(self) -> np.ndarray:
        """Of all frames."""
        return self._states

    def actions(self) -> np.ndarray:
        """Of all frames, the first of each chunk."""
        return self._chunks[:, 0]

    def timeline(self) -> Timeline:
        """One episode."""
        return Timeline(np.arange(self.count) * self.contract.time_step, np.array([self.count]))


class Talks:
    """Conversations, most of them without an image."""

    def __len__(self) -> int:
        return 12

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        """One conversation."""
        image = np.full((28, 28, 3), 20 * index, np.uint8) if index % 3 == 0 else None
        return Conversation(image, ((SENTENCES[2], SENTENCES[3]),), source=f"talk {index}")


def tiny_policy(policy: str, vision: str) -> InstructVLAConfig | RoboVLMConfig | LA4VLAConfig:
    """A policy that is built in a moment."""
    backbone = small_internvl(28, 7, (24, 1, 2, 32), (32, 2, 4, 2, 48), 320)
    if policy == "robovlms":
        return RoboVLMConfig(
            "tiny", backbone=backbone, structure=StructureConfig("policy_head", window=2),
            head=HeadConfig("gpt", "regression", 16, 2, 2, 0.1, (16,)), pointing=PointingConfig(8),
        )  # fmt: skip
    if policy == "la4vla":
        head = CrossAttentionConfig(width=16, layers=2, heads=2, mlp=24, hidden=20)
        return LA4VLAConfig("tiny", backbone=backbone, head=head)
    # The last of DINOv2's blocks is read by nothing.
    eyes = (
        {"vision_layers": 2, "vision_feature_block": 0, "patch": 14, "keypoints": 0}
        if vision == "dinov2"
        else {"vision_layers": 1, "patch": 16, "keypoints": 4}
    )
    expert = ActionExpertConfig(
        image_size=28 if vision == "dinov2" else 32, vision=vision, vision_width=32,
        vision_heads=2, vision_mlp=64, width=32, layers=1, heads=2, mlp=48, head_widths=(32,),
        dropout=0.1, **eyes,
    )  # fmt: skip
    return InstructVLAConfig("tiny", num_queries=2, backbone=backbone, expert=expert)


def make_start(folder: Path, policy: str, vision: str, contract: EmbodimentContract) -> None:
    """A checkpoint with random weights, unless it is there."""
    if folder.is_dir():
        return
    torch.manual_seed(0)
    config, frames = tiny_policy(policy, vision), Frames(contract)
    kinds = dimension_kinds(contract)
    stats = {
        "state": measure(frames.states(), contract.state_names, kinds["state"]),
        "action": measure(frames.actions(), contract.action_names, kinds["action"]),
    }
    weights = build_model(config, contract).state_dict()
    tokenizer = train_tokenizer([*SENTENCES], config.backbone.vocabulary)
    save_checkpoint(folder, config, weights, [Robot(contract, stats)], tokenizer, None)


def run_of(cell: Cell, folder: Path) -> TrainConfig:
    """The training of a cell. folder: of all cells, with their starts."""
    stage = STAGES[cell.stage]
    lora = LoraConfig(
        stage.experts, rank=2, alpha=4.0, gate="layer" if len(stage.experts) > 1 else "sum",
        head_width=8,
    )  # fmt: skip
    return TrainConfig(
        stage=stage.objective, lora=lora, initialize_from=str(folder / stage.policy / cell.vision),
        robot=(RobotData("frames", masked_share=stage.masked_share),),
        conversations=(ConversationData("talks"),) if stage.talks else (),
        seed=SEED, output=str(folder / cell.name / "whole"), steps=STEPS, save_every=BREAK,
        log_every=100, batch_size=2, conversation_batch_size=2 if stage.talks else 0,
        learning_rate=3e-3, weight_decay=0.1, grounding_weight=0.1, ema_decay=0.9, precision=cell.precision,
        checkpoint_activations=cell.checkpointed,
    )  # fmt: skip


def data_of(config: TrainConfig, contract: EmbodimentContract) -> TrainingData:
    """What a run learns from."""
    shares = [entry.masked_share for entry in config.robot]
    talks = Mixture([Talks()], [1.0]) if config.conversations else None
    return TrainingData(Mixture([Frames(contract)], [1.0], shares), talks)


def enter(layout: str) -> None:
    """Has Accelerate begin anew, in a layout of processes."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState(cpu=True, timeout=timedelta(seconds=120))
    options = yaml.safe_load(SHARDING.read_text())["fsdp_config"]
    if layout == "fsdp2":
        os.environ |= {name.upper(): str(value) for name, value in options.items()}
        # It shards on accelerators only.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    os.environ["ACCELERATE_USE_FSDP"] = str(layout == "fsdp2").lower()


def train_twice(cell: Cell, folder: Path, contract: EmbodimentContract) -> None:
    """Trains a cell, and once more from where it stood before its last step.

    Raises AssertionError where these differ.
    """
    whole = run_of(cell, folder)
    parts = replace(whole, output=str(Path(whole.output).with_name("parts")))
    data, figures = data_of(whole, contract), []

    def note(step: int, found: dict[str, float]) -> None:
        figures.append(found)
        if step == BREAK:
            if PartialState().is_main_process:
                shutil.copytree(whole.output, parts.output)
            PartialState().wait_for_everyone()

    enter(cell.layout)
    loop.train(whole, contract, data, on_step=note)
    enter(cell.layout)
    loop.train(parts, contract, data, on_step=note)
    assert len(figures) == STEPS + 1, "the parts did not go on from the break"
    assert figures[-1] == figures[-2], "a resumed run has other figures"
    name = f"training_state-{STEPS:07d}/average-{PartialState().process_index}.pt"
    averages = [torch.load(Path(config.output) / name) for config in (whole, parts)]
    assert all(map(torch.equal, *averages)), "a resumed run has other weights"


class Both(loop.Trainer):
    """One process that takes the batches of many, each with the noise that it has there."""

    def train_step(self, batches: dict[str, list[Batch]]) -> dict[str, float]:
        """As of one of them. batches: those of all of them by name."""
        first = self.config.seed * 1_000_003 + self.step * PROCESSES
        self.noise = [
            torch.Generator().manual_seed(first + process).get_state()
            for process in range(PROCESSES)
        ]
        return super().train_step(batches)

    def _losses(self, batch: list[Batch]) -> tuple[torch.Tensor, dict[str, float]]:
        total, figures = torch.zeros(()), {}
        for process, own in enumerate(batch):
            torch.set_rng_state(self.noise[process])
            loss, figures = super()._losses(own)
            self.noise[process] = torch.get_rng_state()
            total = total + loss / PROCESSES
        return total, figures


def expected(
    cell: Cell, folder: Path, contract: EmbodimentContract
) -> tuple[dict[str, torch.Tensor], int]:
    """What one process gives for a cell of many; in how many batches one of these alone sees."""
    enter("one")
    config = run_of(cell, folder)
    start, data = loop.open_start(config), data_of(config, contract)
    trainer, uneven = Both(config, contract, start), 0
    robots = [Robot(contract, start.stats)]
    model = trainer.plain_model.config
    datasets = [
        StepDataset(data.robot, data.conversations, start.tokenizer, robots, model, config, process)
        for process in range(PROCESSES)
    ]
    for step in range(STEPS):
        found = [dataset[step] for dataset in datasets]
        batches = {name: [own[name] for own in found] for name in found[0]}
        uneven += sum(len({own.sees for own in batch}) > 1 for batch in batches.values())
        trainer.train_step(batches)
    return trainer.weights(), uneven


def difference(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> float:
    """How far stored weights are from those wanted, as a share of the way from the start.

    Raises AssertionError where names, sizes or types differ.
    """
    wanted = {name: wanted[name].to(value.dtype) for name, value in found.items()}
    assert all(value.shape == wanted[name].shape for name, value in found.items())
    apart, way = 0.0, 0.0
    for name, value in found.items():
        apart += float((value.float() - wanted[name].float()).square().sum())
        if name in start and start[name].shape == value.shape:
            way += float((wanted[name].float() - start[name].float()).square().sum())
    return (apart / way) ** 0.5


def work(folder: Path, cells: list[Cell], contract: EmbodimentContract) -> None:
    """What each of two processes does: trains the cells in turn; ends with the first that fails."""
    for cell in cells:
        enter(cell.layout)
        note = folder / cell.name / f"process-{PartialState().process_index}.txt"
        try:
            train_twice(cell, folder, contract)
            note.write_text("")
        except Exception:
            note.parent.mkdir(exist_ok=True)
            note.write_text(traceback.format_exc())
            if cell.layout != "one":
                raise


def in_pairs(folder: Path, cells: list[Cell]) -> None:
    """Trains cells on two processes at once, again from behind each cell that ends them."""
    everything = all_cells()
    while cells:
        numbers = [str(everything.index(cell)) for cell in cells]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(PROCESSES), __file__, "--folder", str(folder)]
        done = subprocess.run(
            [*command, "--worker", *numbers], capture_output=True, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode == 0:
            return
        ended = [fault_of(cell, folder) for cell in cells]
        cells = cells[next((i for i, fault in enumerate(ended) if fault), len(cells)) + 1 :]


def fault_of(cell: Cell, folder: Path) -> str:
    """What went wrong in a cell's own runs; empty for nothing."""
    processes = range(1 if cell.layout == "one" else PROCESSES)
    notes = [folder / cell.name / f"process-{index}.txt" for index in processes]
    faults = [note.read_text() if note.exists() else "it never ended" for note in notes]
    if any(faults):
        return "\n".join(faults)
    whole, parts = (exported(cell, folder, name) for name in ("whole", "parts"))
    same = whole.keys() == parts.keys() and all(map(torch.equal, whole.values(), parts.values()))
    return "" if same else "a resumed run exports other weights"


def exported(cell: Cell, folder: Path, name: str = "whole") -> dict[str, torch.Tensor]:
    """The weights that a run of a cell exported."""
    return read_weights(open_checkpoint(folder / cell.name / name / "checkpoint"))


def main() -> None:
    """Trains the matrix, prints a line for each cell, and ends with 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairwise", action="store_true", help="few cells, with all pairs")
    parser.add_argument("--only", default="", help="cells whose names have this in them")
    parser.add_argument("--folder", type=Path, help="of the runs; by default one that is removed")
    parser.add_argument("--json", type=Path, default=Path("output/training_matrix.json"))
    parser.add_argument("--worker", nargs="+", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    contract = load_contract(contract_path("sim_panda"))
    # A processor without fast products in bfloat16 has slow ones.
    loop.usable_precision = lambda precision, device: precision
    if arguments.worker:
        everything = all_cells()
        work(arguments.folder, [everything[index] for index in arguments.worker], contract)
        return
    cells = [cell for cell in all_cells() if arguments.only in cell.name]
    cells = pairwise(cells) if arguments.pairwise else cells
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for cell in cells:
            policy = STAGES[cell.stage].policy
            make_start(folder / policy / cell.vision, policy, cell.vision, contract)
        in_pairs(folder, [cell for cell in cells if cell.layout != "one"])
        report, one_process = {}, {}
        for cell in cells:
            if cell.layout == "one":
                work(folder, [cell], contract)
            fault, apart, uneven = fault_of(cell, folder), 0.0, 0
            if cell.layout != "one" and not fault:
                twin = replace(cell, layout="one")
                if twin not in one_process:
                    one_process[twin] = expected(twin, folder, contract)
                wanted, uneven = one_process[twin]
                start = folder / STAGES[cell.stage].policy / cell.vision
                started = read_weights(open_checkpoint(start))
                apart = difference(exported(cell, folder), wanted, started)
                if apart > CLOSE[cell.layout, cell.precision]:
                    fault = f"its weights are {apart:.2g} from those of one process"
            report[cell.name] = {"fault": fault, "apart": apart, "uneven": uneven}
            last = fault.strip().rpartition("\n")[2] or "ok"
            print(f"| {cell.name} | {last} | {apart:.1e} | {uneven} |", flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(any(found["fault"] for found in report.values()))


if __name__ == "__main__":
    main()
