"""The gate's network: does an image look attacked?"""

import itertools

import torch
from torch import Tensor, nn


class GateNetwork(nn.Module):
    """The logit that an image was attacked, from what a small blur takes out of it.

    An attack within a budget is noise of a few grey levels, which a photograph's own content drowns; so the network
    sees each pixel's difference from the mean of its 3x3 neighbourhood, in units of 4 grey levels and cut at 8 of
    them: what is more is an edge. From there, 2x2 blocks and three strided convolutions, and of each of the last
    channels its mean and its deviation over the image, so that any size of image will do.

    24 thousand parameters, 21 million multiply-adds at 256x256: a thirtieth of the shipped purifier's.

    Input: RGB NCHW float in [0, 1], height and width multiples of 2. Output: logits [N].
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        widths = (12, width, width * 4 // 3, width * 2)
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.judge = nn.Linear(2 * widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        blurred = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        noise = torch.clamp((x - blurred) * (255 / 4), -2, 2)
        first: Tensor = self.features(nn.functional.pixel_unshuffle(noise, 2).to(self.judge.weight.dtype))
        mean = first.mean(dim=(2, 3))
        deviation = torch.sqrt((first - mean[..., None, None]).square().mean(dim=(2, 3)) + 1e-5)
        logits: Tensor = self.judge(torch.cat([mean, deviation], dim=1))
        return logits.squeeze(1)
