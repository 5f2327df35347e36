"""What a training objective is to the training loop.

The entry `stage` of a configuration names an objective, and thereby a file of this folder. The loop
asks the objective for everything in which one stage of training differs from another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from vla.policies.base import PolicyType
from vla.policies.collation import Batch, Collator
from vla.policies.config import CheckpointError
from vla.policies.roles import role_of
from vla.training.config import TrainConfig

if TYPE_CHECKING:
    from vla.datasets.sample import ConversationDataset, RobotDataset
    from vla.training.batches import Mixture

# The batches of one step by name, in turn; each is an optimiser step of its own.
Step = dict[str, Batch]


class BatchMaker(Protocol):
    """Makes the batches of a step, None where the run has no such data or asks for none."""

    robot: Mixture[RobotDataset] | None
    conversations: Mixture[ConversationDataset] | None
    collator: Collator  # of the policy

    def robot_batch(self, generator: np.random.Generator) -> Batch | None:
        """Robot frames: images, text that ends with the action queries, state and actions."""

    def conversation_batch(self, generator: np.random.Generator) -> Batch | None:
        """Conversations: images and text."""


class Objective(ABC):
    """One stage of training, for one run."""

    # The `stage` of a configuration, and the name of the objective's file.
    name: ClassVar[str]
    # The command that trains it.
    command: ClassVar[str] = "vla train"
    # Whether the run leaves a checkpoint folder; if not, the command keeps what `exported` gives.
    exports_checkpoint: ClassVar[bool] = True
    # Roles, of vla.policies.roles, without which a policy can't be trained by it; and those whose
    # parameters it trains, all parameters where it names none.
    needs: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[tuple[str, ...]] = ()
    # Roles that a run's start must have the weights of, if it starts from any.
    given: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: TrainConfig):
        self.config = config

    @abstractmethod
    def check(self) -> None:
        """Raises CheckpointError that says what the configuration lacks for this objective."""

    @abstractmethod
    def batches(self, maker: BatchMaker, generator: np.random.Generator) -> dict[str, Batch | None]:
        """The batches of a step by name, in turn; None for one that the run has no data for.

        Each is an optimiser step of its own. The names begin those of the figures that are logged.
        generator: of all draws.
        """

    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """Weight of each of the policy's losses by name; their weighted sum is minimised.

        A policy may not have all of them, and a batch may not give all of them.
        """

    def model_config(self, base: Any) -> Any:
        """The model that is trained, where the run starts from one of this configuration."""
        return with_known(base, lora=self.config.lora)

    def prepare(self, kind: PolicyType[Any, Any], model: nn.Module) -> None:  # noqa: B027
        """Changes the model, with the weights of its start in it, before anything is trained."""

    def trained(self, kind: PolicyType[Any, Any], model: nn.Module) -> set[str]:
        """Names of the parameters that are trained; all others are frozen."""
        names = {name for name, _ in model.named_parameters()}
        return {n for n in names if role_of(kind, n) in self.trains} if self.trains else names

    def set_mode(self, kind: PolicyType[Any, Any], model: nn.Module) -> None:
        """Which modules are in training mode during a step, and which in evaluation mode."""
        model.train()

    def state_limit(self) -> float:
        """Where normalised states are cut; statistics map most of the data into -1 to 1."""
        return 1.0

    def exported(
        self,
        kind: PolicyType[Any, Any],
        weights: dict[str, torch.Tensor],
        trained: list[str],
    ) -> dict[str, torch.Tensor]:
        """Those of the model's weights that the run exports. trained: names of trained ones."""
        return weights

    def require(self, given: object, needs: str) -> None:
        """Raises CheckpointError unless something is given. needs: such as "needs robot data"."""
        if not given:
            raise CheckpointError(f"stage '{self.name}' {needs}")


def with_known(config: Any, **entries: Any) -> Any:
    """A policy's configuration with those of the entries changed that its type has."""
    known = {entry.name for entry in fields(config)}
    return replace(config, **{name: value for name, value in entries.items() if name in known})
