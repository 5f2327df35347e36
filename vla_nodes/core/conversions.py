"""Arrays to ROS messages: images, poses, times."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion
from sensor_msgs.msg import CameraInfo, Image

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
    x, y, z = map(float, position)
    qx, qy, qz, qw = map(float, quaternion_xyzw)
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def nanoseconds_to_stamp(nanoseconds: int) -> Time:
    """A stamp of whole nanoseconds, exact."""
    seconds, rest = divmod(int(nanoseconds), NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def stamp_to_seconds(stamp: Time) -> float:
    """A stamp as seconds; exact to better than a microsecond."""
    return stamp.sec + stamp.nanosec * 1e-9
