"""Frames of video files at given times, read at random."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import av
import numpy as np

from vla.data.frames import DatasetError

OPEN_FILES = 16


class VideoFrames:
    """Reads single frames; keeps the last used files open. Not to be shared among threads."""

    def __init__(self, open_files: int = OPEN_FILES):
        self._limit = open_files
        self._open: OrderedDict[Path, av.container.InputContainer] = OrderedDict()

    def at(self, path: Path, time: float, tolerance: float) -> np.ndarray:
        """The frame uint8 [H, W, 3] that is shown at a time [s].

        Raises DatasetError where the file can't be read, or has no frame within the tolerance [s].
        """
        try:
            container = self._container(path)
            stream = container.streams.video[0]
            container.seek(max(0, int((time - tolerance) / stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                if frame.time >= time - tolerance:
                    if frame.time > time + tolerance:
                        break
                    return frame.to_ndarray(format="rgb24")
        except (av.error.FFmpegError, IndexError, OSError) as error:
            self._open.pop(path, None)
            raise DatasetError(
                f"video {path} cannot be read ({error}); fetch it again, or leave the episode out"
            ) from error
        raise DatasetError(
            f"video {path} has no frame at {time:.3f} s: it is shorter than its data; fetch it anew"
        )

    def _container(self, path: Path) -> av.container.InputContainer:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        container = av.open(str(path))
        container.streams.video[0].thread_type = "NONE"
        self._open[path] = container
        if len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        return container

    def __getstate__(self) -> dict:
        # Open files stay behind when a data loader copies the data set into another process.
        return {"_limit": self._limit, "_open": OrderedDict()}
