"""torch on the CPU: the reference that every engine is compared with, and a backend that runs the same networks as
programs of `torch.export`.

A program holds everything that it needs, and no code of ours or of a classifier's library. torch does not promise that
another version reads it, so a bundle keeps to the version that wrote it.
"""

import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from purifyctl.config import EnginePrecision
from purifyctl.engine.backends import Batch
from purifyctl.engine.rewrites import Pass, fold_norms
from purifyctl.errors import BackendError


def version() -> str:
    return metadata.version("torch")


def candidates() -> tuple[EnginePrecision, ...]:
    return ("fp32",)


def supports(precision: EnginePrecision) -> bool:
    return precision in ("fp32", "fp16")


def rewrites(precision: EnginePrecision) -> tuple[Pass, ...]:
    return (fold_norms,)


def open_runner(file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> "TorchRunner":
    return TorchRunner(read_program(file).module(), batch_size)


def read_program(file: Path) -> Any:
    """A `torch.export.ExportedProgram`, on the CPU.

    Raises
    ------
    BackendError
        torch cannot read it.
    """
    try:
        return torch.export.load(file)
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise BackendError(
            f"torch {version()} cannot read {file}: {error}", hint="build it again with purifyctl build-engine"
        ) from None


class TorchRunner:
    """Runs a graph of `purifyctl.engine.graphs`, or a program made from one, on the CPU.

    Parameters
    ----------
    batch_size
        Smaller batches are filled up to this size: an image's result never depends on how many came with it. None: no
        batch is filled up.
    """

    device_id: int | None = None
    concurrency = 1

    def __init__(self, graph: nn.Module, batch_size: int | None = None) -> None:
        self._graph = graph if batch_size else graph.eval()  # a program has no modes, and refuses to be asked
        self._batch_size = batch_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @torch.inference_mode()
    def infer(self, images: Batch) -> tuple[Batch, ...]:
        n = len(images)
        if self._batch_size and n < self._batch_size:
            images = np.concatenate([images, np.zeros((self._batch_size - n, *images.shape[1:]), np.uint8)])
        made = self._graph(torch.from_numpy(images))
        return tuple(output[:n].numpy() for output in (made if isinstance(made, tuple) else (made,)))
