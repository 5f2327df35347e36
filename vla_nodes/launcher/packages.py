"""Where packages and their executables are, by the ament index, as ROS 2 finds them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

_SET_UP = (
    "run `make setup` once and `source ./env.sh` in this shell "
    "(or source the workspace that holds it)"
)


class PackageError(Exception):
    """A package or an executable of it was not found; the message says where it was sought."""


def package_prefix(package: str, environment: Mapping[str, str]) -> Path:
    """Return the install prefix of a package: the first in AMENT_PREFIX_PATH that registers it.

    Raises `PackageError` when none does.
    """
    prefixes = [p for p in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in prefixes:
        if (Path(prefix) / "share/ament_index/resource_index/packages" / package).is_file():
            return Path(prefix)
    if not prefixes:
        raise PackageError(
            f"launching needs ROS 2, to find package '{package}', and AMENT_PREFIX_PATH is not "
            f"set; {_SET_UP}"
        )
    raise PackageError(f"package '{package}' is not installed ({', '.join(prefixes)}); {_SET_UP}")


def package_share(package: str, environment: Mapping[str, str]) -> Path:
    """Return `<prefix>/share/<package>`; raises `PackageError`."""
    return package_prefix(package, environment) / "share" / package


def package_executable(package: str, executable: str, environment: Mapping[str, str]) -> Path:
    """Return the path of `<prefix>/lib/<package>/<executable>`; raises `PackageError`."""
    folder = package_prefix(package, environment) / "lib" / package
    found = shutil.which(executable, path=str(folder))
    if found is None:
        try:
            there = sorted(p.name for p in folder.iterdir() if os.access(p, os.X_OK))
        except OSError:
            there = []
        raise PackageError(
            f"package '{package}' has no executable '{executable}' in {folder} "
            f"(it has: {', '.join(there) or 'none'})"
        )
    return Path(found)


def package_launch_file(package: str, name: str, environment: Mapping[str, str]) -> Path:
    """Return the one file of this name below the package's share folder.

    Raises `PackageError` when there is none or more than one.
    """
    share = package_share(package, environment)
    found = sorted(path for path in share.rglob(name) if path.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        raise PackageError(f"'{name}' is there more than once: {', '.join(map(str, found))}")
    there = sorted({path.name for path in share.rglob("*.launch.xml")})
    raise PackageError(
        f"package '{package}' has no launch file '{name}' (it has: {', '.join(there) or 'none'})"
    )
