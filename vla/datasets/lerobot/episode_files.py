"""The files of one episode on its way into a LeRobot data set: images, written frame by frame."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

from vla.contract.embodiment import EmbodimentContract
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.statistics import PixelStatistics
from vla.datasets.video import VideoWriter

IMAGES = "observation.images."
VIDEO, STORED = "video", "image"
# Of a data set without images.
NO_IMAGES = "none"
# Frames of stored images that are in memory at once.
STORED_FRAMES = 32
STORED_FILE = "images.parquet"
STORED_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass
class EpisodeFiles:
    """One finished episode of N frames, not yet part of a data set."""

    folder: Path  # of its images
    states: np.ndarray  # [N, S] float32
    actions: np.ndarray  # [N, A] float32
    instructions: list[str]  # of the N frames
    pixels: dict[str, PixelStatistics]  # by camera


class EpisodeImages:
    """Takes an episode's images and writes them into a folder, frame by frame.

    storage: "video" for H.264, "image" for PNG without loss.
    """

    def __init__(self, folder: str | Path, contract: EmbodimentContract, storage: str = VIDEO):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self._contract = contract
        self._pixels = {camera.name: PixelStatistics() for camera in contract.cameras}
        self._videos: dict[str, VideoWriter] = {}
        self._stored: parquet.ParquetWriter | None = None
        self._waiting: list[dict[str, dict]] = []
        self.frames = 0
        if storage == VIDEO:
            for camera in contract.cameras:
                path = self.folder / f"{camera.name}.mp4"
                size = camera.width, camera.height
                self._videos[camera.name] = VideoWriter(path, *size, contract.rate)
        else:
            names = [IMAGES + camera.name for camera in contract.cameras]
            self._schema = pa.schema([(name, STORED_TYPE) for name in names])
            # PNG cannot be compressed further.
            self._stored = parquet.ParquetWriter(
                self.folder / STORED_FILE, self._schema, compression="none"
            )

    def add(self, images: dict[str, np.ndarray]) -> None:
        """Appends a frame: uint8 [H, W, 3] by camera, of the contract's size.

        Raises DatasetError where a camera is missing or its image has another size.
        """
        for camera in self._contract.cameras:
            image = images.get(camera.name)
            if image is None or image.shape != (camera.height, camera.width, 3):
                shape = "missing" if image is None else image.shape
                raise DatasetError(
                    f"image of camera '{camera.name}' is {shape}; the contract says "
                    f"{(camera.height, camera.width, 3)}"
                )
            self._pixels[camera.name].add(image)
        for name, video in self._videos.items():
            video.add(images[name])
        if self._stored is not None:
            self._waiting.append({IMAGES + n: _png(images[n]) for n in self._pixels})
            if len(self._waiting) == STORED_FRAMES:
                self._flush(self._stored)
        self.frames += 1

    def finish(
        self, states: np.ndarray, actions: np.ndarray, instructions: Sequence[str]
    ) -> EpisodeFiles:
        """Closes the files.

        Raises DatasetError where frames are not as many as images, or a value is not finite.
        """
        self.close()
        lengths = [len(states), len(actions), len(instructions)]
        if self.frames == 0 or set(lengths) != {self.frames}:
            raise DatasetError(
                f"{self.frames} images, but {lengths[0]} states, {lengths[1]} actions and "
                f"{lengths[2]} instructions"
            )
        episode = EpisodeFiles(self.folder, states, actions, list(instructions), self._pixels)
        return _checked(episode)

    def close(self) -> None:
        """Closes the files of an episode that is given up or done."""
        videos, self._videos = self._videos, {}
        for video in videos.values():
            video.close()
        if self._stored is not None:
            self._flush(self._stored)
            self._stored.close()
            self._stored = None

    def _flush(self, stored: parquet.ParquetWriter) -> None:
        if self._waiting:
            stored.write_table(pa.Table.from_pylist(self._waiting, self._schema))
            self._waiting = []


def episode_without_images(
    folder: str | Path, states: np.ndarray, actions: np.ndarray, instructions: Sequence[str]
) -> EpisodeFiles:
    """An episode of N frames, states [N, S] and actions [N, A], for a writer without images.

    Raises DatasetError where they are not equally many, or a value is not finite.
    """
    Path(folder).mkdir(parents=True)
    return _checked(EpisodeFiles(Path(folder), states, actions, list(instructions), {}))


def _checked(episode: EpisodeFiles) -> EpisodeFiles:
    states, actions = (np.asarray(v, np.float32) for v in (episode.states, episode.actions))
    lengths = [len(states), len(actions), len(episode.instructions)]
    if len(states) == 0 or len(set(lengths)) > 1:
        raise DatasetError(
            f"{lengths[0]} states, {lengths[1]} actions and {lengths[2]} instructions, not one of "
            "each for every frame"
        )
    if not (np.isfinite(states).all() and np.isfinite(actions).all()):
        raise DatasetError("a state or an action is not finite")
    return replace(episode, states=states, actions=actions)


def _png(image: np.ndarray) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", compress_level=1)
    return {"bytes": stream.getvalue(), "path": None}
