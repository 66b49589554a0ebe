"""Attacks that follow the gradient's sign under an L-infinity budget.

FGSM (Goodfellow et al. 2015), BIM and least-likely class (Kurakin et al. 2017), PGD (Madry et al. 2018), MI-FGSM
(Dong et al. 2018) and DIM (Xie et al. 2019). All take the arguments of `purifyctl.attacks.make.AttackFunction`; some
have more, which papers and tests set.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from purifyctl.attacks.budget import Budget, project
from purifyctl.attacks.model import Model


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int = 1,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One signed gradient step of size `eps` up the cross-entropy of `y`.

    Parameters
    ----------
    model
        RGB NCHW float in [0, 1] -> logits.
    x
        Clean images. NCHW float in [0, 1].
    y
        The labels to move away from; with `targeted`, to move towards. [N] int64.
    eps
        L-infinity budget in [0, 1], for all images or for each [N, 1, 1, 1].
    steps, generator
        Unused: there is one step, and nothing is random.
    eot
        Each gradient is the mean over this many passes: expectation over transformation (Athalye et al. 2018), for
        models that are random.
    """
    return project(x + eps * ascent(model, x, y, targeted, eot).sign(), x, eps)


def bim(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
    step_size: Budget | None = None,
) -> Tensor:
    """The basic iterative method: `steps` signed gradient steps from `x` itself.

    Parameters are those of `fgsm`, and:

    step_size
        In [0, 1]; by default 1.25 * eps / steps: with Kurakin's 1.25 * eps * 255 steps, each is one grey level.
    """
    step_size = 1.25 * eps / steps if step_size is None else step_size
    return pgd(
        model, x, y, eps, steps=steps, step_size=step_size, random_start=False, targeted=targeted, eot=eot
    )  # fmt: skip


def least_likely(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """BIM towards the class that `model` finds least likely on the clean image.

    Parameters are those of `bim`. `y` and `targeted` are unused: the attack chooses its target itself.
    """
    with torch.no_grad():
        target = torch.stack([model(x).softmax(1) for _ in range(eot)]).mean(0).argmin(1)
    return bim(model, x, target, eps, steps=steps, targeted=True, eot=eot)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
    step_size: Budget | None = None,
    random_start: bool = True,
) -> Tensor:
    """`steps` signed gradient steps, each projected back into the budget around `x`.

    Parameters are those of `fgsm`, and:

    generator
        Samples the random start. On `x`'s device.
    step_size
        In [0, 1]; by default 2.5 * eps / steps, which can reach the border from anywhere (Madry et al. 2018).
    random_start
        Start from a point that is sampled uniformly within the budget.
    """
    step_size = 2.5 * eps / steps if step_size is None else step_size
    x_adv = x.clone()
    if random_start:
        noise = torch.empty_like(x).uniform_(-1, 1, generator=generator)
        x_adv = project(x + eps * noise, x, eps)
    for _ in range(steps):
        x_adv = project(x_adv + step_size * ascent(model, x_adv, y, targeted, eot).sign(), x, eps)
    return x_adv


def mi_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
    decay: float = 1.0,
) -> Tensor:
    """Steps of eps / steps along the sign of accumulated gradients, which transfer better to other classifiers.

    Parameters are those of `fgsm`, and:

    decay
        The share of the accumulated gradient that each step keeps; 1.0 in the paper.
    """
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        gradient = ascent(model, x_adv, y, targeted, eot)
        length = gradient.abs().mean((1, 2, 3), keepdim=True)  # the paper's L1 norm, except for a constant factor
        momentum = decay * momentum + gradient / length.clamp_min(torch.finfo(length.dtype).tiny)
        x_adv = project(x_adv + eps / steps * momentum.sign(), x, eps)
    return x_adv


def dim(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
    probability: float = 0.5,
    smallest: float = 0.9,
) -> Tensor:
    """MI-FGSM on randomly shrunk and padded images; it transfers better to classifiers whose gradients are unknown.

    Parameters are those of `mi_fgsm`, and:

    generator
        Samples sizes and places. On `x`'s device.
    probability
        How often a step sees the image changed; 0.5 in the paper.
    smallest
        The smallest side of a shrunk image, relative to the image's. The paper enlarges the canvas from 299 to 330
        pixels. Here the image shrinks by the same factor inside its own canvas, so that any model can take it.
    """

    def diverse(image: Tensor) -> Tensor:
        if torch.rand((), generator=generator, device=x.device) < probability:
            image = _shrink_and_pad(image, smallest, generator)
        return model(image)

    return mi_fgsm(diverse, x, y, eps, steps=steps, targeted=targeted, eot=eot)


def _shrink_and_pad(image: Tensor, smallest: float, generator: torch.Generator | None) -> Tensor:
    """Resize to a random smaller size, and put the result at a random place on a black canvas of the old size."""

    def sample(high: int) -> int:
        return int(torch.randint(high + 1, (), generator=generator, device=image.device))

    height, width = image.shape[-2:]
    scale = 1 - sample(1000) / 1000 * (1 - smallest)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = sample(height - h), sample(width - w)
    small = F.interpolate(image, (h, w), mode="nearest")
    return F.pad(small, (left, width - w - left, top, height - h - top))


def ascent(model: Model, x: Tensor, y: Tensor, targeted: bool = False, eot: int = 1) -> Tensor:
    """The direction in which the attack gains: up the cross-entropy of `y`, or down where `y` is a target.

    The loss is summed, so that each image's gradient is its own; the gradient is the mean over `eot` passes.
    """
    x = x.detach().requires_grad_(True)
    gradient = torch.zeros_like(x)
    for _ in range(eot):
        with torch.enable_grad():
            loss = F.cross_entropy(model(x).float(), y, reduction="sum")
        gradient += torch.autograd.grad(loss, x)[0]
    return -gradient / eot if targeted else gradient / eot
