"""Robot episodes of LeRobot data sets as training samples, by a mapping onto a contract."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError

from vla.contract import EmbodimentContract, load_contract
from vla.data.episode_files import IMAGES
from vla.data.frames import DatasetError
from vla.data.lerobot_meta import DatasetInfo, Episode, read_info, read_table, read_tasks
from vla.data.sample import RobotSample
from vla.data.video import VideoFrames
from vla.data.vla_it import EpisodeLabels, read_vla_it
from vla.observation import prepare_image

GRIPPERS = ("open", "closed")
# What `vla data convert` and `vla data annotate` put beside LeRobot's own files in meta/.
CONTRACT_FILE, ANNOTATIONS_FILE = "contract.yaml", "annotations.json"
TRIMMED = 2


@dataclass(frozen=True)
class LeRobotMapping:
    """How a data set's features become a contract's.

    cameras: feature of each contract camera; one that is left out is black. state, action: features
    whose columns, by state_columns and action_columns, are the contract's names in order. gripper:
    what 1 in the action's last column means, "open" or "closed". binarize: the gripper column is
    not 0 or 1 yet, and is made so: values in between take the next definite one in time.
    relabel: the motion of a step is the difference of the states around it, instead of the action.
    drop_first: steps at an episode's start that are left out.
    """

    cameras: dict[str, str]
    state: str = "observation.state"
    state_columns: tuple[int, ...] = ()
    action: str = "action"
    action_columns: tuple[int, ...] = ()
    gripper: str = "open"
    binarize: bool = False
    relabel: bool = False
    drop_first: int = 0


@dataclass
class _Track:
    """States [N, S] and actions [N, A] of an episode, as the contract has them, and instructions.

    frames: which of the episode's they are.
    """

    episode: Episode
    states: np.ndarray
    actions: np.ndarray
    instructions: list[str]
    labels: EpisodeLabels | None = None
    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, int))


def read_mapping(path: str | Path) -> LeRobotMapping:
    """Reads a mapping from YAML. Raises DatasetError that names an unknown or missing entry."""
    try:
        values = yaml.safe_load(Path(path).read_text())
        for name in ("state_columns", "action_columns"):
            values[name] = tuple(values.get(name, ()))
        mapping = LeRobotMapping(**values)
    except OSError as error:
        raise DatasetError(f"cannot read mapping {path}: {error.strerror}") from error
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is not a mapping of a LeRobot data set: {error}") from error
    if mapping.gripper not in GRIPPERS:
        raise DatasetError(f"{path}: gripper must be one of {', '.join(GRIPPERS)}")
    return mapping


def own_mapping(folder: str | Path, contract: EmbodimentContract) -> LeRobotMapping:
    """The mapping of a data set that carries its contract, as `vla data convert` writes it.

    Raises DatasetError where it carries none, ContractError where that is another one.
    """
    path = Path(folder) / "meta" / CONTRACT_FILE
    if not path.is_file():
        raise DatasetError(
            f"{folder} was not written by 'vla data convert' ({path} is missing): say by a mapping "
            "how its features become the contract's"
        )
    contract.require_same(load_contract(path), "ours", f"that of {folder}")
    return LeRobotMapping({camera.name: IMAGES + camera.name for camera in contract.cameras})


class LeRobotEpisodes:
    """Frames of a LeRobot data set; states and actions in memory, images read when asked for.

    mapping: None for a data set that carries the contract. annotations: VLA-IT file whose episodes
    are found by their index, under any file path; by default the data set's own where it has one.
    Raises DatasetError or ContractError that names the file or episode that does not fit.
    """

    def __init__(
        self,
        folder: str | Path,
        mapping: LeRobotMapping | None,
        contract: EmbodimentContract,
        annotations: str | Path = "",
    ):
        mapping = own_mapping(folder, contract) if mapping is None else mapping
        self.info, self.mapping, self.contract = read_info(folder), mapping, contract
        kept = Path(folder) / "meta" / ANNOTATIONS_FILE
        annotations = annotations or (kept if kept.is_file() else "")
        if odd := mapping.cameras.keys() - {camera.name for camera in contract.cameras}:
            raise DatasetError(f"the mapping has cameras that the contract lacks: {sorted(odd)}")
        wanted = [mapping.state, mapping.action, *mapping.cameras.values()]
        if missing := [name for name in wanted if name not in self.info.features]:
            raise DatasetError(
                f"{folder} has no feature {', '.join(missing)}; it has: "
                f"{', '.join(self.info.features)}"
            )
        labels = _labels_by_episode(annotations) if annotations else {}
        read = functools.lru_cache(maxsize=1)(read_table)
        self._tracks = [
            _read_track(self.info, episode, mapping, contract, read)
            for episode in self.info.episodes
        ]
        for track in self._tracks:
            track.labels = labels.get(str(track.episode.index))
            _check_labels(track, annotations)
        self._starts = np.cumsum([0, *(len(track.states) for track in self._tracks)])
        self._video = VideoFrames()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def episode_ends(self) -> np.ndarray:
        """For each episode, the index of the first frame after it."""
        return self._starts[1:].copy()

    def sample(self, index: int, generator: np.random.Generator) -> RobotSample:
        """One frame. Raises DatasetError where an image can't be read."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        track, row = self._tracks[number], int(index - self._starts[number])
        frame, labels = int(track.frames[row]), track.labels
        return RobotSample(
            images={
                camera.name: self._image(track.episode, camera.name, frame)
                for camera in self.contract.cameras
            },
            state=track.states[row],
            actions=chunk_with_padding(track.actions, row, self.contract.horizon),
            instruction=track.instructions[row],
            motion=None if labels is None else labels.motion(frame),
            annotation=None if labels is None else labels.annotation,
            source=f"{self.info.folder}, episode {track.episode.index}, frame {frame}",
        )

    def states(self) -> np.ndarray:
        """States [N, S]."""
        return np.concatenate([track.states for track in self._tracks])

    def actions(self) -> np.ndarray:
        """Actions [N, A]."""
        return np.concatenate([track.actions for track in self._tracks])

    def _image(self, episode: Episode, name: str, frame: int) -> np.ndarray:
        camera = self.contract.camera(name)
        feature = self.mapping.cameras.get(name)
        if feature is None:
            return np.zeros((camera.height, camera.width, 3), np.uint8)
        if feature in episode.videos:
            path, begins = episode.videos[feature]
            time = begins + frame / self.info.fps
            image = self._video.at(path, time, 0.5 / self.info.fps)
        else:
            image = _stored_image(episode, feature, frame)
        return prepare_image(image, camera)


def _labels_by_episode(path: str | Path) -> dict[str, EpisodeLabels]:
    """Labels by episode index. Raises DatasetError where that does not tell the episodes apart."""
    by_episode: dict[str, EpisodeLabels] = {}
    for (file, episode), entry in read_vla_it(path).items():
        if episode in by_episode:
            raise DatasetError(
                f"{path}: episode {episode} stands under {file} and another file path; a LeRobot "
                "data set knows its episodes by their index alone, so give each one of its own"
            )
        by_episode[episode] = entry
    return by_episode


def _check_labels(track: _Track, path: str | Path) -> None:
    """Raises DatasetError where an episode's labels are of another one.

    Sources differ in whether the first and the last step, which do not move, are labelled.
    """
    motions = 0 if track.labels is None else len(track.labels.motions)
    if motions and abs(motions - track.episode.length) > TRIMMED:
        raise DatasetError(
            f"{path}: episode {track.episode.index} has {motions} motion labels, but "
            f"{track.episode.length} frames in {track.episode.data}: the two count their episodes "
            "differently"
        )


def chunk_with_padding(actions: np.ndarray, start: int, horizon: int) -> np.ndarray:
    """The chunk [H, A] from a step on, of actions [N, A] that end with the gripper.

    Past the end there is no motion, and the gripper stays as it is last commanded.
    """
    chunk = np.zeros((horizon, actions.shape[1]), dtype=np.float32)
    known = actions[start : start + horizon]
    chunk[: len(known)] = known
    chunk[len(known) :, -1] = actions[-1, -1]
    return chunk


def _read_track(
    info: DatasetInfo,
    episode: Episode,
    mapping: LeRobotMapping,
    contract: EmbodimentContract,
    read: Callable[[Path, tuple[str, ...]], Any],
) -> _Track:
    """One episode. read: gives columns of a file, and keeps them for the next of its episodes."""
    where = f"{episode.data}, episode {episode.index}"
    table = read(episode.data, (mapping.state, mapping.action))
    rows = table.slice(episode.first_row, episode.length)
    if len(rows) != episode.length:
        raise DatasetError(f"{where}: {len(rows)} of {episode.length} rows; fetch the file again")
    states = _columns(rows, mapping.state, mapping.state_columns, contract.state_names, where)
    actions = _columns(rows, mapping.action, mapping.action_columns, contract.action_names, where)
    if mapping.binarize:
        actions[:, -1] = binarize_gripper(actions[:, -1])
    if mapping.gripper == "closed":
        actions[:, -1] = 1.0 - actions[:, -1]
    kept = slice(mapping.drop_first, None)
    if mapping.relabel:
        actions[:-1, :6] = np.diff(states[:, :6], axis=0)
        kept = slice(mapping.drop_first, -1)
    frames = np.arange(episode.length)[kept]
    if not len(frames):
        raise DatasetError(f"{where} is too short: {episode.length} frames")
    instructions = _instructions(info, episode)[kept]
    return _Track(episode, states[kept], actions[kept], instructions, frames=frames)


def _instructions(info: DatasetInfo, episode: Episode) -> list[str]:
    """The instruction of each frame."""
    if len(episode.tasks) < 2 or "task_index" not in info.features:
        return [episode.instruction] * episode.length
    tasks = read_tasks(info.folder)
    rows = read_table(episode.data, ["task_index"]).slice(episode.first_row, episode.length)
    indices = rows.column("task_index").to_pylist()
    if unknown := set(indices) - tasks.keys():
        raise DatasetError(
            f"{episode.data}, episode {episode.index}: task {min(unknown)} is not in {info.folder}"
            "/meta"
        )
    return [tasks[index] for index in indices]


def _columns(
    rows, feature: str, columns: tuple[int, ...], names: tuple[str, ...], where: str
) -> np.ndarray:
    """A feature's columns as float32 [N, D], D as many as the contract has names."""
    values = np.array(rows.column(feature).to_pylist(), dtype=np.float32)
    if values.ndim == 1:
        values = values[:, None]
    chosen = columns or tuple(range(values.shape[1]))
    if len(chosen) != len(names) or max(chosen) >= values.shape[1]:
        raise DatasetError(
            f"{where}: {feature} has {values.shape[1]} columns, of which {len(chosen)} are taken; "
            f"the contract has {len(names)}: {', '.join(names)}"
        )
    values = values[:, list(chosen)]
    if not np.isfinite(values).all():
        raise DatasetError(f"{where}: {feature} holds NaN or infinity; leave the episode out")
    return values


def binarize_gripper(values: np.ndarray, closed: float = 0.05, opened: float = 0.95) -> np.ndarray:
    """Gripper values [N] as 0 or 1; what is in between takes the next definite value, from the end.

    The last values, if none is definite, are decided at a half.
    """
    result = np.zeros(len(values), dtype=np.float32)
    following = float(values[-1] >= 0.5)
    for row in range(len(values) - 1, -1, -1):
        if values[row] > opened or values[row] < closed:
            following = float(values[row] > opened)
        result[row] = following
    return result


@functools.lru_cache(maxsize=8)
def _image_column(path: Path, feature: str):
    """Encoded images of one file; neighbouring samples often share it."""
    return read_table(path, [feature]).column(feature)


def _stored_image(episode: Episode, feature: str, frame: int) -> np.ndarray:
    """An image that lies in the parquet file itself."""
    row = _image_column(episode.data, feature)[episode.first_row + frame].as_py()
    try:
        with Image.open(io.BytesIO(row["bytes"])) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, UnidentifiedImageError, TypeError, KeyError) as error:
        raise DatasetError(
            f"{episode.data}, episode {episode.index}, frame {frame}: {feature} cannot be read "
            f"({error})"
        ) from error
