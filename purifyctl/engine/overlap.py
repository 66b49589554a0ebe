"""How much the tiles of a picture must overlap: measured with the purifier itself, when its engine is built."""

import torch
from torch import Tensor, nn

from purifyctl.engine.tiles import Tiling, wide_tiling
from purifyctl.photographs import Pixels, to_tensor

PHOTOGRAPHS = 8  # that it is measured on
AGREES = 1.0  # grey level
SHARE = 0.01  # of the pixels may differ by more


def measured_tiling(net: nn.Module, multiple: int, images: Pixels) -> Tiling:
    """The smallest overlap at which tiles agree with the whole picture.

    The middle of each photograph is purified alone, and compared with the middle of the purified photograph. They
    differ near the edges of the middle, and the width of that strip decides. Purifiers that look at the whole picture,
    and those that take no smaller one, get `wide_tiling`.

    Parameters
    ----------
    net
        RGB NCHW float in [0, 1] -> the same; in eval mode.
    multiple
        It takes heights and widths that are multiples of this number of pixels.
    images
        RGB uint8 [n, side, side, 3], at the side of the tiles.
    """
    side = images.shape[1]
    start, length = side // 4 // multiple * multiple, side // 2 // multiple * multiple
    if length < 2 * multiple:
        return wide_tiling(side, multiple)
    x = to_tensor(images[:PHOTOGRAPHS])
    if (weights := next(net.parameters(), None)) is not None:
        x = x.to(weights.device, weights.dtype)
    middle = slice(start, start + length)
    with torch.inference_mode():
        differs = (_levels(net, x)[..., middle, middle] - _levels(net, x[..., middle, middle])).abs().amax(1) > AGREES
    reach = _reach(differs)
    overlap = -(-8 * reach // 3 // multiple) * multiple  # three eighths on each side are a margin, a quarter fades
    overlap = max(overlap, multiple, 4)
    if overlap > side // 4:
        return wide_tiling(side, multiple)
    return Tiling(side, multiple, overlap, overlap // 4)


def _levels(net: nn.Module, x: Tensor) -> Tensor:
    """Purified pictures in whole grey levels."""
    return torch.round(net(x).float() * 255)


def _reach(differs: Tensor) -> int:
    """How far from the edge more than `SHARE` of the pixels differ. differs: bool [N, length, length]."""
    length = differs.shape[-1]
    along = torch.arange(length, device=differs.device)
    along = torch.minimum(along, length - 1 - along)
    distance = torch.minimum(along[:, None], along[None, :])
    far = [d for d in range(length // 2) if differs[:, distance == d].float().mean() > SHARE]
    return max(far, default=-1) + 1
