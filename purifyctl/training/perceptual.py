"""Which network's features the perceptual loss compares."""

from typing import Literal, cast

import torch

from purifyctl.classifiers import load_classifier, read_state_dict
from purifyctl.config import ObjectiveConfig
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.nn.perceptual import PerceptualLoss, stages, vgg_perceptual


def load_perceptual(objective: ObjectiveConfig, device: torch.device) -> PerceptualLoss | None:
    """The loss that the recipe names; None where the classifiers' own layers are to be compared.

    Raises
    ------
    TrainingError
        The VGG weights cannot be had or are another network's.
    ConfigError
        The backbone has no layer of a name in `perceptual_layers`.
    """
    name, weights, layers = objective.perceptual_backbone, objective.perceptual_weights, objective.perceptual_layers
    if not objective.perceptual or name == "classifier":
        return None
    if name in ("vgg16", "vgg19"):
        state = read_state_dict(weights) if weights else None
        try:
            return vgg_perceptual(cast('Literal["vgg16", "vgg19"]', name), state, layers).to(device)
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"The {name} for the perceptual loss cannot be had: {error}.",
                hint="pass --perceptual-weights FILE, or set objective.perceptual_backbone = 'classifier'",
            ) from None
    backbone = load_classifier(name, weights).to(device)
    try:
        chosen = [backbone.net.get_submodule(layer) for layer in layers] or stages(backbone.net)
    except AttributeError as error:
        raise ConfigError(
            f"objective.perceptual_layers: {name} has no such layer: {error}.",
            hint=f"layers of {name}: {', '.join(name for name, _ in backbone.net.named_children())}, ...",
        ) from None
    return PerceptualLoss(backbone.logits, chosen, list(layers.values())).to(device)


def describe_perceptual(objective: ObjectiveConfig) -> str:
    """Which features were compared, for the model card."""
    if not objective.perceptual:
        return "none"
    layers = ", ".join(f"{k} ({a:g})" for k, a in objective.perceptual_layers.items()) or "all layers, equally"
    weights = objective.perceptual_weights or "default download"
    if objective.perceptual_backbone == "classifier":
        return "the guiding classifier's own stages, equally"
    return f"{objective.perceptual_backbone} ({weights}): {layers}"
