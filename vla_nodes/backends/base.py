"""What every backend is: the way from the controller's commands to one kind of robot interface.

Backend, gripper and monitor are created by the controller's `configure` and closed by its
`cleanup`; all their callbacks run in the controller's one thread. They never block: an answer is
used when it arrives. Limits are not their business: commands have passed the safety stage. If an
interface package is not installed, the constructor raises a ValueError that says what to install.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vla.contract.embodiment import EmbodimentContract
from vla.control.command import ArmCommand
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.settings import Settings


@dataclass(frozen=True)
class Problem:
    """Why the robot's side cannot carry commands out."""

    message: str  # one sentence, with what to do
    # The policy stops until the operator resumes it; otherwise the arm holds, and goes on when the
    # problem is gone.
    stops: bool = False
    # The robot no longer goes where it was sent: the next motion starts from the measured joints.
    dropped: bool = False


@dataclass(frozen=True)
class BackendContext:
    """What a backend may use."""

    # Destroys the publishers, clients and timers made on it; action clients are the backend's own.
    node: ManagedNode
    contract: EmbodimentContract
    # The controller's; the backend's own start with its name and a dot.
    settings: Settings | Mapping[str, Any]
    period: float  # of commands [s]


class RobotPart(ABC):
    """One interface of the robot."""

    @abstractmethod
    def problem(self) -> Problem | None:
        """Why it cannot do what is asked now; None when it can. Called in each cycle."""

    def close(self) -> None:  # noqa: B027 - nothing to do for most
        """Destroys what the node does not destroy itself, such as action clients."""


class Backend(RobotPart):
    """How commands reach the arm."""

    @abstractmethod
    def send(self, command: ArmCommand) -> None:
        """Sends one cycle's command; also called while the arm stops and holds."""

    @abstractmethod
    def release(self) -> None:
        """Releases the arm, so that others may move it; called once."""


class Gripper(RobotPart):
    """How the gripper is opened and closed."""

    @abstractmethod
    def send(self, width: float) -> None:
        """The wanted opening [m], in each cycle; a running action is never sent again."""


class Monitor(RobotPart):
    """Watches the robot's own state, such as its safety system's."""

    @abstractmethod
    def recover(self) -> str:
        """Starts the robot's own recovery, without waiting; says what was started.

        Raises ValueError with one sentence when nothing can be started.
        """


# There is no Debian package of franka_msgs.
BUILD_FRANKA_ROS2 = "build franka_ros2 from source, as docs/fr3.md says"


def import_interfaces(package: str, kinds: Sequence[str], cure: str) -> list[ModuleType]:
    """The modules `package.kind` (msg, srv, action) of an interface package.

    cure: what to do where it is missing, such as "install ros-jazzy-control-msgs". Raises
    ValueError.
    """
    try:
        return [importlib.import_module(f"{package}.{kind}") for kind in kinds]
    except ImportError as error:
        raise ValueError(
            f"{package} is not installed ({error}): {cure}, and source it before this package"
        ) from error
