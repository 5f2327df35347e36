"""InstructVLA's batches: frames and conversations, augmented and put into words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.contract.normalization import NormStats
from vla.datasets.grounding import EVENTS
from vla.datasets.sample import Conversation, RobotSample
from vla.policies.augment import draw_transform, transform_image
from vla.policies.backbones import KINDS, packs_turns
from vla.policies.backbones.tiles import tiled
from vla.policies.collation import (
    CollationOptions,
    image_places,
    moved_places,
    moved_things,
    stacked,
)
from vla.policies.config import CheckpointError
from vla.policies.images import fit_images, joined_images, square_image
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
        """Raises CheckpointError for names of image tokens that the backbone can't have."""
        if options.naming and KINDS[config.backbone.kind].attends:
            raise CheckpointError(
                f"naming_weight: backbone '{config.backbone.kind}' attends to images and has no "
                "image tokens that could be named; set it to 0"
            )
        if options.naming and config.backbone.max_tiles > 1:
            raise CheckpointError(
                "naming_weight: it is not known what each tile of an image shows; set it to 0, or "
                "backbone.max_tiles to 1"
            )
        self.config, self.options, self.text = config, options, TextTokenizer(tokenizer)
        self.most_images = image_places(config.backbone, options)

    def robot_batch(
        self,
        samples: Sequence[RobotSample],
        stats: Sequence[dict[str, NormStats]],
        generator: np.random.Generator,
    ) -> InstructVLABatch:
        """Frames; each one's text ends with the action queries."""
        vlm_images, expert_images, rows, places = [], [], [], []
        cameras, size = self.config.seen_by_expert, self.config.backbone.image_size
        seen = np.array([bool(sample.images) for sample in samples])
        for sample, sees in zip(samples, seen, strict=True):
            # Drawn for masked samples, too, so that those beside them do not depend on the mask.
            change = draw_transform(self.options.augmentation, generator)
            if sees:
                names = dict.fromkeys((*self.config.vlm_cameras, *cameras))
                images = {name: transform_image(sample.images[name], change) for name in names}
                shown = [images[name] for name in self.config.vlm_cameras]
                if self.config.vlm_joined:
                    shown = [joined_images(torch.stack(shown))]
                tiles, counts = tiled(shown, self.config.backbone)
                vlm_images += tiles
                expert_images.append(stacked([images[name] for name in cameras], (3, size, size)))
                places.append(moved_places(sample, cameras, change))
            row = sample_row(
                sample,
                self.config.prompts,
                self.options.prompts,
                self.config.vlm_images if sees else 0,
                generator,
            )
            rows.append(replace(row, tiles=counts) if sees else row)
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
        """Conversations, with images or without; their words are cut where they are too long."""
        backbone, options = self.config.backbone, self.options
        size = backbone.image_size
        images, rows, things = [], [], []
        packs = packs_turns(backbone)
        for entry in chain.from_iterable([s] if packs else s.separated() for s in samples):
            seen = []
            for number, image in enumerate(entry.images):
                pixels, change = torch.from_numpy(np.array(image)).permute(2, 0, 1), None
                if options.augmentation.conversations:
                    change = draw_transform(options.augmentation, generator)
                    pixels = transform_image(square_image(image, size), change)
                seen.append(pixels)
                things.append(moved_things(entry.things, image, size, change) if not number else {})
            places = self.most_images // max(1, len(seen))
            tiles, counts = tiled(seen, backbone, places)
            images += [fit_images(tile[None], size)[0] for tile in tiles]
            row = PromptRow(entry.turns, images=len(seen), tiles=counts, apart=entry.apart)
            rows.append(row)
        named = None
        if options.naming:
            named = name_cells(self.text, things, size, backbone.image_tokens)
        return InstructVLABatch(
            vlm_images=stacked(images, (3, size, size)),
            text=collate(self.text, backbone, rows, 0, options.most_tokens),
            named=named,
        )
