"""The perceptual loss: L1 between a frozen network's features of two images (Zhang & Sakurai 2021, eq. 5)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, per channel in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Sum over layers k of a_k * mean |V_k(x) - V_k(x_pur)|.

    Parameters
    ----------
    backbone
        Maps RGB NCHW float in [0, 1] to anything; only the outputs of `layers` are used.
    layers
        Modules that `backbone` runs and whose outputs are compared. They are frozen.
    weights
        a_k, one per layer. None: 1 / number of layers each.
    """

    def __init__(
        self, backbone: Callable[[Tensor], object], layers: Sequence[nn.Module], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self._layers = [layer.eval().requires_grad_(False) for layer in layers]
        self._weights = list(weights) if weights else [1 / len(layers)] * len(layers)

    def _run(self, x: Tensor) -> dict[nn.Module, Tensor]:
        features: dict[nn.Module, Tensor] = {}

        def keep(layer: nn.Module, _inputs: object, output: Tensor) -> None:
            features[layer] = output.clone()  # clone: the next layer may be an in-place ReLU

        # hooks only now: the same network may also be the classifier under attack
        hooks = [layer.register_forward_hook(keep) for layer in self._layers]
        try:
            self.backbone(x)
        finally:
            for hook in hooks:
                hook.remove()
        return features

    def forward(self, x: Tensor, x_pur: Tensor) -> Tensor:
        """`x`: clean images (the target); `x_pur`: purified ones. RGB NCHW float in [0, 1]. Returns a scalar."""
        with torch.no_grad():
            target = self._run(x)
        made = self._run(x_pur)
        terms = [
            a * nn.functional.l1_loss(made[layer], target[layer])
            for a, layer in zip(self._weights, self._layers, strict=True)
        ]
        return torch.stack(terms).sum()


class _Normalised(nn.Sequential):
    """A network for ImageNet-normalised images that takes images in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor(IMAGENET_MEAN, device=x.device).view(1, 3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=x.device).view(1, 3, 1, 1)
        x = (x - mean) / std
        for layer in self:
            x = layer(x)
        return x


def vgg_perceptual(
    name: Literal["vgg16", "vgg19"], state: Mapping[str, Tensor] | None, layers: Mapping[str, float] | None = None
) -> PerceptualLoss:
    """The paper's choice, VGG19, or its sibling: all of the convolution, ReLU and pooling layers.

    Parameters
    ----------
    state
        Weights: the network's 3x3 convolutions, in the order of the numbers in their names. The lower ones alone are
        enough: the network is then cut where they end. None: torchvision's are downloaded.
    layers
        a_k by the layer's place in torchvision's `features`, such as {"3": 0.5, "8": 0.5}. None or empty: all, equally.

    Raises
    ------
    ValueError
        The weights are not this network's, or a layer is not among those that have weights.
    """
    from torchvision.models import get_model, get_model_weights

    if state is None:
        state = get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True)
    features: nn.Sequential = get_model(name, weights=None, init_weights=False).features
    convs = [i for i, layer in enumerate(features) if isinstance(layer, nn.Conv2d)]
    kernels = [k for k, v in state.items() if k.endswith(".weight") and v.ndim == 4 and v.shape[-1] == 3]
    kernels.sort(key=lambda name: [int(n) for n in re.findall(r"\d+", name)])  # safetensors files sort 10 before 2
    if not kernels or len(kernels) > len(convs):
        raise ValueError(f"not the convolutions of a {name}")
    for i, kernel in zip(convs, kernels, strict=False):
        bias = state.get(kernel.removesuffix("weight") + "bias")
        if bias is None or state[kernel].shape != features[i].weight.shape:
            raise ValueError(f"not the convolutions of a {name}: {kernel} has shape {list(state[kernel].shape)}")
        features[i].load_state_dict({"weight": state[kernel], "bias": bias})
    end = convs[len(kernels)] if len(kernels) < len(convs) else len(features)
    if unknown := [k for k in layers or () if not (k.isdigit() and int(k) < end)]:
        raise ValueError(f"{name} has no layer {unknown[0]} with weights; they are 0 to {end - 1}")
    last = max(map(int, layers)) + 1 if layers else end
    net = _Normalised(*list(features)[:last])
    net.eval().requires_grad_(False)
    chosen = [net[int(k)] for k in layers] if layers else list(net)
    return PerceptualLoss(net, chosen, list(layers.values()) if layers else None)


def stages(net: nn.Module) -> list[nn.Module]:
    """The layers to compare in an unknown network: the children of its longest nn.Sequential."""
    chains = [list(module) for module in net.modules() if isinstance(module, nn.Sequential)]
    return max(chains, key=len, default=list(net.children()))


@torch.no_grad()
def layers_that_run(backbone: Callable[[Tensor], object], layers: Sequence[nn.Module], x: Tensor) -> list[nn.Module]:
    """The `layers` that can be compared: `backbone` runs them on images like `x`, and they return a tensor."""
    ran: list[nn.Module] = []

    def note(layer: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            ran.append(layer)

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        backbone(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [layer for layer in layers if layer in ran]
