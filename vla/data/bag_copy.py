"""The copy of a bag's metadata inside of its MCAP file, for when metadata.yaml has lost something.

rosbag2, rosbags and our recorder write it when they close a bag. `ros2 bag reindex` makes a new
metadata.yaml without custom data and leaves the file, and with it the copy, as it is.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from mcap.reader import SeekingReader

from vla.files import read_yaml_text

RECORD, ENTRY = "rosbag2", "serialized_metadata"
# Records at the end of a file are small; more is damage.
MOST_RECORD_BYTES = 4_000_000


def copied_custom_data(files: Sequence[Path]) -> dict[str, str]:
    """The custom data in the copies that a bag's files hold; those of the last file win.

    Empty for files without a copy, of another kind or damaged: it is only asked for what is missing
    elsewhere.
    """
    found: dict[str, str] = {}
    for file in files:
        try:
            if stat.S_ISREG(file.stat().st_mode):
                found |= _custom_data(file)
        # Whatever the libraries raise for bytes that are no sound MCAP.
        except Exception:
            continue
    return found


def _custom_data(file: Path) -> dict[str, str]:
    with file.open("rb") as stream:
        reader = SeekingReader(stream, record_size_limit=MOST_RECORD_BYTES)
        summary = reader.get_summary()
        # Without an index there is no copy either: both are written at the end.
        entries = summary.metadata_indexes if summary is not None else []
        if not any(entry.name == RECORD for entry in entries):
            return {}
        found: dict[str, str] = {}
        for record in reader.iter_metadata():
            if record.name == RECORD and ENTRY in record.metadata:
                info = read_yaml_text(record.metadata[ENTRY], str(file), ValueError)
                custom = info.get("custom_data") or {}
                found |= {str(key): str(value) for key, value in custom.items()}
        return found
