"""Video files: frames at given times, read at random, and writing files for that."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vla.core.text import one_line
from vla.datasets.frames import DatasetError

OPEN_FILES = 16
KEY_FRAME_EVERY = 4
# Nearly lossless apart from the halved resolution of colour, and fast.
ENCODING = {
    "preset": "veryfast",
    "crf": "14",
    "g": str(KEY_FRAME_EVERY),
    "keyint_min": str(KEY_FRAME_EVERY),
    "sc_threshold": "0",
    "bf": "0",
}


class VideoFrames:
    """Reads single frames; keeps recently used files open. Not thread-safe."""

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
            container.seek(max(0, int((time - tolerance) / _time_base(stream))), stream=stream)
            for frame in container.decode(stream):
                if frame.time is not None and frame.time >= time - tolerance:
                    if frame.time > time + tolerance:
                        break
                    return frame.to_ndarray(format="rgb24")
        except DatasetError:
            raise
        except Exception as error:
            # Decoders raise whatever the bytes drive them to.
            if path in self._open:
                self._open.pop(path).close()
            raise unreadable(path, error) from error
        raise DatasetError(
            f"video {path} has no frame at {time:.3f} s: it is shorter than its data; fetch it "
            "again"
        )

    def _container(self, path: Path) -> av.container.InputContainer:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        container = _opened(path)
        container.streams.video[0].thread_type = "NONE"
        self._open[path] = container
        if len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        return container

    def __getstate__(self) -> dict:
        # Open files are not copied into a data loader's processes.
        return {"_limit": self._limit, "_open": OrderedDict()}


@dataclass(frozen=True)
class VideoFacts:
    """What a video file's header says; None where it does not."""

    frames: int | None
    rate: float | None  # [frames/s]
    seconds: float | None
    width: int  # [px]
    height: int  # [px]


def _time_base(stream: av.video.stream.VideoStream) -> Fraction:
    """Seconds per tick of its stamps. Raises DatasetError where the file does not say it."""
    if stream.time_base is None:
        raise DatasetError(f"{stream.container.name}: the video has no time base; encode it again")
    return stream.time_base


def video_facts(path: Path) -> VideoFacts:
    """Reads the header of a video file.

    Raises DatasetError where it can't be read, or is not 8-bit colour or grey.
    """
    try:
        with _opened(path) as container:
            stream = container.streams.video[0]
            seconds = float(stream.duration * _time_base(stream)) if stream.duration else None
            rate = float(stream.average_rate) if stream.average_rate else None
            return VideoFacts(
                stream.frames or None, rate, seconds, stream.codec_context.width,
                stream.codec_context.height,
            )  # fmt: skip
    except DatasetError:
        raise
    except Exception as error:
        # Decoders raise whatever the bytes drive them to.
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DatasetError:
    """The error of a video file that can't be read."""
    return DatasetError(
        f"video {path} cannot be read ({one_line(error)}); fetch it again, or leave the episode out"
    )


def _opened(path: Path) -> av.container.InputContainer:
    """Raises DatasetError where a file is missing, or not 8-bit colour or grey."""
    if not path.is_file():
        raise unreadable(path, OSError("it is missing or no file"))
    container = av.open(str(path))
    try:
        pixels = container.streams.video[0].codec_context.pix_fmt
        kind = av.VideoFormat(pixels) if pixels else None
    except Exception:
        container.close()
        raise
    what = ""
    if kind is None:
        what = "of an unknown kind"
    elif any(part.bits > 8 for part in kind.components):
        what = f"of {max(part.bits for part in kind.components)} bits a value"
    elif kind.has_palette:
        what = "with a palette"
    elif any(part.is_alpha for part in kind.components):
        what = "with transparency"
    if what:
        container.close()
        raise DatasetError(
            f"video {path} is {what} ({pixels}), not 8-bit colour or grey; convert it, or leave "
            "the camera out"
        )
    return container


class VideoWriter:
    """Writes an H.264 MP4, whatever the file's name, for any player, with fast random access.

    A key frame comes every KEY_FRAME_EVERY frames and every frame only needs earlier ones, so that
    reading one at random decodes few others. Sizes must be even (4:2:0 chroma).
    """

    def __init__(self, path: str | Path, width: int, height: int, rate: float):
        if width % 2 or height % 2:
            raise DatasetError(
                f"a video of {width} x {height} px cannot be written, sizes must be even: change "
                "the contract, or store images instead"
            )
        self._rate = frame_rate(rate)
        self._container = av.open(str(path), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {**ENCODING}
        # One file is one task of a process pool: threads would only compete.
        self._stream.codec_context.thread_count = 1
        self._frames = 0

    def add(self, image: np.ndarray) -> None:
        """Appends a frame uint8 [H, W, 3]."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self._frames, 1 / self._rate
        self._frames += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what is left and closes the file."""
        try:
            if self._frames:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()


class VideoJoiner:
    """Appends files of VideoWriter to one another without re-encoding."""

    def __init__(self, path: str | Path):
        self._container = av.open(str(path), "w")
        self._stream: av.video.stream.VideoStream | None = None
        self._frames = 0

    def append(self, path: str | Path) -> None:
        """Adds all frames of a file, which must have the size and rate of those before."""
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(stream)
            if not stream.average_rate:
                raise DatasetError(f"{path}: the video does not say its rate; encode it again")
            step = 1 / (stream.average_rate * _time_base(stream))
            begins = round(self._frames * step)
            for packet in source.demux(stream):
                if packet.dts is None or packet.pts is None:
                    continue
                packet.pts, packet.dts = packet.pts + begins, packet.dts + begins
                packet.stream = self._stream
                self._container.mux(packet)
            self._frames += stream.frames

    def close(self) -> None:
        """Closes the file."""
        self._container.close()


def frame_rate(rate: float) -> Fraction:
    """A rate [Hz] as a fraction that video files can hold."""
    return Fraction(rate).limit_denominator(1001)
