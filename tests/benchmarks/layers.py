"""Where an OpenVINO network's time goes, by kind of layer, and its rate beside a large matrix product's.

    python -m tests.benchmarks.layers BUNDLE [--network purifier] [--rounds 20]

It runs one request on one core, in FP32 or the bundle's precision. Shares are shares of the layers' own times.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino

from purifyctl.engine.bundle import load_bundle
from purifyctl.images.synthetic import natural_images

SIDE = 2048  # of the matrix product


def matrix_product(core: openvino.Core, options: dict[str, object], rounds: int) -> float:
    """Operations per second of the library's own product of two large matrices."""
    from openvino import opset15 as ops

    a, b = (ops.parameter([SIDE, SIDE], np.float32) for _ in range(2))
    model = core.compile_model(openvino.Model([ops.matmul(a, b, False, False)], [a, b]), "CPU", options)
    request, inputs = model.create_infer_request(), [np.ones((SIDE, SIDE), np.float32)] * 2
    return 2 * SIDE**3 / fastest(lambda: request.infer(inputs), rounds)


def fastest(call: Callable[[], object], rounds: int) -> float:
    """Seconds of the quickest of several calls."""
    times = []
    for _ in range(rounds + 1):  # the first one warms up
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--network", default="purifier")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    manifest = bundle.manifest
    options = {
        "PERF_COUNT": "YES",
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if manifest.precision == "bf16" else "f32",
    }
    core = openvino.Core()
    network = manifest.networks[arguments.network]
    model = core.read_model(bundle.path / network.onnx)
    model.reshape([manifest.batch_size, manifest.image_size, manifest.image_size, 3])
    request = core.compile_model(model, "CPU", options).create_infer_request()
    images = natural_images(manifest.batch_size, manifest.image_size)
    seconds = fastest(lambda: request.infer([images]), arguments.rounds)
    rate = 2 * network.multiply_adds * manifest.batch_size / seconds
    peak = matrix_product(
        core, {name: value for name, value in options.items() if name != "PERF_COUNT"}, arguments.rounds
    )
    spent: Counter[str] = Counter()
    for layer in request.profiling_info:
        spent[f"{layer.node_type} ({layer.exec_type})"] += layer.real_time.total_seconds()
    each = f"{1e3 * seconds / manifest.batch_size:.1f} ms per image on one core"
    print(f"{arguments.network}: {each}, {rate / 1e12:.3f} TFLOP/s")
    print(f"a matrix product of {SIDE}x{SIDE}: {peak / 1e12:.3f} TFLOP/s; the network reaches {rate / peak:.0%} of it")
    total = sum(spent.values())
    for name, part in spent.most_common():
        if part / total >= 0.005:
            print(f"{part / total:6.1%}  {name}")


if __name__ == "__main__":
    main()
