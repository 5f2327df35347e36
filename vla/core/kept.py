"""What is made of large files once and kept in the user's cache, such as indexes.

It is a folder of arrays, mapped into memory where they are read, so that all processes of a machine
share one copy. It belongs to the files as they are, by their paths, sizes, times of change and
parts of their contents; when they change, it is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vla.core.files import require_regular
from vla.core.locks import lock_file, unlock_file
from vla.core.text import one_line

logger = logging.getLogger(__name__)

# Files of which parts are read, from the whole list, and how much at its start, middle and end.
READ_FILES, READ_BYTES = 16, 1 << 16
_SOURCE = "made_of.json"
# A folder that is being made and has not been touched for so long was left by a process that died
# [s].
_ABANDONED = 86400.0
# Where the user's cache can't be written: folders of this process alone, which end with it.
_temporary: dict[str, tempfile.TemporaryDirectory] = {}


class KeptFolder:
    """The arrays and texts of a kept folder, each mapped when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str) -> np.ndarray:
        """An array, read-only."""
        if name not in self._arrays:
            self._arrays[name] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return self._arrays[name]

    def text(self, name: str, index: int) -> str:
        """One of the texts that save_texts() wrote."""
        ends = self.array(f"{name}_ends")
        begin = int(ends[index - 1]) if index else 0
        return self.array(name)[begin : int(ends[index])].tobytes().decode()

    def values(self, name: str) -> Any:
        """What save_values() wrote."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def __getstate__(self) -> dict[str, Any]:
        # What is mapped would be copied into another process.
        return {"folder": self.folder, "_arrays": {}}


def save_array(folder: Path, name: str, values: np.ndarray) -> None:
    """Writes an array for KeptFolder.array()."""
    with (folder / f"{name}.npy").open("xb") as stream:
        np.save(stream, values)
        _sync(stream)


def save_texts(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Writes texts for KeptFolder.text(), as one array of bytes and another of where each ends."""
    encoded = [text.encode() for text in texts]
    save_array(folder, name, np.frombuffer(b"".join(encoded), np.uint8))
    save_array(folder, f"{name}_ends", np.cumsum([len(text) for text in encoded], dtype=np.int64))


def save_values(folder: Path, name: str, values: Any) -> None:
    """Writes plain values for KeptFolder.values()."""
    with (folder / f"{name}.json").open("x") as stream:
        json.dump(values, stream)
        _sync(stream)


def _sync(stream: Any) -> None:
    """Puts a file on the disk, so that none that is found later is half there."""
    stream.flush()
    os.fsync(stream.fileno())


def keep(
    kind: str, files: Sequence[Path], settings: str, make: Callable[[Path], None]
) -> KeptFolder:
    """What `make` writes into an empty folder, made once per machine for the files as they are.

    kind: what is made, with the version of its layout. settings: what else it depends on. Another
    process that asks for it meanwhile waits. What was made of the same files before they changed,
    or of files that are gone, is removed. Whatever `make` raises is passed on, and nothing is kept.
    Raises OSError where a file can't be read.
    """
    first = str(Path(files[0]).resolve())
    place = f"{kind}-{_digest(first, settings)}"
    name = f"{place}-{_state(files)}"
    if name in _temporary:
        return KeptFolder(Path(_temporary[name].name))
    cache = cache_folder()
    if (cache / name).is_dir():
        return KeptFolder(cache / name)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f"{place}.lock").open("w")
    except OSError as error:
        logger.warning(
            "nothing can be kept in %s (%s), so it is made again by every process; name another "
            "folder by XDG_CACHE_HOME",
            cache,
            one_line(error),
        )
        own = tempfile.TemporaryDirectory(prefix="vla-index-")
        make(Path(own.name))
        _temporary[name] = own
        return KeptFolder(Path(own.name))
    with lock:
        lock_file(lock, wait=True)
        try:
            if not (cache / name).is_dir():
                _make(cache / name, lambda new: _make_of(new, first, make))
                _remove_outdated(cache, place, name)
        finally:
            unlock_file(lock)
    return KeptFolder(cache / name)


def user_cache() -> Path:
    """This package's folder in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "vla_ros"


def cache_folder() -> Path:
    """Where indexes are kept."""
    return user_cache() / "indexes"


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Has `make` fill a folder, unless it is there; another process that asks meanwhile waits.

    The folder appears when it is whole. Raises OSError where there is no place for it, and what
    `make` raises.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        lock_file(lock, wait=True)
        try:
            if not folder.is_dir():
                _make(folder, make)
        finally:
            unlock_file(lock)


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        make(new)
        # On a file system without locks another process may have been faster.
        with suppress(OSError):
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _make_of(folder: Path, source: str, make: Callable[[Path], None]) -> None:
    make(folder)
    save_values(folder, Path(_SOURCE).stem, source)


def _remove_outdated(cache: Path, place: str, name: str) -> None:
    """Processes that have mapped what is removed go on reading it."""
    for folder in cache.iterdir():
        with suppress(OSError, ValueError):
            if folder.name.startswith(".new-"):
                outdated = folder.stat().st_mtime < time.time() - _ABANDONED
            elif folder.name.startswith(f"{place}-"):
                outdated = folder.name != name
            else:
                source = folder / _SOURCE
                outdated = source.is_file() and not Path(json.loads(source.read_text())).exists()
            if outdated:
                shutil.rmtree(folder, ignore_errors=True)


def _state(files: Sequence[Path]) -> str:
    """Tells files from others under their paths, or from themselves before they changed."""
    digest = hashlib.sha256()
    for path in files:
        found = require_regular(path, OSError)
        digest.update(f"{path}\n{found.st_size}\n{found.st_mtime_ns}\n".encode())
    step = max(1, len(files) // READ_FILES)
    for path in files[::step]:
        with path.open("rb") as stream:
            size = path.stat().st_size
            for begin in (0, size // 2, max(0, size - READ_BYTES)):
                stream.seek(begin)
                digest.update(stream.read(READ_BYTES))
    return digest.hexdigest()[:24]


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]
