"""Random patterns within a budget: what attacks by queries leave, made without a model.

They cost no gradient. So a training can hold many of them, and an evaluation shows what a random change of the same
size does. An attack that does not do better than these is broken.
"""

import torch
from torch import Tensor

from purifyctl.attacks.budget import Budget, project
from purifyctl.attacks.model import Model

LARGEST, SMALLEST = 0.5, 0.02  # side of a square, as a share of the image's shorter side
MOST_SQUARES = 60


@torch.no_grad()
def noise(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Budget,
    *,
    steps: int = 0,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add one pattern to each image, sampled from `PATTERNS`.

    Parameters are those of `purifyctl.attacks.make.AttackFunction`. `model`, `y`, `steps`, `targeted` and `eot` are
    unused.
    """
    chosen = torch.randint(len(PATTERNS), (len(x),), generator=generator, device=x.device).tolist()
    patterns = torch.stack([PATTERNS[n](image, generator) for n, image in zip(chosen, x, strict=True)])
    return project(x + eps * patterns, x, eps)


def _signs(like: Tensor, *shape: int, generator: torch.Generator | None) -> Tensor:
    return torch.randint(2, shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def values(image: Tensor, generator: torch.Generator | None) -> Tensor:
    """+1 or -1 for each value: the texture of FGSM. The image and the pattern are [C, H, W], as in all patterns."""
    return _signs(image, *image.shape, generator=generator)


def uniform(image: Tensor, generator: torch.Generator | None) -> Tensor:
    """A value in [-1, 1] for each value: the random start of PGD."""
    return torch.rand(image.shape, generator=generator, device=image.device, dtype=image.dtype) * 2 - 1


def colour(image: Tensor, generator: torch.Generator | None) -> Tensor:
    """+1 or -1 for each channel: the whole image changes its colour."""
    return _signs(image, len(image), 1, 1, generator=generator).expand_as(image)


def stripes(image: Tensor, generator: torch.Generator | None) -> Tensor:
    """+1 or -1 for each column: the start of the Square attack."""
    return _signs(image, len(image), 1, image.shape[2], generator=generator).expand_as(image)


def squares(image: Tensor, generator: torch.Generator | None) -> Tensor:
    """Stripes under up to `MOST_SQUARES` squares of one colour each: what the Square attack leaves."""
    channels, height, width = image.shape
    pattern = stripes(image, generator).clone()
    count = int(torch.randint(1, MOST_SQUARES + 1, (1,), generator=generator, device=image.device))
    shrinking = torch.linspace(0, 1, count).tolist()  # late squares are small ones, as in the attack
    for share in shrinking:
        side = max(1, round(min(height, width) * LARGEST * (SMALLEST / LARGEST) ** share))
        top = int(torch.randint(height - side + 1, (1,), generator=generator, device=image.device))
        left = int(torch.randint(width - side + 1, (1,), generator=generator, device=image.device))
        pattern[:, top : top + side, left : left + side] = _signs(image, channels, 1, 1, generator=generator)
    return pattern


PATTERNS = (values, uniform, colour, stripes, squares)
