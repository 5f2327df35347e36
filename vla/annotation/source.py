"""A LeRobot data set as annotation sees it: frames to show, motions, and who an episode is."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vla.contract import EmbodimentContract, load_contract
from vla.data.bag_frames import MOTION_SPAN
from vla.data.frames import DatasetError
from vla.data.language_motion import MotionThresholds, language_motion, poses_of_states
from vla.data.lerobot import CONTRACT_FILE, LeRobotEpisodes, LeRobotMapping, own_mapping
from vla.data.lerobot_meta import Episode, read_info, read_table
from vla.data.video import VideoFrames

_CAMERA_TYPES = ("video", "image")


@dataclass(frozen=True)
class Frame:
    """One image of an episode. index: of the frame in it, counted from 0. jpeg: as sent."""

    index: int
    jpeg: bytes
    width: int
    height: int


class AnnotationSource:
    """The episodes of a data set.

    contract: by default meta/contract.yaml, where there is one; without any, there are no motion
    labels. mapping: by default that of a converted data set. camera: name in the contract or a
    feature, by default the contract's reference camera, else the first one that the data set has.
    Raises DatasetError.
    """

    def __init__(
        self,
        folder: str | Path,
        contract: EmbodimentContract | None = None,
        mapping: LeRobotMapping | None = None,
        camera: str = "",
    ):
        self.folder, self.info = Path(folder), read_info(folder)
        kept = self.folder / "meta" / CONTRACT_FILE
        if contract is None and kept.exists():
            contract = load_contract(kept)
        if contract is not None and mapping is None:
            mapping = own_mapping(folder, contract)
        self.contract, self.mapping = contract, mapping
        self.camera = self._camera_feature(camera)
        self._video = VideoFrames()

    @property
    def episodes(self) -> list[Episode]:
        """All of them, in the order of the data set."""
        return self.info.episodes

    def files(self) -> dict[int, str]:
        """The data file of each episode, relative to the data set."""
        return {e.index: e.data.relative_to(self.folder).as_posix() for e in self.episodes}

    def _camera_feature(self, camera: str) -> str:
        cameras = [
            name for name, f in self.info.features.items() if f.get("dtype") in _CAMERA_TYPES
        ]
        mapped = {} if self.mapping is None else self.mapping.cameras
        if camera:
            feature = mapped.get(camera, camera)
            if feature not in cameras:
                raise DatasetError(
                    f"{self.folder} has no camera '{camera}'; it has: {', '.join(cameras) or '-'}"
                )
            return feature
        if self.contract is not None:
            feature = mapped.get(self.contract.reference_camera, "")
            if feature in cameras:
                return feature
        if not cameras:
            raise DatasetError(f"{self.folder} has no images to describe")
        return cameras[0]

    def digest(self, episode: Episode) -> str:
        """Tells an episode from another one under its number: of instruction, length and states."""
        digest = hashlib.sha256(f"{episode.instruction}\n{episode.length}\n".encode())
        feature = "observation.state" if self.mapping is None else self.mapping.state
        if feature in self.info.features:
            column = _column(episode.data, feature).slice(episode.first_row, episode.length)
            digest.update(np.asarray(column.to_pylist(), dtype=np.float32).tobytes())
        return digest.hexdigest()[:16]

    def shown_frames(self, episode: Episode, count: int = 3) -> list[int]:
        """Indices of frames from the first that training uses to the last, evenly apart."""
        first = 0 if self.mapping is None else self.mapping.drop_first
        return sorted({*np.linspace(min(first, episode.length - 1), episode.length - 1, count)
                       .round().astype(int).tolist()})  # fmt: skip

    def frames(self, episode: Episode, indices: Sequence[int], size: int) -> list[Frame]:
        """Frames as JPEG images of at most `size` pixels a side. Raises DatasetError."""
        return [self._frame(episode, index, size) for index in indices]

    def _frame(self, episode: Episode, index: int, size: int) -> Frame:
        if self.camera in episode.videos:
            path, begins = episode.videos[self.camera]
            fps = self.info.fps
            image = Image.fromarray(self._video.at(path, begins + index / fps, 0.5 / fps))
        else:
            row = _column(episode.data, self.camera)[episode.first_row + index].as_py()
            try:
                image = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
            except (OSError, UnidentifiedImageError, TypeError, KeyError) as error:
                raise DatasetError(
                    f"{episode.data}, episode {episode.index}, frame {index}: {self.camera} cannot "
                    f"be read ({error})"
                ) from error
        image.thumbnail((size, size))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        return Frame(index, buffer.getvalue(), image.width, image.height)

    def motions(self) -> dict[int, list[str]] | None:
        """Language motion labels by episode, one for each frame that is stored.

        They are counted as the frames are stored, whatever a mapping leaves out at the start, so
        that a label is found by the number of its frame. None without a contract. Raises
        DatasetError where the states are not what the contract says.
        """
        if self.contract is None or self.mapping is None:
            return None
        whole = replace(self.mapping, drop_first=0, relabel=False, cameras={})
        data = LeRobotEpisodes(self.folder, whole, self.contract)
        ends = np.cumsum([episode.length for episode in self.episodes])[:-1]
        pieces = zip(
            self.episodes, np.split(data.states(), ends), np.split(data.actions(), ends),
            strict=True,
        )  # fmt: skip
        thresholds = MotionThresholds(window=max(1, round(MOTION_SPAN * self.info.fps)))
        labels = {}
        for episode, states, actions in pieces:
            try:
                poses = poses_of_states(states, self.contract.state_names)
            except ValueError as error:
                raise DatasetError(f"{self.folder}, episode {episode.index}: {error}") from error
            # As it was commanded: fingers on an object open and close by less than a word's worth.
            closed = (actions[:, -1] < 0.5).astype(float)
            labels[episode.index] = language_motion(*poses, closed, thresholds)
        return labels


@functools.lru_cache(maxsize=3)
def _column(path: Path, feature: str):
    """A column of a data file; neighbouring episodes often share it."""
    return read_table(path, [feature]).column(feature)
