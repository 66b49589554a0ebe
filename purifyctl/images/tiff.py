"""TIFF files that Pillow does not read, or reads wrong: several floats for each pixel, floats of 16 or 64 bits, 16 bits
in separate planes, some byte orders. The package tifffile reads them; scikit-image needs it, too.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from purifyctl.images.levels import eight_bits

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS = 0, 1, 2, 3, 5  # photometric interpretations
SEPARATE = 2  # a planar configuration
MODES = {WHITE_IS_ZERO: "L", BLACK_IS_ZERO: "L", RGB: "RGB", INKS: "CMYK"}  # Pillow's
MULTIPLIED, ALPHA = 1, 2  # kinds of extra samples: alpha, with colours multiplied by it or not
BITS, PHOTOMETRIC, COMPRESSION, PLANAR, PROFILE = 258, 262, 259, 284, 34675  # tags


def pillow_is_wrong(image: Image.Image) -> bool:
    """Whether Pillow reads this TIFF file's deep values wrong. It takes 16 bits for 8 if they lie in separate planes
    and are not compressed. It swaps the bytes of 32 bits twice if they are compressed.
    """
    tags: Any = getattr(image, "tag_v2", {})
    compressed = tags.get(COMPRESSION, 1) != 1
    if max(tags.get(BITS, (8,))) <= 8:
        return False
    planes, swapped = tags.get(PLANAR) == SEPARATE, tags.prefix == b"MM" and image.mode in ("I", "F")
    return swapped if compressed else planes


def size_of_tiff(data: NDArray[np.uint8]) -> tuple[int, int]:
    """(width, height) of the first page. Raises what tifffile raises on damaged headers."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data.data)) as file:
        page = file.pages[0]
        return int(page.imagewidth), int(page.imagelength)


def read_tiff(data: NDArray[np.uint8]) -> Image.Image:
    """The first page, at 8 bits: mode L, LA, La, RGB, RGBA or RGBa. Raises what tifffile raises on damaged files, and
    ValueError for pages that are not grey or RGB.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data.data)) as file:
        page = file.pages[0]
        tags = {tag.code: tag.value for tag in page.tags}
        values: NDArray[Any] = page.asarray(maxworkers=1)
        axes, photometric, extra = page.axes, int(page.photometric), tuple(map(int, page.extrasamples))
        bits, colours_by_index = int(page.bitspersample), page.colormap
    if axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif axes == "YX":
        values = values[..., None]
    elif axes != "YXS":
        raise ValueError(f"a page with the axes {axes}")
    if photometric == PALETTE:
        values, photometric = np.asarray(colours_by_index).T[values[..., 0]], RGB
    if photometric not in MODES:
        raise ValueError(f"photometric interpretation {photometric}")
    shown = eight_bits(values, bits if 8 < bits < 16 else 16)
    mode = MODES[photometric]
    n = len(Image.new(mode, (1, 1)).getbands())
    colours = 255 - shown[..., :n] if photometric == WHITE_IS_ZERO else shown[..., :n]
    if mode != "CMYK" and extra and extra[0] in (MULTIPLIED, ALPHA):
        mode += "A" if extra[0] == ALPHA else "a"
        colours = np.concatenate([colours, shown[..., n : n + 1]], axis=-1)
    height, width = colours.shape[:2]
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(colours).tobytes())
    if isinstance(tags.get(PROFILE), bytes):
        image.info["icc_profile"] = tags[PROFILE]
    image.getexif()[ExifTags.Base.Orientation] = int(tags.get(ExifTags.Base.Orientation, 1))
    return image
