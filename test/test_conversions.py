"""Messages to arrays and back."""

import io
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Pose
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla.observations.image_encodings import ENCODINGS
from vla.observations.messages import (
    compressed_to_array,
    image_to_array,
    joint_positions,
    pose_to_arrays,
    stamp_to_nanoseconds,
)
from vla_nodes.core.conversions import (
    array_to_image,
    arrays_to_pose,
    camera_info,
    nanoseconds_to_stamp,
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
        (["a", "b"], [1.0, float("nan")], "no finite position for b"),
        (["a", "b"], [1.0, float("inf")], "no finite position for b"),
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


def test_camera_info_projects_like_its_matrix():
    matrix = np.array([[100.0, 0, 47.5], [0, 100.0, 47.5], [0, 0, 1]])
    message = camera_info(matrix, 96, 96, STAMP, "camera")
    assert np.array_equal(np.reshape(message.k, (3, 3)), matrix)
    assert np.array_equal(np.reshape(message.p, (3, 4))[:, :3], matrix)


OPENCV = np.load(Path(__file__).parent / "data/opencv_encodings.npz")
# Old names of the same.
ALIASES = {"yuv422": "uyvy", "yuv422_yuy2": "yuyv"}


def raw_image(encoding: str, padding: int = 0, big_endian: bool = False) -> tuple:
    """A message whose pixels OpenCV has converted, and those pixels."""
    name = ALIASES.get(encoding, encoding)
    raw, pixels = OPENCV[f"{name}.data"], OPENCV[f"{name}.rgb"]
    if big_endian:
        raw = raw.astype(">u2")
    rows = np.ascontiguousarray(raw).view(np.uint8).reshape(len(raw), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    height, width = pixels.shape[:2]
    message = Image(
        height=height, width=width, encoding=encoding, step=rows.shape[1], data=rows.tobytes(),
        is_bigendian=int(big_endian),
    )  # fmt: skip
    return message, pixels


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    "encoding", [*sorted({name.partition(".")[0] for name in OPENCV}), *ALIASES]
)
def test_pixels_are_those_of_opencv(encoding, padding):
    message, pixels = raw_image(encoding, padding)
    assert np.array_equal(image_to_array(message), pixels)


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_gbrg16"])
def test_big_endian_values(encoding):
    message, pixels = raw_image(encoding, padding=2, big_endian=True)
    assert np.array_equal(image_to_array(message), pixels)


def test_order_and_alpha_of_16_bit_colours():
    wide = np.random.default_rng(3).integers(0, 65536, (4, 6, 4), dtype=np.uint16)
    expected = np.rint(wide[..., :3] / 257).astype(np.uint8)
    for encoding, data in {
        "rgba16": wide,
        "bgra16": wide[..., [2, 1, 0, 3]],
        "bgr16": wide[..., [2, 1, 0]],
    }.items():
        step = 6 * 2 * data.shape[2]
        message = Image(height=4, width=6, encoding=encoding, step=step, data=data.tobytes())
        assert np.array_equal(image_to_array(message), expected)


def test_full_chroma_is_that_of_half_chroma_where_neighbours_share_it():
    nv12, pixels = raw_image("nv12")
    planes = np.frombuffer(nv12.data, np.uint8).reshape(-1, nv12.width)
    chroma = planes[nv12.height :].reshape(nv12.height // 2, nv12.width // 2, 2)
    chroma = chroma.repeat(2, axis=0).repeat(2, axis=1).reshape(nv12.height, 2 * nv12.width)
    for padding in (0, 3):
        luma = np.pad(planes[: nv12.height], ((0, 0), (0, padding)))
        rows = np.pad(chroma, ((0, 0), (0, 2 * padding)))
        nv12.encoding, nv12.step = "nv24", nv12.width + padding
        nv12.data = luma.tobytes() + rows.tobytes()
        assert np.array_equal(image_to_array(nv12), pixels)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize(
    "change",
    [{"step": 0}, {"step": 13}, {"width": 0}, {"height": 0}, {"width": 2**32 - 1},
     {"height": 2**32 - 1}, {"data": b""}, {"data": b"1234567"}, {"height": 1, "width": 1}],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_in_every_encoding(encoding, change):
    layout = ENCODINGS[encoding]
    step = layout.row(16)
    message = Image(height=16, width=16, encoding=encoding, step=step)
    message.data = bytes(step * layout.rows(16))
    assert image_to_array(message).shape == (16, 16, 3)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=r"^(step|data|size|width|height)") as caught:
        image_to_array(message)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "yuyv", "width": 5}, "width is 5 pixels; yuyv images have an even width"),
        ({"encoding": "nv12", "height": 3}, "height is 3 pixels; nv12 images have an even height"),
        ({"encoding": "8UC3"}, "8UC3 doesn't say in which order the colours are"),
        ({"encoding": "16UC1"}, "this is a depth image"),
        ({"encoding": "x\n" * 5000}, r"encoding is 'x\\nx\\n.*set its driver to rgb8 or bgr8"),
    ],
)
def test_encodings_without_a_picture_name_the_cure(change, words):
    message = image(PIXELS, "rgb8")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=words) as caught:
        image_to_array(message)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.slow
def test_compressed_images_that_are_none():
    stream = io.BytesIO()
    PillowImage.new("1", (9000, 9000)).save(stream, "png")
    with pytest.raises(ValueError, match="too many pixels"):
        compressed_to_array(CompressedImage(format="png", data=stream.getvalue()))
    bomb = io.BytesIO()
    PillowImage.new("1", (30000, 30000)).save(bomb, "png")
    with pytest.raises(ValueError, match="too many pixels"):
        compressed_to_array(CompressedImage(format="png", data=bomb.getvalue()))
    depth = CompressedImage(format="16UC1; compressedDepth png", data=stream.getvalue())
    with pytest.raises(ValueError, match="is a depth image"):
        compressed_to_array(depth)
    whole = io.BytesIO()
    PillowImage.fromarray(PIXELS).save(whole, "png")
    for cut in range(0, len(whole.getvalue()) - 20, 5):
        with pytest.raises(ValueError, match="cannot decode"):
            compressed_to_array(CompressedImage(format="png", data=whole.getvalue()[:cut]))


def test_16_bit_grey_png_is_that_of_a_raw_image():
    message, pixels = raw_image("mono16")
    grey = np.frombuffer(message.data, "<u2").reshape(message.height, message.width)
    stream = io.BytesIO()
    PillowImage.fromarray(grey).save(stream, "png")
    assert np.array_equal(
        compressed_to_array(CompressedImage(format="mono16; png", data=stream.getvalue())), pixels
    )
