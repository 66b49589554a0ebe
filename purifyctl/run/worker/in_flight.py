"""What travels through a worker's stages: images, and the batches that they travel in."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import ImageError
from purifyctl.run.plan import Input
from purifyctl.run.rows import Row


@dataclass(eq=False)
class ImageInFlight:
    """One input on its way through the stages, which fill it in."""

    input: Input
    row: Row
    file: NDArray[np.uint8] | None = None  # its bytes, until nobody needs them any more
    pixels: Any = None  # only while it waits to be purified: RGB uint8 [H, W, 3], in host memory or on a GPU
    unpurified: NDArray[np.float32] | None = None  # class probabilities before it is purified, if they are needed
    purified: "Future[None] | None" = None  # only for a flagged image: it has been purified, and `written` is there
    written: "Future[None] | None" = None  # its output is on disk, or its row says why not

    def fail(self, error: ImageError) -> None:
        self.row.status, self.row.error = error.status, str(error)

    def wait(self) -> None:
        """Wait until its row is complete. Raises the error, if it was not the image's fault."""
        if self.purified is not None:
            self.purified.result()
        if self.written is not None:
            self.written.result()


@dataclass(eq=False)
class BatchInFlight:
    """A batch on its way: an image for each input, and the pixels of those that are still alive in one array."""

    number: int  # the parent sent it under this number
    images: list[ImageInFlight]
    alive: list[ImageInFlight]  # the images that have not failed
    pixels: Any = (
        None  # once they are decoded: RGB uint8 [n, H, W, 3] of the n images alive, in host memory or on a GPU
    )

    def rows(self) -> list[Row]:
        """All its rows. Waits until they are complete."""
        for image in self.images:
            image.wait()
        return [image.row for image in self.images]


class Clock:
    ms = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    clock, start = Clock(), time.perf_counter()
    yield clock
    clock.ms = (time.perf_counter() - start) * 1e3
