"""Everything `purifyctl bench` measures of one bundle."""

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

import purifyctl
from purifyctl import console
from purifyctl.bench.engine import measure_engine, on_device, opened
from purifyctl.bench.peers import Library, Networks, loop, networks_of, peer
from purifyctl.bench.timing import in_turns, per_second
from purifyctl.engine.backends import to_host
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.images import Decoder, encode
from purifyctl.machine import machine
from purifyctl.photographs import Pixels, read_some
from purifyctl.run import RunOptions, run
from purifyctl.samples import installed_samples
from purifyctl.sources import ImageFile, list_images, read_file

Peer = Library | Literal["loop"]
PEERS: dict[str, Peer] = {name: name for name in (*get_args(Library), "loop")}
PHOTOGRAPHS = 512  # or 32 batches, whichever is more: the most that is run over
LOOP_PHOTOGRAPHS = 96  # for the plain loop, which is slow
STAGES = ("decode", "engine", "encode")
ONE_BATCH = "engine, one batch"


@dataclass(frozen=True)
class BenchOptions:
    """What `purifyctl bench` can be told, beyond the bundle."""

    photos: Path | None = None  # None: photographs from packages
    against: tuple[Peer, ...] = ()
    checkpoint: Path | None = None  # of the purifier, for the peers; None: the shipped one
    batch_sizes: tuple[int, ...] = ()  # none: powers of two up to the bundle's
    image_format: str = "png"
    rounds: int = 3  # of everything that is compared

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"rounds is {self.rounds}; it must be at least 1.")
        if self.checkpoint is not None and not self.against:
            raise ConfigError("A checkpoint is for peers, and none is named.", hint="add --against torch")


def bench(bundle: Bundle, options: BenchOptions) -> dict[str, Any]:
    """Measure a bundle on this machine. Figures for people and programs, with what they were measured on.

    What is compared runs over the same photographs, in turns: whole batches of those that can be read, at most 512
    photographs or 32 batches. Figures are medians over the rounds, ratios medians of the rounds' own ratios.

    Raises
    ------
    ConfigError
        Batch sizes that the bundle does not take, photographs that cannot be read, another bundle's checkpoint.
    BundleError, BackendError
        The bundle, or a peer, does not run here.
    """
    bundle.check_runs_here()
    manifest, full = bundle.manifest, bundle.manifest.batch_size
    sizes = _batch_sizes(bundle, options.batch_sizes)
    networks = networks_of(bundle, options.checkpoint) if options.against else None
    with ExitStack() as stack:
        files = _readable(bundle, options.photos)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for i, file in enumerate(files):  # links: `run` and the others see just these photographs
            (folder / f"{i:04d}{file.suffix}").symlink_to(file.absolute())
        with _decoder(bundle) as decoder:
            images = to_host(decoder.decode([read_file(image) for image in list_images(folder)[:full]]).images)
        calls = stack.enter_context(_stages(bundle, folder, options.image_format))
        if networks:
            calls |= stack.enter_context(_peers(bundle, networks, images, list_images(folder), options))
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
            "image_size": manifest.image_size,
            "batch_size": full,
            "networks": {name: manifest.networks[name].name for name in bundle.chain()},
        },
        "engine": engine,
        "stages": _ceiling(bundle, rates),
        "photographs": len(files),
        "format": options.image_format,
        "rounds": options.rounds,
        "against": {name: _compared(rates, name) for name in options.against},
        "memory_mib": memory,
        "machine": machine(),
        "gpu": torch.cuda.get_device_name() if bundle.device == "cuda" else None,
        "torch": torch.__version__,
        "purifyctl": purifyctl.__version__,
    }


def _batch_sizes(bundle: Bundle, wanted: tuple[int, ...]) -> tuple[int, ...]:
    most = bundle.manifest.batch_size
    if bundle.device == "cuda":  # plans are for one batch size; smaller batches are padded and take as long
        possible: tuple[int, ...] = (most,)
    else:
        possible = tuple(range(1, most + 1))
    if unfit := [size for size in wanted if size not in possible]:
        raise ConfigError(
            f"Batch size {unfit[0]}: {bundle.path} takes {possible[0]} to {most}.",
            hint="purifyctl build-engine --batch-size N makes a bundle for others",
        )
    return wanted or tuple(size for size in possible if size == most or size & (size - 1) == 0)


@contextmanager
def _stages(bundle: Bundle, folder: Path, image_format: str) -> Iterator[dict[str, Callable[[], float]]]:
    """Calls that return the images/s of each stage alone, with the whole machine for itself, and of the real `run`."""
    full, cores = bundle.manifest.batch_size, len(os.sched_getaffinity(0))
    files = [read_file(image) for image in list_images(folder)]
    parts = [files[i : i + full] for i in range(0, len(files), full)]
    with opened(bundle) as engine, _decoder(bundle) as decoder:
        decoded = [decoder.decode(part).images for part in parts]
        purified = np.concatenate([to_host(engine.infer(images)[0]) for images in decoded])

        def decode() -> object:
            return [decoder.decode(part) for part in parts]

        def infer() -> object:
            with ThreadPoolExecutor(engine.concurrency) as pool:
                return list(pool.map(lambda images: [to_host(made) for made in engine.infer(images)], decoded))

        def encode_all() -> object:
            with ThreadPoolExecutor(cores) as pool:
                return list(pool.map(partial(encode, image_format=image_format), purified))

        def run_all() -> float:
            with tempfile.TemporaryDirectory() as out:
                result = run(folder, bundle, Path(out) / "run", RunOptions(image_format=image_format))
            if not result.summary["finished"]:
                raise KeyboardInterrupt
            return float(result.summary["this_call"]["images_per_s"])  # from ready to the last row committed

        works = dict(zip(STAGES, (decode, infer, encode_all), strict=True))
        yield {name: partial(_rate, work, len(files)) for name, work in works.items()} | {"run": run_all}


def _decoder(bundle: Bundle) -> Decoder:
    return Decoder(
        size=bundle.manifest.image_size,
        batch_size=bundle.manifest.batch_size,
        threads=len(os.sched_getaffinity(0)),
        device_id=torch.cuda.current_device() if bundle.device == "cuda" else None,
    )


@contextmanager
def _peers(
    bundle: Bundle, networks: Networks, images: Pixels, files: Sequence[ImageFile], options: BenchOptions
) -> Iterator[dict[str, Callable[[], float]]]:
    """Calls that return the images/s of each peer, and of our engine ("engine, one batch") on the batch they get."""
    n = len(images)
    with ExitStack() as stack:
        engine = stack.enter_context(opened(bundle))
        call = partial(engine.infer, on_device(images, bundle.device))
        calls: dict[str, Callable[[], float]] = {ONE_BATCH: partial(_times, n, call, engine.concurrency)}
        for name in options.against:
            if name == "loop":
                calls[name] = partial(
                    loop,
                    [Path(image.file) for image in files[:LOOP_PHOTOGRAPHS]],
                    networks,
                    image_size=bundle.manifest.image_size,
                    batch=n,
                    image_format=options.image_format,
                    device=bundle.device,
                )
            else:
                calls[name] = partial(_times, n, stack.enter_context(peer(name, networks, images, bundle.device)), 1)
        yield calls


def _times(n: int, call: Callable[[], object], threads: int) -> float:
    return per_second(call, threads) * n


def _rate(work: Callable[[], object], n: int) -> float:
    start = time.perf_counter()
    work()
    return n / (time.perf_counter() - start)


def _ceiling(bundle: Bundle, rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What the stages allow, and how much of it `run` reaches.

    On a CPU the stages share the cores: the ceiling is cores / (summed core-time per image), which is
    1 / (sum of 1 / stage). With a GPU they work beside each other: it is the slowest stage.
    """
    alone = {name: rates[name] for name in STAGES}
    ceilings = [
        min(of_round) if bundle.device == "cuda" else 1 / sum(1 / rate for rate in of_round)
        for of_round in zip(*alone.values(), strict=True)
    ]
    return {
        "images_per_s": {name: round(statistics.median(rates[name]), 2) for name in (*STAGES, "run")},
        "ceiling_images_per_s": round(statistics.median(ceilings), 2),
        "of_ceiling": round(statistics.median(a / b for a, b in zip(rates["run"], ceilings, strict=True)), 3),
        "limited_by": min(alone, key=lambda name: statistics.median(alone[name])),
    }


def _compared(rates: Mapping[str, Sequence[float]], name: str) -> dict[str, Any]:
    """The loop does what `run` does; libraries do what the engine does with a batch."""
    ours, theirs = rates["run" if name == "loop" else ONE_BATCH], rates[name]
    return {
        "images_per_s": round(statistics.median(theirs), 2),
        "ours_images_per_s": round(statistics.median(ours), 2),
        "times_faster": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2),
    }


def _readable(bundle: Bundle, photos: Path | None) -> list[Path]:
    """Whole batches of photographs that can be read: the first ones of a folder, or those inside packages; again and
    again where there are too few.

    Raises
    ------
    ConfigError
        None of them can be read.
    """
    full = bundle.manifest.batch_size
    listed = [image for image in (list_images(photos) if photos else installed_samples()) if not image.span]
    most = max(PHOTOGRAPHS, 32 * full)
    good: list[Path] = []
    with _decoder(bundle) as decoder:
        for i in range(0, len(listed), full):
            good += [Path(listed[i + position].file) for position in read_some(listed[i : i + full], decoder).positions]
            if len(good) >= most:
                break
    if not good:
        raise ConfigError(f"None of {len(listed)} files in {photos} can be read.", hint="check --photos")
    n = min(most, len(good)) if photos else most
    return [good[i % len(good)] for i in range(max(1, n // full) * full)]


def _memory(bundle: Bundle) -> dict[str, float]:
    """In MiB: this process's peak so far, and what is taken of its GPU."""
    found = {"host_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    if bundle.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found["gpu_in_use"] = round((total - free) / 2**20, 1)
    return found
