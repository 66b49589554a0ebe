"""Latency and throughput of a bundle's networks by themselves, and how much of the device's arithmetic they use."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from purifyctl.bench.timing import latency, throughput
from purifyctl.engine.backends import Batch
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.chain import open_chain
from purifyctl.engine.rate import per_second
from purifyctl.photographs import Pixels


def measure_engine(bundle: Bundle, images: Pixels, batch_sizes: Sequence[int]) -> dict[str, Any]:
    """Images/s and latency of single calls by batch size, and operations per second at the fastest.

    Parameters
    ----------
    images
        RGB uint8 [at least the largest batch, size, size, 3].
    """
    found: dict[int, dict[str, Any]] = {}
    for size in batch_sizes:
        with open_chain(bundle, batch_size=size) as chain:
            call = partial(chain.run, on_device(images[:size], bundle.device))
            rate = throughput(call, chain.concurrency)
            found[size] = {
                "images_per_s": round(rate.per_s * size, 2),
                "steady": rate.steady,
                "latency": asdict(latency(call)),
            }
    best = max(found, key=lambda size: float(found[size]["images_per_s"]))
    multiply_adds = sum(bundle.manifest.networks[name].multiply_adds for name in bundle.chain())
    flops = 2 * multiply_adds * float(found[best]["images_per_s"])
    product, peak = matrix_product(bundle)
    return {
        "by_batch": found,
        "best_batch": best,
        "multiply_adds_per_image": multiply_adds,
        "flop_per_s": flops,  # useful operations: where a rewrite multiplies by zeros, it does not count
        "matrix_product": product,
        "matrix_product_flop_per_s": peak,
        "of_matrix_product": round(flops / peak, 4),
    }


def matrix_product(bundle: Bundle) -> tuple[str, float]:
    """The fastest large matrix product of torch on the bundle's device, and its operations per second.

    It is in FP32; if the engine has another precision, also in 16 bits. INT8 engines may be faster: torch has no INT8
    product on every device.
    """
    gpu = bundle.device == "cuda"
    side = 8192 if gpu else 2048
    kinds = [torch.float32]
    if bundle.manifest.precision != "fp32":
        kinds.append(torch.float16 if gpu else torch.bfloat16)
    rates = {}
    for kind in kinds:
        a, b = (torch.randn(side, side, device=bundle.device).to(kind) for _ in range(2))

        def product(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            torch.mm(a, b)
            if gpu:
                torch.cuda.synchronize(a.device)

        rates[f"torch {str(kind).removeprefix('torch.')}"] = max(per_second(product) for _ in range(3)) * 2 * side**3
    return max(rates.items(), key=lambda found: found[1])


def on_device(images: Pixels, device: str) -> Batch:
    """A batch in the memory where decoding would leave it for the engine."""
    return torch.from_numpy(images).cuda() if device == "cuda" else images
