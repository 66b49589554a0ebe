"""Colour profiles become sRGB, transparency lies on a background, and files keep what belongs to the picture."""

import functools
import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from purifyctl.config.picture_options import PictureOptions
from purifyctl.config.run import RunOptions
from purifyctl.errors import ConfigError
from purifyctl.images import Decoder, encode
from purifyctl.images.metadata import Kept
from purifyctl.images.pillow import Picture, decode_picture
from purifyctl.images.profiles import is_srgb, srgb_profile
from tests import pictures, tiny

SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))  # XYZ under D50
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


@functools.cache
def profile(primaries: tuple[tuple[float, float, float], ...] = P3, gamma: float = 2.2, name: bytes = b"wide") -> bytes:
    """A matrix profile (ICC 2.4)."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, primaries), strict=True))
    tags |= {b"wtpt": xyz((0.9642, 1, 0.8249))} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags |= {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(79),
        b"cprt": b"text" + bytes(5),
    }
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += tag + struct.pack(">II", at + len(body), len(padded))
        body += padded
    head = struct.pack(
        ">I4sI4s4s4s6H4s", 128 + len(table) + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ",
        2026, 1, 1, 0, 0, 0, b"acsp",
    )  # fmt: skip
    return (head.ljust(68, b"\0") + fixed(0.9642) + fixed(1) + fixed(0.8249)).ljust(128, b"\0") + table + body


def in_profile(icc: bytes) -> Image.Image:
    """The base picture, its values written in another colour space."""
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(pictures.BASE, srgb, io.BytesIO(icc), outputMode="RGB")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_colours_in_another_space_become_srgb_and_raw_leaves_them(kind: str) -> None:
    wide = in_profile(profile())
    options = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    )
    options |= {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = pictures.encoded(wide, kind, icc_profile=profile(), **options)
    found = decode_picture(data)
    # a colour that the space can hold comes back
    assert np.abs(found.pixels.astype(int) - pictures.RGB).mean() < 2
    assert (found.converted, found.kept.profile) == ("wide", srgb_profile())
    raw = decode_picture(data, PictureOptions(colour="raw"))
    assert np.abs(raw.pixels.astype(int) - np.asarray(wide)).mean() < 2
    assert (raw.converted, raw.kept.profile) == (None, profile())


def test_a_profile_of_srgb_changes_nothing_and_does_not_slow_the_decoder_down() -> None:
    named_otherwise = profile(SRGB, 2.2, b"monitor")
    assert is_srgb(srgb_profile(), "RGB")
    assert not is_srgb(profile(), "RGB")
    assert not is_srgb(named_otherwise, "RGB")  # a gamma of 2.2 is not sRGB's curve
    files = [pictures.encoded(pictures.BASE, "PNG", icc_profile=icc) for icc in (srgb_profile(), profile())]
    for colour, decoders in (("srgb", ["dali", "pillow"]), ("raw", ["dali", "dali"])):
        with Decoder(size=20, batch_size=2, threads=1, options=PictureOptions(colour=colour)) as decoder:
            decoded = decoder.decode([np.frombuffer(data, np.uint8) for data in files])
        assert [facts.decoder for facts in decoded.facts] == decoders
        assert [facts.converted for facts in decoded.facts] == [None, "wide" if colour == "srgb" else None]


@pytest.mark.parametrize("icc", [b"no profile", bytes(200), profile()[:300], b"\xff" * 500])
def test_a_damaged_profile_is_ignored_as_viewers_do(icc: bytes) -> None:
    found = decode_picture(pictures.encoded(pictures.BASE, "PNG", icc_profile=icc))
    assert np.array_equal(found.pixels, pictures.RGB)
    assert found.converted is None


def test_a_profile_of_another_kind_of_picture_is_ignored() -> None:
    found = decode_picture(pictures.encoded(pictures.in_mode("L"), "PNG", icc_profile=profile()))
    assert np.array_equal(found.pixels, pictures.grey_rgb(pictures.GREY))
    assert (found.converted, found.kept.profile) == (None, profile())


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "TGA"])
def test_what_lies_hidden_under_transparency_never_shows(kind: str) -> None:
    mask = np.zeros(pictures.GREY.shape, np.uint8)
    mask[8:20, 10:30] = 255
    hidden = np.where(mask[..., None] > 0, [10, 200, 30], [255, 0, 255]).astype(np.uint8)
    image = Image.fromarray(np.dstack([hidden, mask]))
    data = pictures.encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    for background, rgb in (("#ffffff", (255, 255, 255)), ("navy", (0, 0, 128)), ("#123456", (0x12, 0x34, 0x56))):
        options = PictureOptions(background=background)
        found = decode_picture(data, options)
        assert np.array_equal(found.pixels, np.where(mask[..., None] > 0, hidden, rgb))
        assert found.kept.alpha is not None
        assert np.array_equal(found.kept.alpha, mask)
        with Decoder(size=28, batch_size=1, threads=1, options=options) as decoder:
            square = decoder.decode([np.frombuffer(data, np.uint8)]).images[0]
        assert np.abs(square[0, 0].astype(int) - rgb).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16"])
def test_one_colour_of_a_png_may_be_transparent(mode: str) -> None:
    image = pictures.in_mode(mode)
    first = image.getpixel((0, 0))
    found = decode_picture(pictures.encoded(image, "PNG", transparency=first), PictureOptions(background="red"))
    assert found.pixels[0, 0].tolist() == [255, 0, 0]
    assert found.kept.alpha is not None
    assert set(np.unique(found.kept.alpha)) == {0, 255}


def test_a_background_that_is_no_colour_is_refused_when_it_is_given() -> None:
    for make in (PictureOptions, RunOptions):
        with pytest.raises(ConfigError, match="There is no colour 'nosuch'"):
            make(background="nosuch")


def exif(**gps: object) -> Image.Exif:
    made = Image.Exif()
    made[0x010F], made[0x0112] = "Maker", 6
    made.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    made.get_ifd(0x8769)[0xA002] = 4000  # a width, which a smaller output would not have
    made.get_ifd(0x8825)[1] = "N"
    return made


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_a_file_keeps_exif_settled_its_profile_and_its_alpha(image_format: str) -> None:
    source = pictures.in_mode("RGBA")
    data = pictures.encoded(source, "PNG", exif=exif().tobytes(), icc_profile=srgb_profile())
    picture = decode_picture(data)
    assert picture.pixels.shape == (40, 28, 3)  # turned
    written = Image.open(io.BytesIO(encode(picture.pixels, image_format, kept=picture.kept)))
    kept = written.getexif()
    assert kept[0x010F] == "Maker"
    assert kept.get(0x0112, 1) == 1
    assert kept.get_ifd(0x8769) == {0x9003: "2026:01:01 00:00:00"}
    assert kept.get_ifd(0x8825)[1] == "N"
    assert written.info["icc_profile"] == srgb_profile()
    assert (written.mode == "RGBA") == (image_format != "jpeg")
    again = decode_picture(bytes(encode(picture.pixels, image_format, kept=picture.kept)))
    limit = 1 if image_format != "jpeg" else 255  # on the same background it shows what was classified
    assert np.abs(again.pixels.astype(int) - picture.pixels).max() <= limit


def test_an_output_without_anything_to_keep_is_the_same_file_as_before() -> None:
    photo = np.array(tiny.photograph())
    for image_format in ("png", "webp", "jpeg"):
        assert bytes(encode(photo, image_format)) == bytes(encode(photo, image_format, kept=Kept()))


def test_what_lay_hidden_does_not_return_into_the_output() -> None:
    image = Image.fromarray(np.dstack([np.full((8, 8, 3), (255, 0, 255), np.uint8), np.zeros((8, 8), np.uint8)]))
    picture = decode_picture(pictures.encoded(image, "PNG"))
    written = np.asarray(Image.open(io.BytesIO(encode(picture.pixels, "png", kept=picture.kept))))
    assert (written == (255, 255, 255, 0)).all()


def test_thumbnails_and_the_layout_of_tiff_are_not_kept() -> None:
    picture = decode_picture(pictures.encoded(pictures.BASE, "TIFF", exif=exif().tobytes()))
    assert isinstance(picture, Picture)
    kept = Image.Exif()
    kept.load(picture.kept.exif)
    assert set(kept) == {0x010F, 0x8769, 0x8825}


def test_exif_that_no_jpeg_could_hold_loses_the_cameras_own_data_first() -> None:
    large = exif()
    large.get_ifd(0x8769)[37500] = bytes(70_000)
    picture = decode_picture(pictures.encoded(pictures.BASE, "PNG", exif=large.tobytes()))
    written = Image.open(io.BytesIO(encode(picture.pixels, "jpeg", kept=picture.kept)))
    assert written.getexif()[0x010F] == "Maker"
    assert 37500 not in written.getexif().get_ifd(0x8769)
