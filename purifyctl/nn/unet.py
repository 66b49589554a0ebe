"""The paper's generator: the pix2pix U-Net (Isola et al. 2017, section 6.1.1)."""

import torch
from torch import Tensor, nn


class UNetPurifier(nn.Module):
    """U-Net with `depth` stride-2 levels down and up again and a skip connection at each.

    With depth 8 and width 64 this is pix2pix's U-Net-256: 54.4 M parameters, channels 64-128-256-512-512-512-512-512.
    The first three up blocks have dropout (0.5), during training only. Batch norm uses its running statistics in eval
    mode, so a purified image does not depend on its batch.

    Input and output: RGB NCHW float in [0, 1], height and width multiples of 2**depth.
    """

    def __init__(self, width: int = 64, depth: int = 8) -> None:
        super().__init__()
        channels = [width * min(2**level, 8) for level in range(depth)]
        self.down = nn.ModuleList()
        for level, out in enumerate(channels):
            first, last = level == 0, level == depth - 1
            self.down.append(
                _down(3 if first else channels[level - 1], out, activate=not first, norm=not (first or last))
            )
        self.up = nn.ModuleList()
        for level in reversed(range(depth)):
            first, last = level == depth - 1, level == 0
            # from the second up block on, the input is [skip, previous] stacked on the channel axis
            n_in = channels[level] * (1 if first else 2)
            n_out = 3 if last else channels[level - 1]
            self.up.append(_up(n_in, n_out, norm=not last, dropout=len(self.up) < 3))
        self.apply(init_pix2pix)

    def forward(self, x: Tensor) -> Tensor:
        h = x * 2 - 1  # the network works in [-1, 1], and only here
        h = h.to(next(self.parameters()).dtype)
        skips = []
        for down in self.down:
            h = down(h)
            skips.append(h)
        h = self.up[0](skips.pop())
        for up in list(self.up)[1:]:
            h = up(torch.cat([skips.pop(), h], dim=1))
        return (torch.tanh(h.float()) + 1) / 2  # float: bfloat16 has no room for grey levels above 0.5


def _down(n_in: int, n_out: int, *, activate: bool, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if activate else []
    layers.append(nn.Conv2d(n_in, n_out, kernel_size=4, stride=2, padding=1, bias=not norm))
    if norm:
        layers.append(nn.BatchNorm2d(n_out))
    return nn.Sequential(*layers)


def _up(n_in: int, n_out: int, *, norm: bool, dropout: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.ReLU(),
        nn.ConvTranspose2d(n_in, n_out, kernel_size=4, stride=2, padding=1, bias=not norm),
    ]
    if norm:
        layers.append(nn.BatchNorm2d(n_out))
    if dropout:
        layers.append(nn.Dropout(0.5))
    return nn.Sequential(*layers)


def init_pix2pix(module: nn.Module) -> None:
    """pix2pix's initial weights: normal with deviation 0.02."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
