"""What a checkpoint says of itself: how it was made, for which classifiers, from which photographs."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import purifyctl
from purifyctl.checkpoint import Checkpoint
from purifyctl.config import TrainConfig, to_dict
from purifyctl.sources import ImageFile
from purifyctl.sources.sketch import merge, sketch
from purifyctl.training.phases import PlannedPhase


def about_purifier(
    recipe: TrainConfig,
    so_far: Sequence[PlannedPhase],
    figures: Mapping[str, Any],
    *,
    start: Checkpoint | None,
    weights: Mapping[str, str],
    photographs: str | None,
    device: torch.device,
) -> dict[str, Any]:
    """The metadata of a purifier with these held-out figures.

    Parameters
    ----------
    so_far
        The phases up to the one that made it.
    start
        The purifier that the training started from.
    weights
        The SHA-256 of each classifier's weights, by the classifier's name.
    photographs
        The sketch of all photographs that ever shaped it (`sketch_of`).
    """
    guides = [classifier.name for phase in so_far for classifier in phase.config.classifiers]
    before = start.guided_by if start else []
    return {
        "recipe": to_dict(_without_places(recipe)),
        "phase": so_far[-1].name,
        "step": figures["step"],
        "held_out": dict(figures),
        "versions": {
            "purifyctl": purifyctl.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": str(device),
        "guided_by": list(dict.fromkeys([*before, *guides])),
        "fitted_to": {name: weights[name] for name in dict.fromkeys(guides)},
        "photographs": photographs,
    }


def sketch_of(photographs: Sequence[ImageFile], start: Checkpoint | None) -> str | None:
    """A sketch of all photographs that ever shaped the purifier; None where it started from one that has none."""
    mine = sketch(photographs)
    if start is None:
        return mine
    return merge([mine, start.photographs]) if start.photographs is not None else None


def _without_places(config: TrainConfig) -> TrainConfig:
    """The recipe with the names of files instead of their paths: a checkpoint travels, and folders do not."""

    def name(file: str) -> str:
        return Path(file).name if Path(file).exists() else file

    objective = replace(config.objective, perceptual_weights=name(config.objective.perceptual_weights))
    classifiers = tuple(replace(classifier, weights=name(classifier.weights)) for classifier in config.classifiers)
    return replace(config, photos="", start=name(config.start), classifiers=classifiers, objective=objective)
