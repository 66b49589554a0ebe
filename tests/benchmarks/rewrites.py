"""What each form of the networks costs on this CPU: `purifyctl.rewrites`, by backend and precision.

    python -m tests.benchmarks.rewrites [--unet 64 16] [--residual 32] [--image-size 256] [--batch 16] [--rounds 5]

Forms of one network are measured in turns (A B C, A B C, ...), since machines are noisy: compare the ratios. Weights
are random, which changes no time. Prints one table, as Markdown: ms per image of wall time, all cores busy, medians of
the rounds.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import nn

from purifyctl.backends import Runner, open_runner
from purifyctl.backends.openvino import has_amx, supports_bf16
from purifyctl.export import export_onnx, purifier_graph
from purifyctl.images.synthetic import natural_images
from purifyctl.nn.residual import ResidualPurifier
from purifyctl.nn.unet import UNetPurifier
from purifyctl.rewrites import Pass, deconvs_as_conv2, deconvs_as_conv3, deconvs_as_four_conv2, fold_norms

CORES = len(os.sched_getaffinity(0))
FORMS: dict[str, tuple[Pass, ...]] = {
    "as it is": (),
    "norms folded": (fold_norms,),
    "3x3 convolution": (fold_norms, deconvs_as_conv3),
    "2x2 convolution": (fold_norms, deconvs_as_conv2),
    "four 2x2 convolutions": (fold_norms, deconvs_as_four_conv2),
}
ENGINES = {"OpenVINO FP32": ("openvino", "fp32"), "ONNX Runtime FP32": ("onnxruntime", "fp32")}
if supports_bf16():
    ENGINES["OpenVINO BF16"] = ("openvino", "bf16")


def networks(arguments: argparse.Namespace) -> Iterator[tuple[str, nn.Module, dict[str, tuple[Pass, ...]]]]:
    """Name, network, and the forms that it has."""
    size = arguments.image_size
    depth = min(8, (size & -size).bit_length() - 1)  # as deep as the size can be halved
    for width in arguments.unet:
        yield f"U-Net, width {width}", UNetPurifier(width, depth), FORMS
    for width in arguments.residual:  # neither norms nor transposed convolutions
        yield f"residual purifier, width {width}", ResidualPurifier(width), {"as it is": ()}


def ms_per_image(runner: Runner, batches: list[np.ndarray]) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(runner.concurrency) as pool:
        list(pool.map(runner.infer, batches))
    return (time.perf_counter() - start) * 1e3 / sum(map(len, batches))


def measure(
    net: nn.Module, forms: dict[str, tuple[Pass, ...]], arguments: argparse.Namespace, folder: Path
) -> dict[tuple[str, str], float]:
    """Median ms per image by (form, engine)."""
    size, batch = arguments.image_size, arguments.batch
    batches = [natural_images(batch, size)] * arguments.batches
    times: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        runners = {}
        for number, (form, passes) in enumerate(forms.items()):
            file = folder / f"{number}.onnx"
            export_onnx(purifier_graph(net, passes=passes), file, size)
            for name, (backend, precision) in ENGINES.items():
                runner = open_runner(backend, file, precision=precision, image_size=size, batch_size=batch)
                runners[form, name] = stack.enter_context(runner)
        for runner in runners.values():
            ms_per_image(runner, batches)  # warm-up
        for _ in range(arguments.rounds):
            for key, runner in runners.items():
                times.setdefault(key, []).append(ms_per_image(runner, batches))
    return {key: statistics.median(rounds) for key, rounds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", type=int, nargs="*", default=[64, 16], help="widths")
    parser.add_argument("--residual", type=int, nargs="*", default=[32], help="widths")
    parser.add_argument("--image-size", type=int, default=256, help="pixels; a multiple of 32")
    parser.add_argument("--batch", type=int, default=16, help="images per call")
    parser.add_argument("--batches", type=int, default=4, help="per turn")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"{CORES} cores of {_processor()}, {'with' if has_amx() else 'no'} AMX; "
        f"batch {arguments.batch}, {arguments.image_size}x{arguments.image_size}, "
        f"{arguments.batch * arguments.batches} images a turn, {arguments.rounds} rounds; "
        f"OpenVINO {version('openvino')}, ONNX Runtime {version('onnxruntime')}. ms per image:\n"
    )
    print("| | form |" + "".join(f" {name} |" for name in ENGINES))
    print("|---|---|" + "---|" * len(ENGINES))
    for title, net, forms in networks(arguments):
        with tempfile.TemporaryDirectory() as folder:
            cells = measure(net, forms, arguments, Path(folder))
        for form in forms:
            figures = "".join(f" {cells[form, name]:.2f} |" for name in ENGINES)
            print(f"| {title} | {form} |{figures}", flush=True)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


if __name__ == "__main__":
    main()
