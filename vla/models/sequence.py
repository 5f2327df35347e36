"""What the vision-language model reads: image tokens, a question, an answer, action queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from vla.models.config import PromptConfig
from vla.models.tokenizer import ASSISTANT, END, USER

IGNORE = -100


def action_prompt(instruction: str, prompts: PromptConfig, think: bool) -> str:
    """The question that stands for an instruction; `think` asks for an answer in text first."""
    instruction = instruction.strip().rstrip(".").lower()
    return prompts.act.format(instruction=instruction) + (prompts.think_suffix if think else "")


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """Tokens of the user's turn and the start of the answer."""
    return [
        tokenizer.token_to_id(USER),
        *tokenizer.encode(question.strip().lower(), add_special_tokens=False).ids,
        tokenizer.token_to_id(ASSISTANT),
    ]


def answer_ids(tokenizer: Tokenizer, answer: str) -> list[int]:
    """Tokens of an answer, none for an empty one."""
    return tokenizer.encode(answer.strip(), add_special_tokens=False).ids if answer else []


@dataclass
class TextBatch:
    """Token ids after the image, padded on the right.

    ids [B, T]; mask [B, T], 1 on tokens; labels [B, T], IGNORE where nothing is to be predicted.
    Ids from vocabulary_size on are action queries. query_start [B]: where the queries begin, -1 for
    rows without.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    query_start: torch.Tensor


def collate(
    tokenizer: Tokenizer,
    rows: Sequence[tuple[str, str, bool]],
    num_queries: int,
    vocabulary: int,
) -> TextBatch:
    """Rows of (question, answer, with action queries) to one batch.

    The labels are the answer, the queries and the end token, so that the model learns to close a
    text with its first query where an action is asked for, and with the end token where not.
    """
    end = tokenizer.token_to_id(END)
    queries = list(range(vocabulary, vocabulary + num_queries))
    sequences, label_starts, query_starts = [], [], []
    for question, answer, acts in rows:
        before = prompt_ids(tokenizer, question)
        text = answer_ids(tokenizer, answer)
        sequences.append(before + text + (queries if acts else []) + [end])
        label_starts.append(len(before))
        query_starts.append(len(before) + len(text) if acts else -1)
    length = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORE, dtype=torch.long)
    for row, (sequence, start) in enumerate(zip(sequences, label_starts, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
        labels[row, start : len(sequence)] = ids[row, start : len(sequence)]
    return TextBatch(ids, mask, labels, torch.tensor(query_starts))
