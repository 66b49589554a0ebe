"""What each form of the networks costs on this CPU: `purifyctl.engine.rewrites`, by backend and precision.

    python -m tests.benchmarks.rewrites [--unet 64 16] [--residual 32] [--image-size 256] [--batch 16] [--rounds 5]

Forms of one network are measured in turns (A B C, A B C, ...), because machines are noisy: compare the ratios. Weights
are random, which changes no time. It prints one table, as Markdown: ms per image of wall time, all cores busy, medians
of the rounds.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path

from torch import nn

from purifyctl.bench.timing import in_turns
from purifyctl.engine.backends import open_runner
from purifyctl.engine.backends.openvino import has_amx, supports
from purifyctl.engine.graphs import export_onnx, purifier_graph
from purifyctl.engine.rate import per_second
from purifyctl.engine.rewrites import Pass, deconvs_as_conv3, fold_norms
from purifyctl.images.synthetic import natural_images
from purifyctl.machine import machine
from purifyctl.nn.residual import ResidualPurifier
from purifyctl.nn.unet import UNetPurifier

FORMS: dict[str, tuple[Pass, ...]] = {
    "unchanged": (),
    "norms folded": (fold_norms,),
    "3x3 convolution": (fold_norms, deconvs_as_conv3),
}
ENGINES = {"OpenVINO FP32": ("openvino", "fp32"), "ONNX Runtime FP32": ("onnxruntime", "fp32")}
if supports("bf16"):
    ENGINES["OpenVINO BF16"] = ("openvino", "bf16")


def networks(arguments: argparse.Namespace) -> Iterator[tuple[str, nn.Module, dict[str, tuple[Pass, ...]]]]:
    """Name, network, and the forms that it has."""
    size = arguments.image_size
    depth = min(8, (size & -size).bit_length() - 1)  # as deep as the size can be halved
    for width in arguments.unet:
        yield f"U-Net, width {width}", UNetPurifier(width, depth), FORMS
    for width in arguments.residual:  # neither norms nor transposed convolutions
        yield f"residual purifier, width {width}", ResidualPurifier(width), {"unchanged": ()}


def measure(
    net: nn.Module, forms: dict[str, tuple[Pass, ...]], arguments: argparse.Namespace, folder: Path
) -> dict[tuple[str, str], float]:
    """Median ms per image by (form, engine), all cores; measured in turns."""
    size, batch = arguments.image_size, arguments.batch
    images = natural_images(batch, size)
    with ExitStack() as stack:
        calls = {}
        for number, (form, passes) in enumerate(forms.items()):
            file = folder / f"{number}.onnx"
            export_onnx(purifier_graph(net, passes=passes), file, size)
            for name, (backend, precision) in ENGINES.items():
                runner = open_runner(backend, file, precision=precision, image_size=size, batch_size=batch)
                stack.enter_context(runner)
                calls[f"{form}/{name}"] = partial(per_second, partial(runner.infer, images), runner.concurrency)
        rates = in_turns(calls, arguments.rounds)
    keys = itertools.product(forms, ENGINES)
    return {(form, name): 1e3 / (statistics.median(rates[f"{form}/{name}"]) * batch) for form, name in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", type=int, nargs="*", default=[64, 16], help="widths")
    parser.add_argument("--residual", type=int, nargs="*", default=[32], help="widths")
    parser.add_argument("--image-size", type=int, default=256, help="pixels; a multiple of 32")
    parser.add_argument("--batch", type=int, default=16, help="images per call")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    here = machine()
    print(
        f"{here['cores']} cores of {here['processor']}, {'with' if has_amx() else 'no'} AMX; "
        f"batch {arguments.batch}, {arguments.image_size}x{arguments.image_size}, {arguments.rounds} rounds; "
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


if __name__ == "__main__":
    main()
