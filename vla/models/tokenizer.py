"""A small byte-level BPE tokenizer, learnt from the corpus of a run that starts from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vla.models.config import CheckpointError

PAD, IMAGE, USER, ASSISTANT, END = "<pad>", "<image>", "<user>", "<assistant>", "<end>"
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
    if not path.is_file():
        raise CheckpointError(f"{folder} has no tokenizer.json; it is not a complete checkpoint")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} cannot be read: {error}") from error
