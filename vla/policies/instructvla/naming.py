"""Naming labels: the words for what each part of an image shows.

A vision-language model from random weights is slow to leave answers that fit any image. Where the
data says what is where, each image token learns the words for what it shows, by its similarity to
their embeddings. Pretrained models need none of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vla.policies.plain_text import TextTokenizer
from vla.policies.sequence import on_device


@dataclass
class NamedCells:
    """What image tokens show."""

    words: torch.Tensor  # [W, L]: token ids of the words, -1 after their ends
    labels: torch.Tensor  # [N, I, W]: 1 where an image token shows what a word stands for

    def to(self, device: str | torch.device) -> NamedCells:
        """The same on another device."""
        return on_device(self, device)


def cell_at(x: float, y: float, size: int, side: int) -> int | None:
    """The image token of a pixel, right and down; None outside of the image.

    size: side of the square image [px]. side: tokens in a row.
    """
    if not (0 <= x < size and 0 <= y < size):
        return None
    return int(y * side / size) * side + int(x * side / size)


def name_cells(
    tokenizer: TextTokenizer,
    things: list[dict[str, tuple[float, float]]],
    size: int,
    image_tokens: int,
) -> NamedCells | None:
    """Labels of N images with things at pixels, right and down, by name; None without any.

    size: side of the square images [px]. A thing between two tokens counts for the nearest.
    """
    words = sorted({word for named in things for name in named for word in name.split()})
    if not words:
        return None
    encoded = [tokenizer.encode(text=word) for word in words]
    ids = torch.full((len(words), max(map(len, encoded))), -1)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    side = round(image_tokens**0.5)
    labels = torch.zeros(len(things), image_tokens, len(words))
    for image, named in enumerate(things):
        for name, (x, y) in named.items():
            if (cell := cell_at(x, y, size, side)) is not None:
                labels[image, cell, [words.index(word) for word in name.split()]] = 1.0
    return NamedCells(ids, labels)
