"""L-infinity budgets, and how attacked images are kept within them."""

import torch
from torch import Tensor

from purifyctl.config import grey_levels

Budget = float | Tensor  # L-infinity in [0, 1]; one for all images, or one each [N, 1, 1, 1]


def project(x_adv: Tensor, x: Tensor, eps: Budget) -> Tensor:
    """Back into the budget around `x`, and into [0, 1]."""
    return torch.clamp(torch.clamp(x_adv, x - eps, x + eps), 0, 1).detach()


def whole_levels(eps: Budget) -> Budget:
    """The budget in whole grey levels: cut, and at least one."""
    if isinstance(eps, Tensor):
        return torch.floor(eps * 255 + 1e-6).clamp_min(1) / 255
    return max(1, grey_levels(eps)) / 255


def within_budget(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Round to whole grey levels without leaving the budget.

    Parameters
    ----------
    x
        The clean images, in whole grey levels.
    eps
        L-infinity in [0, 1]. An 8-bit image can use 2 grey levels of a budget such as 2.5/255.
    """
    levels = grey_levels(eps)
    change = torch.clamp(torch.round((x_adv - x) * 255), -levels, levels)
    return torch.clamp(torch.round(x * 255 + change), 0, 255) / 255
