"""The attacks of a recipe, drawn for each image."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purifyctl.attacks import Model, make_attack
from purifyctl.config import TrainingAttack


def draw(
    attacks: Sequence[TrainingAttack], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of `n` images the number of its attack, and its budget in [0, 1].

    Budgets are whole grey levels, both ends of the recipe's range included: images are 8 bits deep.
    """
    shares = np.array([attack.share for attack in attacks])
    kinds = rng.choice(len(attacks), size=n, p=shares / shares.sum())
    low, high = np.maximum(1, np.floor(np.array([attack.eps for attack in attacks]).T[:, kinds] * 255 + 1e-6))
    return kinds, rng.integers(low.astype(int), high.astype(int), endpoint=True) / 255


def attack_each(
    attacks: Sequence[TrainingAttack],
    kind: Tensor,
    eps: Tensor,
    chosen: Tensor,
    x: Tensor,
    y: Tensor,
    model_of: Callable[[TrainingAttack], Model],
) -> Tensor:
    """`x`, with the `chosen` images attacked away from `y`, each as it was drawn.

    Rounded to 8 bits, as files are; but for attacks through the purifier, whose budgets may be smaller than that.
    """
    x_adv = x.clone()
    for number, attack in enumerate(attacks):
        of_this = chosen & (kind == number)
        files = attack.through == "classifier"
        if attack.record.budget_per_image and of_this.any():
            budget = eps[of_this].to(x.dtype).view(-1, 1, 1, 1)
            x_adv[of_this] = make_attack(attack, model_of(attack), x[of_this], y[of_this], budget, eight_bit=files)
        elif of_this.any():  # one budget at a time
            for each in sorted(set(eps[of_this].tolist())):
                these = of_this & (eps == each)
                x_adv[these] = make_attack(attack, model_of(attack), x[these], y[these], each, eight_bit=files)
    return x_adv


def all_of(x: Tensor) -> Tensor:
    """Every image chosen."""
    return torch.ones(len(x), dtype=torch.bool, device=x.device)
