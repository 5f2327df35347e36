"""What every backend is: the way from the controller's commands to one kind of robot interface.

A backend and a gripper are created by the controller's `configure` and closed by its `cleanup`; all
their callbacks run in the controller's one thread. They never block: whatever needs an answer is
sent, and looked at when it comes. Limits are not their business: what they get has passed the
safety stage. An interface package that is not installed is named, with what to install, by a
ValueError of the constructor.
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


class Backend(ABC):
    """How commands reach the arm."""

    @abstractmethod
    def problem(self) -> Problem | None:
        """Why commands cannot be carried out now; None when they can. Called in each cycle."""

    @abstractmethod
    def send(self, command: ArmCommand) -> None:
        """Sends one cycle's command; also called while the arm stops and holds."""

    @abstractmethod
    def release(self) -> None:
        """The arm is left alone from now on, so that others may move it; called once."""

    def close(self) -> None:  # noqa: B027 - nothing to do for most
        """Destroys what the node does not destroy itself, such as action clients."""


class Gripper(ABC):
    """How the gripper is opened and closed."""

    @abstractmethod
    def problem(self) -> Problem | None:
        """Why the gripper does not do what was asked; None when all is well."""

    @abstractmethod
    def send(self, width: float) -> None:
        """The wanted opening [m], called in each cycle; what is under way is never sent again."""

    def close(self) -> None:  # noqa: B027 - nothing to do for most
        """Destroys what the node does not destroy itself, such as action clients."""


class Monitor(ABC):
    """Watches the robot's own state, such as its safety system's."""

    @abstractmethod
    def problem(self) -> Problem | None:
        """Why the robot does not move now; None when it may."""

    @abstractmethod
    def recover(self) -> str:
        """Starts the robot's own recovery, without waiting; says what was started.

        Raises ValueError with one sentence when nothing can be started.
        """

    def close(self) -> None:  # noqa: B027 - nothing to do for most
        """Destroys what the node does not destroy itself, such as action clients."""


def import_interfaces(package: str, kinds: Sequence[str], debian: str) -> list[ModuleType]:
    """The modules `package.kind` (msg, srv, action) of an interface package.

    debian: what to install where it is missing, such as ros-jazzy-control-msgs. Raises ValueError.
    """
    try:
        return [importlib.import_module(f"{package}.{kind}") for kind in kinds]
    except ImportError as error:
        raise ValueError(
            f"{package} is not installed ({error}): install {debian}, and source it before this "
            "package"
        ) from error
