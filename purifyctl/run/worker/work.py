"""What the stages of a run share: the resources, the batches on their way, and time."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.config.run import Unflagged
from purifyctl.engine.backends import Runner
from purifyctl.images import Decoder, GpuJpegEncoder
from purifyctl.labels import Labels
from purifyctl.run.plan import Input
from purifyctl.run.rows import Row
from purifyctl.sources import Source
from purifyctl.sources.store import RemoteFolder


@dataclass(frozen=True)
class Gating:
    """What decides which images are purified."""

    runner: Runner
    threshold: float  # of its scores: from there on an image is flagged
    unflagged: Unflagged  # what becomes of the others' files


@dataclass(frozen=True)
class Resources:
    """What every batch of one run needs."""

    decoder: Decoder
    gating: Gating | None  # None: every image is purified
    purifier: Runner  # or purifier and classifier in one: a second output is the classifier's
    classifier: Runner | None  # for what `purifier` leaves unclassified
    labels: Labels
    image_format: str | None  # None: rows only
    gpu_encoder: GpuJpegEncoder | None  # for batches on a GPU; else they are encoded one by one on the CPU
    store: RemoteFolder | None  # where images go instead of `out`
    packed: bool  # images wait for the archive that they go into
    out: Path
    partial: Path  # folder for images that are being written; on the same file system as `out`
    compare: bool  # classify the unpurified image too
    top: int  # classes per row
    bundle_sha256: str
    source: Source
    readers: Executor | None  # reads images of a batch at once; None: one after another
    # called with a batch's number and the stage that it comes to; None: waits
    entered: Callable[[int, str | None], None]


@dataclass
class BatchInFlight:
    """A batch on its way. `rows` has one row per one from the start; stages fill it in."""

    number: int
    inputs: Sequence[Input]
    rows: list[Row]
    files: list[NDArray[np.uint8]]  # bytes of the readable ones, at `positions`
    positions: list[int]
    images: Any = None  # decoded, at `positions`
    originals: dict[int, NDArray[np.uint8]] = field(default_factory=dict)  # bytes of files to pass on, by position


Member = tuple[BatchInFlight, int]  # an image of a batch, by its number among `positions`


@dataclass(frozen=True)
class Flagged:
    """An image that waits to be purified."""

    member: Member
    image: Any  # RGB uint8 [H, W, 3], on the host or on a GPU
    unpurified: NDArray[np.float32] | None  # its class probabilities as it is, where they are wanted
    done: "Future[Future[None] | None]"  # purified, and handed to an encoder


class Clock:
    ms = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    clock, start = Clock(), time.perf_counter()
    yield clock
    clock.ms = (time.perf_counter() - start) * 1e3
