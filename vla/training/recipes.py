"""Training files that inherit: `parent: other.yaml` names the file whose entries one begins with.

The path is relative to the file that names it, and the parent may have one, too. Mappings are
merged at any depth; a list takes the place of the parent's as a whole, as does any other value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla.core.files import checked_text, read_yaml
from vla.core.shown import listed, shown_path
from vla.policies.config import CheckpointError, merged

PARENT = "parent"
MOST_PARENTS = 16


def read_with_parents(path: str | Path) -> Any:
    """What a YAML file holds, with the entries of its parents. Raises CheckpointError."""
    return _read(Path(path), ())


def _read(path: Path, children: tuple[Path, ...]) -> Any:
    """children: the files that lead here, the first one first."""
    if children and not path.is_file():
        raise CheckpointError(
            f"{shown_path(children[-1])}: there is no parent {shown_path(path)}; correct "
            f"`{PARENT}`, which is relative to the file that names it"
        )
    if len(children) > MOST_PARENTS:
        raise CheckpointError(
            f"{shown_path(children[0])} has more than {MOST_PARENTS} parents; write it flatter"
        )
    known = [child.resolve() for child in children]
    if path.resolve() in known:
        loop = listed(shown_path(file) for file in (*children, path))
        raise CheckpointError(
            f"{shown_path(children[-1])}: its parents lead back to {shown_path(path)} ({loop}); "
            f"remove `{PARENT}` from one of them"
        )
    values = read_yaml(path, CheckpointError)
    values = {} if values is None else values
    if not isinstance(values, dict) or PARENT not in values:
        return values
    own = dict(values)
    name = checked_text(own.pop(PARENT), f"{shown_path(path)}: {PARENT}", CheckpointError)
    before = _read(path.parent / name, (*children, path))
    if not isinstance(before, dict):
        raise CheckpointError(
            f"{shown_path(path.parent / name)}, the parent of {shown_path(path)}, is no mapping of "
            "entries; name a training file"
        )
    return merged(before, own)
