"""Adversarial examples under an L-infinity budget, through any composition of networks.

`model` maps RGB NCHW float in [0, 1] to logits; what it is made of (classifier, or purifier and classifier together)
decides the threat model. Every attack returns x_adv with |x_adv - x| <= eps and values in [0, 1], detached.

gradient.py     FGSM, BIM, least-likely class, PGD, MI-FGSM, DIM
square.py       Square, which needs no gradients
libraries.py    DeepFool, JSMA, universal perturbation, one pixel, C&W, AutoAttack: the extra "attacks"
"""

import torch
from torch import Tensor

from purifyctl.attacks import libraries
from purifyctl.attacks.gradient import (
    Best,
    Budget,
    Model,
    ascent,
    behind,
    bim,
    dim,
    fgsm,
    least_likely,
    mi_fgsm,
    pgd,
    round_straight_through,
)
from purifyctl.attacks.square import square
from purifyctl.config import AttackConfig, grey_levels

__all__ = [
    "Best",
    "Budget",
    "Model",
    "ascent",
    "behind",
    "bim",
    "dim",
    "fgsm",
    "least_likely",
    "make_attack",
    "mi_fgsm",
    "pgd",
    "round_straight_through",
    "square",
    "within_budget",
]


def make_attack(
    attack: AttackConfig,
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    generator: torch.Generator | None = None,
    eight_bit: bool = True,
) -> Tensor:
    """`x` attacked as `attack` says. Whatever is drawn at random comes from `generator`.

    Parameters
    ----------
    model
        RGB NCHW float in [0, 1] -> logits.
    x
        Clean images. NCHW float in [0, 1]; whole grey levels for `eight_bit`.
    y
        The labels to move away from; for targeted attacks, to move towards. Least-likely ignores them. [N] int64.
    eps
        L-infinity budget in [0, 1]: no value of any image moves by more, whatever norm the attack was made for. For
        gradient attacks also one each, [N, 1, 1, 1].
    generator
        On `x`'s device; None draws from torch's global one.
    eight_bit
        Round the result to whole grey levels, as it would be in a file. The budget is then `eps` cut to whole grey
        levels (at least one), so that rounding cannot leave it.

    Raises
    ------
    MissingDependencyError
        The attack comes from a library that is not installed.
    """
    if eight_bit:
        eps = _whole_levels(eps)
    if attack.restarts == 1:
        return _run(attack, model, x, y, eps, generator, eight_bit)
    best = Best(model, x, y, targeted=attack.targeted, eot=attack.eot)
    for _ in range(attack.restarts):
        best.offer(_run(attack, model, x, y, eps, generator, eight_bit))
    return best.images


def within_budget(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Round to whole grey levels without leaving the budget.

    Parameters
    ----------
    x
        The clean images, in whole grey levels.
    eps
        L-infinity in [0, 1]. Of a budget such as 2.5/255 an 8-bit image can use 2.
    """
    levels = grey_levels(eps)
    change = torch.clamp(torch.round((x_adv - x) * 255), -levels, levels)
    return torch.clamp(torch.round(x * 255 + change), 0, 255) / 255


def _whole_levels(eps: Budget) -> Budget:
    if isinstance(eps, Tensor):
        return torch.floor(eps * 255 + 1e-6).clamp_min(1) / 255
    return max(1, grey_levels(eps)) / 255


def _run(
    attack: AttackConfig,
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    generator: torch.Generator | None,
    eight_bit: bool,
) -> Tensor:
    """One run, without restarts, of what `make_attack` is asked for."""
    steps, eot, targeted = attack.effective_steps, attack.eot, attack.targeted
    match attack.kind:
        case "fgsm":
            x_adv = fgsm(model, x, y, eps, targeted=targeted, eot=eot)
        case "bim":
            x_adv = bim(model, x, y, eps, steps=steps, targeted=targeted, eot=eot)
        case "least-likely":
            x_adv = least_likely(model, x, eps, steps=steps, eot=eot)
        case "pgd":
            x_adv = pgd(model, x, y, eps, steps=steps, targeted=targeted, eot=eot, generator=generator)
        case "mi-fgsm":
            x_adv = mi_fgsm(model, x, y, eps, steps=steps, targeted=targeted, eot=eot)
        case "dim":
            x_adv = dim(model, x, y, eps, steps=steps, targeted=targeted, eot=eot, generator=generator)
        case "square":
            x_adv = square(model, x, y, float(eps), queries=steps, targeted=targeted, generator=generator)
        case _:
            x_adv = libraries.run(attack, model, x, y, float(eps), generator=generator, eight_bit=eight_bit)
    return torch.round(x_adv * 255) / 255 if eight_bit else x_adv
