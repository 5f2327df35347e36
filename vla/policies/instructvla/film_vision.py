"""A small vision encoder for the action expert: convolutions, keypoints, a ViT, FiLM throughout.

InstructVLA modulates every block between its attention and its MLP residual:
x <- x * (1 + gamma(c)) + beta(c), c the mean over the latent action's tokens.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from vla.policies.config import CheckpointError
from vla.policies.images import channel_values, fit_images
from vla.policies.instructvla.config import ActionExpertConfig

# Of ImageNet.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class FiLM(nn.Module):
    """Feature-wise affine modulation of [B, N, D] or [B, D, H, W] by a condition [B, C]."""

    def __init__(self, condition_width: int, width: int):
        super().__init__()
        self.gamma = nn.Linear(condition_width, width)
        self.beta = nn.Linear(condition_width, width)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Modulated x, of the same shape."""
        gamma, beta = self.gamma(condition), self.beta(condition)  # [B, D]
        if x.ndim == 4:
            return x * (1 + gamma[:, :, None, None]) + beta[:, :, None, None]
        return x * (1 + gamma[:, None]) + beta[:, None]


class NoFiLM(nn.Module):
    """Stands where FiLM is left out."""

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """What it is given."""
        return x


def make_film(condition_width: int, width: int, config: ActionExpertConfig) -> FiLM | NoFiLM:
    """The modulation of a layer, where the configuration has one."""
    return FiLM(condition_width, width) if config.film else NoFiLM()


class ConvStem(nn.Module):
    """Strided convolutions with FiLM from the second on: [B, 3, S, S] to [B, D, S / 16, S / 16]."""

    def __init__(self, config: ActionExpertConfig, condition_width: int):
        super().__init__()
        width = config.vision_width
        widths = [3, width // 8, width // 4, width // 2, width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                before, after, kernel_size=3 if index else 5, stride=2, padding=1 if index else 2
            )
            for index, (before, after) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, after) for after in widths[1:])
        self.films = nn.ModuleList(
            make_film(condition_width, after, config) for after in widths[2:]
        )

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of standardised images x under a condition [B, C]: the last and the last but one map.

        The second is [B, D / 2, S / 8, S / 8].
        """
        fine = x
        for index, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            fine = x
            x = norm(convolution(x))
            if index:
                x = self.films[index - 1](x, condition)
            x = F.silu(x)
        return x, fine


class Keypoints(nn.Module):
    """Image positions of K learned features: [B, D, H, W] to [B, 2 K] in -1..1.

    A spatial softmax (Levine et al., 2016): its output is a position, which little data suffices to
    relate to the tool's.
    """

    def __init__(self, width: int, count: int):
        super().__init__()
        self.score = nn.Conv2d(width, count, kernel_size=1)
        self.sharpness = nn.Parameter(torch.full((1,), 4.0))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Expected x of all features, then expected y; and the scores [B, K, H * W] behind them."""
        height, width = features.shape[2:]
        scores = (self.score(features) * self.sharpness).flatten(2)
        weights = scores.softmax(dim=-1)
        x = torch.linspace(-1, 1, width, device=features.device, dtype=features.dtype)
        y = torch.linspace(-1, 1, height, device=features.device, dtype=features.dtype)
        places = [weights @ x.repeat(height), weights @ y.repeat_interleave(width)]
        return torch.cat(places, dim=-1), scores


class FilmBlock(nn.Module):
    """Attention residual, FiLM, MLP residual on [B, N, D]."""

    def __init__(self, config: ActionExpertConfig, condition_width: int):
        super().__init__()
        width, mlp = config.vision_width, config.vision_mlp
        self.heads = config.vision_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.film = make_film(condition_width, width, config)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, D] after this block under a condition [B, C]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x [B, heads, N, D / heads]
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, tokens, width))
        x = self.film(x, condition)
        return x + self.mlp(self.norm2(x))


class ConvVisionEncoder(nn.Module):
    """uint8 images [B, 3, H, W] and a condition [B, C] to visual tokens [B, N, D] and keypoints.

    Views of different cameras share the weights; a learned row per camera tells them apart.
    """

    def __init__(self, config: ActionExpertConfig, condition_width: int, cameras: int):
        super().__init__()
        if config.patch != 16:
            raise CheckpointError(f"vision 'conv' has 16 pixels per token, not {config.patch}")
        self.size, self.tokens = config.image_size, (config.image_size // config.patch) ** 2
        self.stem = ConvStem(config, condition_width)
        self.keypoints: Keypoints | None = None
        if config.keypoints:
            self.keypoints = Keypoints(config.vision_width // 2, config.keypoints)
        self.position = nn.Parameter(torch.randn(1, self.tokens, config.vision_width) * 0.02)
        self.camera = nn.Parameter(torch.randn(cameras, 1, config.vision_width) * 0.02)
        self.blocks = nn.ModuleList(
            FilmBlock(config, condition_width) for _ in range(config.vision_layers)
        )
        self.norm = nn.LayerNorm(config.vision_width)

    def forward(
        self, images: torch.Tensor, condition: torch.Tensor, camera: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
        """Visual tokens, and keypoints [B, 2 K] with their scores where the configuration has them.

        camera [B]: index of the camera that each image comes from.
        """
        pixels = standardize(fit_images(images, self.size), condition.dtype)
        features, fine = self.stem(pixels, condition)
        keypoints = self.keypoints(fine) if self.keypoints is not None else None
        x = features.flatten(2).transpose(1, 2)  # [B, N, D]
        x = x + self.position + self.camera[camera]
        for block in self.blocks:
            x = block(x, condition)
        return self.norm(x), keypoints


def standardize(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 images [B, 3, S, S] with ImageNet's mean and standard deviation taken out."""
    mean, std = (channel_values(values, images.device) for values in (MEAN, STD))
    return ((images.float() / 255.0 - mean) / std).to(dtype)
