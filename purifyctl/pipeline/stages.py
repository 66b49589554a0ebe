"""What happens to one batch: read -> decode -> infer -> encode and write. Each stage is a function of the one before.

No stage raises for what is in a file: a bad input gets its status and the rest of the batch goes on.
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.backends import Runner, to_host
from purifyctl.errors import ImageError, OutputError
from purifyctl.files import write_into_tree
from purifyctl.images import Decoder, GpuJpegEncoder, encode, read_file
from purifyctl.images.remote import RemoteFolder, RemoteTree
from purifyctl.images.sink import printable
from purifyctl.labels import Labels
from purifyctl.pipeline.packing import waiting_place
from purifyctl.pipeline.plan import Item
from purifyctl.pipeline.rows import Row

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclass(frozen=True)
class Job:
    """What every batch of one run needs."""

    decoder: Decoder
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
    remote: RemoteTree | None  # the source, where it is a URL,
    readers: Executor | None  # and what then reads the images of a batch at once
    entered: Callable[
        [int, str | None], None
    ]  # called with a batch's number and the stage that it comes to; None: waits


@dataclass
class Work:
    """A batch on its way. `rows` has one row per item from the start; stages fill it in."""

    number: int
    items: Sequence[Item]
    rows: list[Row]
    files: list[NDArray[np.uint8]]  # bytes of the readable ones, at `positions`
    positions: list[int]
    images: Any = None  # decoded, at `positions`


class _Clock:
    ms = 0.0


@contextmanager
def _timed() -> Iterator[_Clock]:
    clock, start = _Clock(), time.perf_counter()
    yield clock
    clock.ms = (time.perf_counter() - start) * 1e3


def read(job: Job, number: int, batch: int, items: Sequence[Item]) -> Work:
    """Bring the files' bytes into memory. `number` names this piece of work, `batch` the plan's batch."""
    job.entered(number, "read")
    rows = []
    for item in items:
        index = item.true_index
        label = job.labels.name(index) if index is not None else None
        path = printable(item.image.path)
        rows.append(Row(path, true_index=index, true_label=label, batch=batch, bundle=job.bundle_sha256))
    work = Work(number, items, rows, [], [])
    at_once = job.readers.map if job.readers else map
    for i, (row, (data, ms)) in enumerate(zip(rows, at_once(partial(_read, job), items), strict=True)):
        row.read_ms = ms
        if job.remote is not None:
            job.entered(number, "read")  # anew: a link may be slow, but each image shows that it is alive
        if isinstance(data, ImageError):
            _fail(row, data)
        else:
            work.files.append(data)
            work.positions.append(i)
    job.entered(number, None)
    return work


def _read(job: Job, item: Item) -> tuple[NDArray[np.uint8] | ImageError, float]:
    """A file's bytes, or why there are none; and milliseconds."""
    data: NDArray[np.uint8] | ImageError
    with _timed() as clock:
        try:
            data = read_file(item.image, remote=job.remote)
        except ImageError as error:
            data = error
    return data, clock.ms


def decode(job: Job, reading: Future[Work]) -> Work:
    """Pixels of the files that have some."""
    work = reading.result()
    job.entered(work.number, "decode")
    with _timed() as clock:
        decoded = job.decoder.decode(work.files)
    work.files.clear()
    for i, error in decoded.errors.items():
        _fail(work.rows[work.positions[i]], error)
    work.positions = [work.positions[i] for i in decoded.positions]
    work.images = decoded.images
    for i, (height, width) in zip(work.positions, decoded.sizes, strict=True):
        row = work.rows[i]
        row.height, row.width = height, width
        row.batch_size = len(work.positions)
        row.decode_batch_ms, row.decode_ms = clock.ms, clock.ms / len(work.positions)
    job.entered(work.number, None)
    return work


def leave_it_there(decoding: Future[Work]) -> tuple[Work, list[Future[None]]]:
    """Nothing more is to be done with what was decoded."""
    return decoding.result(), []


def infer(job: Job, decoding: Future[Work], encoders: Executor) -> tuple[Work, list[Future[None]]]:
    """Purify, classify what was purified, and hand each image to an encoder, which also sees how much it changed."""
    work = decoding.result()
    n = len(work.positions)
    job.entered(work.number, "infer")
    if n == 0:
        return work, []
    compare_here = isinstance(work.images, np.ndarray) and job.gpu_encoder is None  # one by one, as they are encoded
    with _timed() as purify:
        purified, *fused = job.purifier.infer(work.images)
        needed_here = compare_here or (job.image_format is not None and job.gpu_encoder is None)
        host = to_host(purified) if needed_here else None
    rows = [work.rows[i] for i in work.positions]
    if not compare_here:
        for row, change in zip(rows, mean_changes(purified, work.images), strict=True):
            row.mean_change = change
    # encoding starts while the classifier works
    written: list[Future[None]] = []
    if job.gpu_encoder:
        with _timed() as encoding:
            files = job.gpu_encoder.encode(purified)
        written = [encoders.submit(_write, job, work, k, files[k], encoding.ms / n) for k in range(n)]
    elif host is not None:
        before = work.images if compare_here else [None] * n
        written = [encoders.submit(_finish, job, work, k, host[k], before[k]) for k in range(n)]
    with _timed() as classify:
        classified = fused or (job.classifier.infer(purified) if job.classifier else ())
        probabilities = to_host(classified[0]) if classified else None
    unpurified = to_host(job.classifier.infer(work.images)[0]) if job.classifier and job.compare else None
    work.images = None
    job.entered(work.number, "write")
    for k, row in enumerate(rows):
        row.purify_batch_ms, row.purify_ms = purify.ms, purify.ms / n
        if job.classifier is not None:
            row.classify_batch_ms, row.classify_ms = classify.ms, classify.ms / n
        if probabilities is not None:
            top = _top(probabilities[k], job, row.true_index)
            row.top_index, row.top_label, row.top_probability, row.true_probability = top
        if unpurified is not None:
            top = _top(unpurified[k], job, row.true_index)
            row.unpurified_top_index, row.unpurified_top_label = top[:2]
            row.unpurified_top_probability, row.unpurified_true_probability = top[2:]
    return work, written


def _finish(job: Job, work: Work, k: int, image: NDArray[np.uint8], before: NDArray[np.uint8] | None) -> None:
    """What is left to do with one purified image. `before`: what it was made from; None where they are compared."""
    if before is not None:
        work.rows[work.positions[k]].mean_change = mean_change(image, before)
    if job.image_format:
        _encode_and_write(job, work, k, image)


def mean_change(image: NDArray[np.uint8], before: NDArray[np.uint8]) -> float:
    """Mean |image - before| over all values of two RGB uint8 [H, W, 3], in grey levels.

    It stays in 8 bits until the sum, for every image passes here: 0.1 ms at 256x256.
    """
    change = np.maximum(image, before)
    change -= np.minimum(image, before)
    rows = change.reshape(len(change), -1).sum(axis=1, dtype=np.uint32)  # of one row they fit; it is summed the fastest
    return int(rows.sum()) / change.size


def mean_changes(images: Any, before: Any) -> list[float]:
    """`mean_change` of each image of two batches, on a GPU if they lie there."""
    if isinstance(before, np.ndarray):
        return [mean_change(one, other) for one, other in zip(images, before, strict=True)]
    changes = (images.short() - before.short()).abs().flatten(1).sum(dim=1)  # int64
    found: list[float] = (changes.double() / before[0].numel()).tolist()
    return found


def _encode_and_write(job: Job, work: Work, k: int, image: NDArray[np.uint8]) -> None:
    with _timed() as encoding:
        data = encode(image, job.image_format or "png")
    _write(job, work, k, data, encoding.ms)


def _write(job: Job, work: Work, k: int, data: bytes | memoryview | None, encode_ms: float) -> None:
    """Write one purified image, and note it in its row."""
    position = work.positions[k]
    row, output = work.rows[position], work.items[position].output
    row.encode_ms = encode_ms
    if data is None:
        row.status, row.error = "write_failed", "The purified image could not be encoded."
        return
    with _timed() as writing:
        try:
            if job.store:
                inside = PurePosixPath(*output.parts[1:])
                job.store.write(inside, bytes(data))
                row.output = f"{job.store.url}/{printable(inside)}"
            else:
                place = waiting_place(output) if job.packed else output
                write_into_tree(job.out / place, data, temporary=job.partial)
                row.output = printable(output)
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in NO_ROOM:  # no fault of this image; nothing else can be written either
                raise OutputError(
                    f"{job.out} cannot be written to: {why}.", hint="make room, and give the same command again"
                ) from None
            if job.store and isinstance(error, (ConnectionError, PermissionError)):
                raise OutputError(
                    f"{job.store.url} cannot be written to: {why}.", hint="mend that, and give the same command again"
                ) from None
            row.status, row.error = "write_failed", f"{printable(output)} cannot be written: {why}."
    row.write_ms = writing.ms


def _fail(row: Row, error: ImageError) -> None:
    row.status, row.error = error.status, str(error)


def _top(
    probabilities: NDArray[np.float32], job: Job, true_index: int | None
) -> tuple[list[int], list[str], list[float], float | None]:
    k = min(job.top, len(probabilities))
    best = np.argpartition(-probabilities, k - 1)[:k]
    best = best[np.lexsort((best, -probabilities[best]))]  # by probability, then by index
    true = float(probabilities[true_index]) if true_index is not None else None
    return best.tolist(), [job.labels.name(i) for i in best], probabilities[best].tolist(), true
