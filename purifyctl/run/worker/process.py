"""The process that owns a device: it takes batches from its parent, and sends back their rows.

    read (threads) -> decode (DALI's threads) -> infer (the engine's threads) -> encode and write (threads)

Each stage is a thread pool, and its tasks wait for the stage before. Pools take tasks in order, so there is no
deadlock. The parent decides how many batches are under way at once. An image may kill or hang this process; the parent
sees which batch was in which stage, and starts another process.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from PIL import Image

from purifyctl import console
from purifyctl.engine import trust
from purifyctl.errors import PurifyctlError
from purifyctl.run.messages import Done, Entered, Failed, InputBatch, Ready, Setup
from purifyctl.run.worker import stages
from purifyctl.run.worker.flagged import Gatherer
from purifyctl.run.worker.in_flight import BatchInFlight
from purifyctl.run.worker.resources import Resources, open_resources, warm_up
from purifyctl.run.worker.whole import WholePictures

READ_THREADS = 4  # batches that are read at once; reading waits for disks and networks, not for the processor
WHOLE_WINDOW = 8  # batches of whole pictures in hand
WAITING = 64  # batches that may wait for their flagged images to be purified; a crash costs the work on them


def main() -> None:
    """Work until the parent hangs up. The last argument is the file descriptor of the connection to it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides what is still done
    parent = _Parent(Connection(int(sys.argv[-1])))
    setup: Setup = parent.listen()
    # what Pillow warns about in a file, its row says; and --max-pixels decides, not Pillow's own limit
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.MAX_IMAGE_PIXELS = None
    console.configure(quiet=True, verbose=setup.verbose, relay=False)
    trust.accept(
        setup.bundle.sha256
    )  # the parent has checked that the user trusts it, and may be unable to write that down
    _work(setup, parent)
    os._exit(0)


class _Parent:
    """The connection to the parent, which threads share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def say(self, message: object) -> None:
        with self._lock:
            self._connection.send(message)

    def listen(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            os._exit(1)  # the parent is gone, so nobody wants what is under way


def _work(setup: Setup, parent: _Parent) -> None:
    try:
        with ExitStack() as stack:
            resources = stack.enter_context(
                open_resources(setup, lambda number, stage: parent.say(Entered(number, stage)))
            )
            warm_up(resources)
            begin, ready = (_begin_whole if setup.options.whole else _begin_squares)(resources, stack)
            parent.say(ready)
            while (message := parent.listen()) is not None:
                number, batch = message
                begin(number, batch, partial(_send_rows, parent))
            os._exit(0)  # the parent has all rows; libraries would take a while to clean up
    except PurifyctlError as error:
        parent.say(Failed(error))


# Sends a batch through the stages: its number, the batch, and what becomes of the number and the result.
Begin = Callable[[int, InputBatch, Callable[[int, Future[BatchInFlight]], None]], object]


def _pool(stack: ExitStack, size: int, name: str) -> ThreadPoolExecutor:
    return stack.enter_context(ThreadPoolExecutor(size, thread_name_prefix=name))


def _begin_squares(resources: Resources, stack: ExitStack) -> tuple[Begin, Ready]:
    """The stages for pictures at the engine's size."""
    gated, concurrency, writers = resources.gate is not None, resources.chain.concurrency, resources.writers
    # batches: one being read, one decoded, one encoded, those in the engine, and one on its way
    room = concurrency + 4
    window = room + (WAITING if gated else 0)
    # the pool that is entered first is left last: each hands its work to those before it
    send, encoders = _pool(stack, window if gated else 1, "send"), _pool(stack, writers, "write")
    infer, decode = _pool(stack, concurrency, "infer"), _pool(stack, 1, "decode")
    read = _pool(stack, READ_THREADS, "read")
    gatherer = Gatherer(
        resources.setup.bundle.manifest.batch_size, room, partial(stages.purify_flagged, resources, encoders)
    )

    def begin(number: int, batch: InputBatch, done: Callable[[int, Future[BatchInFlight]], None]) -> None:
        if gated and not batch.decode_only:
            gatherer.enter()
        reading = read.submit(stages.read, resources, number, batch)
        decoding = decode.submit(stages.decode, resources, reading)
        if batch.decode_only:
            inferring = infer.submit(stages.only_decode, decoding)
        elif gated:
            inferring = infer.submit(stages.score, resources, gatherer, decoding, encoders)
        else:
            inferring = infer.submit(stages.infer, resources, decoding, encoders)
        send.submit(done, number, inferring)

    threads = {
        "read": max(READ_THREADS, resources.source.at_once),
        "decode": 1,
        "infer": concurrency,
        "write": writers,
    }
    return begin, Ready(window=window, threads=threads)


def _begin_whole(resources: Resources, stack: ExitStack) -> tuple[Begin, Ready]:
    """The stages for pictures at their own size."""
    concurrency, writers, decoders = resources.chain.concurrency, resources.writers, resources.decoders
    send, encoders = _pool(stack, WHOLE_WINDOW, "send"), _pool(stack, writers, "write")
    infer, decode = _pool(stack, concurrency, "infer"), _pool(stack, decoders, "decode")
    read = _pool(stack, 1, "read")  # in order: each batch waits for room
    pictures = WholePictures(resources, infer, encoders)

    def begin(number: int, batch: InputBatch, done: Callable[[int, Future[BatchInFlight]], None]) -> None:
        reading = read.submit(pictures.read, number, batch)
        decoding = decode.submit(pictures.decode, reading, only=batch.decode_only)
        send.submit(done, number, decoding)

    threads = {"read": resources.source.at_once, "decode": decoders, "infer": concurrency, "write": writers}
    return begin, Ready(window=WHOLE_WINDOW, threads=threads)


def _send_rows(parent: _Parent, number: int, inferring: Future[BatchInFlight]) -> None:
    try:
        rows = inferring.result().rows()
        now = time.time()
        for row in rows:
            row.finished = now
        message: object = Done(number, rows)
    except Exception as error:
        if not isinstance(error, PurifyctlError):  # a bug: the parent must learn where it happened
            error = RuntimeError("".join(traceback.format_exception(error)))
        message = Failed(error)
    with contextlib.suppress(OSError):  # the main thread sees that the parent is gone
        parent.say(message)


if __name__ == "__main__":
    main()
