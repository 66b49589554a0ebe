"""A classifier with its preprocessing inside."""

import copy
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from purifyctl import console
from purifyctl.classifiers.onnx_file import OnnxClassifier
from purifyctl.labels import Labels

SQUARE = 256  # pixels; side of the square that is purified for a classifier without an input size of its own
MULTIPLE = 16  # pixels; the purifier that ships takes multiples of it
SLACK = 8  # pixels; a crop that misses the input's size by no more takes exactly that size, and nothing is resized


class Classifier(nn.Module):
    """A network with its preprocessing: centre crop, resize, normalise.

    Parameters
    ----------
    net
        Normalised RGB NCHW at `input_size` -> logits [N, classes].
    input_size
        Pixels, (height, width) of `net`'s input; None takes images at the size they come in.
    crop_pct
        Share of the image's side that is kept by the centre crop. 0.875 is the usual 224 of 256. A crop that is within
        8 pixels of `input_size` takes exactly that many, because a resize behind a purifier costs much of what it does.
    mean, std
        Per channel, of values in [0, 1].
    fixed
        `net` takes images of `input_size` alone.
    graph
        The ONNX graph that `net` runs or was made from.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        labels: Labels,
        input_size: tuple[int, int] | None = None,
        crop_pct: float = 1.0,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
        fixed: bool = False,
        graph: OnnxClassifier | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self.labels = labels
        self.input_size = input_size
        self.crop_pct = crop_pct
        self.fixed = fixed
        self.graph = graph
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def crop_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of the centre crop of an image of this size."""
        crop = round(height * self.crop_pct), round(width * self.crop_pct)
        own = self.input_size
        if own and all(abs(a - b) <= SLACK and b <= c for a, b, c in zip(crop, own, (height, width), strict=True)):
            return own
        return crop

    def scale_in(self, size: int) -> float:
        """By which factor the crop of a square of `size` pixels is resized to the input: 1 where it is not."""
        return self.input_size[0] / self.crop_of(size, size)[0] if self.input_size else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """RGB NCHW in [0, 1] -> logits."""
        out: Tensor = self.net(self.prepare(x))
        return out

    def prepare(self, x: Tensor) -> Tensor:
        """What `net` gets: cropped, resized, normalised. The usual crop of 256x256, 0.875, is 224x224."""
        height, width = x.shape[-2:]
        crop_h, crop_w = self.crop_of(height, width)
        top, left = (height - crop_h) // 2, (width - crop_w) // 2
        x = x[..., top : top + crop_h, left : left + crop_w]
        if self.input_size and (crop_h, crop_w) != self.input_size:
            x = self._resized(x)
        return self._normalised(x)

    def logits(self, x: Tensor) -> Tensor:
        """Logits of RGB NCHW in [0, 1] at any size: no crop, no resize unless `fixed`. Training crops come this way."""
        x = self._resized(x) if self.fixed and x.shape[-2:] != self.input_size else x
        out: Tensor = self.net(self._normalised(x))
        return out

    def _resized(self, x: Tensor) -> Tensor:
        assert self.input_size is not None
        return nn.functional.interpolate(x, self.input_size, mode="bilinear", align_corners=False)

    def _normalised(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def own_square(classifier: Classifier | None, multiple: int = MULTIPLE) -> int:
    """The side, in pixels, of the square to purify for a classifier: its crop has exactly the size of the input.

    Parameters
    ----------
    classifier
        None, or a classifier that takes any size: the square has 256 pixels, if the purifier can take these.
    multiple
        The purifier takes multiples of this many pixels.
    """
    if classifier is None or classifier.input_size is None:
        return max(1, SQUARE // multiple) * multiple
    side = max(classifier.input_size)
    nearest = math.floor(side / classifier.crop_pct / multiple + 0.5)
    return max(nearest, math.ceil(side / multiple)) * multiple


def fold_batch_norms(classifier: Classifier) -> None:
    """Fold each batch norm into the convolution before it: the same function, with gradients in two thirds of the time.

    The order of layers is taken from their registration, which need not be the order in which they run. So the logits
    are compared, and the network is left unchanged where they differ.
    """
    before = copy.deepcopy(classifier.net)
    for module in list(classifier.net.modules()):
        for (_, first), (name, second) in itertools.pairwise(list(module.named_children())):
            if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)):
                continue
            if first.out_channels == second.num_features:
                fused = fuse_conv_bn_eval(first, second)
                first.weight, first.bias = fused.weight, fused.bias
                activation = getattr(second, "act", nn.Identity().eval())  # timm's norms have one inside
                setattr(module, name, activation)
    x = torch.rand(2, 3, *(classifier.input_size or (224, 224)), generator=torch.Generator().manual_seed(0))
    x = (x - classifier.mean) / classifier.std
    with torch.no_grad():
        expected, got = before(x), classifier.net(x)
    if not torch.allclose(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max())):
        console.detail(f"The batch norms of {classifier.name} are not folded: its layers run in another order.")
        classifier.net = before
