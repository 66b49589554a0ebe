"""Pictures with more than 8 bits in each value: what a viewer shows of them. Pillow's `convert` clips them at 255."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEEP = ("I", "F")  # the first letters of Pillow's modes with more than 8 bits: I, I;16, I;16B, F, ...
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339  # tags of TIFF
UNSIGNED = 1  # a sample format


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of mode I, I;16 or F as mode L, by `eight_bits`."""
    tags = getattr(image, "tag_v2", {})  # TIFF's
    bits, signed = tags.get(BITS, (32,))[0], tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] != UNSIGNED
    values = np.asarray(image)
    if image.mode == "I" and (bits == 16 or image.format in ("PNG", "PPM")):  # the reader widened them
        values = values.astype(np.int16 if signed else np.uint16)
    elif image.mode == "I" and image.format == "TIFF" and not signed:
        values = values.view(np.uint32)  # Pillow reads them as signed
    shown = eight_bits(values, bits if 8 < bits < 16 else 16)
    return Image.fromarray(255 - shown if tags.get(PHOTOMETRIC) == 0 else shown)


def eight_bits(values: NDArray[Any], bits: int = 16) -> NDArray[np.uint8]:
    """Values of any type, of any shape, as a viewer shows them.

    16 bits are scaled by 255/65535. For 32 bits and floats no file says what white is, and the values decide. They were
    written as [0, 1], as 8 bits, or as 16 bits, if they fit there. Otherwise whole numbers without a sign are scaled by
    their type, and of all others the smallest is black and the largest is white. What is not a number is black.

    Parameters
    ----------
    bits
        How many of 16 bits are used: TIFF files may have 12.
    """
    if values.dtype == np.bool_:
        return np.where(values, np.uint8(255), np.uint8(0))
    if values.dtype == np.uint8:
        return values.astype(np.uint8)
    if values.dtype == np.uint16:
        most = 2**bits - 1  # in whole numbers, rounded: v * 255 does not fit into 16 bits
        scaled: NDArray[np.uint32] = (values.astype(np.uint32) * 255 + most // 2) // most
        return scaled.clip(0, 255).astype(np.uint8)
    known = np.where(np.isfinite(values), values, 0).astype(np.float64)
    low, high = float(known.min()), float(known.max())
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        known *= 255
    elif low >= 0 and high <= 255:
        pass
    elif low >= 0 and high <= 65535:
        known /= 257
    elif values.dtype.kind == "u":
        known *= 255 / np.iinfo(values.dtype).max
    else:
        known = (known - low) * (255 / (high - low))
    return known.round().clip(0, 255).astype(np.uint8)
