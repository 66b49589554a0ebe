"""FGSM (Goodfellow et al. 2015) and PGD (Madry et al. 2018) under an L-infinity budget."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def fgsm(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float) -> Tensor:
    """One signed gradient step of size `eps` up the cross-entropy of `y`.

    Parameters
    ----------
    model
        RGB NCHW float in [0, 1] -> logits.
    x
        Clean images. NCHW float in [0, 1].
    y
        The labels to move away from. [N] int64.
    eps
        L-infinity budget in [0, 1].
    """
    return _project(x + eps * _loss_gradient(model, x, y).sign(), x, eps)


def pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`steps` signed gradient steps, each projected back into the budget around `x`.

    Parameters are those of `fgsm`, and:

    step_size
        In [0, 1]; by default 2.5 * eps / steps, which can reach the border from anywhere (Madry et al. 2018).
    random_start
        Start from a uniform draw within the budget, taken from `generator`.
    """
    step_size = 2.5 * eps / steps if step_size is None else step_size
    x_adv = x.clone()
    if random_start:
        noise = torch.empty_like(x).uniform_(-eps, eps, generator=generator)
        x_adv = _project(x + noise, x, eps)
    for _ in range(steps):
        x_adv = _project(x_adv + step_size * _loss_gradient(model, x_adv, y).sign(), x, eps)
    return x_adv


def _loss_gradient(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the cross-entropy by the image. Summed, so that each image's gradient is its own."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = nn.functional.cross_entropy(model(x).float(), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def _project(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    return torch.clamp(torch.clamp(x_adv, x - eps, x + eps), 0, 1).detach()
