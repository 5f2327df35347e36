"""Policy learning as RoboVLMs has it: chosen parts learn to act from demonstrations, at once.

Conversations, where the configuration has them, keep the vision-language model's words (weight 0.05
in the paper).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import nn

from vla.policies.collation import Batch
from vla.training.objectives.base import BatchMaker, Objective

if TYPE_CHECKING:
    from vla.policies.backbones import Backbone


class LearnPolicy(Objective):
    """Trains the head, the learned tokens, and what `trains` names of the backbone."""

    name = "policy"

    def check(self) -> None:
        """Needs robot data."""
        self.require(
            self.config.robot and self.config.batch_size, "needs robot data and a batch size"
        )

    def batches(self, maker: BatchMaker, generator: np.random.Generator) -> dict[str, Batch | None]:
        """Robot frames, then conversations where the configuration gives them a batch size."""
        return {
            "robot": maker.robot_batch(generator),
            "conversations": maker.conversation_batch(generator),
        }

    def model_config(self, base: Any) -> Any:
        """The model, which answers questions only where conversations keep its words."""
        talks = bool(self.config.conversations and self.config.conversation_batch_size)
        return replace(super().model_config(base), answers=talks)

    def loss_weights(self) -> dict[str, float]:
        """The head's own sum, or the action tokens' cross-entropy; the answers'."""
        return {
            "action": 1.0,
            "tokens": 1.0,
            "text": self.config.text_weight,
            "grounding": self.config.grounding_weight,
        }

    def trained(self, model: nn.Module) -> set[str]:
        """All parameters but those of the backbone's parts that `trains` leaves out."""
        trains = self.config.trains
        backbone = cast("Backbone", model.backbone)
        frozen: set[int] = set()

        def freeze(module: nn.Module) -> None:
            frozen.update(id(parameter) for parameter in module.parameters())

        parts = backbone.vision_parts
        if not trains.vision:
            freeze(parts["vision encoder"])
        if not trains.connector:
            freeze(parts["connector"])
        if not trains.language:
            freeze(backbone.language_model)
        elif trains.last_layers:
            for layer in backbone.layers[: -trains.last_layers]:
                freeze(layer)
        resampler = getattr(model, "vision_resampler", None)
        if resampler is not None and not trains.resampler:
            freeze(resampler)
        words = {id(parameter) for parameter in backbone.words.parameters()}
        frozen = frozen - words if trains.embeddings else frozen | words
        return {
            name
            for name, parameter in model.named_parameters()
            if id(parameter) not in frozen or re.search(r"\.lora_|scale_head", name)
        }


OBJECTIVE = LearnPolicy
