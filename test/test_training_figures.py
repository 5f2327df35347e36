"""Figures that stay on the device until they are read, and processes that make batches."""

import pytest
import torch

from vla.training.batches import worker_count
from vla.training.figures import read, unread


def test_figures_of_several_steps_are_read_at_once():
    loss = torch.tensor(1.5, requires_grad=True)
    steps = [
        {"rate": 0.1, "loss": unread(loss * 2)},
        {"loss": torch.tensor(0.25, dtype=torch.bfloat16), "norm": torch.tensor(float("nan"))},
        {},
    ]
    first, second, none = read(steps)
    assert first == {"rate": 0.1, "loss": 3.0} and none == {} and read([]) == []
    assert second["loss"] == 0.25 and second["norm"] != second["norm"]
    assert not steps[0]["loss"].requires_grad


@pytest.mark.parametrize(
    ("given", "device", "sharing", "count"),
    [
        (3, "cpu", "1", 3),
        (0, "cuda", "1", 0),
        (-1, "cpu", "1", 0),
        (-1, "cuda", "1", 8),
        (-1, "cuda", "4", 3),
        (-1, "cuda", "64", 0),
    ],
)
def test_workers_leave_the_training_processes_a_core_each(
    given, device, sharing, count, monkeypatch
):
    monkeypatch.setattr("vla.training.batches.usable_cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", sharing)
    assert worker_count(given, device) == count
