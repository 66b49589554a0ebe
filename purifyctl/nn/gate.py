"""The gate's network: does an image look attacked?"""

import itertools

import torch
from torch import Tensor, nn


class GateNetwork(nn.Module):
    """The logit that an image was attacked, computed from what a small blur takes out of the image.

    An attack within a budget is noise of a few grey levels, and a photograph's own content is much stronger. So the
    network sees each pixel's difference from the mean of its 3x3 neighbourhood, in units of 4 grey levels. It is cut at
    8 grey levels: a larger difference is an edge. One convolution with fixed weights computes the difference and
    gathers 2x2 blocks, because on a CPU separate steps over all pixels take four times as long as everything else.
    Three strided convolutions follow. The mean and the deviation of each last channel over the image give the logit,
    so that images of any size can be scored.

    24 thousand parameters, 30 million multiply-adds at 256x256: 4 % of the shipped purifier's.

    Input: RGB NCHW float in [0, 1], height and width multiples of 2. Output: logits [N].
    """

    difference: Tensor

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        widths = (12, width, width * 4 // 3, width * 2)
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.judge = nn.Linear(2 * widths[-1], 1)
        # whole numbers: exact in any precision that the network is cast to
        self.register_buffer("difference", _difference(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        noise = nn.functional.conv2d(padded, self.difference.to(x.dtype), stride=2) * (255 / 9 / 4)
        first: Tensor = self.features(torch.clamp(noise, -2, 2).to(self.judge.weight.dtype))
        mean = first.mean(dim=(2, 3))
        deviation = torch.sqrt((first - mean[..., None, None]).square().mean(dim=(2, 3)) + 1e-5)
        logits: Tensor = self.judge(torch.cat([mean, deviation], dim=1))
        return logits.squeeze(1)


def _difference() -> Tensor:
    """Weights of a convolution with stride 2, [3 x 2 x 2, 3, 4, 4], in the order of `pixel_unshuffle`.

    For each value of a 2x2 block it computes nine times the difference from the mean of the 3x3 neighbourhood.
    """
    weight = torch.zeros(3, 2, 2, 3, 4, 4)
    for channel, y, x in itertools.product(range(3), range(2), range(2)):
        weight[channel, y, x, channel, y : y + 3, x : x + 3] -= 1
        weight[channel, y, x, channel, y + 1, x + 1] += 9
    return weight.reshape(12, 3, 4, 4)
