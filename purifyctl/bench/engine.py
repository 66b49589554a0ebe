"""Latency and throughput of a bundle's networks alone, and how much of the device's arithmetic they use."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from purifyctl.backends import Batch
from purifyctl.bench.timing import latency, throughput
from purifyctl.bundle import Bundle

Pixels = NDArray[np.uint8]  # RGB [n, size, size, 3]


@contextmanager
def opened(bundle: Bundle, batch_size: int) -> Iterator[tuple[Callable[[Batch], tuple[Batch, ...]], int]]:
    """What `run` does to a batch between decoding and encoding, and from how many threads it does so."""
    networks = bundle.manifest.networks
    with ExitStack() as stack:
        if "fused" in networks or "classifier" not in networks:
            runner = stack.enter_context(bundle.open("fused" if "fused" in networks else "purifier", batch_size))
            yield runner.infer, runner.concurrency
            return
        purifier, classifier = (stack.enter_context(bundle.open(name, batch_size)) for name in networks)

        def both(images: Batch) -> tuple[Batch, ...]:
            (purified,) = purifier.infer(images)
            return purified, *classifier.infer(purified)

        yield both, purifier.concurrency


def measure_engine(bundle: Bundle, images: Pixels, batch_sizes: tuple[int, ...]) -> dict[str, Any]:
    """Latency of single calls at batch 1 and at the fastest batch; images/s at every batch size.

    Parameters
    ----------
    images
        RGB uint8 [at least the largest batch, size, size, 3].
    """
    rates = {}
    for batch in batch_sizes:
        with opened(bundle, batch) as (infer, threads):
            found = throughput(lambda infer=infer, batch=batch: infer(images[:batch]), threads)  # type: ignore[misc]
        rates[batch] = {"images_per_s": round(found.per_s * batch, 2), "steady": found.steady}
    best = max(rates, key=lambda batch: rates[batch]["images_per_s"])
    latencies = {}
    for batch in sorted({1, best}):
        with opened(bundle, batch) as (infer, _):
            latencies[batch] = asdict(latency(lambda infer=infer, batch=batch: infer(images[:batch])))  # type: ignore[misc]
    multiply_adds = sum(bundle.manifest.networks[name].multiply_adds for name in _used(bundle))
    flops = 2 * multiply_adds * float(rates[best]["images_per_s"])
    peak = matrix_product_flops(bundle.manifest.precision)
    return {
        "throughput": rates,
        "best_batch": best,
        "latency": latencies,
        "multiply_adds_per_image": multiply_adds,
        "flop_per_s": flops,  # of useful operations: a rewriting that multiplies by zeros does not count
        "matrix_product_flop_per_s": peak,
        "of_matrix_product": round(flops / max(peak.values()), 4),
    }


def _used(bundle: Bundle) -> tuple[str, ...]:
    networks = bundle.manifest.networks
    return ("fused",) if "fused" in networks else tuple(networks)


def matrix_product_flops(precision: str) -> dict[str, float]:
    """The best rate of a large matrix product on this device, by library: what no network can pass.

    INT8 engines are held against BF16 or FP16 products: torch has no INT8 matrix product on every device.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if precision == "fp32" else torch.float16 if device == "cuda" else torch.bfloat16
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    product()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return {f"torch {str(dtype).removeprefix('torch.')}": 2 * side**3 / min(times)}
