"""What all parts of policies have in common: weights, adapters, compiled passes, runtimes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from vla.policies.adapters import (
    Adapter,
    Matrices,
    adapted_id,
    adapted_matrices,
    open_adapter,
    swap_adapter,
)
from vla.policies.checkpoint import Checkpoint
from vla.policies.config import CheckpointError
from vla.policies.runtimes import AUTO, OPENVINO, PRECISIONS, Computation, RuntimeUnavailable

Part = TypeVar("Part", bound="PolicyPart")


class PolicyPart:
    """A part of a checkpoint in memory, with or without an adapter in its weights.

    runtime: what computes it now, see vla.policies.runtimes. runtime_problem: why that is not what
    use_runtime() was asked for; "" where it is.
    """

    runtime = "eager"
    runtime_problem = ""
    _wanted_runtime = "eager"

    def __init__(self, checkpoint: Checkpoint, module: torch.nn.Module, prefix: str = ""):
        """module: the loaded part; its weights' names in the checkpoint begin with `prefix`."""
        self._base, self.module, self._prefix = checkpoint, module, prefix
        self.contract, self.features = checkpoint.contract, checkpoint.features
        self.adapter: Adapter | None = None
        # Of the weights as they are, the adapter's included.
        self.checkpoint_id = checkpoint.checkpoint_id
        # Passes that another runtime computes, by name.
        self._exported: dict[str, Computation] = {}

    def normalized_state(self, state: np.ndarray) -> np.ndarray:
        """Proprioception [S] as the model reads it, float32 [1, S].

        Raises ValueError where a value is not finite, or there are more or fewer of them.
        """
        values = np.asarray(state, dtype=np.float64)[None]
        size = len(self.contract.state_names)
        if values.shape != (1, size) or not np.isfinite(values).all():
            raise ValueError(f"expected {size} finite state values, got {values[0].tolist()}")
        limit = self.adapter.config.state_limit if self.adapter is not None else 1.0
        return self._base.stats["state"].normalize(values, limit).astype(np.float32)

    @staticmethod
    def open_adapter(folder: str | Path) -> Adapter:
        """An adapter for set_adapter(). Raises CheckpointError."""
        return open_adapter(folder)

    def branch(self: Part, adapter: Adapter | None = None) -> Part:
        """For one more robot: the same weights, with a memory and random draws of its own.

        adapter: that the weights have whenever it runs, which is the caller's to see to.
        """
        other = copy.copy(self)
        other.adapter, other.checkpoint_id = adapter, adapted_id(self._base, adapter)
        other.start_memory()
        return other

    def start_memory(self) -> None:
        """Creates again what it keeps of its robot, such as a history or a generator."""

    def matrices(self, adapters: Sequence[Adapter | None]) -> list[Matrices]:
        """For each adapter, None for none, what the weights are that any of them changes.

        With put_matrices(), they replace each other without a look at the disk. Raises
        CheckpointError.
        """
        paths = {path for own in adapters if own for path in own.layers(self._prefix)}
        where = self.module, self._prefix, self._base, paths
        return [adapted_matrices(*where, own) for own in adapters]

    def compile(self, mode: str) -> None:
        """Has its passes run in a mode of vla.policies.compiled. Raises CheckpointError."""
        if mode != "none":
            raise CheckpointError(
                f"compile: a policy of type {self._base.type.name} runs as it is; use 'none'"
            )

    def warm_up(self) -> Iterator[str]:
        """Compiles what compile() asked for, pass by pass, and says which one is done."""
        yield from ()

    def set_adapter(self, adapter: Adapter | None) -> None:
        """Replaces the adapter, None for the checkpoint as it is.

        Not while another thread runs the model. Of an export, one of these weights is used where
        there is one, and no other. Raises CheckpointError, with nothing changed.
        """
        before = self.checkpoint_id
        swap_adapter(self.module, self._prefix, self._base, self.adapter, adapter)
        self.adapter = adapter
        self.checkpoint_id = adapted_id(self._base, adapter)
        if self.checkpoint_id != before:
            self.use_runtime(self._wanted_runtime, make=False)  # Whoever asked waits.

    def use_runtime(self, runtime: str, make: bool = True) -> None:
        """Has a runtime compute what it can, with as many threads as torch has now.

        make: whether to export the weights where that was not done before, which "auto" never does.
        Where the runtime can't be used, everything is computed eagerly; runtime_problem says why,
        unless it was left to choose.
        """
        self._wanted_runtime = runtime
        self.runtime, self.runtime_problem, self._exported = "eager", "", {}
        if runtime == "eager":
            return
        used = OPENVINO if runtime == AUTO else runtime
        try:
            self._exported = self.exported(make and runtime == used, PRECISIONS[used])
            self.runtime = used
        except RuntimeUnavailable as error:
            if runtime == used:
                self.runtime_problem = str(error)

    def exported(self, make: bool, precision: str) -> dict[str, Computation]:
        """Passes by OpenVINO, with the weights as they are. Raises RuntimeUnavailable."""
        raise RuntimeUnavailable(
            f"policies of type {self._base.type.name} can't be exported, so this one runs eagerly"
        )
