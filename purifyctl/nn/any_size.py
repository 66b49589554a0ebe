"""Purifiers on pictures of any size."""

import torch
from torch import Tensor, nn

SQUARE = 256  # pixels; up to this side, a picture may be the square of an engine
BORDER = 8  # pixels; the shipped purifier's zeros beyond the edge reach 6 pixels into the picture


class AnySize(nn.Module):
    """A purifier that takes any height and width: RGB NCHW float in [0, 1] -> the same.

    Beyond its edges the network reads zeros, and answers with a rim. So the mirror image is added on all sides, and cut
    off again from the result: at least 8 pixels, until each side is a multiple of `multiple`. Pictures of up to 256
    pixels whose sides are multiples are squares of an engine: they are given to the network unchanged.
    """

    def __init__(self, net: nn.Module, multiple: int) -> None:
        super().__init__()
        self.net, self.multiple = net, multiple

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if max(height, width) <= SQUARE and not (height % self.multiple or width % self.multiple):
            purified: Tensor = self.net(x)
            return purified
        x = x.index_select(-2, _mirrored(height, self.multiple, x.device))
        x = x.index_select(-1, _mirrored(width, self.multiple, x.device))
        purified = self.net(x)
        return purified[..., BORDER : BORDER + height, BORDER : BORDER + width]


def _mirrored(n: int, multiple: int, device: torch.device) -> Tensor:
    """Indices ... 2 1, 0 1 ... n-1, n-2 n-3 ... which go back and forth. If n is 1: 0 0 0 ..."""
    period = max(2 * (n - 1), 1)
    more = BORDER + -(n + 2 * BORDER) % multiple
    i = torch.arange(-BORDER, n + more, device=device) % period
    return torch.minimum(i, period - i)
