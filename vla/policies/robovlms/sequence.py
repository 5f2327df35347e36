"""What RoboVLMs' backbone reads, exactly; docs/robovlms.md shows each structure.

P is a prompt: opening, images, words and what begins an answer, as the backbone's chat format has
them. Behind it stand the state token, where there is one, and the learned tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from vla.policies.plain_text import TextTokenizer
from vla.policies.robovlms.config import RoboVLMConfig
from vla.policies.sequence import IGNORE, end_id, question_ids

# Stand for embeddings that come from elsewhere, as IMAGE does for image tokens.
LEARNED = -2
STATE = -3


@dataclass
class Rows:
    """Token ids of R rows, padded on the right."""

    ids: torch.Tensor  # [R, T]
    mask: torch.Tensor  # [R, T], 1 on tokens
    # [R, T]: number of the block whose prompt a token is of, from 1; 0 elsewhere. Tokens of one
    # prompt see each other both ways in backbones that were trained so.
    prefix: torch.Tensor
    labels: torch.Tensor  # [R, T], IGNORE where nothing is to be predicted


Tensors = TypeVar("Tensors")


def on_device(tensors: Tensors, device: str | torch.device) -> Tensors:
    """A dataclass of tensors on another device."""
    moved = {
        name: None if value is None else value.to(device) for name, value in vars(tensors).items()
    }
    return type(tensors)(**moved)


def prompt_ids(tokenizer: TextTokenizer, config: RoboVLMConfig, instruction: str) -> list[int]:
    """P of an instruction, with the image tokens of all cameras."""
    words = config.prompts.act.format(instruction=instruction.strip().rstrip(".").lower())
    backbone = config.backbone
    return tokenizer.encode(backbone.chat.opening) + question_ids(
        tokenizer, backbone.chat, words, len(config.cameras), config.image_tokens
    )


def frame_ids(prompt: list[int], config: RoboVLMConfig) -> list[int]:
    """A frame's block: P, the state, the learned tokens."""
    state = [STATE] if config.use_state else []
    return prompt + state + ([LEARNED] * config.structure.latent if config.learned else [])


def rows_of_frames(
    prompts: Sequence[list[int]], counts: Sequence[int], config: RoboVLMConfig
) -> Rows:
    """Rows of windows of so many frames each, all of a window with its prompt.

    interleaved: a row for each window, its blocks one after the other. Else a row for each frame.
    """
    blocks = [(frame_ids(prompt, config), len(prompt)) for prompt in prompts]
    if config.structure.kind == "interleaved":
        return pad([[block] * count for block, count in zip(blocks, counts, strict=True)])
    return pad([[block] for block, count in zip(blocks, counts, strict=True) for _ in range(count)])


def rows_of_actions(
    prompts: Sequence[list[int]],
    actions: Sequence[list[int]],
    known: Sequence[int],
    tokenizer: TextTokenizer,
    config: RoboVLMConfig,
) -> Rows:
    """Rows of one-step discrete: P, the chunk's action tokens, the end token.

    known: how many of a row's action tokens are of steps before the episode's end; the others, and
    the end token behind them, have no label.
    """
    end = end_id(tokenizer, config.backbone.chat)
    rows = pad(
        [
            [([*frame_ids(prompt, config), *tokens, end], len(prompt))]
            for prompt, tokens in zip(prompts, actions, strict=True)
        ]
    )
    for row, (prompt, tokens, count) in enumerate(zip(prompts, actions, known, strict=True)):
        start = len(frame_ids(prompt, config))
        stop = start + count + int(count == len(tokens))
        rows.labels[row, start:stop] = rows.ids[row, start:stop]
    return rows


def pad(rows: Sequence[Sequence[tuple[list[int], int]]]) -> Rows:
    """Rows of blocks, each its ids and the length of its prompt, to one batch."""
    length = max(sum(len(ids) for ids, _ in blocks) for blocks in rows)
    shape = (len(rows), length)
    ids, mask, prefix = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for row, blocks in enumerate(rows):
        at = 0
        for number, (tokens, prompt) in enumerate(blocks, start=1):
            ids[row, at : at + len(tokens)] = torch.tensor(tokens)
            prefix[row, at : at + prompt] = number
            at += len(tokens)
        mask[row, :at] = 1
    return Rows(ids, mask, prefix, torch.full(shape, IGNORE, dtype=torch.long))
