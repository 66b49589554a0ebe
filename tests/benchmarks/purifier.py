"""Top-1 of a classifier on clean, attacked and purified photographs, for the purifier's card.

    python -m tests.benchmarks.purifier --photos DIR [--classifier NAME --weights W]

Gray-box: the attack sees the classifier only. Adaptive: it differentiates through purifier and classifier together.
Labels come from the folders; the attack moves away from the classifier's own prediction. Images are 256x256, attacked
in [0, 1] and rounded to 8 bits before they are purified.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from purifyctl.attacks import fgsm, pgd
from purifyctl.checkpoint import load_purifier, shipped_checkpoint
from purifyctl.classifiers import load_classifier
from purifyctl.config import format_eps
from purifyctl.default_engine import CLASSIFIER, WEIGHTS
from purifyctl.images import list_images
from purifyctl.labels import TruthFromFolder
from purifyctl.photographs import read_all

BATCH = 16


def eight_bits(x: Tensor) -> Tensor:
    return torch.round(x * 255) / 255


def wilson(hits: int, n: int, z: float = 1.96) -> list[float]:
    """95 % confidence interval of a share (Wilson 1927), in percent."""
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [round(100 * (middle - half), 1), round(100 * (middle + half), 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=shipped_checkpoint())
    parser.add_argument("--classifier", default=CLASSIFIER)
    parser.add_argument("--weights", default=WEIGHTS)
    parser.add_argument("--limit", type=int, default=None, help="take every k-th photograph, so many in all")
    arguments = parser.parse_args()

    classifier = load_classifier(arguments.classifier, arguments.weights).to(memory_format=torch.channels_last)
    purifier = load_purifier(arguments.checkpoint).net.to(memory_format=torch.channels_last)
    files = list_images(arguments.photos)
    truth = TruthFromFolder(classifier.labels)
    files = [file for file in files if truth(file.path) is not None]
    if arguments.limit:
        files = files[:: max(1, len(files) // arguments.limit)][: arguments.limit]
    x, files = read_all(files, 256)
    y = torch.tensor([truth(file.path) for file in files])

    def through_both(images: Tensor) -> Tensor:
        return classifier(purifier(images))

    attacks: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {"clean": None}
    for eps in (4 / 255, 8 / 255):
        text = format_eps(eps)
        attacks[f"FGSM {text}, gray-box"] = lambda a, b, eps=eps: fgsm(classifier, a, b, eps)
        attacks[f"PGD-10 {text}, gray-box"] = lambda a, b, eps=eps: pgd(classifier, a, b, eps, steps=10)
    attacks["PGD-20 4/255, adaptive"] = lambda a, b: pgd(through_both, a, b, 4 / 255, steps=20)
    torch.manual_seed(0)
    rows = {}
    for name, attack in attacks.items():
        hits = [0, 0]
        for part, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            with torch.no_grad():
                predicted = classifier(part).argmax(1)
            attacked = eight_bits(attack(part, predicted)) if attack else part
            with torch.no_grad():
                for i, image in enumerate((attacked, eight_bits(purifier(attacked)))):
                    hits[i] += int((classifier(image).argmax(1) == labels).sum())
        rows[name] = {
            key: {"top1_percent": round(100 * h / len(x), 1), "interval_95": wilson(h, len(x))}
            for key, h in zip(("as it is", "purified"), hits, strict=True)
        }
        print(name, json.dumps(rows[name]), flush=True)
    print(json.dumps({"n": len(x), "classifier": arguments.classifier, "seed": 0}))


if __name__ == "__main__":
    main()
