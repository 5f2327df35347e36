"""LA4VLA's batches: frames with images, and frames without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from vla.contract.normalization import NormStats
from vla.datasets.sample import Conversation, RobotSample
from vla.policies.augment import draw_transform, transform_image
from vla.policies.collation import Batch, CollationOptions
from vla.policies.config import CheckpointError
from vla.policies.la4vla.config import LA4VLAConfig
from vla.policies.la4vla.model import LA4VLABatch, LA4VLAInput
from vla.policies.la4vla.sequence import pad_right, prompt_ids
from vla.policies.la4vla.vectors import bounded_stats, padded, used
from vla.policies.plain_text import TextTokenizer


class LA4VLACollator:
    """See vla.policies.collation.Collator. A sample whose images are {} is without vision."""

    def __init__(self, config: LA4VLAConfig, tokenizer: Tokenizer, options: CollationOptions):
        self.config, self.options, self.text = config, options, TextTokenizer(tokenizer)
        self.most_images = 0

    def robot_batch(
        self,
        samples: Sequence[RobotSample],
        stats: Sequence[dict[str, NormStats]],
        generator: np.random.Generator,
    ) -> LA4VLABatch:
        """One change of images each; samples without images have no image tokens."""
        config, augmentation = self.config, self.options.augmentation
        images, prompts, states, state_used, actions, known, action_used = ([] for _ in range(7))
        for sample, measured in zip(samples, stats, strict=True):
            own = bounded_stats(config, measured)
            # Drawn for every sample, so that a mask changes nothing for those beside it.
            change = draw_transform(augmentation, generator)
            state = own["state"].normalize(sample.state, self.options.state_limit)
            state = state + generator.normal(0.0, augmentation.state_noise, state.shape)
            if sample.images:
                images += [transform_image(sample.images[name], change) for name in config.cameras]
            prompts.append(prompt_ids(self.text, config, sample.instruction, bool(sample.images)))
            states.append(padded(state, config.max_state))
            state_used.append(used(len(state), config.max_state))
            chunk = own["action"].normalize(sample.actions)
            actions.append(padded(chunk, config.max_action))
            action_used.append(used(chunk.shape[-1], config.max_action))
            count = len(chunk) if sample.steps is None else sample.steps
            known.append(np.arange(len(chunk)) < count)
        size = config.backbone.image_size
        none = torch.zeros(0, 3, size, size, dtype=torch.uint8)
        return LA4VLABatch(
            LA4VLAInput(
                torch.stack(images) if images else none,
                *pad_right(prompts),
                torch.from_numpy(np.stack(states).astype(np.float32)),
                torch.from_numpy(np.stack(state_used)),
            ),
            torch.from_numpy(np.stack(actions).astype(np.float32)),
            torch.from_numpy(np.stack(known)),
            torch.from_numpy(np.stack(action_used)),
        )

    def conversation_batch(
        self, samples: Iterable[Conversation], generator: np.random.Generator
    ) -> Batch:
        """Raises CheckpointError: this policy gives no text."""
        raise CheckpointError(
            "a policy of type la4vla gives no text, so it learns none: leave conversations out"
        )
