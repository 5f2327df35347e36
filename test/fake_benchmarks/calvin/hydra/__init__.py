"""A part of hydra."""

from hydra import utils  # noqa: F401
