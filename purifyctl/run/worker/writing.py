"""The last steps of one image: see how much it changed, encode it, write it; or pass its file on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.config.formats import format_of
from purifyctl.errors import OutputError
from purifyctl.files import NO_ROOM, link_into_tree, write_into_tree
from purifyctl.images import encode
from purifyctl.images.metadata import NOTHING, Kept
from purifyctl.images.sink import printable
from purifyctl.run.archives import waiting_place
from purifyctl.run.rows import Row
from purifyctl.run.worker.in_flight import ImageInFlight, timed
from purifyctl.run.worker.resources import Resources
from purifyctl.sources.store import RemoteFolder


def finish(
    resources: Resources,
    image: ImageInFlight,
    purified: NDArray[np.uint8],
    before: NDArray[np.uint8] | None,
    kept: Kept = NOTHING,
) -> None:
    """Measure the change of one purified image, encode it and write it. `before`: the image that it was made from, or
    None if the change is known already. `kept`: what its file said about it, if it has the same size.
    """
    if before is not None:
        image.row.mean_change = mean_change(purified, before)
    options = resources.setup.options
    if image_format := options.image_format:
        if options.keep_names and (own := format_of(image.input.output.name)):
            image_format = own.name
        with timed() as encoding:
            data = encode(purified, image_format, options.compression, kept)
        write(resources, image, data, encoding.ms)


def mean_change(image: NDArray[np.uint8], before: NDArray[np.uint8]) -> float:
    """Mean |image - before| over all values of two RGB uint8 [H, W, 3], in grey levels.

    Values stay in 8 bits until the sum, because every image passes here: 0.1 ms at 256x256.
    """
    change = np.maximum(image, before)
    change -= np.minimum(image, before)
    rows = change.reshape(len(change), -1).sum(axis=1, dtype=np.uint32)  # one row's sum fits, and is the fastest
    return int(rows.sum()) / change.size


def mean_changes(images: Any, before: Any) -> list[float]:
    """`mean_change` of each image of two batches, computed on a GPU if they lie there."""
    if isinstance(before, np.ndarray):
        return [mean_change(one, other) for one, other in zip(images, before, strict=True)]
    changes = (images.short() - before.short()).abs().flatten(1).sum(dim=1)  # int64
    found: list[float] = (changes.double() / before[0].numel()).tolist()
    return found


def write(resources: Resources, image: ImageInFlight, data: bytes | memoryview | None, encode_ms: float) -> None:
    """Write one purified image, and note it in its row. `data` None: it could not be encoded."""
    row, output, setup = image.row, image.input.output, resources.setup
    row.encode_ms = encode_ms
    if data is None:
        row.status, row.error = "write_failed", "The purified image could not be encoded."
        return
    with timed() as writing, _noting_failure(resources, row, output):
        if resources.store:
            row.output = _store(resources.store, output, data)
        else:
            place = waiting_place(output) if setup.options.packed else output
            write_into_tree(setup.out / place, data, temporary=setup.partial)
            row.output = printable(output)
    row.write_ms = writing.ms


def pass_on(resources: Resources, image: ImageInFlight) -> None:
    """Pass on the unchanged file of an image that was not flagged."""
    row, source, setup = image.row, image.input.image, resources.setup
    assert image.file is not None
    output, data = image.input.passed_on, image.file
    image.file = None
    with timed() as writing, _noting_failure(resources, row, output):
        if resources.store:
            row.output, row.handled = _store(resources.store, output, data.tobytes()), "copied"
        elif setup.options.unflagged == "link" and (file := source.on_this_machine) and source.span is None:
            link_into_tree(setup.out / output, file, temporary=setup.partial)
            row.output, row.handled = printable(output), "linked"
        else:
            write_into_tree(setup.out / output, data.data, temporary=setup.partial)
            row.output, row.handled = printable(output), "copied"
    row.write_ms = writing.ms


def _store(store: RemoteFolder, output: PurePosixPath, data: bytes | memoryview) -> str:
    inside = PurePosixPath(*output.parts[1:])
    store.write(inside, bytes(data))
    return f"{store.url}/{printable(inside)}"


@contextmanager
def _noting_failure(resources: Resources, row: Row, output: PurePosixPath) -> Iterator[None]:
    """Note in the row why an image cannot be written. Raises OutputError if no other image could be written either."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in NO_ROOM:
            raise OutputError(
                f"{resources.setup.out} cannot be written to: {why}.",
                hint="make room, and give the same command again",
            ) from None
        if resources.store and isinstance(error, (ConnectionError, PermissionError)):
            raise OutputError(
                f"{resources.store.url} cannot be written to: {why}.",
                hint="repair that, and give the same command again",
            ) from None
        row.status, row.error = "write_failed", f"{printable(output)} cannot be written: {why}."
