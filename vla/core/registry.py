"""Named things of one kind: those that ship, those of other packages, and the caller's own."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Generic, Protocol, TypeVar

from vla.core.plugins import PLUGINS, load_plugins
from vla.core.shown import brief


class Named(Protocol):
    """Anything with a name that configurations refer to."""

    @property
    def name(self) -> str:
        """The name."""


Entry = TypeVar("Entry", bound=Named)


class Registry(Generic[Entry]):
    """What is known of one kind. Nothing is imported before it is asked for."""

    def __init__(self, what: str, group: str, error: type[Exception], shipped: dict[str, str]):
        """what: the kind, in messages. group: of entry points, for other packages.

        error: raised for an unknown name. shipped: "module:attribute" by name.
        """
        self.what, self.group, self.error = what, group, error
        self._entries: dict[str, Entry | str] = dict(shipped)

    def register(self, entry: Entry) -> Entry:
        """Adds an entry under its name; a later one of the same name replaces it."""
        self._entries[entry.name] = entry
        return entry

    def names(self) -> list[str]:
        """All names: what ships first, then what other packages and modules have."""
        for entry in load_plugins(self.group, self.error):
            self.register(entry)
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self.names()

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name. Raises the registry's error, which names those that are known."""
        if name not in self:
            known = ", ".join(sorted(self._entries))
            raise self.error(
                f"unknown {self.what} {brief(name)}; known: {known}. One from another package is "
                f"found when that is installed, or when {PLUGINS} names its module"
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            try:
                entry = self.register(resolve_name(entry))
            except ImportError as error:
                raise self.error(f"cannot load {self.what} {brief(name)}: {error}") from error
        return entry
