"""The node `action_expert`: from the newest observation and latent action to a chunk of actions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from vla_ros.msg import ActionChunk, Instruction, LatentAction

from vla.control.committed import CommittedActions, committed_actions
from vla.control.delay import DelayEstimate
from vla.core.clock import CLOCK_TOLERANCE, from_future
from vla.core.shown import brief
from vla.observations.messages import raw_pose
from vla.policies.runtimes import RUNTIMES
from vla_nodes.core import qos
from vla_nodes.core.chunk_message import chunk_from_message, message_from_actions
from vla_nodes.core.diagnostics import WARN
from vla_nodes.core.latest import Latest
from vla_nodes.core.liveliness import lease_of, with_liveliness
from vla_nodes.core.running import run
from vla_nodes.core.settings import Setting
from vla_nodes.models.model_node import ModelNode
from vla_nodes.models.scene import Scene
from vla_nodes.models.server import connected, require_packages
from vla_nodes.models.settings import MODEL_SETTINGS

if TYPE_CHECKING:
    from vla.policies.parts import ActionPart, NoActionPart
    from vla.serving.remote import RemoteAction

WARM_UP_RUNS = 3
# Delay of a chunk before any was measured [s].
INITIAL_DELAY = 0.2


class UnusableLatent(ValueError):
    """A latent action that must not be used. reason: the word that diagnostics count it by."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


class ActionExpertNode(ModelNode["ActionPart | NoActionPart | RemoteAction"]):
    """Newest observation and latent action in; action chunks out."""

    TASK = "action chunks"
    SETTINGS = (
        *MODEL_SETTINGS,
        Setting(
            "runtime",
            "auto",
            "What computes chunks on the CPU. openvino: OpenVINO, from an export that is made once "
            "and kept beside the checkpoint; where it can't be, eager, and a warning says why. "
            "openvino_bf16: the same in bfloat16, where the processor has it: faster, less exact. "
            "auto: openvino where the export is there already, else eager.",
            choices=RUNTIMES,
        ),
        Setting(
            "max_latent_age",
            2.0,
            "Oldest observation whose latent action is still used [s].",
            bounds=(0.01, 60.0),
            live=True,
        ),
        Setting(
            "seed",
            -1,
            "Seed of the noise that each chunk starts from; -1: another one each time.",
            bounds=(-1, 2**31 - 1),
            live=True,
        ),
        Setting(
            "real_time_chunking",
            False,
            "Have each chunk go on from the one in execution; for the controller's execution mode "
            "'real_time'. Costs the gradient of the expert in each integration step.",
            live=True,
        ),
        Setting(
            "execution_lookahead",
            0.15,
            "How far ahead of now the controller reads a chunk, the time on the wire included [s]: "
            "3 / tracking_bandwidth + lookahead of the controller, and a little.",
            bounds=(0.0, 2.0),
            live=True,
        ),
        Setting(
            "soft_steps",
            4,
            "Steps after the committed ones that a chunk is still drawn to the one before: more "
            "make a steadier arm that reacts later.",
            bounds=(0, 1000),
            live=True,
        ),
        Setting(
            "max_guidance",
            2.0,
            "Bound of the weight by which a chunk is drawn to the one before; the paper has 5.",
            bounds=(0.0, 100.0),
            live=True,
        ),
    )

    def __init__(self) -> None:
        super().__init__("action_expert")
        self._latent: Latest[LatentAction] = Latest()
        self._done = (0, 0)
        # The chunk that went out last, for real-time chunking, and how long after its observation
        # [s]; and how long chunks take.
        self._before: ActionChunk | None = None
        self._before_late = 0.0
        self._delay = DelayEstimate(INITIAL_DELAY)

    def load(
        self, checkpoint: Path, device: str, adapter: str, dtype: str, compile: str
    ) -> ActionPart | NoActionPart:
        """The checkpoint's second part; where it has none, what stands for it."""
        from vla.policies.parts import open_action_part

        return open_action_part(checkpoint, device, adapter, dtype, compile)

    def connect(self) -> RemoteAction:
        """The served policy's second part."""
        require_packages()
        from vla.serving.remote import RemoteAction

        return connected(self, RemoteAction)

    @property
    def has_work(self) -> bool:
        """Whether the policy has a second part."""
        return self.model.features.latent_shape is not None

    def configure(self) -> None:
        """Loads the model, subscribes to latent actions, opens the output."""
        super().configure()
        shape = self.model.features.latent_shape
        if shape is None:
            return
        self._latent_shape = shape
        self._expert = cast("ActionPart | RemoteAction", self.model)
        self.cleanups.callback(delattr, self, "_expert")
        self.read("vla/latent_action", LatentAction, "latent actions", self._on_latent, qos.RESULT)
        self._chunks = self.create_lifecycle_publisher(
            ActionChunk, "vla/action_chunk", with_liveliness(qos.RESULT, lease_of(self))
        )

    def infer(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Computes one chunk from nothing."""
        latent = np.zeros(self._latent_shape, dtype=np.float32)
        self._expert.action_chunk(images, state, latent, seed=0)

    def warm_up(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Exports the model where another runtime is to compute it, and runs it on nothing."""
        self._expert.exports_guided = self.settings["real_time_chunking"]
        self._expert.use_runtime(self.settings["runtime"])
        self.show_checkpoint()
        for _ in range(WARM_UP_RUNS):
            self.infer(images, state)

    def show_checkpoint(self) -> None:
        """Tells the diagnostics which weights are in the model now, and what computes them."""
        super().show_checkpoint()
        if self.has_work:
            expert = cast("ActionPart | RemoteAction", self.model)
            self.diagnostics.values["runtime"] = expert.runtime
            if expert.runtime_problem:
                self.get_logger().warning(expert.runtime_problem)

    def activate(self) -> None:
        """Forgets earlier latent actions, warms up, starts to work."""
        self._latent.clear()
        self._done = (0, 0)
        self._before, self._delay = None, DelayEstimate(INITIAL_DELAY)
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
        """Drops the latent action, and the chunk to go on from."""
        self._latent.clear()
        self._before = None

    def _act(self, scene: Scene, latent_message: LatentAction, latent: np.ndarray) -> None:
        seed = self.settings["seed"]
        latent_age = self.age_of(latent_message.header.stamp)
        before = self._committed_actions(scene)
        started = time.perf_counter()
        actions = self._expert.action_chunk(
            scene.images,
            scene.state,
            latent,
            None if seed < 0 else seed,
            before,
            self.settings["max_guidance"],
        )
        seconds = time.perf_counter() - started
        self._done = (latent_message.instruction_id, scene.stamp)
        if not np.isfinite(actions).all():
            self.diagnostics.report(
                "non_finite", "the action chunk holds NaN or infinity and was not published"
            )
            return
        message = message_from_actions(
            actions,
            self.contract,
            self.model.checkpoint_id,
            latent_message.instruction_id,
            scene.message,
            latent_message.header.stamp,
        )
        message.inference_time = seconds
        message.committed_steps = before.committed if before is not None else 0
        if self.publish(self._chunks, message):
            stamp, now = scene.stamp * 1e-9, self.get_clock().now().nanoseconds * 1e-9
            self._before, self._before_late = message, max(now - stamp, 0.0)
            self._delay.note(stamp, now)
            self.diagnostics.values["delay_ms"] = f"{1e3 * self._delay.seconds:.0f}"
            self.note_output(scene, seconds)
            self.diagnostics.input_age("latent", latent_age)

    def _committed_actions(self, scene: Scene) -> CommittedActions | None:
        """What the arm does until this scene's chunk is there; None to plan from nothing."""
        # Another thread may drop it meanwhile.
        before = self._before
        if before is None or not self.settings["real_time_chunking"]:
            return None
        if (before.instruction_id, before.checkpoint_id) != (
            self.instruction.instruction_id,
            self.model.checkpoint_id,
        ):
            return None
        chunk = chunk_from_message(before, self.contract)
        return committed_actions(
            chunk,
            scene.stamp * 1e-9,
            *raw_pose(scene.message.end_effector_pose),
            self._delay.seconds + self.settings["execution_lookahead"],
            self.settings["soft_steps"],
            self._before_late,
        )

    def _check_latent(self, message: LatentAction) -> np.ndarray:
        """The latent action [queries, width]; raises UnusableLatent."""
        if message.checkpoint_id != self.model.checkpoint_id:
            raise UnusableLatent(
                "other_checkpoint",
                f"latent actions come from checkpoint {brief(message.checkpoint_id)}, this node "
                f"has {self.model.checkpoint_id}: give reasoning and action_expert the same one",
            )
        shape = (message.num_queries, message.hidden_size)
        expected = self._latent_shape
        if shape != expected or len(message.data) != shape[0] * shape[1]:
            raise UnusableLatent(
                "latent_shape",
                f"the latent action is {shape[0]} x {shape[1]} with {len(message.data)} values, "
                f"the checkpoint's is {' x '.join(map(str, expected))}",
            )
        latent = np.array(message.data, dtype=np.float32).reshape(shape)
        if not np.isfinite(latent).all():
            raise UnusableLatent("bad_latent", "the latent action holds NaN or infinity")
        age, limit = self.age_of(message.header.stamp), self.settings["max_latent_age"]
        if age < -CLOCK_TOLERANCE:
            raise UnusableLatent(
                "future_latent", f"the newest latent action is {from_future(-age)}"
            )
        if age > limit:
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
    return run(ActionExpertNode)
