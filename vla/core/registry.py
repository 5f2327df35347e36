"""Things of one kind by name: those that ship, those of other packages, and the caller's own."""

from __future__ import annotations

from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Generic, TypeVar

from vla.core.shown import brief

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """What is known of one kind; nothing is imported before it is asked for."""

    def __init__(
        self, what: str, group: str, error: type[Exception], shipped: dict[str, str] | None = None
    ):
        """Knows what ships.

        what: one of them, in messages. group: of the entry points that other packages name theirs
        in. error: raised for a name that is not known. shipped: "module:attribute" by name.
        """
        self.what, self.group, self.error = what, group, error
        self._entries: dict[str, Entry | str] = dict(shipped or {})

    def register(self, name: str, entry: Entry) -> None:
        """Makes an entry known; a later one of the same name takes its place."""
        self._entries[name] = entry

    def names(self) -> list[str]:
        """All names: what ships, what was registered, what other packages have."""
        installed = sorted(entry_points(group=self.group).names)
        return list(dict.fromkeys([*self._entries, *installed]))

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name. Raises the registry's error, which names those that are known."""
        try:
            if name not in self._entries:
                self._entries[name] = entry_points(group=self.group)[name].load()
            entry = self._entries[name]
            if isinstance(entry, str):
                entry = self._entries[name] = resolve_name(entry)
        except KeyError:
            known = ", ".join(self.names())
            raise self.error(f"unknown {self.what} {brief(name)}; known: {known}") from None
        except (ImportError, AttributeError) as error:
            raise self.error(f"cannot import {self.what} {brief(name)}: {error}") from error
        return entry
