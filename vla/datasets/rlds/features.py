"""What an RLDS data set holds, from its features.json, and its values from a record.

`tfds` describes features as a tree, in two ways: newer versions by "pythonClassName" and one entry
for the content, older ones by "type" and "content". A record holds them flat, by their path in the
tree; those of "steps" one behind the other, of all steps of the episode.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.core.files import read_json, read_json_text
from vla.core.shown import brief
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.rlds.examples import Values

FEATURES_FILE = "features.json"
STEPS = "steps"
IMAGE, TEXT, OTHER = "image", "string", "other"
# Names of tfds for texts, and the wire's type of what they are stored as.
_TEXTS = ("string", "object", "str", "bytes")
_SEQUENCES = ("Dataset", "Sequence")
_CONTENTS = ("featuresDict", "sequence", "image", "text", "tensor", "jsonFeature")
_DEEPEST = 16
_MOST_VALUES = 10**8


@dataclass(frozen=True)
class RldsFeature:
    """One leaf of the tree."""

    key: str  # in a record
    # "image", "string", the dtype of numbers, or "other" for what can't be read here.
    kind: str
    shape: tuple[int, ...] = ()  # of one value; of an image it is not needed
    encoding: str = "none"  # "bytes" or "zlib" for arrays that are stored as bytes

    @property
    def size(self) -> int:
        """Numbers in one value."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class RldsFeatures:
    """All leaves by their path, those of steps without "steps/"."""

    steps: dict[str, RldsFeature]  # one value for each step
    episode: dict[str, RldsFeature]  # one value for the episode


def read_features(folder: Path) -> RldsFeatures:
    """Reads features.json. Raises DatasetError where it is missing or describes no episodes."""
    path = folder / FEATURES_FILE
    if not path.is_file():
        raise DatasetError(
            f"{folder} has no {FEATURES_FILE}, which tfds writes since version 4; fetch it, or "
            "write the data set again with a newer tfds"
        )
    steps: dict[str, RldsFeature] = {}
    episode: dict[str, RldsFeature] = {}
    for parts, in_steps, feature in _leaves(read_json(path, DatasetError), (), False, str(path)):
        (steps if in_steps else episode)["/".join(parts)] = feature
    if not steps:
        raise DatasetError(
            f"{path} describes no '{STEPS}': it is no RLDS data set, whose examples are episodes"
        )
    return RldsFeatures(steps, episode)


def _leaves(
    node: Any, parts: tuple[str, ...], in_steps: bool, path: str
) -> Iterator[tuple[tuple[str, ...], bool, RldsFeature]]:
    """The leaves under a node: path below the steps or the episode, whether of steps, feature."""
    where = f"{path}: {one_line('/'.join(parts) or 'the top', 80)}"
    if len(parts) > _DEEPEST:
        raise DatasetError(f"{where} is nested more than {_DEEPEST} deep")
    kind, content = _content(node, where)
    key = "/".join((STEPS, *parts) if in_steps else parts)
    if kind == "FeaturesDict":
        for name, entry in _mapping(content.get("features", content), where).items():
            yield from _leaves(entry, (*parts, name), in_steps, path)
    elif kind in _SEQUENCES and parts == (STEPS,) and not in_steps:
        yield from _leaves(content.get("feature"), (), True, path)
    elif kind == "Image":
        yield parts, in_steps, RldsFeature(key, IMAGE)
    elif kind == "Text":
        yield parts, in_steps, RldsFeature(key, TEXT)
    elif kind in ("Tensor", "Scalar"):
        yield parts, in_steps, _tensor(key, content, where)
    else:
        yield parts, in_steps, RldsFeature(key, OTHER)


def _content(node: Any, where: str) -> tuple[str, dict]:
    """A node's class, without its module, and what is said of it."""
    entry = _mapping(node, where)
    named = entry.get("type", entry.get("pythonClassName"))
    if not isinstance(named, str):
        raise DatasetError(f"{where} has no class, got {brief(entry)}; fetch it again")
    if "type" in entry:
        content = entry.get("content")
        if isinstance(content, str):
            content = read_json_text(content, where, DatasetError)
    else:
        content = next((entry[name] for name in _CONTENTS if name in entry), {})
        if isinstance(content, dict) and isinstance(content.get("json"), str):
            content = read_json_text(content["json"], where, DatasetError)
    return named.rpartition(".")[2], _mapping({} if content is None else content, where)


def _tensor(key: str, content: dict, where: str) -> RldsFeature:
    dtype, encoding = content.get("dtype"), content.get("encoding") or "none"
    shape = content.get("shape", [])
    if isinstance(shape, dict):
        shape = shape.get("dimensions", [])
    try:
        sizes = tuple(int(size) for size in shape)
        numbers = dtype not in _TEXTS and np.dtype(dtype).kind in "biuf"
    except (TypeError, ValueError):
        return RldsFeature(key, OTHER)
    if any(size < 0 for size in sizes) or encoding not in ("none", "bytes", "zlib"):
        return RldsFeature(key, OTHER)
    if math.prod(sizes) > _MOST_VALUES:
        raise DatasetError(f"{where} has the shape {brief(sizes)}; correct it")
    if numbers:
        return RldsFeature(key, str(dtype), sizes, encoding)
    return RldsFeature(key, TEXT if dtype in _TEXTS and not sizes else OTHER)


def _mapping(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise DatasetError(f"{where} must be a mapping, got {brief(value)}; fetch it again")
    return value


def numbers_of(feature: RldsFeature, values: Values) -> np.ndarray:
    """All values of a feature of numbers, float64 [N, D], D numbers in each.

    Raises DatasetError where they are not as features.json says, or not finite.
    """
    dtype = np.dtype(feature.kind).newbyteorder("<")
    if feature.encoding != "none":
        if not isinstance(values, list):
            raise DatasetError(f"{feature.key} is not stored as bytes; fetch the file again")
        raw = [_unpacked(feature, value, dtype.itemsize * feature.size) for value in values]
        flat = np.frombuffer(b"".join(raw), dtype)
    else:
        if isinstance(values, list):
            raise DatasetError(f"{feature.key} is stored as bytes; fetch the file again")
        # Whole numbers of 64 bits without a sign are stored as those with one.
        flat = values.view(np.uint64) if feature.kind == "uint64" else values
    if len(flat) % max(1, feature.size):
        raise DatasetError(
            f"{feature.key} has {len(flat)} numbers, no multiple of {feature.size}; fetch the file "
            "again"
        )
    rows = flat.astype(np.float64).reshape(-1, max(1, feature.size))
    if not (np.abs(rows) <= np.finfo(np.float32).max).all():
        raise DatasetError(f"{feature.key} holds NaN or infinity")
    return rows


def _unpacked(feature: RldsFeature, value: bytes, size: int) -> bytes:
    """The bytes of one array, of the size that they must have."""
    if feature.encoding == "zlib":
        try:
            # No more than that, whatever a few bytes expand to.
            value = zlib.decompressobj().decompress(value, size + 1)
        except zlib.error as error:
            raise DatasetError(
                f"{feature.key} can't be decompressed ({one_line(error)}); fetch the file again"
            ) from error
    if len(value) != size:
        raise DatasetError(f"{feature.key} does not have {size} bytes; fetch the file again")
    return value


def text_of(feature: RldsFeature, value: Any) -> str:
    """A text or a whole number as text. Raises DatasetError where it is no UTF-8."""
    if not isinstance(value, bytes):
        return str(int(value))
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{feature.key} is no text: {brief(value)}") from error
