"""What is attacked: a classifier, or a purifier and a classifier together."""

from collections.abc import Callable
from typing import Any

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


def known_at(model: Model, x: Tensor, logits: Tensor) -> Model:
    """`model`, whose `logits` at `x` are known: the first time that it is asked there, it does not compute them again.

    Parameters
    ----------
    x, logits
        `x` requires a gradient, and `logits` have the graph that leads to it.
    """
    left = [(x, logits)]

    def ask(image: Tensor) -> Tensor:
        if left and torch.equal(image, left[0][0]):
            found: Tensor = _Known.apply(image, *left.pop())
            return found
        return model(image)

    return ask


class _Known(torch.autograd.Function):
    """Logits that were computed from an equal image: their gradient goes through the graph that is there."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, x: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG004
        ctx.known = x, logits
        return logits.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, logits = ctx.known
        return torch.autograd.grad(logits, x, gradient)[0], None, None
