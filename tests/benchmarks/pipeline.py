"""How close `run` comes to what this machine could do at best, and how far ahead of a plain PyTorch loop it is.

    python -m tests.benchmarks.pipeline --photos DIR [--classifier NAME --weights FILE] [--rounds 3]

Everything is measured in one process run, in turns (A B C, A B C, ...), since machines are noisy: compare the ratios.

    run         the real `purifyctl run`: read, decode, purify, classify, encode, write, rows
    ceiling     cores / (core-time per image of decode + engine + encode), each measured alone with all cores busy on it
    plain loop  Pillow -> torchvision transforms -> torch FP32 eager purifier and classifier -> Pillow, batch by batch
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from purifyctl.bundle import Bundle, load_bundle
from purifyctl.checkpoint import load_purifier, shipped_checkpoint
from purifyctl.classifiers import load_classifier
from purifyctl.config import EngineConfig
from purifyctl.default_engine import CLASSIFIER, WEIGHTS, best_precision
from purifyctl.engine import build_engine
from purifyctl.export import classifier_graph, purifier_graph
from purifyctl.images import Decoder, encode, list_images, read_file
from purifyctl.pipeline import RunOptions, run

CORES = len(os.sched_getaffinity(0))


def wall_per_image(work: Callable[[], None], n: int) -> float:
    """Wall seconds per image of `work` over `n` images, with every core busy: times cores, that is core-time."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / n


class Stages:
    """The three stages that take processor time, each ready to be run alone on the same images."""

    def __init__(self, bundle: Bundle, photos: Path, image_format: str) -> None:
        manifest = bundle.manifest
        self.batch = manifest.batch_size
        self.files = [read_file(image) for image in list_images(photos)]
        self.files = self.files[: len(self.files) // self.batch * self.batch]
        self.n = len(self.files)
        self.image_format = image_format
        self.decoder = Decoder(size=manifest.image_size, batch_size=self.batch, threads=CORES)
        self.images = [self.decoder.decode(self.files[i : i + self.batch]).images for i in range(0, self.n, self.batch)]
        self.images = [images for images in self.images if len(images) == self.batch]
        self.purifier = bundle.open("purifier")
        self.classifier = bundle.open("classifier")
        self.purified = [self.purifier.infer(images)[0] for images in self.images]

    def decode(self) -> None:
        for i in range(0, self.n, self.batch):
            self.decoder.decode(self.files[i : i + self.batch])

    def engine(self) -> None:
        def both(images: np.ndarray) -> None:
            self.classifier.infer(self.purifier.infer(images)[0])

        with ThreadPoolExecutor(self.purifier.concurrency) as pool:
            list(pool.map(both, self.images))

    def encode(self) -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda image: encode(image, self.image_format), np.concatenate(self.purified)))


def plain_loop(photos: Path, out: Path, weights: tuple[str, str], n: int, batch: int, image_format: str) -> float:
    """What one would script: images/s over the first `n` photographs."""
    purify = purifier_graph(load_purifier(shipped_checkpoint()).net)
    classify = classifier_graph(load_classifier(*weights))
    transform = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(256), v2.PILToTensor()])
    files = list_images(photos)[:n]
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with torch.inference_mode():
        for i in range(0, n, batch):
            opened = [Image.open(f.file).convert("RGB") for f in files[i : i + batch]]
            images = torch.stack([transform(image) for image in opened]).permute(0, 2, 3, 1)
            purified = purify(images)
            classify(purified).topk(5)
            for k, image in enumerate(purified.numpy()):
                Image.fromarray(image).save(out / f"{i + k}.{image_format}")
    return n / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, a few hundred at least")
    parser.add_argument("--classifier", default=CLASSIFIER)
    parser.add_argument("--weights", default=WEIGHTS)
    parser.add_argument("--precision", default=best_precision(), choices=["fp32", "bf16"])
    parser.add_argument("--format", default="png", choices=["png", "webp", "jpeg"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop-images", type=int, default=96, help="photographs for the plain loop, which is slow")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments, Path(folder)), indent=2))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    config = EngineConfig(precision=arguments.precision, classifier=arguments.classifier, weights=arguments.weights)
    build_engine(config, shipped_checkpoint(), folder / "bundle")
    bundle = load_bundle(folder / "bundle")
    stages = Stages(bundle, arguments.photos, arguments.format)
    weights = (arguments.classifier, arguments.weights)
    rounds: dict[str, list[float]] = {name: [] for name in ("run", "ceiling", "loop", "decode", "engine", "encode")}
    for work in (stages.decode, stages.engine, stages.encode):
        work()  # warm-up
    for i in range(arguments.rounds):
        options = RunOptions(image_format=arguments.format, overwrite=True)
        summary = run(arguments.photos, bundle, folder / "out", options).summary
        core_s = 0.0
        for name, work in (("decode", stages.decode), ("engine", stages.engine), ("encode", stages.encode)):
            per_image = wall_per_image(work, stages.n if name == "decode" else len(stages.images) * stages.batch)
            rounds[name].append(per_image * CORES * 1e3)
            core_s += per_image * CORES
        rounds["run"].append(summary["images_per_s"])
        rounds["ceiling"].append(CORES / core_s)
        loop = plain_loop(
            arguments.photos, folder / f"loop{i}", weights, arguments.loop_images, stages.batch, arguments.format
        )
        rounds["loop"].append(loop)
    ratios = [
        {"of_ceiling": run_ / ceiling, "times_loop": run_ / loop}
        for run_, ceiling, loop in zip(rounds["run"], rounds["ceiling"], rounds["loop"], strict=True)
    ]
    return {
        "machine": {"cores": CORES, "python": platform.python_version(), "torch": torch.__version__},
        "n": stages.n,
        "batch": stages.batch,
        "precision": arguments.precision,
        "format": arguments.format,
        "classifier": arguments.classifier,
        "rounds": arguments.rounds,
        "run_images_per_s": round(statistics.median(rounds["run"]), 1),
        "ceiling_images_per_s": round(statistics.median(rounds["ceiling"]), 1),
        "plain_loop_images_per_s": round(statistics.median(rounds["loop"]), 1),
        "run_of_ceiling": round(statistics.median(r["of_ceiling"] for r in ratios), 3),
        "run_times_plain_loop": round(statistics.median(r["times_loop"] for r in ratios), 2),
        "core_ms_per_image": {k: round(statistics.median(rounds[k]), 2) for k in ("decode", "engine", "encode")},
        "per_round": rounds,
    }


if __name__ == "__main__":
    main()
