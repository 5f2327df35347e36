"""What evaluation refuses."""

from __future__ import annotations


class EpisodeError(RuntimeError):
    """An episode whose process died."""


class GridError(ValueError):
    """A grid of policies to compare, or results of one, that can't be used."""


class ReproductionError(ValueError):
    """A paper or table that is not known, or a file that describes none."""
