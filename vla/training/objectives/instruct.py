"""VLA instruction tuning, stage 2 of InstructVLA (section 3.3): answer first, then act.

A language and an action expert, both LoRA, and the gate that blends them learn from annotated robot
data and from conversations, through the action expert, which is frozen.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vla.policies.base import PolicyType
from vla.policies.roles import ACTION_EXPERT, EXPERTS, QUERIES, role_of
from vla.training.objectives.action import Action


class Instruct(Action):
    """Trains the LoRA experts, their gate and the action queries, on the batches of stage 1."""

    name = "instruct"
    trains = (EXPERTS, QUERIES)
    given = (ACTION_EXPERT, QUERIES)

    def check(self) -> None:
        """Needs what stage 1 needs, and its result."""
        super().check()
        self.require(self.config.initialize_from, "needs initialize_from, a checkpoint of 'action'")

    def set_mode(self, kind: PolicyType[Any, Any], model: nn.Module) -> None:
        """The frozen action expert stays as it acts, without dropout."""
        model.train()
        for name, module in model.named_modules():
            if role_of(kind, name) == ACTION_EXPERT:
                module.eval()


OBJECTIVE = Instruct
