"""Contact sheets and videos of recorded episodes, with what was asked for written into them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vla.core.replacing import replacing
from vla.core.text import one_line
from vla.datasets.video import VideoWriter
from vla.playback.captions import LINE_GAP, font_of_size, text_block
from vla.playback.footage import (
    EpisodeFacts,
    Footage,
    Moment,
    PictureDecoder,
    PlaybackError,
    first_images,
    moments,
)

SHEET_KINDS = (".png", ".jpg", ".jpeg")
TILE_HEIGHT, GAP = 180, 4  # Of the pictures of a contact sheet, and between them [px].
LOWEST_VIDEO, HIGHEST_VIDEO = 240, 480  # Height of a camera in a video [px].
NARROWEST_VIDEO = 320  # Room for the captions [px].
LONGEST_VIDEO = 6 * 3600.0  # [s]
SLOWEST, FASTEST = 1.0, 60.0  # Pictures a second of a video.
WIDEST = 4  # Times its height, a picture's width.
MARGIN, LINE = 8, 14  # Around text, and its height [px].
PALE, WHITE, BACKGROUND = "#c8c8c8", "white", (24, 24, 24)
OUTCOME_COLOURS = {"success": "#8ff0a4", "failure": "#ff9a8a"}


def write_contact_sheet(footage: Footage, path: Path, columns: int = 8) -> list[str]:
    """Writes the cameras' pictures at times spread over the episode as one image.

    path: ends in one of SHEET_KINDS. Returns sentences on what could not be shown. Raises
    PlaybackError where there is nothing to show or the file can't be written so, and BagError or
    DatasetError where the episode can't be read.
    """
    if path.suffix.lower() not in SHEET_KINDS:
        raise PlaybackError(f"{path} must end in one of {', '.join(SHEET_KINDS)}")
    facts, decoder = footage.facts, PictureDecoder()
    first, left_out = first_images(footage)
    widths = {name: _width(image, TILE_HEIGHT) for name, image in first.items()}
    column = max(widths.values()) + GAP
    ticks = [(number + 0.5) / columns * facts.seconds for number in range(columns)]
    shown = list(moments(footage, ticks, first, decoder))
    heads = _heading(facts, columns * column)
    head_height = 2 * MARGIN + len(heads) * (LINE + LINE_GAP)
    row_height = TILE_HEIGHT + LINE + LINE_GAP + GAP
    size = (columns * column, head_height + len(first) * row_height)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet, "RGBA")
    font = font_of_size(LINE)
    text_block(draw, size[0], MARGIN, heads, font, MARGIN)
    for row, name in enumerate(first):
        top = head_height + row * row_height
        for number, moment in enumerate(shown):
            if name in moment.images:
                tile = _fitted(moment.images[name], widths[name], TILE_HEIGHT)
                sheet.paste(tile, (number * column, top + LINE + LINE_GAP))
            label = f"{name}  {moment.time:.1f} s" if number == 0 else f"{moment.time:.1f} s"
            shown_label = _cut(label, column + MARGIN)
            draw.text((number * column + 2, top), shown_label, font=font, fill=PALE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            sheet.save(new, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=90)
    except OSError as error:
        raise _unwritable(path, error) from error
    return [*left_out, *footage.flaws(), *decoder.flaws()]


def write_episode_video(footage: Footage, path: Path) -> list[str]:
    """Writes an H.264 MP4 of an episode at its own speed, with the cameras side by side.

    It has the rate of the fastest camera; of the others, each frame shows the newest picture.
    Returns sentences on what could not be shown. Raises as write_contact_sheet does.
    """
    if path.suffix.lower() != ".mp4":
        raise PlaybackError(f"{path} must end in .mp4")
    facts, decoder = footage.facts, PictureDecoder()
    if facts.seconds > LONGEST_VIDEO:
        raise PlaybackError(
            f"{facts.name} lasts {facts.seconds / 3600:.1f} h by the times of its messages, and a "
            f"video at most {LONGEST_VIDEO / 3600:g} h: cut the bag by 'ros2 bag convert'"
        )
    first, left_out = first_images(footage)
    tallest = max(image.shape[0] for image in first.values())
    height = _even(min(max(tallest, LOWEST_VIDEO), HIGHEST_VIDEO))
    widths = {name: _even(_width(image, height)) for name, image in first.items()}
    width = max(sum(widths.values()), NARROWEST_VIDEO)
    caption = _even(2 * MARGIN + 2 * (LINE + LINE_GAP))
    rate = min(max(facts.rate, SLOWEST), FASTEST)
    ticks = (number / rate for number in range(int(facts.seconds * rate) + 2))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            writer = VideoWriter(new, width, height + caption, rate)
            try:
                for moment in moments(footage, ticks, first, decoder):
                    frame = Image.new("RGB", (width, height + caption), BACKGROUND)
                    _put_cameras(frame, moment, widths, height)
                    _put_captions(frame, moment, facts, height)
                    writer.add(np.asarray(frame))
            finally:
                writer.close()
    except OSError as error:
        raise _unwritable(path, error) from error
    return [*left_out, *footage.flaws(), *decoder.flaws()]


def _heading(facts: EpisodeFacts, width: int) -> list[tuple[str, str]]:
    """Lines of (text, colour) above a contact sheet. width: of the sheet [px]."""
    lines = [(f"{facts.name}  {facts.seconds:.1f} s", PALE)]
    if facts.instruction:
        lines.append((facts.instruction, WHITE))
    if facts.outcome:
        lines.append((facts.outcome, OUTCOME_COLOURS.get(facts.outcome, WHITE)))
    if facts.marks:
        lines.append(("  ".join(f"{mark.time:.1f} s {mark.name}" for mark in facts.marks), PALE))
    if facts.flaw:
        lines.append((facts.flaw, OUTCOME_COLOURS["failure"]))
    return [(_cut(text, width), colour) for text, colour in lines]


def _put_cameras(
    frame: Image.Image, moment: Moment, widths: Mapping[str, int], height: int
) -> None:
    draw, font, left = ImageDraw.Draw(frame, "RGBA"), font_of_size(LINE), 0
    for name, width in widths.items():
        if name in moment.images:
            frame.paste(_fitted(moment.images[name], width, height), (left, 0))
        draw.text((left + 4, 2), name, font=font, fill=WHITE, stroke_width=2, stroke_fill="black")
        left += width


def _put_captions(frame: Image.Image, moment: Moment, facts: EpisodeFacts, top: int) -> None:
    marked = [mark.name for mark in facts.marks if mark.time <= moment.time]
    second = [f"{moment.time:.1f} s", *marked[-1:]]
    lines = [(moment.instruction, WHITE), ("   ".join(second), PALE)]
    draw, font = ImageDraw.Draw(frame, "RGBA"), font_of_size(LINE)
    cut = [(_cut(text, frame.width), colour) for text, colour in lines]
    text_block(draw, frame.width, top + MARGIN, cut, font, MARGIN)
    if facts.outcome:
        end = (frame.width - MARGIN, top + MARGIN + LINE + LINE_GAP)
        colour = OUTCOME_COLOURS.get(facts.outcome, WHITE)
        draw.text(end, one_line(facts.outcome, 20), font=font, fill=colour, anchor="ra")


@lru_cache(maxsize=64)
def _cut(text: str, width: int) -> str:
    """As much of a text as fits on a line of that width [px]."""
    font, room = font_of_size(LINE), width - 2 * MARGIN
    text = one_line(text, 1000)
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


def _fitted(image: np.ndarray, width: int, height: int) -> Image.Image:
    return Image.fromarray(image).resize((width, height))


def _width(image: np.ndarray, height: int) -> int:
    """Of an image [H, W, 3] that is shown at a height [px]; a very wide one is squashed."""
    return min(max(1, round(image.shape[1] * height / image.shape[0])), WIDEST * height)


def _even(size: int) -> int:
    return size + size % 2


def _unwritable(path: Path, error: OSError) -> PlaybackError:
    return PlaybackError(f"cannot write {path}: {error.strerror or one_line(error)}")
