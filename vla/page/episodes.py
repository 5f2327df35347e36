"""Recorded episodes for the operator page: their list, and a video of one."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from vla.bags.images import camera_image
from vla.bags.labels import episode_folders, find_episode
from vla.bags.reader import read_metadata, read_undecoded
from vla.bags.stream_checks import StreamChecks
from vla.bags.topics import contract_topics
from vla.bags.writer import METADATA_FILE, BagError
from vla.contract.embodiment import EmbodimentContract
from vla.core.text import one_line
from vla.datasets.frames import DatasetError

# Episodes of one answer, and made videos that are kept.
PAGE = 30
KEPT_VIDEOS = 8
VIDEO_HEIGHT = 240
VIDEO_RATE = 10
NANOSECONDS = 1_000_000_000


class EpisodeShelf:
    """The episodes in the recorder's folder. Its methods may be called from several threads."""

    def __init__(self, directory: str | Path, contract: EmbodimentContract):
        """directory: that the recorder writes to; it need not exist yet."""
        self._directory, self._contract = Path(directory).resolve(), contract
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
                self._known[folder] = (changed, describe_episode(folder))
            return self._known[folder][1]
        except (BagError, OSError) as error:
            return {"name": folder.name, "problem": one_line(error)}

    def video(self, name: str) -> Path:
        """An MP4 of an episode's cameras, made when it is first asked for.

        Raises BagError or DatasetError, which name the episode, where it cannot be made.
        """
        folder = find_episode(self._directory, name)
        key = (folder, (folder / METADATA_FILE).stat().st_mtime_ns)
        with self._making:
            if key not in self._videos:
                descriptor, path = tempfile.mkstemp(".mp4", dir=self._folder.name)
                os.close(descriptor)
                target = Path(path)
                try:
                    write_episode_video(folder, self._contract, target)
                except BaseException:
                    target.unlink()
                    raise
                self._videos[key] = target
            self._videos.move_to_end(key)
            while len(self._videos) > KEPT_VIDEOS:
                self._videos.popitem(last=False)[1].unlink()
            return self._videos[key]


def describe_episode(folder: Path) -> dict[str, Any]:
    """What a list shows of an episode. Raises BagError where its metadata cannot be read."""
    metadata = read_metadata(folder)
    custom = metadata.custom_data
    return {
        "name": folder.name,
        "outcome": custom.get("outcome", ""),
        "instruction": one_line(custom.get("instruction", "")),
        "note": one_line(custom.get("note", "")),
        "start": metadata.start_time / NANOSECONDS,
        "seconds": round(metadata.duration / NANOSECONDS, 1),
        "messages": metadata.message_count,
    }


def write_episode_video(folder: Path, contract: EmbodimentContract, target: Path) -> int:
    """Writes the images of the contract's cameras side by side as an H.264 MP4; returns its frames.

    A camera shows its newest image until each frame's time. Raises BagError or DatasetError for an
    episode that cannot be read, or has no images.
    """
    metadata = read_metadata(folder)
    topics = contract_topics(contract, metadata.topics, metadata.types)
    cameras = {topics[camera.topic]: camera for camera in contract.cameras}
    newest: dict[str, np.ndarray] = {}
    checks, frames, due = StreamChecks(contract), 0, 0
    with av.open(str(target), "w", options={"movflags": "faststart"}) as container:
        stream = None
        for message, decode in read_undecoded(folder, cameras, allow_truncated=True):
            camera = cameras[message.topic]
            newest[camera.name] = camera_image(message, decode, camera, checks)
            if len(newest) < len(cameras) or message.receive_time < due:
                continue
            due = max(due, message.receive_time) + NANOSECONDS // VIDEO_RATE
            picture = _side_by_side([newest[camera.name] for camera in contract.cameras])
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(VIDEO_RATE))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "24", "preset": "veryfast"}
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
            frames += 1
        if stream is None:
            raise DatasetError(f"{folder.name} has no images of all cameras: there is no video")
        container.mux(stream.encode())
    return frames


def _side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """Images [H, W, 3] at one height, beside each other, with even sides as H.264 wants them."""
    fitted = []
    for image in images:
        width = max(2, round(image.shape[1] * VIDEO_HEIGHT / image.shape[0] / 2) * 2)
        scaled = Image.fromarray(image).resize((width, VIDEO_HEIGHT), Image.Resampling.BICUBIC)
        fitted.append(np.asarray(scaled))
    return np.concatenate(fitted, axis=1)
