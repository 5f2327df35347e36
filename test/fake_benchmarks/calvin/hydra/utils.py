"""A part of hydra."""

from importlib import import_module


def instantiate(config):
    """Calls what `_target_` names with the other entries."""
    entries = dict(config)
    module, _, name = entries.pop("_target_").rpartition(".")
    return getattr(import_module(module), name)(**entries)
