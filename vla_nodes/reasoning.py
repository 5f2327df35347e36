"""The node `reasoning`: the vision-language model, from what is seen to text and latent actions."""

from __future__ import annotations

import array
import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from vla_ros.msg import Instruction, LatentAction, Response
from vla_ros.srv import Ask

from vla.control.session import InstructionError, check_instruction
from vla_nodes import qos
from vla_nodes.liveliness import promising
from vla_nodes.model_node import MODEL_SETTINGS, ModelNode, Scene
from vla_nodes.node import run
from vla_nodes.settings import Setting

WARM_UP_RUNS = 2
WARM_UP_INSTRUCTION = "pick the red block"


@dataclass(frozen=True)
class Thought:
    """The text that precedes the latent actions of one instruction. time: steady clock [s]."""

    instruction_id: int = 0
    text: str | None = None
    time: float = -math.inf


class Reasoning(ModelNode):
    """Newest observation and instruction in; text and latent actions out."""

    SETTINGS = (
        *MODEL_SETTINGS,
        Setting(
            "think_period",
            0.0,
            "In mode think, time after which the text is computed anew [s]; 0: never.",
            minimum=0.0,
            maximum=3600.0,
            live=True,
        ),
    )

    def __init__(self) -> None:
        super().__init__("reasoning")
        self._questions: deque[tuple[str, Future]] = deque()
        self._thought = Thought()
        self._answered_id = 0
        self._done = (0, 0)

    def load(self, checkpoint: Path, device: str):
        """The reasoning half of the checkpoint."""
        from vla.policy import Reasoner

        return Reasoner.from_pretrained(checkpoint, device=device)

    def configure(self) -> None:
        """Loads the model and opens the outputs and the ask service."""
        super().configure()
        self._latents = self.create_lifecycle_publisher(
            LatentAction, "vla/latent_action", promising(qos.RESULT)
        )
        self._responses = self.create_lifecycle_publisher(Response, "vla/response", qos.RESPONSE)
        self.create_service(Ask, "vla/ask", self._on_ask, callback_group=ReentrantCallbackGroup())

    def warm_up(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Runs every path of the model."""
        for _ in range(WARM_UP_RUNS):
            text = self.model.think(images, WARM_UP_INSTRUCTION)
            self.model.latent_action(images, WARM_UP_INSTRUCTION)
            self.model.latent_action(images, WARM_UP_INSTRUCTION, response=text)

    def activate(self) -> None:
        """Forgets earlier results, warms up, starts to work."""
        self._thought, self._answered_id, self._done = Thought(), 0, (0, 0)
        super().activate()

    def deactivate(self) -> None:
        """Ends the work; questions that still wait are refused."""
        super().deactivate()
        while self._questions:
            self._answer(self._questions.popleft()[1], _refusal("reasoning was deactivated"))

    def flush(self) -> None:
        """Drops the text, so that it is computed anew even if the same instruction comes back."""
        self._thought = Thought()

    async def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        try:
            question, _ = check_instruction(request.question)
        except InstructionError as error:
            return _refusal(str(error).replace("instruction", "question"))
        if not self.is_active:
            return _refusal("reasoning is inactive: activate the node first")
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
                self._answer(future, _refusal(f"the model failed: {error}"))
                raise
        instruction = self.instruction
        if instruction.instruction_id == 0:
            return
        if instruction.mode == Instruction.MODE_ASK:
            self._answer_once(instruction)
            return
        if instruction.mode == Instruction.MODE_THINK and self._is_text_due(instruction):
            self._think(instruction)
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

    def _is_text_due(self, instruction: Instruction) -> bool:
        thought, period = self._thought, self.settings["think_period"]
        if thought.instruction_id != instruction.instruction_id:
            return True
        return period > 0.0 and time.monotonic() - thought.time >= period

    def _think(self, instruction: Instruction) -> None:
        scene = self.new_scene()
        if scene is None:
            return
        started = time.perf_counter()
        text = self.model.think(scene.images, instruction.instruction)
        seconds = time.perf_counter() - started
        self._thought = Thought(instruction.instruction_id, text, time.monotonic())
        self.publish(
            self._responses,
            _response(scene, instruction.instruction_id, instruction.instruction, text, seconds),
        )

    def _reason(self, instruction: Instruction, scene: Scene) -> None:
        response = None
        if instruction.mode == Instruction.MODE_THINK:
            thought = self._thought
            if thought.instruction_id != instruction.instruction_id:
                return
            response = thought.text
        started = time.perf_counter()
        latent = self.model.latent_action(scene.images, instruction.instruction, response=response)
        seconds = time.perf_counter() - started
        self._done = (instruction.instruction_id, scene.stamp)
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
