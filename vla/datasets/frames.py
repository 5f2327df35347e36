"""Frame shards: training data as memory-mapped arrays, one folder per shard.

A shard holds N frames: one uint8 array [N, H, W, 3] per camera, `state` [N, S], `action` [N, H, A]
(the chunk from each frame on, un-normalised), `time` [N], and `frames.json` with the words of each
frame's episode. Arrays are opened without being read, so that a dataset may be larger than memory.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract.embodiment import ContractError, EmbodimentContract, contract_from_dict
from vla.core.files import checked_entries, checked_number, checked_text, read_json
from vla.core.shown import brief
from vla.core.text import one_line
from vla.datasets.arrays import open_array

# Of one shard's words [bytes].
MOST_WORDS = 2**28


class DatasetError(ValueError):
    """A dataset that is missing, damaged or made for another robot."""


@dataclass
class EpisodeWords:
    """What is known in words of one episode. Places are [x, y] in metres at its start."""

    family: str  # of the task
    instruction: str  # as an operator would say it
    answer: str  # what the robot should reply
    objects: dict[str, list[float]]  # places by name
    # Places of fixed things, such as the bowl; empty where they were not recorded.
    landmarks: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Shard:
    """One opened shard of N frames; arrays are memory maps."""

    folder: Path
    images: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    episode: np.ndarray  # [N], indices into `episodes`
    drawer_opening: np.ndarray
    held: list[str]
    episodes: list[EpisodeWords]
    # When each frame was taken [s]; None in shards made before that was kept.
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.state)


def write_shard(folder: str | Path, shard: Shard, contract: EmbodimentContract) -> None:
    """Writes a shard; the folder appears whole or not at all."""
    folder = Path(folder)
    temporary = folder.with_name(folder.name + ".part")
    temporary.mkdir(parents=True, exist_ok=True)
    for name, images in shard.images.items():
        np.save(temporary / f"image_{name}.npy", images)
    np.save(temporary / "state.npy", shard.state.astype(np.float32))
    np.save(temporary / "action.npy", shard.action.astype(np.float32))
    np.save(temporary / "episode.npy", shard.episode.astype(np.int32))
    np.save(temporary / "drawer_opening.npy", shard.drawer_opening.astype(np.float32))
    if shard.time is not None:
        np.save(temporary / "time.npy", shard.time.astype(np.float32))
    words = {
        "contract": contract.to_dict(),
        "held": shard.held,
        "episodes": [asdict(episode) for episode in shard.episodes],
    }
    (temporary / "frames.json").write_text(json.dumps(words))
    os.rename(temporary, folder)


def read_shard(folder: str | Path, contract: EmbodimentContract) -> Shard:
    """Opens a shard. Raises DatasetError when it is damaged, ContractError for another robot's."""
    folder = Path(folder)
    try:
        words = read_json(folder / "frames.json", DatasetError, MOST_WORDS)
        made_for = contract_from_dict(words["contract"], str(folder))
        contract.require_same(made_for, "ours", "the dataset's")
        arrays = {
            path.stem: open_array(path, DatasetError) for path in sorted(folder.glob("*.npy"))
        }
        shard = Shard(
            folder=folder,
            images={camera.name: arrays[f"image_{camera.name}"] for camera in contract.cameras},
            state=arrays["state"],
            action=arrays["action"],
            episode=arrays["episode"],
            drawer_opening=arrays["drawer_opening"],
            held=words["held"],
            episodes=[_episode_words(episode) for episode in words["episodes"]],
            time=arrays.get("time"),
        )
        _check_arrays(shard, contract)
    except ContractError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DatasetError(
            f"shard {folder} is damaged ({one_line(error)}); delete it and make it again"
        ) from error
    return shard


def _episode_words(values: Any) -> EpisodeWords:
    """The words of an episode. Raises ValueError or TypeError where they are of another kind."""
    known = [field.name for field in fields(EpisodeWords)]
    words = EpisodeWords(**checked_entries(values, "an episode", DatasetError, known))
    for name in ("family", "instruction", "answer"):
        checked_text(getattr(words, name), f"an episode's {name}", DatasetError)
    for name in ("objects", "landmarks"):
        require_places(getattr(words, name), f"an episode's {name}")
    return words


def require_places(values: Any, what: str) -> None:
    """Raises DatasetError unless it is a mapping from names to places [x, y] in metres."""
    if not isinstance(values, dict):
        raise DatasetError(f"{what} are no mapping of places")
    for place in values.values():
        if not isinstance(place, list) or len(place) != 2:
            raise DatasetError(f"{what} have a place that is not [x, y], {brief(place)}")
        for value in place:
            checked_number(value, what, DatasetError, -1000, 1000)


def _check_arrays(shard: Shard, contract: EmbodimentContract) -> None:
    """Raises ValueError where arrays are not what a shard of this robot holds."""
    lengths = {len(array) for array in (*shard.images.values(), shard.state, shard.action)}
    if len(lengths) != 1:
        raise ValueError(f"arrays of different lengths {sorted(lengths)}")
    count = len(shard.state)
    shapes = {
        "state": (count, len(contract.state_names)),
        "action": (count, contract.horizon, len(contract.action_names)),
        "episode": (count,),
        "drawer_opening": (count,),
    }
    if shard.time is not None:
        shapes["time"] = (count,)
    for name, shape in shapes.items():
        values = getattr(shard, name)
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{name} of shape {values.shape}, or with NaN; expected {shape}")
    for camera in contract.cameras:
        images = shard.images[camera.name]
        if images.dtype != np.uint8 or images.shape != (count, camera.height, camera.width, 3):
            raise ValueError(f"images of '{camera.name}' are {images.dtype} {images.shape}")
    known = len(shard.episodes)
    if count and not (shard.episode.min() >= 0 and shard.episode.max() < known):
        raise ValueError(f"a frame is of an episode that is none of its {known}")
    if len(shard.held) != count:
        raise ValueError(f"{len(shard.held)} names of held things for {count} frames")


def read_dataset(folder: str | Path, contract: EmbodimentContract) -> list[Shard]:
    """Opens all finished shards of a folder. Raises DatasetError when there are none."""
    shards = sorted(
        path for path in Path(folder).glob("shard-*") if path.is_dir() and path.suffix != ".part"
    )
    if not shards:
        raise DatasetError(f"no shards in {folder}; make them with: vla demonstrate --out {folder}")
    return [read_shard(path, contract) for path in shards]
