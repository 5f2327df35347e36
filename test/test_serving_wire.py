"""Messages as bytes, in openpi's format, and bytes that are none."""

import io

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vla.policies.base import PolicyFeatures
from vla.serving.requests import (
    CHUNK,
    RequestError,
    decode_jpeg,
    encode_jpeg,
    read_request,
)
from vla.serving.wire import WireError, pack, unpack

# What openpi_client 0.1.2 packs for {"a": np.arange(3, dtype=np.int16), "b": np.float32(0.5)}.
FROM_OPENPI = bytes.fromhex(
    "82a16184c40b5f5f6e6461727261795f5fc3c40464617461c406000001000200c4056474797065a33c6932c405"
    "73686170659103a16283c40d5f5f6e7067656e657269635f5fc3c40464617461cb3fe0000000000000c4056474"
    "797065a33c6634"
)
IMAGES = {name: np.zeros((96, 96, 3), np.uint8) for name in ("front", "wrist")}
TWO_PARTS = PolicyFeatures(("front", "wrist"), True, True, True, (4, 8), 16, 10.0, thinks=True)
PLAIN = {"images": IMAGES, "state": [0.0] * 10, "prompt": "go"}


def test_openpis_arrays_are_read():
    values = unpack(FROM_OPENPI)
    assert values["a"].dtype == np.int16 and values["a"].tolist() == [0, 1, 2]
    assert values["b"] == 0.5
    assert pack({"a": np.arange(3, dtype=np.int16), "b": np.float32(0.5)}) == FROM_OPENPI


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_what_is_packed_comes_back(values):
    assert unpack(pack(values)) == values


@settings(max_examples=50)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_an_error(content):
    try:
        unpack(content)
    except WireError as error:
        assert "\n" not in str(error)


def array(**entries) -> bytes:
    plain = {"__ndarray__": True, "data": b"1234", "dtype": "<f4", "shape": [1]} | entries
    return msgpack.packb({name.encode(): value for name, value in plain.items()})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xc1", "no MessagePack"),
        (b"\x93\x01", "no MessagePack"),
        (pack([1]) + b"\x01", "no MessagePack"),
        (b"\x91" * 2000 + b"\x01", "no MessagePack"),
        (array(dtype="|O"), "of type '|O'; send numbers"),
        (array(dtype="<f4,<f4"), "send numbers"),
        (array(dtype=None), "send numbers"),
        (array(dtype="<U1"), "send numbers"),
        (array(data=b"123"), r"\[1\] of float32 takes 4 bytes, got 3 bytes"),
        (array(data="1234"), "takes 4 bytes, got '1234'"),
        (array(shape=[-1]), "sizes are whole numbers"),
        (array(shape=[2**40, 2**40]), "sizes are whole numbers"),
        (array(shape=[1] * 9), "send a list of sizes"),
        (array(shape=7), "send a list of sizes"),
        (msgpack.packb({b"__npgeneric__": True, b"data": [], b"dtype": "<i4"}), "a scalar"),
    ],
)
def test_what_is_no_message(content, says):
    with pytest.raises(WireError, match=says):
        unpack(content)


def test_objects_are_not_packed():
    for value in (np.array([{}]), object(), np.array([1j])):
        with pytest.raises(TypeError, match="a message can't hold"):
            pack({"value": value})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"do": "dance"}, "do is 'dance'; it takes one of infer, act, chunk, ask, observe"),
        ({"image": 1}, "unknown entries: image; known: images"),
        ({"images": []}, "images must be a dictionary by camera"),
        ({"images": {"front": IMAGES["front"]}}, "no image of camera 'wrist'; got: front"),
        ({"images": IMAGES | {"wrist": np.zeros((3, 96, 96))}}, r"expected uint8 \[H, W, 3\]"),
        ({"images": IMAGES | {"wrist": "a.jpg"}}, "send an array or a JPEG"),
        ({"images": IMAGES | {"wrist": b"\xff\xd8no"}}, "image 'wrist' is no JPEG"),
        ({"state": [0.0] * 9}, r"state \(.*\) must be \[10\] finite numbers"),
        ({"state": [float("nan")] * 10}, "finite numbers"),
        ({"state": None}, "finite numbers"),
        ({"prompt": 7}, "prompt must be text"),
        ({"prompt": "go \u202e"}, "invisible|bidirectional|character"),
        ({"prompt": "a" * 1001}, "1001 characters"),
        ({"seed": -1}, "seed"),
        ({"stamp": float("inf")}, "stamp"),
        ({"reset": 1}, "reset must be true or false"),
        ({"do": CHUNK}, r"latent must be \[4, 8\] finite numbers"),
        ({"before": np.zeros((17, 7)), "committed": 1}, "before must have 1 to 16 steps, got 17"),
        ({"before": np.zeros((3, 7)), "committed": 4}, "committed"),
    ],
)
def test_what_is_no_request(contract, changes, says):
    with pytest.raises(RequestError, match=says):
        read_request(PLAIN | changes, contract, TWO_PARTS, 0.0)


def test_what_a_policy_cannot_do(contract):
    silent = PolicyFeatures((), True, False, False, None, 16, 10.0)
    for changes, says in (
        ({"do": CHUNK}, "one part"),
        ({"do": "ask"}, "gives no text"),
        ({"think": True}, "does not say what it will do"),
    ):
        with pytest.raises(RequestError, match=says):
            read_request(PLAIN | changes, contract, silent, 0.0)


def test_images_of_any_size_are_fitted_as_perception_does(contract):
    tall = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    request = read_request(PLAIN | {"images": IMAGES | {"front": tall}}, contract, TWO_PARTS, 3.5)
    assert request.images["front"].shape == (96, 96, 3) and request.stamp == 3.5


def test_jpegs_are_close_and_smaller():
    y, x = np.mgrid[:96, :96]
    image = np.stack([x * 2, y * 2, 255 - x], -1).astype(np.uint8)
    content = encode_jpeg(image)
    assert len(content) < image.nbytes / 5
    assert np.abs(decode_jpeg(content, "front").astype(int) - image).max() <= 8
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    with pytest.raises(RequestError, match="no JPEG"):
        decode_jpeg(png.getvalue(), "front")
