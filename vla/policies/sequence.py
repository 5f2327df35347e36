"""The vision-language model's input: turns of questions and answers, images, action queries."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer

from vla.datasets.frames import DatasetError
from vla.policies.config import BackboneConfig, ChatFormat
from vla.policies.plain_text import TextTokenizer

IGNORE = -100
MAX_ANSWER_TOKENS = 60
# Stands for an image token; its embedding comes from the vision encoder.
IMAGE = -1
Tensors = TypeVar("Tensors")


@dataclass(frozen=True)
class PromptRow:
    """One conversation."""

    turns: tuple[tuple[str, str], ...]  # questions and answers, the images in the first question
    acts: bool = False  # the last answer ends with the action queries
    images: int = 1
    tiles: tuple[int, ...] = ()  # of each image, the copy of the whole among them; () for one each
    verbatim: bool = False  # the last answer stays as it is: no space is added before queries
    apart: bool = False  # each turn sees the images and itself alone


def on_device(value: Tensors, device: str | torch.device) -> Tensors:
    """A tensor, or a dataclass of tensors and of such dataclasses, on another device.

    What is None stays so. To a GPU it goes by pinned memory, and the processor does not wait.
    """
    if value is None:
        return value
    moved: Any
    if isinstance(value, torch.Tensor):
        to_gpu = torch.device(device).type == "cuda" and value.device.type == "cpu"
        moved = (value.pin_memory() if to_gpu else value).to(device, non_blocking=to_gpu)
    else:
        entries = {name: on_device(entry, device) for name, entry in vars(value).items()}
        moved = type(value)(**entries)
    return moved


@dataclass
class TextBatch:
    """Token ids, padded on the right."""

    ids: torch.Tensor  # [B, T]: IMAGE at image tokens, action queries from the vocabulary's size on
    mask: torch.Tensor  # [B, T]: 1 on tokens
    labels: torch.Tensor  # [B, T]: IGNORE where nothing is to be predicted
    query_start: torch.Tensor  # [B]: where the queries begin, -1 for rows without
    # [B, T]: the number of the turn that a token is of, 0 on what all turns see; None where each
    # token sees all before it.
    turns: torch.Tensor | None = None

    def to(self, device: str | torch.device) -> TextBatch:
        """The batch on another device."""
        return on_device(self, device)

    @property
    def seen(self) -> torch.Tensor | None:
        """Bool [B, T, T]: which tokens (last) each one sees; None where it sees all before it."""
        if self.turns is None:
            return None
        own, other = self.turns[:, :, None], self.turns[:, None, :]
        return ((own == other) | (other == 0)).tril()

    @property
    def prefix(self) -> torch.Tensor:
        """[B, T], True before the first answer."""
        return ((self.labels != IGNORE).cumsum(-1) == 0) & self.mask.bool()


def plain_words(text: str) -> str:
    """Lower case, with punctuation apart, as ChatFormat.plain_words says."""
    text = text.strip().lower()
    for mark in "?.,":
        text = text.replace(mark, f" {mark}")
    return " ".join(text.split())


def tidy(text: str) -> str:
    """Plain words as a sentence: "Pick up the red block."."""
    text = text.strip()
    for mark in ",.?":
        text = text.replace(f" {mark}", mark)
    return text[:1].upper() + text[1:]


def question_ids(
    tokenizer: TextTokenizer,
    chat: ChatFormat,
    question: str,
    images: int,
    image_tokens: int,
    tiles: Sequence[int] = (),
) -> list[int]:
    """Tokens of a user's turn with this many images, and of the start of the answer.

    tiles: of each image, as of PromptRow.
    """
    ids: list[int] = []
    before = chat.user
    # What stands between images is one text, as a tokenizer sees it in training: its pieces may
    # span the seams.
    for count in (tiles or (1,) * images)[:images]:
        ids += tokenizer.encode(before + chat.image_start) + [IMAGE] * (image_tokens * count)
        before = chat.image_end
    words = plain_words(question) if chat.plain_words else question.strip()
    return ids + tokenizer.encode(before + chat.question, words, chat.user_end + chat.assistant)


def answer_ids(
    tokenizer: TextTokenizer, chat: ChatFormat, answer: str, before_queries: bool = False
) -> list[int]:
    """Tokens of an answer, none for an empty one; a space stands between it and queries."""
    words = plain_words(answer) if chat.plain_words else answer.strip()
    if not words:
        return []
    if before_queries and not chat.plain_words:
        words += " "
    return tokenizer.encode(chat.answer, words)


def end_id(tokenizer: Tokenizer | TextTokenizer, chat: ChatFormat) -> int:
    """The token that closes an answer; raises ValueError where the tokenizer lacks it."""
    token = tokenizer.token_to_id(chat.end)
    if token is None:
        raise ValueError(f"the tokenizer has no token '{chat.end}', which closes an answer")
    return token


def prompt_ids(
    tokenizer: TextTokenizer, backbone: BackboneConfig, row: PromptRow, num_queries: int
) -> tuple[list[int], int]:
    """Token ids of a question whose answer is to be continued, and the question's length.

    The answer is its text so far. A row that acts ends with the action queries.
    """
    ids, predicted, _ = row_ids(tokenizer, backbone, row, num_queries)
    return ids[:-1], predicted.index(True)  # All but the end token.


def row_ids(
    tokenizer: TextTokenizer, backbone: BackboneConfig, row: PromptRow, num_queries: int
) -> tuple[list[int], list[bool], int]:
    """Token ids of a row, which of them are predicted, and where its queries begin (or -1).

    Predicted are all answers, each with its end token, and the queries, so that the model learns to
    close a text with its first query where an action is asked for, and with the end token where
    not.
    """
    chat, end = backbone.chat, end_id(tokenizer, backbone.chat)
    queries = list(range(backbone.vocabulary, backbone.vocabulary + num_queries))
    ids = tokenizer.encode(chat.opening)
    labels = [False] * len(ids)
    query_start = -1
    for index, (question, answer) in enumerate(row.turns):
        acts = row.acts and index == len(row.turns) - 1
        images = row.images if index == 0 else 0
        before = tokenizer.encode(chat.answer_end) if index else []
        before += question_ids(tokenizer, chat, question, images, backbone.image_tokens, row.tiles)
        said = (
            tokenizer.encode(chat.answer, answer)
            if row.verbatim and index == len(row.turns) - 1
            else answer_ids(tokenizer, chat, answer, acts)
        )
        if acts:
            query_start = len(ids) + len(before) + len(said)
            said += queries
        ids += before + said + [end]
        labels += [False] * len(before) + [True] * (len(said) + 1)
    return ids, labels, query_start


def cut_row_ids(
    tokenizer: TextTokenizer, backbone: BackboneConfig, row: PromptRow, most: int
) -> tuple[list[int], list[bool], int]:
    """As row_ids of a row that doesn't act, with `most` tokens, where it has more.

    As many whole turns stay as there is room for, from the first on. Where the first alone is too
    long, the last words of its question are left out, so that its answer has room, up to a quarter
    of it all; then the end of the answer, and with it the end token, so that no model learns to
    stop there. Images stay whole. Raises DatasetError where they leave no room for an answer.
    """
    ids, labels, none = row_ids(tokenizer, backbone, row, 0)
    ends = [
        place + 1
        for place, (is_answer, follows) in enumerate(zip(labels, [*labels[1:], False], strict=True))
        if is_answer and not follows and place < most
    ]
    if ends:
        return ids[: ends[-1]], labels[: ends[-1]], none
    question, answer = row.turns[0]
    said = len(answer_ids(tokenizer, backbone.chat, answer)) + 1
    room, words = most - min(said, most // 4), question.split(" ")

    def asked(count: int) -> int:
        """Tokens up to the answer, with so many words of the question."""
        turns = ((" ".join(words[:count]), ""),)
        return row_ids(tokenizer, backbone, replace(row, turns=turns), 0)[1].index(True)

    count = bisect_right(range(1, len(words) + 1), room, key=asked)
    if asked(count) > room:
        raise DatasetError(
            f"the images of a conversation leave no room for its words in {most} tokens; raise "
            "max_tokens"
        )
    turns = ((" ".join(words[:count]), answer),)
    ids, labels, none = row_ids(tokenizer, backbone, replace(row, turns=turns), 0)
    return ids[:most], labels[:most], none


def apart_ids(
    tokenizer: TextTokenizer, backbone: BackboneConfig, row: PromptRow, most: int = 0
) -> tuple[list[int], list[bool], list[int]]:
    """Token ids of a row whose turns stand apart, which are predicted, and whose turn each is.

    The images come first, for all turns; then what each turn alone would have behind them. So a
    turn that sees nothing of the others is read as if it were alone. most: tokens of the row, 0 for
    any; turns that don't fit are left out, and the first one is cut as cut_row_ids says.
    """
    ids: list[int] = []
    labels: list[bool] = []
    numbers: list[int] = []
    for number, turn in enumerate(row.turns, 1):
        one = replace(row, turns=(turn,))
        if most and number == 1:
            own, predicted, _ = cut_row_ids(tokenizer, backbone, one, most)
        else:
            own, predicted, _ = row_ids(tokenizer, backbone, one, 0)
        shared = len(own) - own[::-1].index(IMAGE) if row.images else 0
        if number == 1:
            ids, labels, numbers = own[:shared], predicted[:shared], [0] * shared
        if most and len(ids) + len(own) - shared > most:
            break
        ids += own[shared:]
        labels += predicted[shared:]
        numbers += [number] * (len(own) - shared)
    return ids, labels, numbers


def collate(
    tokenizer: TextTokenizer,
    backbone: BackboneConfig,
    rows: Sequence[PromptRow],
    num_queries: int,
    most_tokens: int = 0,
) -> TextBatch:
    """Rows to one batch, padded on the right.

    most_tokens: of a row, see cut_row_ids; 0 for any, as rows that act need it.
    """
    encoded = []
    for row in rows:
        if row.apart:
            tokens, predicted, numbers = apart_ids(tokenizer, backbone, row, most_tokens)
            encoded.append((tokens, predicted, -1, numbers))
        elif most_tokens:
            encoded.append((*cut_row_ids(tokenizer, backbone, row, most_tokens), []))
        else:
            encoded.append((*row_ids(tokenizer, backbone, row, num_queries), []))
    length = max(len(tokens) for tokens, *_ in encoded)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, turns = torch.zeros_like(ids), torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for index, (tokens, predicted, _, numbers) in enumerate(encoded):
        count = len(tokens)
        ids[index, :count] = torch.tensor(tokens)
        mask[index, :count] = 1
        labels[index, :count] = torch.where(torch.tensor(predicted), ids[index, :count], IGNORE)
        turns[index, : len(numbers)] = torch.tensor(numbers)
    starts = torch.tensor([start for *_, start, _ in encoded])
    apart = any(row.apart for row in rows)
    return TextBatch(ids, mask, labels, starts, turns if apart else None)
