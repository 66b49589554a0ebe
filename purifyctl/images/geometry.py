"""Which part of a picture an engine sees: the square in its middle. Decoder, Python API and report all take it from
here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl.images.pillow import picture_of


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


def resized_square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """What an engine sees of a picture, RGB uint8 [height, width, 3]: the square in the middle at `size` pixels.

    Pillow resizes, with the filter that DALI uses for its pictures (antialiased linear): the two differ in their
    rounding, by less than half a grey level on average.
    """
    height, width, _ = pixels.shape
    middle = square(height, width, size)
    (top, left), (bottom, right) = middle.start, middle.end
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def fit(image: Image.Image, size: int) -> Image.Image:
    """What an engine sees of a PIL image: as a viewer shows it, on white, the square in the middle at `size` pixels.

    `Decoder` makes the same of a file, except for rounding.
    """
    return Image.fromarray(resized_square(picture_of(image).pixels, size))
