"""DINOv2 with FiLM in every block: the vision encoder of InstructVLA's action expert at full size.

FiLM acts between a block's attention and its MLP residual (see film_vision.py). The blocks are
those of transformers, whose weights load as they are.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from vla.policies.config import CheckpointError
from vla.policies.images import fit_images, zoom_images
from vla.policies.instructvla.config import ActionExpertConfig
from vla.policies.instructvla.film_vision import FiLM, standardize

REGISTERS = 4


class Dinov2Encoder(nn.Module):
    """uint8 images [B, 3, H, W] and a condition [B, C] to visual tokens [B, N, D].

    The tokens are the patches' raw output of block `vision_feature_block`; later blocks exist, as
    in the released weights, and are not run.
    """

    def __init__(self, config: ActionExpertConfig, condition_width: int):
        super().__init__()
        if not 0 <= config.vision_feature_block < config.vision_layers:
            raise CheckpointError(
                f"vision_feature_block {config.vision_feature_block} is not one of "
                f"{config.vision_layers} blocks"
            )
        if config.keypoints:
            raise CheckpointError("keypoints need vision 'conv'; set keypoints to 0 for 'dinov2'")
        self.tokens = (config.image_size // config.patch) ** 2
        self.feature_block, self.size = config.vision_feature_block, config.image_size
        self.fit = zoom_images if config.vision_zoom else fit_images
        self.model = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=config.vision_width,
                num_hidden_layers=config.vision_layers,
                num_attention_heads=config.vision_heads,
                mlp_ratio=config.vision_mlp // config.vision_width,
                image_size=config.image_size,
                patch_size=config.patch,
                num_register_tokens=REGISTERS,
            )
        )
        # Not used here: DINOv2's token for masked patches in its own training.
        self.model.embeddings.mask_token.requires_grad_(False)
        self.films = nn.ModuleList(
            FiLM(condition_width, config.vision_width) for _ in range(config.vision_layers)
        )

    def forward(
        self, images: torch.Tensor, condition: torch.Tensor, camera: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """Visual tokens; there are no keypoints. Cameras differ by the order of their tokens."""
        pixels = standardize(self.fit(images, self.size), condition.dtype)
        x = self.model.embeddings(pixels)  # [B, 1 + registers + N, D]
        layers = self.model.encoder.layer[: self.feature_block + 1]
        for layer, film in zip(layers, self.films, strict=False):
            part = layer.get_submodule
            attended = part("attention")(part("norm1")(x))[0]
            x = film(x + part("drop_path")(part("layer_scale1")(attended)), condition)
            x = x + part("drop_path")(part("layer_scale2")(part("mlp")(part("norm2")(x))))
        return x[:, 1 + REGISTERS :], None
