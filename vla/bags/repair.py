"""Repairs unfinished or damaged bags, without losing a sound message.

A file that lacks only its index gets one at its end, and none of its data is moved. Any other file
is rewritten from its sound parts, and the original kept as `NAME.damaged`.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla.bags.index import append_index, write_sound_parts
from vla.bags.mcap_messages import summary_of_survey
from vla.bags.mcap_survey import Survey, survey
from vla.bags.metadata import (
    BagMetadata,
    describe,
    load_info,
    parse_info,
    read_metadata,
    require_no_links,
    span_of,
)
from vla.bags.metadata_copy import INFO, custom_data_in
from vla.bags.storage import MCAP, is_compressed
from vla.bags.writer import COMPLETE_KEY, METADATA_FILE, BagError, dump_yaml
from vla.core.files import require_regular
from vla.core.locks import lock_file
from vla.core.replacing import replace_text
from vla.core.shown import shown_path

# In custom_data of a repaired bag: what could not be kept, in words.
LOST_KEY = "lost"
DAMAGED_SUFFIX = ".damaged"
_NANOSECONDS = 1e-9
_MEGABYTE = 1e6


@dataclass
class BagReport:
    """The findings of `validate_bag` and `recover_bag`."""

    folder: Path
    message_count: int = 0
    duration: float = 0.0  # [s]
    counts: dict[str, int] = field(default_factory=dict)  # messages by topic
    lost: str = ""  # what the repair could not keep, in words
    originals: list[Path] = field(default_factory=list)  # of the files that were rewritten

    def kept_in_words(self) -> str:
        """Where the originals are; empty where nothing was rewritten."""
        if not self.originals:
            return ""
        places = ", ".join(map(str, self.originals))
        return f"the original is kept as {places}: delete it when you need it no more"


def recover_bag(folder: str | Path) -> BagReport:
    """Completes or repairs a bag of any recorder: keeps every sound message.

    Only damaged chunks, and messages cut by the end of the file, are left out. A file that is only
    unfinished is completed in place, which needs hardly any disk space. Any other is rewritten, and
    the original kept with ".damaged" after its name. The content of metadata.yaml is kept, or
    rebuilt where missing, with "complete: recovered" and the losses in the custom data. A whole bag
    stays as it is.

    Raises BagError, and changes nothing, where nothing can be kept, the bag is being written, is
    compressed by file or is no MCAP, where a file is a link, or the disk refuses.
    """
    folder = Path(folder)
    info, metadata = _described(folder)
    require_no_links(folder, metadata.files)
    if metadata.storage != MCAP:
        raise BagError(
            f"{folder} is a bag in {metadata.storage}, and only MCAP can be repaired; 'sqlite3 "
            f"{metadata.files[0].name} .recover' writes out what is left of a damaged one"
        )
    with ExitStack() as locks:
        try:
            for file in metadata.files:
                require_regular(file, BagError)
                if not lock_file(locks.enter_context(file.open("rb"))):
                    raise BagError(
                        f"{folder} is being written by a recorder that is alive; stop that first"
                    )
            return _recover(folder, info, metadata)
        except OSError as error:
            raise BagError(
                f"cannot repair {folder}: {error.strerror}; it was left as it is"
            ) from error


def unfinished_bags(
    parent: str | Path, skipped: Callable[[Path, str], None] = lambda *_: None
) -> list[Path]:
    """Bags directly under `parent` whose recorder was killed, oldest first.

    Only those of our recorder, which says so in metadata.yaml. skipped: called for each folder
    whose metadata.yaml is unusable, with the reason.
    """
    found = []
    for path in sorted(Path(parent).glob(f"*/{METADATA_FILE}")):
        folder = path.parent
        try:
            metadata = parse_info(folder, load_info(folder))
            if metadata.custom_data.get(COMPLETE_KEY) != "false":
                continue
            require_regular(metadata.files[0], BagError)
            with metadata.files[0].open("rb") as stream:
                if lock_file(stream):
                    found.append(folder)
        except BagError as error:
            skipped(folder, str(error))
        except OSError as error:
            skipped(folder, f"cannot read {shown_path(folder)}: {error.strerror}")
    return found


def _described(folder: Path) -> tuple[dict[str, Any], BagMetadata]:
    info = load_info(folder)
    metadata = parse_info(folder, info)
    info["custom_data"] = dict(read_metadata(folder).custom_data)
    return info, metadata


def _recover(folder: Path, info: dict[str, Any], metadata: BagMetadata) -> BagReport:
    for file in metadata.files:
        if is_compressed(file):
            raise BagError(
                f"{file} is compressed as a whole and can't be repaired so; put what 'zstd -d' "
                "makes of it into a folder of its own, and repair that"
            )
    surveys = [survey(file) for file in metadata.files]
    report = _report(folder, surveys)
    _require_messages(folder, metadata, surveys)
    counted = {name: count for name, count in metadata.topics.items() if count}
    closed = info["custom_data"].get(COMPLETE_KEY) != "false"
    whole = all(found.whole for found in surveys) and (folder / METADATA_FILE).exists()
    if whole and closed and counted == report.counts:
        return report
    if COMPLETE_KEY not in info["custom_data"]:
        for found in surveys:
            info["custom_data"] = custom_data_in(found.metadata, found.path) | info["custom_data"]
    info["custom_data"][COMPLETE_KEY] = "recovered"
    if report.lost:
        info["custom_data"][LOST_KEY] = report.lost
    _recount(folder, info, metadata, surveys)
    for found in surveys:
        if not found.whole:
            _repair(found, {"serialized_metadata": dump_yaml(info).strip()}, report)
    # The files first: until metadata.yaml follows, the bag still counts as unfinished.
    replace_text(folder / METADATA_FILE, dump_yaml({INFO: info}), durable=True)
    return report


def _report(folder: Path, surveys: list[Survey]) -> BagReport:
    counts: Counter[str] = Counter()
    for found in surveys:
        counts.update(found.topic_counts)
    span = span_of([summary_of_survey(found) for found in surveys])
    lost = "; ".join(filter(None, (_lost_in_words(found) for found in surveys)))
    return BagReport(
        folder, counts.total(), span["duration"]["nanoseconds"] * _NANOSECONDS, dict(counts), lost
    )


def _require_messages(folder: Path, metadata: BagMetadata, surveys: list[Survey]) -> None:
    """Raises BagError where a repair would leave an empty bag."""
    if any(found.message_count for found in surveys):
        return
    if metadata.message_count or any(found.damaged for found in surveys):
        raise BagError(
            f"nothing of {folder} can be recovered: no chunk of it is sound; it was left as it is"
        )


def _recount(
    folder: Path, info: dict[str, Any], metadata: BagMetadata, surveys: list[Survey]
) -> None:
    """Updates metadata.yaml's entries from the contents of the files."""
    summaries = [summary_of_survey(found) for found in surveys]
    counted = describe(folder, list(metadata.files), MCAP, summaries)
    profiles = {
        entry["topic_metadata"]["name"]: entry["topic_metadata"].get("offered_qos_profiles")
        for entry in info["topics_with_message_count"]
    }
    for entry in counted["topics_with_message_count"]:
        topic = entry["topic_metadata"]
        topic["offered_qos_profiles"] = topic["offered_qos_profiles"] or (
            profiles.get(topic["name"]) or []
        )
    kept = ("version", "compression_format", "compression_mode", "custom_data", "ros_distro")
    counted |= {key: info[key] for key in kept if key in info}
    info.clear()
    info.update(counted)


def _repair(found: Survey, metadata: Mapping[str, str], report: BagReport) -> None:
    """Completes one file in place, or replaces it by a sound one and keeps the old one."""
    path = found.path
    if found.appendable:
        append_index(found, dict(metadata))
        return
    room = shutil.disk_usage(path.parent).free
    if room < found.size:
        raise BagError(
            f"cannot repair {path}: a copy of {found.size / _MEGABYTE:.0f} MB is made, and the "
            f"disk has {room / _MEGABYTE:.0f} MB; make room, or move the bag. It was left as it is"
        )
    beside = path.with_name(f".{path.name}.repaired")
    try:
        write_sound_parts(found, beside, dict(metadata))
        made = survey(beside)
        if not made.finished or made.damaged or made.counts != found.counts:
            raise BagError(
                f"{path} was left as it is: its repair would hold {made.message_count} of "
                f"{found.message_count} messages; please report this"
            )
        report.originals.append(_keep(path))
        beside.replace(path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _keep(path: Path) -> Path:
    """Gives a file a second, unused name, and returns it."""
    number = 1
    while True:
        suffix = DAMAGED_SUFFIX if number == 1 else f"{DAMAGED_SUFFIX}.{number}"
        kept = path.with_name(path.name + suffix)
        try:
            os.link(path, kept)
            return kept
        except FileExistsError:
            number += 1
        except OSError:
            # A file system without links: for a moment the file has its new name alone.
            if kept.exists():
                number += 1
                continue
            path.rename(kept)
            return kept


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lost_in_words(found: Survey) -> str:
    """What cannot be kept of a file; empty for nothing."""
    if not found.damaged:
        return ""
    chunks = [lost for lost in found.damaged if lost.chunk]
    size = sum(lost.end - lost.start for lost in found.damaged)
    parts = []
    if chunks:
        parts.append(f"{len(chunks)} of {len(chunks) + len(found.chunks)} chunks")
    if others := len(found.damaged) - len(chunks):
        parts.append(f"{others} damaged record{'s' if others > 1 else ''}")
    words = f"{found.path.name}: {' and '.join(parts)} ({size} bytes"
    counts: Counter[str] = Counter()
    for lost in chunks:
        counts.update({found.topic(key): count for key, count in lost.counts.items()})
    if counts:
        named = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())[:20])
        words += f", {counts.total()} messages: {named}"
    if chunks and (ends := [lost.end_time for lost in chunks if lost.end_time]):
        begin = min(lost.begin_time for lost in chunks if lost.end_time) - found.start_time
        end = max(ends) - found.start_time
        words += f", from second {begin * _NANOSECONDS:.3f} to {end * _NANOSECONDS:.3f}"
    return f"{words}) could not be kept"
