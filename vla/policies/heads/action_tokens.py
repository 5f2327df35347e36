"""Actions as tokens: equal bins of -1 to 1 (RoboVLMs, equation 8; RT-2, arXiv 2307.15818)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class ActionTokens:
    """Which rows of the vocabulary stand for which values."""

    bins: int  # edges; there is one value fewer
    base: int  # the row behind the first; further values have lower rows

    @classmethod
    def appended(cls, vocabulary: int, bins: int) -> ActionTokens:
        """Rows behind a vocabulary of that size."""
        return cls(bins, vocabulary + bins)

    @classmethod
    def reused(cls, vocabulary: int, bins: int, special: int, offset: int) -> ActionTokens:
        """Rows at the end of a vocabulary, before its special tokens, as published."""
        return cls(bins, vocabulary - special - offset)

    @property
    def edges(self) -> np.ndarray:
        """[bins], from -1 to 1."""
        return np.linspace(-1.0, 1.0, self.bins)

    @property
    def centres(self) -> np.ndarray:
        """[bins - 1]: the values."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def rows(self) -> range:
        """All rows that an encoded action can have."""
        return range(self.base - self.bins, self.base)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Rows of actions of any shape, which are clipped to -1 to 1."""
        return self.base - np.digitize(np.clip(actions, -1.0, 1.0), self.edges)

    def decode(self, rows: np.ndarray | torch.Tensor) -> np.ndarray:
        """Values of rows. The value 1 has a bin of its own, which decodes to the last centre."""
        return self.centres[np.clip(self.base - np.asarray(rows) - 1, 0, self.bins - 2)]
