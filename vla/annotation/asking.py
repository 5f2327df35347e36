"""Asks a model about episodes, some at once, until each reply can be used, and keeps each one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vla.annotation.endpoint import Endpoint, EndpointConfig, EndpointError, user_message
from vla.annotation.schema import ReplyError
from vla.datasets.frames import DatasetError

T = TypeVar("T")

# A server that is gone must not be asked for every episode of a large data set.
GIVE_UP_AFTER = 10
_QUOTED_REPLY = 4000


@dataclass(frozen=True)
class Query(Generic[T]):
    """What is asked about one episode."""

    episode: int
    # The conversation, made when it is sent: it holds images. Raises DatasetError.
    messages: Callable[[], list[dict[str, Any]]]
    read: Callable[[str], T]  # a reply; raises ReplyError for one that can't be used
    keep: Callable[[T, dict[str, int]], None]  # stores what was read, and the tokens that it took


@dataclass
class AskSummary:
    """What a run did."""

    finished: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)  # why, by episode
    input_tokens: int = 0
    output_tokens: int = 0
    stopped: str = ""  # why it ended early, "" where it did not


def ask_all(
    queries: Sequence[Query[T]],
    config: EndpointConfig,
    schema: Mapping[str, Any],
    concurrency: int = 4,
    on_episode: Callable[[int, str], None] | None = None,
) -> AskSummary:
    """Asks all queries; what was read of one is kept before the next is begun.

    schema: of the replies. concurrency: requests at once. on_episode(index, error) is called after
    each, error "" where it went well. An interrupt ends the requests under way and is raised again.
    """
    outcome = AskSummary()
    work = _Work(config, schema, outcome, on_episode)
    asyncio.run(work.all(queries, max(1, concurrency)))
    return outcome


class _Work:
    """One run."""

    def __init__(
        self,
        config: EndpointConfig,
        schema: Mapping[str, Any],
        outcome: AskSummary,
        on_episode: Callable[[int, str], None] | None,
    ):
        self.config, self.schema = config, schema
        self.outcome, self.on_episode = outcome, on_episode
        self._failures_in_a_row = 0

    async def all(self, queries: Sequence[Query], concurrency: int) -> None:
        waiting = iter(queries)
        endpoint = Endpoint(self.config, concurrency, self.schema)
        try:
            # Every worker reads the frames of one episode at a time, so memory stays bounded too.
            await asyncio.gather(
                *(self._worker(endpoint, waiting) for _ in range(min(concurrency, len(queries))))
            )
        finally:
            await endpoint.close()

    async def _worker(self, endpoint: Endpoint, waiting: Iterable[Query]) -> None:
        for query in waiting:
            if self.outcome.stopped:
                return
            error = ""
            try:
                await self._ask(endpoint, query)
                self.outcome.finished.append(query.episode)
                self._failures_in_a_row = 0
            except (EndpointError, ReplyError, DatasetError) as problem:
                error = str(problem)
                self.outcome.failed[query.episode] = error
                self._failures_in_a_row += 1
                if isinstance(problem, EndpointError) and problem.hopeless:
                    self.outcome.stopped = error
                elif self._failures_in_a_row >= GIVE_UP_AFTER:
                    self.outcome.stopped = f"{GIVE_UP_AFTER} episodes in a row failed"
            if self.on_episode is not None:
                self.on_episode(query.episode, error)

    async def _ask(self, endpoint: Endpoint, query: Query) -> None:
        """Asks until a reply can be used; its tokens are those of all attempts."""
        messages, attempts = query.messages(), self.config.attempts
        usage = {"input_tokens": 0, "output_tokens": 0, "requests": 0}
        for attempt in range(1, attempts + 1):
            completion = await endpoint.complete(messages, attempts)
            usage["requests"] += 1
            usage["input_tokens"] += completion.input_tokens
            usage["output_tokens"] += completion.output_tokens
            self.outcome.input_tokens += completion.input_tokens
            self.outcome.output_tokens += completion.output_tokens
            try:
                if completion.cut_off:
                    raise ReplyError("it was cut off at the largest number of tokens: be brief")
                value = query.read(completion.text)
            except ReplyError as problem:
                if attempt == attempts:
                    raise ReplyError(
                        f"{attempts} replies were unusable, the last: {problem}"
                    ) from problem
                # Only the last reply is shown again: all of them would cost more with each one.
                messages = [
                    *messages[:2],
                    {"role": "assistant", "content": completion.text[:_QUOTED_REPLY]},
                    user_message(
                        f"Your reply cannot be used: {problem}. Reply again with the whole JSON "
                        "object, corrected."
                    ),
                ]
            else:
                query.keep(value, usage)
                return
        raise AssertionError("at least one attempt is needed")
