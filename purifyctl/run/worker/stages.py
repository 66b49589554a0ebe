"""What happens to one batch: read -> decode -> infer -> encode and write. Each stage is a function of the one before.

With a gate, inference only looks which images are flagged; those wait, and are purified with others' in full batches.

No stage raises for what is in a file: a bad input gets its status and the rest of the batch goes on.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl.engine.backends import to_host
from purifyctl.errors import ImageError
from purifyctl.images.sink import printable
from purifyctl.metrics import divergence
from purifyctl.run.plan import Input
from purifyctl.run.rows import Row
from purifyctl.run.worker import writing
from purifyctl.run.worker.flagged import Gatherer
from purifyctl.run.worker.work import BatchInFlight, Flagged, Gating, Member, Resources, timed


def read(resources: Resources, number: int, batch: int, inputs: Sequence[Input]) -> BatchInFlight:
    """Bring the files' bytes into memory. `number` names this piece of work, `batch` the plan's batch."""
    resources.entered(number, "read")
    rows = []
    for one in inputs:
        index = one.true_index
        label = resources.labels.name(index) if index is not None else None
        path = printable(one.image.path)
        rows.append(Row(path, true_index=index, true_label=label, batch=batch, bundle=resources.bundle_sha256))
    work = BatchInFlight(number, inputs, rows, [], [])
    at_once = resources.readers.map if resources.readers else map
    for i, (row, (data, ms)) in enumerate(zip(rows, at_once(partial(_read, resources), inputs), strict=True)):
        row.read_ms = ms
        if resources.readers:
            resources.entered(number, "read")  # anew: a link may be slow, but each image shows that it is alive
        if isinstance(data, ImageError):
            _fail(row, data)
        else:
            work.files.append(data)
            work.positions.append(i)
    resources.entered(number, None)
    return work


def _read(resources: Resources, one: Input) -> tuple[NDArray[np.uint8] | ImageError, float]:
    """A file's bytes, or why there are none; and milliseconds."""
    data: NDArray[np.uint8] | ImageError
    with timed() as clock:
        try:
            data = resources.source.read(one.image)
        except ImageError as error:
            data = error
    return data, clock.ms


def decode(resources: Resources, reading: Future[BatchInFlight]) -> BatchInFlight:
    """Pixels of the files that have some."""
    work = reading.result()
    resources.entered(work.number, "decode")
    with timed() as clock:
        decoded = resources.decoder.decode(work.files)
    if resources.gating and resources.gating.unflagged != "leave" and resources.image_format:
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
    resources.entered(work.number, None)
    return work


def leave_it_there(decoding: Future[BatchInFlight]) -> tuple[BatchInFlight, list[Future[Any]]]:
    """Nothing more is to be done with what was decoded."""
    return decoding.result(), []


def infer(
    resources: Resources, decoding: Future[BatchInFlight], encoders: Executor
) -> tuple[BatchInFlight, list[Future[Any]]]:
    """Purify and classify a batch."""
    work = decoding.result()
    resources.entered(work.number, "infer")
    if not work.positions:
        return work, []
    written = purify(resources, [(work, k) for k in range(len(work.positions))], work.images, encoders)
    work.images = None
    resources.entered(work.number, "write")
    return work, [future for future in written if future]


def look(
    resources: Resources, gating: Gating, packs: Gatherer[Flagged], decoding: Future[BatchInFlight], encoders: Executor
) -> tuple[BatchInFlight, list[Future[Any]]]:
    """Score a batch; pass on what is not flagged, and leave what is flagged to be purified."""
    work = decoding.result()
    resources.entered(work.number, "infer")
    n = len(work.positions)
    if n == 0:
        packs.leave()
        return work, []
    with timed() as scoring:
        scores = to_host(gating.runner.infer(work.images)[0])
    flagged = scores >= gating.threshold
    with timed() as classifying:
        # of the whole batch, which takes no longer than a part of it
        wanted = resources.classifier is not None and (resources.compare or not flagged.all())
        unpurified = to_host(resources.classifier.infer(work.images)[0]) if resources.classifier and wanted else None
    written: list[Future[Any]] = []
    left = []
    for k, row in enumerate(work.rows[i] for i in work.positions):
        row.gate_score, row.flagged, row.gate_ms = float(scores[k]), bool(flagged[k]), scoring.ms / n
        if unpurified is not None and resources.compare:
            _tell_unpurified(row, _top(unpurified[k], resources, row.true_index))
        if flagged[k]:
            image = work.images[k].copy() if isinstance(work.images, np.ndarray) else work.images[k].clone()
            before = unpurified[k] if unpurified is not None and resources.compare else None
            left.append(Flagged((work, k), image, before, Future()))
            continue
        if unpurified is not None:
            _tell_top(row, _top(unpurified[k], resources, row.true_index))
            row.classify_batch_ms, row.classify_ms = classifying.ms, classifying.ms / n
        if gating.unflagged == "leave" or resources.image_format is None:
            row.handled = "left"
        else:
            written.append(encoders.submit(writing.pass_on, resources, gating, work, k))
    work.images = None
    resources.entered(work.number, None if left else "write")
    packs.leave(left)
    return work, [*written, *(one.done for one in left)]


def purify_flagged(resources: Resources, encoders: Executor, pack: Sequence[Flagged]) -> None:
    """Purify images of several batches together."""
    numbers = {one.member[0].number for one in pack}
    try:
        for number in numbers:
            resources.entered(number, "infer")
        first = pack[0].image
        images = (np if isinstance(first, np.ndarray) else _torch()).stack([one.image for one in pack])
        before = [one.unpurified for one in pack if one.unpurified is not None]
        written = purify(
            resources, [one.member for one in pack], images, encoders, np.stack(before) if before else None
        )
        for number in numbers:
            resources.entered(number, "write")
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
    resources: Resources,
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
    compare_here = isinstance(images, np.ndarray) and resources.gpu_encoder is None  # one by one, as they are encoded
    with timed() as purifying:
        purified, *fused = resources.purifier.infer(images)
        needed_here = compare_here or (resources.image_format is not None and resources.gpu_encoder is None)
        host = to_host(purified) if needed_here else None
    rows = [work.rows[work.positions[k]] for work, k in members]
    if not compare_here:
        for row, change in zip(rows, writing.mean_changes(purified, images), strict=True):
            row.mean_change = change
    # encoding starts while the classifier works
    written: list[Future[None] | None] = [None] * n
    if resources.gpu_encoder:
        with timed() as encoding:
            files = resources.gpu_encoder.encode(purified)
        written = [
            encoders.submit(writing.write, resources, *member, file, encoding.ms / n)
            for member, file in zip(members, files, strict=True)
        ]
    elif host is not None:
        before = images if compare_here else [None] * n
        written = [
            encoders.submit(writing.finish, resources, *member, made, was)
            for member, made, was in zip(members, host, before, strict=True)
        ]
    with timed() as classifying:
        classified = fused or (resources.classifier.infer(purified) if resources.classifier else ())
        probabilities = to_host(classified[0]) if classified else None
    if unpurified is None and resources.classifier and resources.compare:
        unpurified = to_host(resources.classifier.infer(images)[0])
    for k, row in enumerate(rows):
        row.handled = "purified"
        row.purify_batch_ms, row.purify_ms = purifying.ms, purifying.ms / n
        if resources.classifier is not None:
            row.classify_batch_ms, row.classify_ms = classifying.ms, classifying.ms / n
        if probabilities is not None:
            _tell_top(row, _top(probabilities[k], resources, row.true_index))
        if unpurified is not None:
            _tell_unpurified(row, _top(unpurified[k], resources, row.true_index))
        if probabilities is not None and unpurified is not None:
            row.divergence = divergence(unpurified[k], probabilities[k])
    return written


def _fail(row: Row, error: ImageError) -> None:
    row.status, row.error = error.status, str(error)


_Top = tuple[list[int], list[str], list[float], float | None]


def _tell_top(row: Row, top: _Top) -> None:
    row.top_index, row.top_label, row.top_probability, row.true_probability = top


def _tell_unpurified(row: Row, top: _Top) -> None:
    row.unpurified_top_index, row.unpurified_top_label = top[:2]
    row.unpurified_top_probability, row.unpurified_true_probability = top[2:]


def _top(probabilities: NDArray[np.float32], resources: Resources, true_index: int | None) -> _Top:
    k = min(resources.top, len(probabilities))
    best = np.argpartition(-probabilities, k - 1)[:k]
    best = best[np.lexsort((best, -probabilities[best]))]  # by probability, then by index
    true = float(probabilities[true_index]) if true_index is not None else None
    return best.tolist(), [resources.labels.name(i) for i in best], probabilities[best].tolist(), true
