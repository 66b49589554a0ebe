"""The throughput of each stage of a run by itself, and of the real `run`."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from purifyctl.config.formats import ImageFormat
from purifyctl.engine.backends import to_host
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.chain import open_chain
from purifyctl.images import Decoder, encode
from purifyctl.run import RunOptions, run
from purifyctl.sources import list_images, read_file

STAGES = ("decode", "engine", "encode")


@contextmanager
def stages(bundle: Bundle, folder: Path, image_format: ImageFormat) -> Iterator[dict[str, Callable[[], float]]]:
    """Calls that return images/s: of each stage alone, with the whole machine to itself, and of the real `run`."""
    full, cores = bundle.manifest.batch_size, len(os.sched_getaffinity(0))
    files = [read_file(image) for image in list_images(folder)]
    batches = [files[i : i + full] for i in range(0, len(files), full)]
    with open_chain(bundle) as chain, open_decoder(bundle) as decoder:
        decoded = [decoder.decode(batch).images for batch in batches]
        purified = np.concatenate([to_host(chain.run(images)[0]) for images in decoded])

        def decode() -> object:
            return [decoder.decode(batch) for batch in batches]

        def infer() -> object:
            with ThreadPoolExecutor(chain.concurrency) as pool:
                return list(
                    pool.map(lambda images: [to_host(made) for made in chain.run(images) if made is not None], decoded)
                )

        def encode_all() -> object:
            with ThreadPoolExecutor(cores) as pool:
                return list(pool.map(partial(encode, image_format=image_format), purified))

        device = f"cuda:{torch.cuda.current_device()}" if bundle.device == "cuda" else "cpu"
        options = RunOptions(image_format=image_format, compare=False, device=device)  # one device, as the stages

        def run_all() -> float:
            with tempfile.TemporaryDirectory() as out:
                result = run(folder, bundle, Path(out) / "run", options)
            if not result.summary["finished"]:
                raise KeyboardInterrupt
            return float(result.summary["this_call"]["images_per_s"])  # from ready to the last row committed

        calls = dict(zip(STAGES, (decode, infer, encode_all), strict=True))
        yield {name: partial(_rate, call, len(files)) for name, call in calls.items()} | {"run": run_all}


def open_decoder(bundle: Bundle) -> Decoder:
    return Decoder(
        size=bundle.manifest.image_size,
        batch_size=bundle.manifest.batch_size,
        threads=len(os.sched_getaffinity(0)),
        device_id=torch.cuda.current_device() if bundle.device == "cuda" else None,
    )


def ceiling(bundle: Bundle, rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The throughput that the stages allow, and how much of it `run` reaches.

    On a CPU the stages share the cores: the ceiling is cores / (summed core-time per image), which is
    1 / (sum of 1 / stage). With a GPU they work at the same time: the ceiling is the slowest stage.
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


def _rate(call: Callable[[], object], n: int) -> float:
    start = time.perf_counter()
    call()
    return n / (time.perf_counter() - start)
