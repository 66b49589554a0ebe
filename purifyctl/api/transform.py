"""The purifier as a torchvision transform."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from purifyctl.api.purifier import Purifier
from purifyctl.errors import InputError
from purifyctl.photographs import to_pixels, to_tensor


class PurifyTransform(v2.Transform):  # type: ignore[misc]
    """Purifies images: for `torchvision.transforms.v2.Compose`, after resizing, before normalising.

    It takes what torchvision's own transforms take: one image, or a sample of tuples, lists and dictionaries that
    contains images. An image is a PIL image of mode RGB; or a tensor, a `tv_tensors.Image` or a `tv_tensors.Video`
    [..., 3, height, width] of uint8 in [0, 255] or floats in [0, 1]. Type, shape and range stay the same. Everything
    else stays untouched: boxes, masks, key points, labels, and plain tensors beside an image.

    Images may have any height and width. If they are uint8, the result is rounded, as `purifyctl run` rounds it.

    Parameters
    ----------
    purifier
        None: the shipped purifier.

    Raises
    ------
    InputError
        When called: another mode, shape or type, or values on another scale.

    Examples
    --------
    >>> transform = v2.Compose([v2.Resize(256), v2.CenterCrop(256), purifyctl.PurifyTransform(), v2.ToImage()])
    >>> transform(Image.open("photo.jpg"))
    """

    def __init__(self, purifier: Purifier | None = None) -> None:
        super().__init__()
        self.purifier = purifier if purifier is not None else Purifier.from_checkpoint()

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002 (torchvision calls it so)
        if isinstance(inpt, Image.Image):
            if inpt.mode != "RGB":
                raise InputError(
                    f"The image is of mode {inpt.mode}; the purifier takes RGB.", hint="put v2.RGB() before it"
                )
            purified = self._purify(to_tensor(np.array(inpt)[None]))
            return Image.fromarray(to_pixels(purified)[0])
        if isinstance(inpt, tv_tensors.Image | tv_tensors.Video):
            return tv_tensors.wrap(self._tensor(inpt.as_subclass(Tensor)), like=inpt)
        if isinstance(inpt, tv_tensors.TVTensor):
            return inpt
        return self._tensor(inpt)

    def _tensor(self, image: Tensor) -> Tensor:
        batch = image.reshape(math.prod(image.shape[:-3]), *image.shape[-3:])
        if image.dtype == torch.uint8:
            purified = torch.round(self._purify(batch / 255) * 255).to(torch.uint8)
        else:
            purified = self._purify(batch).to(image.dtype)
        return purified.reshape(image.shape)

    def _purify(self, batch: Tensor) -> Tensor:
        """RGB NCHW float in [0, 1] -> the same range and shape, in the purifier's type."""
        if batch.is_floating_point():  # the purifier refuses others
            batch = batch.to(self.purifier.dtype)
        purified: Tensor = self.purifier(batch)
        return purified
