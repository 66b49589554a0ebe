"""What stands before the classifier, and what an attacker differentiates through.

A defence maps RGB NCHW float in [0, 1] to the same, in whole grey levels: what is classified is an 8-bit image.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

from purifyctl.attacks import Model
from purifyctl.photographs import to_pixels, to_tensor

JPEG_QUALITY = 75  # with Pillow's chroma subsampling, 4:2:0
BITS = 5  # per channel (Xu et al. 2018, feature squeezing)
MEDIAN = 3  # pixels; side of the window (the same)

NONE, PURIFIER, PIX2PIX, GATED = "no defence", "purifier", "pix2pix", "gated purifier"
SOFTNESS = 0.1  # of the gate's decision as an attacker's gradient sees it, as a score


@dataclass(frozen=True)
class Defence:
    """One column of the tables."""

    name: str
    apply: Callable[[Tensor], Tensor]  # RGB NCHW float in [0, 1] -> the same, whole grey levels
    net: nn.Module | None = None  # the network behind it, where there is one: these can be attacked adaptively
    score: Callable[[Tensor], Tensor] | None = None  # of images, [N]: how likely they were attacked; gated ones only


def classical_defences() -> tuple[Defence, ...]:
    """No defence, and the cheap ones that a purifier has to beat."""
    return (
        Defence(NONE, eight_bits),
        Defence(f"JPEG-{JPEG_QUALITY}", lambda x: _each(x, _jpeg)),
        Defence(f"{BITS} bits", _bit_depth),
        Defence(f"median {MEDIAN}x{MEDIAN}", lambda x: _each(x, _median)),
    )


def network_defence(name: str, net: nn.Module) -> Defence:
    """A network whose output is rounded to 8 bits, as files and engines do."""
    return Defence(name, lambda x: eight_bits(net(x)), net)


class GatedPurifier(nn.Module):
    """Purifies what the gate flags, and leaves the rest as it is.

    Its gradient takes the decision for a soft one, so that an attacker who knows all of it can work on both ways
    through: towards an image that passes, and towards one that is misclassified after it was purified.
    """

    def __init__(self, gate: nn.Module, threshold: float, purifier: nn.Module) -> None:
        super().__init__()
        self.gate, self.threshold, self.purifier = gate, threshold, purifier

    def score(self, x: Tensor) -> Tensor:
        """How likely each image was attacked: [N]."""
        return torch.sigmoid(self.gate(x))

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        soft = torch.sigmoid((score - self.threshold) / SOFTNESS)
        share = (score >= self.threshold).to(x.dtype) + (soft - soft.detach())  # the decision; its gradient is soft's
        correction: Tensor = self.purifier(x) - x
        return x + share.view(-1, 1, 1, 1) * correction


def gated_defence(gate: nn.Module, threshold: float, purifier: nn.Module) -> Defence:
    """A gate in front of a purifier."""
    net = GatedPurifier(gate, threshold, purifier)
    return Defence(GATED, lambda x: eight_bits(net(x)), net, score=net.score)


def bpda_model(net: nn.Module, classifier: Model) -> Model:
    """The same forward pass; backward, the defence counts as the identity (BPDA, Athalye et al. 2018).

    A defence that hides its gradients falls to this and not to the exact gradient.
    """

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            change = eight_bits(net(x)) - x
        return classifier(x + change)

    return forward


def eight_bits(x: Tensor) -> Tensor:
    """The nearest whole grey levels: what an image is after a PNG file."""
    return torch.round(torch.clamp(x, 0, 1) * 255) / 255


def _each(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply what Pillow does to one image to each of a batch."""
    images = np.stack([np.asarray(change(Image.fromarray(image))) for image in to_pixels(x)])
    return to_tensor(images).to(x)


def _jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer)


def _median(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.MedianFilter(MEDIAN))


def _bit_depth(x: Tensor) -> Tensor:
    levels = 2**BITS - 1
    return eight_bits(torch.round(x * levels) / levels)
