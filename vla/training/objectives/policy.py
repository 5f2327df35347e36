"""Policy learning as RoboVLMs has it: chosen parts learn to act from demonstrations, at once.

Conversations, where the configuration has them, keep the vision-language model's words (weight 0.05
in the paper).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import nn

from vla.policies.base import PolicyType
from vla.policies.collation import Batch
from vla.policies.roles import BACKBONE, EXPERTS, HEAD, RESAMPLER, role_of
from vla.training.objectives.base import BatchMaker, Objective, with_known

if TYPE_CHECKING:
    from vla.policies.backbones import Backbone


class LearnPolicy(Objective):
    """Trains the head, the learned tokens, and what `trains` names of the backbone."""

    name = "policy"
    needs = (BACKBONE, HEAD)

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
        return with_known(super().model_config(base), answers=talks)

    def loss_weights(self) -> dict[str, float]:
        """The head's own sum, or the action tokens' cross-entropy; the answers'."""
        return {
            "action": 1.0,
            "tokens": 1.0,
            "text": self.config.text_weight,
            "grounding": self.config.grounding_weight,
        }

    def trained(self, kind: PolicyType[Any, Any], model: nn.Module) -> set[str]:
        """All parameters but those of the backbone's parts that `trains` leaves out."""
        trains = self.config.trains
        backbone = cast("Backbone", model.get_submodule(*kind.roles[BACKBONE]))
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
        words = {id(parameter) for parameter in backbone.words.parameters()}
        frozen = frozen - words if trains.embeddings else frozen | words

        def learns(name: str, parameter: nn.Parameter) -> bool:
            role = role_of(kind, name)
            if role == RESAMPLER:
                return trains.resampler
            return role == EXPERTS or id(parameter) not in frozen

        return {name for name, parameter in model.named_parameters() if learns(name, parameter)}


OBJECTIVE = LearnPolicy
