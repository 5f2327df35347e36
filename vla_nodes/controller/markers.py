"""Markers of the motion for viewers: the predicted chunk, the boxes, and what limits the arm now.

Drawn five times a second while somebody looks; without a viewer a cycle only notes what limited it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from geometry_msgs.msg import Vector3
from rclpy.duration import Duration
from visualization_msgs.msg import Marker, MarkerArray

from vla.control.arm import ArmController
from vla.control.chunk import ActionChunk, ChunkTrajectory
from vla.control.session import ArmReport
from vla.core.rotations import quaternion_to_matrix
from vla.core.text import one_line
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_color, array_to_point, array_to_vector
from vla_nodes.core.node import ManagedNode

PERIOD = 0.2
# What is drawn vanishes after this, so that none outlives the controller [s].
SHOWN = 1.0
# Characters of the text about what limits the arm.
LONGEST_TEXT = 120
# Lengths of what is drawn [m].
_LINE, _STEP, _TOOL, _LETTER = 0.004, 0.012, 0.03, 0.035
# Red, green, blue, opacity.
_OPEN, _CLOSED = np.array([0.1, 0.7, 0.9, 1.0]), np.array([0.9, 0.2, 0.5, 1.0])
_CALM, _LIMITED = np.array([0.3, 0.7, 0.3, 0.6]), np.array([1.0, 0.6, 0.0, 1.0])
_FORBIDDEN, _TOUCHED = np.array([0.8, 0.1, 0.1, 0.25]), np.array([1.0, 0.4, 0.0, 0.6])


class MotionMarkers:
    """Publishes vla/markers, in the base frame."""

    def __init__(self, node: ManagedNode, base_frame: str, arm: ArmController):
        """Creates the publisher; node: the controller."""
        self._node, self._frame, self._arm = node, base_frame, arm
        self._output = node.create_lifecycle_publisher(MarkerArray, "vla/markers", qos.MARKERS)
        self._drawn_at = -np.inf
        self._reasons: set[str] = set()

    def update(self, now: float, report: ArmReport) -> None:
        """Notes what limited this cycle, and draws if it is time; now: steady clock [s]."""
        self._reasons |= self._arm.safety.active
        if now - self._drawn_at < PERIOD:
            return
        self._drawn_at = now
        if self._output.get_subscription_count():
            self._output.publish(self._draw(report))
        self._reasons.clear()

    def _draw(self, report: ArmReport) -> MarkerArray:
        limits = self._arm.config.safety
        chunk = self._arm.executor.newest
        markers = [self._marker("", Marker.CUBE, action=Marker.DELETEALL)]
        if chunk is not None:
            markers += self._chunk(chunk)
        low, high = np.array(limits.workspace_min), np.array(limits.workspace_max)
        edges = self._marker("workspace", Marker.LINE_LIST, _LINE)
        edges.points = [*map(array_to_point, _edges(low, high))]
        edges.color = array_to_color(_LIMITED if "workspace" in self._reasons else _CALM)
        markers.append(edges)
        for number, box in enumerate(limits.keep_out):
            corners = np.array(box[:3]), np.array(box[3:])
            cube = self._marker("keep out", Marker.CUBE, id=number)
            cube.pose.position = array_to_point((corners[0] + corners[1]) / 2)
            cube.scale = array_to_vector(corners[1] - corners[0])
            cube.color = array_to_color(_TOUCHED if "keep_out" in self._reasons else _FORBIDDEN)
            markers.append(cube)
        text = self._marker("limit", Marker.TEXT_VIEW_FACING, _LETTER)
        words = ", ".join(sorted(self._reasons)) if report.executing else report.message
        text.text = one_line(words, LONGEST_TEXT)
        text.pose.position = array_to_point([*(low + high)[:2] / 2, high[2] + 2 * _LETTER])
        text.color = array_to_color(_LIMITED)
        if text.text:
            markers.append(text)
        return MarkerArray(markers=markers)

    def _chunk(self, chunk: ActionChunk) -> list[Marker]:
        """The tool's way as a line, its steps as dots, and at each step where the fingers point."""
        positions, quaternions = ChunkTrajectory(chunk).poses()
        # The gripper value of a step holds on the way to it, the first one's at the start, too.
        openness = np.clip(chunk.actions[[0, *range(len(chunk.actions))], 6:7], 0.0, 1.0)
        colors = [array_to_color(c) for c in openness * _OPEN + (1.0 - openness) * _CLOSED]
        path = self._marker("chunk path", Marker.LINE_STRIP, _LINE)
        steps = self._marker("chunk steps", Marker.SPHERE_LIST, _STEP)
        path.points = steps.points = [*map(array_to_point, positions)]
        path.colors = steps.colors = colors
        tool = self._marker("chunk tool", Marker.LINE_LIST, _LINE / 2)
        ahead = [quaternion_to_matrix(quaternion)[:, 2] for quaternion in quaternions]
        ends = np.stack([positions - _TOOL * np.array(ahead), positions], axis=1)
        tool.points = [*map(array_to_point, ends.reshape(-1, 3))]
        tool.colors = [color for color in colors for _ in range(2)]
        return [path, steps, tool]

    def _marker(self, name: str, kind: int, size: float = 0.0, **fields: int) -> Marker:
        marker = Marker(ns=name, type=kind, frame_locked=True, **fields)
        marker.header.frame_id = self._frame
        marker.header.stamp = self._node.get_clock().now().to_msg()
        marker.scale = Vector3(x=size, y=size, z=size)
        marker.pose.orientation.w = 1.0
        marker.lifetime = Duration(seconds=SHOWN).to_msg()
        return marker


def _edges(low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """The ends of a box's twelve edges, two after each other."""
    corners = [np.where(choice, high, low) for choice in product((False, True), repeat=3)]
    ends = []
    for first, second in product(corners, repeat=2):
        differs = first != second
        if differs.sum() == 1 and (second - first).sum() > 0:
            ends += [first, second]
    return ends
