"""How fast bags become a LeRobot data set: gigabytes of bag a minute, frames a second.

Writes bags of two 640x480 cameras at 30 Hz, joint states at 1 kHz and tool poses at 100 Hz into a
temporary folder, converts them, and prints JSON:

    python benchmarks/conversion.py --json output/conversion.json
    python benchmarks/conversion.py --episodes 8 --seconds 30 --size 224x224 --rate 10
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from rosbags.typesys import Stores, get_typestore

from vla.bags.conversion import convert_bags, find_bags
from vla.bags.dataset_to_bag import IMAGE, JOINT_STATE, POSE_STAMPED
from vla.bags.message_types import load_message_type
from vla.bags.writer import BagWriter
from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.resources import contract_path

WIDTH, HEIGHT, CAMERA_RATE, JOINT_RATE, POSE_RATE = 640, 480, 30, 1000, 100
BEGIN = 1_700_000_000_000_000_000
STORE = get_typestore(Stores.ROS2_JAZZY)


def contract_of(width: int, height: int, rate: float) -> EmbodimentContract:
    """The shipped contract with images of another size, at another rate."""
    contract = load_contract(contract_path("sim_panda"))
    cameras = tuple(replace(c, width=width, height=height) for c in contract.cameras)
    return replace(contract, cameras=cameras, rate=rate)


def scene(generator: np.random.Generator) -> np.ndarray:
    """A large picture with edges, shades and grain, over which a camera moves."""
    rows, columns = np.mgrid[0 : HEIGHT + 200, 0 : WIDTH + 400]
    picture = np.stack([rows / 3, columns / 5, (rows + columns) / 6], axis=-1)
    for _ in range(60):
        top, left = generator.integers(0, HEIGHT), generator.integers(0, WIDTH + 200)
        size = generator.integers(20, 160, 2)
        picture[top : top + size[0], left : left + size[1]] = generator.uniform(0, 255, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_bag(folder: Path, contract: EmbodimentContract, seconds: float, seed: int) -> None:
    """One episode: both cameras move over their scenes, every image with noise of its own."""
    generator = np.random.default_rng(seed)
    scenes = {camera.name: scene(generator) for camera in contract.cameras}
    # A sensor's noise; one field, shifted, costs less than drawing one for each image.
    noise = generator.normal(0, 2, (HEIGHT + 64, WIDTH + 64, 3)).astype(np.int16)
    make = STORE.types
    fingers = list(contract.finger_joint_names)
    names = [*contract.joint_names, *fingers]
    custom = {"contract": yaml.safe_dump(contract.to_dict()), "instruction": "move along"}

    def header(time_ns: int, frame: str):
        stamp = make["builtin_interfaces/msg/Time"](time_ns // 10**9, time_ns % 10**9)
        return make["std_msgs/msg/Header"](stamp, frame)

    with BagWriter(folder, custom | {"outcome": "success"}) as writer:
        kinds = {camera.topic: IMAGE for camera in contract.cameras} | {
            contract.joint_states_topic: JOINT_STATE,
            contract.end_effector_pose_topic: POSE_STAMPED,
        }
        topics = {
            name: writer.add_topic(f"/{name}", load_message_type(kind))
            for name, kind in kinds.items()
        }

        def put(topic: str, time_ns: int, *fields) -> None:
            message = make[kinds[topic]](*fields)
            data = bytes(STORE.serialize_cdr(message, kinds[topic]))
            writer.write(topics[topic], data, time_ns)

        images = 0
        for milliseconds in range(round(seconds * 1000)):
            now, t = BEGIN + milliseconds * 10**6, milliseconds / 1000
            positions = np.full(len(names), 0.02 + 0.01 * np.sin(t))
            zeros = np.zeros(len(names))
            joints = contract.joint_states_topic
            put(joints, now, header(now, ""), names, positions, zeros, zeros)
            if milliseconds % (1000 // POSE_RATE) == 0:
                turn = make["geometry_msgs/msg/Quaternion"](1.0, 0.0, 0.0, 0.0)
                point = make["geometry_msgs/msg/Point"](0.4 + 0.05 * np.sin(t), 0.02 * t, 0.3)
                pose = make["geometry_msgs/msg/Pose"](point, turn)
                topic = contract.end_effector_pose_topic
                put(topic, now, header(now, contract.base_frame), pose)
            if milliseconds * CAMERA_RATE >= images * 1000:
                images += 1
                for camera in contract.cameras:
                    left, top = round(100 + 90 * np.sin(t)), round(50 + 40 * np.cos(t / 2))
                    pixels = scenes[camera.name][top : top + HEIGHT, left : left + WIDTH]
                    y, x = generator.integers(0, 64, 2)
                    grain = noise[y : y + HEIGHT, x : x + WIDTH]
                    pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8).ravel()
                    fields = (HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, pixels)
                    put(camera.topic, now, header(now, camera.name), *fields)


def measure(arguments: argparse.Namespace, width: int, height: int, rate: float) -> dict:
    """Converts fresh bags for one contract; figures by name."""
    contract = contract_of(width, height, rate)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        bags = Path(temporary) / "bags"
        for number in range(arguments.episodes):
            write_bag(bags / f"episode_{number}", contract, arguments.seconds, number)
        # From the disk's cache at least, not from pages that are still to be written.
        os.sync()
        before = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        report = convert_bags(
            find_bags([bags]), Path(temporary) / "set", contract, workers=arguments.workers
        )
        after = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        files = (Path(temporary) / "set").glob("**/*.*")
        size = sum(path.stat().st_size for path in files if path.is_file())
    summary = report.summary()
    children = (after[1].ru_utime - before[1].ru_utime) + (after[1].ru_stime - before[1].ru_stime)
    return {
        "images": f"{width}x{height}",
        "rate_hz": rate,
        "episodes": summary["episodes_kept"],
        "frames": summary["frames"],
        "bag_gigabytes": summary["bag_gigabytes"],
        "dataset_megabytes": round(size / 1e6, 1),
        "wall_seconds": summary["wall_seconds"],
        "cpu_seconds": round(after[0] - before[0] + children, 2),
        "gigabytes_per_minute": summary["gigabytes_per_minute"],
        "frames_per_second": round(summary["frames"] / summary["wall_seconds"], 1),
        "largest_process_megabytes": round(after[1].ru_maxrss / 1e3, 1),
    }


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0, help="of an episode (15)")
    parser.add_argument("--size", help="WxH of the contract (both 224x224 and 640x480)")
    parser.add_argument("--rate", type=float, default=30.0, help="of the contract [Hz] (30)")
    parser.add_argument("--workers", type=int, default=0, help="processes (all cores)")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    results = []
    for size in [arguments.size] if arguments.size else ["224x224", "640x480"]:
        width, height = map(int, size.split("x"))
        results.append(measure(arguments, width, height, arguments.rate))
        print(f"{size}: {results[-1]['gigabytes_per_minute']} GB a minute", file=sys.stderr)
    machine = {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    text = json.dumps({"machine": machine, "results": results}, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
