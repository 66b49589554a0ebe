"""Small pictures inside an HTML page: an input, what was made of it, and the difference."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from purifyctl.errors import ImageError
from purifyctl.run.archives import read_image
from purifyctl.run.plan import Input
from purifyctl.sources import read_file

SIDE = 176  # pixels; twice what they take on the page, for fine screens
GAIN = 8  # differences of a few grey levels are invisible as they are


@dataclass(frozen=True)
class Thumbnails:
    """Pictures as data URIs; where there is none, why."""

    before: str | None
    after: str | None
    change: str | None
    missing: str = ""


def thumbnails(item: Input, folder: Path, size: int, *, unwritten: str, max_pixels: int) -> Thumbnails:
    """Pictures of one input of a run.

    Parameters
    ----------
    size
        The engine's, pixels.
    unwritten
        Why there is no purified image here; empty: there is.
    max_pixels
        Inputs that have come to be larger are not opened.
    """
    missing = []
    before = after = None
    try:
        if isinstance(item.image.file, str):
            raise ImageError("unreadable", "It lies behind a URL, and a report asks no server.")
        before = _square(Image.open(io.BytesIO(read_file(item.image).data)), size, max_pixels)
    except ImageError as error:
        missing.append(f"The input: {error}")
    except Exception as error:  # Pillow's readers raise many kinds
        missing.append(f"The input cannot be opened any more ({type(error).__name__}).")
    if unwritten:
        missing.append(unwritten)
    else:
        try:
            after = Image.open(io.BytesIO(read_image(folder, item.output))).convert("RGB")
        except Exception as error:
            missing.append(f"The purified image cannot be opened any more ({type(error).__name__}).")
    change = None
    if before is not None and after is not None and before.size == after.size:
        moved = np.asarray(after).astype(np.int16) - np.asarray(before)
        change = Image.fromarray(np.clip(128 + GAIN * moved, 0, 255).astype(np.uint8))
    shown = [_data_uri(image) if image else None for image in (before, after, change)]
    return Thumbnails(shown[0], shown[1], shown[2], " ".join(missing))


def _square(image: Image.Image, size: int, max_pixels: int) -> Image.Image:
    """What the engine saw: upright, the square in the middle."""
    if image.width * image.height > max_pixels:
        raise ImageError("too_large", "It has grown.")
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    upright = ImageOps.exif_transpose(image).convert("RGB")
    side = min(upright.size)
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    return upright.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _data_uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
