"""Reads a data set with lerobot and compares every value with the files; see the script beside it.

Runs in lerobot's environment, so it uses nothing of this project.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import av
import numpy as np
import pandas as pd
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from PIL import Image

# Mean difference of a video's pixels [0 to 1] between lerobot's decoder and PyAV.
LARGEST_ERROR = 0.02
# Frames whose images are compared.
COMPARED = 40
FAILURES: list[str] = []


def check(holds: bool, what: str) -> None:
    """Notes what does not hold."""
    if not holds:
        FAILURES.append(what)


def main(folder: Path) -> int:
    """Compares; returns the exit status."""
    data = LeRobotDataset("local/checked", root=folder, video_backend="pyav")
    rows = pd.concat(map(pd.read_parquet, sorted((folder / "data").glob("*/*.parquet"))))
    info = json.loads((folder / "meta" / "info.json").read_text())
    stats = json.loads((folder / "meta" / "stats.json").read_text())
    tasks = pd.read_parquet(folder / "meta" / "tasks.parquet")
    check(len(data) == len(rows) == info["total_frames"], f"{len(data)} frames, {len(rows)} rows")
    check(data.num_episodes == info["total_episodes"], f"{data.num_episodes} episodes")
    check(data.fps == info["fps"], f"{data.fps} frames per second")
    numbers = [n for n, f in info["features"].items() if f["dtype"] not in ("video", "image")]
    cameras = [name for name in info["features"] if name not in numbers]
    check(sorted(data.meta.camera_keys) == sorted(cameras), f"cameras {data.meta.camera_keys}")
    for name in numbers:
        _check_column(data, rows, stats, name, info["features"][name]["shape"])
    compared = np.unique(np.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).astype(int))
    errors = [0.0]
    for index in map(int, compared):
        item = data[index]
        row = rows.iloc[index]
        check(item["task"] == tasks.index[row["task_index"]], f"frame {index}: task {item['task']}")
        for name in cameras:
            shape = info["features"][name]["shape"]
            image = item[name].numpy()
            check(list(image.shape) == [shape[2], *shape[:2]], f"{name} is {image.shape}")
            if info["features"][name]["dtype"] == "video":
                entry = data.meta.episodes[int(row["episode_index"])]
                wanted = _frame(folder, info, entry, name, int(row["frame_index"]))
            else:
                stored = Image.open(io.BytesIO(row[name]["bytes"])).convert("RGB")
                wanted = np.asarray(stored).transpose(2, 0, 1) / 255
            errors.append(float(np.abs(image - wanted).mean()))
            check(errors[-1] < LARGEST_ERROR, f"{name}, frame {index}: off by {errors[-1]:.3f}")
    _check_windows(data, info)
    for failure in FAILURES[:20]:
        print(failure, file=sys.stderr)
    if FAILURES:
        return 1
    print(
        f"OK: lerobot reads {data.num_episodes} episodes, {len(data)} frames, {len(tasks)} tasks, "
        f"{len(cameras)} cameras; images off by at most {max(errors):.4f} on {len(compared)} frames"
    )
    return 0


def _check_column(data: LeRobotDataset, rows, stats: dict, name: str, shape: list[int]) -> None:
    values = np.stack([np.atleast_1d(value) for value in rows[name]]).astype(np.float64)
    # Without the images, which would be decoded with every row.
    column = data.hf_dataset.select_columns([name]).with_format("numpy")[:][name]
    read = np.stack([np.atleast_1d(value) for value in column])
    check(values.shape[1:] == tuple(shape), f"{name}: shape {values.shape[1:]}, not {shape}")
    check(np.array_equal(values, read.astype(np.float64)), f"{name}: lerobot reads other values")
    known = data.meta.stats[name]
    for kind, exact in (
        ("mean", values.mean(axis=0)),
        ("std", values.std(axis=0)),
        ("min", values.min(axis=0)),
        ("max", values.max(axis=0)),
    ):
        given = np.asarray(stats[name][kind], dtype=np.float64)
        for whose, value in (("stats.json has", given), ("lerobot has", known[kind])):
            near = np.allclose(value, exact, rtol=1e-4, atol=1e-6)
            check(near, f"{name}: {kind} is {exact}, {whose} {value}")


def _frame(folder: Path, info: dict, entry: dict, name: str, frame: int) -> np.ndarray:
    """A video's frame [3, H, W], 0 to 1, found by counting."""
    path = folder / info["video_path"].format(
        video_key=name,
        chunk_index=entry[f"videos/{name}/chunk_index"],
        file_index=entry[f"videos/{name}/file_index"],
    )
    number = round(entry[f"videos/{name}/from_timestamp"] * info["fps"]) + frame
    with av.open(str(path)) as container:
        for index, picture in enumerate(container.decode(video=0)):
            if index == number:
                return picture.to_ndarray(format="rgb24").transpose(2, 0, 1) / 255
    raise ValueError(f"{path} has no frame {number}")


def _check_windows(data: LeRobotDataset, info: dict) -> None:
    """Chunks of actions, as policies read them: the steps from a frame on, within its episode."""
    step = 1 / info["fps"]
    window = LeRobotDataset(
        data.repo_id,
        root=data.root,
        video_backend="pyav",
        delta_timestamps={"action": [index * step for index in range(4)]},
    )
    last = len(window) - 1
    check(len(window[0]["action"]) == 4, "a chunk of actions has not four steps")
    check(bool(window[last]["action_is_pad"][1]), "a chunk goes beyond the last episode's end")


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
