"""Policies of known behaviour: each moves in the direction that one of its inputs says.

The environment variable VLA_PLUGINS names this module. `write_directions` makes the demonstrations
that go with them: the instruction, the state and the image of an episode all tell its direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from linear_policy import LinearConfig, LinearModel, LinearPart, LinearType

from vla.contract.embodiment import EmbodimentContract, dimension_kinds, load_contract
from vla.contract.normalization import measure
from vla.core.resources import contract_path
from vla.datasets.lerobot.writer import LeRobotWriter
from vla.evaluation.language_following import DIRECTIONS
from vla.language_action.direction_words import named_directions
from vla.policies.base import Observation, PolicyFeatures
from vla.policies.checkpoint import Checkpoint, save_checkpoint
from vla.policies.registry import register
from vla.policies.robots import Robot

CONTRACT = load_contract(contract_path("sim_panda"))
NAMES = list(DIRECTIONS)
STEP = 0.005  # m
LENGTH = 16  # frames of an episode, as many as a chunk has steps


@dataclass
class FollowingConfig(LinearConfig):
    TYPE: ClassVar[str] = "following"

    follows: str = "language"  # or "state", "vision", "nothing"


class FollowingPart(LinearPart):
    def __init__(self, checkpoint: Checkpoint, device: str):
        super().__init__(checkpoint, device)
        self._follows = checkpoint.config.follows
        self._token: np.ndarray | None = None

    def act(self, observation: Observation, instruction: str, response=None, seed=None):
        unit = np.zeros(3)
        if self._follows == "language":
            for name in named_directions(instruction):
                unit += DIRECTIONS[name]
        elif self._follows == "state":
            unit = np.array(DIRECTIONS[NAMES[round((observation.state[0] - 0.4) / 0.01)]])
        elif self._follows == "vision":
            grey = int(observation.images["front"][0, 0, 0])
            unit = np.array(DIRECTIONS[NAMES[(grey - 20) // 40]])
        else:
            unit = np.random.default_rng(seed).normal(size=3)
        self._token = unit[None] + np.random.default_rng(seed).normal(0, 0.01, (2, 3))
        chunk = np.zeros((self.contract.horizon, 7), np.float32)
        chunk[:, :3] = STEP * unit
        return chunk

    def head_input(self) -> np.ndarray | None:
        return self._token if self._follows == "language" else None


class FollowingType(LinearType):
    config = FollowingConfig

    def features(self, config: FollowingConfig, contract: EmbodimentContract) -> PolicyFeatures:
        cameras = ("front",) if config.follows == "vision" else ()
        rate = 1.0 / contract.time_step
        return PolicyFeatures(cameras, True, False, False, None, contract.horizon, rate)

    def presets(self) -> dict[str, FollowingConfig]:
        return {}

    def open_reasoning(self, checkpoint: Checkpoint, device: str, dtype) -> FollowingPart:
        return FollowingPart(checkpoint, device)


register(FollowingType())


def save_following(folder: Path, follows: str, contract: EmbodimentContract = CONTRACT) -> Path:
    """A checkpoint of a policy that follows "language", "state", "vision" or "nothing"."""
    kinds, values = dimension_kinds(contract), np.linspace(-1, 1, 101)[:, None]
    names = {"state": contract.state_names, "action": contract.action_names}
    stats = {
        vector: measure(np.repeat(values, len(own), 1), own, kinds[vector])
        for vector, own in names.items()
    }
    config = FollowingConfig(follows=follows)
    model = LinearModel(config, contract)
    save_checkpoint(
        folder, config, model.state_dict(), [Robot(contract, stats)], None, torch.float32
    )
    return folder


def write_directions(folder: Path, directions: list[str], length: int = LENGTH) -> Path:
    """A LeRobot data set of one episode for each direction, which all moves STEP a frame."""
    sentences = {"up": "lift the object up", "down": "lower the object"}
    with LeRobotWriter(folder, CONTRACT, "image") as writer:
        for name in directions:
            number, unit = NAMES.index(name), np.array(DIRECTIONS[name])
            states = np.tile(np.array([0.4, 0, 0.4, 1, 0, 0, 0, -1, 0, 0.08]), (length, 1))
            states[:, :3] += STEP * np.arange(length)[:, None] * unit
            states[:, 0] += 0.01 * number
            actions = np.zeros((length, 7))
            actions[:, :3], actions[:, 6] = STEP * unit, 1.0
            images = writer.begin()
            picture = np.full((96, 96, 3), 20 + 40 * number, np.uint8)
            for _ in range(length):
                images.add({"front": picture, "wrist": picture})
            words = sentences.get(name, f"move the gripper {name}")
            writer.add(images.finish(states, actions, [words] * length))
    return folder
