"""The perceptual loss: L1 between a frozen network's features of two images (Zhang & Sakurai 2021, eq. 5)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, per channel in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Sum over layers k of a_k * mean |V_k(x) - V_k(x_pur)|, with a_k = 1 / number of layers.

    Parameters
    ----------
    backbone
        Maps RGB NCHW float in [0, 1] to anything; only the outputs of `layers` are used.
    layers
        Modules that `backbone` runs and whose outputs are compared. They are frozen.
    """

    def __init__(self, backbone: Callable[[Tensor], object], layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self._layers = [layer.eval().requires_grad_(False) for layer in layers]

    def _run(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            features.append(output.clone())  # clone: the next layer may be an in-place ReLU

        # hooks only now: the backbone may be at work elsewhere too, as the classifier under attack
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
        terms = [nn.functional.l1_loss(a, b) for a, b in zip(made, target, strict=True)]
        return torch.stack(terms).mean()


class _Normalised(nn.Sequential):
    """A network on ImageNet-normalised images, called with [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor(IMAGENET_MEAN, device=x.device).view(1, 3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=x.device).view(1, 3, 1, 1)
        x = (x - mean) / std
        for layer in self:
            x = layer(x)
        return x


def vgg19_perceptual(state: Mapping[str, Tensor] | None) -> PerceptualLoss:
    """The paper's choice: all of VGG19's convolution, ReLU and pooling layers.

    `state`: VGG19 weights by torchvision's names. The lower layers alone will do: the network is then cut where the
    weights end. None downloads torchvision's.
    """
    from torchvision.models import VGG19_Weights, vgg19

    if state is None:
        state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    features: nn.Sequential = vgg19().features
    convs = [i for i, layer in enumerate(features) if isinstance(layer, nn.Conv2d)]
    have = [i for i in convs if f"features.{i}.weight" in state]
    if not have or have != convs[: len(have)]:
        raise ValueError("not the lower layers of a VGG19 by torchvision's names")
    end = convs[len(have)] if len(have) < len(convs) else len(features)
    kept = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    net = _Normalised(*list(features)[:end])
    net.load_state_dict(kept)
    return PerceptualLoss(net, list(net))


def stages(net: nn.Module) -> list[nn.Module]:
    """The layers to compare in a network that nothing is known of: the children of its longest nn.Sequential."""
    chains = [list(module) for module in net.modules() if isinstance(module, nn.Sequential)]
    return max(chains, key=len, default=list(net.children()))
