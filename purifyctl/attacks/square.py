"""The Square attack (Andriushchenko et al. 2020): random squares of the budget's two colours, kept if they help.

It asks for logits only. If it beats an attack with gradients, those gradients are masked.
"""

import math

import torch
from torch import Tensor

from purifyctl.attacks.model import Model

# After each of these numbers of queries, out of 10,000, a square covers half as much of the image (the paper's
# schedule).
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@torch.no_grad()
def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int,
    targeted: bool = False,
    eot: int = 1,
    generator: torch.Generator | None = None,
    share: float = 0.05,
) -> Tensor:
    """Lower each image's margin with up to `steps` queries. An image that is fooled gets no more queries.

    Parameters
    ----------
    model
        RGB NCHW float in [0, 1] -> logits.
    x
        Clean images. NCHW float in [0, 1].
    y
        The labels to move away from; with `targeted`, to move towards. [N] int64.
    eps
        L-infinity budget in [0, 1].
    steps
        The most queries for one image. The pass on the clean image is one of them.
    eot
        Unused: there are no gradients to average.
    generator
        Samples colours and places. On `x`'s device.
    share
        The share of the image's pixels that the first squares cover; 0.05 in the paper, for ImageNet.
    """
    channels, height, width = x.shape[1:]
    best, margin = x.clone(), _margin(model(x), y, targeted)

    def signs(*shape: int) -> Tensor:
        return torch.randint(2, shape, generator=generator, device=x.device) * 2.0 - 1.0

    def places(high: int, count: int) -> Tensor:
        return torch.randint(high + 1, (count, 1, 1, 1), generator=generator, device=x.device)

    rows = torch.arange(height, device=x.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=x.device).view(1, 1, 1, -1)
    for query in range(1, steps):
        active = torch.nonzero(margin >= 0).flatten()
        k = len(active)
        if k == 0:
            break
        clean = x[active]
        if query == 1:
            tried = torch.clamp(clean + eps * signs(k, channels, 1, width), 0, 1)  # vertical stripes
        else:
            side = _side(query, steps, share, height, width)
            top, left = places(height - side, k), places(width - side, k)
            inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
            coloured = torch.clamp(clean + eps * signs(k, channels, 1, 1), 0, 1)
            tried = torch.where(inside, coloured, best[active])
        found = _margin(model(tried), y[active], targeted)
        # the search starts from the stripes, whether they are better or not
        better = found < margin[active] if query > 1 else torch.ones_like(found, dtype=torch.bool)
        best[active[better]], margin[active[better]] = tried[better], found[better]
    return best


def _margin(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """How far the attack is from success, in logits; negative if it has succeeded. [N]"""
    logits = logits.float()
    own = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return other - own if targeted else own - other


def _side(query: int, queries: int, share: float, height: int, width: int) -> int:
    """Side of this query's square, in pixels."""
    halvings = sum(query / queries * 10_000 > step for step in _HALVED_AT)
    side = round(math.sqrt(share / 2**halvings * height * width))
    return min(max(side, 1), height, width)
