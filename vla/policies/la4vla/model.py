"""LA4VLA: a backbone that reads images and instruction, or the instruction alone, and a head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from vla.policies.backbones import Images, build_backbone
from vla.policies.images import blank, fit_images
from vla.policies.la4vla.config import LA4VLAConfig
from vla.policies.la4vla.head import CrossAttentionHead, HeadContext
from vla.policies.sequence import IMAGE, on_device


@dataclass
class LA4VLAInput:
    """What B rows read."""

    images: torch.Tensor  # uint8 [N, 3, H, W], in the order of the rows' image tokens
    ids: torch.Tensor  # [B, T], IMAGE at image tokens
    mask: torch.Tensor  # [B, T], 1 on tokens
    state: torch.Tensor  # [B, S], normalised
    state_used: torch.Tensor  # bool [B, S]: values that the row's robot has

    def to(self, device: str | torch.device) -> LA4VLAInput:
        """The same on another device."""
        return on_device(self, device)


@dataclass
class LA4VLABatch:
    """Frames of robots, and what they did."""

    given: LA4VLAInput
    actions: torch.Tensor  # [B, H, A], normalised
    steps: torch.Tensor  # bool [B, H]: before the episode's end
    used: torch.Tensor  # bool [B, A]: dimensions that the row's robot has

    def to(self, device: str | torch.device) -> LA4VLABatch:
        """The batch on another device."""
        return on_device(self, device)

    @property
    def sees(self) -> bool:
        """Whether it has images."""
        return len(self.given.images) > 0

    def with_blank(self) -> LA4VLABatch:
        """See vla.policies.collation.SeeingBatch."""
        return replace(self, given=replace(self.given, images=blank(self.given.images)))


class LA4VLA(nn.Module):
    """A backbone and a cross-attention head."""

    def __init__(self, config: LA4VLAConfig, horizon: int):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.lora)
        self.head = CrossAttentionHead(config, horizon)

    def encode(self, given: LA4VLAInput) -> torch.Tensor:
        """Hidden states [B, T, C] of the backbone, those that the head attends to and padding.

        A row without image tokens is computed as if there were no vision: where no row has any, the
        vision encoder is not called.
        """
        is_image, mask = given.ids == IMAGE, given.mask
        images = None
        if len(given.images):
            fitted = fit_images(given.images, self.config.backbone.image_size)
            images = Images(self.backbone.encode_images(fitted), is_image)
        attended = self.backbone.mask_of(mask)
        if self.config.mask == "attention_only":
            # As published: the language model's attention is all that is masked.
            attended = mask * ~is_image
        return self.backbone.run(
            self.backbone.embed_text(given.ids.clamp(min=0)),
            self.backbone.positions(is_image, mask),
            attended,
            prefix=mask.bool(),
            images=images,
        )

    def read(self, given: LA4VLAInput, hidden: torch.Tensor) -> HeadContext:
        """What the head attends to, of what was read and its hidden states."""
        return self.head.read(hidden, given.mask, given.state * given.state_used)

    def forward(
        self,
        batch: LA4VLABatch,
        flow_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses, means over the batch; see CrossAttentionHead.losses.

        Where rows are masked, masked_share: of the batch.
        """
        context = self.read(batch.given, self.encode(batch.given))
        losses = self.head.losses(
            context, batch.actions, batch.steps, batch.used, flow_samples, generator
        )
        masked = ~(batch.given.ids == IMAGE).any(-1)
        if masked.any():
            losses["masked_share"] = masked.float().mean()
        return losses
