"""The copy of a bag's metadata inside its files, for when metadata.yaml has lost something.

rosbag2, rosbags and our recorder write it when they close a bag. `ros2 bag reindex` makes a new
metadata.yaml without custom data and leaves the file, and with it the copy, unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.bags.storage import MCAP, metadata_copy
from vla.bags.writer import BagError
from vla.core.files import checked_text, read_yaml_text
from vla.core.shown import brief

INFO = "rosbag2_bagfile_information"
MOST_NODES = 1_000_000
_MOST_CHARACTERS = 4_000_000


def copied_custom_data(files: Sequence[Path], storage: str = MCAP) -> dict[str, str]:
    """The custom data in the copies in a bag's files; those of the last file win.

    Empty for files without a copy, of another kind or damaged.
    """
    found: dict[str, str] = {}
    for file in files:
        if text := metadata_copy(file, storage):
            found |= custom_data_in(text, file)
    return found


def custom_data_in(text: str, file: Path) -> dict[str, str]:
    """The custom data in a copy of metadata.yaml; none where it is unsound."""
    try:
        copy = read_yaml_text(text, f"{file}: copy of its metadata", BagError, MOST_NODES)
        return checked_custom_data(copy.get(INFO, copy) if isinstance(copy, dict) else {}, file)
    except BagError:
        return {}


def checked_custom_data(info: Mapping[str, Any], where: str | Path) -> dict[str, str]:
    """The custom data of metadata that were read, as text. Raises BagError for other values."""
    custom = info.get("custom_data") or {}
    if not isinstance(custom, dict):
        raise BagError(f"{where}: custom_data must be a mapping, got {brief(custom)}")
    return {
        key: checked_text(
            _plain(value), f"{where}: {brief(key)} of custom_data", BagError, _MOST_CHARACTERS
        )
        for key, value in custom.items()
    }


def _plain(value: Any) -> Any:
    """The value of a text that rosbag2 wrote without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else "" if value is None else value
