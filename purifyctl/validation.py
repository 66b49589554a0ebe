"""How well a purifier does on photographs it was not trained on, while it is being trained."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from purifyctl.attacks import make_attack
from purifyctl.classifiers import Classifier
from purifyctl.config import TrainConfig, TrainingAttack, format_eps
from purifyctl.images import ImageFile
from purifyctl.labels import TruthFromFolder
from purifyctl.photographs import read_all

BATCH = 16


class Validation:
    """Held-out photographs, attacked once, and what a purifier makes of them."""

    def __init__(
        self, config: TrainConfig, files: list[ImageFile], classifier: Classifier, device: torch.device
    ) -> None:
        self._classifier = classifier
        images, kept = read_all(files[: config.validation_images], config.image_size)
        self._x = images.to(device)
        truth = TruthFromFolder(classifier.labels)
        known = [truth(image.path) for image in kept]
        self._labelled = all(label is not None for label in known)
        predicted = self._predict(self._x)
        self._y = torch.tensor(known, device=device) if self._labelled else predicted
        self._attacked = {
            f"{attack.name} {format_eps(attack.eps[1])}": self._attack(attack, predicted) for attack in config.attacks
        }

    def _attack(self, attack: TrainingAttack, predicted: Tensor) -> Tensor:
        """The photographs attacked with the recipe's upper budget, away from the classifier's own predictions."""
        batches = zip(torch.split(self._x, BATCH), torch.split(predicted, BATCH), strict=True)
        return torch.cat([make_attack(attack, self._classifier.logits, x, y, attack.eps[1]) for x, y in batches])

    @torch.no_grad()
    def _predict(self, x: Tensor, through: nn.Module | None = None) -> Tensor:
        parts = []
        for part in torch.split(x, BATCH):
            image = torch.round(through(part) * 255) / 255 if through else part
            parts.append(self._classifier.logits(image).argmax(1))
        return torch.cat(parts)

    def measure(self, purifier: nn.Module) -> dict[str, Any]:
        """Top-1 in [0, 1]: clean, purified clean, and per attack without and with the purifier.

        Against true labels where every photograph's folder names its class; otherwise against the classifier's own
        predictions on the clean photographs, which makes `clean_top1` 1 by definition.
        """
        purifier.eval()

        def top1(x: Tensor, through: nn.Module | None = None) -> float:
            return float((self._predict(x, through) == self._y).float().mean())

        return {
            "n": len(self._x),
            "labels": "true" if self._labelled else "predicted when clean",
            "clean_top1": top1(self._x),
            "purified_clean_top1": top1(self._x, purifier),
            "attacked": {
                name: {"attacked_top1": top1(x_adv), "purified_top1": top1(x_adv, purifier)}
                for name, x_adv in self._attacked.items()
            },
        }


def describe(figures: Mapping[str, Any]) -> str:
    """One line for people: what the held-out figures say."""
    parts = [f"clean {figures['clean_top1']:.1%} -> {figures['purified_clean_top1']:.1%} purified"]
    for name, pair in figures["attacked"].items():
        parts.append(f"{name} {pair['attacked_top1']:.1%} -> {pair['purified_top1']:.1%}")
    return f"{'; '.join(parts)} (top-1, gray-box, n = {figures['n']}, labels: {figures['labels']})"
