"""Purifiers on pictures of any size."""

import torch
from torch import Tensor, nn


class AnySize(nn.Module):
    """A purifier that takes any height and width: RGB NCHW float in [0, 1] -> the same.

    If a side is not a multiple of `multiple`, the mirror image is added to the right or below, and cut off again from
    the result.
    """

    def __init__(self, net: nn.Module, multiple: int) -> None:
        super().__init__()
        self.net, self.multiple = net, multiple

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            x = x.index_select(-2, _mirrored(height, below, x.device))
            x = x.index_select(-1, _mirrored(width, right, x.device))
        purified: Tensor = self.net(x)
        return purified[..., :height, :width]


def _mirrored(n: int, more: int, device: torch.device) -> Tensor:
    """Indices 0 1 ... n-1, then `more` indices that go back and forth: n-2 n-3 ... 0 1 ... If n is 1: 0 0 0 ..."""
    period = max(2 * (n - 1), 1)
    i = torch.arange(n + more, device=device) % period
    return torch.minimum(i, period - i)
