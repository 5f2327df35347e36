"""Writes small LeRobot data sets, version 2.1 and 3.0, as lerobot lays them out."""

import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

# That of the contract widowx_bridge.
FPS = 5
LENGTHS = (7, 12, 5)
STATES = [
    np.arange(length * 8, dtype=np.float32).reshape(length, 8) / 1000 + np.float32(0.05 * episode)
    for episode, length in enumerate(LENGTHS)
]
for _states in STATES:
    # Back and forth, so that there is something to say of the motion.
    _states[:, 0] += 0.03 * np.abs(np.arange(len(_states)) - len(_states) // 2)
TASKS = ("pick the can", "open the drawer", "pick the can")
TEXTS = list(dict.fromkeys(TASKS))


def actions_of(episode: int) -> np.ndarray:
    actions = np.full((LENGTHS[episode], 7), 0.01 * (episode + 1), np.float32)
    actions[:, 6] = np.arange(LENGTHS[episode]) % 2
    return actions


def states_of(episode: int, scale: float = 1.0, quaternions: bool = False) -> np.ndarray:
    """quaternions: orientations as the contract google_fractal has them."""
    states = scale * STATES[episode]
    if quaternions:
        half = STATES[episode][:, 3] / 2
        states[:, 3:7] = np.column_stack([0 * half, 0 * half, np.sin(half), np.cos(half)])
    return states


def grey_of(episode: int, frame: int) -> int:
    return 20 + 60 * episode + 4 * frame


def write_video(
    path: Path, greys: list[int], fps: float = FPS, pixels: str = "yuv420p", size: int = 64
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt = pixels
        stream.options = {"g": "4", "crf": "10"}
        for grey in greys:
            image = np.full((size, size, 3), grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def png(grey: int, size: int = 64) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (grey, grey, grey)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table_of(
    episode: int, images: bool, scale: float = 1.0, fps: float = FPS, quaternions: bool = False
) -> pa.Table:
    length = LENGTHS[episode]
    columns = {
        "observation.state": states_of(episode, scale, quaternions).tolist(),
        "action": actions_of(episode).tolist(),
        "timestamp": [frame / fps for frame in range(length)],
        "frame_index": list(range(length)),
        "episode_index": [episode] * length,
        "index": [sum(LENGTHS[:episode]) + frame for frame in range(length)],
        "task_index": [TEXTS.index(TASKS[episode])] * length,
    }
    if images:
        columns["camera"] = [png(grey_of(episode, f)) for f in range(length)]
    return pa.table(columns)


def _info(folder: Path, version: str, images: bool, fps: float, **paths: str) -> None:
    camera = {"dtype": "image" if images else "video", "shape": [64, 64, 3]}
    scalars = ("frame_index", "episode_index", "index", "task_index")
    features = {
        "observation.state": {"dtype": "float32", "shape": [8]},
        "action": {"dtype": "float32", "shape": [7]},
        "camera": camera,
        "timestamp": {"dtype": "float32", "shape": [1]},
        **{name: {"dtype": "int64", "shape": [1]} for name in scalars},
    }
    info = {
        "codebase_version": version,
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": len(TEXTS),
        "fps": fps,
        "features": features,
        "chunks_size": 2,
        **paths,
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def write_v2(folder: Path, images: bool = False, fps: float = FPS) -> Path:
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    _info(folder, "v2.1", images, fps, data_path=data, video_path=video)
    lines = []
    for episode, length in enumerate(LENGTHS):
        names = {"episode_chunk": episode // 2, "episode_index": episode}
        path = folder / data.format(**names)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table_of(episode, images, fps=fps), path)
        if not images:
            greys = [grey_of(episode, frame) for frame in range(length)]
            write_video(folder / video.format(video_key="camera", **names), greys, fps)
        lines.append({"episode_index": episode, "tasks": [TASKS[episode]], "length": length})
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tasks = [{"task_index": index, "task": text} for index, text in enumerate(TEXTS)]
    (folder / "meta" / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    return folder


def write_v3(
    folder: Path,
    images: bool = False,
    scale: float = 1.0,
    fps: float = FPS,
    quaternions: bool = False,
) -> Path:
    """Two episodes in the first file, one in the second; scale: times the states."""
    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    _info(folder, "v3.0", images, fps, data_path=data, video_path=video)
    rows, start = [], 0
    for file, members in enumerate(((0, 1), (2,))):
        path = folder / data.format(chunk_index=0, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = [table_of(e, images, scale, fps, quaternions) for e in members]
        parquet.write_table(pa.concat_tables(tables), path)
        greys = [grey_of(e, frame) for e in members for frame in range(LENGTHS[e])]
        if not images:
            names = {"video_key": "camera", "chunk_index": 0, "file_index": file}
            write_video(folder / video.format(**names), greys, fps)
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
                    "videos/camera/to_timestamp": begins + LENGTHS[episode] / fps,
                }
            rows.append(row)
            begins += LENGTHS[episode] / fps
            start += LENGTHS[episode]
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
    tasks = pa.table({"task_index": list(range(len(TEXTS))), "__index_level_0__": TEXTS})
    parquet.write_table(tasks, folder / "meta" / "tasks.parquet")
    return folder


def drop_column(path: Path, name: str) -> None:
    parquet.write_table(parquet.read_table(path).drop_columns([name]), path)


def replace_column(path: Path, name: str, values) -> None:
    table = parquet.read_table(path)
    index = table.schema.get_field_index(name)
    parquet.write_table(table.set_column(index, name, [values]), path)
