"""A small purifier of our own: it predicts a correction to the image."""

import itertools

import torch
from torch import Tensor, nn


class ResidualPurifier(nn.Module):
    """x + correction(x), by a shallow U-Net that starts from 2x2 pixel blocks.

    The image is first folded losslessly into 2x2 blocks (pixel unshuffle: 12 channels at half resolution). So no layer
    works at full resolution, where most of a network's time would be spent. `depth - 1` stride-2 levels follow, with a
    residual block each on the way down and a lighter one on the way up. Upsampling is a 1x1 convolution and a pixel
    shuffle: every backend runs these at full speed in every precision, but not transposed convolutions. There are no
    normalisation layers: a purified image cannot depend on its batch, and nothing overflows in FP16.

    The last layer starts at zero, so that an untrained purifier returns its input. The last layer of each residual
    block starts at zero too, which speeds up early training (docs/adr/0005).

    At width 32 and depth 4: 0.49 M parameters, 0.67 G multiply-adds at 256x256, a ninth of the paper's U-Net.

    Input and output: RGB NCHW float in [0, 1], height and width multiples of 2**depth. The correction is computed in
    the type of the weights and added in the type of the input. Half precision represents a correction of a few grey
    levels to a hundredth of a grey level, but a pixel only to an eighth (FP16) or to a whole one (BF16).
    """

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        channels = channels_of(width, depth)
        self.stem = nn.Conv2d(12, channels[0], 3, padding=1)
        self.down = nn.ModuleList(levels_down(channels))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(n_in, 4 * n_out, 1), nn.PixelShuffle(2))
            for n_in, n_out in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.merge = nn.ModuleList(ResidualBlock(n, 1) for n in channels[-2:0:-1])
        last = nn.Conv2d(channels[0], 12, 3, padding=1)
        self.head = nn.Sequential(nn.ReLU(), last)
        self.apply(init_weights)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(nn.functional.pixel_unshuffle(x * 2 - 1, 2).to(self.stem.weight.dtype))
        skips = []
        for down in self.down:
            skips.append(h)
            h = down(h)
        for level, up in enumerate(self.up):
            h = up(h) + skips.pop()
            if level < len(self.merge):
                h = self.merge[level](h)
        correction = nn.functional.pixel_shuffle(self.head(h), 2)
        return torch.clamp(x + correction.to(x.dtype), 0, 1)


def channels_of(width: int, depth: int) -> list[int]:
    """The channels of each level of a small network: 32-48-64-96 at width 32 and depth 4."""
    return [width * factor // 2 for factor in (2, 3, 4, 6, 8, 12, 16, 24)[:depth]]


def levels_down(channels: list[int]) -> list[nn.Module]:
    """One layer for each level: from its channels to those of the next, at half the side."""
    return [
        nn.Sequential(nn.ReLU(), nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), ResidualBlock(n_out, 2))
        for n_in, n_out in itertools.pairwise(channels)
    ]


class ResidualBlock(nn.Module):
    """x plus `depth` times (ReLU, 3x3 convolution) of x, at one width."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth)]
        self.layers = nn.Sequential(*(module for conv in convs for module in (nn.ReLU(), conv)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def init_weights(module: nn.Module) -> None:
    """Keep the scale of activations through ReLUs (He et al. 2015); let residual blocks start as the identity."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):  # visited after its convolutions
        *_, weight, _bias = module.layers.parameters()
        nn.init.zeros_(weight)
