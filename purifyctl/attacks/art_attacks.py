"""JSMA, one pixel and the universal perturbation, by the Adversarial Robustness Toolbox (ART).

JSMA and one pixel were published without a bound on the values that they touch: eps = 1 is their original form.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from purifyctl.attacks.budget import project
from purifyctl.attacks.library import AsModule, for_library, logits_of, missing
from purifyctl.attacks.model import Model

CANDIDATES = 10  # the universal perturbation's DeepFool considers this many classes; 10 in the paper


def jsma(
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
    """Raise the two values with the largest saliency by the budget, `steps` times (Papernot et al. 2016).

    Without a target it aims at the likeliest other class. It touches as few values as it can (L0), each by the whole
    budget or as far as the value can go.

    Parameters are those of `purifyctl.attacks.make.AttackFunction`; `eot` is unused.

    Raises
    ------
    MissingDependencyError
        ART is not installed.
    """
    x = x.contiguous()
    with for_library(generator):
        logits = logits_of(model, x)
        classes = logits.shape[1]
        targets = y if targeted else logits.scatter(1, y[:, None], float("-inf")).argmax(1)
        attacked = [
            _raise_values(model, clean, target, eps, steps, classes)
            for clean, target in zip(torch.split(x, 1), targets.tolist(), strict=True)
        ]
        return project(torch.cat(attacked), x, eps)


def _raise_values(model: Model, clean: Tensor, target: int, eps: float, steps: int, classes: int) -> Tensor:
    """JSMA on one image [1, 3, H, W].

    ART works on z in [0, 1], where 0 is the clean image and 1 is every value raised by the budget. So a value that is
    touched goes all the way, and cannot leave the budget.
    """
    room = torch.clamp(clean + eps, max=1) - clean
    classifier = _art(lambda z: model(clean + z * room), clean, classes)
    from art.attacks.evasion import SaliencyMapMethod

    # gamma: share of values touched, above which ART stops; half a step short, so that it stops after `steps`
    gamma = min(1.0, (2 * steps - 1) / clean.numel())
    attack = SaliencyMapMethod(classifier, theta=1.0, gamma=gamma, verbose=False)
    z = attack.generate(np.zeros(clean.shape, np.float32), y=np.array([target]))
    return clean + torch.from_numpy(z).to(clean) * room


def one_pixel(
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
    """Search one pixel's place and colour by differential evolution, for `steps` generations (Su et al. 2019).

    The model sees every candidate cut to the budget. Images on which the search fails stay clean.

    Parameters are those of `purifyctl.attacks.make.AttackFunction`; `eot` is unused.

    Raises
    ------
    MissingDependencyError
        ART is not installed.
    """
    x = x.contiguous()
    with for_library(generator):
        classes = logits_of(model, x).shape[1]
        attacked = [
            _change_a_pixel(model, clean, label, eps, steps, targeted, classes)
            for clean, label in zip(torch.split(x, 1), y.tolist(), strict=True)
        ]
        return project(torch.cat(attacked), x, eps)


def _change_a_pixel(
    model: Model, clean: Tensor, label: int, eps: float, steps: int, targeted: bool, classes: int
) -> Tensor:
    """The one-pixel attack on one image [1, 3, H, W]."""

    def cut(image: Tensor) -> Tensor:
        return torch.clamp(image, clean - eps, clean + eps)

    # the search minimises a probability, as in the paper
    classifier = _art(lambda image: model(cut(image)).softmax(1), clean, classes)
    from art.attacks.evasion import PixelAttack

    attack = PixelAttack(classifier, th=1, es=1, max_iter=steps, targeted=targeted)
    found = torch.from_numpy(attack.generate(clean.cpu().numpy(), y=np.array([label]))).to(clean)
    # ART goes through [0, 255] and back, which leaves float noise on the other pixels
    return torch.where((found - clean).abs() < 1e-5, clean, cut(found))


def universal(
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
    """One perturbation for all of `x`, grown by DeepFool image by image until most are fooled (Moosavi-Dezfooli 2017).

    Up to `steps` passes over the images.

    Parameters are those of `purifyctl.attacks.make.AttackFunction`; `targeted` and `eot` are unused.

    Raises
    ------
    MissingDependencyError
        ART is not installed.
    """
    x = x.contiguous()
    with for_library(generator):
        classifier = _art(model, x, logits_of(model, x).shape[1])
        from art.attacks.evasion import UniversalPerturbation

        attack = UniversalPerturbation(
            classifier,
            attacker="deepfool",
            attacker_params={"nb_grads": CANDIDATES, "verbose": False},
            max_iter=steps,
            eps=eps,
            norm=np.inf,
            delta=0.0,  # otherwise ART stops when 80 % are fooled
            verbose=False,
        )
        x_adv = torch.from_numpy(attack.generate(x.cpu().numpy(), y=y.cpu().numpy())).to(x)
        return project(x_adv, x, eps)


def _art(model: Model, x: Tensor, classes: int) -> Any:
    """`model` as ART wants it."""
    try:
        from art.estimators.classification import PyTorchClassifier
    except ImportError:
        raise missing("adversarial-robustness-toolbox") from None
    return PyTorchClassifier(
        AsModule(model),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )
