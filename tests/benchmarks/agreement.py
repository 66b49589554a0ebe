"""Which network's precision changes predictions: purifier or classifier, against FP32.

    python -m tests.benchmarks.agreement --photos DIR [--photos DIR] --classifier tf_efficientnet_lite0=WEIGHTS [...]
        [--precision fp16] [--precision bf16] [--precision int8-bf16] [--truth]

ONNX Runtime computes FP16, in the types that TensorRT's graphs have; OpenVINO computes the others, as an engine does: a
purifier's ends and close calls of the classifier in FP32. It prints a table as Markdown: how many of n photographs get
another top-1 class after purification, and with --truth (folders named by WordNet id) the accuracy.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import EnginePrecision, is_bf16, is_int8
from purifyctl.engine.backends import open_runner
from purifyctl.engine.graphs import classifier_graph, export_onnx, purifier_graph
from purifyctl.engine.kept import keep_ends_in_fp32
from purifyctl.engine.quantize import quantize_purifier
from purifyctl.labels import imagenet_labels
from purifyctl.photographs import Pixels, read_pixels
from purifyctl.samples import installed_samples
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images

SIZE, BATCH = 256, 16
ALONE: dict[EnginePrecision, EnginePrecision] = {"int8": "fp32", "int8-bf16": "bf16"}  # what the classifier has then


def export_purifier(precision: EnginePrecision, file: Path) -> None:
    export_onnx(
        purifier_graph(load_purifier(shipped_checkpoint()).net, "fp16" if precision == "fp16" else "fp32"), file, SIZE
    )
    if is_int8(precision):
        quantize_purifier(file, read_pixels(installed_samples(), SIZE)[0], symmetric=False)
    if is_bf16(precision):
        keep_ends_in_fp32(file)


def infer(file: Path, precision: EnginePrecision, images: Pixels) -> np.ndarray:
    backend = "onnxruntime" if precision == "fp16" else "openvino"
    with open_runner(backend, file, precision=precision, image_size=SIZE, batch_size=BATCH) as runner:
        return np.concatenate([runner.infer(images[i : i + BATCH])[0] for i in range(0, len(images), BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, action="append", required=True)
    parser.add_argument("--classifier", action="append", required=True, metavar="NAME=WEIGHTS")
    parser.add_argument("--precision", action="append", choices=("fp16", "bf16", "int8", "int8-bf16"))
    parser.add_argument("--truth", action="store_true")
    arguments = parser.parse_args()
    read = [read_pixels(list_images(folder), SIZE) for folder in arguments.photos]
    images = np.concatenate([pixels for pixels, _ in read])
    wnids = [image.path.parts[0] for _, files in read for image in files]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        purified: dict[EnginePrecision, Pixels] = {}
        precisions: list[EnginePrecision] = ["fp32", *(arguments.precision or ("fp16", "bf16", "int8", "int8-bf16"))]
        for precision in precisions:
            export_purifier(precision, folder / f"{precision}.onnx")
            purified[precision] = infer(folder / f"{precision}.onnx", precision, images)
            off = np.abs(purified[precision].astype(int) - purified["fp32"])
            print(f"purifier {precision}: mean {off.mean():.4f}, max {off.max()} grey levels from FP32", flush=True)
        for given in arguments.classifier:
            kind, weights = given.split("=", 1)
            classifier, files = load_classifier(kind, weights), {}
            for typed in ("fp32", "fp16") if "fp16" in precisions else ("fp32",):
                files[typed] = folder / f"classifier-{typed}.onnx"
                export_onnx(classifier_graph(classifier, typed), files[typed], SIZE)
            index = {wnid: i for i, wnid in enumerate(imagenet_labels().wnids)}
            truth = np.array([index.get(wnid, -1) for wnid in wnids])
            expected = infer(files["fp32"], "fp32", purified["fp32"]).argmax(1)
            for precision in precisions:
                alone = ALONE.get(precision, precision)
                typed = "fp16" if precision == "fp16" else "fp32"
                for what, kind_of_classifier, purify in (
                    ("both", alone, precision),
                    ("the purifier alone", "fp32", precision),
                    ("the classifier alone", alone, "fp32"),
                ):
                    file = files[typed] if kind_of_classifier != "fp32" else files["fp32"]
                    made = infer(file, kind_of_classifier, purified[purify]).argmax(1)
                    cells = [f"{what} {precision}", kind, str((made != expected).sum())]
                    cells += [f"{(made == truth).mean():.2%}"] if arguments.truth else []
                    print("| " + " | ".join(cells) + " |", flush=True)
                    if precision == "fp32":
                        break
    print(f"of {len(images)} photographs")


if __name__ == "__main__":
    main()
