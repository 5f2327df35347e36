"""DINOv2 with FiLM in every block: the vision encoder of InstructVLA's action expert at full size.

FiLM acts between a block's attention and its MLP residual (see film_vision.py). The blocks are
those of transformers, whose weights load as they are.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersLayer,
)

from vla.policies.config import CheckpointError
from vla.policies.images import fit_images, zoom_images
from vla.policies.instructvla.config import ActionExpertConfig
from vla.policies.instructvla.film_vision import FiLM, NoFiLM, make_film, standardize

REGISTERS = 4


def dinov2_config(config: ActionExpertConfig) -> Dinov2WithRegistersConfig:
    """The configuration of DINOv2 up to the feature block."""
    return Dinov2WithRegistersConfig(
        hidden_size=config.vision_width,
        num_hidden_layers=config.vision_feature_block + 1,
        num_attention_heads=config.vision_heads,
        mlp_ratio=config.vision_mlp // config.vision_width,
        image_size=config.image_size,
        patch_size=config.patch,
        num_register_tokens=REGISTERS,
    )


class FilmedLayer(Dinov2WithRegistersLayer):
    """A block whose attention's result is modulated.

    It is called as a whole, which sharded training needs to have its weights at hand.
    """

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, film: FiLM | NoFiLM, condition: torch.Tensor
    ) -> torch.Tensor:
        """Tokens [B, 1 + registers + N, D] after this block under a condition [B, C]."""
        part = self.get_submodule
        attended = part("attention")(part("norm1")(x))[0]
        x = film(x + part("drop_path")(part("layer_scale1")(attended)), condition)
        return x + part("drop_path")(part("layer_scale2")(part("mlp")(part("norm2")(x))))


class Dinov2Encoder(nn.Module):
    """uint8 images [B, 3, H, W] and a condition [B, C] to visual tokens [B, N, D].

    The tokens are the patches' raw output of block `vision_feature_block`. What only later outputs
    read is not built: a parameter without a gradient stops training on several devices.
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
        self.size = config.image_size
        self.fit = zoom_images if config.vision_zoom else fit_images
        sizes = dinov2_config(config)
        layers = [FilmedLayer(sizes) for _ in range(sizes.num_hidden_layers)]
        sizes.num_hidden_layers = 0  # Ours take their place.
        self.model = Dinov2WithRegistersModel(sizes)
        self.model.encoder.layer.extend(layers)
        self.model.init_weights()
        # Of the last block's output, and of masked patches in DINOv2's own training.
        self.model.set_submodule("layernorm", nn.Identity())
        self.model.embeddings.register_parameter("mask_token", None)
        self.films = nn.ModuleList(
            make_film(condition_width, config.vision_width, config)
            for _ in self.model.encoder.layer
        )

    def forward(
        self, images: torch.Tensor, condition: torch.Tensor, camera: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """Visual tokens; there are no keypoints. Cameras differ by the order of their tokens."""
        pixels = standardize(self.fit(images, self.size), condition.dtype)
        x = self.model.embeddings(pixels)  # [B, 1 + registers + N, D]
        for layer, film in zip(self.model.encoder.layer, self.films, strict=True):
            x = layer(x, film, condition)
        return x[:, 1 + REGISTERS :], None


def unread_weights(config: ActionExpertConfig) -> tuple[str, ...]:
    """What names of an encoder's weights begin with that may be stored and that nothing reads."""
    later = range(config.vision_feature_block + 1, config.vision_layers)
    blocks = [f"{part}.{index}." for index in later for part in ("model.encoder.layer", "films")]
    return (*blocks, "model.layernorm.", "model.embeddings.mask_token")


def published_size(encoder: Dinov2Encoder, config: ActionExpertConfig) -> int:
    """Parameters with all blocks and their norm, as the authors count them.

    The class token of their DINOv2, timm's, has no position of its own.
    """
    block = (encoder.model.encoder.layer[0], encoder.films[0])
    each = sum(p.numel() for part in block for p in part.parameters())
    built = sum(p.numel() for p in encoder.parameters())
    later = config.vision_layers - len(encoder.films)
    return built + later * each + 2 * config.vision_width - config.vision_width
