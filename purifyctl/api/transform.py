"""The purifier as a torchvision transform."""

import math
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from purifyctl.api.purifier import Purifier
from purifyctl.engine.overlap import measured_tiling
from purifyctl.engine.tiles import Tiling, purify_whole
from purifyctl.errors import InputError
from purifyctl.images.synthetic import natural_images
from purifyctl.photographs import Pixels, to_pixels, to_tensor

SIDE = 512  # pixels; of the tiles of large pictures
TILES = 2  # that are purified together


class PurifyTransform(v2.Transform):  # type: ignore[misc]
    """Purifies images: for `torchvision.transforms.v2.Compose`, after resizing, before normalising.

    It takes what torchvision's own transforms take: one image, or a sample of tuples, lists and dictionaries that
    contains images. An image is a PIL image of mode RGB; or a tensor, a `tv_tensors.Image` or a `tv_tensors.Video`
    [..., 3, height, width] of uint8 in [0, 255] or floats in [0, 1]. Type, shape and range stay the same. Everything
    else stays untouched: boxes, masks, key points, labels, and plain tensors beside an image.

    Images may have any height and width. PIL images and uint8 are rounded, as `purifyctl run` rounds them; large ones
    are purified in tiles, as with `run --size original`, so that memory stays bounded.

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
            return Image.fromarray(self._pixels(np.array(inpt)))
        if isinstance(inpt, tv_tensors.Image | tv_tensors.Video):
            return tv_tensors.wrap(self._tensor(inpt.as_subclass(Tensor)), like=inpt)
        if isinstance(inpt, tv_tensors.TVTensor):
            return inpt
        return self._tensor(inpt)

    def _tensor(self, image: Tensor) -> Tensor:
        batch = image.reshape(math.prod(image.shape[:-3]), *image.shape[-3:])
        if image.dtype == torch.uint8:
            pictures = (self._pixels(picture) for picture in batch.permute(0, 2, 3, 1).cpu().numpy())
            made = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
            purified = torch.stack(made).to(image.device) if made else batch
        else:
            purified = self._purify(batch).to(image.dtype)
        return purified.reshape(image.shape)

    def _purify(self, batch: Tensor) -> Tensor:
        """RGB NCHW float in [0, 1] -> the same range and shape, in the purifier's type."""
        if batch.is_floating_point():  # the purifier refuses others
            batch = batch.to(self.purifier.dtype)
        purified: Tensor = self.purifier(batch)
        return purified

    def _pixels(self, picture: Pixels) -> Pixels:
        """Purify RGB uint8 [height, width, 3], in tiles if it is large and tiles agree."""
        if max(picture.shape[:2]) > SIDE and (tiling := self._tiling) is not None:
            return purify_whole(picture, tiling, TILES, partial(self._rounded, self.purifier.net))
        purified: Pixels = self._rounded(self.purifier, picture[None])[0]
        return purified

    @torch.no_grad()
    def _rounded(self, net: nn.Module, pictures: Pixels) -> Pixels:
        device = next(self.purifier.parameters(), torch.empty(0)).device
        return to_pixels(net(to_tensor(np.ascontiguousarray(pictures)).to(device, self.purifier.dtype)))

    @cached_property
    def _tiling(self) -> Tiling | None:
        """How large pictures are cut; None: this purifier looks at the whole picture, so they are not cut."""
        multiple = self.purifier.multiple
        side = SIDE // multiple * multiple
        measured = measured_tiling(self.purifier.net, multiple, natural_images(4, side // 2 // multiple * multiple))
        return None if measured.is_wide else replace(measured, side=side)
