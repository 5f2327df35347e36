"""The node `page`: a web page for the operator, beside the robot.

It watches the graph and calls its services, as `vla` does in a shell; nothing waits for it. The
server, who may use it and what it shows are in vla.page; here they meet topics and services.
"""

from __future__ import annotations

from rcl_interfaces.msg import ParameterDescriptor

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.page.access import make_access
from vla.page.episodes import EpisodeShelf
from vla.page.overlay import read_views
from vla.page.server import PageServer
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.running import run
from vla_nodes.page.pictures import Pictures
from vla_nodes.page.robot import GraphRobot
from vla_nodes.page.serving import ServerThread
from vla_nodes.page.settings import SETTINGS

CAMERAS = "cameras."


class OperatorPage(ManagedNode):
    """Serves the page while it is active."""

    SETTINGS = SETTINGS

    def __init__(self) -> None:
        super().__init__("page")
        self._declare_cameras()
        self._server: ServerThread | None = None

    def _declare_cameras(self) -> None:
        """Declares each `cameras.NAME.frame` and `cameras.NAME.pose` that a file gives."""
        descriptor = ParameterDescriptor(
            dynamic_typing=True,
            description="Where a camera is: the base or tool frame, and the pose of its optical "
            "frame in it, x y z [m] and a quaternion x y z w. Takes effect at the next configure.",
        )
        for name, given in sorted(self._parameter_overrides.items()):
            if name.startswith(CAMERAS):
                self.declare_parameter(name, given.value, descriptor)

    def configure(self) -> None:
        """Checks who would be let in; raises ValueError where strangers could command the robot."""
        settings = self.settings
        self._contract = load_contract(contract_path(settings["contract"]))
        self._contract.require_tool("the operator page")
        names = [camera.name for camera in self._contract.cameras]
        given = self.get_parameters_by_prefix(CAMERAS.rstrip("."))
        self._mounted = read_views(
            {name: self.get_parameter(CAMERAS + name).value for name in given},
            names,
            self._contract.base_frame,
            self._contract.tool_frame,
        )
        self._access = make_access(
            settings["address"],
            settings["hosts"],
            settings["token_file"],
            settings["tls_certificate"],
            settings["tls_key"],
        )
        self._shelf = EpisodeShelf(settings["directory"])
        self.cleanups.callback(self._shelf.close)

    def activate(self) -> None:
        """Listens to the graph, and serves."""
        settings = self.settings
        pictures = Pictures(
            self,
            self._contract,
            self._mounted,
            settings["compressed"],
            settings["image_width"],
            settings["image_quality"],
        )
        robot = GraphRobot(self, self._contract, pictures)
        server = PageServer(
            robot,
            self._access,
            self._shelf,
            idle_limit=settings["control_timeout"],
            image_rate=settings["image_rate"],
            report=self.report_failure,
        )
        self._server = ServerThread()
        port = self._server.start(server, settings["port"])
        url = self._access.url(port)
        self.diagnostics.values["url"] = url
        self.get_logger().info(f"the page is at {url}")

    def deactivate(self) -> None:
        """Ends all connections."""
        if self._server is not None:
            self._server.stop()
            self._server = None


def main() -> int:
    """Runs the node."""
    return run(OperatorPage)
