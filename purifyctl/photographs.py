"""Batches of photographs to train on and to validate with, decoded by DALI while the network works."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from purifyctl.errors import TrainingError
from purifyctl.images import Decoder, ImageFile


def split(photographs: list[ImageFile], held_out: float, seed: int) -> tuple[list[ImageFile], list[ImageFile]]:
    """Deal photographs into a training part and a held-out part, the same way for the same seed and files."""
    order = np.random.default_rng(seed).permutation(len(photographs))
    n = max(1, round(len(photographs) * held_out))
    return [photographs[i] for i in order[n:]], [photographs[i] for i in order[:n]]


class TrainingBatches:
    """Endless shuffled batches of random square crops, half of them mirrored.

    Which photographs and crops a step sees depends on the seed and the step's number alone, so that a training that
    was stopped goes on as if it had not been. Photographs that cannot be read are left out and counted.
    """

    def __init__(
        self, photographs: list[ImageFile], *, batch_size: int, resize: int, crop: int, seed: int, threads: int = 2
    ) -> None:
        """`resize`: pixels of the decoded square; `crop`: pixels of the random crop from it."""
        self._photographs = photographs
        self._batch_size = min(batch_size, len(photographs))
        self._crop = crop
        self._seed = seed
        self._decoder = Decoder(size=resize, batch_size=self._batch_size, threads=threads)
        self.steps_per_epoch = len(photographs) // self._batch_size
        self.unreadable: set[str] = set()

    def from_step(self, step: int) -> Iterator[Tensor]:
        """Batches from `step` on: RGB NCHW float in [0, 1]. The next one is decoded while this one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
            ahead = pool.submit(self._batch, step)
            while True:
                step += 1
                batch, ahead = ahead.result(), pool.submit(self._batch, step)
                yield batch

    def _batch(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._photographs))
        chosen = order[position * self._batch_size : (position + 1) * self._batch_size]
        images = self._read([self._photographs[i] for i in chosen])
        rng = np.random.default_rng((self._seed, epoch, position))
        n, room = len(images), images.shape[1] - self._crop + 1
        crops = []
        for image, top, left, mirror in zip(
            images, rng.integers(room, size=n), rng.integers(room, size=n), rng.random(n) < 0.5, strict=True
        ):
            crop = image[top : top + self._crop, left : left + self._crop]
            crops.append(crop[:, ::-1] if mirror else crop)
        return to_tensor(np.stack(crops))

    def _read(self, photographs: list[ImageFile]) -> np.ndarray:
        decoded = self._decoder.decode([np.fromfile(p.file, np.uint8) for p in photographs])
        self.unreadable |= {str(photographs[i].path) for i in decoded.errors}
        if not len(decoded.images):
            reason = next(iter(decoded.errors.values()))
            raise TrainingError(
                f"None of {len(photographs)} photographs could be read: {reason}", hint="check --photos"
            )
        images: np.ndarray = decoded.images
        return images


def read_all(photographs: list[ImageFile], size: int, threads: int = 2) -> tuple[Tensor, list[ImageFile]]:
    """Decode photographs at `size` pixels: RGB NCHW float in [0, 1], and the ones that could be read, in order."""
    images, kept = [], []
    with Decoder(size=size, batch_size=16, threads=threads) as decoder:
        for start in range(0, len(photographs), 16):
            part = photographs[start : start + 16]
            decoded = decoder.decode([np.fromfile(p.file, np.uint8) for p in part])
            images.append(decoded.images)
            kept += [part[i] for i in decoded.positions]
    if not kept:
        raise TrainingError(f"None of {len(photographs)} photographs could be read.", hint="check --photos")
    return to_tensor(np.concatenate(images)), kept


def to_tensor(images: np.ndarray) -> Tensor:
    """RGB uint8 NHWC -> RGB NCHW float in [0, 1], channels last in memory, which CPUs and GPUs convolve fastest."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32).div_(255)
