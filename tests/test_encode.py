"""Purified images become files."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from purifyctl.config.formats import FORMATS, Compression, Format
from purifyctl.images import encode
from purifyctl.images.png import encode_png
from tests import tiny

COMPRESSIONS: tuple[Compression, ...] = ("fast", "small")


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4]), st.integers(0, 2**32 - 1))
def test_a_png_holds_the_pixels_bit_for_bit(height: int, width: int, channels: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    with Image.open(io.BytesIO(encode_png(image))) as opened:
        opened.load()  # checks each chunk's checksum
        assert opened.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        assert (np.asarray(opened).reshape(image.shape) == image).all()


def test_a_png_of_pixels_that_lie_apart_in_memory_is_the_same() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert encode_png(image[::2, ::-1]) == encode_png(np.ascontiguousarray(image[::2, ::-1]))


def test_more_chunks_stand_before_the_pixels_of_a_png() -> None:
    with Image.open(io.BytesIO(encode_png(np.zeros((2, 2, 3), np.uint8), [(b"tEXt", b"Title\0A bird")]))) as opened:
        assert opened.info == {"Title": "A bird"}  # `info` knows only what comes before the pixels
        opened.load()


@pytest.mark.parametrize("record", FORMATS, ids=lambda record: record.name)
def test_small_files_are_smaller_and_lossless_ones_hold_the_same_pixels(record: Format) -> None:
    image = np.asarray(tiny.photograph((256, 256)).convert("RGB"))
    fast, small = (bytes(encode(image, record.name, compression)) for compression in COMPRESSIONS)
    if record.small is not None:  # otherwise both are the same file
        assert len(small) < len(fast)
    if record.lossless:
        for data in (fast, small):
            with Image.open(io.BytesIO(data)) as opened:
                assert (np.asarray(opened) == image).all()
