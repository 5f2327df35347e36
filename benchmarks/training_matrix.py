r"""Every stage of training on one process, on two, and sharded over two: all give the same.

python benchmarks/training_matrix.py

A cell is a stage, the action expert's vision encoder, a layout of processes, a precision, and
whether activations are checkpointed. Layouts are one process, two with whole models (DDP), and two
that share one (FSDP2, with the options of config/training/fsdp2.yaml). Each cell trains three steps
of a tiny policy, and the last one again from what was saved before it, which must give the same to
the last bit. Two processes must export what one gives that takes the batches of both, and are
brought into steps in which one of them alone has images. All runs on the CPU; bfloat16 is computed
there, too, however slowly. With --folder, a run that was interrupted goes on:

    python benchmarks/training_matrix.py --folder output/training_matrix
    python benchmarks/training_matrix.py --only "| ddp |"
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from training_cells import (
    BREAK,
    STAGES,
    STEPS,
    Cell,
    all_cells,
    data_of,
    make_start,
    pairwise,
    run_of,
)

import vla.training.loop as loop
from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path
from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.collation import Batch
from vla.policies.robots import Robot
from vla.training.batches import StepDataset

PROCESSES = 2
SHARDING = Path(__file__).parents[1] / "config" / "training" / "fsdp2.yaml"
# How far exported weights may be from those of one process, as a share of the way that training
# took them: sums are rounded otherwise, and sharded training in bfloat16 adds gradients in it.
CLOSE = {
    ("ddp", "no"): 0.01,
    ("ddp", "bf16"): 0.01,
    ("fsdp2", "no"): 0.01,
    ("fsdp2", "bf16"): 0.7,
}


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

    Infinite where names or shapes differ.
    """
    lacking = wanted.keys() ^ found.keys()
    if not all(
        name.endswith("lm_head.weight") for name in lacking
    ):  # That is tied, and not stored.
        return math.inf
    apart, way = 0.0, 0.0
    for name, value in found.items():
        target = wanted[name].to(value.dtype).float()
        if target.shape != value.shape:
            return math.inf
        apart += float((value.float() - target).square().sum())
        if name in start and start[name].shape == value.shape:  # not of new experts
            way += float((target - start[name].to(value.dtype).float()).square().sum())
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


def left_of(cells: list[Cell], folder: Path) -> list[Cell]:
    """The cells that have not ended well in a folder, from which what they left is removed."""
    left = [cell for cell in cells if fault_of(cell, folder)]
    for cell in left:
        shutil.rmtree(folder / cell.name, ignore_errors=True)
    return left


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
    parser.add_argument(
        "--folder", type=Path,
        help="of the runs, which go on from what ended well there; by default one that is removed",
    )  # fmt: skip
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
        left = left_of(cells, folder)
        in_pairs(folder, [cell for cell in left if cell.layout != "one"])
        report, one_process = {}, {}
        for cell in cells:
            if cell.layout == "one" and cell in left:
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
