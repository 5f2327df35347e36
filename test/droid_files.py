"""Writes a small LeRobot v2.1 data set in the layout of LA-33K and DROID, by no code of ours.

Cartesian position and gripper are features of their own, 1 is a closed gripper, the actions are
where the tool is to be, and there are three views.
"""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

FPS, WIDTH, HEIGHT = 15, 64, 36
TASKS = ("Put the marker in the mug", "Move the lid to the left", "Put the marker in the mug")
VIEWS = ("exterior_1_left", "wrist_left", "exterior_2_left")
# Of the gripper, as it is stored, while it holds something.
HELD = 0.6
DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
AXES = ["x", "y", "z", "roll", "pitch", "yaw"]
# Seconds, where the tool is [m], how closed the gripper is: down, grasp, up, left, down, open.
KNOTS = (
    (0.0, 0.40, -0.10, 0.40, 0.0),
    (1.2, 0.40, -0.10, 0.20, 0.0),
    (1.6, 0.40, -0.10, 0.20, 0.0),
    (2.0, 0.40, -0.10, 0.20, HELD),
    (3.0, 0.40, -0.10, 0.38, HELD),
    (4.2, 0.40, 0.15, 0.38, HELD),
    (5.0, 0.40, 0.15, 0.22, HELD),
    (5.4, 0.40, 0.15, 0.22, 0.0),
    (6.0, 0.40, 0.15, 0.35, 0.0),
)


def frames_of(episode: int) -> int:
    return 91 + episode


def poses_of(episode: int) -> tuple[np.ndarray, np.ndarray]:
    """Cartesian positions [N, 6] in metres and radians, and the gripper [N], both as stored."""
    knots, times = np.array(KNOTS), np.arange(frames_of(episode)) / FPS
    columns = [np.interp(times, knots[:, 0], knots[:, k]) for k in range(1, 5)]
    # The tool points down: roll is near half a turn, and goes across it.
    roll = (np.pi + 0.01 * np.sin(3 * times) + np.pi) % (2 * np.pi) - np.pi
    angles = np.column_stack([roll, 0.02 * np.sin(times), 0 * times])
    return np.column_stack([*columns[:3], angles]).astype(np.float32), columns[3]


def grey_of(view: str, frame: int) -> int:
    return 40 + 60 * VIEWS.index(view) + frame // 3


def write_droid(folder: Path, closed: float = 1.0, opened: float = 0.0) -> Path:
    """closed, opened: the gripper's values as they are stored."""
    scalars = {"frame_index": "int64", "episode_index": "int64", "index": "int64",
               "task_index": "int64", "timestamp": "float32", "is_last": "bool"}  # fmt: skip
    features = {
        name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()
    }
    for name in ("observation.state", "action"):
        gripper, axes = f"{name}.gripper_position", f"{name}.cartesian_position"
        features[gripper] = {"dtype": "float32", "shape": [1], "names": {"axes": ["gripper"]}}
        features[axes] = {"dtype": "float32", "shape": [6], "names": {"axes": AXES}}
    features["task_category"] = {"dtype": "string", "shape": [1], "names": None}
    for view in VIEWS:
        features[f"observation.images.{view}"] = {
            "dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channel"],
            "info": {"video.fps": float(FPS), "video.codec": "h264", "has_audio": False},
        }  # fmt: skip
    texts, start, lines = list(dict.fromkeys(TASKS)), 0, []
    for episode, task in enumerate(TASKS):
        length, (poses, grip) = frames_of(episode), poses_of(episode)
        grip = (opened + (closed - opened) * grip).astype(np.float32)
        # The target is a frame ahead, and fingers are commanded to close altogether.
        target = np.concatenate([poses[1:], poses[-1:]])
        told = np.where(np.gradient(grip / (closed - opened)) > 0.01, closed, grip)
        told = np.where(np.isclose(grip, opened + (closed - opened) * HELD), closed, told)
        rows = {
            "observation.state.cartesian_position": list(poses),
            "observation.state.gripper_position": grip,
            "action.cartesian_position": list(target),
            "action.gripper_position": told.astype(np.float32),
            "task_category": ["pick and place"] * length,
            "is_last": [frame == length - 1 for frame in range(length)],
            "timestamp": (np.arange(length) / FPS).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": start + np.arange(length),
            "task_index": np.full(length, texts.index(task)),
        }
        names = {"episode_chunk": 0, "episode_index": episode}
        path = folder / DATA.format(**names)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(rows), path)
        for view in VIEWS:
            key = f"observation.images.{view}"
            _write_video(folder / VIDEO.format(video_key=key, **names), view, length)
        lines.append({"episode_index": episode, "tasks": [task], "length": length})
        start += length
    info = {
        "codebase_version": "v2.1", "robot_type": "Franka", "total_episodes": len(TASKS),
        "total_frames": start, "total_tasks": len(texts), "total_videos": 3 * len(TASKS),
        "total_chunks": 1, "chunks_size": 1000, "fps": FPS, "splits": {"train": "0:3"},
        "data_path": DATA, "video_path": VIDEO, "features": features,
    }  # fmt: skip
    meta = folder / "meta"
    meta.mkdir()
    (meta / "info.json").write_text(json.dumps(info))
    (meta / "episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tasks = [{"task_index": index, "task": text} for index, text in enumerate(texts)]
    (meta / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    return folder


def _write_video(path: Path, view: str, length: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"g": "8", "crf": "10", "preset": "ultrafast"}
        for frame in range(length):
            image = np.full((HEIGHT, WIDTH, 3), grey_of(view, frame), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
