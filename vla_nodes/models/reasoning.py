"""The node `reasoning`: the vision-language model, from what is seen to text and latent actions."""

from __future__ import annotations

import array
import time
from collections import deque
from pathlib import Path

import numpy as np
from rclpy.task import Future
from vla_ros.msg import Instruction, LatentAction, Response
from vla_ros.srv import Ask

from vla.control.session import LONGEST_INSTRUCTION
from vla.core.text import TextError, check_text, one_line
from vla_nodes.core import qos
from vla_nodes.core.liveliness import promising
from vla_nodes.core.node import run
from vla_nodes.core.requests import Paced
from vla_nodes.core.settings import Setting
from vla_nodes.models.model_node import MODEL_SETTINGS, ModelNode
from vla_nodes.models.scene import Scene

WARM_UP_RUNS = 2
# Questions that may wait; each takes as long as the model needs for an answer.
MOST_QUESTIONS = 8
WARM_UP_INSTRUCTION = "pick the red block"


class Reasoning(ModelNode):
    """Newest observation and instruction in; text and latent actions out."""

    SETTINGS = (
        *MODEL_SETTINGS,
        Setting(
            "language_every",
            20,
            "In mode think, latent actions after which the text is thought anew; 0: never.",
            minimum=0,
            maximum=100000,
            live=True,
        ),
        Setting(
            "latent_every",
            1,
            "Of so many observations, one is given a latent action.",
            minimum=1,
            maximum=1000,
            live=True,
        ),
    )

    def __init__(self) -> None:
        super().__init__("reasoning")
        self._questions: deque[tuple[str, Future]] = deque()
        self._session = None
        self._begin_anew = True
        self._answered_id = 0
        self._done = (0, 0)

    def load(self, checkpoint: Path, device: str, adapter: str):
        """The reasoning half of the checkpoint."""
        from vla.policies.instructvla.inference import Reasoner
        from vla.policies.instructvla.threads import ReasoningSession

        reasoner = Reasoner.from_pretrained(checkpoint, device=device, adapter=adapter)
        self._session = ReasoningSession(reasoner)
        return reasoner

    def configure(self) -> None:
        """Loads the model and opens the outputs and the ask service."""
        super().configure()
        self._latents = self.create_lifecycle_publisher(
            LatentAction, "vla/latent_action", promising(qos.RESULT)
        )
        self._responses = self.create_lifecycle_publisher(Response, "vla/response", qos.RESPONSE)
        # The model may leave callers on the same machine little time to look for their answers.
        pace = Paced(self.pacer, burst=2, rate=50.0)
        self.create_service(Ask, "vla/ask", self._on_ask, callback_group=pace)

    def warm_up(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Runs every path of the model."""
        for _ in range(WARM_UP_RUNS):
            text, _ = self.model.think_and_act(images, WARM_UP_INSTRUCTION)
            self.model.latent_action(images, WARM_UP_INSTRUCTION)
            self.model.latent_action(images, WARM_UP_INSTRUCTION, response=text)

    def activate(self) -> None:
        """Forgets earlier results, warms up, starts to work."""
        self._answered_id, self._done = 0, (0, 0)
        self.flush()
        super().activate()

    def deactivate(self) -> None:
        """Ends the work; questions that still wait are refused."""
        super().deactivate()
        while self._questions:
            self._answer(self._questions.popleft()[1], _refusal("reasoning was deactivated"))

    def flush(self) -> None:
        """Drops text and latent action: the same instruction begins anew if it comes back."""
        # The thread that thinks may be in the middle of it: it sees this before its next step.
        self._begin_anew = True

    async def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        try:
            question = check_text(request.question, "question", LONGEST_INSTRUCTION)
        except TextError as error:
            return _refusal(str(error))
        if not question:
            return _refusal("the question is empty: ask, for example, 'what is on the table?'")
        if not self.is_active:
            return _refusal("reasoning is inactive: activate the node first")
        if len(self._questions) >= MOST_QUESTIONS:
            return _refusal(f"busy: {MOST_QUESTIONS} questions wait already, ask again later")
        future = Future(executor=self.executor)
        self._questions.append((question, future))
        self.wake()
        return await future

    def _answer(self, future: Future, response: Ask.Response) -> None:
        future.set_result(response)
        # The waiting callback goes on in the executor, which may be asleep.
        self.executor.wake()

    def work(self) -> None:
        """Answers questions first, since a person waits; then serves the instruction in force."""
        while self._questions:
            question, future = self._questions.popleft()
            try:
                self._answer(future, self._ask(question))
            except Exception as error:
                self._answer(future, _refusal(f"the model failed: {one_line(error)}"))
                raise
        instruction = self.instruction
        if instruction.instruction_id == 0:
            return
        if instruction.mode == Instruction.MODE_ASK:
            self._answer_once(instruction)
            return
        scene = self.new_scene()
        if scene is None or (instruction.instruction_id, scene.stamp) == self._done:
            return
        if self.take_turn():
            self._reason(instruction, scene)

    def _ask(self, question: str) -> Ask.Response:
        scene = self.new_scene()
        if scene is None:
            return _refusal(
                "nothing has been seen lately: is perception active, and do all cameras send?"
            )
        started = time.perf_counter()
        text = self.model.ask(scene.images, question)
        seconds = time.perf_counter() - started
        message = _response(scene, 0, question, text, seconds)
        if self.is_active:
            self._responses.publish(message)
        return Ask.Response(
            success=True,
            answer=text,
            observation_stamp=scene.message.header.stamp,
            inference_time=seconds,
        )

    def _answer_once(self, instruction: Instruction) -> None:
        if self._answered_id == instruction.instruction_id:
            return
        scene = self.new_scene()
        if scene is None:
            return
        started = time.perf_counter()
        text = self.model.ask(scene.images, instruction.instruction)
        seconds = time.perf_counter() - started
        self._answered_id = instruction.instruction_id
        self.publish(
            self._responses,
            _response(scene, instruction.instruction_id, instruction.instruction, text, seconds),
        )

    def _reason(self, instruction: Instruction, scene: Scene) -> None:
        from vla.policies.instructvla.threads import Refresh

        session, settings = self._session, self.settings
        session.refresh = Refresh(settings["language_every"], settings["latent_every"])
        if self._begin_anew or instruction.instruction_id != self._done[0]:
            self._begin_anew = False
            session.reset()
        started = time.perf_counter()
        think = instruction.mode == Instruction.MODE_THINK
        thought = session.step(scene.images, instruction.instruction, think)
        seconds = time.perf_counter() - started
        self._done = (instruction.instruction_id, scene.stamp)
        if thought.new_text:
            self.publish(
                self._responses,
                _response(
                    scene,
                    instruction.instruction_id,
                    instruction.instruction,
                    thought.text,
                    seconds,
                ),
            )
        if thought.new_latent:
            self._publish_latent(instruction, scene, thought.latent, seconds)

    def _publish_latent(
        self, instruction: Instruction, scene: Scene, latent: np.ndarray, seconds: float
    ) -> None:
        if not np.isfinite(latent).all():
            self.diagnostics.report(
                "non_finite", "the latent action holds NaN or infinity and was not published"
            )
            return
        message = LatentAction(
            instruction_id=instruction.instruction_id,
            num_queries=latent.shape[0],
            hidden_size=latent.shape[1],
            data=array.array("f", np.asarray(latent, dtype=np.float32).tobytes()),
            checkpoint_id=self.model.checkpoint_id,
            inference_time=seconds,
        )
        message.header.stamp = scene.message.header.stamp
        if self.publish(self._latents, message):
            self.note_output(scene, seconds)


def _response(
    scene: Scene, instruction_id: int, prompt: str, text: str, seconds: float
) -> Response:
    message = Response(
        instruction_id=instruction_id, prompt=prompt, text=text, inference_time=seconds
    )
    message.header.stamp = scene.message.header.stamp
    return message


def _refusal(why: str) -> Ask.Response:
    return Ask.Response(success=False, message=why)


def main() -> int:
    """Runs the node."""
    return run(Reasoning)
