"""Which network's features the perceptual loss compares."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from purifyctl.classifiers import Classifier, load_classifier, read_state_dict
from purifyctl.config import ObjectiveConfig, TrainConfig
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.nn.perceptual import PerceptualLoss, layers_that_run, stages, vgg_perceptual


def load_perceptual(
    config: TrainConfig, classifiers: Sequence[Classifier], device: torch.device
) -> list[PerceptualLoss]:
    """The loss to use with each of `classifiers`: their own layers, or the network that the recipe names.

    Empty where the recipe has no perceptual term.

    Raises
    ------
    TrainingError
        The VGG weights cannot be loaded or belong to another network, or a VGG has no such layer.
    ConfigError
        The backbone has no layer of a name in `perceptual_layers`, or none that can be compared.
    """
    objective = config.objective
    name, weights, layers = objective.perceptual_backbone, objective.perceptual_weights, objective.perceptual_layers
    if not objective.perceptual:
        return []
    if name == "classifier":
        return [_loss(c, stages(c.net), (), config, device) for c in classifiers]
    if name in ("vgg16", "vgg19"):
        try:
            # torchvision's download, by either name
            state = None if weights in ("", "IMAGENET1K_V1") else read_state_dict(weights)
            vgg = vgg_perceptual(cast('Literal["vgg16", "vgg19"]', name), state, layers).to(device)
            return [vgg] * len(classifiers)
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"The {name} for the perceptual loss cannot be loaded: {error}.",
                hint="pass --perceptual-weights FILE, or set objective.perceptual_backbone = 'classifier'",
            ) from None
    backbone = load_classifier(name, weights).to(device)
    try:
        named = [backbone.net.get_submodule(layer) for layer in layers]
    except AttributeError as error:
        raise ConfigError(
            f"objective.perceptual_layers: {name} has no such layer: {error}.",
            hint=f"layers of {name}: {', '.join(child for child, _ in backbone.net.named_children())}, ...",
        ) from None
    loss = _loss(backbone, named or stages(backbone.net), list(layers.values()), config, device)
    return [loss] * len(classifiers)


def _loss(
    backbone: Classifier, layers: list[nn.Module], weights: Sequence[float], config: TrainConfig, device: torch.device
) -> PerceptualLoss:
    ran = layers_that_run(backbone.logits, layers, torch.zeros(1, 3, config.image_size, config.image_size).to(device))
    if not ran or (weights and len(ran) < len(layers)):
        raise ConfigError(
            f"{backbone.name} has {len(layers)} layers to compare, but only {len(ran)} run and return a tensor.",
            hint="name others in objective.perceptual_layers",
        )
    return PerceptualLoss(backbone.logits, ran, weights).to(device)


def describe_perceptual(objective: ObjectiveConfig) -> str:
    """Which features were compared, for the model card."""
    if not objective.perceptual:
        return "none"
    layers = ", ".join(f"{k} ({a:g})" for k, a in objective.perceptual_layers.items()) or "all layers, equally"
    if objective.perceptual_backbone == "classifier":
        return "the guiding classifier's own stages, equally"
    return f"{objective.perceptual_backbone} ({objective.perceptual_weights or 'default weights'}): {layers}"
