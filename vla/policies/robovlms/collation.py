"""RoboVLMs' batches: windows of frames, and conversations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.contract.normalization import NormStats
from vla.datasets.sample import Conversation, RobotSample
from vla.policies.augment import draw_transform, transform_image
from vla.policies.collation import CollationOptions, image_places, moved_places, stacked
from vla.policies.images import square_image
from vla.policies.plain_text import TextTokenizer
from vla.policies.robovlms.config import RoboVLMConfig
from vla.policies.robovlms.model import FrameBatch, RobotBatch, action_tokens
from vla.policies.robovlms.padding import action_layout, padded_state
from vla.policies.robovlms.sequence import Rows, prompt_ids, rows_of_actions, rows_of_frames
from vla.policies.sequence import PromptRow, collate


class RoboVLMCollator:
    """See vla.policies.collation.Collator."""

    def __init__(self, config: RoboVLMConfig, tokenizer: Tokenizer, options: CollationOptions):
        self.config, self.options, self.text = config, options, TextTokenizer(tokenizer)
        # As conversations see them: with the image tokens of what resamples them.
        self._backbone = replace(config.backbone, image_tokens=config.image_tokens)
        self.most_images = image_places(self._backbone, options)

    def robot_batch(
        self,
        samples: Sequence[RobotSample],
        stats: Sequence[dict[str, NormStats]],
        generator: np.random.Generator,
    ) -> RobotBatch:
        """Windows that end with the samples: one wording and one change of images each.

        The windows of masked samples are masked whole.
        """
        images, states, actions, steps, places = [], [], [], [], []
        used, tokens = [], []
        window = self.config.structure.window
        valid = torch.zeros(len(samples), window, dtype=torch.bool)
        limit = self.options.state_limit
        for row, (sample, own) in enumerate(zip(samples, stats, strict=True)):
            layout = action_layout(self.config, own["action"].kinds)
            change = draw_transform(self.options.augmentation, generator)
            frames = [*sample.past, sample]
            valid[row, : len(frames)] = True
            for frame in frames:
                if sample.images:
                    images += [
                        transform_image(frame.images[name], change) for name in self.config.cameras
                    ]
                    places.append(moved_places(frame, self.config.cameras, change))
                states.append(own["state"].normalize(frame.state, limit))
                normalized = own["action"].normalize(frame.actions)
                actions.append(layout.spread(normalized))
                used.append(layout.used)
                if self.config.discrete:
                    tokens.append(action_tokens(self.config).encode(normalized))
                count = len(frame.actions) if frame.steps is None else frame.steps
                steps.append(np.arange(len(frame.actions)) < count)
        state = np.stack([padded_state(self.config, state) for state in states])
        noise = generator.normal(0.0, self.options.augmentation.state_noise, state.shape)
        noise *= np.stack([np.arange(state.shape[1]) < len(own) for own in states])
        known, size = np.stack(steps), self.config.backbone.image_size
        seen = torch.tensor([bool(sample.images) for sample in samples])
        rows = self._rows(samples, valid.sum(1).tolist(), tokens, known)
        return RobotBatch(
            stacked(images, (3, size, size)),
            rows,
            FrameBatch(
                slots=valid,
                state=torch.from_numpy((state + noise).astype(np.float32)),
                actions=torch.from_numpy(np.stack(actions).astype(np.float32)),
                steps=torch.from_numpy(known),
                used=torch.from_numpy(np.stack(used)),
                places=torch.from_numpy(np.stack(places).astype(np.float32))
                if self.options.grounding and places
                else None,
                seen=None if seen.all() else seen,
            ),
        )

    def _rows(
        self,
        samples: Sequence[RobotSample],
        counts: list[int],
        tokens: list[np.ndarray],
        known: np.ndarray,
    ) -> Rows:
        """tokens: int [H, A] of each frame, where actions are tokens. known: bool [F, H]."""
        prompts = [
            prompt_ids(self.text, self.config, sample.instruction, bool(sample.images))
            for sample in samples
        ]
        if not self.config.discrete:
            return rows_of_frames(prompts, counts, self.config)
        return rows_of_actions(
            prompts,
            [chunk.ravel().tolist() for chunk in tokens],
            [
                int(count) * chunk.shape[1]
                for count, chunk in zip(known.sum(1), tokens, strict=True)
            ],
            self.text,
            self.config,
        )

    def conversation_batch(
        self, samples: Iterable[Conversation], generator: np.random.Generator
    ) -> RobotBatch:
        """Conversations, with images or without; their words are cut where they are too long."""
        size, augmentation = self.config.backbone.image_size, self.options.augmentation
        images, rows = [], []
        for entry in chain.from_iterable(sample.separated() for sample in samples):
            for image in entry.images:
                square = square_image(image, size)
                if augmentation.conversations:
                    images.append(transform_image(square, draw_transform(augmentation, generator)))
                else:
                    images.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
            rows.append(PromptRow(entry.turns, images=len(entry.images)))
        text = collate(self.text, self._backbone, rows, 0, self.options.most_tokens)
        return RobotBatch(
            stacked(images, (3, size, size)),
            Rows(text.ids, text.mask, text.prefix.long(), text.labels),
        )
