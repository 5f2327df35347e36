"""Finds the files that ship with the package, in a source tree or installed. No ROS."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from vla.core.shown import shown_path

PACKAGE = "vla_ros"


def _places() -> list[Path]:
    """The source tree, then the share folders: that of this copy's own prefix, and of ROS."""
    this = Path(__file__).resolve()
    # An installed copy is PREFIX/lib/python3.x/site-packages/vla/core/resources.py.
    prefixes = [str(this.parents[5])] if len(this.parents) > 5 else []
    prefixes += os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    shares = [Path(prefix) / "share" / PACKAGE for prefix in prefixes if prefix]
    return [this.parents[2], *(share for share in shares if share.is_dir())]


def shared_file(relative: str) -> Path:
    """A file or folder of the package, such as "config/contracts/sim_panda.yaml".

    Raises FileNotFoundError, with the places searched, when it is in none of them.
    """
    places = _places()
    for place in places:
        if (place / relative).exists():
            return place / relative
    raise FileNotFoundError(f"'{relative}' is not in {' and '.join(map(str, places))}")


def given_or_shared(path: str | Path) -> Path:
    """A path as the user gave it, or the package's own file of that name.

    Where there is neither, the path as given, so that the error that follows names it.
    """
    path = Path(path)
    try:
        return path if path.exists() or path.is_absolute() else shared_file(str(path))
    except (OSError, ValueError):  # There is none, or no file can have that name
        return path


def contract_path(text: str) -> Path:
    """The file of an embodiment contract given as a path or as the name of a shipped one.

    Raises ValueError that says what to give when there is none.
    """
    for candidate in (text, f"config/contracts/{text}.yaml"):
        path = given_or_shared(candidate)
        with contextlib.suppress(OSError, ValueError):
            if path.is_file():
                return path
    raise ValueError(
        f"there is no contract '{shown_path(text)}': give the path of a YAML file, or the name of "
        "one in config/contracts"
    )
