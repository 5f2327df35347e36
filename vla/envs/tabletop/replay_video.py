"""Draws recorded simulator episodes again, larger and finer than what the policy saw.

Rendering happens after the run, so that a good picture costs the running graph nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from vla.bags.reader import read_decoded
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.playback.captions import LINE_GAP, font_of_size, text_block, wrapped

STATE_TOPIC = "/sim/state"
MARGIN = 14


@dataclass(frozen=True)
class EpisodeFootage:
    """An episode to draw."""

    bag: Path  # folder with the simulator's states
    seed: int  # of its scene
    family: str  # of its scene
    title: str  # the instruction
    caption: str = ""  # what the robot answered; may be empty
    success: bool | None = None  # shown at the end; None for no verdict


def read_states(bag: Path, topic: str = STATE_TOPIC) -> list[tuple[float, np.ndarray]]:
    """(seconds since the first, qpos) of every recorded simulator state.

    In older bags it is a Float64MultiArray, in others a SceneState.
    """
    states = [
        (message.receive_time, np.asarray(value.qpos if hasattr(value, "qpos") else value.data))
        for message, value in read_decoded(bag, {topic}, allow_truncated=True)
    ]
    return [((stamp - states[0][0]) * 1e-9, qpos) for stamp, qpos in states]


def write_video(
    path: Path,
    episodes: list[EpisodeFootage],
    size: int = 480,
    rate: int = 20,
    camera: str = "overview",
    closing_seconds: float = 1.0,
) -> int:
    """Renders the episodes one after the other into an H.264 MP4. Returns the number of frames.

    size: width and height of the picture [px], even. rate: frames per second of recorded time.
    Raises ValueError when no episode has a recorded state.
    """
    simulator = TableTopSimulator(size)
    frames = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(rate))
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "26", "preset": "veryfast"}
            for episode in episodes:
                frames += _write_episode(
                    container, stream, simulator, episode, size, rate, camera, closing_seconds
                )
            container.mux(stream.encode())
    finally:
        simulator.close()
    if not frames:
        raise ValueError(f"none of the {len(episodes)} episodes holds {STATE_TOPIC}")
    return frames


def _write_episode(
    container,
    stream,
    simulator: TableTopSimulator,
    episode: EpisodeFootage,
    size: int,
    rate: int,
    camera: str,
    closing_seconds: float,
) -> int:
    states = read_states(episode.bag)
    if not states:
        return 0
    simulator.reset(episode.seed, episode.family)
    times = np.array([time for time, _ in states])
    positions = np.stack([qpos for _, qpos in states])
    ticks = np.arange(0.0, times[-1] + 0.5 / rate, 1.0 / rate)
    for tick in ticks:
        simulator.set_qpos(_between(times, positions, tick))
        picture = simulator.render(camera, size, detailed=True)
        _encode(container, stream, _overlay(picture, episode, None))
    picture = simulator.render(camera, size, detailed=True)
    closing = max(1, round(closing_seconds * rate))
    for _ in range(closing):
        _encode(container, stream, _overlay(picture, episode, episode.success))
    return len(ticks) + closing


def _between(times: np.ndarray, positions: np.ndarray, tick: float) -> np.ndarray:
    """The configuration at `tick`, linear between its neighbours: states come at 10 Hz only.

    Quaternions are normalised by MuJoCo when it computes positions from them.
    """
    after = int(np.clip(np.searchsorted(times, tick), 1, max(1, len(times) - 1)))
    if len(times) == 1:
        return positions[0]
    weight = np.clip((tick - times[after - 1]) / (times[after] - times[after - 1]), 0.0, 1.0)
    return (1.0 - weight) * positions[after - 1] + weight * positions[after]


def _encode(container, stream, picture: np.ndarray) -> None:
    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))


def _overlay(picture: np.ndarray, episode: EpisodeFootage, success: bool | None) -> np.ndarray:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    title_font = font_of_size(max(14, image.width // 24))
    caption_font = font_of_size(max(12, image.width // 30))
    width = image.width - 2 * MARGIN
    title = [(line, "white") for line in wrapped(draw, episode.title, title_font, width)]
    text_block(draw, image.width, MARGIN // 2, title, title_font, MARGIN)
    below: list[tuple[str, str]] = []
    if episode.caption:
        below += [(line, "#ffe9a8") for line in wrapped(draw, episode.caption, caption_font, width)]
    if success is not None:
        below.append(("done", "#8ff0a4") if success else ("not done", "#ff9a8a"))
    top = image.height - MARGIN // 2 - round(caption_font.size + LINE_GAP) * len(below)
    text_block(draw, image.width, top, below, caption_font, MARGIN)
    return np.asarray(image)
