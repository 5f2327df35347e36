"""Finds the files that ship with the package, installed or in a source tree."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

PACKAGE = "vla_ros"


def shared_file(relative: str) -> Path:
    """A file of the package, such as "config/contracts/sim_panda.yaml".

    Raises FileNotFoundError, with the places looked at, when it is in none of them.
    """
    places = [Path(__file__).resolve().parent.parent]
    with contextlib.suppress(PackageNotFoundError):
        places.append(Path(get_package_share_directory(PACKAGE)))
    for place in places:
        if (place / relative).exists():
            return place / relative
    looked = " and ".join(map(str, places))
    raise FileNotFoundError(f"'{relative}' is not in {looked}")


def contract_path(text: str) -> Path:
    """The file of an embodiment contract given as a path or as the name of a shipped one.

    Raises ValueError that says what to give when there is none.
    """
    if Path(text).is_file():
        return Path(text)
    try:
        return shared_file(f"config/contracts/{text}.yaml")
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no contract '{text}': give the path of a YAML file, or the name of one in "
            "config/contracts"
        ) from error
