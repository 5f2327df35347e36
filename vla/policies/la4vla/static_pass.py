"""LA4VLA with all shapes known beforehand: a chunk is one pass that can be compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from vla.policies.backbones import Images
from vla.policies.compiled import compiled
from vla.policies.config import CheckpointError
from vla.policies.images import fit_images
from vla.policies.la4vla.model import LA4VLA, LA4VLAInput
from vla.policies.padded_prompts import padded_prompt, prompt_lengths
from vla.policies.sequence import IMAGE


class StaticLA4VLA:
    """Chunks of one row with images, whose prompt is padded at its end to one of a few lengths."""

    def __init__(self, model: LA4VLA, mode: str, shortest: Sequence[int], images: torch.Size):
        """mode: see vla.policies.compiled. shortest: the tokens of the shortest prompt.

        images: shape [N, 3, H, W] of a prompt's. Raises CheckpointError for a model that has no
        such pass.
        """
        if not model.backbone.takes_masks_as_given:
            raise CheckpointError(
                f"compile: the passes of backbone '{model.config.backbone.kind}' depend on what "
                "they read; use 'none'"
            )
        if model.config.mask == "attention_only":
            raise CheckpointError(
                "compile: with mask attention_only the backbone reads masks on the host; use 'none'"
            )
        self.model, self.images, self._shortest = model, images, list(shortest)
        self.lengths = prompt_lengths(len(shortest))
        self.device = model.head.norm.weight.device
        self._numbers = torch.arange(self.lengths[-1], device=self.device)
        self._act = compiled(self.act, mode)

    def takes(self, given: LA4VLAInput) -> bool:
        """Whether a row with images [N, 3, H, W] fits."""
        return given.images.shape == self.images and given.ids.shape[1] <= self.lengths[-1]

    @torch.no_grad()
    def warm_up(self) -> Iterator[str]:
        """Runs the pass with prompts of all lengths, which compiles it, and says which it ran."""
        head, config = self.model.head, self.model.config
        images = torch.zeros(self.images, dtype=torch.uint8, device=self.device)
        state = torch.zeros(1, config.max_state, device=self.device)
        noise = torch.zeros(1, *head.shape, device=self.device)
        used = torch.ones(1, config.max_action, dtype=torch.bool, device=self.device)
        for length in self.lengths:
            tokens = self._shortest + [0] * (length - len(self._shortest))
            self._act(images, *padded_prompt(tokens, self.lengths, self.device), state, noise, used)
            yield f"chunks of prompts of {length} tokens"

    @torch.no_grad()
    def __call__(
        self, given: LA4VLAInput, noise: torch.Tensor, used: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The chunk [1, H, A] of noise [1, H, A], and hidden states [1, T, C] of the row's tokens.

        used: bool [1, A], dimensions that the robot has.
        """
        tokens = given.ids[0].tolist()
        prompt = padded_prompt(tokens, self.lengths, self.device)
        state = given.state * given.state_used
        chunk, hidden = self._act(given.images.contiguous(), *prompt, state, noise, used)
        return chunk, hidden[:, : len(tokens)]

    def act(
        self,
        images: torch.Tensor,
        ids: torch.Tensor,
        count: torch.Tensor,
        state: torch.Tensor,
        noise: torch.Tensor,
        used: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chunk and hidden states [1, T, C] of ids [1, T], of which `count` [1] are tokens."""
        backbone, numbers = self.model.backbone, self._numbers[None, : ids.shape[1]]
        fitted = fit_images(images, self.model.config.backbone.image_size)
        seen = Images(backbone.encode_images(fitted), ids == IMAGE)
        # No token attends to those behind it, such as the padding.
        hidden = backbone.run(backbone.embed_text(ids.clamp(min=0)), numbers, None, images=seen)
        context = self.model.head.read(hidden, numbers < count[:, None], state)
        return self.model.head.from_noise(context, noise, used), hidden
