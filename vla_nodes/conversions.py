"""Between ROS messages and arrays: images, joints, poses, times. Bad messages raise ValueError."""

from __future__ import annotations

import array
import io
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion
from PIL import Image as PillowImage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

# Bytes per pixel, and which of them are red, green and blue.
_ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
NANOSECONDS = 1_000_000_000


def image_to_array(message: Image) -> np.ndarray:
    """The image as uint8 [height, width, 3] in red, green, blue order.

    Takes rgb8, bgr8, rgba8, bgra8 and mono8, with or without padding at the ends of rows; an rgb8
    image without padding is a read-only view of the message's data. Raises ValueError that names
    the field that does not fit.
    """
    if message.encoding not in _ENCODINGS:
        known = ", ".join(_ENCODINGS)
        raise ValueError(f"encoding is '{message.encoding}'; expected one of {known}")
    channels, order = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ValueError(f"size is {width} x {height} pixels")
    if step < width * channels:
        raise ValueError(
            f"step is {step} bytes; a row of {width} {message.encoding} pixels has "
            f"{width * channels}"
        )
    if len(message.data) != step * height:
        raise ValueError(
            f"data has {len(message.data)} bytes; {height} rows of {step} bytes are {step * height}"
        )
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(height, step)
    pixels = rows[:, : width * channels].reshape(height, width, channels)
    return pixels if message.encoding == "rgb8" else pixels[:, :, order]


def array_to_image(pixels: np.ndarray, stamp: Time, frame: str) -> Image:
    """An rgb8 image message of uint8 [height, width, 3]."""
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp = stamp
    message.header.frame_id = frame
    # Anything but an array of bytes is checked by rclpy element by element, which is slow.
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message


def compressed_to_array(message: CompressedImage) -> np.ndarray:
    """A JPEG or PNG image as uint8 [height, width, 3]; raises ValueError when it is neither."""
    try:
        with PillowImage.open(io.BytesIO(bytes(message.data))) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot decode the compressed image ({message.format})") from error


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


def joint_positions(message: JointState, names: Sequence[str]) -> np.ndarray:
    """Positions [len(names)] of the named joints, whatever their order in the message.

    Raises ValueError when one is missing or not finite.
    """
    if len(message.position) != len(message.name):
        raise ValueError(
            f"joint states have {len(message.name)} names and {len(message.position)} positions"
        )
    by_name = dict(zip(message.name, message.position, strict=True))
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(
            f"joint states lack {', '.join(missing)}; they have {', '.join(message.name)}"
        )
    positions = np.array([by_name[name] for name in names], dtype=np.float64)
    if not np.isfinite(positions).all():
        raise ValueError(f"joint states are not finite: {positions.tolist()}")
    return positions


def pose_to_arrays(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and quaternion [4] as x y z w.

    Raises ValueError when a value is not finite or the quaternion is not of unit length.
    """
    point, turn = pose.position, pose.orientation
    position = np.array([point.x, point.y, point.z])
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
        raise ValueError(f"pose is not finite: {position.tolist()} {quaternion.tolist()}")
    if abs(np.linalg.norm(quaternion) - 1.0) > 1e-2:
        raise ValueError(f"quaternion is not of unit length: {quaternion.tolist()}")
    return position, quaternion


def arrays_to_pose(position: np.ndarray, quaternion_xyzw: np.ndarray) -> Pose:
    """A pose of position [3] and quaternion [4] as x y z w."""
    x, y, z = map(float, position)
    qx, qy, qz, qw = map(float, quaternion_xyzw)
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def stamp_to_nanoseconds(stamp: Time) -> int:
    """A stamp as whole nanoseconds, exact."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def nanoseconds_to_stamp(nanoseconds: int) -> Time:
    """A stamp of whole nanoseconds, exact."""
    seconds, rest = divmod(int(nanoseconds), NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def stamp_to_seconds(stamp: Time) -> float:
    """A stamp as seconds; exact to better than a microsecond."""
    return stamp.sec + stamp.nanosec * 1e-9


def seconds_to_stamp(seconds: float) -> Time:
    """A stamp of seconds, rounded to a nanosecond."""
    return nanoseconds_to_stamp(round(seconds * NANOSECONDS))
