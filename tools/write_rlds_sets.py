"""Writes the small RLDS data sets of test/data/rlds by tfds, and what tfds reads from them.

In an environment with tensorflow-cpu, tensorflow-datasets and scipy:
    python tools/write_rlds_sets.py write mini_bridge FOLDER
    python tools/write_rlds_sets.py read FOLDER/mini_bridge/1.0.0 test/data/rlds/mini_bridge.npz \
        --transforms InstructVLA/prismatic/vla/datasets/rlds/utils/data_utils.py

mini_bridge has the layout of tfds 4.9, mini_fractal was written by tfds 4.4, whose features.json is
another. --transforms: a file of InstructVLA's authors, whose functions compute the actions.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from scipy.spatial.transform import Rotation

features = tfds.features
TASKS = (
    "put the spoon on the towel", "öffne die Schublade", "", "close the drawer",
    "put the spoon on the towel", "lift the pot", "lift the pot",
)  # fmt: skip
# The last one of Bridge is too short to be used.
BRIDGE_LENGTHS, FRACTAL_LENGTHS = (5, 7, 4, 3, 4, 3, 2), (4, 6, 5, 3)


def scalar(dtype: tf.DType):
    """The feature of a scalar, for which tfds 4.4 has none."""
    return features.Scalar(dtype=dtype) if hasattr(features, "Scalar") else dtype


def picture(height: int, width: int, number: int) -> np.ndarray:
    """A smooth image that compresses well."""
    y, x = np.mgrid[:height, :width]
    red, green = np.sin((x + 3 * number) / 5), np.cos((y - 2 * number) / 4)
    return (128 + 100 * np.stack([red, green, -(red + green) / 2], -1)).astype(np.uint8)


def flags(step: int, length: int) -> dict:
    """What RLDS says of a step."""
    last = step == length - 1
    return {"is_first": step == 0, "is_last": last, "is_terminal": last, "reward": float(last)}


def bridge_episode(number: int) -> dict:
    """Opens, passes through a value in between, closes; the second ends in between."""
    generator, length = np.random.default_rng(100 + number), BRIDGE_LENGTHS[number]
    states = generator.normal(0, 0.02, (length, 7)).cumsum(0)
    states[:, :3] += 0.3, 0, 0.1
    states[:, 6] = np.linspace(1.0, 0.1, length)
    actions = generator.normal(0, 0.02, (length, 7))
    actions[0], actions[:, 6] = 0, np.arange(length) < length // 2
    actions[length // 2, 6] = 0.6
    if number == 1:
        actions[-1, 6] = 0.5
    steps = [
        {
            "observation": {
                "image_0": picture(16, 16, 10 * number + step),
                "image_1": picture(16, 16, 10 * number + step + 20),
                "state": states[step].astype(np.float32),
                "extra": {
                    "wrench": generator.normal(size=(2, 3)),
                    "counts": np.array([step, -step], np.int32),
                    "contact": bool(step % 2),
                },
            },
            "action": actions[step].astype(np.float32),
            "language_instruction": TASKS[number],
            **flags(step, length),
        }
        for step in range(length)
    ]
    file = f"/data/bridge_data_v2/task_{number // 2}/train/out.npy"
    metadata = {"file_path": file, "episode_id": number % 2, "has_language": bool(TASKS[number])}
    return {"steps": steps, "episode_metadata": metadata}


def fractal_episode(number: int) -> dict:
    """The gripper closes; ignores noise, closes and opens; opens; never moves."""
    generator, length = np.random.default_rng(200 + number), FRACTAL_LENGTHS[number]
    positions = generator.normal(0, 0.02, (length, 3)).cumsum(0) + np.array([0.5, 0, 0.8])
    angles = generator.normal(0, 0.05, (length, 3)).cumsum(0)
    poses = np.hstack([positions, Rotation.from_euler("xyz", angles).as_quat()])
    closing = [{2: 1.0}, {1: 0.05, 2: 1.0, 4: -1.0}, {3: -0.8}, {}][number]
    task = ("pick coke can", "move apple near sponge", "open top drawer", "knock can over")[number]
    steps = [
        {
            "observation": {
                "image": picture(16, 20, 7 * number + step),
                "base_pose_tool_reached": poses[step].astype(np.float32),
                "gripper_closed": np.array([step >= length // 2], np.float32),
                "natural_language_instruction": task,
                "natural_language_embedding": generator.normal(size=4).astype(np.float32),
            },
            "action": {
                "world_vector": generator.normal(0, 0.03, 3).astype(np.float32),
                "rotation_delta": generator.normal(0, 0.03, 3).astype(np.float32),
                "gripper_closedness_action": np.array([closing.get(step, 0)], np.float32),
            },
            **flags(step, length),
        }
        for step in range(length)
    ]
    metadata = {"file_path": f"fractal/part_{number}", "episode_id": str(1000 + number)}
    return {"steps": steps, "episode_metadata": metadata}


def step_flags() -> dict:
    """The features of flags()."""
    names = ("is_first", "is_last", "is_terminal")
    return dict.fromkeys(names, scalar(tf.bool)) | {"reward": scalar(tf.float32)}


class MiniBridge(tfds.core.GeneratorBasedBuilder):
    """The features of bridge_dataset, and a few more."""

    VERSION = tfds.core.Version("1.0.0")
    SHARDS = 3

    def _info(self) -> tfds.core.DatasetInfo:
        observation = {
            "image_0": features.Image(shape=(16, 16, 3), encoding_format="jpeg"),
            "image_1": features.Image(shape=(16, 16, 3), encoding_format="png"),
            "state": features.Tensor(shape=(7,), dtype=tf.float32),
            "extra": {
                "wrench": features.Tensor(shape=(2, 3), dtype=tf.float64, encoding="zlib"),
                "counts": features.Tensor(shape=(2,), dtype=tf.int32),
                "contact": scalar(tf.bool),
            },
        }
        steps = {
            "observation": observation,
            "action": features.Tensor(shape=(7,), dtype=tf.float32),
            "language_instruction": features.Text(),
            **step_flags(),
        }
        metadata = {
            "file_path": features.Text(), "episode_id": scalar(tf.int32),
            "has_language": scalar(tf.bool),
        }  # fmt: skip
        both = {"steps": features.Dataset(steps), "episode_metadata": metadata}
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(both))

    def _split_generators(self, _) -> dict:
        return {"train": self._generate_examples(0, 4), "val": self._generate_examples(4, 7)}

    def _generate_examples(self, first: int, last: int) -> Iterator[tuple[str, dict]]:
        for number in range(first, last):
            yield str(number), bridge_episode(number)


class MiniFractal(tfds.core.GeneratorBasedBuilder):
    """The features of InstructVLA's copy of fractal20220817_data, and arrays stored as bytes."""

    VERSION = tfds.core.Version("0.1.0")
    SHARDS = 2

    def _info(self) -> tfds.core.DatasetInfo:
        observation = {
            "image": features.Image(shape=(16, 20, 3), encoding_format="jpeg"),
            "base_pose_tool_reached": features.Tensor(
                shape=(7,), dtype=tf.float32, encoding="zlib"
            ),
            "gripper_closed": features.Tensor(shape=(1,), dtype=tf.float32),
            "natural_language_instruction": tf.string,
            "natural_language_embedding": features.Tensor(
                shape=(4,), dtype=tf.float32, encoding="bytes"
            ),
        }
        sizes = {"world_vector": 3, "rotation_delta": 3, "gripper_closedness_action": 1}
        action = {
            name: features.Tensor(shape=(size,), dtype=tf.float32) for name, size in sizes.items()
        }
        steps = {"observation": observation, "action": action, **step_flags()}
        metadata = {"file_path": features.Text(), "episode_id": features.Text()}
        both = {"steps": features.Dataset(steps), "episode_metadata": metadata}
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(both))

    def _split_generators(self, _) -> dict:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict]]:
        for number in range(len(FRACTAL_LENGTHS)):
            yield str(number), fractal_episode(number)


SETS = {"mini_bridge": MiniBridge, "mini_fractal": MiniFractal}


def write(name: str, folder: str) -> None:
    """Writes a set, in several files where this tfds can be told to."""
    builder = SETS[name](data_dir=folder)
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    if hasattr(settings, "num_shards"):
        settings.num_shards = builder.SHARDS
    builder.download_and_prepare(download_config=settings)


def flat(node, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of nested dictionaries, by their paths."""
    if isinstance(node, dict):
        for name, entry in node.items():
            yield from flat(entry, f"{path}/{name}" if path else name)
    else:
        yield path, node


def plain(values) -> np.ndarray:
    """An array of numbers or of texts."""
    array = np.array(values)
    return np.vectorize(bytes.decode)(array) if array.dtype.kind in "OS" else array


def read(folder: str, transforms: str) -> dict[str, np.ndarray]:
    """What tfds reads, by SPLIT/PATH, and the actions of the authors' functions.

    The steps of a split stand one behind the other; SPLIT/lengths says how many each episode has.
    tfds decodes JPEG with a fast, inexact transform; accurate/PATH has what the exact one gives.
    Of splits other than "train" there are no images.
    """
    builder, values, own = tfds.builder_from_directory(folder), {}, load_transforms(transforms)
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    for split in builder.info.splits:
        gathered: dict[str, list] = {}
        episodes = builder.as_dataset(split=split, read_config=in_order)
        for episode in tfds.as_numpy(episodes):
            rows = [dict(flat(step)) for step in episode.pop("steps")]
            steps = {path: plain([row[path] for row in rows]) for path in rows[0]}
            found = {f"steps/{path}": value for path, value in steps.items()}
            found |= {path: plain([value]) for path, value in flat(episode)}
            if split != "train":
                found = {path: value for path, value in found.items() if value.ndim < 4}
            found |= {"action": authors_action(steps, own), "lengths": np.array([len(rows)])}
            for path, value in found.items():
                gathered.setdefault(path, []).append(value)
        values |= {f"{split}/{path}": np.concatenate(parts) for path, parts in gathered.items()}
    return values | accurate_images(folder)


def accurate_images(folder: str) -> dict[str, np.ndarray]:
    """The JPEG images of the first file of the split "train" [N, H, W, 3], decoded exactly."""
    file, images = min(str(path) for path in Path(folder).glob("*-train.tfrecord-*")), {}
    for record in tf.data.TFRecordDataset(file):
        held = tf.train.Example.FromString(record.numpy()).features.feature
        for path, feature in held.items():
            for value in feature.bytes_list.value:
                if value.startswith(b"\xff\xd8"):
                    pixels = tf.io.decode_jpeg(value, 3, dct_method="INTEGER_ACCURATE")
                    images.setdefault(path, []).append(pixels.numpy())
    return {f"train/accurate/{path}": np.stack(stack) for path, stack in images.items()}


def authors_action(steps: dict[str, np.ndarray], own) -> np.ndarray:
    """The actions of an episode by the authors' functions: all steps, or of Bridge N - 2."""
    if "action" not in steps:
        closing = tf.constant(steps["action/gripper_closedness_action"][:, 0])
        gripper = own.rel2abs_gripper_actions(closing).numpy()[:, None]
        return np.hstack([steps["action/world_vector"], steps["action/rotation_delta"], gripper])
    action = steps["action"][1:].copy()
    action[:, 6] = own.binarize_gripper_actions(tf.constant(action[:, 6])).numpy()
    states = steps["observation/state"][1:]
    trajectory = {"observation": {"state": tf.constant(states)}, "action": tf.constant(action)}
    return own.relabel_bridge_actions(trajectory)["action"].numpy()


def load_transforms(path: str):
    """The authors' module, without the packages of theirs that it imports."""
    for name, entry in (("dlimp", "DLataset"), ("prismatic.overwatch", "initialize_overwatch")):
        module = types.ModuleType(name)
        setattr(module, entry, lambda *_: None)
        sys.modules[name] = module
    sys.modules["prismatic"] = types.ModuleType("prismatic")
    spec = importlib.util.spec_from_file_location("transforms", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("write", "read"))
    parser.add_argument("what", help="a set's name, or its folder")
    parser.add_argument("out", help="a folder, or the npz")
    parser.add_argument("--transforms", help="the authors' file")
    arguments = parser.parse_args()
    if arguments.action == "write":
        write(arguments.what, arguments.out)
    else:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(arguments.out, **read(arguments.what, arguments.transforms))
