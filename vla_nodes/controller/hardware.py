"""The robot's side of the controller: backend, gripper and monitor as one."""

from __future__ import annotations

from std_srvs.srv import Trigger

from vla.contract.embodiment import EmbodimentContract
from vla.control.command import ArmCommand
from vla_nodes.backends import make_backend, make_gripper, make_monitor
from vla_nodes.backends.base import BackendContext, Problem, RobotPart
from vla_nodes.core.requests import trigger


class HardwareInterface:
    """Where commands go, and what keeps them from being carried out."""

    def __init__(self, node, contract: EmbodimentContract):
        """Creates the backend, gripper and monitor that the parameters of `node` name.

        Raises ValueError with one sentence when one of them is not available here.
        """
        settings = node.settings
        context = BackendContext(node, contract, settings, 1.0 / settings["control_rate"])
        self._parts: list[RobotPart] = []
        self._released = True
        try:
            self._backend = self._keep(make_backend(settings["backend"], context))
            self._gripper = self._keep(make_gripper(settings["gripper"], context))
            self._monitor = self._keep(make_monitor(settings["monitor"], context))
        except ValueError:
            self.close()
            raise
        node.create_service(Trigger, "vla/recover", trigger(self._recover))

    def _keep(self, part):
        if part is not None:
            self._parts.append(part)
        return part

    def problem(self) -> Problem | None:
        """Why commands cannot be carried out now: monitor first, then arm and gripper."""
        for part in (self._monitor, self._backend, self._gripper):
            if part is not None and (problem := part.problem()):
                return problem
        return None

    def send(self, command: ArmCommand | None) -> None:
        """Sends one cycle's command; None releases the arm."""
        if command is not None:
            self._backend.send(command)
            self._gripper.send(command.gripper_width)
        elif not self._released:
            self._backend.release()
        self._released = command is None

    def close(self) -> None:
        """Takes everything off the graph that the node does not destroy itself."""
        for part in self._parts:
            part.close()
        self._parts = []

    def _recover(self) -> str:
        if self._monitor is None:
            raise ValueError("no monitor is set (parameter monitor): recover at the robot itself")
        return self._monitor.recover()
