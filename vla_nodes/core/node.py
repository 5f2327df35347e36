"""The managed node that every node of this package is.

    class Blink(ManagedNode):
        SETTINGS = (Setting("rate", 10.0, "Blinks per second [Hz].", bounds=(0.1, 100.0)),)

        def __init__(self):
            super().__init__("blink")

        def configure(self):     # load and validate; raise ValueError with one sentence if it fails
            self.output = self.create_lifecycle_publisher(Bool, "light", qos.LATCHED)
            self.create_subscription(Bool, "switch", self.on_switch, qos.SENSOR)

        def activate(self):      # start output
            self.create_steady_timer(1.0 / self.settings["rate"], self.blink)

        def deactivate(self):    # stop output; make the arm hold first
        def cleanup(self):       # free what configure loaded; also called after a failed configure

    def main() -> int:
        return run(Blink)        # of running.py, which is the whole main program

What the base does:
- Declares SETTINGS and COMMON_SETTINGS (see settings.py). With `autostart` (the default) the node
  configures and activates itself as soon as it spins.
- Publishers, subscriptions, services, clients and timers created in `configure` are destroyed
  after `cleanup`; those created in `activate` are destroyed after `deactivate`. Action servers and
  threads are the node's own to stop. A lifecycle publisher is silent unless the node is active.
- A failed `configure` or `activate` leaves the node alive, in the state it came from, with an ERROR
  in the log and on /diagnostics; correct the parameter or the file and configure again.
- An exception in a callback is logged and reported; the node lives on.
- `self.diagnostics` (diagnostics.py), `self.settings["name"]`, `self.is_active`, `self.state`.
- SIGINT, SIGTERM and the transition `shutdown`: deactivate, cleanup, exit status 0; a `configure`
  that is still running after 3 s is abandoned. A finalized node can never work again, so it must
  not linger: its launcher restarts it.

Callbacks run one at a time in one thread, unless THREADS is set higher. A thread of the node's own
that shares data with them takes `callback_lock`. Model work belongs into a `Worker` (latest.py),
never into a callback.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState
from rclpy.lifecycle import TransitionCallbackReturn as Transition
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.task import Future
from rclpy.timer import Timer

from vla_nodes.core import qos
from vla_nodes.core.diagnostics import NO_HARDWARE, Diagnostics
from vla_nodes.core.log import OneLineLogger, error_text
from vla_nodes.core.requests import Paced, Pacer, ServiceType, answering
from vla_nodes.core.settings import Setting, Settings

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"

# Those of every node.
COMMON_SETTINGS = (
    Setting(
        "autostart",
        True,
        "Configure and activate by itself at start; false leaves both to a lifecycle manager.",
        read_only=True,
    ),
    Setting(
        "end_with_launcher",
        False,
        "End when nobody reads standard output any more, as when the launcher has died.",
        read_only=True,
    ),
    Setting(
        "liveliness_lease",
        0.1,
        "After so long without a sign of life from its process a publisher counts as dead [s]. The "
        "same in all nodes: a reader that asks for less than a writer offers hears nothing.",
        bounds=(0.02, 10.0),
    ),
)


def _logged(transition: Callable) -> Callable:
    """A transition whose exceptions are logged, which rclpy does not do."""

    @functools.wraps(transition)
    def logged(node: ManagedNode, state: LifecycleState) -> Transition:
        try:
            return transition(node, state)
        except Exception as error:
            node._log_failure(transition.__name__, error)
            raise

    return logged


class ManagedNode(LifecycleNode):
    """A lifecycle node with settings, diagnostics and an orderly shutdown; see the module text."""

    SETTINGS: tuple[Setting, ...] = ()
    THREADS = 1
    # False for a node with a fast timer: the handlers that warn of incompatible QoS, two for each
    # topic, cost time on each wake-up, and the other side warns as well.
    QOS_WARNINGS = True
    # What the node does, in a word or two, for the name of its diagnostics.
    TASK = "state"

    def __init__(self, name: str, **options):
        self._log: OneLineLogger | None = None
        # Calls that `configure` adds here follow `cleanup`, the last first.
        self.cleanups = ExitStack()
        super().__init__(name, **options)
        self.state = UNCONFIGURED
        # Set when the process is to end.
        self.ended = threading.Event()
        # Held while a callback or a transition runs, where there is one thread for them.
        self.callback_lock = threading.RLock()
        self._configured_entities: set[int] = set()
        self._activated_entities: set[int] = set()
        # Paces the answers of this node.
        self.pacer = Pacer(self)
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.settings = Settings(self, (*COMMON_SETTINGS, *self.SETTINGS))
        self.diagnostics = Diagnostics(self, task=self.TASK, hardware_id=self.hardware_id)
        self.diagnostics.values["state"] = self.state

    def configure(self) -> None:
        """Loads and validates; raises ValueError with one sentence when something is wrong."""

    def activate(self) -> None:
        """Starts output."""

    def deactivate(self) -> None:
        """Stops output."""

    def cleanup(self) -> None:
        """Frees what `configure` loaded; after a failure, some of it may be missing."""

    def hardware_id(self) -> str:
        """Which robot the node is for, for its diagnostics: the one of its contract, or "none"."""
        if not self.has_parameter("contract"):
            return NO_HARDWARE
        return Path(self.get_parameter("contract").value).stem or NO_HARDWARE

    @property
    def is_active(self) -> bool:
        """True from the start of `activate` to the start of `deactivate`."""
        return self.state == ACTIVE

    def get_logger(self) -> OneLineLogger:
        """As rclpy's; one line for each call."""
        if self._log is None:
            self._log = OneLineLogger(super().get_logger().name)
        return self._log

    def create_publisher(self, *arguments, **options):
        """As rclpy's, with or without the handlers of QOS_WARNINGS."""
        if not self.QOS_WARNINGS:
            quiet = PublisherEventCallbacks(use_default_callbacks=False)
            options.setdefault("event_callbacks", quiet)
        return super().create_publisher(*arguments, **options)

    def create_subscription(self, *arguments, **options):
        """As rclpy's, with or without the handlers of QOS_WARNINGS."""
        if not self.QOS_WARNINGS:
            quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
            options.setdefault("event_callbacks", quiet)
        return super().create_subscription(*arguments, **options)

    def create_service(
        self,
        srv_type: ServiceType,
        srv_name: str,
        callback: Callable,
        *,
        qos_profile: QoSProfile = qos.SERVICE,
        callback_group: CallbackGroup | None = None,
    ):
        """As rclpy's, with a long queue, paced; a callback that fails answers with the reason."""
        # rclpy creates its own services before the pacer exists.
        if callback_group is None and hasattr(self, "pacer"):
            callback_group = Paced(self.pacer)
        return super().create_service(
            srv_type,
            srv_name,
            answering(self, srv_type, callback),
            qos_profile=qos_profile,
            callback_group=callback_group,
        )

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's, and that of the services; a value that a parameter has already is accepted.

        So the dump of a node can be loaded, with what never changes or only while it is
        unconfigured.
        """
        changed = [each for each in parameter_list if not self.settings.has(each)]
        if parameter_list and not changed:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changed)

    def answer(self, future: Future, response: object) -> None:
        """Gives a waiting callback its result, and wakes the executor that runs it."""
        future.set_result(response)
        if self.executor is not None:
            self.executor.wake()

    def create_steady_timer(self, period: float, callback: Callable[[], object]) -> Timer:
        """A timer of the steady clock, which runs when simulated time stands still."""
        return self.create_timer(period, callback, clock=self._steady_clock)

    def autostart(self) -> None:
        """Configures and activates, if the parameter `autostart` says so."""
        if self.settings["autostart"] and self.trigger_configure() == Transition.SUCCESS:
            self.trigger_activate()

    def rest(self) -> None:
        """Deactivates where it is active."""
        with self.callback_lock:
            if self.state == ACTIVE:
                self.trigger_deactivate()

    def close(self) -> None:
        """Deactivates and cleans up, from any state."""
        with self.callback_lock:
            self.rest()
            if self.state == INACTIVE:
                self.trigger_cleanup()

    def destroy_node(self) -> None:
        """As rclpy's, which forgets the state machine: it would keep the node in the graph."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def report_failure(self, error: Exception) -> None:
        """Logs and reports what a callback raised; the node lives on."""
        self.diagnostics.report("callback", f"a callback failed: {error_text(error)}")
        self.get_logger().traceback(error, throttle_duration_sec=5.0)

    @_logged
    def on_configure(self, state: LifecycleState) -> Transition:
        """Implements the transition; override `configure` instead."""
        before = self._entities().keys()
        try:
            self.settings.require_valid()
            self.configure()
        except Exception as error:
            self._fail("configure", error)
            self._free()
            self._destroy_entities(self._entities().keys() - before)
            return Transition.FAILURE
        self._configured_entities = self._entities().keys() - before
        self.settings.locked = True
        self.diagnostics.fault(None)
        self._enter(INACTIVE, "configured")
        return Transition.SUCCESS

    @_logged
    def on_activate(self, state: LifecycleState) -> Transition:
        """Implements the transition; override `activate` instead."""
        before = self._entities().keys()
        super().on_activate(state)
        self.diagnostics.reset()
        self.state = ACTIVE
        try:
            self.activate()
        except Exception as error:
            self.state = INACTIVE
            self._fail("activate", error)
            self._stop()
            super().on_deactivate(state)
            self._destroy_entities(self._entities().keys() - before)
            return Transition.FAILURE
        self._activated_entities = self._entities().keys() - before
        self.diagnostics.fault(None)
        self._enter(ACTIVE, "active")
        return Transition.SUCCESS

    @_logged
    def on_deactivate(self, state: LifecycleState) -> Transition:
        """Implements the transition; override `deactivate` instead."""
        self._stop()
        super().on_deactivate(state)
        self._destroy_entities(self._activated_entities)
        self._enter(INACTIVE, "deactivated")
        return Transition.SUCCESS

    @_logged
    def on_cleanup(self, state: LifecycleState) -> Transition:
        """Implements the transition; override `cleanup` instead."""
        self._free()
        self._destroy_entities(self._configured_entities)
        self.settings.locked = False
        self._enter(UNCONFIGURED, "cleaned up")
        return Transition.SUCCESS

    @_logged
    def on_shutdown(self, state: LifecycleState) -> Transition:
        """Implements the transition: deactivates, cleans up, and has the process end."""
        try:
            if self.state == ACTIVE:
                self.on_deactivate(state)
            if self.state == INACTIVE:
                self.on_cleanup(state)
            self._enter(FINALIZED, "shut down")
        finally:
            self.ended.set()
        return Transition.SUCCESS

    @_logged
    def on_error(self, state: LifecycleState) -> Transition:
        """A transition failed half-way: the node is in an undefined state, so the process ends."""
        self.ended.set()
        return Transition.FAILURE

    def _enter(self, state: str, words: str) -> None:
        self.state = state
        self.diagnostics.values["state"] = state
        self.get_logger().info(words)

    def _stop(self) -> None:
        try:
            self.deactivate()
        except Exception as error:
            self._log_failure("deactivate", error)

    def _free(self) -> None:
        for step in (self.cleanup, self.cleanups.close):
            try:
                step()
            except Exception as error:
                self._log_failure("cleanup", error)

    def _fail(self, step: str, error: Exception) -> None:
        self.diagnostics.fault(f"{step} failed: {error_text(error)}")
        self._log_failure(step, error)

    def _log_failure(self, step: str, error: Exception) -> None:
        self.get_logger().error(f"{step} failed: {error_text(error)}")
        if not isinstance(error, ValueError | OSError):
            self.get_logger().traceback(error)

    def _entities(self) -> dict[int, tuple[Callable, object]]:
        """Everything this node has on the graph, by identity, with what destroys it."""
        kinds = (
            (self.timers, self.destroy_timer),
            (self.subscriptions, self.destroy_subscription),
            (self.services, self.destroy_service),
            (self.clients, self.destroy_client),
            (self.publishers, self._destroy_any_publisher),
        )
        return {id(entity): (destroy, entity) for group, destroy in kinds for entity in group}

    def _destroy_entities(self, identities: set[int]) -> None:
        for identity, (destroy, entity) in self._entities().items():
            if identity in identities:
                destroy(entity)

    def _destroy_any_publisher(self, publisher) -> None:
        if isinstance(publisher, LifecyclePublisher):
            self.destroy_lifecycle_publisher(publisher)
        else:
            self.destroy_publisher(publisher)
