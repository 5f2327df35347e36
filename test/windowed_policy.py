"""The linear policy with a window of past observations: it backs off by as much as the tool rose.

It says first what it will do, and refuses whatever is yellow.

The environment variable VLA_PLUGINS names this module; nothing else of the package knows it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from linear_policy import LinearConfig, LinearModel, LinearPart, LinearType

from vla.contract.embodiment import EmbodimentContract
from vla.policies.base import Observation, PolicyFeatures
from vla.policies.checkpoint import Checkpoint
from vla.policies.config import AdapterConfig
from vla.policies.history import History
from vla.policies.lora import LoraLinear
from vla.policies.registry import register

BACK = 0.1  # of the rise over the window, in each step


@dataclass
class WindowedConfig(LinearConfig):
    TYPE: ClassVar[str] = "windowed"


class WindowedPart(LinearPart):
    def __init__(self, checkpoint: Checkpoint, device: str):
        super().__init__(checkpoint, device)
        self.start_memory()

    def start_memory(self) -> None:
        self._seen: History[np.ndarray] = History(self.features.window, self.features.history_step)

    def act(self, observation: Observation, instruction: str, response=None, seed=None):
        actions = np.array(super().act(observation, instruction, response, seed))
        first = self._seen.add(observation.stamp, observation.state)[0]
        actions[:, 0] -= BACK * (observation.state[2] - first[2])
        return actions

    def think(self, images, instruction: str) -> str:
        return "I see no yellow can ." if "yellow" in instruction else "going up ."

    def reset(self) -> None:
        self._seen.reset()


class WindowedType(LinearType):
    config = WindowedConfig

    def features(self, config: WindowedConfig, contract: EmbodimentContract) -> PolicyFeatures:
        base = super().features(config, contract)
        speaks = replace(base, thinks=True, refusals=("i see no",))
        return replace(speaks, window=3, history_step=0.2)

    def presets(self) -> dict[str, WindowedConfig]:
        return {"windowed": WindowedConfig()}

    def insert_adapter(self, model: LinearModel, config: AdapterConfig) -> None:
        model.layer = LoraLinear(model.layer, config)

    def open_reasoning(self, checkpoint: Checkpoint, device: str, dtype) -> WindowedPart:
        return WindowedPart(checkpoint, device)


register(WindowedType())
