"""What a worker opens once, for all its batches."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from purifyctl.engine.backends import Runner
from purifyctl.engine.chain import Chain, open_chain
from purifyctl.images import Decoded, Decoder, GpuJpegEncoder, encode
from purifyctl.images.damage import Encoded
from purifyctl.labels import Labels
from purifyctl.run.messages import Setup
from purifyctl.run.worker.decoding import DecoderProcess
from purifyctl.sources import Source, open_source
from purifyctl.sources.store import RemoteFolder

REMOTE_WRITERS = 32  # images that are written at once to a store, because each has to wait for the server


# Makes pixels of the files of a batch, and calls now and then while that takes long.
Decode = Callable[[Sequence[Encoded], Callable[[], None]], Decoded]


@dataclass(frozen=True)
class Resources:
    """What every batch of one run needs."""

    setup: Setup
    labels: Labels
    decode: Decode  # the files of a batch
    gate: Runner | None  # None: every image is purified
    chain: Chain
    gpu_encoder: GpuJpegEncoder | None  # encodes whole batches on a GPU; None: the CPU encodes images one by one
    store: RemoteFolder | None  # where images go instead of `setup.out`
    source: Source
    readers: Executor | None  # reads images of a batch at once; None: one after another
    decoders: int  # threads that decode whole pictures, one each
    writers: int  # threads that encode and write
    # called with a batch's number and the stage that it enters; None: the batch waits
    entered: Callable[[int, str | None], None]


@contextmanager
def open_resources(setup: Setup, entered: Callable[[int, str | None], None]) -> Iterator[Resources]:
    """Open networks, decoder and connections.

    Raises
    ------
    PurifyctlError
        The engine or a library does not start on this machine.
    """
    bundle, options, threads = setup.bundle, setup.options, len(os.sched_getaffinity(0))
    source = open_source(setup.source)
    with ExitStack() as stack:
        sizes = {"size": bundle.manifest.image_size, "batch_size": bundle.manifest.batch_size, "threads": threads}
        decode: Decode | None = None
        if bundle.device == "cpu" and not options.whole:  # it starts while the engine does
            apart = DecoderProcess(**sizes, options=options, timeout=options.image_timeout)
            decode = stack.enter_context(apart).decode
        chain = stack.enter_context(open_chain(bundle, setup.networks))
        gate = stack.enter_context(bundle.open("gate")) if setup.threshold is not None else None
        if decode is None:
            here = stack.enter_context(Decoder(**sizes, device_id=chain.device_id, options=options))
            decode = lambda files, _alive: here.decode(files)  # noqa: E731
        all_alike = (options.image_format, options.compression, options.keep_names) == ("jpeg", "fast", False)
        encode_on_gpu = chain.device_id is not None and all_alike
        yield Resources(
            setup=setup,
            labels=bundle.labels,
            decode=decode,
            gate=gate,
            chain=chain,
            gpu_encoder=GpuJpegEncoder(chain.device_id) if encode_on_gpu else None,
            store=RemoteFolder(options.images_to) if options.images_to else None,
            source=source,
            readers=stack.enter_context(ThreadPoolExecutor(source.at_once, "remote")) if source.at_once > 1 else None,
            decoders=threads,
            writers=REMOTE_WRITERS if options.images_to else threads,
            entered=entered,
        )


def warm_up(resources: Resources) -> None:
    """Send a batch through. Libraries do some work only once, and it must not count in the first image's time. A
    fault of the machine also shows now.
    """
    manifest = resources.setup.bundle.manifest
    n, size = manifest.batch_size, manifest.image_size
    pixels = np.zeros((n, size, size, 3), np.uint8)
    if not resources.setup.options.whole:  # whole pictures are decoded without the decoder of batches
        picture = np.frombuffer(encode(pixels[0], "jpeg"), np.uint8)
        pixels = resources.decode([picture] * n, lambda: None).images
    for runner in (resources.gate, *resources.chain.runners.values()):
        if runner:
            runner.infer(pixels)
    if resources.gpu_encoder:
        resources.gpu_encoder.encode(pixels)
