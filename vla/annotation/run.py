"""Annotates the episodes of a data set one after the other, some at once, and keeps each one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from vla.annotation.endpoint import (
    Completion,
    Endpoint,
    EndpointConfig,
    EndpointError,
    user_message,
)
from vla.annotation.prompts import Prompt
from vla.annotation.records import Record, Records, entries_of, made_digest
from vla.annotation.replies import PairCounts, ReplyError, read_reply
from vla.annotation.source import AnnotationSource
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.meta import EpisodeMeta
from vla.datasets.sample import Annotation

# A server that is gone must not be asked for every episode of a large data set.
GIVE_UP_AFTER = 10
_QUOTED_REPLY = 4000


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


@dataclass
class Plan:
    """What of a data set is to be done."""

    # Never annotated, or another episode had this number.
    missing: list[EpisodeMeta] = field(default_factory=list)
    # What differs in how it was annotated, by episode.
    changed: dict[int, list[str]] = field(default_factory=dict)
    finished: int = 0  # episodes that need nothing
    left_out: dict[int, str] = field(default_factory=dict)  # why it cannot be annotated, by episode


@dataclass
class AnnotationSummary:
    """What a run did."""

    finished: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)  # why, by episode
    input_tokens: int = 0
    output_tokens: int = 0
    stopped: str = ""  # why it ended early, "" where it did not


def plan(
    episodes: Iterable[EpisodeMeta],
    digest: Callable[[EpisodeMeta], str],
    source_of: Callable[[EpisodeMeta], dict[str, Any]],
    records: dict[int, Record],
) -> Plan:
    """Compares episodes with what is already there."""
    result = Plan()
    for episode in episodes:
        record = records.get(episode.index)
        if len(episode.tasks) > 1:
            result.left_out[episode.index] = f"it has {len(episode.tasks)} instructions, not one"
        elif not episode.instruction.strip():
            result.left_out[episode.index] = "it has no instruction"
        elif record is None or record.data != digest(episode):
            result.missing.append(episode)
        elif record.made != made_digest(source := source_of(episode)):
            known = {**record.source, **source}
            result.changed[episode.index] = [
                name for name in known if record.source.get(name) != source.get(name)
            ]
        else:
            result.finished += 1
    return result


def annotate_episodes(
    episodes: list[EpisodeMeta],
    source: AnnotationSource,
    annotator: Annotator,
    records: Records,
    concurrency: int = 4,
    on_episode: Callable[[int, str], None] | None = None,
) -> AnnotationSummary:
    """Asks about each episode; a record is on disk before the next episode is begun.

    concurrency: requests at once. on_episode(index, error) is called after each, error "" where it
    went well. An interrupt ends the requests under way and is raised again.
    """
    outcome = AnnotationSummary()
    work = _Work(source, annotator, records, outcome, on_episode)
    asyncio.run(work.all(episodes, max(1, concurrency)))
    return outcome


class _Work:
    """One run."""

    def __init__(
        self,
        source: AnnotationSource,
        annotator: Annotator,
        records: Records,
        outcome: AnnotationSummary,
        on_episode: Callable[[int, str], None] | None,
    ):
        self.source, self.annotator, self.records = source, annotator, records
        self.outcome, self.on_episode = outcome, on_episode
        self._failures_in_a_row = 0

    async def all(self, episodes: list[EpisodeMeta], concurrency: int) -> None:
        waiting = iter(episodes)
        endpoint = Endpoint(self.annotator.endpoint, concurrency)
        try:
            # Every worker reads the frames of one episode at a time, so memory stays bounded too.
            await asyncio.gather(
                *(self._worker(endpoint, waiting) for _ in range(min(concurrency, len(episodes))))
            )
        finally:
            await endpoint.close()

    async def _worker(self, endpoint: Endpoint, waiting: Iterable[EpisodeMeta]) -> None:
        for episode in waiting:
            if self.outcome.stopped:
                return
            error = ""
            try:
                annotation, usage = await self._ask(endpoint, episode)
                self._keep(episode, annotation, usage)
                self._failures_in_a_row = 0
            except (EndpointError, ReplyError, DatasetError) as problem:
                error = str(problem)
                self.outcome.failed[episode.index] = error
                self._failures_in_a_row += 1
                if isinstance(problem, EndpointError) and problem.hopeless:
                    self.outcome.stopped = error
                elif self._failures_in_a_row >= GIVE_UP_AFTER:
                    self.outcome.stopped = f"{GIVE_UP_AFTER} episodes in a row failed"
            if self.on_episode is not None:
                self.on_episode(episode.index, error)

    def _keep(self, episode: EpisodeMeta, annotation: Annotation, usage: dict[str, int]) -> None:
        source = self.annotator.source(self.source.camera)
        self.records.add(
            Record(
                episode.index,
                episode.instruction,
                self.source.digest(episode),
                entries_of(annotation),
                source,
                made_digest(source),
                usage,
            )
        )
        self.outcome.finished.append(episode.index)

    async def _ask(
        self, endpoint: Endpoint, episode: EpisodeMeta
    ) -> tuple[Annotation, dict[str, int]]:
        """The annotation of an episode and the tokens that it took, unusable replies included."""
        messages = episode_messages(self.source, self.annotator, episode)
        attempts = self.annotator.endpoint.attempts
        usage = {"input_tokens": 0, "output_tokens": 0, "requests": 0}
        for attempt in range(1, attempts + 1):
            completion = await endpoint.complete(messages, attempts)
            usage["requests"] += 1
            usage["input_tokens"] += completion.input_tokens
            usage["output_tokens"] += completion.output_tokens
            self.outcome.input_tokens += completion.input_tokens
            self.outcome.output_tokens += completion.output_tokens
            try:
                return _read(completion, episode, self.annotator.wanted), usage
            except ReplyError as problem:
                if attempt == attempts:
                    raise ReplyError(
                        f"{attempts} replies were unusable, the last: {problem}"
                    ) from (problem)
                # Only the last reply is shown again: all of them would cost more with each one.
                messages = [
                    *messages[:2],
                    {"role": "assistant", "content": completion.text[:_QUOTED_REPLY]},
                    user_message(
                        f"Your reply cannot be used: {problem}. Reply again with the whole JSON "
                        "object, corrected."
                    ),
                ]
        raise AssertionError("at least one attempt is needed")


def _read(completion: Completion, episode: EpisodeMeta, wanted: PairCounts) -> Annotation:
    if completion.cut_off:
        raise ReplyError("it was cut off at the largest number of tokens: be brief")
    return read_reply(completion.text, episode.instruction, wanted)


def sample_request(
    source: AnnotationSource, annotator: Annotator, episode: EpisodeMeta
) -> tuple[tuple[str, str], list[tuple[int, int]]]:
    """The texts of a request and the sizes of its images (width, height) [px], to estimate from."""
    indices = source.shown_frames(episode, annotator.frames)
    texts = annotator.prompt.messages(episode.instruction, len(indices), annotator.wanted)
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
    system, user = annotator.prompt.messages(episode.instruction, len(frames), annotator.wanted)
    return [
        {"role": "system", "content": system},
        user_message(user, [frame.jpeg for frame in frames]),
    ]
