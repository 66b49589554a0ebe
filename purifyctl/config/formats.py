"""The list of formats that purified images can be written in.

To add a format, add its record: choices, help texts and file names are read from it. Pillow does the writing.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal


@dataclass(frozen=True)
class Format:
    """How images of one format are written."""

    name: str  # as `--format` names it
    endings: tuple[str, ...]  # of file names, in lower case; we write the first one
    lossless: bool  # the file keeps the classified image, bit for bit
    options: Mapping[str, Any]  # of Pillow's `Image.save`


JPEG_QUALITY = 95

FORMATS = (
    # run-length matching: a quarter faster than zlib's default on photographs, and 5 % smaller (docs/benchmarks.md)
    Format("png", (".png",), True, {"format": "PNG", "compress_level": 1, "compress_type": zlib.Z_RLE}),
    Format("webp", (".webp",), True, {"format": "WEBP", "lossless": True, "method": 0, "quality": 0}),
    Format("jpeg", (".jpg", ".jpeg"), False, {"format": "JPEG", "quality": JPEG_QUALITY}),
)
FORMAT = {each.name: each for each in FORMATS}
_names = [each.name for each in FORMATS if each.lossless]
LOSSLESS = f"{', '.join(_names[:-1])} and {_names[-1]}"  # for help texts

if TYPE_CHECKING:
    ImageFormat = str
else:  # the choices of flags are the list's
    ImageFormat = Literal[tuple(FORMAT)]
