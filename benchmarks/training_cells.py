"""The cells of benchmarks/training_matrix.py: tiny policies, what they learn from, and how."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.contract.normalization import measure
from vla.datasets.sample import Conversation, RobotSample
from vla.datasets.sources import ConversationData, RobotData
from vla.datasets.windows import Timeline
from vla.policies.backbones.internvl import small_internvl
from vla.policies.checkpoint import build_model, save_checkpoint
from vla.policies.config import LoraConfig
from vla.policies.instructvla.config import ActionExpertConfig, InstructVLAConfig
from vla.policies.la4vla.config import CrossAttentionConfig, LA4VLAConfig
from vla.policies.robots import Robot
from vla.policies.robovlms.config import (
    HeadConfig,
    PointingConfig,
    RoboVLMConfig,
    StructureConfig,
)
from vla.policies.tokenizer import train_tokenizer
from vla.training.batches import Mixture
from vla.training.config import TrainConfig
from vla.training.data import TrainingData

LAYOUTS = ("one", "ddp", "fsdp2")
STEPS, BREAK = 3, 2
# Draws steps in which both of two processes see, one of them, and none.
SEED = 45
SENTENCES = ("pick the red block", "put the can in the bowl", "what is on the table ?", "a can .")


@dataclass(frozen=True)
class Stage:
    """An objective, and what it is given."""

    objective: str
    policy: str  # that it trains, by its start
    experts: tuple[str, ...] = ()
    masked_share: float = 0.0
    talks: bool = True


STAGES = {
    "pretrain": Stage("pretrain", "instructvla"),
    "action": Stage("action", "instructvla", ("action",)),
    "language-action": Stage("action", "instructvla", ("action",), 0.7, talks=False),
    "instruct": Stage("instruct", "instructvla", ("language", "action")),
    "policy": Stage("policy", "robovlms"),
    "policy, language-action": Stage("policy", "robovlms", masked_share=0.7, talks=False),
    "la4vla": Stage("policy", "la4vla", masked_share=0.7, talks=False),
}


@dataclass(frozen=True)
class Cell:
    """What is trained, how, and on which processes."""

    stage: str
    vision: str  # of the action expert; of those without one, "-"
    layout: str
    precision: str
    checkpointed: bool

    @property
    def name(self) -> str:
        """As in the table, and of its folder."""
        kept = "checkpointed" if self.checkpointed else "kept"
        return f"{self.stage} | {self.vision} | {self.layout} | {self.precision} | {kept}"


def all_cells() -> list[Cell]:
    """The whole matrix."""
    return [
        Cell(stage, vision, layout, precision, checkpointed)
        for stage, given in STAGES.items()
        for vision in (("conv", "dinov2") if given.policy == "instructvla" else ("-",))
        for layout, precision, checkpointed in product(LAYOUTS, ("no", "bf16"), (False, True))
    ]


def pairwise(cells: list[Cell]) -> list[Cell]:
    """Few of the cells, in which each two choices meet that meet in any."""

    def pairs(cell: Cell) -> set:
        return set(combinations(enumerate(vars(cell).values()), 2))

    left, chosen = set().union(*map(pairs, cells)), []
    while left:
        chosen.append(max(cells, key=lambda cell: len(pairs(cell) & left)))
        left -= pairs(chosen[-1])
    return sorted(chosen, key=cells.index)


class Frames:
    """Frames of random images, states and actions."""

    def __init__(self, contract: EmbodimentContract, count: int = 24):
        self.contract, self.count = contract, count
        generator = np.random.default_rng(0)
        self._states = generator.uniform(-1, 1, (count, len(contract.state_names)))
        shape = count, contract.horizon, len(contract.action_names)
        self._chunks = generator.uniform(-0.01, 0.01, shape)

    def __len__(self) -> int:
        return self.count

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame."""
        pixels = np.random.default_rng(index)
        seen = {
            camera.name: pixels.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
            for camera in self.contract.cameras
        }
        words = SENTENCES[index % 2]
        return RobotSample(
            seen if images else {}, self._states[index], self._chunks[index], words,
            places={name: np.full((2, 2), 30.0) for name in seen},
        )  # fmt: skip

    def states(self) -> np.ndarray:
        """Of all frames."""
        return self._states

    def actions(self) -> np.ndarray:
        """Of all frames, the first of each chunk."""
        return self._chunks[:, 0]

    def timeline(self) -> Timeline:
        """One episode."""
        return Timeline(np.arange(self.count) * self.contract.time_step, np.array([self.count]))


class Talks:
    """Conversations, most of them without an image."""

    def __len__(self) -> int:
        return 12

    def sample(self, index: int, generator: np.random.Generator) -> Conversation:
        """One conversation."""
        images = () if index % 3 else (np.full((28, 28, 3), 20 * index, np.uint8),)
        return Conversation(images, ((SENTENCES[2], SENTENCES[3]),), source=f"talk {index}")


def tiny_policy(policy: str, vision: str) -> InstructVLAConfig | RoboVLMConfig | LA4VLAConfig:
    """A policy that is built in a moment."""
    backbone = small_internvl(28, 7, (24, 1, 2, 32), (32, 2, 4, 2, 48), 320)
    if policy == "robovlms":
        return RoboVLMConfig(
            "tiny", backbone=backbone, structure=StructureConfig("policy_head", window=2),
            head=HeadConfig("gpt", "regression", 16, 2, 2, 0.1, (16,)), pointing=PointingConfig(8),
        )  # fmt: skip
    if policy == "la4vla":
        head = CrossAttentionConfig(width=16, layers=2, heads=2, mlp=24, hidden=20)
        return LA4VLAConfig("tiny", backbone=backbone, head=head)
    # The last of DINOv2's blocks is read by nothing.
    eyes = (
        {"vision_layers": 2, "vision_feature_block": 0, "patch": 14, "keypoints": 0}
        if vision == "dinov2"
        else {"vision_layers": 1, "patch": 16, "keypoints": 4}
    )
    expert = ActionExpertConfig(
        image_size=28 if vision == "dinov2" else 32, vision=vision, vision_width=32,
        vision_heads=2, vision_mlp=64, width=32, layers=1, heads=2, mlp=48, head_widths=(32,),
        dropout=0.1, **eyes,
    )  # fmt: skip
    return InstructVLAConfig("tiny", num_queries=2, backbone=backbone, expert=expert)


def make_start(folder: Path, policy: str, vision: str, contract: EmbodimentContract) -> None:
    """A checkpoint with random weights, in bfloat16 as released ones, unless it is there."""
    if folder.is_dir():
        return
    torch.manual_seed(0)
    config, frames = tiny_policy(policy, vision), Frames(contract)
    kinds = dimension_kinds(contract)
    stats = {
        "state": measure(frames.states(), contract.state_names, kinds["state"]),
        "action": measure(frames.actions(), contract.action_names, kinds["action"]),
    }
    weights = build_model(config, contract).state_dict()
    tokenizer = train_tokenizer([*SENTENCES], config.backbone.vocabulary)
    save_checkpoint(folder, config, weights, [Robot(contract, stats)], tokenizer, torch.bfloat16)


def run_of(cell: Cell, folder: Path) -> TrainConfig:
    """The training of a cell. folder: of all cells, with their starts."""
    stage = STAGES[cell.stage]
    lora = LoraConfig(
        stage.experts, rank=2, alpha=4.0, gate="layer" if len(stage.experts) > 1 else "sum",
        head_width=8,
    )  # fmt: skip
    return TrainConfig(
        stage=stage.objective, lora=lora, initialize_from=str(folder / stage.policy / cell.vision),
        robot=(RobotData("frames", masked_share=stage.masked_share),),
        conversations=(ConversationData("talks"),) if stage.talks else (),
        seed=SEED, output=str(folder / cell.name / "whole"), steps=STEPS, save_every=BREAK,
        log_every=100, batch_size=2, conversation_batch_size=2 if stage.talks else 0,
        learning_rate=3e-3, weight_decay=0.1, grounding_weight=0.1, ema_decay=0.9,
        precision=cell.precision, checkpoint_activations=cell.checkpointed,
    )  # fmt: skip


def data_of(config: TrainConfig, contract: EmbodimentContract) -> TrainingData:
    """What a run learns from."""
    shares = [entry.masked_share for entry in config.robot]
    talks = Mixture([Talks()], [1.0]) if config.conversations else None
    return TrainingData(Mixture([Frames(contract)], [1.0], shares), talks)
