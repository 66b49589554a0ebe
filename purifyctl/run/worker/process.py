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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from purifyctl import console
from purifyctl.engine import trust
from purifyctl.errors import PurifyctlError
from purifyctl.run.messages import Done, Entered, Failed, Ready, Setup
from purifyctl.run.worker import stages
from purifyctl.run.worker.flagged import Gatherer
from purifyctl.run.worker.in_flight import BatchInFlight
from purifyctl.run.worker.resources import open_resources, warm_up

READ_THREADS = 4  # batches that are read at once; reading waits for disks and networks, not for the processor
WAITING = 64  # batches that may wait for their flagged images to be purified; a crash costs the work on them


def main() -> None:
    """Work until the parent hangs up. The last argument is the file descriptor of the connection to it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides what is still done
    parent = _Parent(Connection(int(sys.argv[-1])))
    setup: Setup = parent.listen()
    console.configure(quiet=True, verbose=setup.verbose)
    trust.accept(
        setup.bundle.sha256
    )  # the parent has checked that the user trusts it, and may be unable to write that down
    _work(setup, parent)
    os._exit(0)  # libraries get no chance to clean up


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

            def pool(size: int, name: str) -> ThreadPoolExecutor:
                return stack.enter_context(ThreadPoolExecutor(size, thread_name_prefix=name))

            gated, concurrency, writers = resources.gate is not None, resources.chain.concurrency, resources.writers
            # batches: one being read, one decoded, one encoded, those in the engine, and one on its way
            room = concurrency + 4
            window = room + (WAITING if gated else 0)
            # the pool that is entered first is left last: each hands its work to those before it
            send, encoders = pool(window if gated else 1, "send"), pool(writers, "write")
            infer, decode = pool(concurrency, "infer"), pool(1, "decode")
            read = pool(READ_THREADS, "read")
            gatherer = Gatherer(
                setup.bundle.manifest.batch_size, room, partial(stages.purify_flagged, resources, encoders)
            )
            pools = {
                "read": max(READ_THREADS, resources.source.at_once),
                "decode": 1,
                "infer": concurrency,
                "write": writers,
            }
            parent.say(Ready(window=window, threads=pools))
            while (message := parent.listen()) is not None:
                number, batch = message
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
                send.submit(_send_rows, parent, number, inferring)
    except PurifyctlError as error:
        parent.say(Failed(error))


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
