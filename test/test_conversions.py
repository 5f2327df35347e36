"""Messages to arrays and back."""

import io

import numpy as np
import pytest
from geometry_msgs.msg import Pose
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla.data.messages import (
    compressed_to_array,
    image_to_array,
    joint_positions,
    pose_to_arrays,
    stamp_to_nanoseconds,
)
from vla_nodes.conversions import (
    array_to_image,
    arrays_to_pose,
    camera_info,
    nanoseconds_to_stamp,
    seconds_to_stamp,
    stamp_to_seconds,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
STAMP = nanoseconds_to_stamp(1_700_000_000_123_456_789)


def image(data: np.ndarray, encoding: str, padding: int = 0) -> Image:
    height, width = data.shape[:2]
    rows = data.reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return Image(
        height=height, width=width, encoding=encoding, step=rows.shape[1], data=rows.tobytes()
    )


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("rgb8", PIXELS),
        ("bgr8", PIXELS[..., ::-1]),
        ("rgba8", np.dstack([PIXELS, PIXELS[..., :1]])),
        ("bgra8", np.dstack([PIXELS[..., ::-1], PIXELS[..., :1]])),
    ],
)
def test_colour_images_become_rgb(encoding, data, padding):
    assert np.array_equal(image_to_array(image(data, encoding, padding)), PIXELS)


def test_grey_images_become_rgb():
    grey = PIXELS[..., 0]
    assert np.array_equal(image_to_array(image(grey, "mono8")), np.dstack([grey] * 3))


def test_image_round_trip_keeps_pixels_stamp_and_frame():
    message = array_to_image(PIXELS, STAMP, "camera")
    assert (message.header.stamp, message.header.frame_id) == (STAMP, "camera")
    assert np.array_equal(image_to_array(message), PIXELS)


def test_image_of_a_strided_array():
    assert np.array_equal(image_to_array(array_to_image(PIXELS[:, ::2], STAMP, "")), PIXELS[:, ::2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "32FC1"}, "encoding is '32FC1'"),
        ({"step": 17}, "step is 17 bytes; a row of 6 rgb8 pixels has 18"),
        ({"step": 19}, "data has 72 bytes; 4 rows of 19 bytes are 76"),
        ({"data": b"12"}, "data has 2 bytes"),
        ({"width": 0}, "size is 0 x 4 pixels"),
    ],
)
def test_malformed_images_are_refused(change, words):
    message = image(PIXELS, "rgb8")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=words):
        image_to_array(message)


def test_png_is_decoded_and_noise_is_refused():
    stream = io.BytesIO()
    PillowImage.fromarray(PIXELS).save(stream, "png")
    message = CompressedImage(format="png", data=stream.getvalue())
    assert np.array_equal(compressed_to_array(message), PIXELS)
    with pytest.raises(ValueError, match="cannot decode the compressed image"):
        compressed_to_array(CompressedImage(format="png", data=b"not a picture"))


def test_joints_are_found_by_name():
    message = JointState(name=["b", "a", "c"], position=[2.0, 1.0, 3.0])
    assert joint_positions(message, ["a", "b"]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("names", "positions", "words"),
    [
        (["a"], [1.0], "lack b; they have a"),
        (["a", "b"], [1.0], "2 names and 1 positions"),
        (["a", "b"], [1.0, float("nan")], "not finite"),
        (["a", "b"], [1.0, float("inf")], "not finite"),
    ],
)
def test_bad_joint_states_are_refused(names, positions, words):
    with pytest.raises(ValueError, match=words):
        joint_positions(JointState(name=names, position=positions), ["a", "b"])


def test_pose_round_trip():
    position, quaternion = pose_to_arrays(arrays_to_pose([1, 2, 3], [0, 0.6, 0, 0.8]))
    assert position.tolist() == [1, 2, 3]
    assert quaternion.tolist() == [0, 0.6, 0, 0.8]


def test_bad_poses_are_refused():
    pose = Pose()
    pose.position.y = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        pose_to_arrays(pose)
    pose = Pose()
    pose.orientation.w = 0.5
    with pytest.raises(ValueError, match="unit length"):
        pose_to_arrays(pose)


def test_stamps_are_exact_in_nanoseconds():
    assert stamp_to_nanoseconds(STAMP) == 1_700_000_000_123_456_789
    assert stamp_to_seconds(STAMP) == pytest.approx(1_700_000_000.123456789, abs=1e-6)
    assert stamp_to_nanoseconds(seconds_to_stamp(1.9999999999)) == 2_000_000_000


def test_camera_info_projects_like_its_matrix():
    matrix = np.array([[100.0, 0, 47.5], [0, 100.0, 47.5], [0, 0, 1]])
    message = camera_info(matrix, 96, 96, STAMP, "camera")
    assert np.array_equal(np.reshape(message.k, (3, 3)), matrix)
    assert np.array_equal(np.reshape(message.p, (3, 4))[:, :3], matrix)
