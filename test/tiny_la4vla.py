"""LA4VLA on tiny backbones, and what training makes of frames with and without images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from tiny_robovlm import PLAIN

from vla.datasets.sample import RobotSample
from vla.policies.backbones import KINDS
from vla.policies.collation import CollationOptions
from vla.policies.config import ChatFormat
from vla.policies.la4vla.collation import LA4VLACollator
from vla.policies.la4vla.config import CrossAttentionConfig, LA4VLAConfig
from vla.policies.la4vla.model import LA4VLABatch

CAMERAS = ("front", "wrist")
WORDS = ("pick the red block", "put the can in the bowl", "open it")


def tiny(kind: str = "internvl", **changes) -> LA4VLAConfig:
    """A configuration on the tiny backbone of a kind."""
    head = {"width": 16, "layers": 2, "heads": 2, "mlp": 24, "hidden": 20}
    config = LA4VLAConfig(
        preset="tiny",
        backbone=replace(KINDS[kind].tiny(), chat=ChatFormat()),
        head=CrossAttentionConfig(**head | changes.pop("head", {})),
    )
    return replace(config, **changes)


def samples_of(contract, masked: Sequence[bool], pixels: int = 0) -> list[RobotSample]:
    """Frames, without images where masked; all else of a frame depends on its place alone.

    pixels: other images for another number.
    """
    made = []
    for place, hidden in enumerate(masked):
        own, seen = np.random.default_rng(place), np.random.default_rng([place, pixels, 7])
        images = {name: seen.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in CAMERAS}
        made.append(
            RobotSample(
                {} if hidden else images,
                own.uniform(-1, 1, len(contract.state_names)).astype(np.float32),
                own.uniform(-0.01, 0.01, (contract.horizon, len(contract.action_names))),
                WORDS[place % len(WORDS)],
                steps=int(own.integers(2, contract.horizon + 1)),
            )
        )
    return made


def batch_of(part, samples: Sequence[RobotSample]) -> LA4VLABatch:
    """What training makes of samples of the part's robot."""
    collator = LA4VLACollator(
        part.config, part._tokenizer._tokenizer, CollationOptions(augmentation=PLAIN)
    )
    stats = [part._base.stats] * len(samples)
    return collator.robot_batch(samples, stats, np.random.default_rng(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
