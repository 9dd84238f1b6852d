"""How much room text takes on a sheet."""

import functools

import matplotlib
from PIL import ImageFont

LETTERS, SMALL = 14, 12  # pixels


def letters(text: str, size: int = LETTERS) -> int:
    """Return the width of a line of text."""
    return int(font().getlength(text) * size / 100) + 1


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    """Return the sans serif that matplotlib brings along, to measure text."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 100)


def wrapped(text: str, width: int, size: int = LETTERS) -> list[str]:
    """Return text in lines of a width, broken between words, where there are any."""
    lines: list[str] = []
    for paragraph in text.split("\n") if text else ():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and letters(longer, size) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines
