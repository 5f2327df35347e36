"""A served policy for tests: the linear one, and a gate before it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from linear_policy import LinearConfig, LinearModel

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.contract.normalization import measure
from vla.policies.checkpoint import save_checkpoint
from vla.policies.robots import Robot
from vla.serving.engine import Engine
from vla.serving.policy import ServedPolicy

STATE = [0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.08]
OBSERVATION = {"state": STATE, "prompt": "go up"}


def save_linear_checkpoint(folder: Path, contract: EmbodimentContract, seed: int = 0) -> Path:
    """A linear policy with random weights."""
    kinds, generator = dimension_kinds(contract), np.random.default_rng(0)
    stats = {
        "state": measure(generator.uniform(-1, 1, (99, 10)), contract.state_names, kinds["state"]),
        "action": measure(
            generator.uniform(-0.01, 0.01, (99, 7)), contract.action_names, kinds["action"]
        ),
    }
    torch.manual_seed(seed)
    model = LinearModel(LinearConfig(), contract)
    save_checkpoint(folder, LinearConfig(), model.state_dict(), [Robot(contract, stats)], None)
    return folder


class Gate:
    """Holds a policy's batches back while it is shut."""

    def __init__(self, policy: ServedPolicy):
        self._open, self._came = threading.Event(), threading.Semaphore(0)
        self.open()
        run = policy.run

        def wait_and_run(sessions, requests):
            self._came.release()
            assert self._open.wait(60.0)
            return run(sessions, requests)

        policy.run = wait_and_run

    def shut(self) -> None:
        self._open.clear()
        while self._came.acquire(blocking=False):
            pass

    def open(self) -> None:
        self._open.set()

    def wait_for_batch(self) -> None:
        """Until a batch has come to it."""
        assert self._came.acquire(timeout=60.0)


def gated_engine(folder: Path, **settings) -> tuple[Engine, Gate]:
    """An engine of a checkpoint, and its gate."""
    policy = ServedPolicy.from_pretrained(folder)
    gate = Gate(policy)
    return Engine(policy, **settings), gate
