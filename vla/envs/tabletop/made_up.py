"""Words that nobody knows."""

from __future__ import annotations

import numpy as np

_BEGIN = ("b", "bl", "br", "d", "dr", "f", "fl", "g", "gr", "k", "kl", "m", "n", "p", "pr", "s",
          "sk", "st", "t", "tr", "v", "w", "z")  # fmt: skip
_MIDDLE = ("a", "e", "i", "o", "u", "oo", "ee")
_END = ("b", "d", "g", "k", "l", "m", "n", "p", "r", "sh", "t", "x", "z")


def made_up_word(generator: np.random.Generator) -> str:
    """Two syllables that can be spoken, such as "bloptig"; of 4 million, next to none is a word."""
    parts = (_BEGIN, _MIDDLE, _END, _BEGIN, _MIDDLE, _END)
    return "".join(part[int(generator.integers(len(part)))] for part in parts)
