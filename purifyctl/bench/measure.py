"""Everything `purifyctl bench` measures of one bundle."""

import resource
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import purifyctl
from purifyctl import console, devices
from purifyctl.bench.engine import measure_engine, on_device
from purifyctl.bench.loops import open_loop
from purifyctl.bench.networks import Networks, networks_of
from purifyctl.bench.peers import PRECISION, peer
from purifyctl.bench.stages import ceiling, open_decoder, stages
from purifyctl.bench.timing import in_turns
from purifyctl.config.bench import LIBRARIES, LOOPS, BenchOptions, Peer
from purifyctl.engine.backends import to_host
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.chain import open_chain
from purifyctl.engine.rate import per_second
from purifyctl.errors import ConfigError
from purifyctl.machine import machine
from purifyctl.photographs import Pixels, read_some
from purifyctl.samples import installed_samples
from purifyctl.sources import ImageFile, list_images, read_file

PHOTOGRAPHS = 512  # or 32 batches, whichever is more: the most to run over
LOOP_PHOTOGRAPHS = 96  # for loops, which are slow; whole batches
ONE_BATCH = "engine, one batch"


def bench(bundle: Bundle, options: BenchOptions) -> dict[str, Any]:
    """Measure a bundle on this machine. Returns the figures, and what they were measured on.

    All that is compared runs in turns over the same photographs: whole batches of readable ones, at most 512
    photographs or 32 batches, whichever is more. Figures are medians over the rounds; ratios are medians of each
    round's ratio.

    Raises
    ------
    ConfigError
        Batch sizes that the bundle does not take, photographs that cannot be read, another bundle's checkpoint.
    BundleError, BackendError
        The bundle, or a peer, does not run here.
    """
    bundle.check_device(options.device)
    bundle.check_runs_here()
    with devices.current(devices.place(options.device if bundle.device == "cuda" else "cpu", say=False)):
        return _bench(bundle, options)


def _bench(bundle: Bundle, options: BenchOptions) -> dict[str, Any]:
    """`bench` on the current device."""
    manifest, full = bundle.manifest, bundle.manifest.batch_size
    sizes = _batch_sizes(bundle, options.batch_sizes)
    networks = networks_of(bundle, options.checkpoint) if options.against else None
    precisions: dict[Peer, str] = {}
    with ExitStack() as stack:
        files = _readable(bundle, options.photos)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for i, file in enumerate(files):  # links: `run` and the others see only these photographs
            (folder / f"{i:04d}{file.suffix}").symlink_to(file.absolute())
        with open_decoder(bundle) as decoder:
            images = to_host(decoder.decode([read_file(image) for image in list_images(folder)[:full]]).images)
        calls = stack.enter_context(stages(bundle, folder, options.image_format))
        if networks:
            peers = stack.enter_context(_peers(bundle, networks, images, list_images(folder), options))
            calls |= peers.calls
            precisions = peers.precisions
        console.note("The engine alone: throughput and latency by batch size ...")
        engine = measure_engine(bundle, images, sizes)
        memory = _memory(bundle)
        console.note(f"{', '.join(calls)}: in turns, {options.rounds} rounds ...")
        rates = in_turns(calls, options.rounds)
    return {
        "bundle": {
            "path": str(bundle.path),
            "sha256": bundle.sha256,
            "backend": f"{manifest.backend} {manifest.backend_version}",
            "precision": manifest.precision,
            "candidates": [(str(one), one.ms_per_image, one.refused) for one in manifest.candidates],
            "image_size": manifest.image_size,
            "batch_size": full,
            "networks": {name: manifest.networks[name].name for name in bundle.chain()},
        },
        "engine": engine,
        "stages": ceiling(bundle, rates),
        "photographs": len(files),
        "format": options.image_format,
        "rounds": options.rounds,
        "against": {name: {"precision": precisions[name], **_compared(rates, name)} for name in options.against},
        "memory_mib": memory,
        "machine": machine(),
        "gpu": torch.cuda.get_device_name() if bundle.device == "cuda" else None,
        "torch": torch.__version__,
        "purifyctl": purifyctl.__version__,
    }


def _batch_sizes(bundle: Bundle, asked: tuple[int, ...]) -> tuple[int, ...]:
    most = bundle.manifest.batch_size
    if bundle.device == "cuda":  # a plan has one batch size: a smaller batch is padded, and takes as long
        possible: tuple[int, ...] = (most,)
    else:
        possible = tuple(range(1, most + 1))
    if unfit := [size for size in asked if size not in possible]:
        raise ConfigError(
            f"Batch size {unfit[0]}: {bundle.path} takes {possible[0]} to {most}.",
            hint="purifyctl build-engine --batch-size N makes a bundle for others",
        )
    return asked or tuple(size for size in possible if size == most or size & (size - 1) == 0)


@dataclass(frozen=True)
class _Peers:
    calls: dict[str, Callable[[], float]]  # return images/s
    precisions: dict[Peer, str]


@contextmanager
def _peers(
    bundle: Bundle, networks: Networks, images: Pixels, files: Sequence[ImageFile], options: BenchOptions
) -> Iterator[_Peers]:
    """Each peer, and our engine ("engine, one batch") on the same batch."""
    n = len(images)
    some = [Path(image.file) for image in files[: max(1, LOOP_PHOTOGRAPHS // n) * n]]
    with ExitStack() as stack:
        chain = stack.enter_context(open_chain(bundle))
        call = partial(chain.run, on_device(images, bundle.device))
        peers = _Peers({ONE_BATCH: partial(_images_per_s, n, call, chain.concurrency)}, {})
        for loop in (name for name in LOOPS if name in options.against):
            opened = open_loop(
                loop,
                networks,
                image_size=bundle.manifest.image_size,
                batch=n,
                image_format=options.image_format,
                device=bundle.device,
            )
            peers.calls[loop], peers.precisions[loop] = partial(opened.images_per_s, some), opened.precision
        for library in (name for name in LIBRARIES if name in options.against):
            theirs = stack.enter_context(peer(library, networks, images, bundle.device))
            peers.calls[library], peers.precisions[library] = partial(_images_per_s, n, theirs, 1), PRECISION
        yield peers


def _images_per_s(n: int, call: Callable[[], object], threads: int) -> float:
    return per_second(call, threads) * n


def _compared(rates: Mapping[str, Sequence[float]], name: str) -> dict[str, Any]:
    """A peer beside ours. A loop does the same as `run`; libraries do the same as the engine, with one batch."""
    ours, theirs = rates["run" if name in LOOPS else ONE_BATCH], rates[name]
    return {
        "images_per_s": round(statistics.median(theirs), 2),
        "ours_images_per_s": round(statistics.median(ours), 2),
        "times_faster": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2),
    }


def _readable(bundle: Bundle, photos: Path | None) -> list[Path]:
    """Whole batches of photographs that can be read: the first ones of a folder, or those inside packages. If there are
    too few, they are repeated.

    Raises
    ------
    ConfigError
        None of them can be read.
    """
    full = bundle.manifest.batch_size
    listed = [image for image in (list_images(photos) if photos else installed_samples()) if not image.span]
    most = max(PHOTOGRAPHS, 32 * full)
    good: list[Path] = []
    with open_decoder(bundle) as decoder:
        for i in range(0, len(listed), full):
            good += [Path(listed[i + position].file) for position in read_some(listed[i : i + full], decoder).positions]
            if len(good) >= most:
                break
    if not good:
        raise ConfigError(f"None of {len(listed)} files in {photos} can be read.", hint="check --photos")
    n = min(most, len(good)) if photos else most
    return [good[i % len(good)] for i in range(max(1, n // full) * full)]


def _memory(bundle: Bundle) -> dict[str, float]:
    """In MiB: this process's peak so far, and the memory in use on its GPU."""
    found = {"host_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    if bundle.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found["gpu_in_use"] = round((total - free) / 2**20, 1)
    return found
