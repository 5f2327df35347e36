"""The tool's pose from TF, as the messages that it would come in on a topic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PoseStamped
from tf2_msgs.msg import TFMessage

from vla.contract.embodiment import EmbodimentContract
from vla.observations.messages import stamp_to_nanoseconds
from vla.observations.transforms import Transform, TransformBuffer, TransformError
from vla_nodes.core import qos
from vla_nodes.core.conversions import arrays_to_pose, nanoseconds_to_stamp
from vla_nodes.core.renewed import RenewedSubscription
from vla_nodes.core.sources import SourceWatch

# As all of ROS calls them; a graph with a tree of its own remaps them.
TF_TOPIC, FIXED_TF_TOPIC = "/tf", "/tf_static"


class ToolFrames:
    """Follows the frames from the contract's base to its tool.

    A pose has the latest stamp at which all of them are known, which is then as good as the stamp
    of a pose on a topic. Several nodes may send transforms; each frame between base and tool must
    come from one.
    """

    def __init__(self, node, contract: EmbodimentContract, take: Callable[[PoseStamped], None]):
        """take: is given each new pose, in the order of stamps. Subscribes."""
        self._node, self._take = node, take
        self._base, self._tool = contract.base_frame, contract.tool_frame
        self._buffer = TransformBuffer()
        self._moving: frozenset[str] = frozenset()
        self._last: int | None = None
        # Watches of the publishers, by the first frame of theirs between base and tool.
        self._watches: dict[str, SourceWatch] = {}
        # Why there is no pose, for people; "" when there was one.
        self.missing = f"nothing has come on '{TF_TOPIC}' yet: is the robot's driver up?"
        self.moving = RenewedSubscription(
            node, TFMessage, TF_TOPIC, self._on_moving, qos.TRANSFORMS
        )
        node.create_subscription(TFMessage, FIXED_TF_TOPIC, self._on_fixed, qos.FIXED_TRANSFORMS)

    @property
    def problem(self) -> str:
        """A sentence that names the nodes while two send the same frame, else ""."""
        return next((watch.problem for watch in self._watches.values() if watch.problem), "")

    def _on_fixed(self, message: TFMessage) -> None:
        self._add(message, is_static=True)
        self._update()

    def _on_moving(self, message: TFMessage, info: dict) -> None:
        names = (entry.child_frame_id.lstrip("/") for entry in message.transforms)
        if (frame := next(filter(self._moving.__contains__, names), None)) is not None:
            watch = self._watches.get(frame)
            if watch is None:
                what = f"transforms of frame '{frame}'"
                watch = self._watches[frame] = SourceWatch(self._node, TF_TOPIC, what)
            if not watch.accepts(info):
                self._node.diagnostics.report("second_publisher", watch.problem)
                return
        self._add(message, is_static=False)
        if frame is not None or not self._moving:
            self._update()

    def _add(self, message: TFMessage, is_static: bool) -> None:
        for entry in message.transforms:
            place, turn = entry.transform.translation, entry.transform.rotation
            transform = Transform(
                entry.header.frame_id.lstrip("/"),
                entry.child_frame_id.lstrip("/"),
                np.array([place.x, place.y, place.z]),
                np.array([turn.x, turn.y, turn.z, turn.w]),
            )
            try:
                self._buffer.add(transform, stamp_to_nanoseconds(entry.header.stamp), is_static)
            except TransformError as error:
                topic = FIXED_TF_TOPIC if is_static else TF_TOPIC
                self._node.diagnostics.report("bad_pose", f"'{topic}': {error}")

    def _update(self) -> None:
        """Hands on the newest pose if it is a new one."""
        try:
            self._moving = frozenset(self._buffer.moving_between(self._base, self._tool))
            found = self._buffer.newest(self._base, self._tool)
        except TransformError as error:
            self._moving = frozenset()
            self.missing = f"'{TF_TOPIC}' and '{FIXED_TF_TOPIC}': {error}"
            return
        if found is None or found[0] == self._last:
            return
        self._last, place = found
        self.missing = ""
        pose = PoseStamped(pose=arrays_to_pose(place.position, place.quaternion))
        pose.header.stamp = nanoseconds_to_stamp(self._last)
        pose.header.frame_id = self._base
        self._take(pose)
