"""The discriminator: pix2pix's 70x70 PatchGAN (Isola et al. 2017, section 6.1.2)."""

import torch
from torch import Tensor, nn

from purifyctl.nn.unet import init_pix2pix


class PatchDiscriminator(nn.Module):
    """Judges each 70x70 patch of an image, given the attacked image, as clean (high) or purified (low).

    Channels 64-128-256-512-1 at width 64: 2.77 M parameters. Every output logit sees 70x70 pixels of the input.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            *_block(width, width * 2, stride=2),
            *_block(width * 2, width * 4, stride=2),
            *_block(width * 4, width * 8, stride=1),
            nn.Conv2d(width * 8, 1, 4, stride=1, padding=1),
        )
        self.apply(init_pix2pix)

    def forward(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """`x_adv`: the attacked image (the condition); `x`: the clean or purified one. Both NCHW in [0, 1].

        Returns logits, [N, 1, H/8 - 2, W/8 - 2].
        """
        logits: Tensor = self.layers(torch.cat([x_adv, x], dim=1) * 2 - 1)
        return logits


def _block(n_in: int, n_out: int, *, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(n_in, n_out, 4, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2)]
