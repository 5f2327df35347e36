"""Action pretraining, stage 1 of InstructVLA (section 3.2): the policy learns to act.

The vision-language model keeps what it knows; what it must learn to steer the action expert goes
into one LoRA expert and the action queries.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from vla.policies.collation import Batch
from vla.policies.roles import ACTION_EXPERT, BACKBONE, EXPERTS, QUERIES
from vla.training.objectives.base import BatchMaker, Objective


class Action(Objective):
    """Trains the action expert, the LoRA experts and the action queries."""

    name = "action"
    needs: ClassVar[tuple[str, ...]] = (BACKBONE, QUERIES, ACTION_EXPERT)
    trains: ClassVar[tuple[str, ...]] = (ACTION_EXPERT, EXPERTS, QUERIES)

    def check(self) -> None:
        """Needs robot data and a LoRA expert."""
        self.require(
            self.config.robot and self.config.batch_size, "needs robot data and a batch size"
        )
        self.require(self.config.lora.experts, "trains LoRA experts: name them")

    def batches(self, maker: BatchMaker, generator: np.random.Generator) -> dict[str, Batch | None]:
        """Robot frames, then conversations where the configuration gives them a batch size."""
        return {
            "robot": maker.robot_batch(generator),
            "conversations": maker.conversation_batch(generator),
        }

    def loss_weights(self) -> dict[str, float]:
        """Flow matching and cross-entropy, and two losses that help small models to look."""
        return {
            "text": self.config.text_weight,
            "flow": 1.0,
            "naming": self.config.naming_weight,
            "grounding": self.config.grounding_weight,
        }


OBJECTIVE = Action
