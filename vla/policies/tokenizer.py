"""A small byte-level BPE tokenizer, trained on the corpus of a run from scratch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vla.core.files import read_text
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.policies.config import MOST_VOCABULARY, CheckpointError

PAD, IMAGE, USER, ASSISTANT, END = "<pad>", "<image>", "<user>", "<assistant>", "<end>"
MOST_BYTES = 64_000_000
MOST_GROWTH = 64  # letters of a text's one, by replacements
SPECIAL = (PAD, IMAGE, USER, ASSISTANT, END)


def train_tokenizer(sentences: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns at most `vocabulary` tokens; any text can be encoded, byte by byte if need be."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """Makes CheckpointError of all that a tokenizer raises: Exception, and Rust's panics.

    It panics where a tokenizer.json asks for the impossible, such as an endless expression, and a
    panic is no Exception.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, CheckpointError):
        raise
    except BaseException as error:
        raise CheckpointError(
            f"{what} cannot be used: {one_line(error)}; copy it again from a whole checkpoint"
        ) from error


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads tokenizer.json of a checkpoint folder. Raises CheckpointError."""
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{shown_path(folder)} has no tokenizer.json; it is not a complete checkpoint"
        )
    text = read_text(path, CheckpointError, MOST_BYTES)
    with refused_as(shown_path(path)):
        tokenizer = Tokenizer.from_str(text)
    # The library counts up to the largest id when it writes the tokens out.
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= MOST_VOCABULARY:
        raise CheckpointError(
            f"{shown_path(path)} has the token id {largest}, beyond any vocabulary; copy it again "
            "from a whole checkpoint"
        )
    for part in (tokenizer.normalizer, tokenizer.decoder):
        growth = 1.0 if part is None else _growth(json.loads(part.__getstate__()))
        if growth > MOST_GROWTH:
            raise CheckpointError(
                f"{shown_path(path)} makes {growth:.0e} letters of one, which would take for ever; "
                "copy it again from a whole checkpoint"
            )
    return tokenizer


def _growth(part: dict) -> float:
    """How many letters a normalizer or decoder may make of one by what it puts in their place."""
    if steps := part.get("normalizers") or part.get("decoders"):
        return math.prod(map(_growth, steps))
    if part["type"] != "Replace":
        return 1.0
    # An expression may match one letter, and even none.
    replaced = len(part["pattern"].get("String", "")) or 1
    return max(1.0, len(part["content"]) / replaced)
