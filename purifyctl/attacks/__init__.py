"""Adversarial examples made with gradients. Each attack is a small function: step, project, clip.

`model` maps RGB NCHW float in [0, 1] to logits; what it is made of (classifier, or purifier and classifier together)
decides the threat model. Every attack returns x_adv with |x_adv - x| <= eps and values in [0, 1].
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from purifyctl.attacks.gradient import fgsm, pgd
from purifyctl.config import AttackConfig

__all__ = ["fgsm", "make_attack", "pgd"]


PGD_STEPS = 10  # where the attack names no number


def make_attack(
    attack: AttackConfig,
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`x` attacked as `attack` says, rounded to 8 bits as it would be in a file.

    The budget is `eps` cut to whole grey levels (at least one), so that rounding cannot leave it. Whatever the attack
    draws at random comes from `generator`.
    """
    eps = max(1, math.floor(eps * 255 + 1e-6)) / 255
    if attack.kind == "fgsm":
        x_adv = fgsm(model, x, y, eps)
    else:
        x_adv = pgd(model, x, y, eps, steps=attack.steps or PGD_STEPS, generator=generator)
    return torch.round(x_adv * 255) / 255
