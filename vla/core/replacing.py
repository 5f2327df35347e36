"""Writing files that others read: they find the old content or the new one, also after a crash."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Gives the path of a new file beside `path`, which takes its place when the block ends.

    The permissions of a file that is there stay. Where the block raises, the new file is removed
    and the old one stays. durable: sync the disk first. Raises OSError where the disk refuses.
    """
    path = Path(path)
    # A name of its own, since another process or thread may write the same file.
    new = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    # A new file each time, so that a link is never followed.
    new.unlink(missing_ok=True)
    try:
        yield new
        with suppress(FileNotFoundError):
            new.chmod(path.stat().st_mode & 0o777)
        if durable:
            with new.open("rb") as stream:
                os.fsync(stream.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def replace_text(path: str | Path, text: str, durable: bool = False) -> None:
    """Writes a text file as UTF-8, as `replacing` does. Raises OSError where the disk refuses."""
    with replacing(path, durable) as new, new.open("x", encoding="utf-8") as stream:
        stream.write(text)
