"""Simulated demonstrations as training samples: words drawn each time, places to look at."""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np

from vla.contract.embodiment import EmbodimentContract
from vla.core.rotations import from_rotation_vector, multiply, quaternion_to_matrix
from vla.datasets.camera_view import CameraView
from vla.datasets.frames import DatasetError, EpisodeWords, Shard
from vla.datasets.grounding import place_pixels
from vla.datasets.language_motion import motion_words
from vla.datasets.sample import Annotation, Pair, RobotSample
from vla.datasets.windows import Timeline
from vla.envs.tabletop.annotations import annotate
from vla.envs.tabletop.impossible import impossible
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.spoken import spoken_sample
from vla.envs.tabletop.tasks import FAMILIES, phrase, task_of_answer

# Policy steps that a motion label looks ahead: 0.5 s, as two frames of the paper's data are apart.
MOTION_STEPS = 5


class SimulatedDemonstrations:
    """Frames of shards, each as often as `repeats` says.

    views: calibration of cameras by name; in others no place is labelled. annotated: with
    annotations from the scene's truth, and an instruction that can't be followed. spoken: share of
    the instructions that are said as people talk, see vla.envs.tabletop.spoken.
    """

    def __init__(
        self,
        shards: list[Shard],
        contract: EmbodimentContract,
        views: dict[str, CameraView],
        annotated: bool = False,
        spoken: float = 0.0,
    ):
        self.shards, self.contract = shards, contract
        self.annotated, self.spoken = annotated, spoken
        self.cameras = [camera.name for camera in contract.cameras]
        self._starts = np.cumsum([0, *(len(shard) for shard in shards)])
        calibrated = [views.get(name) for name in self.cameras]
        self._places = [place_pixels(shard, calibrated) for shard in shards]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def sample(
        self, index: int, generator: np.random.Generator, images: bool = True
    ) -> RobotSample:
        """One frame, in words drawn for this call. images: False leaves its images out."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard, row = self.shards[number], int(index - self._starts[number])
        words = shard.episodes[shard.episode[row]]
        task = task_of_answer(words.family, words.answer)
        sample = RobotSample(
            images={name: shard.images[name][row] for name in self.cameras} if images else {},
            state=shard.state[row],
            actions=shard.action[row],
            instruction=phrase(task, generator),
            motion=motion_of_chunk(shard.action[row]),
            annotation=self._annotation(shard, row, generator) if self.annotated else None,
            answer=words.answer,
            impossible=self._impossible(words, generator) if self.annotated else None,
            places=dict(zip(self.cameras, self._places[number][row], strict=True)),
            source=f"{shard.folder}, episode {shard.episode[row]}, frame {row}",
        )
        return spoken_sample(sample, self.spoken, generator) if self.spoken else sample

    def _annotation(self, shard: Shard, row: int, generator: np.random.Generator) -> Annotation:
        episode = int(shard.episode[row])
        first = int(np.searchsorted(shard.episode, episode))
        return annotate(shard.episodes[episode], generator, float(shard.drawer_opening[first]))

    @staticmethod
    def _impossible(words: EpisodeWords, generator: np.random.Generator) -> Pair | None:
        """Of draws of its own, so that runs without it see the same words as ever."""
        if words.family not in FAMILIES:
            return None
        asked = impossible(words.objects, generator.spawn(1)[0])
        return asked.instruction, asked.answer

    @property
    def episode_ends(self) -> np.ndarray:
        """Frames [E] up to and with each episode, in order."""
        ends = [start + np.flatnonzero(np.diff(shard.episode, append=-1)) + 1
                for start, shard in zip(self._starts, self.shards, strict=False)]  # fmt: skip
        return np.concatenate(ends)

    def episode_tasks(self) -> list[str]:
        """The family of each episode."""
        return [words.family for words in self._episode_words()]

    def episode_instructions(self) -> list[str]:
        """The instruction of each episode, as an operator would say it."""
        return [words.instruction for words in self._episode_words()]

    def episode_scenes(self) -> list[str]:
        """The scene of each episode: equal where all things lie at the same places at its start."""
        places = ([words.objects, words.landmarks] for words in self._episode_words())
        return [sha256(json.dumps(own, sort_keys=True).encode()).hexdigest() for own in places]

    def _episode_words(self) -> list[EpisodeWords]:
        return [
            shard.episodes[number]
            for shard in self.shards
            for number in shard.episode[np.flatnonzero(np.diff(shard.episode, append=-1))]
        ]

    def timeline(self) -> Timeline:
        """By the simulator's clock. Raises DatasetError for shards that do not have it."""
        for shard in self.shards:
            if shard.time is None:
                raise DatasetError(
                    f"{shard.folder} does not say when its frames were taken, which a policy with "
                    "a history needs: make the data again with vla demonstrate"
                )
        return Timeline(np.concatenate([shard.time for shard in self.shards]), self.episode_ends)

    def states(self) -> np.ndarray:
        """States [N, S]."""
        return np.concatenate([shard.state for shard in self.shards])

    def actions(self) -> np.ndarray:
        """Actions [N, A]: the first of each chunk."""
        return np.concatenate([shard.action[:, 0] for shard in self.shards])


def motion_of_chunk(actions: np.ndarray) -> str:
    """Language motion of the first steps of a chunk [H, A] of deltas in the base frame."""
    steps = np.asarray(actions[:MOTION_STEPS], dtype=np.float64)
    quaternion = np.array([0.0, 0.0, 0.0, 1.0])
    for turn in steps[:, 3:6]:
        quaternion = multiply(from_rotation_vector(turn), quaternion)
    closing = float(steps[0, 6] - steps[-1, 6])
    return motion_words(steps[:, :3].sum(axis=0), quaternion_to_matrix(quaternion), closing)


def simulated_views(contract: EmbodimentContract) -> dict[str, CameraView]:
    """Calibration of the simulated cameras, which the demonstrations were seen by."""
    simulator = TableTopSimulator(contract.camera("front").width)
    size, views = simulator.camera_size, {}
    tool, quaternion = simulator.end_effector_pose()
    tool_rotation = quaternion_to_matrix(quaternion)
    for name in simulator.camera_names:
        position, rotation = simulator.camera_pose(name)
        on_tool = name == "wrist"
        if on_tool:
            position = tool_rotation.T @ (position - tool)
            rotation = tool_rotation.T @ rotation
        matrix = simulator.camera_matrix(name)
        views[name] = CameraView(position, rotation, matrix, size, on_tool)
    simulator.close()
    return views
