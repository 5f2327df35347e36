"""Text in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import ImageDraw, ImageFont

LINE_GAP = 6  # Between lines [px].


@lru_cache(maxsize=16)
def font_of_size(size: int) -> ImageFont.FreeTypeFont:
    """The font of captions. size: [px]. Raises RuntimeError where Pillow has none."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which the captions need")
    return font


def text_block(
    draw: ImageDraw.ImageDraw,
    width: int,
    top: int,
    lines: Sequence[tuple[str, str]],
    font: ImageFont.FreeTypeFont,
    margin: int,
) -> None:
    """Draws lines of (text, colour) on a dark band over the whole width. Sizes in pixels."""
    if not lines:
        return
    height = font.size + LINE_GAP
    draw.rectangle((0, top - 3, width, top + height * len(lines)), fill=(0, 0, 0, 140))
    for index, (line, color) in enumerate(lines):
        draw.text((margin, top + index * height), line, font=font, fill=color)


def wrapped(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int
) -> list[str]:
    """The lines of a text, none wider than that [px] unless it is a single word."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
