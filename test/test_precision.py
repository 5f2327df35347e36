"""Trainings in bfloat16 on processors that have no fast one."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn

import vla.training.loop as loop
import vla.training.precision as precision
from vla.policies.checkpoint import open_checkpoint, read_weights, save_checkpoint
from vla.policies.config import LoraConfig
from vla.policies.robots import Robot
from vla.training.config import RobotData, TrainConfig
from vla.training.precision import exact_in_bfloat16, hold_in_bfloat16, usable_precision
from vla.training.sources import open_data


@pytest.mark.parametrize(
    ("capabilities", "device", "asked", "used"),
    [
        ({"avx2": True, "avx512_bw": False}, "cpu", "bf16", "no"),
        ({"avx2": True, "avx512_bw": False}, "cpu", "no", "no"),
        ({"avx2": True, "avx512_bw": False}, "cuda", "bf16", "bf16"),
        ({"avx512_bw": True, "avx512_bf16": False}, "cpu", "bf16", "bf16"),
        ({"sve_bf16": True}, "cpu", "bf16", "bf16"),  # another architecture, which isn't asked
    ],
)
def test_what_a_processor_can(monkeypatch, capabilities, device, asked, used):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert usable_precision(asked, device) == used


def test_a_torch_that_tells_nothing_is_believed(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert usable_precision("bf16", "cpu") == "bf16"


def test_what_is_used_here_runs_an_lstm():
    """An LSTM in bfloat16 is what a processor without AVX-512 refuses."""
    lstm, features = nn.LSTM(8, 8, batch_first=True), torch.randn(2, 3, 8)
    enabled = usable_precision("bf16", "cpu") == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        lstm(features)[0].sum().backward()
    assert torch.isfinite(lstm.weight_ih_l0.grad).all()


def test_frozen_matrices_are_exact_or_left_alone():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 8), nn.Linear(8, 2))
    embedding, exact, tied, trained = model
    tied.weight = embedding.weight
    model.requires_grad_(False)
    trained.requires_grad_(True)
    assert exact_in_bfloat16(model) == []
    with torch.no_grad():
        exact.weight.copy_(exact.weight.bfloat16())
        embedding.weight.copy_(embedding.weight.bfloat16())
        trained.weight.copy_(trained.weight.bfloat16())
    assert exact_in_bfloat16(model) == ["1.weight"]
    before = exact.weight.clone()
    hold_in_bfloat16(model, ["1.weight"])
    assert exact.weight.dtype == torch.bfloat16 and torch.equal(exact.weight.float(), before)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p is not exact.weight)


@pytest.fixture
def bfloat16():
    """Accelerate, which keeps the precision of a process, begins again before and afterwards."""

    def begin_again():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    begin_again()
    yield
    begin_again()


@pytest.mark.slow
@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("stage", ["action", "instruct"])
def test_a_start_in_bfloat16_trains_the_same_in_half_of_the_memory(
    tmp_path, monkeypatch, contract, dataset, checkpoint, stage
):
    start = open_checkpoint(checkpoint)
    folder = tmp_path / "start"
    save_checkpoint(
        folder, start.config, read_weights(start), [Robot(contract, start.stats)],
        start.tokenizer, torch.bfloat16,
    )  # fmt: skip
    # However slow bfloat16 is here.
    monkeypatch.setattr(loop, "usable_precision", lambda asked, device: asked)
    held: list[str] = []

    def hold(model: nn.Module, names: list[str]) -> None:
        held.extend(names)
        hold_in_bfloat16(model, names)

    exports = []
    for name, holds in (("halves", hold), ("whole", lambda model, names: None)):
        monkeypatch.setattr(precision, "hold_in_bfloat16", holds)
        config = TrainConfig(
            stage=stage, precision="bf16", initialize_from=str(folder), batch_size=2, steps=2,
            lora=LoraConfig(("language", "action"), rank=4, gate="layer", head_width=8),
            robot=(RobotData(str(dataset), options={"episodes": 4, "episodes_per_shard": 2}),),
            output=str(tmp_path / name), ema_decay=0.9,
        )  # fmt: skip
        exports.append(read_weights(open_checkpoint(train(config, contract))))
    assert any(".language_model.layers." in name for name in held)
    assert not any("lora" in n or "embed_tokens" in n or "lm_head" in n for n in held)
    halves, whole = exports
    assert halves.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(halves[name], value), name


def train(config: TrainConfig, contract) -> Path:
    """The checkpoint that a run exports."""
    return loop.train(config, contract, open_data(config, contract))
