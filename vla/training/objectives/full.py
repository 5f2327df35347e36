"""Full fine-tuning: the whole policy learns at once.

From a vision-language model, without LoRA experts and stages, it is what InstructVLA compares its
recipe with (section 5.3.1, figure 6d). From a policy that has been through the stages, it is a
further one, in which a small vision-language model learns more of what it sees while it acts; or,
with a batch size of 0, learns from conversations alone, so that a later one has to act again.
"""

from __future__ import annotations

from typing import ClassVar

from vla.training.objectives.action import Action


class Full(Action):
    """Trains everything on the batches of stage 1."""

    name = "full"
    trains: ClassVar[tuple[str, ...]] = ()  # all parameters

    def check(self) -> None:
        """Needs robot data and a batch size; LoRA experts only where the start may have them."""
        asked = self.config.conversations and self.config.conversation_batch_size
        self.require(
            self.config.robot and (self.config.batch_size or asked),
            "needs robot data, and a batch size of it or of conversations",
        )
        self.require(
            self.config.initialize_from or not self.config.lora.experts,
            "trains no new LoRA experts: leave lora.experts out, or name a policy that has them as "
            "initialize_from",
        )


OBJECTIVE = Full
