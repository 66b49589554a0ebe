"""Which network's precision changes predictions: purifier or classifier, in FP16 and BF16, against FP32.

    python -m tests.benchmarks.agreement --photos DIR [--photos DIR] --classifier tf_efficientnet_lite0=WEIGHTS [...]

ONNX Runtime computes FP16, in the types that TensorRT's graphs have; OpenVINO computes BF16. It prints a table as
Markdown: how many of n photographs get another top-1 class after purification.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.engine.backends import open_runner
from purifyctl.engine.graphs import Precision, classifier_graph, export_onnx, purifier_graph
from purifyctl.photographs import Pixels, read_pixels
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images

SIZE, BATCH = 256, 16
TYPED: dict[str, Precision] = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16"}  # BF16 is an execution hint
ROWS = {
    "both FP16": ("fp16", "fp16"),
    "the purifier alone FP16": ("fp16", "fp32"),
    "the classifier alone FP16": ("fp32", "fp16"),
    "both BF16": ("bf16", "bf16"),
    "the purifier alone BF16": ("bf16", "fp32"),
    "the classifier alone BF16": ("fp32", "bf16"),
}


def infer(file: Path, precision: str, images: Pixels) -> np.ndarray:
    backend = "onnxruntime" if precision == "fp16" else "openvino"
    with open_runner(backend, file, precision=precision, image_size=SIZE, batch_size=BATCH) as runner:
        return np.concatenate([runner.infer(images[i : i + BATCH])[0] for i in range(0, len(images), BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, action="append", required=True)
    parser.add_argument("--classifier", action="append", required=True, metavar="NAME=WEIGHTS")
    arguments = parser.parse_args()
    images = np.concatenate([read_pixels(list_images(folder), SIZE)[0] for folder in arguments.photos])
    net = load_purifier(shipped_checkpoint()).net
    changed: dict[str, list[int]] = {row: [] for row in ROWS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        purified = {}
        for precision, typed in TYPED.items():
            export_onnx(purifier_graph(net, typed), folder / "purifier.onnx", SIZE)
            purified[precision] = infer(folder / "purifier.onnx", precision, images)
            off = np.abs(purified[precision].astype(int) - purified["fp32"])
            print(f"purifier {precision}: mean {off.mean():.4f}, max {off.max()} grey levels from FP32")
        for given in arguments.classifier:
            classifier = load_classifier(*given.split("=", 1))
            for precision, typed in TYPED.items():
                export_onnx(classifier_graph(classifier, typed), folder / f"{precision}.onnx", SIZE)
            expected = infer(folder / "fp32.onnx", "fp32", purified["fp32"]).argmax(1)
            for row, (purify, classify) in ROWS.items():
                made = infer(folder / f"{classify}.onnx", classify, purified[purify]).argmax(1)
                changed[row].append(int((made != expected).sum()))
    print(f"\n| of {len(images)} |" + "".join(f" {given.split('=')[0]} |" for given in arguments.classifier))
    print("|---|" + "---|" * len(arguments.classifier))
    for row, counts in changed.items():
        print(f"| {row} |" + "".join(f" {count} |" for count in counts))


if __name__ == "__main__":
    main()
