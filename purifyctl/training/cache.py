"""Attacked images that are made once and used again: an attack costs more than the rest of a training step."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from purifyctl.errors import TrainingError
from purifyctl.photographs import to_pixels, to_tensor
from purifyctl.training.workers import Workers


class AttackCache:
    """Attacked crops on disk, each made when the training first needs it.

    A place is a photograph's number times the number of variants, plus the variant. It holds the crop that
    `TrainingBatches` cuts for that photograph and variant, attacked with one attack and budget.
    """

    def __init__(self, folder: Path, places: int, size: int, digest: str, workers: Workers) -> None:
        """`size`: pixels of the square crops. `digest`: of recipe and photographs; `folder` may hold their cache.

        Raises
        ------
        TrainingError
            The disk has no room, or the folder holds the cache of another recipe or of other photographs.
        """
        shape = (places, size, size, 3)
        begun = {"shape": list(shape), "digest": digest}
        facts, images, made = folder / "cache.json", folder / "attacked.npy", folder / "made.npy"
        try:
            if workers.leads and not facts.exists():  # written last: without it the folder is incomplete
                folder.mkdir(parents=True, exist_ok=True)
                for file, kind, extent in ((images, np.uint8, shape), (made, np.bool_, (places,))):
                    array = np.lib.format.open_memmap(file, "w+", kind, extent)
                    with file.open("r+b") as opened:  # reserve all room now: a full disk later would crash
                        os.posix_fallocate(opened.fileno(), 0, array.offset + array.nbytes)
                facts.write_text(json.dumps(begun) + "\n")
            workers.largest(0)  # the other processes wait until the files are there
            if json.loads(facts.read_text()) != begun:
                raise ValueError("it belongs to another recipe or to other photographs")
            self._images = np.lib.format.open_memmap(images, "r+")
            self._made = np.lib.format.open_memmap(made, "r+")
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"The cache of attacked images {folder} cannot be used: {error}.",
                hint="choose another --out, or in a recipe of `train` set cached_attacks = 0; "
                f"it takes {np.prod(shape) / 2**30:.1f} GiB",
            ) from None

    def get(self, places: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
        """The attacked images at `places`; `make` makes all of them if some are missing.

        Returns RGB NCHW float in [0, 1], whole grey levels.
        """
        at = np.asarray(places)
        missing = ~self._made[at]
        if missing.any():
            self._images[at[missing]] = to_pixels(make())[missing]
            self._made[at[missing]] = True
        return to_tensor(self._images[at])
