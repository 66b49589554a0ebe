"""Small pictures inside an HTML page: an input, what was made of it, and the difference."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl.errors import BackendError, ImageError
from purifyctl.images import Decoder
from purifyctl.run.archives import read_image
from purifyctl.run.plan import Input
from purifyctl.sources import ImageFile, read_file

SIDE = 176  # pixels; twice their size on the page, for fine screens
GAIN = 8  # a difference of a few grey levels would be invisible


@dataclass(frozen=True)
class Thumbnails:
    """Pictures as data URIs. `missing` says why one of them is None."""

    before: str | None
    after: str | None
    change: str | None
    missing: str = ""


def thumbnails(planned: Input, folder: Path, decoder: Decoder, *, unwritten: str) -> Thumbnails:
    """Pictures of one input of a run.

    Parameters
    ----------
    decoder
        Of the engine's size: it makes the very pixels that the engine saw, so that only the purifier's change shows.
    unwritten
        Why there is no purified image here; empty: there is one.
    """
    missing = []
    before = after = None
    try:
        before = _decoded(planned.image, decoder)
    except (ImageError, BackendError) as error:
        missing.append(f"The input: {error}")
    if unwritten:
        missing.append(unwritten)
    else:
        try:
            after = np.asarray(Image.open(io.BytesIO(read_image(folder, planned.output))).convert("RGB"))
        except Exception as error:  # Pillow's readers raise many kinds
            missing.append(f"The purified image cannot be opened any more ({type(error).__name__}).")
    change = None
    if before is not None and after is not None and before.shape == after.shape:
        change = np.clip(128 + GAIN * (after.astype(np.int16) - before), 0, 255).astype(np.uint8)
    shown = [_data_uri(image) if image is not None else None for image in (before, after, change)]
    return Thumbnails(shown[0], shown[1], shown[2], " ".join(missing))


def _decoded(image: ImageFile, decoder: Decoder) -> NDArray[np.uint8]:
    """RGB uint8 [size, size, 3]. Raises ImageError."""
    if image.on_this_machine is None:
        raise ImageError("unreadable", "It lies behind a URL, and a report asks no server.")
    decoded = decoder.decode([read_file(image)])
    if decoded.errors:
        raise decoded.errors[0]
    pixels: NDArray[np.uint8] = decoded.images[0]
    return pixels


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    small = Image.fromarray(pixels)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
