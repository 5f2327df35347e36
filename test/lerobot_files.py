"""Writes small LeRobot data sets, version 2.1 and 3.0, as lerobot lays them out."""

import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

FPS = 10
LENGTHS = (7, 12, 5)
STATES = [
    np.arange(length * 8, dtype=np.float32).reshape(length, 8) / 100 + 10 * episode
    for episode, length in enumerate(LENGTHS)
]
TASKS = ("pick the can", "open the drawer", "pick the can")


def actions_of(episode: int) -> np.ndarray:
    actions = np.full((LENGTHS[episode], 7), 0.01 * (episode + 1), np.float32)
    actions[:, 6] = np.arange(LENGTHS[episode]) % 2
    return actions


def grey_of(episode: int, frame: int) -> int:
    return 20 + 60 * episode + 4 * frame


def write_video(path: Path, greys: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "4", "crf": "10"}
        for grey in greys:
            image = np.full((64, 64, 3), grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _png(grey: int) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (grey, grey, grey)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _table(episode: int, images: bool, scale: float = 1.0) -> pa.Table:
    columns = {
        "observation.state": (scale * STATES[episode]).tolist(),
        "action": actions_of(episode).tolist(),
        "timestamp": [frame / FPS for frame in range(LENGTHS[episode])],
        "frame_index": list(range(LENGTHS[episode])),
        "episode_index": [episode] * LENGTHS[episode],
    }
    if images:
        columns["camera"] = [_png(grey_of(episode, f)) for f in range(LENGTHS[episode])]
    return pa.table(columns)


def _info(folder: Path, version: str, images: bool, **paths: str) -> None:
    camera = {"dtype": "image" if images else "video", "shape": [64, 64, 3]}
    features = {
        "observation.state": {"dtype": "float32", "shape": [8]},
        "action": {"dtype": "float32", "shape": [7]},
        "camera": camera,
    }
    info = {
        "codebase_version": version,
        "fps": FPS,
        "features": features,
        "chunks_size": 2,
        **paths,
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def write_v2(folder: Path, images: bool = False) -> Path:
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    _info(folder, "v2.1", images, data_path=data, video_path=video)
    lines = []
    for episode, length in enumerate(LENGTHS):
        names = {"episode_chunk": episode // 2, "episode_index": episode}
        path = folder / data.format(**names)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(_table(episode, images), path)
        if not images:
            greys = [grey_of(episode, frame) for frame in range(length)]
            write_video(folder / video.format(video_key="camera", **names), greys)
        lines.append({"episode_index": episode, "tasks": [TASKS[episode]], "length": length})
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def write_v3(folder: Path, images: bool = False, scale: float = 1.0) -> Path:
    """Two episodes in the first file, one in the second; scale: times the states."""
    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    _info(folder, "v3.0", images, data_path=data, video_path=video)
    rows, start = [], 0
    for file, members in enumerate(((0, 1), (2,))):
        path = folder / data.format(chunk_index=0, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.concat_tables([_table(e, images, scale) for e in members]), path)
        greys = [grey_of(e, frame) for e in members for frame in range(LENGTHS[e])]
        if not images:
            names = {"video_key": "camera", "chunk_index": 0, "file_index": file}
            write_video(folder / video.format(**names), greys)
        begins = 0.0
        for episode in members:
            row = {
                "episode_index": episode,
                "tasks": [TASKS[episode]],
                "length": LENGTHS[episode],
                "data/chunk_index": 0,
                "data/file_index": file,
                "dataset_from_index": start,
                "dataset_to_index": start + LENGTHS[episode],
            }
            if not images:
                row |= {
                    "videos/camera/chunk_index": 0,
                    "videos/camera/file_index": file,
                    "videos/camera/from_timestamp": begins,
                    "videos/camera/to_timestamp": begins + LENGTHS[episode] / FPS,
                }
            rows.append(row)
            begins += LENGTHS[episode] / FPS
            start += LENGTHS[episode]
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return folder
