"""What is left to do with one image: see how much it changed, encode it, write it; or pass its file on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import OutputError
from purifyctl.files import link_into_tree, write_into_tree
from purifyctl.images import encode
from purifyctl.images.sink import IMAGES, printable
from purifyctl.run.archives import waiting_place
from purifyctl.run.rows import Row
from purifyctl.run.worker.work import BatchInFlight, Gating, Resources, timed
from purifyctl.sources.store import RemoteFolder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def finish(
    resources: Resources, work: BatchInFlight, k: int, image: NDArray[np.uint8], before: NDArray[np.uint8] | None
) -> None:
    """What is left to do with one purified image. `before`: what it was made from; None where they are compared."""
    if before is not None:
        work.rows[work.positions[k]].mean_change = mean_change(image, before)
    if resources.image_format:
        _encode_and_write(resources, work, k, image)


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


def _encode_and_write(resources: Resources, work: BatchInFlight, k: int, image: NDArray[np.uint8]) -> None:
    with timed() as encoding:
        data = encode(image, resources.image_format or "png")
    write(resources, work, k, data, encoding.ms)


def write(resources: Resources, work: BatchInFlight, k: int, data: bytes | memoryview | None, encode_ms: float) -> None:
    """Write one purified image, and note it in its row."""
    position = work.positions[k]
    row, output = work.rows[position], work.inputs[position].output
    row.encode_ms = encode_ms
    if data is None:
        row.status, row.error = "write_failed", "The purified image could not be encoded."
        return
    with timed() as writing, _noting_failure(resources, row, output):
        if resources.store:
            row.output = _store(resources.store, output, data)
        else:
            place = waiting_place(output) if resources.packed else output
            write_into_tree(resources.out / place, data, temporary=resources.partial)
            row.output = printable(output)
    row.write_ms = writing.ms


def pass_on(resources: Resources, gating: Gating, work: BatchInFlight, k: int) -> None:
    """The file of an image that was not flagged, as it is, under its own name: no output of another input has that."""
    position = work.positions[k]
    row, image = work.rows[position], work.inputs[position].image
    output, data = IMAGES / image.path, work.originals.pop(position)
    with timed() as writing, _noting_failure(resources, row, output):
        if resources.store:
            row.output, row.handled = _store(resources.store, output, data.tobytes()), "copied"
        elif gating.unflagged == "link" and (file := image.on_this_machine) and image.span is None:
            link_into_tree(resources.out / output, file, temporary=resources.partial)
            row.output, row.handled = printable(output), "linked"
        else:
            write_into_tree(resources.out / output, data.data, temporary=resources.partial)
            row.output, row.handled = printable(output), "copied"
    row.write_ms = writing.ms


def _store(store: RemoteFolder, output: PurePosixPath, data: bytes | memoryview) -> str:
    inside = PurePosixPath(*output.parts[1:])
    store.write(inside, bytes(data))
    return f"{store.url}/{printable(inside)}"


@contextmanager
def _noting_failure(resources: Resources, row: Row, output: PurePosixPath) -> Iterator[None]:
    """Note in the row why an image cannot be written. Raises OutputError where no other could be, either."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in NO_ROOM:
            raise OutputError(
                f"{resources.out} cannot be written to: {why}.", hint="make room, and give the same command again"
            ) from None
        if resources.store and isinstance(error, (ConnectionError, PermissionError)):
            raise OutputError(
                f"{resources.store.url} cannot be written to: {why}.", hint="mend that, and give the same command again"
            ) from None
        row.status, row.error = "write_failed", f"{printable(output)} cannot be written: {why}."
