"""What RoboVLMs' backbone reads, exactly; docs/robovlms.md shows each structure.

P is a prompt: opening, images, words and what begins an answer, as the backbone's chat format has
them. Behind it stand the state token, where there is one, and the learned tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vla.policies.config import CheckpointError
from vla.policies.plain_text import TextTokenizer
from vla.policies.robovlms.config import RoboVLMConfig, positions_of
from vla.policies.sequence import IGNORE, end_id, question_ids

# Stand for embeddings that come from elsewhere, as IMAGE does for image tokens.
LEARNED = -2
STATE = -3


@dataclass
class Rows:
    """Token ids of R rows, padded on the right, or as token_place before_last has it."""

    ids: torch.Tensor  # [R, T]
    mask: torch.Tensor  # [R, T], 1 on tokens
    # [R, T]: number of the block whose prompt a token is of, from 1; 0 elsewhere. Tokens of one
    # prompt see each other both ways in backbones that were trained so.
    prefix: torch.Tensor
    labels: torch.Tensor  # [R, T], IGNORE where nothing is to be predicted


def prompt_ids(
    tokenizer: TextTokenizer, config: RoboVLMConfig, instruction: str, sees: bool = True
) -> list[int]:
    """P of an instruction, with the image tokens of all cameras; without any where masked."""
    words = config.prompts.act.format(instruction=instruction.strip().rstrip(".").lower())
    backbone = config.backbone
    return tokenizer.encode(backbone.chat.opening) + question_ids(
        tokenizer, backbone.chat, words, len(config.cameras) if sees else 0, config.image_tokens
    )


@dataclass
class FrameTokens:
    """The tokens of one frame."""

    ids: list[int]
    prompt: list[bool]  # which of them are of P
    known: list[bool]  # False for padding, which may stand in the middle


def frame_block(prompt: list[int], config: RoboVLMConfig, length: int = 0) -> FrameTokens:
    """A frame's block: P, the state, the learned tokens.

    length: of the longest prompt beside it, for token_place before_last: as published, P is padded
    to it first, and its last token, or padding, stands behind the learned ones.
    """
    own = [STATE] if config.use_state else []
    own += [LEARNED] * config.structure.latent if config.learned else []
    if config.structure.token_place == "after_text":
        count = len(prompt)
        return FrameTokens(
            prompt + own,
            [True] * count + [False] * len(own),
            [True] * (count + len(own)),
        )
    padded = max(length, len(prompt))
    tokens = prompt + [0] * (padded - len(prompt))
    known = [index < len(prompt) for index in range(padded)]
    return FrameTokens(
        [*tokens[:-1], *own, tokens[-1]],
        [*known[:-1], *[False] * len(own), known[-1]],
        [*known[:-1], *[True] * len(own), known[-1]],
    )


def rows_of_frames(
    prompts: Sequence[list[int]], counts: Sequence[int], config: RoboVLMConfig
) -> Rows:
    """Rows of windows of so many frames each, all of a window with its prompt.

    interleaved: a row for each window, its blocks one after the other. Else a row for each frame.
    Raises CheckpointError where a row is longer than the backbone's positions.
    """
    longest = max(map(len, prompts))
    blocks = [frame_block(prompt, config, longest) for prompt in prompts]
    if config.structure.kind == "interleaved":
        rows = [[block] * count for block, count in zip(blocks, counts, strict=True)]
    else:
        rows = [[block] for block, count in zip(blocks, counts, strict=True) for _ in range(count)]
    return _require_fit(pad(rows), config)


def rows_of_actions(
    prompts: Sequence[list[int]],
    actions: Sequence[list[int]],
    known: Sequence[int],
    tokenizer: TextTokenizer,
    config: RoboVLMConfig,
) -> Rows:
    """Rows of one-step discrete: P, the chunk's action tokens, the end token.

    known: how many of a row's action tokens are of steps before the episode's end; the others, and
    the end token behind them, have no label. Raises CheckpointError as rows_of_frames does.
    """
    end = end_id(tokenizer, config.backbone.chat)
    rows = pad(
        [
            [_with_answer(frame_block(prompt, config), [*tokens, end])]
            for prompt, tokens in zip(prompts, actions, strict=True)
        ]
    )
    for row, (prompt, tokens, count) in enumerate(zip(prompts, actions, known, strict=True)):
        start = len(frame_block(prompt, config).ids)
        stop = start + count + int(count == len(tokens))
        rows.labels[row, start:stop] = rows.ids[row, start:stop]
    return _require_fit(rows, config)


def _require_fit(rows: Rows, config: RoboVLMConfig) -> Rows:
    """The rows; how long instructions are is known no sooner than here."""
    length, most = rows.ids.shape[1], positions_of(config.backbone)
    if most and length > most:
        raise CheckpointError(
            f"a row of {length} tokens is longer than the backbone's {most} positions; use a "
            "smaller structure.window or resampler, or shorter instructions"
        )
    return rows


def _with_answer(block: FrameTokens, tokens: list[int]) -> FrameTokens:
    count = len(tokens)
    return FrameTokens(
        block.ids + tokens, block.prompt + [False] * count, block.known + [True] * count
    )


def pad(rows: Sequence[Sequence[FrameTokens]]) -> Rows:
    """Rows of blocks to one batch, padded on the right."""
    length = max(sum(len(block.ids) for block in blocks) for blocks in rows)
    shape = (len(rows), length)
    ids, mask, prefix = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for row, blocks in enumerate(rows):
        at = 0
        for number, block in enumerate(blocks, start=1):
            stop = at + len(block.ids)
            ids[row, at:stop] = torch.tensor(block.ids)
            mask[row, at:stop] = torch.tensor(block.known, dtype=torch.long)
            prefix[row, at:stop] = number * torch.tensor(block.prompt, dtype=torch.long)
            at = stop
    return Rows(ids, mask, prefix, torch.full(shape, IGNORE, dtype=torch.long))
