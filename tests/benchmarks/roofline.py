"""How long a card needs at least for one image: for each convolution, what takes longer, its arithmetic or its memory.

    python -m tests.benchmarks.roofline

It counts multiply-adds and bytes in FP16 of each convolution of the purifiers and their classifiers, as if everything
else (norms, activations, sums) were part of them. The sums are in `scaling.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import ClassifierConfig, NetworkConfig
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.nn import build_purifier
from purifyctl.shipped import shipped_checkpoint

BYTES = 2  # of a number in FP16
BATCH = 64  # images that share one reading of the weights
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Layer:
    """One convolution, for one image."""

    multiply_adds: float
    bytes: float


def layers_of(net: nn.Module, size: int) -> list[Layer]:
    """The convolutions of a network that takes RGB NCHW of `size` pixels."""
    found: list[Layer] = []

    def note(layer: Any, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        weights = layer.weight.numel()
        positions = given[0] if isinstance(layer, nn.ConvTranspose2d) else made
        # each weight is used once for each position of the output, or, if it is transposed, of the input
        places = positions.shape[-1] * positions.shape[-2] if positions.ndim == 4 else 1
        values = given[0].numel() + made.numel() + weights / BATCH
        found.append(Layer(weights * places, BYTES * values))

    hooks = [each.register_forward_hook(note) for each in net.modules() if isinstance(each, LAYERS)]
    with torch.inference_mode():
        net.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return found


def seconds(layers: Sequence[Layer], flop_per_s: float, bytes_per_s: float) -> float:
    """The least time for one image on a card with this arithmetic and this memory."""
    return sum(max(2 * each.multiply_adds / flop_per_s, each.bytes / bytes_per_s) for each in layers)


def chains() -> dict[str, list[Layer]]:
    """Purifier and classifier, by name. The weights of a network do not matter here."""
    lite0 = load_classifier(ClassifierConfig(CLASSIFIER, WEIGHTS)).net
    from torchvision.models import mobilenet_v2

    unet = build_purifier(NetworkConfig(kind="unet", width=64))
    return {
        "shipped": layers_of(load_purifier(shipped_checkpoint()).net, 256) + layers_of(lite0, 224),
        "U-Net-64": layers_of(unet, 256) + layers_of(mobilenet_v2(), 224),
    }


def main() -> None:
    for name, layers in chains().items():
        adds, moved = sum(each.multiply_adds for each in layers), sum(each.bytes for each in layers)
        on_h100 = seconds(layers, 989.5e12, 3.35e12)
        print(
            f"{name}: {adds / 1e9:.3f} G multiply-adds, {moved / 1e6:.1f} MB, {on_h100 * 1e6:.2f} µs on an H100 (SXM)"
        )


if __name__ == "__main__":
    main()
