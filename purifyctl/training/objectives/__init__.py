"""What a purifier learns: one objective for each kind of network.

images      purified images are like the clean ones (unet, residual; redraw as a whole)
redraw      the two parts of a redrawing purifier, each alone
adversarial the discriminator's loss, and the purifier's against it
perceptual  which network's features are compared
"""

from collections.abc import Sequence

import torch

from purifyctl.classifiers import Classifier
from purifyctl.config import TrainConfig
from purifyctl.training.objectives.images import ImageObjective
from purifyctl.training.objectives.objective import Objective, StepData
from purifyctl.training.objectives.redraw import redraw_objective

__all__ = ["Objective", "StepData", "build_objective"]


def build_objective(config: TrainConfig, classifiers: Sequence[Classifier], device: torch.device) -> Objective:
    """What the network of `config` learns in one phase.

    Raises
    ------
    ConfigError
        The recipe's network does not fit the classifiers, or names layers that the perceptual loss cannot compare.
    TrainingError
        The weights for the perceptual loss cannot be loaded.
    """
    if config.network.kind == "redraw":
        return redraw_objective(config, classifiers, device)
    return ImageObjective(config, classifiers, device)
