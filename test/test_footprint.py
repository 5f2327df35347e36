"""A dry run: parameters as published, memory of a GPU, and what would be loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.config import LoraConfig
from vla.training.config import TrainConfig
from vla.training.footprint import footprint, loads_text
from vla_cli.parser import main

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_published_model_is_counted_without_its_weights(capsys):
    path = str(ROOT / "config" / "training" / "bridge_fractal_action.yaml")
    assert main(["train", "--config", path, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert yaml.safe_load(said)["preset"] == "base", "the rest are comments"
    rows = re.findall(r"^# (\S.*\S) +([\d,]+)$", said, re.MULTILINE)
    counted = {name: int(number.replace(",", "")) for name, number in rows}
    assert counted["stage 1 trainable, as published"] == 650_174_704
    parts = [counted[name] for name in list(counted)[: list(counted).index("total")]]
    assert sum(parts) == counted["total"] == 2_600_712_672
    # The paper's count leaves out the action queries.
    assert counted["trained"] == counted["stage 1 trainable"] + counted["action queries"]
    table = dict(re.findall(r"^# (\d+ GPUs?(?:, \w+)?) +(\S.*)$", said, re.MULTILINE))
    whole, trained = 4 * counted["total"] / 1e9, counted["trained"] / 1e9
    # Frozen matrices of the vision-language model in bfloat16; its embeddings are float32: 28 and
    # 27 layers of 46.8 and 15.2 million, patches and the connector.
    matrices = 1_731_380_736
    for title, share in (("1 GPU", 1), ("64 GPUs, DDP", 1), ("8 GPUs, FSDP2", 8)):
        held = whole / share - (2 * matrices / 1e9 if share == 1 else 0)
        wanted = [held, 4 * trained / share, 8 * trained / share, 0.0]
        figures = [float(figure) for figure in table[title].split()]
        assert figures == pytest.approx([*wanted, sum(wanted)], abs=0.006), title
    assert "initialize_from checkpoints/eagle2: not on this machine" in said
    assert "vision_source facebook/dinov2-with-registers-large: 419 tensors, 290,631,680" in said


def test_a_start_that_is_there_is_what_is_counted(contract, checkpoint):
    config = TrainConfig(lora=LoraConfig(("action",), rank=4), initialize_from=str(checkpoint))
    counted = footprint(replace(config, preset="base", ema_decay=0.9), contract)
    weights = read_weights(open_checkpoint(checkpoint))
    stored = sum(value.numel() for value in weights.values())
    assert counted.total == stored + counted.parts["LoRA"]
    sizes = counted.bytes_per_gpu(2, sharded=True)
    assert sizes["average"] == 4 * counted.trained / 2 == sizes["gradients"]
    assert footprint(config, contract).bytes_per_gpu(2, sharded=False)["average"] == 0
    assert loads_text(config, contract) == f"initialize_from {checkpoint}: {len(weights)} tensors"


def test_a_start_to_come_that_is_no_preset_is_not_counted(tmp_path, capsys):
    run = {"stage": "policy", "initialize_from": str(tmp_path / "to_come"), "batch_size": 2}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run | {"robot": [{"path": "datasets/table_top"}]}))
    assert main(["train", "--config", str(path), "--dry-run"]) == 0
    assert "# not counted: stage 'policy' trains policies that have" in capsys.readouterr().out


@pytest.mark.slow
def test_a_start_holds_one_copy_of_the_model():
    """In processes of their own, which see the peak of their memory."""
    command = [sys.executable, str(ROOT / "benchmarks" / "start_memory.py"), "--preset", "small"]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for use in ("training", "reasoning", "action_expert"):
        size, peak = figures[use]["model_megabytes"], figures[use]["peak_megabytes"]
        # What is mapped of the file at a time, and a tensor.
        assert 100 < size <= peak < size + 80, use
    first, other = figures["sharded"]
    # On the CPU both have a half in their memory, too. What the other one loads is not all.
    assert first["peak_megabytes"] < 2.2 * first["model_megabytes"]
    assert other["peak_megabytes"] < other["model_megabytes"]
