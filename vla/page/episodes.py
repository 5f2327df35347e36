"""Recorded episodes for the operator page: their list, and a video of one."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from vla.bags.labels import episode_folders, find_episode
from vla.bags.writer import METADATA_FILE
from vla.core.text import one_line
from vla.playback.bag_footage import BagFootage
from vla.playback.episodes import bag_facts
from vla.playback.footage import EpisodeFacts
from vla.playback.pictures import write_episode_video

# Episodes of one answer, and made videos that are kept.
PAGE = 30
KEPT_VIDEOS = 8


class EpisodeShelf:
    """The episodes in the recorder's folder. Its methods may be called from several threads."""

    def __init__(self, directory: str | Path):
        """directory: that the recorder writes to; it need not exist yet."""
        self._directory = Path(directory).resolve()
        self._known: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._videos: OrderedDict[tuple[Path, int], Path] = OrderedDict()
        self._folder = tempfile.TemporaryDirectory(prefix="vla_page_")
        # Two viewers who want the same video get one.
        self._making = threading.Lock()

    def close(self) -> None:
        """Removes the videos that were made."""
        self._folder.cleanup()

    def listed(self, before: str = "") -> dict[str, Any]:
        """Some episodes, the newest first, and how many there are.

        before: name of an episode, for those that are older than it.
        """
        folders = episode_folders(self._directory)
        older = [folder for folder in folders if not before or folder.name < before]
        shown = [self._described(folder) for folder in reversed(older[-PAGE:])]
        return {"episodes": shown, "count": len(folders), "more": len(older) > PAGE}

    def _described(self, folder: Path) -> dict[str, Any]:
        try:
            changed = (folder / METADATA_FILE).stat().st_mtime_ns
            if folder not in self._known or self._known[folder][0] != changed:
                self._known[folder] = (changed, _shown(bag_facts(folder, folder.name)))
            return self._known[folder][1]
        except OSError as error:
            # Deleted meanwhile, for example.
            return _shown(EpisodeFacts(folder.name, "", "", 0.0, None, flaw=one_line(error)))

    def video(self, name: str) -> Path:
        """An MP4 of an episode's cameras, made when it is first asked for.

        Raises BagError or PlaybackError, which name the episode, where it cannot be made.
        """
        folder = find_episode(self._directory, name)
        key = (folder, (folder / METADATA_FILE).stat().st_mtime_ns)
        with self._making:
            if key not in self._videos:
                descriptor, path = tempfile.mkstemp(".mp4", dir=self._folder.name)
                os.close(descriptor)
                target = Path(path)
                try:
                    write_episode_video(BagFootage(folder, name), target)
                except BaseException:
                    target.unlink()
                    raise
                self._videos[key] = target
            self._videos.move_to_end(key)
            while len(self._videos) > KEPT_VIDEOS:
                self._videos.popitem(last=False)[1].unlink()
            return self._videos[key]


def _shown(facts: EpisodeFacts) -> dict[str, Any]:
    """What the list shows of an episode."""
    return {
        "name": facts.name,
        "outcome": facts.outcome,
        "instruction": one_line(facts.instruction),
        "note": one_line(facts.notes.get("note", "")),
        "seconds": round(facts.seconds, 1),
        "flaw": facts.flaw,
        "has_video": bool(facts.frames),
    }
