"""RoboVLMs on tiny backbones, and what training makes of the frames that they are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from vla.datasets.sample import RobotSample
from vla.policies.augment import Augmentation
from vla.policies.backbones import KINDS
from vla.policies.base import Observation
from vla.policies.collation import CollationOptions
from vla.policies.config import ChatFormat
from vla.policies.robovlms.collation import RoboVLMCollator
from vla.policies.robovlms.config import HeadConfig, RoboVLMConfig, StructureConfig
from vla.policies.robovlms.sequence import prompt_ids, rows_of_frames

STEP = 0.3
STRUCTURES = {
    "one_step": StructureConfig("one_step", window=1, history_step=STEP),
    "discrete": StructureConfig("one_step", "discrete", window=1, history_step=STEP),
    "interleaved": StructureConfig("interleaved", window=3, history_step=STEP),
    "policy_head": StructureConfig("policy_head", window=3, history_step=STEP),
}
PLAIN = Augmentation(1.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)


def tiny(layout: str, kind: str = "internvl", output: str = "regression", **changes):
    """A configuration on the tiny backbone of a kind."""
    trunk = changes.pop("trunk", "lstm" if layout == "policy_head" else "fc")
    backbone = replace(KINDS[kind].tiny(), chat=ChatFormat())
    head = HeadConfig(
        trunk, output, 16, 2, 2, 0.0, (16,), denoiser_width=16, denoiser_layers=1, denoiser_heads=2
    )
    config = RoboVLMConfig(
        preset="tiny", backbone=backbone, structure=STRUCTURES[layout], head=head
    )
    return replace(config, **changes)


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Weights that let inputs matter; the learned token is zero at first."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if not name.startswith("backbone."):
            weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))


def observation(seed: int, stamp: float = 0.0) -> Observation:
    generator = np.random.default_rng(seed)
    images = {
        name: generator.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in ("front", "wrist")
    }
    return Observation(images, generator.uniform(-1, 1, 10), stamp)


def ids_of(part, instruction: str) -> list[int]:
    """P of an instruction."""
    return prompt_ids(part._tokenizer, part.config, instruction)


def batch_of(part, frames: list[Observation], instruction: str = "pick the red block"):
    """What training makes of a window of frames."""
    horizon, size = part.contract.horizon, len(part.contract.action_names)
    samples = [
        RobotSample(frame.images, frame.state, np.zeros((horizon, size), np.float32), instruction)
        for frame in frames
    ]
    newest = replace(samples[-1], past=tuple(samples[:-1]))
    options = CollationOptions(augmentation=PLAIN)
    collator = RoboVLMCollator(part.config, part._tokenizer._tokenizer, options)
    return collator.robot_batch([newest], [part._stats], np.random.default_rng(0))


@torch.no_grad()
def trained_chunk(part, frames: list[Observation]) -> np.ndarray:
    """The newest frame's chunk by the training pass."""
    batch, model = batch_of(part, frames), part.model
    rows = rows_of_frames([ids_of(part, "pick the red block")], [len(frames)], part.config)
    assert torch.equal(rows.ids, batch.rows.ids)
    features = model.frame_features(rows, model.encode_images(batch.images), batch.frames.state)
    hidden = model.head.trunk(features[None])[:, -1]
    chunk = model.head.output.sample(hidden)[0].numpy()
    return part._stats["action"].denormalize(chunk)
