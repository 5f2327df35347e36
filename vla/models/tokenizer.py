"""A small byte-level BPE tokenizer, learnt from the corpus of a run that starts from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vla.files import one_line, read_text, shown_path
from vla.models.config import CheckpointError

PAD, IMAGE, USER, ASSISTANT, END = "<pad>", "<image>", "<user>", "<assistant>", "<end>"
MOST_BYTES = 64_000_000
SPECIAL = (PAD, IMAGE, USER, ASSISTANT, END)


def train_tokenizer(sentences: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns at most `vocabulary` tokens; every text stays encodable, byte by byte if need be."""
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


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads tokenizer.json of a checkpoint folder. Raises CheckpointError."""
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{shown_path(folder)} has no tokenizer.json; it is not a complete checkpoint"
        )
    text = read_text(path, CheckpointError, MOST_BYTES)
    try:
        return Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # Plain Exception, and a panic, which is none, from Rust
        raise CheckpointError(
            f"{shown_path(path)} cannot be read: {one_line(error)}; copy it again"
        ) from error
