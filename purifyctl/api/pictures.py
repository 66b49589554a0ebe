"""What goes into an opened engine, and what it says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl.errors import InputError
from purifyctl.labels import Labels
from purifyctl.photographs import Pixels

Images = Pixels | Image.Image | Sequence[Pixels | Image.Image]


@dataclass(frozen=True, eq=False)
class Classified:
    """A classifier's predictions for some images."""

    images: Pixels  # RGB uint8 [n, height, width, 3]; exactly what was classified
    probabilities: NDArray[np.float32]  # [n, classes]
    labels: Labels

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """The `k` most likely classes of each image with their probabilities, the most likely first. A class without a
        name is called by its index.
        """
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        chances = np.take_along_axis(self.probabilities, best, axis=1)
        return [
            [(self.labels.name(i), chance) for i, chance in zip(*pair, strict=True)]
            for pair in zip(best.tolist(), chances.tolist(), strict=True)
        ]


def as_array(image: Any) -> Pixels:
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise InputError(f"The image is of mode {image.mode}; the engine takes RGB.", hint="image.convert('RGB')")
        return np.asarray(image)
    if not isinstance(image, np.ndarray):
        raise InputError(f"The engine takes numpy arrays and PIL images; this is of type {type(image).__name__}.")
    return image


def as_picture(image: Any) -> Pixels:
    """A whole picture as an array."""
    pixels = as_array(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(f"A picture is uint8 [height, width, 3]; this is {pixels.dtype} {list(pixels.shape)}.")
    return pixels
