"""The thread that runs the model for all robots, in batches."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from vla.core.text import one_line
from vla.serving.policy import Answer, RobotSession, ServedPolicy, group
from vla.serving.requests import ASK, Request, RequestError
from vla.serving.scheduling import WINDOW, Waiting, choose, overload

REPLACED = "replaced by a newer request of this robot before its turn came"
GONE = "the server ends"
# Of the duration of a batch: how much the last one counts in the mean.
NEWEST_SHARE = 0.2
MOST_QUESTIONS = 8  # that wait; each takes as long as the model needs for its text

Reply = Callable[[Answer | RequestError], None]


@dataclass(frozen=True, eq=False)
class Job:
    """A request that waits for the model."""

    session: RobotSession
    request: Request
    waiting: Waiting
    reply: Reply  # called once, in the model's thread or in that of who replaces it


class Engine:
    """Takes the newest request of each robot, and answers it."""

    def __init__(self, policy: ServedPolicy, longest_wait: float = 1.0, window: float = WINDOW):
        """longest_wait: until an answer, beyond which further requests are refused [s].

        window: how long a request waits for others to join it [s].
        """
        self.policy, self.longest_wait, self.window = policy, longest_wait, window
        self.batches: Counter[int] = Counter()  # how many there were of each size
        self._jobs: list[Job] = []
        self._asked: dict[RobotSession, Hashable] = {}  # what each robot asked for last
        self._seconds = 0.0  # that a batch takes
        self._number = 0
        self._is_open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, session: RobotSession, request: Request, reply: Reply) -> None:
        """Has the request answered; one of the same kind that still waits is answered by REPLACED.

        Raises RequestError where there are too many requests before it.
        """
        with self._changed:
            if not self._is_open:
                raise RequestError(GONE)
            old = [
                job for job in self._jobs
                if job.session is session and job.request.kind == request.kind
            ]  # fmt: skip
            kept = [job for job in self._jobs if job not in old]
            asked = sum(job.request.kind == ASK for job in kept)
            if request.kind == ASK and asked >= MOST_QUESTIONS:
                raise RequestError(f"overloaded: {asked} questions wait already; ask again later")
            if why := overload(len(kept), self._seconds, self.longest_wait):
                raise RequestError(why)
            self._number += 1
            waiting = Waiting(group(request, self._number), time.monotonic())
            self._asked[session] = waiting.group
            self._jobs = [*kept, Job(session, request, waiting, reply)]
            self._changed.notify()
        for job in old:
            job.reply(RequestError(REPLACED))

    def forget(self, session: RobotSession) -> None:
        """A robot has gone: what it asked for is computed no more."""
        with self._changed:
            self._asked.pop(session, None)
            self._jobs = [job for job in self._jobs if job.session is not session]
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the batch in work, and refuses what waits."""
        with self._changed:
            self._is_open = False
            jobs, self._jobs = self._jobs, []
            self._changed.notify()
        self._thread.join()
        for job in jobs:
            job.reply(RequestError(GONE))

    def _work(self) -> None:
        while batch := self._next_batch():
            started = time.perf_counter()
            self.batches[len(batch)] += 1
            ready = [job for job in batch if self._is_prepared(job)]
            if ready:
                self._answer(ready)
            taken = time.perf_counter() - started
            share = NEWEST_SHARE if self._seconds else 1.0
            self._seconds += share * (taken - self._seconds)

    def _next_batch(self) -> list[Job]:
        """The jobs to run now; [] at the end."""
        with self._changed:
            while self._is_open:
                choice = choose(
                    [job.waiting for job in self._jobs],
                    Counter(self._asked.values()),
                    time.monotonic(),
                    self.window,
                )
                if choice.batch:
                    taken = [self._jobs[index] for index in choice.batch]
                    self._jobs = [job for job in self._jobs if job not in taken]
                    return taken
                self._changed.wait(choice.pause)
            return []

    def _is_prepared(self, job: Job) -> bool:
        try:
            job.session.prepare(job.request)
        except RequestError as error:
            job.reply(error)
            return False
        return True

    def _answer(self, jobs: list[Job]) -> None:
        started, monotonic = time.perf_counter(), time.monotonic()
        try:
            answers = self.policy.run([job.session for job in jobs], [job.request for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                if not isinstance(error, ValueError):
                    traceback.print_exc()
                jobs[0].reply(RequestError(f"the model failed: {one_line(error)}"))
                return
            # One robot's request must not cost the others their answers.
            for job in jobs:
                self._answer([job])
            return
        seconds = time.perf_counter() - started
        for job, answer in zip(jobs, answers, strict=True):
            if not all(
                np.isfinite(own).all() for own in answer.values() if isinstance(own, np.ndarray)
            ):
                job.reply(RequestError("the model failed: its answer holds NaN or infinity"))
                continue
            answer["checkpoint_id"] = job.session.reasoning.checkpoint_id
            answer["server_timing"] = {
                "infer_ms": 1e3 * seconds,
                "wait_ms": 1e3 * (monotonic - job.waiting.since),
                "batch": len(jobs),
            }
            job.reply(answer)
