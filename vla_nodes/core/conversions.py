"""Arrays to ROS messages: images, poses, vectors, colours, times."""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import ColorRGBA

from vla.observations.messages import NANOSECONDS


def array_to_image(pixels: np.ndarray, stamp: Time, frame: str) -> Image:
    """An rgb8 image message of uint8 [height, width, 3]."""
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp = stamp
    message.header.frame_id = frame
    # Anything but an array of bytes is checked by rclpy element by element, which is slow.
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message


def camera_info(matrix: np.ndarray, width: int, height: int, stamp: Time, frame: str) -> CameraInfo:
    """Calibration of an ideal pinhole camera with intrinsics `matrix` [3, 3] in pixels."""
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
    message.header.stamp = stamp
    message.header.frame_id = frame
    message.d = [0.0] * 5
    message.k = matrix.reshape(-1)
    message.r = np.eye(3).reshape(-1)
    message.p = np.hstack([matrix, np.zeros((3, 1))]).reshape(-1)
    return message


def arrays_to_pose(position: np.ndarray, quaternion_xyzw: np.ndarray) -> Pose:
    """A pose of position [3] and quaternion [4] as x y z w."""
    qx, qy, qz, qw = map(float, quaternion_xyzw)
    return Pose(position=array_to_point(position), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def array_to_point(values: Sequence[float] | np.ndarray) -> Point:
    """A point of x, y, z [3]."""
    x, y, z = map(float, values)
    return Point(x=x, y=y, z=z)


def array_to_vector(values: Sequence[float] | np.ndarray) -> Vector3:
    """A vector of x, y, z [3]."""
    x, y, z = map(float, values)
    return Vector3(x=x, y=y, z=z)


def array_to_color(values: Sequence[float] | np.ndarray) -> ColorRGBA:
    """A colour of red, green, blue and opacity [4], 0 to 1."""
    r, g, b, a = map(float, values)
    return ColorRGBA(r=r, g=g, b=b, a=a)


def nanoseconds_to_stamp(nanoseconds: int) -> Time:
    """A stamp of whole nanoseconds, exact."""
    seconds, rest = divmod(int(nanoseconds), NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def stamp_to_seconds(stamp: Time) -> float:
    """A stamp as seconds; exact to better than a microsecond."""
    return stamp.sec + stamp.nanosec * 1e-9
