"""What evaluation refuses."""

from __future__ import annotations


class EpisodeError(RuntimeError):
    """An episode whose process died."""


class GridError(ValueError):
    """A grid of policies to compare, or results of one, that can't be used."""


class ReproductionError(ValueError):
    """A paper or table that is not known, or a file that describes none."""


class AnswerError(ValueError):
    """Answers that can't be read, or can't be compared with their references here."""
