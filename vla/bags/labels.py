"""Labels recorded episodes: outcome and notes, in the metadata of the bag."""

from __future__ import annotations

from pathlib import Path

from vla.bags.reader import BagMetadata, read_metadata, update_custom_data
from vla.bags.writer import METADATA_FILE, BagError
from vla.core.shown import brief
from vla.core.text import LONGEST_NOTE, TextError, check_text

# Success, failure, and none.
OUTCOMES = ("success", "failure", "")


def episode_folders(directory: str | Path) -> list[Path]:
    """The bags directly in a folder, by name, which is the order of time for our recorder."""
    return sorted(path.parent for path in Path(directory).glob(f"[!.]*/{METADATA_FILE}"))


def find_episode(directory: str | Path, episode_id: str = "") -> Path:
    """Folder of the episode with that id, name or path; "" for the last one.

    Raises BagError, which lists the episodes, for one that is unknown or lies elsewhere.
    """
    directory = Path(directory).resolve()
    if not episode_id:
        folders = episode_folders(directory)
        if not folders:
            raise BagError(f"no episodes in {directory}")
        return folders[-1]
    shown = brief(episode_id)
    try:
        folder = (directory / episode_id).resolve()
        is_there = folder.parent == directory and (folder / METADATA_FILE).is_file()
    except (OSError, ValueError) as error:
        # A name that no file can have: too long, or with a NUL.
        raise BagError(f"no episode {shown} in {directory}; {_known(directory)}") from error
    if folder.parent != directory:
        raise BagError(f"{shown} is not in the recorder's folder {directory}; {_known(directory)}")
    if not is_there:
        raise BagError(f"no episode {shown} in {directory}; {_known(directory)}")
    return folder


def label_episode(folder: str | Path, outcome: str, note: str = "") -> BagMetadata:
    """Gives a finished episode an outcome, replacing any other, and adds to its note.

    outcome: one of OUTCOMES. Returns the new metadata. Raises BagError when the outcome is unknown,
    the note is invalid, or the bag is not finished or cannot be written.
    """
    check_outcome(outcome)
    note = check_note(note)
    known = read_metadata(folder).custom_data.get("note", "")
    changes = {"outcome": outcome, "note": joined_notes(known, note)}
    return update_custom_data(folder, changes)


def check_outcome(outcome: str) -> None:
    """Raises BagError, which names the known ones, for an unknown outcome."""
    if outcome not in OUTCOMES:
        known = ", ".join(f"'{name}'" for name in OUTCOMES)
        raise BagError(f"unknown outcome {brief(outcome)}: use one of {known}")


def check_note(note: str) -> str:
    """A valid note, which may have several lines. Raises BagError; see vla.core.text."""
    try:
        return check_text(note, "note", LONGEST_NOTE, lines=True)
    except TextError as error:
        raise BagError(str(error)) from error


def joined_notes(*notes: str) -> str:
    """The notes that are not empty, each on its own line."""
    return "\n".join(note for note in notes if note)


def _known(directory: Path, shown: int = 10) -> str:
    names = [folder.name for folder in episode_folders(directory)]
    if not names:
        return "nothing is there yet"
    listed = ", ".join(reversed(names[-shown:]))
    more = len(names) - shown
    return f"there are: {listed}" + (f" and {more} older ones" if more > 0 else "")
