"""Pixels to file bytes."""

import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Lossless formats keep what was classified, to the bit. Timings: docs/benchmarks.md.
_OPTIONS: dict[str, dict[str, Any]] = {
    # run-length matching: a quarter faster than zlib's default on photographs, and 5 % smaller
    "png": {"format": "PNG", "compress_level": 1, "compress_type": zlib.Z_RLE},
    "webp": {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
    "jpeg": {"format": "JPEG", "quality": 95},
}
EXTENSIONS = {"png": (".png",), "webp": (".webp",), "jpeg": (".jpg", ".jpeg")}  # the first is what we write


def encode(image: NDArray[np.uint8], image_format: str) -> memoryview:
    """Encode RGB uint8 HWC as `image_format`: "png" or "webp" (lossless), or "jpeg" (quality 95)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **_OPTIONS[image_format])
    return buffer.getbuffer()
