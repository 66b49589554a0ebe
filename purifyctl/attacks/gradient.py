"""Attacks that follow the gradient's sign under an L-infinity budget.

FGSM (Goodfellow et al. 2015), BIM and least-likely class (Kurakin et al. 2017), PGD (Madry et al. 2018), MI-FGSM
(Dong et al. 2018) and DIM (Xie et al. 2019).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Model = Callable[[Tensor], Tensor]  # RGB NCHW float in [0, 1] -> logits [N, classes]
Budget = float | Tensor  # L-infinity in [0, 1]; one for all images, or one each [N, 1, 1, 1]


def fgsm(model: Model, x: Tensor, y: Tensor, eps: Budget, *, targeted: bool = False, eot: int = 1) -> Tensor:
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
    eot
        Each gradient is the mean over so many passes: expectation over transformation (Athalye et al. 2018), for
        models that are random.
    """
    return project(x + eps * ascent(model, x, y, targeted, eot).sign(), x, eps)


def bim(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int = 10,
    step_size: Budget | None = None,
    targeted: bool = False,
    eot: int = 1,
) -> Tensor:
    """The basic iterative method: `steps` signed gradient steps from `x` itself.

    Parameters are those of `fgsm`, and:

    step_size
        In [0, 1]; by default 1.25 * eps / steps: Kurakin's single grey level, when taken his 1.25 * eps * 255 times.
    """
    step_size = 1.25 * eps / steps if step_size is None else step_size
    return pgd(
        model, x, y, eps, steps=steps, step_size=step_size, random_start=False, targeted=targeted, eot=eot
    )  # fmt: skip


def least_likely(model: Model, x: Tensor, eps: Budget, *, steps: int = 10, eot: int = 1) -> Tensor:
    """BIM towards the class that `model` finds least likely on the clean image. Parameters are those of `bim`."""
    with torch.no_grad():
        y = torch.stack([model(x).softmax(1) for _ in range(eot)]).mean(0).argmin(1)
    return bim(model, x, y, eps, steps=steps, targeted=True, eot=eot)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int = 10,
    step_size: Budget | None = None,
    random_start: bool = True,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`steps` signed gradient steps, each projected back into the budget around `x`.

    Parameters are those of `fgsm`, and:

    step_size
        In [0, 1]; by default 2.5 * eps / steps, which can reach the border from anywhere (Madry et al. 2018).
    random_start
        Start from a uniform draw within the budget, taken from `generator` (on `x`'s device).
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
    steps: int = 10,
    decay: float = 1.0,
    targeted: bool = False,
    eot: int = 1,
) -> Tensor:
    """Steps of eps / steps along the sign of accumulated gradients, which carry over to other classifiers better.

    Parameters are those of `fgsm`, and:

    decay
        What is kept of the accumulated gradient at each step; 1.0 in the paper.
    """
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        gradient = ascent(model, x_adv, y, targeted, eot)
        length = gradient.abs().mean((1, 2, 3), keepdim=True)  # the paper's L1 norm, but for a constant
        momentum = decay * momentum + gradient / length.clamp_min(torch.finfo(length.dtype).tiny)
        x_adv = project(x_adv + eps / steps * momentum.sign(), x, eps)
    return x_adv


def dim(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int = 10,
    probability: float = 0.5,
    smallest: float = 0.9,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """MI-FGSM on randomly shrunk and padded images, against classifiers whose gradients are not known.

    Parameters are those of `mi_fgsm`, and:

    probability
        How often a step sees the image changed; 0.5 in the paper.
    smallest
        Of the shrunk side, relative to the image's. The paper enlarges the canvas, 299 to 330 pixels; here the image
        shrinks by as much inside its own, so that any composition of networks can take it.
    generator
        On `x`'s device.
    """

    def diverse(image: Tensor) -> Tensor:
        if torch.rand((), generator=generator, device=x.device) < probability:
            image = _shrink_and_pad(image, smallest, generator)
        return model(image)

    return mi_fgsm(diverse, x, y, eps, steps=steps, targeted=targeted, eot=eot)


class Best:
    """Per image the best of several attacked versions: one that succeeds before one that does not, then by loss.

    Attributes
    ----------
    images
        The best versions so far; the clean images until one is offered.
    success
        [N] in [0, 1]: the share of `eot` passes in which they succeed; -1 until one is offered.
    """

    def __init__(self, model: Model, x: Tensor, y: Tensor, *, targeted: bool = False, eot: int = 1) -> None:
        """`y`: the labels to move away from; with `targeted`, to move towards. [N] int64."""
        self.images = x.clone()
        self.success = torch.full((len(x),), -1.0, device=x.device)
        self._loss = torch.zeros_like(self.success)
        self._model, self._y, self._targeted, self._eot = model, y, targeted, eot

    @torch.no_grad()
    def offer(self, x_adv: Tensor, at: Tensor | None = None) -> None:
        """Keep what is better of these attacked versions of all images, or of those whose numbers are `at`."""
        at = torch.arange(len(self.images), device=x_adv.device) if at is None else at
        success, loss = self._judge(x_adv, self._y[at])
        better = (success > self.success[at]) | ((success == self.success[at]) & (loss > self._loss[at]))
        chosen = at[better]
        self.images[chosen] = x_adv[better]
        self.success[chosen], self._loss[chosen] = success[better], loss[better]

    def _judge(self, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Per image: share of passes in which the attack succeeds, and the mean loss that it raises."""
        success, loss = torch.zeros(len(y), device=y.device), torch.zeros(len(y), device=y.device)
        for _ in range(self._eot):
            logits = self._model(x_adv).float()
            success += (logits.argmax(1) == y) == self._targeted
            loss += F.cross_entropy(logits, y, reduction="none") * (-1 if self._targeted else 1)
        return success / self._eot, loss / self._eot


def round_straight_through(image: Tensor) -> Tensor:
    """Round to whole grey levels, with the gradient of the identity: rounding's own is 0 (Bengio et al. 2013)."""
    return image + (torch.round(image * 255) / 255 - image).detach()


def behind(net: Model, classifier: Model) -> Model:
    """Purifier and classifier as one model: exact but for the rounding to 8 bits between them, whose gradient is passed
    straight through, so that it masks no other.
    """
    return lambda x: classifier(round_straight_through(net(x)))


def _shrink_and_pad(image: Tensor, smallest: float, generator: torch.Generator | None) -> Tensor:
    """Resize to a random smaller size, and put it at a random place on black, as large as before."""

    def draw(high: int) -> int:
        return int(torch.randint(high + 1, (), generator=generator, device=image.device))

    height, width = image.shape[-2:]
    scale = 1 - draw(1000) / 1000 * (1 - smallest)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = draw(height - h), draw(width - w)
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


def project(x_adv: Tensor, x: Tensor, eps: Budget) -> Tensor:
    """Back into the budget around `x`, and into [0, 1]."""
    return torch.clamp(torch.clamp(x_adv, x - eps, x + eps), 0, 1).detach()
