"""How fast an RLDS data set becomes a LeRobot data set on one core: frames a second of CPU time.

Writes episodes with the features of BridgeData V2 that its mapping reads, JPEG images of 256x256
that move and are noisy, into a temporary folder, converts them as `vla data convert rlds` does with
--workers 1, and prints JSON:

    python benchmarks/rlds_conversion.py --json output/rlds_conversion.json
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from conversion import scene
from PIL import Image

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path, given_or_shared
from vla.datasets.rlds.conversion import convert_rlds
from vla.datasets.rlds.crc32c import masked_crc32c
from vla.datasets.rlds.mapping import read_rlds_mapping
from vla.datasets.rlds.source import open_source

NAME, SIZE, STEPS = "bridge_dataset", 256, 38  # steps of an episode
MODULE = "tensorflow_datasets.core.features."


def dictionary(features: dict[str, dict]) -> dict:
    """What features.json says of features by name."""
    kind = f"{MODULE}features_dict.FeaturesDict"
    return {"pythonClassName": kind, "featuresDict": {"features": features}}


def features() -> dict:
    """The set's features.json."""
    vector = {
        "pythonClassName": f"{MODULE}tensor_feature.Tensor",
        "tensor": {"dtype": "float32", "encoding": "none", "shape": {"dimensions": ["7"]}},
    }
    shape = {"dimensions": [str(SIZE), str(SIZE), "3"]}
    image = {
        "pythonClassName": f"{MODULE}image_feature.Image",
        "image": {"dtype": "uint8", "encodingFormat": "jpeg", "shape": shape},
    }
    text = {"pythonClassName": f"{MODULE}text_feature.Text", "text": {}}
    observation = dictionary({"image_0": image, "state": vector})
    step = {"observation": observation, "action": vector, "language_instruction": text}
    steps = {
        "pythonClassName": f"{MODULE}dataset_feature.Dataset",
        "sequence": {"feature": dictionary(step), "length": "-1"},
    }
    return dictionary({"steps": steps})


def field(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    head, size = bytes([number << 3 | 2]), len(data)
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + data


def example(values: dict[str, np.ndarray | Sequence[bytes]]) -> bytes:
    """A tf.train.Example of numbers, which are stored as float32, and of lists of bytes."""
    entries = b""
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            held = field(2, field(1, value.astype("<f4").tobytes()))
        else:
            held = field(1, b"".join(field(1, entry) for entry in value))
        entries += field(1, field(1, name.encode()) + field(2, held))
    return field(1, entries)


def episodes(count: int) -> Iterator[bytes]:
    """Records in which a camera moves over a scene, and a gripper closes half way."""
    generator = np.random.default_rng(0)
    background = scene(generator)
    for _ in range(count):
        images, left = [], generator.integers(0, 400)
        for step in range(STEPS):
            pixels = background[100 : 100 + SIZE, left + 4 * step : left + 4 * step + SIZE]
            noise = generator.normal(0, 2, pixels.shape)
            encoded = io.BytesIO()
            seen = np.clip(pixels + noise, 0, 255).astype(np.uint8)
            Image.fromarray(seen).save(encoded, "JPEG", quality=95)
            images.append(encoded.getvalue())
        states = generator.normal(0, 0.01, (STEPS, 7)).cumsum(axis=0)
        states[:, 0] += 0.3
        states[:, 6] = np.arange(STEPS) < STEPS // 2
        actions = np.vstack([np.zeros(7), np.diff(states, axis=0)])
        actions[:, 6] = states[:, 6]
        yield example({
            "steps/observation/image_0": images,
            "steps/observation/state": states.ravel(),
            "steps/action": actions.ravel(),
            "steps/language_instruction": [b"put the spoon on the towel"] * STEPS,
        })  # fmt: skip


def write_set(folder: Path, count: int) -> None:
    """An RLDS data set of so many episodes, in one file."""
    folder.mkdir(parents=True)
    with (folder / f"{NAME}-train.tfrecord-00000-of-00001").open("wb") as stream:
        for record in episodes(count):
            length = struct.pack("<Q", len(record))
            for part in (length, record):
                stream.write(part + struct.pack("<I", masked_crc32c(part)))
    split = {
        "name": "train",
        "shardLengths": [str(count)],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": NAME, "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(features()))


def main() -> None:
    """Writes, converts and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    contract = load_contract(contract_path("widowx_bridge"))
    mapping = read_rlds_mapping(given_or_shared("config/data/bridge_rlds.yaml"))
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / NAME / "1.0.0"
        write_set(source, arguments.episodes)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
        report = convert_rlds(
            open_source(source), Path(temporary) / "set", contract, mapping, workers=1
        )
        seconds, after = time.process_time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {
        "episodes": report.kept,
        "frames": report.frames,
        "cpu_seconds": round(seconds, 2),
        "frames_per_cpu_second": round(report.frames / seconds, 1),
        "wall_seconds": report.wall_seconds,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
