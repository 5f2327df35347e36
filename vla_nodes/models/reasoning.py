"""The node `reasoning`: the vision-language model, from what is seen to text and latent actions.

Of a policy of one part it runs the whole, and publishes action chunks instead of latent actions.
"""

from __future__ import annotations

import array
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from vla_ros.msg import ActionChunk, Instruction, LatentAction, Response
from vla_ros.srv import Ask

from vla.core.clock import CLOCK_TOLERANCE
from vla.observations.messages import stamp_to_nanoseconds
from vla_nodes.core import qos
from vla_nodes.core.chunk_message import message_from_actions
from vla_nodes.core.liveliness import lease_of, with_liveliness
from vla_nodes.core.running import run
from vla_nodes.core.settings import Setting
from vla_nodes.models.ask_service import NO_ANSWERS, AskService
from vla_nodes.models.model_node import ModelNode
from vla_nodes.models.scene import Scene
from vla_nodes.models.server import connected, require_packages
from vla_nodes.models.settings import MODEL_SETTINGS

if TYPE_CHECKING:
    from vla.policies.base import Observation
    from vla.policies.parts import ReasoningPart
    from vla.serving.remote import RemoteReasoning

WARM_UP_RUNS = 2
LOST_PERIOD = 1.0  # between two responses that say that the server is away [s]
WARM_UP_INSTRUCTION = "pick the red block"


class Reasoning(ModelNode["ReasoningPart | RemoteReasoning"]):
    """Newest observation and instruction in; text and latent actions out."""

    TASK = "latent actions"
    SETTINGS = (
        *MODEL_SETTINGS,
        Setting(
            "language_every",
            0,
            "In mode think, latent actions after which the text is made again; 0: never.",
            bounds=(0, 100000),
            live=True,
        ),
        Setting(
            "latent_every",
            1,
            "Of so many observations, one is given a latent action, or a chunk.",
            bounds=(1, 1000),
            live=True,
        ),
    )

    def __init__(self) -> None:
        super().__init__("reasoning")
        self._starts_over = True
        self._answered_id = 0
        self._done = (0, 0)
        self._told_lost_at = -math.inf

    def load(
        self, checkpoint: Path, device: str, adapter: str, dtype: str, compile: str
    ) -> ReasoningPart:
        """The checkpoint's first part."""
        from vla.policies.parts import ReasoningPart

        return ReasoningPart.from_pretrained(checkpoint, device, adapter, dtype, compile)

    def connect(self) -> RemoteReasoning:
        """The served policy's first part."""
        require_packages()
        from vla.serving.remote import RemoteReasoning

        return connected(self, RemoteReasoning)

    def configure(self) -> None:
        """Loads the model and opens the outputs and the ask service."""
        from vla.policies.reasoning_session import ReasoningSession

        super().configure()
        self._session = ReasoningSession(self.model)
        self.cleanups.callback(delattr, self, "_session")
        features = self.model.features
        if features.latent_shape or features.token_shape:
            self._latents = self.create_lifecycle_publisher(
                LatentAction, "vla/latent_action", with_liveliness(qos.RESULT, lease_of(self))
            )
        if features.latent_shape is None:
            self._chunks = self.create_lifecycle_publisher(
                ActionChunk, "vla/action_chunk", with_liveliness(qos.RESULT, lease_of(self))
            )
        self._responses = self.create_lifecycle_publisher(
            Response, "vla/response", with_liveliness(qos.RESPONSE, lease_of(self))
        )
        self._asked = AskService(self, self._ask)

    def warm_up(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Runs every path of the model."""
        from vla.policies.base import Observation

        seen = Observation(images, state)
        for _ in range(WARM_UP_RUNS):
            self.model.act(seen, WARM_UP_INSTRUCTION)
            if self.model.features.thinks:
                text, _ = self.model.think_and_act(seen, WARM_UP_INSTRUCTION)
                self.model.act(seen, WARM_UP_INSTRUCTION, text)
        self.model.reset()

    def infer(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Gives one action, without text."""
        from vla.policies.base import Observation

        self.model.act(Observation(images, state), WARM_UP_INSTRUCTION)
        self.model.reset()

    def activate(self) -> None:
        """Forgets earlier results, warms up, starts to work."""
        self._answered_id, self._done = 0, (0, 0)
        self.flush()
        super().activate()

    def deactivate(self) -> None:
        """Ends the work; questions that still wait are refused."""
        super().deactivate()
        self._asked.refuse_all("reasoning was deactivated")

    def flush(self) -> None:
        """Drops text and latent action: the same instruction starts over if it comes back."""
        # The thread that thinks may be in the middle of it: it sees this before its next step.
        self._starts_over = True

    def work(self) -> None:
        """Answers questions first, since somebody waits; then serves the instruction in force."""
        self._asked.serve()
        instruction = self.instruction
        if instruction.instruction_id == 0:
            return
        if why := self._refusal_of(instruction.mode):
            self.diagnostics.report("no_text", why)
            self._refuse_once(instruction, why)
            return
        if instruction.mode == Instruction.MODE_ASK:
            self._answer_once(instruction)
            return
        scene = self._scene_since(instruction)
        if scene is None or (instruction.instruction_id, scene.stamp) == self._done:
            return
        if self.take_turn():
            self._reason(instruction, scene)
        elif not self._starts_over and instruction.instruction_id == self._done[0]:
            self._session.look(_seen(scene), instruction.instruction, self._thinks(instruction))

    def on_server_lost(self, why: str) -> None:
        """Has the controller hold the arm and say why, once a second until there is an answer."""
        super().on_server_lost(why)
        instruction, now = self.instruction, time.monotonic()
        if instruction.instruction_id == 0 or now < self._told_lost_at + LOST_PERIOD:
            return
        self._told_lost_at = now
        message = Response(
            instruction_id=instruction.instruction_id,
            prompt=instruction.instruction,
            text=why,
            inference_time=math.nan,
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self.publish(self._responses, message)

    def _ask(self, scene: Scene, question: str) -> Ask.Response:
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

    def _thinks(self, instruction: Instruction) -> bool:
        """Whether it is answered first; without a mode, if the policy can.

        Few demonstrations teach an adapter to act, and not to say what it will do.
        """
        if instruction.mode:
            return instruction.mode == Instruction.MODE_THINK
        return self.model.features.thinks and self.model.adapter is None

    def _refusal_of(self, mode: str) -> str:
        """Why the policy can't follow instructions of a mode; empty where it can."""
        features = self.model.features
        if mode == Instruction.MODE_THINK and not features.thinks:
            return "this policy does not say what it will do: send the instruction with mode 'act'"
        if mode == Instruction.MODE_ASK and not features.answers:
            return NO_ANSWERS
        return ""

    def _refuse_once(self, instruction: Instruction, why: str) -> None:
        scene = self.new_scene()
        if scene is None or self._answered_id == instruction.instruction_id:
            return
        self._answered_id = instruction.instruction_id
        words = instruction.instruction
        self.publish(
            self._responses,
            _response(scene, instruction.instruction_id, words, why, math.nan),
        )

    def _answer_once(self, instruction: Instruction) -> None:
        if self._answered_id == instruction.instruction_id:
            return
        scene = self._scene_since(instruction)
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

    def _scene_since(self, instruction: Instruction) -> Scene | None:
        """The newest observation, unless it is older than the instruction.

        Somebody may have set the table just before they said what to do with it. A stamp that is
        still to come, by this node's clock, tells nothing.
        """
        scene = self.new_scene()
        given = instruction.header.stamp
        if scene is None or self.age_of(given) < -CLOCK_TOLERANCE:
            return scene
        return scene if scene.stamp >= stamp_to_nanoseconds(given) else None

    def _reason(self, instruction: Instruction, scene: Scene) -> None:
        from vla.policies.reasoning_session import Refresh

        session, settings = self._session, self.settings
        session.refresh = Refresh(settings["language_every"], settings["latent_every"])
        if self._starts_over or instruction.instruction_id != self._done[0]:
            self._starts_over = False
            session.reset()
        started = time.perf_counter()
        think = self._thinks(instruction)
        output = session.step(_seen(scene), instruction.instruction, think)
        seconds = time.perf_counter() - started
        self._done = (instruction.instruction_id, scene.stamp)
        if output.new_text and output.text is not None:
            self.publish(
                self._responses,
                _response(
                    scene,
                    instruction.instruction_id,
                    instruction.instruction,
                    output.text,
                    seconds,
                    output.refused,
                ),
            )
        if output.new_action and not output.refused:
            self._publish_action(instruction, scene, output.action, seconds)

    def _publish_action(
        self, instruction: Instruction, scene: Scene, action: np.ndarray, seconds: float
    ) -> None:
        one_part = self.model.features.latent_shape is None
        tokens = self.model.learned_tokens if one_part else None
        if not np.isfinite(action).all():
            what = "action chunk" if one_part else "latent action"
            self.diagnostics.report(
                "non_finite", f"the {what} holds NaN or infinity and was not published"
            )
            return
        if not one_part:
            self._publish_latent(instruction, scene, action, seconds)
            return
        # Before the chunk that they are behind, as of a policy of two parts.
        if tokens is not None:
            self._publish_latent(instruction, scene, tokens, seconds)
        message = message_from_actions(
            action,
            self.contract,
            self.model.checkpoint_id,
            instruction.instruction_id,
            scene.message,
        )
        message.inference_time = seconds
        if self.publish(self._chunks, message):
            self.note_output(scene, seconds)

    def _publish_latent(
        self, instruction: Instruction, scene: Scene, latent: np.ndarray, seconds: float
    ) -> None:
        message = LatentAction(
            instruction_id=instruction.instruction_id,
            num_queries=latent.shape[0],
            hidden_size=latent.shape[1],
            data=array.array("f", np.asarray(latent, dtype=np.float32).tobytes()),
            checkpoint_id=self.model.checkpoint_id,
            inference_time=seconds,
        )
        message.header.stamp = scene.message.header.stamp
        if self.publish(self._latents, message) and self.model.features.latent_shape:
            self.note_output(scene, seconds)


def _seen(scene: Scene) -> Observation:
    """What the model sees of a scene."""
    from vla.policies.base import Observation

    return Observation(scene.images, scene.state, scene.stamp * 1e-9)


def _response(
    scene: Scene,
    instruction_id: int,
    prompt: str,
    text: str,
    seconds: float,
    refused: bool = False,
) -> Response:
    message = Response(
        instruction_id=instruction_id,
        prompt=prompt,
        text=text,
        refused=refused,
        inference_time=seconds,
    )
    message.header.stamp = scene.message.header.stamp
    return message


def main() -> int:
    """Runs the node."""
    return run(Reasoning)
