"""Draws recorded simulator episodes again, larger and finer than what the policy saw.

Rendering happens after the run, so that a good picture costs the running graph nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.bags.reader import read_decoded
from vla.envs.tabletop.simulator import TableTopSimulator

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
    title_font = _font(max(14, image.width // 24))
    caption_font = _font(max(12, image.width // 30))
    width = image.width - 2 * MARGIN
    title = [(line, "white") for line in _wrap(draw, episode.title, title_font, width)]
    _text_block(draw, image.width, MARGIN // 2, title, title_font)
    below: list[tuple[str, str]] = []
    if episode.caption:
        below += [(line, "#ffe9a8") for line in _wrap(draw, episode.caption, caption_font, width)]
    if success is not None:
        below.append(("done", "#8ff0a4") if success else ("not done", "#ff9a8a"))
    top = image.height - MARGIN // 2 - round(caption_font.size + 6) * len(below)
    _text_block(draw, image.width, top, below, caption_font)
    return np.asarray(image)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which the captions need")
    return font


def _text_block(draw, width: int, top: int, lines: list[tuple[str, str]], font) -> None:
    """Lines of (text, colour) on a dark band over the whole width."""
    if not lines:
        return
    height = font.size + 6
    draw.rectangle((0, top - 3, width, top + height * len(lines)), fill=(0, 0, 0, 140))
    for index, (line, color) in enumerate(lines):
        draw.text((MARGIN, top + index * height), line, font=font, fill=color)


def _wrap(draw, text: str, font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
