"""Pretraining: the vision-language model alone learns to see and to speak, from conversations.

For models that start from random weights; released ones have it behind them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vla.policies.base import PolicyType
from vla.policies.collation import Batch
from vla.policies.roles import ACTION_EXPERT, BACKBONE, role_of
from vla.training.objectives.base import BatchMaker, Objective


class Pretrain(Objective):
    """Trains the whole vision-language model, without action queries and LoRA experts."""

    name = "pretrain"
    # Of two parts, since a policy of one is stored whole, and would act with an untrained head.
    needs = (BACKBONE, ACTION_EXPERT)
    trains = (BACKBONE,)

    def check(self) -> None:
        """Needs conversations, and no LoRA experts."""
        conversations = self.config.conversations and self.config.conversation_batch_size
        self.require(conversations, "needs conversations and their batch size")
        self.require(not self.config.lora.experts, "trains no LoRA experts: leave lora.experts out")

    def batches(self, maker: BatchMaker, generator: np.random.Generator) -> dict[str, Batch | None]:
        """Conversations; robot data is read for its words and statistics alone."""
        return {"conversations": maker.conversation_batch(generator)}

    def loss_weights(self) -> dict[str, float]:
        """Cross-entropy of the answers, and what each image token shows."""
        return {"text": self.config.text_weight, "naming": self.config.naming_weight}

    def exported(
        self,
        kind: PolicyType[Any, Any],
        weights: dict[str, torch.Tensor],
        trained: list[str],
    ) -> dict[str, torch.Tensor]:
        """All but the action expert, which has learned nothing."""
        return {
            name: value for name, value in weights.items() if role_of(kind, name) != ACTION_EXPERT
        }


OBJECTIVE = Pretrain
