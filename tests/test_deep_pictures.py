"""Pictures with more than 8 bits in each value, and TIFF in all its layouts: as a viewer shows them."""

import io
import itertools
import struct

import numpy as np
import pytest
import tifffile

from purifyctl.errors import ImageError
from purifyctl.images.pillow import decode_picture
from tests import pictures
from tests.pictures import ALPHA, GREY, RGB, grey_rgb

DEEP = GREY.astype(np.uint16) * 257


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


LAYOUTS = [
    {"byteorder": order, "compression": compression, "bigtiff": big}
    for order, compression, big in itertools.product("<>", (None, "zlib"), (False, True))
]
VALUES = {
    "8 bits": (RGB, RGB),
    "16 bits": (RGB.astype(np.uint16) * 257, RGB),
    "floats": (RGB.astype(np.float32) / 255, RGB),
    "opaque alpha": (np.dstack([RGB, np.full_like(GREY, 255)]), RGB),
}
GREYS = {
    "8 bits": (GREY, {}),
    "8 bits, white is zero": (255 - GREY, {"photometric": "miniswhite"}),
    "16 bits": (DEEP, {}),
    "16 bits, white is zero": (65535 - DEEP, {"photometric": "miniswhite"}),
    "32 bits, all used": (GREY.astype(np.uint32) * 16843009, {}),
    "32 bits that hold 16": (DEEP.astype(np.uint32), {}),
    "32 bits that hold 8": (GREY.astype(np.uint32), {}),
    "floats from 0 to 1": (GREY.astype(np.float32) / 255, {}),
    "floats from 0 to 255": (GREY.astype(np.float32), {}),
    "floats from 0 to 65535": (DEEP.astype(np.float32), {}),
    "double floats": (GREY.astype(np.float64) / 255, {}),
    "half floats": ((GREY / 255).astype(np.float16), {}),
}


def check(data: bytes, truth: np.ndarray) -> None:
    found = decode_picture(data)
    assert found.pixels.shape == truth.shape
    assert np.abs(found.pixels.astype(int) - truth).mean() <= 1, found.decoder


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_tiff_is_shown_in_every_byte_order_and_planar_layout(layout: dict[str, object]) -> None:
    for (values, truth), planes, tile in itertools.product(VALUES.values(), ("contig", "separate"), (None, (16, 16))):
        extra = {"extrasamples": "unassalpha"} if values.shape[-1] == 4 else {}
        stored = values if planes == "contig" else np.ascontiguousarray(values.transpose(2, 0, 1))
        check(tiff(stored, photometric="rgb", planarconfig=planes, tile=tile, **extra, **layout), truth)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_grey_tiff_is_shown_at_every_depth(layout: dict[str, object]) -> None:
    for values, options in GREYS.values():
        check(tiff(values, **({"photometric": "minisblack"} | options), **layout), grey_rgb(GREY))
    black = GREY > 128
    check(tiff(black, photometric="minisblack", **layout), grey_rgb(black.astype(np.uint8) * 255))
    check(tiff(black, photometric="miniswhite", **layout), grey_rgb((~black).astype(np.uint8) * 255))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_inks_palettes_and_alpha_in_tiff_are_shown(layout: dict[str, object]) -> None:
    inks = pictures.in_mode("CMYK")
    check(
        tiff(np.asarray(inks), photometric="separated", planarconfig="contig", **layout),
        np.asarray(inks.convert("RGB")),
    )
    indexed = pictures.in_mode("P")
    colours = np.zeros((3, 256), np.uint16)
    listed = np.array(indexed.getpalette()).reshape(-1, 3)
    colours[:, : len(listed)] = listed.T * 257
    check(
        tiff(np.asarray(indexed), photometric="palette", colormap=colours, **layout), np.asarray(indexed.convert("RGB"))
    )
    seen = pictures.shown(pictures.encoded(pictures.in_mode("RGBA"), "PNG"))
    assert seen is not None
    straight = np.dstack([RGB, np.asarray(ALPHA)])
    check(tiff(straight, photometric="rgb", extrasamples="unassalpha", **layout), seen)
    multiplied = np.dstack([(RGB * (np.asarray(ALPHA)[..., None] / 255)).round().astype(np.uint8), np.asarray(ALPHA)])
    check(tiff(multiplied, photometric="rgb", extrasamples="assocalpha", **layout), seen)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_as_its_tag_says(orientation: int) -> None:
    truth = np.asarray(pictures.oriented(pictures.BASE, orientation))
    tag = [(274, 3, 1, orientation, True)]
    check(tiff(RGB, photometric="rgb", extratags=tag), truth)
    check(tiff(RGB.astype(np.float32) / 255, photometric="rgb", extratags=tag), truth)  # which Pillow does not read


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000"):
        check(pictures.encoded(pictures.in_mode("I;16"), kind), grey_rgb(GREY))
    dark = np.full((4, 4), 200, np.uint16)  # of 65535: nearly black, whatever the range
    for data in (tiff(dark, photometric="minisblack"), b"P5 4 4 65535\n" + dark.astype(">u2").tobytes()):
        assert decode_picture(data).pixels.max() == 1


def test_sixteen_bits_in_three_colours_are_scaled() -> None:
    deep = (RGB.astype(">u2") * 257).tobytes()
    check(b"P6 40 28 65535\n" + deep, RGB)
    rows = np.concatenate([np.zeros((28, 1), np.uint8), np.frombuffer(deep, np.uint8).reshape(28, -1)], axis=1)
    check(png(16, 2, rows), RGB)


def png(bits: int, colours: int, rows: np.ndarray) -> bytes:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40, 28, bits, colours, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_floats_beyond_any_usual_range_are_stretched_and_what_is_not_a_number_is_black() -> None:
    values = np.array([[-1000, 1000], [0, np.nan]], np.float32)
    assert decode_picture(tiff(values, photometric="minisblack")).pixels[..., 0].tolist() == [[0, 255], [128, 128]]
    values = np.array([[np.nan, 1], [np.inf, 0.5]], np.float32)
    assert decode_picture(tiff(values, photometric="minisblack")).pixels[..., 0].tolist() == [[0, 255], [0, 128]]


def raw(make: str, inner: int, *tags: tuple[object, ...], reduced: int = 1) -> bytes:
    """A TIFF file whose first page is a preview, and whose photograph lies in a page below."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        named = (271, 2, len(make) + 1, make, True)
        small = RGB[::2, ::2]
        writer.write(small, photometric="rgb", subfiletype=reduced, subifds=1, extratags=[named, *tags])
        sensor = RGB if inner == 34892 else GREY
        writer.write(sensor.astype(np.uint16), photometric=inner, subfiletype=0)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (raw("NIKON CORPORATION", 32803), "Nikon raw"),
        (raw("NIKON CORPORATION", 32803, reduced=0), "Nikon raw"),
        (raw("Canon", 34892, (50706, 1, 4, (1, 4, 0, 0), True)), "DNG"),
        (tiff(RGB, photometric="rgb", extratags=[(50706, 1, 4, (1, 4, 0, 0), True)]), "DNG"),
    ],
)  # fmt: skip
def test_a_cameras_raw_file_is_refused_by_name_and_not_taken_for_its_preview(data: bytes, named: str) -> None:
    with pytest.raises(ImageError, match=rf"raw file \({named}\): develop it first") as refused:
        decode_picture(data)
    assert refused.value.status == "unsupported_format"


def test_a_preview_in_front_of_a_picture_is_not_taken_for_it() -> None:
    with pytest.raises(ImageError, match="first page is only a preview"):
        decode_picture(raw("Scanner", 1))


@pytest.mark.parametrize("cut", [9, 30, 60, 200, 2000])
def test_a_tiff_that_ends_early_is_refused_and_not_more(cut: int) -> None:
    for data in (
        tiff(RGB.astype(np.float32) / 255, photometric="rgb"),
        raw("NIKON", 32803),
        tiff(RGB, photometric="rgb"),
    ):
        with pytest.raises(ImageError):
            decode_picture(data[:cut])
