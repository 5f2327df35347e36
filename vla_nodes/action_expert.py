"""The node `action_expert`: from the newest observation and latent action to a chunk of actions."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from vla_ros.msg import ActionChunk, Instruction, LatentAction

from vla_nodes import qos
from vla_nodes.chunk_message import message_from_actions
from vla_nodes.diagnostics import WARN
from vla_nodes.latest import Latest
from vla_nodes.liveliness import promising
from vla_nodes.model_node import CLOCK_TOLERANCE, MODEL_SETTINGS, ModelNode, Scene
from vla_nodes.node import run
from vla_nodes.settings import Setting

WARM_UP_RUNS = 3


class UnusableLatent(ValueError):
    """A latent action that must not be used. reason: the word that diagnostics count it by."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


class ActionExpert(ModelNode):
    """Newest observation and latent action in; action chunks out."""

    SETTINGS = (
        *MODEL_SETTINGS,
        Setting(
            "max_latent_age",
            2.0,
            "Oldest observation whose latent action is still used [s].",
            minimum=0.01,
            maximum=60.0,
            live=True,
        ),
        Setting(
            "seed",
            -1,
            "Seed of the noise that each chunk starts from; -1: another one each time.",
            minimum=-1,
            maximum=2**31 - 1,
            live=True,
        ),
    )

    def __init__(self) -> None:
        super().__init__("action_expert")
        self._latent: Latest[LatentAction] = Latest()
        self._done = (0, 0)

    def load(self, checkpoint: Path, device: str, adapter: str):
        """The action half of the checkpoint."""
        from vla.policy import ActionModel

        return ActionModel.from_pretrained(checkpoint, device=device, adapter=adapter)

    def configure(self) -> None:
        """Loads the model, subscribes to latent actions, opens the output."""
        super().configure()
        self.create_subscription(LatentAction, "vla/latent_action", self._on_latent, qos.RESULT)
        self._chunks = self.create_lifecycle_publisher(
            ActionChunk, "vla/action_chunk", promising(qos.RESULT)
        )

    def warm_up(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Runs the model on nothing."""
        latent = np.zeros(self.model.latent_shape, dtype=np.float32)
        for _ in range(WARM_UP_RUNS):
            self.model.action_chunk(images, state, latent, seed=0)

    def activate(self) -> None:
        """Forgets earlier latent actions, warms up, starts to work."""
        self._latent.clear()
        self._done = (0, 0)
        super().activate()

    def work(self) -> None:
        """Computes one chunk from the newest observation, if there is a latent action for it."""
        instruction = self.instruction
        if instruction.instruction_id == 0 or instruction.mode == Instruction.MODE_ASK:
            return
        scene = self.new_scene()
        if scene is None or (instruction.instruction_id, scene.stamp) == self._done:
            return
        message = self._latent.get()
        if message is None or message.instruction_id != instruction.instruction_id:
            self.diagnostics.drop("no_latent")
            return
        try:
            latent = self._check_latent(message)
        except UnusableLatent as error:
            level = {"level": WARN} if error.reason == "stale_latent" else {}
            self.diagnostics.report(error.reason, str(error), **level)
            return
        if self.take_turn():
            self._act(scene, message, latent)

    def flush(self) -> None:
        """Drops the latent action."""
        self._latent.clear()

    def _act(self, scene: Scene, latent_message: LatentAction, latent: np.ndarray) -> None:
        seed = self.settings["seed"]
        latent_age = self.age_of(latent_message.header.stamp)
        started = time.perf_counter()
        actions = self.model.action_chunk(
            scene.images, scene.state, latent, seed=None if seed < 0 else seed
        )
        seconds = time.perf_counter() - started
        self._done = (latent_message.instruction_id, scene.stamp)
        if not np.isfinite(actions).all():
            self.diagnostics.report(
                "non_finite", "the action chunk holds NaN or infinity and was not published"
            )
            return
        message = message_from_actions(
            actions, self.contract, self.model.checkpoint_id, scene.message, latent_message
        )
        message.inference_time = seconds
        if self.publish(self._chunks, message):
            self.note_output(scene, seconds)
            self.diagnostics.input_age("latent", latent_age)

    def _check_latent(self, message: LatentAction) -> np.ndarray:
        """The latent action [queries, width]; raises UnusableLatent."""
        if message.checkpoint_id != self.model.checkpoint_id:
            raise UnusableLatent(
                "other_checkpoint",
                f"latent actions come from checkpoint {message.checkpoint_id}, this node has "
                f"{self.model.checkpoint_id}: give reasoning and action_expert the same one",
            )
        shape = (message.num_queries, message.hidden_size)
        if shape != self.model.latent_shape or len(message.data) != shape[0] * shape[1]:
            raise UnusableLatent(
                "latent_shape",
                f"the latent action is {shape[0]} x {shape[1]} with {len(message.data)} values, "
                f"the checkpoint's is {' x '.join(map(str, self.model.latent_shape))}",
            )
        latent = np.array(message.data, dtype=np.float32).reshape(shape)
        if not np.isfinite(latent).all():
            raise UnusableLatent("bad_latent", "the latent action holds NaN or infinity")
        age, limit = self.age_of(message.header.stamp), self.settings["max_latent_age"]
        if not -CLOCK_TOLERANCE <= age <= limit:
            raise UnusableLatent(
                "stale_latent",
                f"the newest latent action is {age:.2f} s old, more than max_latent_age "
                f"({limit:g} s): is reasoning active and fast enough?",
            )
        return latent

    def _on_latent(self, message: LatentAction) -> None:
        self._latent.put(message)
        self.wake()


def main() -> int:
    """Runs the node."""
    return run(ActionExpert)
