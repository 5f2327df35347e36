"""Pretraining: the vision-language model alone learns to see and to speak, from conversations.

For models that start from random weights; released ones have it behind them.
"""

from __future__ import annotations

import numpy as np
import torch

from vla.policies.collation import Batch
from vla.training.objectives.base import BatchMaker, Objective


class Pretrain(Objective):
    """Trains the whole vision-language model, without action queries and LoRA experts."""

    name = "pretrain"

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
        self, weights: dict[str, torch.Tensor], trained: list[str]
    ) -> dict[str, torch.Tensor]:
        """The reasoning half; the action expert has learned nothing."""
        return {name: value for name, value in weights.items() if name.startswith("reasoning.")}


OBJECTIVE = Pretrain
