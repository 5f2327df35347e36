"""Robot episodes of rosbag2 bags as training samples, with their images in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.bags.frames import BagEpisode, Images, read_frames
from vla.bags.reader import is_bag, read_metadata
from vla.bags.writer import METADATA_FILE
from vla.contract.embodiment import EmbodimentContract
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.dataset import chunk_with_padding
from vla.datasets.sample import RobotSample
from vla.datasets.vla_it import read_vla_it
from vla.datasets.windows import Timeline, ends_of_words

FAILURE = "failure"


class BagEpisodes:
    """Frames of the bags in a folder, in memory at the contract's image size.

    Bags labelled as failures are left out. annotations: VLA-IT file with the names of the bags as
    file paths. images: False reads none of their images. Raises DatasetError, BagError or
    ContractError that names the bag.
    """

    def __init__(
        self,
        folder: str | Path,
        contract: EmbodimentContract,
        annotations: str | Path = "",
        images: bool = True,
    ):
        self.contract = contract
        labels = read_vla_it(annotations) if annotations else {}
        self._labels = {file: entry for (file, _), entry in labels.items()}
        read = [
            read_bag_episode(bag, contract, images)
            for bag in bag_folders(folder)
            if read_metadata(bag).custom_data.get("outcome") != FAILURE
        ]
        if not read:
            raise DatasetError(f"all bags in {folder} are labelled as failures")
        self.episodes = [episode for episode, _ in read]
        self._images = [images for _, images in read]
        self._starts = np.cumsum([0, *(len(episode.states) for episode in self.episodes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def episode_ends(self) -> np.ndarray:
        """For each episode, the index of the first frame after it."""
        return self._starts[1:].copy()

    def episode_tasks(self) -> list[str]:
        """The first instruction of each episode."""
        return [episode.instructions[0] for episode in self.episodes]

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame. images: False leaves them out."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        episode, row = self.episodes[number], int(index - self._starts[number])
        labels = self._labels.get(episode.folder.name)
        motion = labels.motion(row) if labels else None
        return RobotSample(
            images={name: stored[row] for name, stored in self._images[number].items()}
            if images
            else {},
            state=episode.states[row],
            actions=chunk_with_padding(episode.actions, row, self.contract),
            instruction=episode.instructions[row],
            motion=motion or episode.motions[row],
            annotation=labels.annotation if labels else None,
            source=f"{episode.folder}, frame {row}",
            steps=min(self.contract.horizon, len(episode.actions) - row),
        )

    def timeline(self) -> Timeline:
        """By the robot's clock."""
        ends = [
            end
            for episode, start in zip(self.episodes, self._starts, strict=False)
            for end in ends_of_words(episode.instructions, int(start))
        ]
        times = np.concatenate([episode.times - episode.times[0] for episode in self.episodes])
        return Timeline(times * 1e-9, np.array(ends))

    def states(self) -> np.ndarray:
        """States [N, S]."""
        return np.concatenate([episode.states for episode in self.episodes])

    def actions(self) -> np.ndarray:
        """Actions [N, A]."""
        return np.concatenate([episode.actions for episode in self.episodes])


def bag_folders(folder: str | Path) -> list[Path]:
    """The bags in a folder, by name, or the folder itself where it is one.

    Raises DatasetError where there is none.
    """
    folder = Path(folder)
    if is_bag(folder):
        return [folder]
    found = sorted(path for path in folder.glob("[!.]*") if is_bag(path))
    if not found:
        raise DatasetError(
            f"no bags in {folder}; each is a folder with {METADATA_FILE}, or with files that end "
            "in .mcap or .db3"
        )
    return found


def read_bag_episode(
    folder: str | Path, contract: EmbodimentContract, images: bool = True
) -> tuple[BagEpisode, dict[str, np.ndarray]]:
    """A bag's episode and its images, uint8 [N, H, W, 3] by camera; errors as of read_frames.

    images: False reads none.
    """
    if not images:
        return read_frames(folder, contract, None), {}
    frames: dict[str, list[np.ndarray]] = {camera.name: [] for camera in contract.cameras}

    def keep(taken: Images) -> None:
        for name, image in taken.items():
            frames[name].append(image)

    episode = read_frames(folder, contract, keep)
    return episode, {name: np.stack(stored) for name, stored in frames.items()}
