"""Where in each image the gripper acts next, which a small policy otherwise learns slowly.

Not in the paper. The token that answers is compared with each image token; what the comparison
finds is trained on the demonstration's own grasps and releases, and given to the head.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from vla.datasets.grounding import EVENTS, grounding_loss

# What the head gets for each camera and event: a place and how sure it is.
VALUES = 3


class Pointing(nn.Module):
    """Finds the places of the next closing and opening of the gripper in image tokens."""

    grid: torch.Tensor

    def __init__(self, hidden: int, width: int, cells: int):
        """hidden: width of the backbone. width: of the comparison. cells: tokens of an image."""
        super().__init__()
        self.query = nn.Linear(hidden, len(EVENTS) * width)
        self.key = nn.Linear(hidden, width)
        side = math.isqrt(cells)
        axis = (torch.arange(side, dtype=torch.float32) + 0.5) * (2.0 / side) - 1.0
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        grid = torch.stack([columns.flatten(), rows.flatten()], dim=-1)  # [I, 2], right and down
        self.register_buffer("grid", grid, persistent=False)

    def forward(
        self, answer: torch.Tensor, image_tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [F, C, E, I] of image tokens [F, C, I, D], and what the head gets [F, C, E, 3].

        answer [F, D]: hidden state of the token that answers. Places are from -1 to 1, right and
        down.
        """
        queries = self.query(answer).unflatten(-1, (len(EVENTS), -1))  # [F, E, K]
        keys = self.key(image_tokens)  # [F, C, I, K]
        scores = torch.einsum("fek,fcik->fcei", queries, keys) / math.sqrt(keys.shape[-1])
        shares = scores.float().softmax(dim=-1)
        places = torch.cat([shares @ self.grid, shares.amax(dim=-1, keepdim=True)], dim=-1)
        return scores, places


def pointing_loss(
    scores: torch.Tensor, places: torch.Tensor, pixels: torch.Tensor, size: int
) -> torch.Tensor:
    """Cross-entropy of the tokens, and the distance from place to place in tokens.

    scores, places: see Pointing. pixels [F, C, E, 2]: NaN where the image does not show the place.
    size: side of the images [px].
    """
    with torch.autocast(scores.device.type, enabled=False):
        loss = grounding_loss(scores.float(), pixels, size)
        known = pixels.isfinite().all(dim=-1)  # [F, C, E]
        if not known.any():
            return loss
        targets = (pixels[known] + 0.5) * (2.0 / size) - 1.0
        half = math.isqrt(scores.shape[-1]) / 2.0
        return loss + F.smooth_l1_loss(half * places[..., :2][known].float(), half * targets)
