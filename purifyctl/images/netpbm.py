"""Two kinds of Netpbm that Pillow does not read: PAM, and PFM in three colours. A short header, then plain values."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl.errors import ImageError
from purifyctl.images.levels import eight_bits

LONGEST = 10_000  # bytes of a header: comments are rare
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of values for each pixel
_PFM = re.compile(rb"PF\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]{1,30})\s")
_PAM_LINE = re.compile(rb"[ \t]*(?:#[^\n]*|([A-Z]+)[ \t]*([^\n]*?)[ \t\r]*)\n")


def read_netpbm(data: NDArray[np.uint8], check_size: Callable[[tuple[int, int]], None]) -> Image.Image:
    """The picture in a PAM file, or in a PFM file of three colours, at 8 bits: mode L, LA, RGB or RGBA.

    Parameters
    ----------
    check_size
        Called with (width, height) before pixels are read. It may raise ImageError.

    Raises
    ------
    ImageError
        "not_an_image": the header is damaged. "unsupported_format": more than four values for each pixel.
        "decode_failed": the file ends early.
    """
    header = data[:LONGEST].tobytes()
    if header.startswith(b"PF"):
        if not (match := _PFM.match(header)):
            raise ImageError("not_an_image", "Its PFM header is damaged.")
        scale = _number(match[3])
        if not math.isfinite(scale) or scale == 0:
            raise ImageError("not_an_image", "Its PFM header is damaged: the scale is no number.")
        order = "<f4" if scale < 0 else ">f4"
        values = _values(data[match.end() :], (int(match[2]), int(match[1]), 3), np.dtype(order), check_size)
        return Image.fromarray(eight_bits(values[::-1].astype(np.float32)))  # the lowest row comes first
    keys, end = _pam_header(header)
    height, width, depth, most = (keys.get(name, 0) for name in (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL"))
    if not end or depth < 1 or not 1 <= most <= 65535:
        raise ImageError("not_an_image", "Its PAM header is damaged.")
    if depth not in MODES:
        raise ImageError(
            "unsupported_format", f"It is PAM with {depth} values for each pixel: convert it to PNG first."
        )
    values = _values(data[end:], (height, width, depth), np.dtype(np.uint8 if most < 256 else ">u2"), check_size)
    shown = ((values.astype(np.uint32) * 255 + most // 2) // most).clip(0, 255).astype(np.uint8)
    return Image.frombytes(MODES[depth], (width, height), shown.tobytes())


def _pam_header(header: bytes) -> tuple[dict[bytes, int], int]:
    """The numbers of a PAM header, and where the pixels begin; 0: it has no end."""
    keys: dict[bytes, int] = {}
    at = header.find(b"\n") + 1
    while line := _PAM_LINE.match(header, at):
        at = line.end()
        if line[1] == b"ENDHDR":
            return keys, at
        if line[1] and line[2].isdigit() and len(line[2]) < 10:
            keys[line[1]] = int(line[2])
    return keys, 0


def _values(
    data: NDArray[np.uint8],
    shape: tuple[int, int, int],
    of: np.dtype[Any],
    check_size: Callable[[tuple[int, int]], None],
) -> NDArray[Any]:
    height, width, _ = shape
    if not height or not width:
        raise ImageError("not_an_image", "Its header is damaged: the picture has no pixels.")
    check_size((width, height))
    n = math.prod(shape) * of.itemsize
    if len(data) < n:
        raise ImageError("decode_failed", f"The file ends early: {1 - len(data) / n:.0%} of its pixels are missing.")
    return data[:n].view(of).reshape(shape)


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
