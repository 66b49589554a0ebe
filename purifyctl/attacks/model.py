"""What is attacked: a classifier, or a purifier and a classifier together."""

from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]  # RGB NCHW float in [0, 1] -> logits [N, classes]


def round_straight_through(image: Tensor) -> Tensor:
    """Round to whole grey levels, with the gradient of the identity: rounding's own is 0 (Bengio et al. 2013)."""
    return image + (torch.round(image * 255) / 255 - image).detach()


def behind(net: Model, classifier: Model) -> Model:
    """Purifier and classifier as one model, with the rounding to 8 bits between them.

    The forward pass is exact. The gradient of the rounding is the identity's, so that it masks no other gradient.
    """
    return lambda x: classifier(round_straight_through(net(x)))


def of_rounded(model: Model) -> Model:
    """`model` behind rounding: its images are rounded to 8 bits first."""
    return lambda x: model(round_straight_through(x))
