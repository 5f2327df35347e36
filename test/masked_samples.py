"""Frames with images and without, and what counts the images that a model looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from vla.contract.embodiment import EmbodimentContract, dimension_kinds
from vla.contract.normalization import NormStats, measure
from vla.datasets.frames import Shard
from vla.datasets.sample import RobotSample

# Which samples of a batch of four see.
BATCHES = {"all": (0, 0, 0, 0), "some": (1, 0, 0, 1), "none": (1, 1, 1, 1)}
SENTENCES = ("pick the red block", "put the can in the bowl", "pick it", "pick the red can")


def frames(
    contract: EmbodimentContract, seed: int = 0, past: int = 0, places: bool = False
) -> list[RobotSample]:
    """A frame for each sentence, with images drawn by the seed and all else always the same."""
    pixels, generator = np.random.default_rng(seed), np.random.default_rng(1)

    def frame(sentence: str) -> RobotSample:
        images = {
            camera.name: pixels.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
            for camera in contract.cameras
        }
        return RobotSample(
            images,
            generator.uniform(-1, 1, len(contract.state_names)).astype(np.float32),
            generator.uniform(-0.01, 0.01, (contract.horizon, len(contract.action_names))),
            sentence,
            places={name: np.full((2, 2), 30.0) for name in images} if places else None,
        )

    return [
        replace(frame(sentence), past=tuple(frame(sentence) for _ in range(past)))
        for sentence in SENTENCES
    ]


def masked(samples: Sequence[RobotSample], seen: Sequence[int]) -> list[RobotSample]:
    """The samples, without images where they are not seen; windows are masked whole."""
    return [
        sample
        if sees
        else replace(
            sample, images={}, past=tuple(replace(frame, images={}) for frame in sample.past)
        )
        for sample, sees in zip(samples, seen, strict=True)
    ]


def stats_of(contract: EmbodimentContract) -> dict[str, NormStats]:
    generator, kinds = np.random.default_rng(0), dimension_kinds(contract)
    names = {"state": contract.state_names, "action": contract.action_names}
    return {
        vector: measure(generator.uniform(-1, 1, (50, len(own))), own, kinds[vector])
        for vector, own in names.items()
    }


def repainted(shards: Sequence[Shard]) -> list[Shard]:
    """The shards with other pixels in every image."""
    return [
        replace(shard, images={name: 255 - image[:] for name, image in shard.images.items()})
        for shard in shards
    ]


@contextmanager
def counted(*encoders: torch.nn.Module) -> Iterator[list[int]]:
    """Images that each call of a vision encoder gets, in a list that grows."""
    calls: list[int] = []

    def count(_, arguments: tuple, keywords: dict) -> None:
        calls.append(len(next(iter([*arguments, *keywords.values()]))))

    hooks = [encoder.register_forward_pre_hook(count, with_kwargs=True) for encoder in encoders]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
