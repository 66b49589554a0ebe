"""Attacked images that are made once and used again: an attack costs more than the rest of a training step."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purifyctl.errors import TrainingError


class AttackCache:
    """Attacked crops on disk, filled as the training first comes to them.

    A place is a photograph's number times the number of variants, plus the variant. What lies there is the crop that
    `TrainingBatches` cuts for that photograph and variant, attacked with one attack and budget.
    """

    def __init__(self, folder: Path, places: int, size: int) -> None:
        """`size`: pixels of the square crops. `folder` may hold an earlier, unfinished cache of the same shape."""
        shape = (places, size, size, 3)
        facts, images, made = folder / "cache.json", folder / "attacked.npy", folder / "made.npy"
        try:
            if not facts.exists():  # written last: without it the folder holds nothing of use
                folder.mkdir(parents=True, exist_ok=True)
                np.lib.format.open_memmap(images, "w+", np.uint8, shape)
                np.lib.format.open_memmap(made, "w+", np.bool_, (places,))
                facts.write_text(json.dumps({"shape": shape}) + "\n")
            self._images = np.lib.format.open_memmap(images, "r+")
            self._made = np.lib.format.open_memmap(made, "r+")
            if self._images.shape != shape:
                raise ValueError(f"it holds {self._images.shape}, not {shape}")
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"The cache of attacked images {folder} cannot be used: {error}.",
                hint=f"delete the folder, or set cached_attacks = 0; it takes {np.prod(shape) / 2**30:.1f} GiB of disk",
            ) from None

    def get(self, places: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
        """The attacked images at `places`, from `make` where one of them is not there yet.

        Returns RGB NCHW float in [0, 1], whole grey levels.
        """
        at = np.asarray(places)
        if not self._made[at].all():
            pixels = (make() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            self._images[at] = pixels
            self._made[at] = True
        return torch.from_numpy(self._images[at]).permute(0, 3, 1, 2).to(torch.float32).div_(255)
