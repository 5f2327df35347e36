"""What viewers need of the simulated scene: the robot's description, TF, and the scene's shapes.

Links, fingers, hand, tool, cameras and objects are frames of one tree, whose root is the base. The
topics are relative, as `clock` is, so that two simulators in two namespaces have two trees. The
moving frames are computed and sent only while somebody listens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mujoco
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, TransformStamped
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from vla.envs.tabletop.description import robot_description
from vla.envs.tabletop.frames import (
    BASE_FRAME,
    ArmFrames,
    fixed_frames,
    scene_bodies,
    scene_places,
)
from vla.envs.tabletop.simulator import TableTopSimulator
from vla_nodes.core import qos
from vla_nodes.core.conversions import array_to_color, array_to_vector, arrays_to_pose

# Shapes of markers, and which of MuJoCo's half extents (radius, half length) are half their sides.
_SHAPES = {
    mujoco.mjtGeom.mjGEOM_BOX: (Marker.CUBE, (0, 1, 2)),
    mujoco.mjtGeom.mjGEOM_CYLINDER: (Marker.CYLINDER, (0, 0, 1)),
    mujoco.mjtGeom.mjGEOM_CAPSULE: (Marker.CYLINDER, (0, 0, 1)),
    mujoco.mjtGeom.mjGEOM_SPHERE: (Marker.SPHERE, (0, 0, 0)),
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: (Marker.SPHERE, (0, 1, 2)),
}
# Geoms of higher groups only collide.
_LAST_SHOWN_GROUP = 2


class SceneFrames:
    """Publishes the tree of frames of one simulator, which must not move while it is read."""

    def __init__(self, node, simulator: TableTopSimulator):
        """Creates the publishers on a lifecycle node."""
        self._simulator = simulator
        publisher = node.create_lifecycle_publisher
        self._description = publisher(String, "robot_description", qos.LATCHED)
        self._fixed = publisher(TFMessage, "tf_static", qos.LATCHED)
        self._moving = publisher(TFMessage, "tf", qos.TRANSFORMS)
        self._shapes = publisher(MarkerArray, "sim/scene", qos.LATCHED)
        self._read: list[TFMessage] = []

    def announce(self, stamp: Time) -> None:
        """Sends what stays the same until the next reset; to be called after each reset."""
        simulator = self._simulator
        self._arm = ArmFrames(simulator.model)
        self._arm_message = _transforms(self._arm.parents, self._arm.names)
        self._bodies = scene_bodies(simulator)
        self._scene_message = _transforms([BASE_FRAME] * len(self._bodies), list(self._bodies))
        self._description.publish(String(data=robot_description(simulator)))
        fixed = fixed_frames(simulator)
        message = _transforms([each.parent for each in fixed], [each.child for each in fixed])
        places = [each.position for each in fixed], [each.quaternion for each in fixed]
        self._fixed.publish(_filled(message, stamp, *places))
        self._shapes.publish(self._scene_shapes())

    def read(self, stamp: Time, with_scene: bool) -> None:
        """Notes where the links are, and the objects, if somebody listens; send() sends it."""
        self._read = []
        if not self._moving.get_subscription_count():
            return
        places = self._arm.places(self._simulator.data)
        self._read.append(_filled(self._arm_message, stamp, *places))
        if with_scene:
            places = scene_places(self._simulator, list(self._bodies.values()))
            self._read.append(_filled(self._scene_message, stamp, *places))

    def send(self) -> None:
        """Sends what read() has noted."""
        for message in self._read:
            self._moving.publish(message)

    def _scene_shapes(self) -> MarkerArray:
        """The scene's shapes as markers, each in its frame, after one that deletes the old."""
        model = self._simulator.model
        markers = [Marker(action=Marker.DELETEALL)]
        markers[0].header.frame_id = BASE_FRAME
        frames = {model.body(body).id: frame for frame, body in self._bodies.items()}
        for geom in range(model.ngeom):
            frame = frames.get(model.geom_bodyid[geom], "")
            if model.geom(geom).name == "table":
                frame = BASE_FRAME
            shape = _SHAPES.get(mujoco.mjtGeom(model.geom_type[geom]))
            if not frame or shape is None or model.geom_group[geom] > _LAST_SHOWN_GROUP:
                continue
            kind, sides = shape
            size, color = model.geom_size[geom], model.geom_rgba[geom]
            marker = Marker(ns=frame, id=geom, type=kind, frame_locked=True)
            marker.header.frame_id = frame
            marker.pose = arrays_to_pose(model.geom_pos[geom], model.geom_quat[geom][[1, 2, 3, 0]])
            marker.scale = array_to_vector(2.0 * size[list(sides)])
            marker.color = array_to_color(color)
            markers.append(marker)
        return MarkerArray(markers=markers)


def _transforms(parents: Sequence[str], children: Iterable[str]) -> TFMessage:
    """A message of frames without places, to be filled again and again."""
    message = TFMessage()
    for parent, child in zip(parents, children, strict=True):
        transform = TransformStamped(child_frame_id=child)
        transform.header.frame_id = parent
        message.transforms.append(transform)
    return message


def _filled(
    message: TFMessage,
    stamp: Time,
    positions: Sequence[np.ndarray] | np.ndarray,
    quaternions: Sequence[np.ndarray] | np.ndarray,
) -> TFMessage:
    """The message with a stamp and places; it is changed."""
    for transform, position, (x, y, z, w) in zip(
        message.transforms, positions, np.asarray(quaternions).tolist(), strict=True
    ):
        transform.header.stamp = stamp
        transform.transform.translation = array_to_vector(position)
        transform.transform.rotation = Quaternion(x=x, y=y, z=z, w=w)
    return message
