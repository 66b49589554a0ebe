"""Pictures inside an HTML page: an input, what was made of it, and the difference."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl.errors import BackendError, ImageError
from purifyctl.images import Decoder
from purifyctl.images.geometry import fit
from purifyctl.report.page import data_uri
from purifyctl.run.archives import read_image
from purifyctl.run.plan import Input
from purifyctl.sources import ImageFile, read_file

SQUARE = 256  # pixels; side of what is shown of whole pictures
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
    return _thumbnails(planned.image, partial(read_image, folder, planned.output), decoder, unwritten)


def attacked_thumbnails(image: ImageFile | None, attacked: Path, decoder: Decoder) -> Thumbnails:
    """Pictures of one input of an attack. `image`: None: it is not there any more."""
    return _thumbnails(image, attacked.read_bytes, decoder, "")


def _thumbnails(
    image: ImageFile | None, read_made: Callable[[], bytes], decoder: Decoder, unwritten: str
) -> Thumbnails:
    missing = []
    before = after = None
    try:
        if image is None:
            raise ImageError("unreadable", "It is not there any more.")
        before = _decoded(image, decoder)
    except (ImageError, BackendError) as error:
        missing.append(f"The input: {error}")
    if unwritten:
        missing.append(unwritten)
    else:
        try:
            made = Image.open(io.BytesIO(read_made()))
            side = before.shape[0] if before is not None else SQUARE
            after = np.asarray(made.convert("RGB") if made.size == (side, side) else fit(made, side))
        except Exception as error:  # Pillow's readers raise many kinds
            missing.append(f"The image that was written cannot be opened any more ({type(error).__name__}).")
    change = None
    if before is not None and after is not None and before.shape == after.shape:
        change = np.clip(128 + GAIN * (after.astype(np.int16) - before), 0, 255).astype(np.uint8)
    shown = [data_uri(each) if each is not None else None for each in (before, after, change)]
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
