"""Full fine-tuning: the whole policy learns to act at once, without LoRA experts and stages.

What InstructVLA compares its recipe with (section 5.3.1, figure 6d).
"""

from __future__ import annotations

from typing import ClassVar

from vla.training.objectives.action import Action


class Full(Action):
    """Trains everything on the batches of stage 1."""

    name = "full"
    trains: ClassVar[tuple[str, ...]] = ()  # all parameters

    def check(self) -> None:
        """Needs robot data, and no LoRA experts."""
        self.require(
            self.config.robot and self.config.batch_size, "needs robot data and a batch size"
        )
        self.require(not self.config.lora.experts, "trains no LoRA experts: leave lora.experts out")


OBJECTIVE = Full
