"""Purified images are like the clean ones: in their pixels, to a discriminator, to networks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from purifyctl.attacks import Model, behind
from purifyctl.classifiers import Classifier
from purifyctl.config import TrainConfig
from purifyctl.training.classifier_view import classifier_view
from purifyctl.training.objectives.adversarial import purifier_loss
from purifyctl.training.objectives.objective import StepData
from purifyctl.training.objectives.perceptual import load_perceptual


class ImageObjective:
    """The loss terms of `[objective]` that have a weight.

    If `classifier` and `agreement` have no weight, no classifier is run.
    """

    attacks_images = True

    def __init__(self, config: TrainConfig, classifiers: Sequence[Classifier], device: torch.device) -> None:
        self._weights = config.objective
        self._views = [classifier_view(classifier, config) for classifier in classifiers]
        self.perceptual = load_perceptual(config, classifiers, device)  # one for each classifier

    def attacked_through(self, purifier: nn.Module, classifier: Model) -> Model:
        return behind(purifier, classifier)

    def output(self, purifier: nn.Module, data: StepData) -> Tensor:
        """Purified images, RGB NCHW float in [0, 1]."""
        x_pur: Tensor = purifier(data.x_adv)
        return x_pur.float()

    def terms(self, data: StepData, output: Tensor, discriminator: nn.Module | None) -> dict[str, Tensor]:
        weights, x, x_pur, terms = self._weights, data.x, output, {}
        if weights.l1:
            terms["l1"] = nn.functional.l1_loss(x_pur, x)
        if weights.l2:
            terms["l2"] = nn.functional.mse_loss(x_pur, x)
        if weights.identity:
            left_clean = (data.x_adv == x).flatten(1).all(1)
            terms["identity"] = ((x_pur - x).square().flatten(1).mean(1) * left_clean).mean()
        if weights.gan and discriminator is not None:
            terms["gan"] = purifier_loss(discriminator, data.x_adv, x_pur)
        if weights.perceptual:
            terms["perceptual"] = self.perceptual[data.classifier](x, x_pur)
        if weights.classifier or weights.agreement:
            logits = self._views[data.classifier](x_pur).float()
        if weights.classifier:
            terms["classifier"] = nn.functional.l1_loss(logits, data.clean_logits)
        if weights.agreement:
            terms["agreement"] = divergence(logits, data.clean_logits)
        return terms


def divergence(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """KL divergence of predictions from those on the clean images."""
    predicted, clean = logits.log_softmax(1), clean_logits.log_softmax(1)
    return nn.functional.kl_div(predicted, clean, reduction="batchmean", log_target=True)
