"""The service `vla/ask`: questions wait here for the thread that runs the model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.task import Future
from vla_ros.srv import Ask

from vla.control.session import LONGEST_INSTRUCTION
from vla.core.text import TextError, check_text, one_line
from vla_nodes.core.requests import Paced
from vla_nodes.models.scene import Scene

NO_ANSWERS = "this policy gives no text: it has learned from no conversations; ask one that has"
# Questions that may wait; each takes as long as the model needs for an answer.
MOST_QUESTIONS = 8
# Longest wait for an observation that is not older than the question, since simulated time may
# stand still [s].
PATIENCE = 1.0


@dataclass(frozen=True)
class WaitingQuestion:
    """One call of the service."""

    text: str
    asked: int  # by the node's clock [ns]
    until: float  # steady time from which on it is answered by whatever there is [s]
    future: Future  # takes the answer


class AskService:
    """Answers questions about what is seen after they were asked."""

    def __init__(self, node, answer: Callable[[Scene, str], Ask.Response]):
        """Creates the service.

        node: a ModelNode; its worker calls serve(). answer: runs the model.
        """
        self._node, self._answer = node, answer
        self._questions: deque[WaitingQuestion] = deque()
        # The model may leave callers on the same machine little time to look for their answers.
        pace = Paced(node.pacer, burst=2, rate=50.0)
        node.create_service(Ask, "vla/ask", self._on_ask, callback_group=pace)
        node.create_steady_timer(PATIENCE, self._remind)

    async def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        node = self._node
        try:
            text = check_text(request.question, "question", LONGEST_INSTRUCTION)
        except TextError as error:
            return _refusal(str(error))
        if not node.model.features.answers:
            return _refusal(NO_ANSWERS)
        if not text:
            return _refusal("the question is empty: ask, for example, 'what is on the table?'")
        if not node.is_active:
            return _refusal("reasoning is inactive: activate the node first")
        if len(self._questions) >= MOST_QUESTIONS:
            return _refusal(f"busy: {MOST_QUESTIONS} questions wait already, ask again later")
        future = Future(executor=node.executor)
        now, until = node.get_clock().now().nanoseconds, time.monotonic() + PATIENCE
        self._questions.append(WaitingQuestion(text, now, until, future))
        node.wake()
        return await future

    def serve(self) -> None:
        """Answers what can be answered; to be called in the thread that runs the model.

        Raises what the model raises, after the caller was told of it.
        """
        while self._questions:
            question, scene = self._questions[0], self._node.new_scene()
            # Somebody may have laid the table just before they asked.
            older = scene is not None and scene.stamp < question.asked
            if older and time.monotonic() < question.until:
                return
            self._questions.popleft()
            try:
                self._node.answer(question.future, self._response(scene, question.text))
            except Exception as error:
                why = f"the model failed: {one_line(error)}"
                self._node.answer(question.future, _refusal(why))
                raise

    def refuse_all(self, why: str) -> None:
        """Ends the wait of all questions."""
        while self._questions:
            self._node.answer(self._questions.popleft().future, _refusal(why))

    def _response(self, scene: Scene | None, question: str) -> Ask.Response:
        if scene is None:
            return _refusal(
                "nothing has been seen lately: is perception active, and do all cameras send?"
            )
        return self._answer(scene, question)

    def _remind(self) -> None:
        if self._questions:
            self._node.wake()


def _refusal(why: str) -> Ask.Response:
    return Ask.Response(success=False, message=why)
