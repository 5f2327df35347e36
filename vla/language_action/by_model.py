"""Cuts episodes into atomic actions by a vision-language model (LA4VLA, sections 7.3 and 7.4).

The model gets the task, frames of every view with their times, the keyframes, and the vocabulary,
in a prompt from a file. What it replies is checked, and the gripper's status is taken from the
primitive or, where that leaves it open, from the measured fingers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vla.annotation.asking import AskSummary, Query, ask_all
from vla.annotation.endpoint import EndpointConfig, user_message
from vla.annotation.estimate import Estimate, estimate
from vla.annotation.prompts import Prompt
from vla.annotation.record_file import digest_of, made_digest
from vla.annotation.schema import ReplyError, object_schema, reply_by_schema, reply_error
from vla.annotation.source import Frame, frame_of
from vla.control.session import LONGEST_INSTRUCTION
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.sample import EpisodeDataset
from vla.language_action.keyframes import gripper_events, keyframes
from vla.language_action.primitives import EMPTY, HOLDING, PRIMITIVES, primitive_name
from vla.language_action.rules import RuleConfig, holds
from vla.language_action.segment_records import SegmentRecord, SegmentRecords
from vla.language_action.segments import ROUNDING, Segment, segment_problems
from vla.language_action.trajectory import ToolTrajectory, trajectories

PLACEHOLDERS = ("instruction", "duration", "views", "events", "vocabulary")
SCHEMA = object_schema(
    {
        "segments": {
            "type": "array",
            "items": object_schema(
                {
                    "subaction": {"type": "string", "enum": list(PRIMITIVES)},
                    "instruction": {"type": "string"},
                    "start": {"type": "number"},
                    "end": {"type": "number"},
                }
            ),
        }
    }
)
# Tokens of a reply: the paper's mean of 354 an episode.
REPLY_TOKENS = 354


@dataclass(frozen=True)
class Segmenter:
    """How a model is asked to cut an episode."""

    prompt: Prompt
    endpoint: EndpointConfig
    image_size: int = 224  # longest side of the images that it gets [px]
    frame_rate: float = 2.0  # frames of each view in a second of the episode,
    most_frames: int = 24  # and at most
    rules: RuleConfig = field(default_factory=RuleConfig)  # of keyframes, and of what is held

    def source(self) -> dict[str, Any]:
        """Everything that changes what is said, but for the episode."""
        return {
            "model": self.endpoint.model,
            "prompt": self.prompt.name,
            "prompt_version": self.prompt.version,
            "image_size": self.image_size,
            "frame_rate": self.frame_rate,
            "most_frames": self.most_frames,
            "temperature": self.endpoint.temperature,
            "rules": digest_of(asdict(self.rules), 12),
        }


@dataclass(frozen=True)
class EpisodeToCut:
    """One episode of a data set."""

    index: int  # as the data set gives its episodes out
    task: str
    first: int  # its first frame in the data set
    trajectory: ToolTrajectory

    @property
    def duration(self) -> float:
        """From its first frame to its last [s]."""
        return float(self.trajectory.times[-1])

    @cached_property
    def digest(self) -> str:
        """Tells it from another one under its number: of task, times, path and fingers."""
        path, digest = self.trajectory, hashlib.sha256(self.task.encode())
        for values in (path.times, path.positions, path.quaternions, path.opening):
            digest.update(values.astype(np.float32).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ShownView:
    """What one camera shows of an episode."""

    camera: str
    frames: tuple[Frame, ...]
    times: tuple[float, ...]  # s, of the frames


def episodes_to_cut(dataset: EpisodeDataset) -> tuple[list[EpisodeToCut], dict[int, str]]:
    """The episodes that can be cut, and why others can't, by index.

    Raises DatasetError where the data set doesn't tell when its frames were taken.
    """
    episodes, refused = [], {}
    starts = [0, *map(int, dataset.episode_ends)]
    tasks = dataset.episode_tasks()
    for index, trajectory in enumerate(trajectories(dataset)):
        if isinstance(trajectory, ValueError):
            refused[index] = one_line(trajectory)
        else:
            episodes.append(EpisodeToCut(index, tasks[index], starts[index], trajectory))
    return episodes, refused


def segment_by_model(
    episodes: Sequence[EpisodeToCut],
    dataset: EpisodeDataset,
    segmenter: Segmenter,
    records: SegmentRecords,
    concurrency: int = 4,
    on_episode: Callable[[int, str], None] | None = None,
) -> AskSummary:
    """Asks about each episode; a record is on disk before the next episode is begun.

    See ask_all() for the other arguments.
    """
    queries = [_query(episode, dataset, segmenter, records) for episode in episodes]
    return ask_all(queries, segmenter.endpoint, SCHEMA, concurrency, on_episode)


def _query(
    episode: EpisodeToCut, dataset: EpisodeDataset, segmenter: Segmenter, records: SegmentRecords
) -> Query[tuple[Segment, ...]]:
    def keep(segments: tuple[Segment, ...], usage: dict[str, int]) -> None:
        source = segmenter.source()
        made, duration = made_digest(source), round(episode.duration, 3)
        records.add(
            SegmentRecord(episode.index, duration, episode.digest, segments, source, made, usage)
        )

    return Query(
        episode.index,
        lambda: episode_messages(dataset, segmenter, episode),
        lambda text: read_segments(text, episode.trajectory, segmenter.rules),
        keep,
    )


def estimate_cost(
    episodes: Sequence[EpisodeToCut],
    dataset: EpisodeDataset,
    segmenter: Segmenter,
    records: SegmentRecords,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Estimate:
    """What it would cost to ask about episodes, by one of usual length; see estimate()."""
    made = made_digest(segmenter.source())
    earlier = [record.usage for record in records.latest.values() if record.made == made]
    mean = np.mean([episode.duration for episode in episodes])
    usual = min(episodes, key=lambda episode: abs(episode.duration - mean))
    try:
        instruction, views = shown(dataset, segmenter, usual)
        sizes = [(frame.width, frame.height) for view in views for frame in view.frames]
    except DatasetError:
        # To ask about this episode reports the failure.
        instruction, views = usual.task, []
        size, cameras = segmenter.image_size, len(dataset.contract.cameras)
        sizes = [(size, size)] * (cameras * segmenter.most_frames)
    texts = _texts(segmenter, usual, instruction, views)
    return estimate(len(episodes), texts, sizes, SCHEMA, REPLY_TOKENS, earlier, price_in, price_out)


def shown(
    dataset: EpisodeDataset, segmenter: Segmenter, episode: EpisodeToCut
) -> tuple[str, list[ShownView]]:
    """The instruction of an episode, and its views; one that is black throughout is none.

    Raises DatasetError where an image can't be read, and where there is nothing to see or to do.
    """
    times = episode.trajectory.times
    wanted = round(episode.duration * segmenter.frame_rate) + 1
    count = max(2, min(wanted, segmenter.most_frames))
    indices = np.unique(np.linspace(0, len(times) - 1, count).round().astype(int)).tolist()
    generator = np.random.default_rng(0)
    samples = [dataset.sample(episode.first + index, generator) for index in indices]
    views = [
        ShownView(
            camera.name,
            tuple(
                frame_of(sample.images[camera.name], index, segmenter.image_size)
                for index, sample in zip(indices, samples, strict=True)
            ),
            tuple(float(times[index]) for index in indices),
        )
        for camera in dataset.contract.cameras
        if any(sample.images[camera.name].any() for sample in samples)
    ]
    if not views:
        raise DatasetError("all of its images are black; name its cameras in the mapping")
    if not samples[0].instruction.strip():
        raise DatasetError("it has no instruction; write one, or leave the episode out")
    return samples[0].instruction, views


def episode_messages(
    dataset: EpisodeDataset, segmenter: Segmenter, episode: EpisodeToCut
) -> list[dict[str, Any]]:
    """What a model is asked about an episode: its views one after the other, then the prompt."""
    instruction, views = shown(dataset, segmenter, episode)
    system, user = _texts(segmenter, episode, instruction, views)
    parts: list[str | bytes] = []
    for view in views:
        parts.append(f"View {view.camera}, {len(view.frames)} frames:")
        for frame, time in zip(view.frames, view.times, strict=True):
            parts += [f"{time:.2f}s", frame.jpeg]
    return [{"role": "system", "content": system}, user_message(*parts, user)]


def _texts(
    segmenter: Segmenter, episode: EpisodeToCut, instruction: str, views: Sequence[ShownView]
) -> tuple[str, str]:
    events = keyframes(episode.trajectory, segmenter.rules.keyframes)
    return segmenter.prompt.filled(
        {
            # One line, so that it cannot begin a part of the prompt.
            "instruction": one_line(instruction, LONGEST_INSTRUCTION),
            "duration": f"{episode.duration:.2f}",
            "views": ", ".join(view.camera for view in views),
            "events": "\n".join(map(str, events)) or "- none",
            "vocabulary": vocabulary(),
        }
    )


def vocabulary() -> str:
    """The primitives with the gripper's status and their definition, a line each."""
    return "\n".join(
        f"- {primitive.name} ({' or '.join(primitive.statuses)}): {primitive.definition}"
        for primitive in PRIMITIVES.values()
    )


def read_segments(text: str, trajectory: ToolTrajectory, config: RuleConfig) -> tuple[Segment, ...]:
    """The segments in a reply. Raises ReplyError that says all that is wrong with them."""
    entries = reply_by_schema(text, SCHEMA)["segments"]
    if not entries:
        raise ReplyError("'segments' is empty; an episode has at least one")
    duration = float(trajectory.times[-1])
    holding = holds(trajectory, gripper_events(trajectory, config.keyframes), config)
    segments: list[Segment] = []
    before = 0.0
    for entry in entries:
        name = primitive_name(entry["subaction"]) or entry["subaction"]
        # Rounded times are moved behind the segment before, and into the episode.
        start, end = _near(entry["start"], before), _near(entry["end"], duration)
        before = end
        status = _status(name, start, end, trajectory.times, holding)
        words = " ".join(entry["instruction"].split())
        segments.append(Segment(name, start, end, status, words))
    if problems := list(segment_problems(segments, duration)):
        raise reply_error(problems)
    return tuple(segments)


def _near(time: float, limit: float) -> float:
    """A time [s], or the limit that it is by rounding."""
    return limit if abs(time - limit) <= ROUNDING else float(time)


def _status(name: str, start: float, end: float, times: np.ndarray, holding: np.ndarray) -> str:
    """The gripper's status in a segment: the primitive's, or else as measured."""
    statuses = PRIMITIVES[name].statuses if name in PRIMITIVES else ()
    if len(statuses) == 1:
        return statuses[0]
    first, last = np.clip(np.searchsorted(times, [start, end]), 0, len(times) - 1).tolist()
    # A grasp ends with what it has, a place begins with it.
    held = {"grasp": holding[last], "place": holding[first]}.get(
        name, holding[first : max(first, last) + 1].mean() > 0.5
    )
    return HOLDING if held else EMPTY
