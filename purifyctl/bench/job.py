"""Everything `purifyctl bench` measures of one bundle."""

import resource
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

import purifyctl
from purifyctl import console
from purifyctl.bench.engine import Pixels, measure_engine, opened
from purifyctl.bench.peers import Networks, Peer, loop, networks_of, peer
from purifyctl.bench.stages import measure_stages, run_rate
from purifyctl.bench.timing import in_turns, per_second
from purifyctl.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.images import Decoder, list_images
from purifyctl.machine import machine
from purifyctl.photographs import read_some
from purifyctl.samples import installed_samples

SAMPLES = 256  # photographs to run over where none are given: those inside packages, again and again
LOOP_IMAGES = 96  # for the plain loop, which is slow


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


def parse_peers(text: str) -> tuple[Peer, ...]:
    """Read `torch,onnxruntime`. Nothing given gives nothing.

    Raises
    ------
    ConfigError
        There is no such peer.
    """
    names = _parts(text)
    known: dict[str, Peer] = {name: name for name in get_args(Peer)}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"There is no peer {unknown[0]!r}.", hint=f"peers: {', '.join(known)}")
    return tuple(known[name] for name in names)


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read `1,8,16`. Nothing given gives nothing.

    Raises
    ------
    ConfigError
        One is no whole number.
    """
    try:
        return tuple(int(part) for part in _parts(text))
    except ValueError:
        raise ConfigError(f"{text!r} is no list of batch sizes.", hint="write it as 1,8,16") from None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def bench(bundle: Bundle, options: BenchOptions) -> dict[str, Any]:
    """Measure a bundle on this machine. Figures for people and programs, with what they were measured on.

    Raises
    ------
    ConfigError
        Batch sizes that the bundle does not take, photographs that cannot be read, another bundle's checkpoint.
    BundleError, BackendError
        The bundle does not run here.
    """
    bundle.check_trust()
    manifest = bundle.manifest
    sizes = options.batch_sizes or (*(2**k for k in range(12) if 2**k < manifest.batch_size), manifest.batch_size)
    if unfit := [size for size in sizes if not 1 <= size <= manifest.batch_size]:
        raise ConfigError(f"Batch size {unfit[0]}: {bundle.path} takes 1 to {manifest.batch_size}.")
    networks = networks_of(bundle, options.checkpoint) if options.against else None
    with tempfile.TemporaryDirectory() as folder:
        photos = options.photos or _samples(Path(folder))
        images = _one_batch(bundle, photos)
        console.note("The engine alone: throughput by batch size, latency ...")
        engine = measure_engine(bundle, images, sizes)
        console.note("Stages and the whole job, in turns ...")
        stages = measure_stages(bundle, photos, options.image_format, options.rounds)
        peers = {}
        if networks is not None:
            console.note(f"Against {', '.join(options.against)}, in turns ...")
            peers = _against(bundle, networks, images, photos, options)
    return {
        "bundle": {
            "path": str(bundle.path),
            "sha256": bundle.sha256,
            "backend": f"{manifest.backend} {manifest.backend_version}",
            "precision": manifest.precision,
            "image_size": manifest.image_size,
            "networks": {name: network.name for name, network in manifest.networks.items()},
        },
        "engine": engine,
        "stages": stages,
        "against": peers,
        "memory_mib": _memory(),
        "machine": machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "purifyctl": purifyctl.__version__,
    }


def _against(
    bundle: Bundle, networks: Networks, images: Pixels, photos: Path, options: BenchOptions
) -> dict[str, dict[str, float]]:
    """Images/s of the engine and of its peers on the same batch, and of `run` and the loop; medians of rounds.

    The ratio is the median of the rounds' own ratios.
    """
    device = "cuda" if bundle.manifest.backend.startswith("tensorrt") else "cpu"
    n = len(images)
    found: dict[str, dict[str, float]] = {}
    alone = [name for name in options.against if name != "loop"]
    with ExitStack() as stack:
        infer, threads = stack.enter_context(opened(bundle, n))
        calls: dict[str, Callable[[], float]] = {"engine": lambda: per_second(lambda: infer(images), threads) * n}
        for name in alone:
            call = stack.enter_context(peer(name, networks, images, device))
            calls[name] = lambda call=call: per_second(call, 1) * n  # type: ignore[misc]
        rates = in_turns(calls, options.rounds) if alone else {}
    for name in alone:
        found[name] = _compared("engine", rates["engine"], rates[name])
    if "loop" in options.against:
        script = partial(
            loop,
            photos,
            networks,
            image_size=bundle.manifest.image_size,
            batch=n,
            image_format=options.image_format,
            n=LOOP_IMAGES,
            device=device,
        )
        rates = in_turns(
            {"run": partial(run_rate, bundle, photos, options.image_format), "loop": script}, options.rounds
        )
        found["loop"] = _compared("run", rates["run"], rates["loop"])
    return found


def _compared(ours: str, mine: list[float], theirs: list[float]) -> dict[str, float]:
    return {
        f"{ours}_images_per_s": round(statistics.median(mine), 2),
        "images_per_s": round(statistics.median(theirs), 2),
        "times_faster": round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 2),
    }


def _samples(folder: Path) -> Path:
    """A folder of links to the photographs inside packages, again and again."""
    files = installed_samples()
    for i in range(SAMPLES):
        file = files[i % len(files)]
        (folder / f"{i:04d}{file.suffix}").symlink_to(file)
    return folder


def _one_batch(bundle: Bundle, photos: Path) -> Pixels:
    """RGB uint8 [batch, size, size, 3]: the first photographs, again where there are too few."""
    batch = bundle.manifest.batch_size
    with Decoder(size=bundle.manifest.image_size, batch_size=batch, threads=2) as decoder:
        images = read_some(list_images(photos)[:batch], decoder).images
    if not len(images):
        raise ConfigError(f"None of the first {batch} photographs in {photos} can be read.")
    return np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))


def _memory() -> dict[str, float]:
    """Peak of this process and of its GPU, in MiB."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if not torch.cuda.is_available():
        return {"host_peak": round(host, 1)}
    free, total = torch.cuda.mem_get_info()
    return {"host_peak": round(host, 1), "gpu_used": round((total - free) / 2**20, 1)}
