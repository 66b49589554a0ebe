"""Which part of a picture an engine sees: the square in its middle. Decoder, Python API and report all take it from
here.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps


@dataclass(frozen=True)
class Square:
    """The square in the middle of a picture, at an engine's size."""

    size: int  # pixels; side of the square that comes out
    resized: tuple[int, int]  # (height, width) of the whole picture when its shorter side has `size` pixels
    offset: tuple[int, int]  # (top, left) of the square in that resized picture
    start: tuple[float, float]  # (top, left) of the square in the original, in pixels
    end: tuple[float, float]  # (bottom, right) of the square in the original, in pixels


def square(height: int, width: int, size: int) -> Square:
    """The square that torchvision's Resize(size) and CenterCrop(size) take from a picture.

    The resized side is cut to whole pixels, and the offset is half of what is left over; a half goes to the even
    number. `start` and `end` say where this square lies in the original, so that only this region must be resized.

    Parameters
    ----------
    height, width
        Of the picture as seen, after EXIF rotation, in pixels; at least 1.
    size
        Side of the square that comes out, in pixels.
    """
    top, bottom, new_height, from_top = _along(height, min(height, width), size)
    left, right, new_width, from_left = _along(width, min(height, width), size)
    return Square(size, (new_height, new_width), (from_top, from_left), (top, left), (bottom, right))


def _along(side: int, short: int, size: int) -> tuple[float, float, int, int]:
    """One side of a picture: where the square starts and ends in it, its length when resized, and the offset there."""
    resized = size * side // short
    offset = round((resized - size) / 2)
    return offset * side / resized, (offset + size) * side / resized, resized, offset


def fit(image: Image.Image, size: int) -> Image.Image:
    """What an engine sees of a PIL image: upright as EXIF says, RGB, the square in the middle at `size` pixels.

    `Decoder` makes the same of a file, except that the two libraries round differently (by less than half a grey level
    on average).
    """
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    upright = ImageOps.exif_transpose(image).convert("RGB")
    middle = square(upright.height, upright.width, size)
    (top, left), (bottom, right) = middle.start, middle.end
    return upright.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
