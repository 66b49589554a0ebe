"""From photographs to the tensors that networks take, and from tensors back to pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from purifyctl.config.picture_options import DEFAULTS, PictureOptions
from purifyctl.config.values import Size
from purifyctl.errors import ConfigError, ImageError
from purifyctl.images import Decoded, Decoder
from purifyctl.images.decode import facts_of
from purifyctl.images.geometry import square
from purifyctl.images.pillow import decode_picture
from purifyctl.sources import ImageFile, read_file

Pixels = NDArray[np.uint8]  # RGB [n, height, width, 3]


@dataclass(frozen=True)
class Read:
    """Some photographs after reading."""

    images: Pixels  # the ones that could be read
    positions: list[int]  # their places in the batch
    errors: dict[int, ImageError]  # by place: why the others could not be read


class WholeDecoder:
    """Decodes one picture at its own size: what `Decoder` does, except that nothing is resized or cut."""

    def __init__(self, options: PictureOptions = DEFAULTS) -> None:
        self._options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def decode(self, files: Sequence[NDArray[np.uint8]]) -> Decoded:
        """Decode the bytes of one file. Nothing in it makes this raise."""
        nothing = np.empty((0, 1, 1, 3), np.uint8)
        if not files:
            return Decoded(nothing, [], [], {})
        (file,) = files
        try:
            picture = decode_picture(file, self._options)
        except ImageError as error:
            return Decoded(nothing, [], [], {0: error})
        return Decoded(picture.pixels[None].copy(), [0], [facts_of(picture)], {})


def open_decoder(
    size: Size, batch_size: int, threads: int = 2, options: PictureOptions = DEFAULTS
) -> Decoder | WholeDecoder:
    """What decodes batches at a size. At "original" a batch is one photograph."""
    if size == "original":
        return WholeDecoder(options)
    return Decoder(size=size, batch_size=batch_size, threads=threads, options=options)


def show_square(net: nn.Module, size: int) -> None:
    """From now on `net` takes pictures of any size, and sees the square in their middle, as an engine does: RGB NCHW
    float in [0, 1]. Gradients pass through.
    """

    def middle(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = given
        height, width = x.shape[-2:]
        if height == width == size:
            return given
        seen = square(height, width, size)
        x = nn.functional.interpolate(x, seen.resized, mode="bilinear", align_corners=False, antialias=True)
        top, left = seen.offset
        return (x[..., top : top + size, left : left + size],)

    net.register_forward_pre_hook(middle)


def read_some(photographs: Sequence[ImageFile], decoder: Decoder | WholeDecoder) -> Read:
    """Read and decode one batch. Nothing in a file makes it raise."""
    data, readable, errors = [], [], {}
    for position, photograph in enumerate(photographs):
        try:
            data.append(read_file(photograph))
            readable.append(position)
        except ImageError as error:
            errors[position] = error
    decoded = decoder.decode(data)
    errors |= {readable[n]: error for n, error in decoded.errors.items()}
    return Read(decoded.images, [readable[n] for n in decoded.positions], errors)


def read_pixels(
    photographs: Sequence[ImageFile], size: int, threads: int = 2, options: PictureOptions = DEFAULTS
) -> tuple[Pixels, list[ImageFile]]:
    """Decode photographs at `size` pixels. Returns the pixels, and the photographs that could be read, in order.

    Raises
    ------
    ConfigError
        None of them could be read.
    """
    images, kept = [], []
    with Decoder(size=size, batch_size=16, threads=threads, options=options) as decoder:
        for start in range(0, len(photographs), 16):
            batch = photographs[start : start + 16]
            read = read_some(batch, decoder)
            images.append(read.images)
            kept += [batch[position] for position in read.positions]
    if not kept:
        raise ConfigError(f"None of {len(photographs)} photographs could be read.", hint="check the folder's files")
    return np.concatenate(images), kept


def read_all(
    photographs: Sequence[ImageFile], size: int, threads: int = 2, options: PictureOptions = DEFAULTS
) -> tuple[Tensor, list[ImageFile]]:
    """`read_pixels` as RGB NCHW float in [0, 1]."""
    images, kept = read_pixels(photographs, size, threads, options)
    return to_tensor(images), kept


def to_tensor(images: np.ndarray) -> Tensor:
    """RGB uint8 NHWC -> RGB NCHW float in [0, 1], channels last in memory, the fastest order on CPUs and GPUs."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32).div_(255)


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """RGB NCHW float in [0, 1] -> RGB uint8 NHWC."""
    pixels = torch.round(x.detach() * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return np.ascontiguousarray(pixels.numpy())
