"""A purifier for attackers who know it: it decides what the image shows, and draws that in its place."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from purifyctl.nn.residual import channels_of, init_weights, levels_down

SIDE = 64  # values; a drawing has this many, and is stretched over the image
PATTERNS = 64  # every drawing is a mixture of these
SHARPNESS = (
    8.0  # factor on the logits: a reader that learned under attack is never sure, and half a pattern says nothing
)


class RedrawPurifier(nn.Module):
    """The pattern of the classes that an image seems to show, and nothing else of the image.

    `read` sees the image averaged over squares of `reduce` pixels and returns logits. `draw` makes the pattern for
    these logits. The classifier behind it then recognises what was drawn. Every attack deceives a frozen classifier. So
    the decision must be made before the classifier sees the image, and nothing else of the image may reach it
    (docs/adr/0017). The two parts can be trained apart.

    The reader has no normalisation layers, so that a purified image does not depend on its batch. At width 48, depth 4
    and reduce 4: 1.9 M parameters, 0.06 G multiply-adds at 256x256.

    Input and output: RGB NCHW float in [0, 1], height and width multiples of 2 * reduce.
    """

    def __init__(self, width: int = 48, depth: int = 4, reduce: int = 4, classes: int = 1000) -> None:
        super().__init__()
        self.reduce = reduce
        channels = channels_of(width, depth)
        self.stem = nn.Conv2d(12, channels[0], 3, padding=1)
        self.down = nn.Sequential(*levels_down(channels))
        self.judge = nn.Linear(channels[-1], classes)
        self.mixture = nn.Linear(classes, PATTERNS, bias=False)
        self.patterns = nn.Linear(PATTERNS, 3 * SIDE**2)
        self.apply(init_weights)
        nn.init.normal_(self.mixture.weight, std=4)  # so that patterns soon stand out
        nn.init.zeros_(self.patterns.weight)
        nn.init.zeros_(self.patterns.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(self.read(x), x.shape[-2:]).to(x.dtype)

    def read(self, x: Tensor) -> Tensor:
        """What the image seems to show: RGB NCHW in [0, 1] -> logits [N, classes]."""
        seen = nn.functional.avg_pool2d(x, self.reduce) * 2 - 1
        h = self.stem(nn.functional.pixel_unshuffle(seen, 2).to(self.stem.weight.dtype))
        logits: Tensor = self.judge(torch.relu(self.down(h)).mean((2, 3)))
        return logits

    def draw(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """The pattern for `logits` [N, classes], `size` (height, width) pixels: RGB NCHW in [0, 1]."""
        belief = (logits * SHARPNESS).softmax(1)
        pattern = torch.sigmoid(self.patterns(self.mixture(belief))).view(-1, 3, SIDE, SIDE)
        return nn.functional.interpolate(pattern, tuple(size), mode="bilinear", align_corners=False)
