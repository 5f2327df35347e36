"""Trainings in bfloat16 on processors that have no fast one."""

import pytest
import torch
from torch import nn

from vla.training.precision import usable_precision


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
