"""How fast training data is opened and read: LeRobot video and conversations in LLaVA's format.

Generates data sets in a temporary folder and prints JSON: seconds and memory of the first and the
second opening of many episodes and of many conversations, memory of eight processes that read from
one set together, and samples a second on two processes.

    python benchmarks/loading.py --json output/loading.json
    python benchmarks/loading.py --episodes 2000 --rows 20000 --lerobot-python ENV/bin/python

With --lerobot-python, the Python of an environment that has lerobot, its own loader reads the same
episodes in turn with ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

from vla.contract.embodiment import load_contract
from vla.core.resources import contract_path
from vla.datasets.conversations import LlavaConversations
from vla.datasets.lerobot.dataset import LeRobotEpisodes
from vla.datasets.lerobot.writer import LeRobotWriter

CONTRACT = load_contract(contract_path("widowx_bridge"))
FEATURE = "observation.images.front"
# Episodes that are made; the others are copies under other numbers.
TEMPLATE, FRAMES = 100, 42
PROCESSES, READ_BY_EACH = 8, 200
PICTURES, WIDTH, HEIGHT = 64, 640, 480


def picture(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Boxes on a shaded ground, uint8 [height, width, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows % 256, columns % 256, (rows + columns) // 4 % 256], axis=-1)
    for _ in range(12):
        top, left = generator.integers(0, height - 20), generator.integers(0, width - 20)
        image[top : top + 40, left : left + 60] = generator.integers(0, 256, 3)
    return image.astype(np.uint8)


def write_episodes(folder: Path, count: int) -> None:
    """A LeRobot set of about so many episodes with video, in files of TEMPLATE each."""
    generator = np.random.default_rng(0)
    times = np.arange(FRAMES) / CONTRACT.rate
    with LeRobotWriter(folder, CONTRACT) as writer:
        for number in range(min(count, TEMPLATE)):
            episode = writer.begin()
            image = picture(generator, 224, 224)
            for frame in range(FRAMES):
                episode.add({"front": np.roll(image, 3 * frame, axis=1)})
            states = np.zeros((FRAMES, 8), np.float32)
            states[:, :3] = 0.2 + 0.05 * np.sin(times[:, None] + np.arange(3) + number)
            states[:, 7] = (np.arange(FRAMES) < FRAMES // 2).astype(np.float32)
            actions = np.zeros((FRAMES, 7), np.float32)
            actions[:-1, :3], actions[:, 6] = np.diff(states[:, :3], axis=0), states[:, 7]
            writer.add(episode.finish(states, actions, [f"put thing {number} away"] * FRAMES))
    if count > TEMPLATE:
        repeat_episodes(folder, count // TEMPLATE)


def repeat_episodes(folder: Path, times: int) -> None:
    """Appends the episodes of a set again and again under new numbers; videos are hard links."""
    (data,), (video,) = folder.glob("data/*/*.parquet"), folder.glob(f"videos/{FEATURE}/*/*.mp4")
    (listed,) = folder.glob("meta/episodes/*/*.parquet")
    rows, episodes = parquet.read_table(data), parquet.read_table(listed)
    lists = [episodes]
    for number in range(1, times):
        chunk, file = divmod(number, 1000)
        name = f"chunk-{chunk:03d}/file-{file:03d}"
        shifts = {"episode_index": len(episodes) * number, "index": len(rows) * number}
        copy = folder / "data" / f"{name}.parquet"
        copy.parent.mkdir(exist_ok=True)
        parquet.write_table(_shifted(rows, shifts), copy)
        link = folder / "videos" / FEATURE / f"{name}.mp4"
        link.parent.mkdir(exist_ok=True)
        os.link(video, link)
        shifts = {"episode_index": len(episodes) * number} | dict.fromkeys(
            ("dataset_from_index", "dataset_to_index"), len(rows) * number
        )
        for part in ("data", f"videos/{FEATURE}"):
            shifts |= {f"{part}/chunk_index": chunk, f"{part}/file_index": file}
        lists.append(_shifted(episodes, shifts))
    parquet.write_table(pa.concat_tables(lists), listed)
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    info |= {"total_episodes": len(episodes) * times, "total_frames": len(rows) * times}
    path.write_text(json.dumps(info | {"splits": {"train": f"0:{len(episodes) * times}"}}))


def _shifted(table: pa.Table, shifts: dict[str, int]) -> pa.Table:
    for name, shift in shifts.items():
        values = table[name].to_numpy() + shift
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table


def write_conversations(folder: Path, count: int) -> Path:
    """A JSON list of so many rows in LLaVA's format, of about 1 kB, that share some pictures."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        image = Image.fromarray(picture(generator, WIDTH, HEIGHT))
        image.save(folder / f"{number}.jpg", quality=90)
    answer = 'A picture with boxes, "some" of them red, on a shaded ground. ' * 4
    path = folder / "conversations.json"
    with path.open("w") as stream:
        stream.write("[")
        for number in range(count):
            turns = [
                {"from": "human", "value": "<image>\nWhat does the picture show?"},
                {"from": "gpt", "value": answer},
                {"from": "human", "value": f"Is box {number} in it?"},
                {"from": "gpt", "value": answer * 2},
            ]
            row = {"id": number, "image": f"{number % PICTURES}.jpg", "conversations": turns}
            stream.write((",\n" if number else "") + json.dumps(row))
        stream.write("]")
    return path


def open_episodes(folder: Path) -> LeRobotEpisodes:
    """As a training opens them."""
    return LeRobotEpisodes(folder, None, CONTRACT)


def memory(kind: str) -> float:
    """Of this process [MB]: "Rss", or "Pss", in which what several share is divided among them."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1000
    raise ValueError(kind)


def opened(open_data: Callable[[Path], Any], path: Path) -> dict[str, float]:
    """Seconds on the clock and of CPU time, and most memory, of one opening in this process."""
    before, begun, worked = memory("Rss"), time.monotonic(), time.process_time()
    data = open_data(path)
    seconds = {"seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - worked}
    peak = next(
        int(line.split()[1]) / 1000
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return {"samples": len(data), "before_mb": before, "peak_mb": peak} | seconds


def read_together(
    open_data: Callable[[Path], Any],
    path: Path,
    number: int,
    images: bool,
    barrier: Any,
    queue: Any,
) -> None:
    """One of several processes: reads at random, then tells its share of the memory."""
    data, generator = open_data(path), np.random.default_rng(number)
    for index in generator.integers(len(data), size=READ_BY_EACH):
        if images:
            data.sample(int(index), generator)
        else:
            data.sample(int(index), generator, images=False)
    barrier.wait()
    queue.put((memory("Rss"), memory("Pss")))
    barrier.wait()


def openings(open_data: Callable[[Path], Any], path: Path, images: bool) -> dict[str, Any]:
    """Figures of the first and second opening, and of PROCESSES that read together."""
    context = multiprocessing.get_context("spawn")
    figures: dict[str, Any] = {}
    for name in ("first opening", "second opening"):
        with context.Pool(1) as pool:
            figures[name] = pool.apply(opened, (open_data, path))
    barrier, queue = context.Barrier(PROCESSES), context.SimpleQueue()
    processes = [
        context.Process(target=read_together, args=(open_data, path, n, images, barrier, queue))
        for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    figures[f"{PROCESSES} processes"] = {
        "largest_rss_mb": max(rss for rss, _ in found),
        "pss_mb_together": sum(pss for _, pss in found),
    }
    return figures


class Samples:
    """A data set as a data loader of torch takes it."""

    def __init__(self, open_data: Callable[[Path], Any], path: Path):
        self._data = open_data(path)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> int:
        # As many bytes as a batch would have leave the process either way; they are not what is
        # compared.
        sample = self._data.sample(index, np.random.default_rng(index))
        images = sample.images
        shown = images.values() if isinstance(images, dict) else images
        return sum(int(image[0, 0, 0]) for image in shown)


def samples_a_second(data: Samples, count: int, seed: int) -> float:
    """Of a data loader with two processes, in random order, after its first 32 samples."""
    from torch.utils.data import DataLoader

    order = np.random.default_rng(seed).integers(len(data), size=count + 32).tolist()
    loader = DataLoader(data, batch_size=None, sampler=order, num_workers=2)
    begun = 0.0
    for number, _ in enumerate(loader):
        if number == 31:
            begun = time.monotonic()
    return count / (time.monotonic() - begun)


def lerobots(python: str, folder: Path, count: int, seed: int) -> dict[str, float]:
    """The figures of lerobot's own loader; see lerobot_loading.py."""
    script = Path(__file__).with_name("lerobot_loading.py")
    command = [python, str(script), str(folder), str(CONTRACT.horizon), str(count), str(seed)]
    # What lerobot keeps of a set stays beside it, so that later rounds find it.
    environment = os.environ | {
        "HF_HOME": str(folder.parent / "huggingface"), "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": "", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"lerobot's loader failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, talks: Path, count: int, rounds: int, lerobot: str) -> dict[str, Any]:
    """Samples a second of each kind of data, and of lerobot, in turn."""
    video, pictures = Samples(open_episodes, folder), Samples(LlavaConversations, talks)
    ours, theirs, said = [], [], []
    for seed in range(rounds):
        ours.append(samples_a_second(video, count, seed))
        said.append(samples_a_second(pictures, count, seed))
        if lerobot:
            theirs.append(lerobots(lerobot, folder, count, seed))
    found: dict[str, Any] = {"LeRobot video": statistics.median(ours)}
    found["conversations"] = statistics.median(said)
    if theirs:
        speeds = [entry["samples_per_second"] for entry in theirs]
        found["lerobot's loader"] = statistics.median(speeds)
        found["times lerobot's"] = [a / b for a, b in zip(ours, speeds, strict=True)]
        found["lerobot's decoder"] = theirs[0]["decoder"]
    return found


def main() -> None:
    """Generates, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=140_000)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--samples", type=int, default=1000, help="of each round of reading")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lerobot-python", default="", help="of an environment with lerobot")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Nothing is found from before, and nothing is left.
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        write_episodes(folder / "few", min(TEMPLATE, arguments.episodes))
        write_episodes(folder / "many", arguments.episodes)
        talks = write_conversations(folder / "talks", arguments.rows)
        figures: dict[str, Any] = {
            "episodes": openings(open_episodes, folder / "many", images=False),
            "conversations": openings(LlavaConversations, talks, images=True),
        }
        if arguments.lerobot_python:
            both = [lerobots(arguments.lerobot_python, folder / "many", 0, 0) for _ in range(2)]
            figures["lerobot's openings"] = both
        figures["samples_per_second"] = compare(
            folder / "few", talks, arguments.samples, arguments.rounds, arguments.lerobot_python
        )
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
