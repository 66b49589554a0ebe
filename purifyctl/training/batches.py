"""Batches of random crops to train on, decoded by DALI while the network works.

Decoded photographs are kept in memory as far as there is room, because decoding takes a tenth of a step's time.
"""

import hashlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from purifyctl import console
from purifyctl.config.picture_options import DEFAULTS, PictureOptions
from purifyctl.errors import TrainingError
from purifyctl.images import Decoder
from purifyctl.images.sink import printable
from purifyctl.photographs import read_some, to_tensor
from purifyctl.sources import ImageFile

KEPT_BYTES = 512 << 20  # of decoded photographs, in all processes of a training: 2,700 squares of 256 pixels


def split(photographs: list[ImageFile], held_out: float, seed: int) -> tuple[list[ImageFile], list[ImageFile]]:
    """Split photographs into those to train on and those held out, a share of about `held_out` and at least one.

    The order is by a hash of seed and path, so that photographs that are added later hardly move the others.
    """
    order = sorted(photographs, key=lambda p: hashlib.sha256(f"{seed} {p.path}".encode(errors="replace")).digest())
    n = max(1, round(len(order) * held_out))
    return order[n:], order[:n]


@dataclass(frozen=True)
class TrainingBatch:
    """Crops to train on."""

    x: Tensor  # RGB NCHW float in [0, 1]
    places: list[int]  # per crop: its photograph's number * variants + its number among the photograph's crops


class TrainingBatches:
    """Endless shuffled batches of random square crops, half of them mirrored.

    Which photographs and crops a step sees depends only on the seed and the step's number. So a training that was
    stopped continues as if it had not been stopped. Photographs that cannot be read are left out and counted.
    """

    def __init__(
        self,
        photographs: list[ImageFile],
        *,
        batch_size: int,
        resize: int,
        crop: int,
        seed: int,
        variants: int = 0,
        rank: int = 0,
        count: int = 1,
        threads: int = 2,
        pictures: PictureOptions = DEFAULTS,
    ) -> None:
        """`resize`: pixels of the decoded square; `crop`: pixels of the random crop from it.

        `variants`: the number of different crops of each photograph, taken in turn; 0: a new one every time. Each of
        `count` processes takes the `rank`-th share of every batch of `batch_size`.
        """
        self._photographs = photographs
        self._batch_size = min(batch_size, len(photographs))
        self._crop = crop
        self._seed = seed
        self._variants = variants
        self._rank, self._count = rank, count
        self._decoder = Decoder(
            size=resize, batch_size=-(-self._batch_size // count), threads=threads, options=pictures
        )
        self.steps_per_epoch = len(photographs) // self._batch_size
        self.unreadable: dict[str, str] = {}  # path: why it cannot be read
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._kept: dict[int, NDArray[np.uint8]] = {}  # by the photograph's number
        self._most_kept = KEPT_BYTES // count // (3 * resize**2)

    def from_step(self, step: int) -> Generator[TrainingBatch, None, None]:
        """Batches from `step` on. The next one is decoded while this one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
            ahead = pool.submit(self._batch, step)
            while True:
                step += 1
                batch, ahead = ahead.result(), pool.submit(self._batch, step)
                yield batch

    def _batch(self, step: int) -> TrainingBatch:
        epoch, position = divmod(step, self.steps_per_epoch)
        order, start = self._shuffled(epoch), position * self._batch_size
        mine = order[start : start + self._batch_size][self._rank :: self._count]
        images, shown = self._read(mine)
        # a photograph that cannot be read gives its place to the next one that can
        spares = np.roll(order, -(start + self._batch_size))[self._rank :: self._count]
        while len(shown) < len(mine):
            missing = len(mine) - len(shown)
            if not len(spares):
                raise TrainingError(f"None of {len(order)} photographs could be read.", hint="check --photos")
            more, readable = self._read(spares[:missing])
            images, shown, spares = [*images, *more], shown + readable, spares[missing:]
        variant = epoch % self._variants if self._variants else epoch
        crops = [self._cut(image, photograph, variant) for image, photograph in zip(images, shown, strict=True)]
        return TrainingBatch(
            to_tensor(np.stack(crops)), [photograph * self._variants + variant for photograph in shown]
        )

    def _read(self, chosen: NDArray[np.int64]) -> tuple[list[NDArray[np.uint8]], list[int]]:
        """The images that can be read, and which photographs they are."""
        new = [int(i) for i in chosen if i not in self._kept]
        read = read_some([self._photographs[i] for i in new], self._decoder)
        for n, error in read.errors.items():
            name = printable(self._photographs[new[n]].path)
            if name not in self.unreadable:
                console.warn(f"{name} is left out. {error}")
                self.unreadable[name] = str(error)
        decoded = {new[position]: image for position, image in zip(read.positions, read.images, strict=True)}
        shown = [int(i) for i in chosen if i in self._kept or i in decoded]
        images = [self._kept[i] if i in self._kept else decoded[i] for i in shown]
        for i in list(decoded)[: max(0, self._most_kept - len(self._kept))]:
            self._kept[i] = decoded[i].copy()  # not a part of a whole batch
        return images, shown

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._photographs))
        return self._order[1]

    def _cut(self, image: NDArray[np.uint8], photograph: int, variant: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng((self._seed, photograph, variant))
        top, left = rng.integers(image.shape[0] - self._crop + 1, size=2)
        crop = image[top : top + self._crop, left : left + self._crop]
        return crop[:, ::-1] if rng.random() < 0.5 else crop
