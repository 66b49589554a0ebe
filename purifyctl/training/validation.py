"""How well a purifier does on held-out photographs, during its training."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from purifyctl.attacks import Model, behind, make_attack
from purifyctl.classifiers import Classifier
from purifyctl.config import AttackConfig, TrainConfig, TrainingAttack, format_eps
from purifyctl.config.picture_options import DEFAULTS, PictureOptions
from purifyctl.errors import ConfigError
from purifyctl.metrics import Share, quality
from purifyctl.photographs import read_all, to_pixels
from purifyctl.sources import ImageFile
from purifyctl.strip import Line, Picture
from purifyctl.training.classifier_view import validation_size, validation_view
from purifyctl.truth import TruthFromFolder

BATCH = 16
ENOUGH_TO_DIFFER = 16  # photographs; a classifier that says the same of this many is not fed as it expects
LINES = 8  # photographs in a picture


class Validation:
    """Held-out photographs, attacked away from the classifier's own predictions.

    `measure` says how a purifier does on them.
    """

    def __init__(
        self,
        config: TrainConfig,
        files: list[ImageFile],
        classifier: Classifier,
        device: torch.device,
        pictures: PictureOptions = DEFAULTS,
    ) -> None:
        """
        Raises
        ------
        ConfigError
            The classifier sees nothing of the photographs: it says the same of them all.
        """
        self._classifier = classifier
        self._view = validation_view(classifier, config)
        self._seed = config.seed
        images, kept = read_all(files[: config.validation_images], validation_size(config), options=pictures)
        self._x = images.to(device)
        truth = TruthFromFolder(classifier.labels)
        known = [truth(image.path) for image in kept]
        self._labelled = all(label is not None for label in known)
        self._predicted = self._predict(self._x)
        if not self._labelled:
            self._check_predictions()
        self._y = torch.tensor(known, device=device) if self._labelled else self._predicted
        self._attacks = {
            f"{attack.name} {format_eps(eps)}{', adaptive' if _through_purifier(attack) else ''}": (attack, eps)
            for attack in config.validation_attacks or config.attacks
            for eps in config.validation_eps
        }
        # what does not depend on the purifier is made once
        self._clean_top1 = float((self._predicted == self._y).float().mean())
        self._attacked = {
            name: self._attack(attack, eps, self._view)
            for name, (attack, eps) in self._attacks.items()
            if not _through_purifier(attack)
        }
        self._made_for = _what_decides(config, classifier)

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        files: list[ImageFile],
        classifier: Classifier,
        pictures: PictureOptions,
        earlier: "Validation | None",
    ) -> "Validation":
        """The validation of a phase: `earlier`, that of the phase before, if it attacks the same photographs alike."""
        if earlier and earlier._made_for == _what_decides(config, classifier):
            return earlier
        return cls(config, files, classifier, classifier.mean.device, pictures)

    def _check_predictions(self) -> None:
        said = set(self._predicted.tolist())
        if len(said) == 1 and len(self._predicted) >= ENOUGH_TO_DIFFER:
            name = self._classifier.labels.name(said.pop())
            raise ConfigError(
                f"{self._classifier.name} says {name!r} of all {len(self._predicted)} held-out photographs, so that "
                "there is nothing to attack.",
                hint="check its weights and what it expects (mean, std, input size), or name other --photos",
            )

    def _attack(self, attack: AttackConfig, eps: float, model: Model) -> tuple[Tensor, float]:
        """The attacked photographs in grey levels, uint8 NCHW, and the accuracy on them without a purifier."""
        generator = torch.Generator(self._x.device).manual_seed(self._seed)  # the same at every validation
        batches = zip(torch.split(self._x, BATCH), torch.split(self._predicted, BATCH), strict=True)
        x_adv = torch.cat([make_attack(attack, model, x, y, eps, generator=generator) for x, y in batches])
        return torch.round(x_adv * 255).to(torch.uint8), self._top1(x_adv)

    @torch.no_grad()
    def _logits(self, x: Tensor) -> Tensor:
        return torch.cat([self._view(batch) for batch in torch.split(x, BATCH)])

    def _predict(self, x: Tensor) -> Tensor:
        return self._logits(x).argmax(1)

    def _top1(self, x: Tensor) -> float:
        return float((self._predict(x) == self._y).float().mean())

    def measure(self, purifier: nn.Module) -> tuple[dict[str, Any], list[Line]]:
        """Top-1 in [0, 1]: clean, purified clean, and per attack without and with the purifier; and a few examples.

        It is measured against true labels where every photograph's folder names its class. Otherwise it is measured
        against the classifier's own predictions on the clean photographs, which makes `clean_top1` 1 by definition.
        """
        purifier.eval()
        attacked, lines = {}, []
        each = -(-LINES // len(self._attacks))  # photographs that are shown under each attack
        for name, (attack, eps) in self._attacks.items():
            known = self._attacked.get(name)
            levels, top1 = known or self._attack(attack, eps, behind(purifier, self._view))
            x_adv = levels.float() / 255
            x_pur = _purify(purifier, x_adv)
            attacked[name] = {"attacked_top1": top1, "purified_top1": self._top1(x_pur)}
            lines += self._lines(name, x_adv[:each], x_pur[:each])
        x_pur = _purify(purifier, self._x)
        psnr, ssim = np.mean([quality(a, b) for a, b in zip(to_pixels(x_pur), to_pixels(self._x), strict=True)], axis=0)
        figures = {
            "n": len(self._x),
            "labels": "true" if self._labelled else "predicted when clean",
            "clean_top1": self._clean_top1,
            "purified_clean_top1": self._top1(x_pur),
            "attacked": attacked,
            "psnr": float(psnr),  # dB, of purified against clean photographs; the mean over them
            "ssim": float(ssim),
        }
        return figures, lines[:LINES]

    def _lines(self, attack: str, x_adv: Tensor, x_pur: Tensor) -> list[Line]:
        """The first photographs: clean, attacked, purified."""
        columns = [self._pictures(images) for images in (self._x[: len(x_adv)], x_adv, x_pur)]
        columns[1] = [replace(picture, label=f"{attack}: {picture.label}") for picture in columns[1]]
        return [Line(*pictures) for pictures in zip(*columns, strict=True)]

    def _pictures(self, x: Tensor) -> list[Picture]:
        shares, classes = self._logits(x).softmax(1).max(1)
        pixels = to_pixels(x)
        return [
            Picture(pixels[i], self._classifier.labels.name(int(classes[i])), float(shares[i]), bool(classes[i] == y))
            for i, y in enumerate(self._y[: len(x)])
        ]


def _through_purifier(attack: AttackConfig) -> bool:
    return isinstance(attack, TrainingAttack) and attack.through == "purifier"


def _what_decides(config: TrainConfig, classifier: Classifier) -> tuple[Any, ...]:
    attacks = config.validation_attacks or config.attacks
    return classifier, attacks, config.validation_eps, validation_size(config)


@torch.no_grad()
def _purify(purifier: nn.Module, x: Tensor) -> Tensor:
    """Purified images, rounded to 8 bits as files are."""
    return torch.cat([torch.round(purifier(batch) * 255) / 255 for batch in torch.split(x, BATCH)])


def score(figures: Mapping[str, Any]) -> float:
    """The figure that chooses the best purifier: top-1 of purified images, averaged over clean and every attack."""
    return fmean([figures["purified_clean_top1"], *(pair["purified_top1"] for pair in figures["attacked"].values())])


def describe(figures: Mapping[str, Any]) -> str:
    """One line for people: what the held-out figures say."""
    parts = [f"clean {figures['clean_top1']:.1%} -> {figures['purified_clean_top1']:.1%} purified"]
    for name, pair in figures["attacked"].items():
        parts.append(f"{name} {pair['attacked_top1']:.1%} -> {pair['purified_top1']:.1%}")
    facts = f"top-1, gray-box unless it says adaptive, n = {figures['n']}, labels: {figures['labels']}"
    return f"{'; '.join(parts)} ({facts})"


def comparison(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table: without a purifier, with the one before the training, and with the one after it.

    `before` is empty where the training began with new weights.
    """
    n, seen = after["n"], [figures for figures in (before, after) if figures]
    columns = ["", "no purifier", *["before"] * bool(before), "after"]

    def row(name: str, unpurified: float, *purified: float) -> list[str]:
        return [name, *(str(Share(round(share * n), n)) for share in (unpurified, *purified))]

    rows = [row("clean", after["clean_top1"], *(figures["purified_clean_top1"] for figures in seen))]
    for name, pair in after["attacked"].items():
        rows.append(row(name, pair["attacked_top1"], *(figures["attacked"][name]["purified_top1"] for figures in seen)))
    if "psnr" in after:
        pictures = [f"{f['psnr']:.1f} dB, {f['ssim']:.3f}" if "psnr" in f else "-" for f in seen]
        rows.append(["clean: PSNR, SSIM", "", *pictures])
    return columns, rows
