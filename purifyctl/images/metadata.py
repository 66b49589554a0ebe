"""What a file says about its picture: EXIF, and how the picture has to be turned."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

# What belongs to the file that was read and not to the picture: TIFF's layout, previews, the data of programs. The
# thumbnail (tags 513, 514, and a page of its own) would show the unpurified picture.
OF_THE_FILE = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 340,
     341, 347, 512, 513, 514, 529, 530, 531, 532, 700, 33723, 34377, 34675, 37724, ExifTags.Base.Orientation)
)  # fmt: skip
# Inside EXIF's own directory: colour space, width, height, and the offset of another directory
OF_THE_PIXELS = frozenset((0xA001, 0xA002, 0xA003, 0xA005))
MAKER_NOTE = 37500  # data of the camera's own, often the largest
MOST_EXIF = 65_500  # bytes that fit into a JPEG file


@dataclass(frozen=True)
class Kept:
    """What an output can keep of the file that it was made from."""

    alpha: NDArray[np.uint8] | None = None  # [height, width], 0: transparent; None: nothing is transparent
    background: tuple[int, int, int] = (255, 255, 255)  # RGB, what lay behind transparent pixels
    profile: bytes | None = None  # ICC profile of the pixels; None: there is none, which means sRGB
    exif: bytes | None = None  # without orientation, thumbnail, and what belongs to the file and not to the picture


NOTHING = Kept()


def orientation(image: Image.Image) -> int:
    """How the picture has to be turned, as EXIF or XMP says: 1 to 8. 1: it is upright."""
    with suppress(Exception):  # damaged EXIF, which viewers ignore
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in range(1, 9) else 1
    return 1


def orientation_is_exif(image: Image.Image) -> bool:
    """Whether EXIF alone says how the picture has to be turned, so that a decoder that knows no XMP turns it too."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
    except Exception:
        return False
    return bool(exif.get(ExifTags.Base.Orientation, 1) == orientation(image))


def kept_exif(image: Image.Image) -> bytes | None:
    """EXIF that an output can carry: a copy, in which the orientation is settled."""
    with suppress(Exception):  # damaged EXIF, which viewers ignore
        given, kept = image.getexif(), Image.Exif()
        for tag in set(given) - OF_THE_FILE:
            kept[tag] = _inner(given, tag) if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) else given[tag]
        if kept and len(kept.tobytes()) > MOST_EXIF:
            kept[ExifTags.IFD.Exif].pop(MAKER_NOTE, None)
        written = kept.tobytes() if kept else b""
        return written if 0 < len(written) <= MOST_EXIF else None
    return None


def _inner(exif: Image.Exif, tag: int) -> dict[int, Any]:
    """A directory inside EXIF, without what is no longer true: sizes, colour space, where the next one lies."""
    return {inner: value for inner, value in exif.get_ifd(tag).items() if inner not in OF_THE_PIXELS}
