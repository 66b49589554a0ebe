"""The process that owns a device: it takes batches from its parent, and sends back their rows.

    read (threads) -> decode (DALI's threads) -> infer (the engine's threads) -> encode and write (threads)

Each stage is a pool whose tasks wait for the stage before; pools take tasks in order, so nothing can deadlock. How many
batches are under way at once is the parent's to bound. An image may kill this process or hang it; the parent sees which
batch was in which stage, and starts another.
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

import numpy as np

from purifyctl import console
from purifyctl.errors import PurifyctlError
from purifyctl.images import Decoder, GpuJpegEncoder, encode
from purifyctl.run.messages import Done, Entered, Failed, Ready, Setup
from purifyctl.run.worker import stages
from purifyctl.run.worker.flagged import Gatherer
from purifyctl.run.worker.work import BatchInFlight, Gating, Resources
from purifyctl.sources import open_source
from purifyctl.sources.store import RemoteFolder

READ_THREADS = 4  # batches; reading waits for disks and networks, not for the processor
WAITING = 64  # batches that may wait for images to be purified with others'; a crash costs the work on them
REMOTE_WRITERS = 32  # images that each have to wait for a store


def main() -> None:
    """BatchInFlight until the parent hangs up. The last argument: a file descriptor, of the connection to it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides what is still to be done
    connection = Connection(int(sys.argv[-1]))
    parent = _Parent(connection)
    task: Setup = parent.listen()
    console.configure(quiet=True, verbose=task.verbose)
    _work(task, parent)
    os._exit(0)  # whatever libraries still want to tidy up


class _Parent:
    """The connection, shared by threads."""

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
            os._exit(1)  # the parent is gone, and what is under way with it


def _work(task: Setup, parent: _Parent) -> None:
    try:
        with ExitStack() as stack:
            resources, threads = _open(task, stack, parent)
            _warm_up(resources, task)

            def pool(size: int, name: str) -> ThreadPoolExecutor:
                return stack.enter_context(ThreadPoolExecutor(size, thread_name_prefix=name))

            # batches: one being read, one decoded, one encoded, the engine's own, and one on its way
            room = resources.purifier.concurrency + 4
            window = room + (WAITING if resources.gating else 0)
            # entered first, left last: each hands its work to those before it
            tell, encoders = pool(window if resources.gating else 1, "tell"), pool(threads, "write")
            infer, decode = pool(resources.purifier.concurrency, "infer"), pool(1, "decode")
            read = pool(READ_THREADS, "read")
            packs = Gatherer(task.bundle.manifest.batch_size, room, partial(stages.purify_flagged, resources, encoders))
            pools = {
                "read": max(READ_THREADS, resources.source.at_once),
                "decode": 1,
                "infer": resources.purifier.concurrency,
                "write": threads,
            }
            parent.say(Ready(window=window, threads=pools))
            while (message := parent.listen()) is not None:
                number, batch = message
                if resources.gating and not batch.decode_only:
                    packs.enter()
                reading = read.submit(stages.read, resources, number, batch.number, batch.inputs)
                decoding = decode.submit(stages.decode, resources, reading)
                if batch.decode_only:
                    inferring = infer.submit(stages.leave_it_there, decoding)
                elif resources.gating:
                    inferring = infer.submit(stages.look, resources, resources.gating, packs, decoding, encoders)
                else:
                    inferring = infer.submit(stages.infer, resources, decoding, encoders)
                tell.submit(partial(_tell, parent, number, inferring))
    except PurifyctlError as error:
        parent.say(Failed(error))


def _open(task: Setup, stack: ExitStack, parent: _Parent) -> tuple[Resources, int]:
    bundle, threads = task.bundle, len(os.sched_getaffinity(0))
    source = open_source(task.source)
    writers = REMOTE_WRITERS if task.images_to else threads
    purifier = stack.enter_context(bundle.open(task.chain[0]))
    classifier = stack.enter_context(bundle.open(task.chain[1])) if len(task.chain) > 1 else None
    gating = None
    if task.gate:
        runner = stack.enter_context(bundle.open("gate"))
        gating = Gating(runner, task.gate.threshold, task.gate.unflagged)
    decoder = stack.enter_context(
        Decoder(
            size=bundle.manifest.image_size,
            batch_size=bundle.manifest.batch_size,
            threads=threads,
            device_id=purifier.device_id,
            max_pixels=task.max_pixels,
        )
    )
    on_gpu = purifier.device_id is not None
    resources = Resources(
        decoder=decoder,
        gating=gating,
        purifier=purifier,
        classifier=classifier,
        labels=bundle.labels,
        image_format=task.image_format,
        gpu_encoder=GpuJpegEncoder(purifier.device_id) if on_gpu and task.image_format == "jpeg" else None,
        store=RemoteFolder(task.images_to) if task.images_to else None,
        packed=task.packed,
        out=task.out,
        partial=task.partial,
        compare=task.compare,
        top=task.top,
        bundle_sha256=bundle.sha256,
        source=source,
        readers=stack.enter_context(ThreadPoolExecutor(source.at_once, "remote")) if source.at_once > 1 else None,
        entered=lambda number, stage: parent.say(Entered(number, stage)),
    )
    return resources, writers


def _warm_up(resources: Resources, task: Setup) -> None:
    """Whatever a library does once, it does before the first image's time is taken; and where the machine is at fault,
    it shows now.
    """
    size = task.bundle.manifest.image_size
    picture = np.frombuffer(encode(np.zeros((size, size, 3), np.uint8), "jpeg"), np.uint8)
    images = resources.decoder.decode([picture] * task.bundle.manifest.batch_size).images
    for runner in (resources.gating.runner if resources.gating else None, resources.purifier, resources.classifier):
        if runner:
            runner.infer(images)
    if resources.gpu_encoder:
        resources.gpu_encoder.encode(images)


def _tell(parent: _Parent, number: int, inferring: Future[tuple[BatchInFlight, list[Future[Any]]]]) -> None:
    try:
        work, written = inferring.result()
        for future in written:
            if isinstance(encoding := future.result(), Future):  # of an image that waited to be purified
                encoding.result()
        now = time.time()
        for row in work.rows:
            row.finished = now
        message: object = Done(number, work.rows)
    except Exception as error:
        if not isinstance(error, PurifyctlError):  # a bug: where it happened must not get lost between processes
            error = RuntimeError("".join(traceback.format_exception(error)))
        message = Failed(error)
    with contextlib.suppress(OSError):  # the main thread sees that the parent is gone
        parent.say(message)


if __name__ == "__main__":
    main()
