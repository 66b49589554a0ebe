"""DeepFool and C&W, by foolbox. Both look for the nearest boundary; the result is cut to eps."""

from typing import Any

import torch
from torch import Tensor

from purifyctl.attacks.budget import project
from purifyctl.attacks.library import AsModule, for_library, missing
from purifyctl.attacks.model import Model

CW_CONSTANTS = 9  # binary search steps for the constant between distance and loss; as in the authors' code
CANDIDATES = 10  # DeepFool considers the boundaries of this many classes, the likeliest ones; 10 in the paper


def deepfool(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Step to the nearest linearised boundary until past it (Moosavi-Dezfooli et al. 2016), in the L-infinity norm.

    Parameters are those of `purifyctl.attacks.make.AttackFunction`; `targeted` and `eot` are unused.

    Raises
    ------
    MissingDependencyError
        foolbox is not installed.
    """
    x = x.contiguous()  # photographs come channels last
    with for_library(generator):
        foolbox, wrapped = _foolbox(model, x)
        attack = foolbox.attacks.LinfDeepFoolAttack(steps=steps, candidates=CANDIDATES)
        return project(attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=None)[0], x, eps)


def carlini_wagner(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The smallest L2 change that succeeds (Carlini and Wagner 2017). Images on which it fails stay clean.

    Parameters are those of `purifyctl.attacks.make.AttackFunction`. There are `steps` for each of `CW_CONSTANTS`
    constants; `eot` is unused.

    Raises
    ------
    MissingDependencyError
        foolbox is not installed.
    """
    x = x.contiguous()
    with for_library(generator):
        foolbox, wrapped = _foolbox(model, x)
        criterion = foolbox.criteria.TargetedMisclassification(y) if targeted else foolbox.criteria.Misclassification(y)
        attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=CW_CONSTANTS, steps=steps)
        x_adv = attack(wrapped, x, criterion, epsilons=None)[0]
        # if it finds nothing it returns a black image, which it may take for a success
        failed = x_adv.amax((1, 2, 3), keepdim=True) == 0
        return project(torch.where(failed, x, x_adv), x, eps)


def _foolbox(model: Model, x: Tensor) -> tuple[Any, Any]:
    """foolbox, and `model` as it wants it."""
    try:
        import foolbox
    except ImportError:
        raise missing("foolbox") from None
    return foolbox, foolbox.PyTorchModel(AsModule(model), bounds=(0, 1), device=x.device)
