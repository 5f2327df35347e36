"""Annotates the episodes of a data set by a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vla.annotation.asking import AskSummary, Query, ask_all
from vla.annotation.endpoint import EndpointConfig, user_message
from vla.annotation.prompts import Prompt
from vla.annotation.record_file import made_digest
from vla.annotation.records import Record, Records, entries_of
from vla.annotation.replies import REPLY_SCHEMA, PairCounts, read_reply
from vla.annotation.source import AnnotationSource
from vla.control.session import LONGEST_INSTRUCTION
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.meta import EpisodeMeta
from vla.datasets.sample import Annotation


@dataclass(frozen=True)
class Annotator:
    """How a model is asked about an episode."""

    prompt: Prompt
    endpoint: EndpointConfig
    wanted: PairCounts = field(default_factory=PairCounts)
    image_size: int = 512  # longest side of the images that it gets [px]
    frames: int = 3

    def source(self, camera: str) -> dict[str, Any]:
        """Everything that changes what is said, but for the episode."""
        return {
            "kind": "model",
            "model": self.endpoint.model,
            "prompt": self.prompt.name,
            "prompt_version": self.prompt.version,
            "camera": camera,
            "frames": self.frames,
            "image_size": self.image_size,
            "wanted": [self.wanted.questions, self.wanted.rewrites, self.wanted.contexts],
            "temperature": self.endpoint.temperature,
        }

    def texts(self, instruction: str, frames: int) -> tuple[str, str]:
        """The system and the user text for an episode with that many images."""
        return self.prompt.filled(
            {
                # One line, so that it cannot begin a part of the prompt.
                "instruction": one_line(instruction, LONGEST_INSTRUCTION),
                "frames": str(frames),
                "questions": str(self.wanted.questions),
                "rewrites": str(self.wanted.rewrites),
                "contexts": str(self.wanted.contexts),
            }
        )


def why_not(episode: EpisodeMeta) -> str:
    """Why an episode cannot be annotated; "" where it can."""
    if len(episode.tasks) > 1:
        return f"it has {len(episode.tasks)} instructions, not one"
    return "" if episode.instruction.strip() else "it has no instruction"


def annotate_episodes(
    episodes: Sequence[EpisodeMeta],
    source: AnnotationSource,
    annotator: Annotator,
    records: Records,
    concurrency: int = 4,
    on_episode: Callable[[int, str], None] | None = None,
) -> AskSummary:
    """Asks about each episode; a record is on disk before the next episode is begun.

    See ask_all() for the other arguments.
    """
    queries = [_query(episode, source, annotator, records) for episode in episodes]
    return ask_all(queries, annotator.endpoint, REPLY_SCHEMA, concurrency, on_episode)


def _query(
    episode: EpisodeMeta, source: AnnotationSource, annotator: Annotator, records: Records
) -> Query[Annotation]:
    def keep(annotation: Annotation, usage: dict[str, int]) -> None:
        made_by = annotator.source(source.camera)
        records.add(
            Record(
                episode.index,
                episode.instruction,
                source.digest(episode),
                entries_of(annotation),
                made_by,
                made_digest(made_by),
                usage,
            )
        )

    return Query(
        episode.index,
        lambda: episode_messages(source, annotator, episode),
        lambda text: read_reply(text, episode.instruction, annotator.wanted),
        keep,
    )


def sample_request(
    source: AnnotationSource, annotator: Annotator, episode: EpisodeMeta
) -> tuple[tuple[str, str], list[tuple[int, int]]]:
    """The texts of a request and the sizes of its images (width, height) [px], to estimate from."""
    indices = source.shown_frames(episode, annotator.frames)
    texts = annotator.texts(episode.instruction, len(indices))
    try:
        frames = source.frames(episode, indices, annotator.image_size)
    except DatasetError:
        # Annotating this episode reports the failure.
        return texts, [(annotator.image_size, annotator.image_size)] * len(indices)
    return texts, [(frame.width, frame.height) for frame in frames]


def episode_messages(
    source: AnnotationSource, annotator: Annotator, episode: EpisodeMeta
) -> list[dict[str, Any]]:
    """What a model is asked about an episode: the prompt, and its frames."""
    indices = source.shown_frames(episode, annotator.frames)
    frames = source.frames(episode, indices, annotator.image_size)
    system, user = annotator.texts(episode.instruction, len(frames))
    return [
        {"role": "system", "content": system},
        user_message(*(frame.jpeg for frame in frames), user),
    ]
