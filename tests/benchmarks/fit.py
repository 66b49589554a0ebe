"""What `train fit` makes of minutes: it fits, and then measures recovery on other photographs, with true labels.

    python -m tests.benchmarks.fit --photos DIR --val DIR --minutes 30 --classifier mobilenet_v2 \\
        [--weights mobilenet_v2=FILE] --out runs/fit-30 [--json FILE]

Recovery is the share of photographs that are right with the purifier, under attack and when clean, divided by the share
that is right when clean without a purifier; with a 95 % bootstrap interval over the photographs. Attacks move away from
the true label, know the classifier and not the purifier (gray-box), and leave whole grey levels. `--minutes 0` measures
the shipped purifier. `--square 256` measures squares of 256 pixels instead of the classifier's own: the classifier then
resizes what was purified.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purifyctl import console
from purifyctl.attacks import make_attack
from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier, own_square
from purifyctl.config import AttackConfig, ClassifierConfig, format_eps
from purifyctl.config.recipes import find_recipe
from purifyctl.config.train import TrainOptions
from purifyctl.machine import keep_freed_memory, machine
from purifyctl.metrics import Share, quality, recovery, recovery_interval, top1, twice_right
from purifyctl.photographs import read_all, to_pixels
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images
from purifyctl.training import train_recipe
from purifyctl.training.workers import processes_that_pay
from purifyctl.truth import TruthFromFolder

ATTACKS = (AttackConfig("fgsm"), AttackConfig("pgd", steps=10))
BUDGETS = (4 / 255, 8 / 255)
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="to fit on")
    parser.add_argument("--val", type=Path, required=True, help="to measure on; folders named after classes")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--weights", default="", help="FILE, or NAME=FILE")
    parser.add_argument("--square", type=int, default=0, help="pixels; 0: the classifier's own")
    parser.add_argument("--n", type=int, default=256, help="photographs to measure on, evenly spaced")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    keep_freed_memory()
    weights = (given.weights,) if given.weights else ()
    options = TrainOptions(photos=given.photos, classifier=given.classifier, weights=weights, out=given.out)
    recipe = find_recipe("fit", "train")
    facts: dict[str, Any] = {"minutes": given.minutes, "classifier": given.classifier, **machine()}
    if given.minutes:
        options = TrainOptions(**{**options.__dict__, "minutes": given.minutes})
        config = options.config(recipe)
        done = train_recipe(config, given.out, processes=processes_that_pay(config))
        facts |= {"steps": done.steps, "photographs": len(list_images(given.photos))}
    chosen = options.config(recipe).classifiers[0]
    purifier = given.out if given.minutes else shipped_checkpoint()
    facts |= measure(purifier, chosen, given.val, given.n, given.square)
    print(json.dumps(facts, indent=1))
    if given.json:
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


def measure(purifier: Path, chosen: ClassifierConfig, val: Path, most: int, square: int = 0) -> dict[str, Any]:
    """The figures of one purifier in front of one classifier, on photographs of the folder `val`."""
    checkpoint = load_purifier(purifier)
    classifier = load_classifier(chosen).to(memory_format=torch.channels_last)
    side = square or own_square(classifier, checkpoint.network.size_multiple)
    truth_of = TruthFromFolder(classifier.labels)
    files = [file for file in list_images(val) if truth_of(file.path) is not None]
    files = [files[i * len(files) // most] for i in range(most)] if len(files) > most else files
    x, kept = read_all(files, side)
    y = torch.tensor([truth_of(file.path) for file in kept])
    truth = y.numpy()

    def predict(images: Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([classifier(batch).argmax(1) for batch in torch.split(images, BATCH)]).numpy()

    def purify(images: Tensor) -> Tensor:
        with torch.no_grad():
            made = [checkpoint.net(batch) for batch in torch.split(images, BATCH)]
        return torch.round(torch.cat(made) * 255) / 255

    clean, x_pur = predict(x), purify(x)
    purified = predict(x_pur)
    pictures = [quality(a, b) for a, b in zip(to_pixels(x_pur), to_pixels(x), strict=True)]
    figures: dict[str, Any] = {
        "n": len(kept),
        "square": side,
        "clean": str(top1(clean, truth)),
        "clean, purified": str(top1(purified, truth)),
        "clean accuracy lost, points": round(100 * float((clean == truth).mean() - (purified == truth).mean()), 2),
        "psnr": round(float(np.mean([psnr for psnr, _ in pictures])), 2),
        "ssim": round(float(np.mean([ssim for _, ssim in pictures])), 4),
    }
    for attack in ATTACKS:
        for eps in BUDGETS:
            generator = torch.Generator().manual_seed(0)
            batches = zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True)
            x_adv = torch.cat([make_attack(attack, classifier, a, b, eps, generator=generator) for a, b in batches])
            after = predict(purify(x_adv))
            both = np.where(purified == truth, after, -1)  # right under attack counts only if right when clean
            assert Share(int((both == truth).sum()), len(truth)) == twice_right(after, purified, truth)
            name = f"{attack.name} {format_eps(eps)}"
            console.note(f"{name}: recovery {recovery(both, clean, truth):.3f}")
            figures[name] = {
                "no purifier": str(top1(predict(x_adv), truth)),
                "right under attack and when clean": str(twice_right(after, purified, truth)),
                "recovery": recovery(both, clean, truth),
                "interval": recovery_interval(both, clean, truth),
            }
    return figures


if __name__ == "__main__":
    main()
