"""Decode, engine and encode, each alone on the whole machine; and `run` from end to end beside their ceiling."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from purifyctl.backends import to_host
from purifyctl.bench.engine import opened
from purifyctl.bench.timing import in_turns
from purifyctl.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.images import Decoder, encode, list_images, read_file
from purifyctl.pipeline import RunOptions, run


def measure_stages(bundle: Bundle, photos: Path, image_format: str, rounds: int) -> dict[str, Any]:
    """Images/s of each stage alone and of `run`, in turns; the ceiling, and how much of it `run` reaches.

    On a CPU the stages share the cores: the ceiling is cores / (summed core-time per image), which is
    1 / (sum of 1 / stage). With a GPU they work beside each other: it is the slowest stage.

    Raises
    ------
    ConfigError
        Too few photographs that can be read.
    """
    manifest = bundle.manifest
    batch, cores = manifest.batch_size, len(os.sched_getaffinity(0))
    files = [read_file(image) for image in list_images(photos)]
    parts = [files[i : i + batch] for i in range(0, len(files), batch)]
    with (
        opened(bundle, batch) as (infer, threads),
        Decoder(size=manifest.image_size, batch_size=batch, threads=cores) as decoder,
    ):
        decoded = [decoder.decode(part).images for part in parts]
        whole = [images for images in decoded if len(images) == batch]
        if not whole:
            raise ConfigError(f"{photos} has no {batch} photographs that can be read, which is one batch.")
        purified = np.concatenate([to_host(infer(images)[0]) for images in whole])

        def decode() -> float:
            return _rate(lambda: [decoder.decode(part) for part in parts], len(files))

        def engine() -> float:
            with ThreadPoolExecutor(threads) as pool:
                return _rate(lambda: list(pool.map(infer, whole)), len(whole) * batch)

        def encode_all() -> float:
            with ThreadPoolExecutor(cores) as pool:
                return _rate(lambda: list(pool.map(lambda image: encode(image, image_format), purified)), len(purified))

        stages = {"decode": decode, "engine": engine, "encode": encode_all}
        figures = in_turns({**stages, "run": partial(run_rate, bundle, photos, image_format)}, rounds)
    ceilings = [
        min(rates) if _on_gpu(manifest.backend) else 1 / sum(1 / rate for rate in rates)
        for rates in zip(*(figures[name] for name in stages), strict=True)
    ]
    of_ceiling = [reached / most for reached, most in zip(figures["run"], ceilings, strict=True)]
    return {
        "photographs": len(files),
        "format": image_format,
        "rounds": rounds,
        "images_per_s": {name: round(statistics.median(rates), 2) for name, rates in figures.items()},
        "ceiling_images_per_s": round(statistics.median(ceilings), 2),
        "of_ceiling": round(statistics.median(of_ceiling), 3),
        "limited_by": min(stages, key=lambda name: statistics.median(figures[name])),
    }


def run_rate(bundle: Bundle, photos: Path, image_format: str) -> float:
    """Images/s of the real `run`, from the first file read to the last row committed."""
    with tempfile.TemporaryDirectory() as folder:
        summary = run(photos, bundle, Path(folder) / "run", RunOptions(image_format=image_format)).summary
    return float(summary["images_per_s"])


def _on_gpu(backend: str) -> bool:
    return backend.startswith("tensorrt")


def _rate(work: Callable[[], Any], n: int) -> float:
    start = time.perf_counter()
    work()
    return n / (time.perf_counter() - start)
