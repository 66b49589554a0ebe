"""A worker in which something goes wrong. Its arguments say what:

segfault=GLOB     the process dies while it decodes a batch with such an input
oom=GLOB          the same, by SIGKILL, as when memory runs out
hang=GLOB         it hangs instead
decoder=F=MARK    the process that decodes meets the fault F (segfault, oom, hang) in a file with these bytes
engine-fails=N    the engine fails at its N-th batch
disk-full=N       there is no room for the N-th image
store-gone=N      the object store does not answer from the N-th image on
room=N            no fault: whole pictures share room for N pixels
slow-read=S       storage takes S seconds for each file
gpu-jpeg=cpu      no fault: the CPU encodes whole batches, as a GPU does

With `FILE` appended (segfault=GLOB@FILE) it happens only if there is no such file, and makes the file.
"""

import errno
import itertools
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from purifyctl import files
from purifyctl.errors import BackendError
from purifyctl.images import GpuJpegEncoder
from purifyctl.run.worker import decoding, stages, whole, writing
from purifyctl.run.worker import process as worker
from purifyctl.run.worker.in_flight import BatchInFlight, ImageInFlight
from purifyctl.run.worker.resources import Resources
from purifyctl.run.worker.room import Whereabouts
from purifyctl.run.worker.whole import WholePictures
from purifyctl.sources.local import LocalSource
from purifyctl.sources.store import RemoteFolder
from tests.faulty_decoder import strike

real_decode, real_infer, real_write = stages.decode, stages.infer, files.write_into_tree


def arm(kind: str, what: str) -> None:
    what, _, once = what.partition("@")
    if kind == "decoder":
        decoding.COMMAND = (sys.executable, "-m", "tests.faulty_decoder", *what.split("="), once)
    elif kind == "engine-fails":
        calls = itertools.count(1)

        def infer(*arguments: Any) -> Any:
            if next(calls) >= int(what):
                raise BackendError("The device is gone.")
            return real_infer(*arguments)

        stages.infer = infer
    elif kind == "disk-full":
        images = itertools.count(1)

        def write(*arguments: Any, **options: Any) -> None:
            if next(images) >= int(what):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real_write(*arguments, **options)

        writing.write_into_tree = write
    elif kind == "store-gone":
        images, put = itertools.count(1), RemoteFolder.write

        def write_there(folder: RemoteFolder, *arguments: Any) -> None:
            if next(images) >= int(what):
                raise ConnectionError("no answer in time")
            put(folder, *arguments)

        RemoteFolder.write = write_there
    elif kind == "room":
        whole.ROOM_PIXELS = int(what)
    elif kind == "slow-read":
        read = LocalSource.read

        def read_slowly(*arguments: Any) -> Any:
            time.sleep(float(what))
            return read(*arguments)

        LocalSource.read = read_slowly
    elif kind == "gpu-jpeg":
        opened = worker.open_resources

        @contextmanager
        def open_with_encoder(*arguments: Any) -> Iterator[Resources]:
            with opened(*arguments) as resources:
                yield replace(resources, gpu_encoder=GpuJpegEncoder(None))

        worker.open_resources = open_with_encoder
    else:
        before = stages.decode

        def decode(resources: Resources, reading: Future[BatchInFlight]) -> BatchInFlight:
            if any(image.input.image.path.match(what) for image in reading.result().images) and not (
                once and Path(once).exists()
            ):
                resources.entered(reading.result().number, "decode")
                if once:
                    Path(once).touch()
                strike(kind)
            return before(resources, reading)

        stages.decode = decode
        before_one = whole.WholePictures._decode

        def decode_one(pictures: WholePictures, image: ImageInFlight, where: Whereabouts, **options: Any) -> None:
            if image.input.image.path.match(what) and not (once and Path(once).exists()):
                with where.at("decode"):
                    if once:
                        Path(once).touch()
                    strike(kind)
            before_one(pictures, image, where, **options)

        whole.WholePictures._decode = decode_one


if __name__ == "__main__":
    for fault in sys.argv[1:-1]:
        arm(*fault.split("=", 1))
    worker.main()
