"""What happens to one batch: read -> decode -> infer -> encode and write. Each stage is a function of the one before.

With a gate, inference only looks which images are flagged; those wait, and are purified with others' in full batches.

No stage raises for what is in a file: a bad input gets its status and the rest of the batch goes on.
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.backends import Runner, to_host
from purifyctl.errors import ImageError, OutputError
from purifyctl.files import link_into_tree, write_into_tree
from purifyctl.images import Decoder, GpuJpegEncoder, encode, read_file
from purifyctl.images.remote import RemoteFolder, RemoteTree
from purifyctl.images.sink import IMAGES, printable
from purifyctl.labels import Labels
from purifyctl.metrics import divergence
from purifyctl.pipeline.options import Unflagged
from purifyctl.pipeline.packing import waiting_place
from purifyctl.pipeline.packs import Packs
from purifyctl.pipeline.plan import Item
from purifyctl.pipeline.rows import Row

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclass(frozen=True)
class Gating:
    """What decides which images are purified."""

    runner: Runner
    threshold: float  # of its scores: from there on an image is flagged
    unflagged: Unflagged  # what becomes of the others' files


@dataclass(frozen=True)
class Job:
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
    originals: dict[int, NDArray[np.uint8]] = field(default_factory=dict)  # bytes of files to pass on, by position


Member = tuple[Work, int]  # an image of a batch, by its number among `positions`


@dataclass(frozen=True)
class Flagged:
    """An image that waits to be purified."""

    member: Member
    image: Any  # RGB uint8 [H, W, 3], on the host or on a GPU
    unpurified: NDArray[np.float32] | None  # its class probabilities as it is, where they are wanted
    done: "Future[Future[None] | None]"  # purified, and handed to an encoder


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
    if job.gating and job.gating.unflagged != "leave" and job.image_format:
        work.originals = dict(zip(work.positions, work.files, strict=True))
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


def leave_it_there(decoding: Future[Work]) -> tuple[Work, list[Future[Any]]]:
    """Nothing more is to be done with what was decoded."""
    return decoding.result(), []


def infer(job: Job, decoding: Future[Work], encoders: Executor) -> tuple[Work, list[Future[Any]]]:
    """Purify and classify a batch."""
    work = decoding.result()
    job.entered(work.number, "infer")
    if not work.positions:
        return work, []
    written = purify(job, [(work, k) for k in range(len(work.positions))], work.images, encoders)
    work.images = None
    job.entered(work.number, "write")
    return work, [future for future in written if future]


def look(
    job: Job, gating: Gating, packs: Packs[Flagged], decoding: Future[Work], encoders: Executor
) -> tuple[Work, list[Future[Any]]]:
    """Score a batch; pass on what is not flagged, and leave what is flagged to be purified."""
    work = decoding.result()
    job.entered(work.number, "infer")
    n = len(work.positions)
    if n == 0:
        packs.leave()
        return work, []
    with _timed() as scoring:
        scores = to_host(gating.runner.infer(work.images)[0])
    flagged = scores >= gating.threshold
    with _timed() as classifying:
        # of the whole batch, which takes no longer than a part of it
        wanted = job.classifier is not None and (job.compare or not flagged.all())
        unpurified = to_host(job.classifier.infer(work.images)[0]) if job.classifier and wanted else None
    written: list[Future[Any]] = []
    left = []
    for k, row in enumerate(work.rows[i] for i in work.positions):
        row.gate_score, row.flagged, row.gate_ms = float(scores[k]), bool(flagged[k]), scoring.ms / n
        if unpurified is not None and job.compare:
            _tell_unpurified(row, _top(unpurified[k], job, row.true_index))
        if flagged[k]:
            image = work.images[k].copy() if isinstance(work.images, np.ndarray) else work.images[k].clone()
            before = unpurified[k] if unpurified is not None and job.compare else None
            left.append(Flagged((work, k), image, before, Future()))
            continue
        if unpurified is not None:
            _tell_top(row, _top(unpurified[k], job, row.true_index))
            row.classify_batch_ms, row.classify_ms = classifying.ms, classifying.ms / n
        if gating.unflagged == "leave" or job.image_format is None:
            row.handled = "left"
        else:
            written.append(encoders.submit(_pass_on, job, gating, work, k))
    work.images = None
    job.entered(work.number, None if left else "write")
    packs.leave(left)
    return work, [*written, *(one.done for one in left)]


def purify_flagged(job: Job, encoders: Executor, pack: Sequence[Flagged]) -> None:
    """Purify images of several batches together."""
    numbers = {one.member[0].number for one in pack}
    try:
        for number in numbers:
            job.entered(number, "infer")
        first = pack[0].image
        images = (np if isinstance(first, np.ndarray) else _torch()).stack([one.image for one in pack])
        before = [one.unpurified for one in pack if one.unpurified is not None]
        written = purify(job, [one.member for one in pack], images, encoders, np.stack(before) if before else None)
        for number in numbers:
            job.entered(number, "write")
    except BaseException as error:
        for one in pack:
            one.done.set_exception(error)
        raise
    for one, future in zip(pack, written, strict=True):
        one.done.set_result(future)


def _torch() -> Any:
    import torch

    return torch


def purify(
    job: Job,
    members: Sequence[Member],
    images: Any,
    encoders: Executor,
    unpurified: NDArray[np.float32] | None = None,
) -> list[Future[None] | None]:
    """Purify, classify what was purified, and hand each image to an encoder, which also sees how much it changed.

    Parameters
    ----------
    images
        RGB uint8 [n, H, W, 3] of the n members.
    unpurified
        Their class probabilities as they are, where those are known.

    Returns
    -------
    For each member what is left to be done with it.
    """
    n = len(members)
    compare_here = isinstance(images, np.ndarray) and job.gpu_encoder is None  # one by one, as they are encoded
    with _timed() as purifying:
        purified, *fused = job.purifier.infer(images)
        needed_here = compare_here or (job.image_format is not None and job.gpu_encoder is None)
        host = to_host(purified) if needed_here else None
    rows = [work.rows[work.positions[k]] for work, k in members]
    if not compare_here:
        for row, change in zip(rows, mean_changes(purified, images), strict=True):
            row.mean_change = change
    # encoding starts while the classifier works
    written: list[Future[None] | None] = [None] * n
    if job.gpu_encoder:
        with _timed() as encoding:
            files = job.gpu_encoder.encode(purified)
        written = [
            encoders.submit(_write, job, *member, file, encoding.ms / n)
            for member, file in zip(members, files, strict=True)
        ]
    elif host is not None:
        before = images if compare_here else [None] * n
        written = [
            encoders.submit(_finish, job, *member, made, was)
            for member, made, was in zip(members, host, before, strict=True)
        ]
    with _timed() as classifying:
        classified = fused or (job.classifier.infer(purified) if job.classifier else ())
        probabilities = to_host(classified[0]) if classified else None
    if unpurified is None and job.classifier and job.compare:
        unpurified = to_host(job.classifier.infer(images)[0])
    for k, row in enumerate(rows):
        row.handled = "purified"
        row.purify_batch_ms, row.purify_ms = purifying.ms, purifying.ms / n
        if job.classifier is not None:
            row.classify_batch_ms, row.classify_ms = classifying.ms, classifying.ms / n
        if probabilities is not None:
            _tell_top(row, _top(probabilities[k], job, row.true_index))
        if unpurified is not None:
            _tell_unpurified(row, _top(unpurified[k], job, row.true_index))
        if probabilities is not None and unpurified is not None:
            row.divergence = divergence(unpurified[k], probabilities[k])
    return written


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
    with _timed() as writing, _noting_failure(job, row, output):
        if job.store:
            row.output = _store(job.store, output, data)
        else:
            place = waiting_place(output) if job.packed else output
            write_into_tree(job.out / place, data, temporary=job.partial)
            row.output = printable(output)
    row.write_ms = writing.ms


def _pass_on(job: Job, gating: Gating, work: Work, k: int) -> None:
    """The file of an image that was not flagged, as it is, under its own name: no output of another input has that."""
    position = work.positions[k]
    row, image = work.rows[position], work.items[position].image
    output, data = IMAGES / image.path, work.originals.pop(position)
    with _timed() as writing, _noting_failure(job, row, output):
        if job.store:
            row.output, row.handled = _store(job.store, output, data.tobytes()), "copied"
        elif gating.unflagged == "link" and isinstance(image.file, Path) and image.span is None:
            link_into_tree(job.out / output, image.file, temporary=job.partial)
            row.output, row.handled = printable(output), "linked"
        else:
            write_into_tree(job.out / output, data.data, temporary=job.partial)
            row.output, row.handled = printable(output), "copied"
    row.write_ms = writing.ms


def _store(store: RemoteFolder, output: PurePosixPath, data: bytes | memoryview) -> str:
    inside = PurePosixPath(*output.parts[1:])
    store.write(inside, bytes(data))
    return f"{store.url}/{printable(inside)}"


@contextmanager
def _noting_failure(job: Job, row: Row, output: PurePosixPath) -> Iterator[None]:
    """Note in the row why an image cannot be written. Raises OutputError where no other could be, either."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in NO_ROOM:
            raise OutputError(
                f"{job.out} cannot be written to: {why}.", hint="make room, and give the same command again"
            ) from None
        if job.store and isinstance(error, (ConnectionError, PermissionError)):
            raise OutputError(
                f"{job.store.url} cannot be written to: {why}.", hint="mend that, and give the same command again"
            ) from None
        row.status, row.error = "write_failed", f"{printable(output)} cannot be written: {why}."


def _fail(row: Row, error: ImageError) -> None:
    row.status, row.error = error.status, str(error)


_Top = tuple[list[int], list[str], list[float], float | None]


def _tell_top(row: Row, top: _Top) -> None:
    row.top_index, row.top_label, row.top_probability, row.true_probability = top


def _tell_unpurified(row: Row, top: _Top) -> None:
    row.unpurified_top_index, row.unpurified_top_label = top[:2]
    row.unpurified_top_probability, row.unpurified_true_probability = top[2:]


def _top(probabilities: NDArray[np.float32], job: Job, true_index: int | None) -> _Top:
    k = min(job.top, len(probabilities))
    best = np.argpartition(-probabilities, k - 1)[:k]
    best = best[np.lexsort((best, -probabilities[best]))]  # by probability, then by index
    true = float(probabilities[true_index]) if true_index is not None else None
    return best.tolist(), [job.labels.name(i) for i in best], probabilities[best].tolist(), true
