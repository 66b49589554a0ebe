"""What happens to one batch: read -> decode -> infer -> write. Each stage waits for the one before.

With a gate, `score` takes the place of `infer`: it finds the flagged images, and flagged images from several batches
are purified together.

No stage raises an error because of what is in a file: a bad input gets its status, and the rest of the batch continues.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import numpy as np

from purifyctl.engine.backends import to_host
from purifyctl.errors import ImageError
from purifyctl.images.decode import Facts
from purifyctl.images.sink import printable
from purifyctl.metrics import divergence
from purifyctl.run.messages import InputBatch
from purifyctl.run.plan import Input
from purifyctl.run.rows import Row
from purifyctl.run.worker import writing
from purifyctl.run.worker.classes import note_top, note_unpurified
from purifyctl.run.worker.flagged import Gatherer
from purifyctl.run.worker.in_flight import BatchInFlight, ImageInFlight, timed
from purifyctl.run.worker.resources import Resources


def read(resources: Resources, number: int, batch: InputBatch) -> BatchInFlight:
    """Bring the files' bytes into memory. `number`: the parent sent the batch under this number."""
    resources.entered(number, "read")
    images = [ImageInFlight(one, _row(resources, one, batch.number)) for one in batch.inputs]
    at_once = resources.readers.map if resources.readers else map
    for _ in at_once(partial(_read, resources), images):
        if resources.readers:
            resources.entered(number, "read")  # again: a link may be slow, but each image shows that it is alive
    resources.entered(number, None)
    return BatchInFlight(number, images, [image for image in images if image.row.status == "ok"])


def _row(resources: Resources, one: Input, batch: int) -> Row:
    label = resources.labels.name(one.true_index) if one.true_index is not None else None
    return Row(
        printable(one.image.path),
        true_index=one.true_index,
        true_label=label,
        batch=batch,
        bundle=resources.setup.bundle.sha256,
    )


def _read(resources: Resources, image: ImageInFlight) -> None:
    with timed() as clock:
        try:
            image.file = resources.source.read(image.input.image)
        except ImageError as error:
            image.fail(error)
    image.row.read_ms = clock.ms


def decode(resources: Resources, reading: Future[BatchInFlight]) -> BatchInFlight:
    """Make pixels of the files that are images."""
    batch, options = reading.result(), resources.setup.options
    resources.entered(batch.number, "decode")
    with timed() as clock:
        files = [image.file for image in batch.alive if image.file is not None]
        decoded = resources.decode(files, lambda: resources.entered(batch.number, "decode"))
    if resources.gate is None or options.unflagged == "leave" or options.image_format is None:  # none is passed on
        for image in batch.alive:
            image.file = None
    for i, error in decoded.errors.items():
        batch.alive[i].fail(error)
        batch.alive[i].file = None
    batch.alive = [batch.alive[i] for i in decoded.positions]
    batch.pixels = decoded.images
    n = len(batch.alive)
    for image, facts in zip(batch.alive, decoded.facts, strict=True):
        note_facts(image.row, facts)
        image.row.batch_size = n
        image.row.decode_batch_ms, image.row.decode_ms = clock.ms, clock.ms / n
    resources.entered(batch.number, None)
    return batch


def note_facts(row: Row, facts: Facts) -> None:
    """Note how the file became pixels."""
    row.height, row.width = facts.size
    row.decoder, row.profile = facts.decoder, facts.converted
    row.damaged, row.first_frame = facts.damaged, facts.first_frame


def only_decode(decoding: Future[BatchInFlight]) -> BatchInFlight:
    """Take the place of `infer` for a batch that only has to be decoded."""
    return decoding.result()


def infer(resources: Resources, decoding: Future[BatchInFlight], encoders: Executor) -> BatchInFlight:
    """Purify and classify a batch."""
    batch = decoding.result()
    resources.entered(batch.number, "infer")
    if batch.alive:
        purify(resources, batch.alive, batch.pixels, encoders)
        batch.pixels = None
        resources.entered(batch.number, "write")
    return batch


def score(
    resources: Resources,
    gatherer: Gatherer[tuple[int, ImageInFlight]],
    decoding: Future[BatchInFlight],
    encoders: Executor,
) -> BatchInFlight:
    """Score a batch. Pass on the images that are not flagged; leave the flagged ones to be purified, each with the
    number of its batch.
    """
    assert resources.gate is not None
    batch, options, n = decoding.result(), resources.setup.options, len(decoding.result().alive)
    resources.entered(batch.number, "infer")
    if n == 0:
        gatherer.leave()
        return batch
    with timed() as scoring:
        scores = to_host(resources.gate.infer(batch.pixels)[0])
    flagged = scores >= resources.setup.threshold
    classified = np.flatnonzero(~flagged | bool(options.compare)).tolist()  # unpurified
    unpurified: dict[int, Any] = {}  # class probabilities of these
    with timed() as classifying:
        if resources.chain.classifier is not None and classified:
            seen = batch.pixels if len(classified) == n else batch.pixels[classified]
            unpurified = dict(zip(classified, to_host(resources.chain.classify(seen)), strict=True))
    left = []
    for k, image in enumerate(batch.alive):
        row, probabilities = image.row, unpurified.get(k)
        row.gate_score, row.flagged, row.gate_ms = float(scores[k]), bool(flagged[k]), scoring.ms / n
        if probabilities is not None and options.compare:
            note_unpurified(resources, image, probabilities)
        if flagged[k]:
            pixels = batch.pixels[k]
            image.pixels = pixels.copy() if isinstance(pixels, np.ndarray) else pixels.clone()
            image.file, image.purified = None, Future()
            left.append((batch.number, image))
            continue
        if probabilities is not None:
            note_top(resources, row, probabilities)
            row.classify_batch_ms, row.classify_ms = classifying.ms, classifying.ms / len(classified)
        if options.unflagged == "leave" or options.image_format is None:
            row.handled = "left"
        else:
            image.written = encoders.submit(writing.pass_on, resources, image)
    batch.pixels = None
    resources.entered(batch.number, None if left else "write")
    gatherer.leave(left)
    return batch


def purify_flagged(resources: Resources, encoders: Executor, gathered: Sequence[tuple[int, ImageInFlight]]) -> None:
    """Purify flagged images of several batches together."""
    numbers, images = {number for number, _ in gathered}, [image for _, image in gathered]
    try:
        for number in numbers:
            resources.entered(number, "infer")
        purify(resources, images, _stacked([image.pixels for image in images]), encoders)
        for number in numbers:
            resources.entered(number, "write")
    except BaseException as error:
        for image in images:
            _purified(image).set_exception(error)
        raise
    for image in images:
        image.pixels = None
        _purified(image).set_result(None)


def _purified(image: ImageInFlight) -> "Future[None]":
    assert image.purified is not None
    return image.purified


def _stacked(pixels: Sequence[Any]) -> Any:
    if isinstance(pixels[0], np.ndarray):
        return np.stack(pixels)
    import torch

    return torch.stack(list(pixels))


def purify(resources: Resources, images: Sequence[ImageInFlight], pixels: Any, encoders: Executor) -> None:
    """Purify images, classify the result, and hand each image to an encoder, which also sees how much it changed.

    Parameters
    ----------
    pixels
        RGB uint8 [n, H, W, 3] of the n images.
    """
    n, chain, gpu_encoder, options = len(images), resources.chain, resources.gpu_encoder, resources.setup.options
    compare_here = isinstance(pixels, np.ndarray) and gpu_encoder is None  # one by one, when they are encoded
    with timed() as purifying:
        purified, probabilities = chain.purify(pixels)
        host = to_host(purified) if compare_here or (options.image_format and gpu_encoder is None) else None
    if not compare_here:
        for image, change in zip(images, writing.mean_changes(purified, pixels), strict=True):
            image.row.mean_change = change
    # encoding starts while the classifier works
    if gpu_encoder:
        with timed() as encoding:
            files = gpu_encoder.encode(purified)
        for image, file in zip(images, files, strict=True):
            image.written = encoders.submit(writing.write, resources, image, file, encoding.ms / n)
    elif host is not None:
        for image, made, before in zip(images, host, pixels if compare_here else [None] * n, strict=True):
            image.written = encoders.submit(writing.finish, resources, image, made, before)
    with timed() as classifying:
        if probabilities is None:
            probabilities = chain.classify(purified)
        if probabilities is not None:
            probabilities = to_host(probabilities)
    if chain.classifier and options.compare and images[0].unpurified is None:
        for image, unpurified in zip(images, to_host(chain.classify(pixels)), strict=True):
            note_unpurified(resources, image, unpurified)
    for k, image in enumerate(images):
        row = image.row
        row.handled = "purified"
        row.purified_height, row.purified_width = map(int, pixels.shape[1:3])
        row.purify_batch_ms, row.purify_ms = purifying.ms, purifying.ms / n
        if chain.classifier is not None:
            row.classify_batch_ms, row.classify_ms = classifying.ms, classifying.ms / n
        if probabilities is not None:
            note_top(resources, row, probabilities[k])
            if image.unpurified is not None:
                row.divergence = divergence(image.unpurified, probabilities[k])
