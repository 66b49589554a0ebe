"""What stands before the classifier, and the models that an attacker differentiates through.

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
SOFTNESS = 0.1  # width of the gate's decision in an attacker's gradient, in gate scores


@dataclass(frozen=True)
class Defence:
    """One column of the tables."""

    name: str
    apply: Callable[[Tensor], Tensor]  # RGB NCHW float in [0, 1] -> the same, whole grey levels
    net: nn.Module | None = None  # the network in it, if there is one: these can be attacked adaptively
    score: Callable[[Tensor], Tensor] | None = None  # images -> [N]: how likely they were attacked; gated defences only


def classical_defences() -> tuple[Defence, ...]:
    """No defence, and the cheap defences that a purifier has to beat."""
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
    """Purifies the images that the gate flags, and leaves the others unchanged.

    In its gradient the decision is soft. So an attacker who knows everything can work on both ways through: towards an
    image that passes, and towards an image that is misclassified after it was purified.
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
        decision = (score >= self.threshold).to(x.dtype)
        share = decision + (soft - soft.detach())  # the value is the decision's, the gradient is that of `soft`
        correction: Tensor = self.purifier(x) - x
        return x + share.view(-1, 1, 1, 1) * correction


def gated_defence(gate: nn.Module, threshold: float, purifier: nn.Module) -> Defence:
    """A gate in front of a purifier."""
    net = GatedPurifier(gate, threshold, purifier)
    return Defence(GATED, lambda x: eight_bits(net(x)), net, score=net.score)


def bpda_model(net: nn.Module, classifier: Model) -> Model:
    """The exact forward pass; in the backward pass the defence counts as the identity (BPDA, Athalye et al. 2018).

    A defence that hides its gradients can withstand the exact gradient, but not this one.
    """

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            change = eight_bits(net(x)) - x
        return classifier(x + change)

    return forward


def eight_bits(x: Tensor) -> Tensor:
    """The nearest whole grey levels, as a PNG file stores them."""
    return torch.round(torch.clamp(x, 0, 1) * 255) / 255


def _each(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply a change that Pillow makes to each image of a batch."""
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
