"""The list of formats that purified images can be written in.

To add a format, add its record: choices, help texts and file names are read from it. Pillow does the writing, except
for fast PNG (images/png.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal


@dataclass(frozen=True)
class Format:
    """How images of one format are written."""

    name: str  # as `--format` names it
    endings: tuple[str, ...]  # of file names, in lower case; we write the first one
    lossless: bool  # the file keeps the classified image, bit for bit
    fast: Mapping[str, Any] | None  # options of Pillow's `Image.save` for a quick file; None: images/png.py writes it
    small: Mapping[str, Any] | None = None  # the same for a small file; None: as `fast`
    alpha: bool = False  # it can hold how transparent each pixel is


Compression = Literal["fast", "small"]
JPEG_QUALITY = 95
_WEBP: dict[str, Any] = {"format": "WEBP", "lossless": True}
_JPEG: dict[str, Any] = {"format": "JPEG", "quality": JPEG_QUALITY}

# times and sizes: docs/benchmarks.md
FORMATS = (
    Format("png", (".png",), True, None, {"format": "PNG", "compress_level": 6}, alpha=True),
    Format(
        "webp", (".webp",), True, _WEBP | {"method": 0, "quality": 0}, _WEBP | {"method": 4, "quality": 75}, alpha=True
    ),
    Format("jpeg", (".jpg", ".jpeg"), False, _JPEG, _JPEG | {"optimize": True, "progressive": True}),
)
FORMAT = {each.name: each for each in FORMATS}
_names = [each.name for each in FORMATS if each.lossless]
LOSSLESS = f"{', '.join(_names[:-1])} and {_names[-1]}"  # for help texts


def format_of(name: str) -> Format | None:
    """The format that a file's ending says. None: no format that can be written."""
    return next((each for each in FORMATS if name.lower().endswith(each.endings)), None)


if TYPE_CHECKING:
    ImageFormat = str
else:  # the choices of flags are the list's
    ImageFormat = Literal[tuple(FORMAT)]
