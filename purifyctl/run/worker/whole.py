"""Whole pictures: decode -> [score] -> purify in tiles -> classify, encode and write.

The pictures of a batch go their own ways. Squares for the gate, tiles for the purifier and squares for the classifier
are gathered from all pictures in flight, so that engines get full batches. Gate and classifier see what they see of any
picture: the square in its middle, at the engine's size.

Memory is bounded by pixels: a picture is decoded when there is room for it.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from purifyctl.engine.backends import to_host
from purifyctl.engine.tiles import Grid
from purifyctl.errors import ImageError
from purifyctl.images.decode import facts_of
from purifyctl.images.geometry import resized_square
from purifyctl.images.metadata import NOTHING, Kept
from purifyctl.images.pillow import check_damage, decode_opened, open_picture
from purifyctl.metrics import divergence
from purifyctl.run.messages import InputBatch
from purifyctl.run.worker import stages, writing
from purifyctl.run.worker.classes import note_top, note_unpurified
from purifyctl.run.worker.flagged import Gatherer
from purifyctl.run.worker.in_flight import BatchInFlight, ImageInFlight, timed
from purifyctl.run.worker.resources import Resources
from purifyctl.run.worker.room import Room, Whereabouts

ROOM_PIXELS = 26_000_000  # of the pictures in flight: two of 12 megapixels
ROOM_BYTES = 50_000_000  # of the files that are read and not yet decoded
NO_LIMIT = 2**20  # of pictures that come to a gatherer: the room and the window keep them few

T = TypeVar("T")
_Pixels = NDArray[np.uint8]  # RGB [height, width, 3]


@dataclass(eq=False)
class _Picture:
    """One picture on its way."""

    image: ImageInFlight
    where: Whereabouts  # its batch
    room: int  # pixels that it takes up
    pixels: _Pixels  # unpurified
    kept: Kept  # what its file said about it, for the purified one
    square: _Pixels | None = None  # of the unpurified picture, if the gate or a comparison needs it
    seen: _Pixels | None = None  # what is classified: the square of the purified or passed-on picture
    grid: Grid | None = None
    joined: _Pixels | None = None  # becomes the purified picture
    left: int = 0  # tiles that are not joined
    lock: threading.Lock = field(default_factory=threading.Lock)


class WholePictures:
    """The pictures in flight of one worker.

    Parameters
    ----------
    engines
        Threads that run networks.
    encoders
        Threads that encode and write.
    """

    def __init__(self, resources: Resources, engines: Executor, encoders: Executor) -> None:
        self._resources, self._engines, self._encoders = resources, engines, encoders
        self._tiling = resources.setup.bundle.tiling
        self._room, self._files = Room(ROOM_PIXELS), Room(ROOM_BYTES)
        self._lock = threading.Lock()  # of what waits for an engine
        size = resources.setup.bundle.manifest.batch_size
        self._to_score = Gatherer[_Picture](size, NO_LIMIT, self._in_engine(self._score, _itself))
        self._to_purify = Gatherer[tuple[_Picture, int]](
            size, NO_LIMIT, self._in_engine(self._purify, lambda tile: tile[0])
        )
        self._to_classify = Gatherer[_Picture](size, NO_LIMIT, self._in_engine(self._classify, _itself, last=True))

    def _in_engine(
        self, process: Callable[[Sequence[T]], None], picture_of: Callable[[T], _Picture], *, last: bool = False
    ) -> Callable[[list[T]], None]:
        """`process` on a thread of the engines, where an error becomes that of the pictures. `last`: then they are
        settled.

        What waits for such a thread is gathered again: most engines take as long for half a batch as for a full one.
        """
        waiting: deque[T] = deque()
        size = self._resources.setup.bundle.manifest.batch_size

        def call() -> None:
            with self._lock:
                gathered = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            if not gathered:  # an earlier call took them
                return
            pictures = list(dict.fromkeys(map(picture_of, gathered)))
            try:
                with ExitStack() as stack:
                    for where in dict.fromkeys(picture.where for picture in pictures):
                        stack.enter_context(where.at("infer"))
                    process(gathered)
                for picture in pictures if last else ():  # not before: the parent hears no more of a batch that is done
                    _settled(picture).set_result(None)
            except BaseException as error:
                for picture in pictures:
                    if not _settled(picture).done():
                        _settled(picture).set_exception(error)

        def submit(gathered: list[T]) -> None:
            waiting.extend(gathered)
            self._engines.submit(call)

        return submit

    def read(self, number: int, batch: InputBatch) -> BatchInFlight:
        """Bring the files' bytes into memory, and wait until there is room for them."""
        read = stages.read(self._resources, number, batch)
        self._files.take(_bytes_of(read))
        return read

    def decode(self, reading: Future[BatchInFlight], *, only: bool) -> BatchInFlight:
        """Decode the pictures of a batch, one by one, and send each on its way. `only`: they go nowhere."""
        batch = reading.result()
        read = _bytes_of(batch)
        where = Whereabouts(partial(self._resources.entered, batch.number))
        for image in batch.alive:
            try:
                self._decode(image, where, only=only)
            except ImageError as error:
                image.fail(error)
                image.file = None
        self._files.give(read)
        return batch

    def _decode(self, image: ImageInFlight, where: Whereabouts, *, only: bool) -> None:
        file, options = _known(image.file), self._resources.setup.options
        with where.at("decode"):
            opened = open_picture(file, options)
        self._room.take(opened.pixels)
        gatherers = (self._to_score, self._to_purify, self._to_classify)
        for gatherer in gatherers:
            gatherer.enter()
        decoded = None
        try:
            with where.at("decode"), timed() as clock:
                decoded = decode_opened(opened, check_damage(opened, options), options)
        finally:
            if only or decoded is None:  # it goes nowhere
                for gatherer in gatherers:
                    gatherer.leave()
                self._room.give(opened.pixels)
        if only:
            return
        stages.note_facts(image.row, facts_of(decoded))
        image.row.decode_ms = clock.ms
        image.purified = Future()
        self._send(_Picture(image, where, opened.pixels, decoded.pixels, decoded.kept))

    def _send(self, picture: _Picture) -> None:
        """A picture is decoded, and goes to the gate, or to the purifier."""
        options = self._resources.setup.options
        if not (self._resources.gate and options.unflagged != "leave" and options.image_format):
            picture.image.file = None  # it is not passed on
        if self._resources.gate or options.compare:
            picture.square = self._square(picture.pixels)
        if self._resources.gate:
            self._to_score.leave([picture])
        else:
            self._to_score.leave()
            self._cut(picture)

    def _square(self, pixels: _Pixels) -> _Pixels:
        """What gate and classifier see of a picture."""
        return resized_square(pixels, self._tiling.side)

    def _score(self, pictures: Sequence[_Picture]) -> None:
        assert self._resources.gate is not None
        with timed() as scoring:
            scores = to_host(self._resources.gate.infer(np.stack([_known(one.square) for one in pictures]))[0])
        for picture, score in zip(pictures, scores.tolist(), strict=True):
            row = picture.image.row
            row.gate_score, row.flagged = score, score >= _known(self._resources.setup.threshold)
            row.gate_ms = scoring.ms / len(pictures)
            if row.flagged:
                picture.image.file = None
                self._cut(picture)
            else:
                self._to_purify.leave()
                self._pass_on(picture)

    def _pass_on(self, picture: _Picture) -> None:
        """A picture was not flagged: its file is passed on, and its square is classified."""
        image = picture.image
        self._forget(picture)
        if image.file is None:
            image.row.handled = "left"
        else:
            image.written = self._encoders.submit(writing.pass_on, self._resources, image)
        picture.seen = picture.square
        self._to_classify.leave([picture])

    def _cut(self, picture: _Picture) -> None:
        """A picture is to be purified: its tiles go to the purifier."""
        height, width = picture.pixels.shape[:2]
        picture.grid = Grid(height, width, self._tiling)
        picture.left = len(picture.grid)
        picture.joined = np.zeros_like(picture.pixels)
        row = picture.image.row
        row.purified_height, row.purified_width, row.tiles, row.purify_ms = height, width, picture.left, 0.0
        self._to_purify.leave([(picture, number) for number in range(picture.left)])

    def _purify(self, tiles: Sequence[tuple[_Picture, int]]) -> None:
        with timed() as purifying:
            cut = np.stack([_known(picture.grid).cut(picture.pixels, number) for picture, number in tiles])
            purified = to_host(self._resources.chain.purify(cut)[0])
        for (picture, number), tile in zip(tiles, purified, strict=True):
            with picture.lock:
                _known(picture.grid).join(_known(picture.joined), number, tile)
                picture.left -= 1
                picture.image.row.purify_ms = _known(picture.image.row.purify_ms) + purifying.ms / len(tiles)
                is_whole = not picture.left
            if is_whole:
                self._purified(picture)

    def _purified(self, picture: _Picture) -> None:
        """All tiles are joined: encoding starts while the classifier works."""
        picture.image.row.handled = "purified"
        if self._resources.chain.classifier is not None:
            picture.seen = self._square(_known(picture.joined))
        picture.image.written = self._encoders.submit(self._write, picture)
        self._to_classify.leave([picture])

    def _write(self, picture: _Picture) -> None:
        try:
            with picture.where.at("write"):
                writing.finish(self._resources, picture.image, _known(picture.joined), picture.pixels, picture.kept)
        finally:
            self._forget(picture)

    def _forget(self, picture: _Picture) -> None:
        """The picture's pixels are not needed any more."""
        picture.pixels, picture.joined, picture.kept = np.empty((0, 0, 3), np.uint8), None, NOTHING
        self._room.give(picture.room)

    def _classify(self, pictures: Sequence[_Picture]) -> None:
        resources = self._resources
        if resources.chain.classifier is None:
            return
        with timed() as classifying:
            probabilities = to_host(resources.chain.classify(np.stack([_known(one.seen) for one in pictures])))
        unpurified: Any = [None] * len(pictures)
        if resources.setup.options.compare:
            unpurified = to_host(resources.chain.classify(np.stack([_known(one.square) for one in pictures])))
        for picture, after, before in zip(pictures, probabilities, unpurified, strict=True):
            image, row = picture.image, picture.image.row
            row.classify_ms, row.classify_batch_ms = classifying.ms / len(pictures), classifying.ms
            note_top(resources, row, after)
            if before is not None:
                note_unpurified(resources, image, before)
                row.divergence = divergence(before, after) if row.handled == "purified" else None


def _settled(picture: _Picture) -> "Future[None]":
    """Set when the picture has been classified, and `written` is there."""
    return _known(picture.image.purified)


def _itself(picture: _Picture) -> _Picture:
    return picture


def _bytes_of(batch: BatchInFlight) -> int:
    return sum(image.file.nbytes for image in batch.images if image.file is not None)


def _known(value: T | None) -> T:
    assert value is not None
    return value
