"""What the two model nodes have in common: loading, latest inputs, and work in a thread of its own.

A subclass gives `load`, `warm_up` and `work`. `work` runs in the worker's thread whenever there is
something new; callbacks only store values. What is computed for an instruction is published only
if that instruction is still in force at the end, which `publish` sees to. The worker also puts
adapters into the model, between two computations, and does so while the node is inactive, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from rclpy.qos import QoSProfile
from vla_ros.msg import Instruction, Observation, PolicyStatus

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.control.session import InstructionError, check_instruction
from vla.core.clock import CLOCK_TOLERANCE, from_future
from vla.core.resources import contract_path
from vla.policies.inference_dtype import inference_dtype
from vla_nodes.core import qos
from vla_nodes.core.clock_watch import ClockWatch
from vla_nodes.core.conversions import stamp_to_seconds
from vla_nodes.core.heartbeat import Heart
from vla_nodes.core.instruction_watch import InstructionWatch
from vla_nodes.core.latest import Latest, Worker
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.sources import LOOK_PERIOD, OneSource
from vla_nodes.models.adapter_loader import AdapterLoader
from vla_nodes.models.scene import Scene, unpack_scene
from vla_nodes.models.server import is_server_lost
from vla_nodes.models.turns import Turns

if TYPE_CHECKING:
    from vla.policies.parts import PolicyPart
    from vla.serving.remote import RemotePart

Part = TypeVar("Part", bound="PolicyPart | RemotePart")


class ModelNode(ManagedNode, Generic[Part]):
    """A managed node with one model, fed by the newest observation and the latched instruction."""

    def __init__(self, name: str):
        super().__init__(name)
        self.worker: Worker[bool] = Worker(name, lambda _: self._turn(), self._on_work_error)
        self._observation: Latest[tuple[Observation, float]] = Latest()
        self._sources: list[OneSource] = []
        self._instructions: InstructionWatch | None = None
        self._lock = threading.Lock()
        self._working = False
        self._adapters = AdapterLoader(self)
        self._turns = Turns()
        self.diagnostics.checks.append(self._check_inputs)

    def load(self, checkpoint: Path, device: str, adapter: str, dtype: str, compile: str) -> Part:
        """The model of a checkpoint, with the adapter of a folder in it unless that is "".

        dtype: see vla.policies.inference_dtype. compile: see vla.policies.compiled. Raises
        ValueError with one sentence when it cannot be used.
        """
        raise NotImplementedError

    def connect(self) -> Part:
        """The model that the server of the parameter `server` holds. Raises ValueError."""
        raise NotImplementedError

    def warm_up(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Runs everything once on an empty scene, so that the first real result is not late."""
        raise NotImplementedError

    def infer(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        """Runs the model once, as it runs most often."""
        raise NotImplementedError

    def work(self) -> None:
        """Does what is due with the newest inputs; runs in the worker's thread."""
        raise NotImplementedError

    def flush(self) -> None:
        """Drops what was kept for the last instruction."""

    @property
    def has_work(self) -> bool:
        """Whether the loaded policy has a part for this node."""
        return True

    def configure(self) -> None:
        """Loads and checks the checkpoint, then joins the graph."""
        self.contract: EmbodimentContract = load_contract(contract_path(self.settings["contract"]))
        self.contract.require_tool(f"the node {self.get_name()}")
        self.model: Part = self.connect() if self.settings["server"] else self._load_model()
        self.cleanups.callback(delattr, self, "model")
        self.contract.require_same(self.model.contract, "of this node", "of the checkpoint")
        self.worker.start()
        self.show_checkpoint()
        self.diagnostics.values["device"] = self.settings["server"] or self.settings["device"]
        if not self.has_work:
            why = "the policy has one part, which reasoning runs: nothing to do here"
            self.diagnostics.values["part"] = why
            self.get_logger().info(why)
            return
        self.read("vla/observation", Observation, "observations", self._on_observation, qos.LATEST)
        self._instructions = InstructionWatch(self)
        self._heart = Heart(self)
        self.create_subscription(Instruction, "vla/instruction", self._on_instruction, qos.LATCHED)
        self.create_subscription(PolicyStatus, "vla/status", self._on_status, qos.LATCHED)
        self.create_steady_timer(LOOK_PERIOD, self._poll_sources)
        ClockWatch(self)

    def _load_model(self) -> Part:
        checkpoint = self.settings["checkpoint"]
        if not checkpoint:
            raise ValueError("parameter 'checkpoint' is empty: give the folder of a checkpoint")
        if not Path(checkpoint).is_dir():
            raise ValueError(f"parameter 'checkpoint': there is no folder '{checkpoint}'")
        # Imported here, so that the node is on the graph before torch is loaded.
        import torch

        device = self.settings["device"]
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"parameter 'device': '{device}' cannot be used ({str(error).splitlines()[0]}); "
                "use cpu, or a GPU that this installation of torch finds"
            ) from error
        started = time.monotonic()
        dtype, mode = self.settings["dtype"], self.settings["compile"]
        model = self.load(Path(checkpoint), device, self.settings["adapter"], dtype, mode)
        used = str(inference_dtype(dtype, device)).removeprefix("torch.")
        self.diagnostics.values["dtype"] = used
        self.get_logger().info(
            f"loaded checkpoint {model.checkpoint_id} in {time.monotonic() - started:.1f} s"
        )
        return model

    def activate(self) -> None:
        """Warms up, then starts to work."""
        if not self.has_work:
            return
        # Whoever warms up runs the model in this thread, so the worker must not change it.
        self.worker.stop()
        started = time.monotonic()
        cameras = self.contract.cameras
        images = {c.name: np.zeros((c.height, c.width, 3), dtype=np.uint8) for c in cameras}
        state = np.zeros(len(self.contract.state_names))
        self._settle_threads(images, state)
        for done in self.model.warm_up():
            self.get_logger().info(f"warming up: {done} after {time.monotonic() - started:.1f} s")
        self.warm_up(images, state)
        self.get_logger().info(f"warmed up in {time.monotonic() - started:.1f} s")
        self._observation.clear()
        self._turns.reset()
        self._working = True
        self._heart.start()
        self.worker.start()
        self.wake()

    def _settle_threads(self, images: dict[str, np.ndarray], state: np.ndarray) -> None:
        if self.settings["server"]:
            return
        from vla.policies.threads import settle_threads

        given = self.settings["threads"]
        if given or self.settings["device"] == "cpu":
            part = f"{self.get_name()} {self.model.checkpoint_id}"
            threads = settle_threads(given, lambda: self.infer(images, state), part)
            self.diagnostics.values["threads"] = str(threads)

    def deactivate(self) -> None:
        """Ends the work; what is being computed is not published any more."""
        self._working = False
        if self.has_work:
            self._heart.stop()
        self.worker.stop()
        self.worker.start()
        self.wake()

    def cleanup(self) -> None:
        """Frees the model."""
        self.worker.stop()
        self._adapters.close()
        for source in self._sources:
            source.destroy()
        if self._instructions is not None:
            self._instructions.destroy()
        self._sources, self._instructions = [], None

    @property
    def instruction(self) -> Instruction:
        """The instruction in force; its id is 0 when there is none."""
        with self._lock:
            return self._in_force

    @property
    def _in_force(self) -> Instruction:
        return self._instructions.instruction if self._instructions else Instruction()

    def read(
        self, topic: str, kind: type, what: str, callback: Callable, profile: QoSProfile
    ) -> None:
        """Subscribes to what must come from one publisher; while there are two, nothing is taken.

        what: is sent, for people.
        """
        source = OneSource(self, topic, kind, what, profile)
        self._sources.append(source)

        def take(message, info: dict) -> None:
            if source.accepts(info):
                callback(message)
            else:
                self.diagnostics.drop("second_publisher")

        self.create_subscription(kind, topic, take, profile)

    def second_publisher(self) -> bool:
        """Whether an input has two publishers, so that none of its messages is to be used."""
        return any(source.problem for source in self._sources)

    def publish(self, publisher, message) -> bool:
        """Publishes a result unless its instruction was replaced meanwhile; returns whether."""
        with self._lock:
            if message.instruction_id == self._in_force.instruction_id and self.is_active:
                publisher.publish(message)
                return True
        self.diagnostics.drop("instruction_replaced")
        return False

    def new_scene(self) -> Scene | None:
        """The newest observation, checked; None, and a diagnostic that says why, without one."""
        newest = self._observation.get()
        if newest is None:
            return None
        if self.second_publisher():
            self.diagnostics.drop("second_publisher")
            return None
        message, arrived = newest
        age = self.age_of(message.header.stamp)
        limit = self.settings["max_observation_age"]
        if age > limit:
            self.diagnostics.drop("stale_observation")
            return None
        if age < -CLOCK_TOLERANCE:
            self.diagnostics.report("future_observation", f"the observation is {from_future(-age)}")
            return None
        try:
            return unpack_scene(message, self.contract, arrived, age)
        except ValueError as error:
            self.diagnostics.report("bad_observation", f"refused an observation: {error}")
            return None

    def age_of(self, stamp) -> float:
        """How old a stamp is by the robot's clock [s]."""
        return self.get_clock().now().nanoseconds * 1e-9 - stamp_to_seconds(stamp)

    def take_turn(self) -> bool:
        """False while `max_rate` or `max_load` says to wait for a later observation."""
        return self._turns.take(time.monotonic(), self.settings["max_rate"])

    def note_output(self, scene: Scene, inference_time: float) -> None:
        """Tells the diagnostics of one published result, and lets the model rest after it."""
        now = time.monotonic()
        self._turns.rest(now, inference_time, self.settings["max_load"])
        self.diagnostics.output(now - scene.arrived)
        self.diagnostics.input_age("observation", scene.age)
        self.diagnostics.values["inference_ms"] = f"{1e3 * inference_time:.1f}"

    def wake(self) -> None:
        """Lets the worker look for something to do."""
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
        if self._instructions is not None:
            with self._lock:
                changed = self._instructions.announce(message)
            self._on_followed(changed)

    def _on_status(self, message: PolicyStatus) -> None:
        if self._instructions is not None:
            with self._lock:
                changed = self._instructions.confirm(message)
            self._on_followed(changed)

    def _on_followed(self, changed: bool) -> None:
        if changed:
            self.flush()
            self.wake()

    def _poll_sources(self) -> None:
        had_second = self.second_publisher()
        for source in self._sources:
            source.poll()
        if self._instructions is not None:
            with self._lock:
                self._instructions.poll()
        if self.second_publisher() and not had_second:
            # What is there may come from the other one.
            self._observation.clear()
            self.flush()
            self._report_sources()

    def _report_sources(self) -> None:
        problems = [source.problem for source in self._sources]
        if self._instructions is not None:
            problems.append(self._instructions.problem)
        # One report: a later one of the same reason would hide it.
        if any(problems):
            self.diagnostics.report("second_publisher", "; ".join(filter(None, problems)))

    def _on_work_error(self, error: Exception) -> None:
        if is_server_lost(error):
            self.on_server_lost(str(error))
        else:
            self.diagnostics.report("model", f"the model failed: {error}")

    def on_server_lost(self, why: str) -> None:
        """Says that the server gave no answer."""
        self.diagnostics.report("server", why)

    def _check_inputs(self) -> None:
        self._report_sources()
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
