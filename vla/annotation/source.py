"""A LeRobot data set as annotation sees it: frames to show, motions, and who an episode is."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from vla.bags.frames import MOTION_SPAN
from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.datasets.frames import DatasetError
from vla.datasets.language_motion import MotionThresholds, language_motion, poses_of_states
from vla.datasets.lerobot.columns import number_column
from vla.datasets.lerobot.dataset import (
    CONTRACT_FILE,
    LeRobotEpisodes,
    LeRobotMapping,
    own_mapping,
    stored_frame,
)
from vla.datasets.lerobot.index import EPISODE, read_info
from vla.datasets.lerobot.mapping import features_in
from vla.datasets.lerobot.meta import DatasetInfo, EpisodeMeta, read_table
from vla.datasets.lerobot.tracks import TASK, instructions_of, known_tasks, rows_of
from vla.datasets.video import VideoFrames

_CAMERA_TYPES = ("video", "image")


@dataclass(frozen=True)
class Frame:
    """One image of an episode."""

    index: int  # in the episode, from 0
    jpeg: bytes  # as sent
    width: int
    height: int


def frame_of(pixels: np.ndarray, index: int, size: int) -> Frame:
    """A frame from its pixels, uint8 [H, W, 3], of at most `size` pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((size, size))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return Frame(index, buffer.getvalue(), image.width, image.height)


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
        self.folder, info = Path(folder), read_info(folder)
        tasks, read = known_tasks(info), functools.lru_cache(maxsize=1)(_tasks_in)
        episodes = [_as_rows_say(info, episode, tasks, read) for episode in info.episodes]
        self.info = replace(info, episodes=episodes)
        kept = self.folder / "meta" / CONTRACT_FILE
        if contract is None and kept.exists():
            contract = load_contract(kept)
        if contract is not None and mapping is None:
            mapping = own_mapping(folder, contract)
        self.contract, self.mapping = contract, mapping
        self.camera = self._camera_feature(camera)
        self._video = VideoFrames()

    @property
    def episodes(self) -> Sequence[EpisodeMeta]:
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

    def digest(self, episode: EpisodeMeta) -> str:
        """Tells an episode from another one under its number: of instruction, length and states."""
        digest = hashlib.sha256(f"{episode.instruction}\n{episode.length}\n".encode())
        named = "observation.state" if self.mapping is None else self.mapping.state
        for feature in features_in(named):
            if feature not in self.info.features:
                continue
            table = _states_in(episode.data, feature).slice(episode.first_row, episode.length)
            where = f"{episode.data}, episode {episode.index}"
            digest.update(number_column(table, feature, where).astype(np.float32).tobytes())
        return digest.hexdigest()[:16]

    def shown_frames(self, episode: EpisodeMeta, count: int = 3) -> list[int]:
        """Indices of frames from the first that training uses to the last, evenly apart."""
        first = 0 if self.mapping is None else self.mapping.drop_first
        return sorted({*np.linspace(min(first, episode.length - 1), episode.length - 1, count)
                       .round().astype(int).tolist()})  # fmt: skip

    def frames(self, episode: EpisodeMeta, indices: Sequence[int], size: int) -> list[Frame]:
        """Frames as JPEG images of at most `size` pixels a side. Raises DatasetError."""
        return [self._frame(episode, index, size) for index in indices]

    def _frame(self, episode: EpisodeMeta, index: int, size: int) -> Frame:
        pixels = stored_frame(self.info, episode, self.camera, index, self._video)
        return frame_of(pixels, index, size)

    def motions(self) -> dict[int, list[str]] | None:
        """Language motion labels by episode, one for each frame that is stored.

        They are counted as the frames are stored, whatever a mapping leaves out at the start, so
        that a label is found by the number of its frame. None without a contract. Raises
        DatasetError where the states are not what the contract says.
        """
        if self.contract is None or self.mapping is None:
            return None
        whole = replace(self.mapping, drop_first=0, relabel=False, cameras={})
        data = LeRobotEpisodes(self.folder, whole, self.contract, as_stored=True)
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
def _states_in(path: Path, feature: str) -> pa.Table:
    """A column of a data file; neighbouring episodes often share it."""
    return read_table(path, [feature])


def _tasks_in(path: Path) -> pa.Table:
    return read_table(path, [], [TASK, EPISODE])


def _as_rows_say(
    info: DatasetInfo,
    episode: EpisodeMeta,
    tasks: Mapping[int, str],
    read: Callable[[Path], pa.Table],
) -> EpisodeMeta:
    """An episode with the instructions that its rows have, where they have any."""
    rows = rows_of(read(episode.data), info, episode)
    if TASK not in rows.column_names:
        return episode
    where = f"{episode.data}, episode {episode.index}"
    texts = tuple(dict.fromkeys(instructions_of(rows, episode, tasks, where)))
    return replace(episode, instruction=texts[0], tasks=texts)
