"""The purifier as a torch module: in front of a classifier, or wherever gradients are needed."""

from os import PathLike
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from purifyctl.checkpoint import load_purifier
from purifyctl.errors import InputError
from purifyctl.nn import AnySize
from purifyctl.shipped import shipped_checkpoint

# How far values may lie outside [0, 1]. Bicubic resizing and attacks overshoot by less. Images in [0, 255] or in
# mean/std units overshoot by more, and would be purified to nonsense.
OVERSHOOT = 0.5


class Purifier(AnySize):
    """RGB NCHW float in [0, 1] -> the purified images: same shape, range and type. Differentiable.

    Images may have any height and width. Squares of an engine, up to 256 pixels and a multiple of `multiple`, give
    exactly the network's result. Around other pictures the mirror image is added, and cut off again from the result:
    the network would leave a rim at their edges.

    It is frozen and in eval mode. As long as no parameter requires gradients, it stays in eval mode even if `train()`
    is called on a module that contains it: no dropout, and no batch statistics. To train it, call `requires_grad_()`
    first.

    Parameters
    ----------
    net
        RGB NCHW float in [0, 1] -> the same.
    multiple
        `net` takes heights and widths that are multiples of this number of pixels.

    Examples
    --------
    >>> defended = nn.Sequential(purifyctl.Purifier.from_checkpoint(), classifier)
    >>> logits = defended(x)  # x: RGB NCHW float in [0, 1]
    """

    def __init__(self, net: nn.Module, multiple: int = 1) -> None:
        super().__init__(net, multiple)

    @classmethod
    def from_checkpoint(cls, path: str | PathLike[str] | None = None) -> Self:
        """Load a trained purifier, frozen, on the CPU.

        Parameters
        ----------
        path
            `purifier.safetensors`, or the run folder of `purifyctl train`. None: the shipped purifier.

        Raises
        ------
        WeightsError
            The file is missing or damaged, or is not a purifier checkpoint.
        """
        checkpoint = load_purifier(Path(path) if path is not None else shipped_checkpoint())
        return cls(checkpoint.net, checkpoint.network.size_multiple).eval()

    @property
    def dtype(self) -> torch.dtype:
        """The type of its parameters: float32, unless it was moved to another type."""
        return next((parameter.dtype for parameter in self.parameters()), torch.float32)

    def train(self, mode: bool = True) -> Self:
        """As in any module, except that a frozen purifier stays in eval mode."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def forward(self, x: Tensor) -> Tensor:
        """Purify a batch.

        Parameters
        ----------
        x
            RGB float [N, 3, height, width] in [0, 1], of the purifier's type and on its device.

        Returns
        -------
        Tensor
            The same shape and range. It is not rounded to 8 bits; the output of engines is.

        Raises
        ------
        InputError
            Another shape, integers, or values on another scale. Values are not checked while torch compiles or exports.
        """
        _check(x)
        if not len(x):  # torch's pixel_unshuffle does not take that
            return x
        return super().forward(x)

    def extra_repr(self) -> str:
        return f"multiple={self.multiple}"


def _check(x: Tensor) -> None:
    shape = list(x.shape)
    if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
        raise InputError(f"The purifier takes RGB images [N, 3, height, width]; these are {shape}.")
    if not x.is_floating_point():
        raise InputError(
            f"The purifier takes floats in [0, 1]; these are {_name(x.dtype)}.", hint="x.float() / 255, for uint8"
        )
    if torch.compiler.is_compiling() or not len(x):  # a traced function cannot depend on values
        return
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # written this way, it also refuses NaN
        raise InputError(
            f"The purifier takes values in [0, 1]; these go from {low:.4g} to {high:.4g}.",
            hint="divide by 255, or purify before the images are normalised",
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
