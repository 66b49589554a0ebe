"""What a purifier that redraws learns: its two parts, the reader and the drawer, can be trained apart (ADR 17)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from purifyctl.attacks import Model
from purifyctl.classifiers import Classifier
from purifyctl.config import TrainConfig
from purifyctl.errors import ConfigError
from purifyctl.nn import RedrawPurifier
from purifyctl.training.classifier_view import classifier_view
from purifyctl.training.objectives.images import ImageObjective, divergence
from purifyctl.training.objectives.objective import Objective, StepData


def redraw_objective(config: TrainConfig, classifiers: Sequence[Classifier], device: torch.device) -> Objective:
    """The objective of the part that this phase trains. If it trains both parts, it is the objective of images.

    Raises
    ------
    ConfigError
        The network and a classifier do not have the same number of classes.
    """
    _check_classes(config, classifiers)
    if config.learns == "draw":
        return DrawObjective(config, classifiers, device)
    return ReadObjective() if config.learns == "read" else ImageObjective(config, classifiers, device)


class DrawObjective(ImageObjective):
    """To draw what the classifier says of the clean image. Nothing is attacked, and the reader does not learn."""

    attacks_images = False

    def output(self, purifier: nn.Module, data: StepData) -> Tensor:
        """What is drawn, RGB NCHW float in [0, 1]."""
        return _redraw(purifier).draw(data.clean_logits, data.x.shape[-2:]).float()


class ReadObjective:
    """To read from the attacked image what the classifier says of the clean one. Nothing is drawn."""

    attacks_images = True

    def attacked_through(self, purifier: nn.Module, classifier: Model) -> Model:  # noqa: ARG002
        """The reader alone: all that the classifier learns of an image is what was read."""
        return _redraw(purifier).read

    def output(self, purifier: nn.Module, data: StepData) -> Tensor:
        """What is read: logits [N, classes]."""
        return _redraw(purifier).read(data.x_adv).float()

    def terms(self, data: StepData, output: Tensor, discriminator: nn.Module | None) -> dict[str, Tensor]:  # noqa: ARG002
        return {"agreement": divergence(output, data.clean_logits)}


def _redraw(purifier: nn.Module) -> RedrawPurifier:
    assert isinstance(purifier, RedrawPurifier)  # the recipe's network is of this kind
    return purifier


def _check_classes(config: TrainConfig, classifiers: Sequence[Classifier]) -> None:
    for classifier in classifiers:
        blank = torch.zeros(1, 3, config.image_size, config.image_size, device=classifier.mean.device)
        with torch.no_grad():
            n = classifier_view(classifier, config)(blank).shape[1]
        if n != config.network.classes:
            raise ConfigError(
                f"{classifier.name} has {n} classes, network.classes is {config.network.classes}.",
                hint=f"set network.classes = {n} in the recipe",
            )
