"""HEIC, as iPhones write it, with the package of the extra `heic`."""

import io

import numpy as np
import pytest
from PIL import Image

from purifyctl.config.picture_options import PictureOptions
from purifyctl.images import Decoder
from purifyctl.images.pillow import decode_picture
from tests import pictures, tiny

pillow_heif = pytest.importorskip("pillow_heif")


def heic(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=100, chroma=444, **options)
    return buffer.getvalue()


def test_heic_is_decoded_upright_and_in_srgb() -> None:
    photo = tiny.photograph((96, 64))
    assert np.abs(decode_picture(heic(photo)).pixels.astype(int) - np.asarray(photo)).mean() < 2
    exif = Image.Exif()
    exif[274] = 6
    with Decoder(size=32, batch_size=1, threads=1) as decoder:
        decoded = decoder.decode([np.frombuffer(heic(photo, exif=exif.tobytes()), np.uint8)])
    assert (decoded.sizes, decoded.facts[0].decoder) == ([(96, 64)], "pillow")


def test_transparent_heic_lies_on_the_background() -> None:
    found = decode_picture(heic(pictures.in_mode("RGBA").resize((64, 64))), PictureOptions(background="black"))
    assert found.kept.alpha is not None
    assert found.pixels[found.kept.alpha == 0].max(initial=0) <= 2
