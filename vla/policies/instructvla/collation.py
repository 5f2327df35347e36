"""InstructVLA's batches: frames and conversations, augmented and put into words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.contract.normalization import NormStats
from vla.datasets.grounding import EVENTS
from vla.datasets.sample import Conversation, RobotSample
from vla.policies.augment import draw_transform, transform_image
from vla.policies.backbones import KINDS
from vla.policies.collation import CollationOptions, moved_places, stacked
from vla.policies.config import CheckpointError
from vla.policies.images import square_image
from vla.policies.instructvla.config import InstructVLAConfig
from vla.policies.instructvla.naming import name_cells
from vla.policies.instructvla.prompts import sample_row
from vla.policies.instructvla.vision_language_action import ActingRows, InstructVLABatch
from vla.policies.plain_text import TextTokenizer
from vla.policies.sequence import PromptRow, collate


class InstructVLACollator:
    """See vla.policies.collation.Collator."""

    def __init__(
        self, config: InstructVLAConfig, tokenizer: Tokenizer | None, options: CollationOptions
    ):
        """Raises CheckpointError for names of image tokens, where the backbone has none."""
        if options.naming and KINDS[config.backbone.kind].attends:
            raise CheckpointError(
                f"naming_weight: backbone '{config.backbone.kind}' attends to images and has no "
                "image tokens that could be named; set it to 0"
            )
        self.config, self.options, self.text = config, options, TextTokenizer(tokenizer)

    def robot_batch(
        self,
        samples: Sequence[RobotSample],
        stats: Sequence[dict[str, NormStats]],
        generator: np.random.Generator,
    ) -> InstructVLABatch:
        """Frames; each one's text ends with the action queries."""
        vlm_images, expert_images, rows, places = [], [], [], []
        cameras, size = self.config.expert_cameras, self.config.backbone.image_size
        seen = np.array([bool(sample.images) for sample in samples])
        for sample, sees in zip(samples, seen, strict=True):
            # Drawn for masked samples, too, so that those beside them do not depend on the mask.
            change = draw_transform(self.options.augmentation, generator)
            if sees:
                names = dict.fromkeys((*self.config.vlm_cameras, *cameras))
                images = {name: transform_image(sample.images[name], change) for name in names}
                vlm_images += [images[name] for name in self.config.vlm_cameras]
                expert_images.append(torch.stack([images[name] for name in cameras]))
                places.append(moved_places(sample, cameras, change))
            rows.append(
                sample_row(
                    sample,
                    self.config.prompts,
                    self.options.prompts,
                    len(self.config.vlm_cameras) if sees else 0,
                    generator,
                )
            )
        pairs = list(zip(stats, samples, strict=True))
        limit = self.options.state_limit
        state = np.stack([own["state"].normalize(sample.state, limit) for own, sample in pairs])
        noise = generator.normal(0.0, self.options.augmentation.state_noise, state.shape)
        actions = np.stack([own["action"].normalize(sample.actions) for own, sample in pairs])
        grounded = None
        if self.options.grounding:
            shape = len(places), len(cameras), len(EVENTS), 2
            grounded = torch.from_numpy(np.reshape(places, shape).astype(np.float32))
        return InstructVLABatch(
            vlm_images=stacked(vlm_images, (3, size, size)),
            text=collate(self.text, self.config.backbone, rows, self.config.num_queries),
            acting=ActingRows(
                stacked(expert_images, (len(cameras), 3, size, size)),
                torch.from_numpy((state + noise).astype(np.float32)),
                torch.from_numpy(actions.astype(np.float32)),
                grounded,
                None if seen.all() else torch.from_numpy(seen),
            ),
        )

    def conversation_batch(
        self, samples: Iterable[Conversation], generator: np.random.Generator
    ) -> InstructVLABatch:
        """Conversations, with an image or without."""
        size = self.config.backbone.image_size
        images, rows, things = [], [], []
        for entry in samples:
            if entry.image is not None:
                change = draw_transform(self.options.augmentation, generator)
                height, width = entry.image.shape[:2]
                images.append(transform_image(square_image(entry.image, size), change))
                scale = np.array([size / width, size / height])
                things.append(
                    {
                        name: tuple(change.move((np.array(pixel) + 0.5) * scale - 0.5, size))
                        for name, pixel in entry.things.items()
                    }
                )
            rows.append(PromptRow(entry.turns, acts=False, images=int(entry.image is not None)))
        named = None
        if self.options.naming:
            named = name_cells(self.text, things, size, self.config.backbone.image_tokens)
        return InstructVLABatch(
            vlm_images=stacked(images, (3, size, size)),
            text=collate(self.text, self.config.backbone, rows, self.config.num_queries),
            named=named,
        )
