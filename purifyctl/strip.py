"""A picture strip: clean | attacked | (baseline) | purified | what the purifier changed. A line is a photograph."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE = 224  # pixels of one picture
GAP = 8
CAPTION = 44  # pixels under each picture
GAIN = 16  # a difference of a few grey levels would be invisible
_GOOD, _BAD, _TEXT, _PAPER = (22, 120, 60), (180, 35, 35), (40, 40, 40), (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """One image of a line with the classifier's prediction. `good`: whether it is right; None: unknown."""

    image: NDArray[np.uint8]  # RGB [height, width, 3]
    label: str
    probability: float
    good: bool | None


@dataclass(frozen=True)
class Line:
    clean: Picture
    attacked: Picture
    purified: Picture
    baseline: Picture | None = None  # from another purifier; either all lines of a strip have one, or none


def draw_strip(lines: Sequence[Line], title: str, baseline: str = "") -> Image.Image:
    """Draw the lines under each other, with `title` and column heads on top. `baseline`: the head of its column."""
    heads = ("clean", "attacked", *filter(None, (baseline,)), "purified", f"purified - attacked, x{GAIN}")
    head = 64
    width = len(heads) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, head + len(lines) * (SIDE + CAPTION + GAP)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 8), title, fill=_TEXT, font=ImageFont.load_default(18))
    small = ImageFont.load_default(15)
    for column, text in enumerate(heads):
        pen.text((GAP + column * (SIDE + GAP), 38), text, fill=_TEXT, font=small)
    for row, line in enumerate(lines):
        top = head + row * (SIDE + CAPTION + GAP)
        pictures = [p for p in (line.clean, line.attacked, line.baseline, line.purified) if p]
        for column, picture in enumerate(pictures):
            left = GAP + column * (SIDE + GAP)
            sheet.paste(_fit(picture.image), (left, top))
            colour = _TEXT if picture.good is None else _GOOD if picture.good else _BAD
            mark = "" if picture.good is None else "right: " if picture.good else "wrong: "
            pen.text((left, top + SIDE + 3), _shorten(mark + picture.label, pen, small), fill=colour, font=small)
            pen.text((left, top + SIDE + 22), f"{picture.probability:.0%} sure", fill=colour, font=small)
        change = line.purified.image.astype(np.int16) - line.attacked.image
        left = GAP + len(pictures) * (SIDE + GAP)
        sheet.paste(_fit(np.clip(128 + GAIN * change, 0, 255).astype(np.uint8)), (left, top))
        text = f"{np.abs(change).mean():.1f} grey levels on average"
        pen.text((left, top + SIDE + 3), text, fill=_TEXT, font=small)
    return sheet


def _fit(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _shorten(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while pen.textlength(text, font=font) > SIDE:
        text = text.rstrip("…")[:-1] + "…"
    return text
