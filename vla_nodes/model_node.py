"""What the two model nodes have in common: loading, latest inputs, and work in a thread of its own.

A subclass gives `load`, `warm_up` and `work`. `work` runs in the worker's thread whenever there is
something new; callbacks only store values. What is computed for an instruction is published only
if that instruction is still in force at the end, which `publish` sees to. The worker also puts
adapters into the model, between two computations, and does so while the node is inactive, too.
"""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from vla_ros.msg import Instruction, Observation

from vla.contract import EmbodimentContract, load_contract
from vla.control.session import InstructionError, check_instruction
from vla.data.messages import image_to_array, stamp_to_nanoseconds
from vla.files import brief
from vla.resources import contract_path
from vla_nodes import qos
from vla_nodes.adapter_loader import AdapterLoader
from vla_nodes.conversions import stamp_to_seconds
from vla_nodes.latest import Latest, Worker
from vla_nodes.node import ManagedNode
from vla_nodes.settings import Setting

# Observations from further ahead of our clock than this come from another clock [s].
CLOCK_TOLERANCE = 0.5

MODEL_SETTINGS = (
    Setting(
        "contract",
        "sim_panda",
        "Embodiment contract: path of a YAML file, or name of one in config/contracts.",
    ),
    Setting("checkpoint", "", "Folder of the policy's checkpoint."),
    Setting(
        "adapter",
        "",
        "Folder of an adapter that is loaded with the checkpoint; empty for none.",
    ),
    Setting("device", "cpu", "Where the model runs: cpu, cuda or cuda:N."),
    Setting(
        "threads",
        0,
        "CPU threads of the model; 0: half of the machine's cores, since two models share it.",
        minimum=0,
        maximum=1024,
    ),
    Setting(
        "max_rate",
        0.0,
        "Most results per second [Hz]; 0: as many as the model can.",
        minimum=0.0,
        maximum=1000.0,
        live=True,
    ),
    Setting(
        "max_observation_age",
        0.5,
        "Oldest observation that is still worked on [s].",
        minimum=0.01,
        maximum=60.0,
        live=True,
    ),
)


@dataclass(frozen=True)
class Scene:
    """An observation, checked and unpacked.

    images: uint8 [height, width, 3] by camera name. state [10]: as the contract lists it.
    arrived: when it came in, steady clock [s]. age: of its stamp when it was taken to work [s].
    """

    message: Observation
    images: dict[str, np.ndarray]
    state: np.ndarray
    arrived: float
    age: float

    @property
    def stamp(self) -> int:
        """Of the observation [ns]."""
        return stamp_to_nanoseconds(self.message.header.stamp)


class ModelNode(ManagedNode):
    """A managed node with one model, fed by the newest observation and the latched instruction."""

    def __init__(self, name: str):
        super().__init__(name)
        self.model = None
        self.worker: Worker | None = None
        self._observation: Latest[tuple[Observation, float]] = Latest()
        self._instruction = Instruction()
        self._lock = threading.Lock()
        self._working = False
        self._adapters = AdapterLoader(self)
        self._next_turn = -math.inf
        self.diagnostics.checks.append(self._check_inputs)

    def load(self, checkpoint: Path, device: str, adapter: str):
        """The model of a checkpoint, with the adapter of a folder in it unless that is "".

        Raises ValueError with one sentence when it cannot be used.
        """
        raise NotImplementedError

    def warm_up(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Runs everything once on an empty scene, so that the first real result is not late."""
        raise NotImplementedError

    def work(self) -> None:
        """Does what is due with the newest inputs; runs in the worker's thread."""
        raise NotImplementedError

    def flush(self) -> None:
        """Drops what was kept for the last instruction."""

    def configure(self) -> None:
        """Loads and checks the checkpoint, then joins the graph."""
        self.contract: EmbodimentContract = load_contract(contract_path(self.settings["contract"]))
        self.model = self._load_model()
        self.contract.require_same(
            self.model.contract, own="of this node", theirs="of the checkpoint"
        )
        self.worker = Worker(self.get_name(), lambda _: self._turn(), self._on_work_error)
        self.worker.start()
        self.create_subscription(Observation, "vla/observation", self._on_observation, qos.LATEST)
        self.create_subscription(Instruction, "vla/instruction", self._on_instruction, qos.LATCHED)
        self.show_checkpoint()
        self.diagnostics.values["device"] = self.settings["device"]

    def _load_model(self):
        checkpoint = self.settings["checkpoint"]
        if not checkpoint:
            raise ValueError("parameter 'checkpoint' is empty: give the folder of a checkpoint")
        if not Path(checkpoint).is_dir():
            raise ValueError(f"parameter 'checkpoint': there is no folder '{checkpoint}'")
        # Imported here, so that the node is on the graph before torch is loaded.
        import torch

        torch.set_num_threads(self.settings["threads"] or max(1, _cores() // 2))
        device = self.settings["device"]
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"parameter 'device': '{device}' cannot be used ({str(error).splitlines()[0]}); "
                "use cpu, or a GPU that this installation of torch finds"
            ) from error
        started = time.monotonic()
        model = self.load(Path(checkpoint), device, self.settings["adapter"])
        self.get_logger().info(
            f"loaded checkpoint {model.checkpoint_id} in {time.monotonic() - started:.1f} s"
        )
        return model

    def activate(self) -> None:
        """Warms up, then starts to work."""
        # Whoever warms up runs the model in this thread, so the worker must not change it.
        self.worker.stop()
        started = time.monotonic()
        cameras = self.contract.cameras
        images = {c.name: np.zeros((c.height, c.width, 3), dtype=np.uint8) for c in cameras}
        self.warm_up(images, np.zeros(len(self.contract.state_names)))
        self.get_logger().info(f"warmed up in {time.monotonic() - started:.1f} s")
        self._observation.clear()
        self._next_turn = -math.inf
        self._working = True
        self.worker.start()
        self.wake()

    def deactivate(self) -> None:
        """Ends the work; what is being computed is not published any more."""
        self._working = False
        if self.worker is not None:
            self.worker.stop()
            self.worker.start()
            self.wake()

    def cleanup(self) -> None:
        """Frees the model."""
        if self.worker is not None:
            self.worker.stop()
        self._adapters.close()
        self.worker = None
        self.model = None

    @property
    def instruction(self) -> Instruction:
        """The instruction in force; its id is 0 when there is none."""
        with self._lock:
            return self._instruction

    def publish(self, publisher, message) -> bool:
        """Publishes a result unless its instruction was replaced meanwhile; returns whether."""
        with self._lock:
            if message.instruction_id == self._instruction.instruction_id and self.is_active:
                publisher.publish(message)
                return True
        self.diagnostics.drop("instruction_replaced")
        return False

    def new_scene(self) -> Scene | None:
        """The newest observation, checked; None, and a diagnostic that says why, without one."""
        newest = self._observation.get()
        if newest is None:
            return None
        message, arrived = newest
        age = self.age_of(message.header.stamp)
        limit = self.settings["max_observation_age"]
        if age > limit:
            self.diagnostics.drop("stale_observation")
            return None
        if age < -CLOCK_TOLERANCE:
            self.diagnostics.report(
                "future_observation",
                f"the observation is {-age:.1f} s in the future: do all nodes use the same clock "
                "(use_sim_time)?",
            )
            return None
        try:
            return _unpack(message, self.contract, arrived, age)
        except ValueError as error:
            self.diagnostics.report("bad_observation", f"refused an observation: {error}")
            return None

    def age_of(self, stamp) -> float:
        """How old a stamp is by the robot's clock [s]."""
        return self.get_clock().now().nanoseconds * 1e-9 - stamp_to_seconds(stamp)

    def take_turn(self) -> bool:
        """False while `max_rate` says to wait; the next observation then asks again."""
        rate = self.settings["max_rate"]
        if rate <= 0.0:
            return True
        now = time.monotonic()
        # A little early is fine: observations come in steps, and the mean is kept all the same.
        if now < self._next_turn - 0.1 / rate:
            return False
        self._next_turn = max(self._next_turn, now) + 1.0 / rate
        return True

    def note_output(self, scene: Scene, inference_time: float) -> None:
        """Tells the diagnostics of one published result."""
        self.diagnostics.output(time.monotonic() - scene.arrived)
        self.diagnostics.input_age("observation", scene.age)
        self.diagnostics.values["inference_ms"] = f"{1e3 * inference_time:.1f}"

    def wake(self) -> None:
        """Lets the worker look for something to do."""
        if self.worker is not None:
            self.worker.put(True)

    def show_checkpoint(self) -> None:
        """Tells the diagnostics which weights are in the model now."""
        self.diagnostics.values["checkpoint"] = self.model.checkpoint_id

    def _turn(self) -> None:
        self._adapters.serve()
        if self._working:
            self.work()

    def _on_observation(self, message: Observation) -> None:
        self._observation.put((message, time.monotonic()))
        self.wake()

    def _on_instruction(self, message: Instruction) -> None:
        try:
            # An id of 0 says that none is in force, and the rest then says nothing.
            if message.instruction_id:
                check_instruction(message.instruction, message.mode)
        except InstructionError as error:
            self.diagnostics.report("bad_instruction", f"refused vla/instruction: {error}")
            return
        with self._lock:
            self._instruction = message
        self.flush()
        self.wake()

    def _on_work_error(self, error: Exception) -> None:
        self.diagnostics.report("model", f"the model failed: {error}")

    def _check_inputs(self) -> None:
        if not self.is_active or self.instruction.instruction_id == 0:
            return
        newest = self._observation.get()
        if newest is None:
            self.diagnostics.report(
                "no_observation",
                "no observation has come: is perception active, and do all cameras send?",
            )
        elif (silence := time.monotonic() - newest[1]) > self.settings["max_observation_age"]:
            self.diagnostics.report(
                "no_observation",
                f"no observation for {silence:.1f} s: is perception active, do all cameras send?",
            )


def _unpack(
    message: Observation, contract: EmbodimentContract, arrived: float, age: float
) -> Scene:
    """Checks an observation against the contract; raises ValueError that says what differs."""
    if message.contract_id != contract.contract_id:
        raise ValueError(
            f"it follows contract {brief(message.contract_id)}, this node has "
            f"{contract.contract_id} ('{contract.name}'): give all nodes the same contract"
        )
    names = [camera.name for camera in contract.cameras]
    if sorted(message.camera_names) != sorted(names) or len(message.images) != len(names):
        cameras = brief(list(message.camera_names), 200)
        raise ValueError(f"it has cameras {cameras}, expected {names}")
    if list(message.state_names) != list(contract.state_names):
        raise ValueError(f"it has state {brief(list(message.state_names), 300)}")
    state = np.array(message.state, dtype=np.float64)
    if state.shape != (len(contract.state_names),) or not np.isfinite(state).all():
        raise ValueError(f"its state is not {len(contract.state_names)} finite values")
    images = {}
    for name, image in zip(message.camera_names, message.images, strict=True):
        camera = contract.camera(name)
        images[name] = image_to_array(image)
        if images[name].shape != (camera.height, camera.width, 3):
            raise ValueError(
                f"its image '{name}' is {image.width} x {image.height}, expected "
                f"{camera.width} x {camera.height}"
            )
    return Scene(message, images, state, arrived, age)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
