"""Robot episodes of LeRobot data sets as training samples, by a mapping onto a contract."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.contract.image_fit import prepare_image
from vla.core.files import require_regular
from vla.core.shown import brief
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.images import decode_image
from vla.datasets.lerobot.kept_tracks import EpisodeTable, keep_tracks
from vla.datasets.lerobot.labels import join_labels
from vla.datasets.lerobot.mapping import (
    ANNOTATIONS_FILE,
    CONTRACT_FILE,
    LeRobotMapping,
    own_mapping,
    read_mapping,
)
from vla.datasets.lerobot.meta import (
    NUMBERS,
    STORED,
    VIDEO,
    DatasetInfo,
    EpisodeMeta,
    read_description,
    read_table,
)
from vla.datasets.lerobot.tracks import binarize_gripper, frames_per_step
from vla.datasets.sample import RobotSample
from vla.datasets.video import VideoFrames
from vla.datasets.vla_it import EpisodeLabels
from vla.datasets.windows import Timeline

__all__ = [
    "ANNOTATIONS_FILE",
    "CONTRACT_FILE",
    "LeRobotEpisodes",
    "LeRobotMapping",
    "binarize_gripper",
    "chunk_with_padding",
    "own_mapping",
    "read_mapping",
    "stored_frame",
]

logger = logging.getLogger(__name__)


class LeRobotEpisodes:
    """Frames of a LeRobot data set; states and actions in the user's cache, images read on demand.

    mapping: None for a data set that carries the contract. annotations: VLA-IT file whose episodes
    are found as join_labels() does; by default the data set's own. as_stored: every
    frame, at the data set's own rate and without its instruction, instead of one for each step of
    the contract. Raises DatasetError or ContractError that names the mismatch; unlikely values are
    logged.
    """

    def __init__(
        self,
        folder: str | Path,
        mapping: LeRobotMapping | None,
        contract: EmbodimentContract,
        annotations: str | Path = "",
        as_stored: bool = False,
    ):
        own = mapping is None
        mapping = own_mapping(folder, contract) if mapping is None else mapping
        info = read_description(folder)
        self.mapping, self.contract = mapping, contract
        if not as_stored:
            frames_per_step(info, contract)
        kept = Path(folder) / "meta" / ANNOTATIONS_FILE
        annotations = annotations or (kept if kept.is_file() else "")
        require_features(info, mapping, contract)
        self._kept = keep_tracks(info, mapping, contract, own, as_stored)
        for note in self._kept.values("notes"):
            logger.warning("%s: %s", folder, note)
        self.info = replace(info, episodes=EpisodeTable(self._kept, info.folder, info.video_keys))
        self._labels: dict[int, EpisodeLabels] = {}
        if annotations:
            joined = join_labels(self.info, annotations)
            self._labels = joined.by_episode
            for finding in joined.findings:
                logger.warning("%s: %s", folder, finding.message)
        self._video = VideoFrames()

    def __len__(self) -> int:
        return int(self._kept.array("ends")[-1])

    @property
    def episode_ends(self) -> np.ndarray:
        """For each episode, the index of the first frame after it."""
        return np.array(self._kept.array("ends"))

    def episode_tasks(self) -> list[str]:
        """The first instruction of each episode."""
        begins = [0, *self._kept.array("ends")[:-1].tolist()]
        return [self._kept.text("texts", word) for word in self._kept.array("words")[begins]]

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame. Raises DatasetError where an image can't be read.

        images: False leaves them out, undecoded.
        """
        ends = self._kept.array("ends")
        number = int(np.searchsorted(ends, index, side="right"))
        begin, end = int(ends[number - 1]) if number else 0, int(ends[number])
        episode = self.info.episodes[int(self._kept.array("used")[number])]
        frame, labels = int(self._kept.array("frames")[index]), self._labels.get(episode.index)
        return RobotSample(
            images={
                camera.name: self._image(episode, camera.name, frame)
                for camera in (self.contract.cameras if images and self.mapping.images else ())
            },
            state=np.array(self._kept.array("states")[index]),
            actions=chunk_with_padding(
                self._kept.array("actions")[begin:end], index - begin, self.contract
            ),
            instruction=self._kept.text("texts", int(self._kept.array("words")[index])),
            motion=None if labels is None else labels.motion(frame),
            annotation=None if labels is None else labels.annotation,
            source=f"{self.info.folder}, episode {episode.index}, frame {frame}",
            steps=min(self.contract.horizon, end - int(index)),
        )

    def timeline(self) -> Timeline:
        """Frames are a step of the contract apart."""
        ends, words = self.episode_ends, self._kept.array("words")
        lengths = np.diff(ends, prepend=0)
        counts = np.arange(len(words)) - np.repeat(ends - lengths, lengths)
        changes = np.flatnonzero(np.diff(words)) + 1
        return Timeline(counts * self.contract.time_step, np.union1d(changes, ends))

    def states(self) -> np.ndarray:
        """States [N, S], mapped from the disk."""
        return np.asarray(self._kept.array("states"))

    def actions(self) -> np.ndarray:
        """Actions [N, A], likewise."""
        return np.asarray(self._kept.array("actions"))

    def _image(self, episode: EpisodeMeta, name: str, frame: int) -> np.ndarray:
        camera = self.contract.camera(name)
        feature = self.mapping.cameras.get(name)
        if feature is None:
            return np.zeros((camera.height, camera.width, 3), np.uint8)
        image = stored_frame(self.info, episode, feature, frame, self._video)
        return prepare_image(image, camera)


def require_features(
    info: DatasetInfo, mapping: LeRobotMapping, contract: EmbodimentContract
) -> None:
    """Raises DatasetError where a mapping names what data set or contract lack.

    Raises ContractError where it takes the motion from states that are not those of a tool.
    """
    for motion in ("relabel", "minus_state"):
        if getattr(mapping, motion):
            contract.require_tool(f"'{motion}: true' of the mapping")
    if mapping.state_gripper is not None and not (
        contract.gripper_open_width and any(entry.kind == "gripper" for entry in contract.states)
    ):
        raise DatasetError(
            f"the mapping has state_gripper, and contract '{contract.name}' no gripper in its "
            "state, or no gripper_open_width; leave it out, or use another contract"
        )
    if odd := mapping.cameras.keys() - {camera.name for camera in contract.cameras}:
        raise DatasetError(f"the mapping has cameras that the contract lacks: {sorted(odd)}")
    wanted = [*mapping.features, *mapping.cameras.values()]
    if missing := [name for name in wanted if name not in info.features]:
        raise DatasetError(
            f"{info.folder} has no feature {one_line(', '.join(missing))}; it has: "
            f"{one_line(', '.join(info.features), 400)}"
        )
    kinds: dict[str, tuple[str, ...]] = dict.fromkeys(mapping.features, NUMBERS)
    kinds |= dict.fromkeys(mapping.cameras.values(), (VIDEO, STORED))
    for name, kinds_wanted in kinds.items():
        entry = info.features[name]
        if entry["dtype"] not in kinds_wanted:
            raise DatasetError(
                f"{info.folder}: {name} is {brief(entry['dtype'])}, not "
                f"{'images' if STORED in kinds_wanted else 'numbers'}; correct the mapping"
            )
        about = entry.get("info") or entry.get("video_info")
        if isinstance(about, dict) and about.get("video.is_depth_map") is True:
            raise DatasetError(
                f"{info.folder}: {name} is a depth map, not colour; leave the camera out of the "
                "mapping, or name another feature"
            )


def chunk_with_padding(actions: np.ndarray, start: int, contract: EmbodimentContract) -> np.ndarray:
    """The chunk [H, A] from a step on, of actions [N, A].

    Past the end the motion is zero, and other dimensions, such as the gripper, keep their value.
    """
    rest = np.where(contract.asks_for_motion, 0.0, actions[-1])
    chunk = np.tile(rest.astype(np.float32), (contract.horizon, 1))
    known = actions[start : start + contract.horizon]
    chunk[: len(known)] = known
    return chunk


@functools.lru_cache(maxsize=8)
def _image_column(path: Path, feature: str, written: int):
    """Encoded images of one file's version; neighbouring samples often share it."""
    return read_table(path, [feature]).column(feature)


def stored_frame(
    info: DatasetInfo, episode: EpisodeMeta, feature: str, frame: int, video: VideoFrames
) -> np.ndarray:
    """One image of an episode, uint8 [H, W, 3] as it is stored, from a video or the data file.

    Raises DatasetError where it can't be read, is not 8-bit colour or grey, or has another size
    than meta/info.json says.
    """
    where = f"{episode.data}, episode {episode.index}, frame {frame}: {feature}"
    if feature in episode.videos:
        path, begins = episode.videos[feature]
        image = video.at(path, begins + frame / info.fps, 0.5 / info.fps)
    else:
        written = require_regular(episode.data, DatasetError).st_mtime_ns
        column = _image_column(episode.data, feature, written)
        row = column[episode.first_row + frame].as_py() if frame < episode.length else None
        content = row.get("bytes") if isinstance(row, dict) else None
        if not isinstance(content, bytes):
            raise DatasetError(f"{where} holds no image; fetch the file again")
        image = decode_image(content, where)
    claimed, size = image_size(info.features[feature]), image.shape[:2]
    if claimed is not None and claimed != size:
        raise DatasetError(
            f"{where} has {size[1]} x {size[0]} pixels, meta/info.json says {claimed[1]} x "
            f"{claimed[0]}; correct the shape there, or fetch the file again"
        )
    return image


def image_size(feature: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width that info.json gives a feature's images; None where it does not."""
    shape, names = feature.get("shape"), feature.get("names")
    if not isinstance(shape, list) or len(shape) != 3:
        return None
    if isinstance(names, list) and {"height", "width"} <= {str(name) for name in names}:
        return shape[names.index("height")], shape[names.index("width")]
    first_channels = shape[0] in (1, 3) and shape[2] not in (1, 3)
    return (shape[1], shape[2]) if first_channels else (shape[0], shape[1])
