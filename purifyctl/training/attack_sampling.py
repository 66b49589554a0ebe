"""Which attack and which budget each image gets, and the attacked images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purifyctl.attacks import Model, make_attack
from purifyctl.config import TrainConfig, TrainingAttack


@dataclass(frozen=True)
class Sampled:
    """What was sampled for each of N images."""

    kind: Tensor  # [N], the number of its attack in the recipe
    eps: Tensor  # [N], budgets in [0, 1]
    attacked: Tensor  # [N], bool; the other images stay clean


def sample_attacks(config: TrainConfig, n: int, growth: float, rng: np.random.Generator) -> Sampled:
    """Sample for each of `n` images its attack, its budget, and whether it is attacked at all.

    `growth`: the share of their budgets, in [0, 1], that attacks through the purifier have now.
    """
    kinds, budgets = sample_kinds(config.attacks, n, rng)
    adaptive = np.array([attack.through == "purifier" for attack in config.attacks])[kinds]
    budgets = np.where(adaptive, budgets * growth, budgets)
    attacked = rng.random(n) >= config.identity_share
    return Sampled(torch.from_numpy(kinds), torch.from_numpy(budgets), torch.from_numpy(attacked))


def sample_kinds(
    attacks: Sequence[TrainingAttack], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of `n` images, the number of its attack and its budget in [0, 1].

    Budgets are whole grey levels, both ends of the recipe's range included: images are 8 bits deep.
    """
    shares = np.array([attack.share for attack in attacks])
    kinds = rng.choice(len(attacks), size=n, p=shares / shares.sum())
    low, high = np.maximum(1, np.floor(np.array([attack.eps for attack in attacks]).T[:, kinds] * 255 + 1e-6))
    return kinds, rng.integers(low.astype(int), high.astype(int), endpoint=True) / 255


def attack_each(
    attacks: Sequence[TrainingAttack],
    sampled: Sampled,
    x: Tensor,
    y: Tensor,
    model_of: Callable[[TrainingAttack], Model],
) -> Tensor:
    """`x`, each image attacked away from its `y` with the attack and the budget that were sampled for it.

    Images are rounded to 8 bits, as files are. Attacks through the purifier are not: their budgets may be smaller
    than one grey level.
    """
    x_adv = x.clone()
    for number, attack in enumerate(attacks):
        of_this = sampled.attacked & (sampled.kind == number)
        files = attack.through == "classifier"
        if attack.record.budget_per_image and of_this.any():
            budget = sampled.eps[of_this].to(x.dtype).view(-1, 1, 1, 1)
            x_adv[of_this] = make_attack(attack, model_of(attack), x[of_this], y[of_this], budget, eight_bit=files)
        elif of_this.any():  # one budget at a time
            for each in sorted(set(sampled.eps[of_this].tolist())):
                these = of_this & (sampled.eps == each)
                x_adv[these] = make_attack(attack, model_of(attack), x[these], y[these], each, eight_bit=files)
    return x_adv
