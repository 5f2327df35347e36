"""What LA4VLA's backbone reads, exactly.

For each view "Image-1: ", its image tokens between the backbone's marks, and a line break; then the
plain instruction. There is no chat template; before all of it stands what the backbone's format
opens with, which is nothing for InternVL. Without images the instruction stands alone, and where
that is blank, too, a line break.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vla.policies.config import CheckpointError
from vla.policies.la4vla.config import LA4VLAConfig
from vla.policies.plain_text import TextTokenizer
from vla.policies.sequence import IMAGE, plain_words

NEEDS_IMAGES = "mask attention_only hides images in attention alone, and cannot do without them"


def words_of(config: LA4VLAConfig, instruction: str) -> str:
    """An instruction as it is read."""
    words = config.prompts.act.format(instruction=instruction.strip())
    return plain_words(words) if config.backbone.chat.plain_words else words


def prompt_ids(
    tokenizer: TextTokenizer, config: LA4VLAConfig, instruction: str, sees: bool
) -> list[int]:
    """Tokens of an instruction, behind those of all cameras if it has images.

    Raises CheckpointError where images are missing that the mask needs.
    """
    if config.mask == "attention_only" and not sees:
        raise CheckpointError(f"{NEEDS_IMAGES}; give it some, or set model.mask to no_tokens")
    chat, ids = config.backbone.chat, tokenizer.encode(config.backbone.chat.opening)
    before = ""
    # What stands between images is one text, as a tokenizer sees it: its pieces may span the seams.
    for number in range(1, len(config.cameras) + 1 if sees else 1):
        ids += tokenizer.encode(f"{before}Image-{number}: {chat.image_start}")
        ids += [IMAGE] * config.backbone.image_tokens
        before = chat.image_end.rstrip("\n") + "\n"
    ids += tokenizer.encode(before, words_of(config, instruction))
    return ids or tokenizer.encode("\n")


def pad_right(rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [B, T] of rows, and a mask [B, T] that is 1 on their tokens."""
    length = max(map(len, rows))
    ids, mask = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(2))
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask
