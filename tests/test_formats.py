"""Every kind of file that Pillow saves or reads, against what Pillow shows."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from purifyctl.config.kinds import HEADER_BYTES, KINDS, kind_of
from purifyctl.errors import ImageError
from purifyctl.images import Decoder
from purifyctl.images.geometry import resized_square
from purifyctl.images.pillow import decode_picture
from tests import pictures, tiny


def difference(data: bytes, truth: np.ndarray) -> float:
    """Mean difference of a decoded file from the truth, in grey levels."""
    found = decode_picture(data).pixels
    assert found.shape == truth.shape
    return float(np.abs(found.astype(int) - truth).mean())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", pictures.KINDS)
def test_whatever_pillow_saves_is_decoded_as_pillow_shows_it(kind: str) -> None:
    files = [(name, data, pictures.shown(data)) for name, data in pictures.saved(kind)]
    readable = [(name, data, truth) for name, data, truth in files if truth is not None]
    assert readable
    wrong = {name: difference(data, truth) for name, data, truth in readable if difference(data, truth) > 1}
    assert not wrong
    if kind != "SPIDER":  # it has no mark of its own
        assert all(kind_of(data[:HEADER_BYTES]) for _, data, _ in readable)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "AVIF", "TGA", "JPEG2000"])
def test_a_batch_of_files_in_every_mode_becomes_the_squares_that_a_viewer_would_show(kind: str) -> None:
    files = [(data, pictures.shown(data)) for _, data in pictures.saved(kind)]
    files = [(data, truth) for data, truth in files if truth is not None]
    with Decoder(size=20, batch_size=len(files), threads=2) as decoder:
        decoded = decoder.decode([np.frombuffer(data, np.uint8) for data, _ in files])
    assert decoded.positions == list(range(len(files)))
    for square, (_, truth) in zip(decoded.images, files, strict=True):
        assert np.abs(square.astype(int) - resized_square(truth, 20)).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_pictures_are_upright_whatever_decodes_them(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind in ("JPEG", "AVIF") else {}
    data = pictures.encoded(pictures.BASE, kind, exif=exif, **options)
    truth = np.asarray(pictures.oriented(pictures.BASE, orientation))
    assert difference(data, truth) < 3
    with Decoder(size=20, batch_size=1, threads=1) as decoder:
        decoded = decoder.decode([np.frombuffer(data, np.uint8)])
    assert decoded.sizes == [truth.shape[:2]]
    assert np.abs(decoded.images[0].astype(int) - resized_square(truth, 20)).mean() < 3


def test_an_orientation_that_only_xmp_names_is_followed() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    data = pictures.encoded(pictures.BASE, "JPEG", quality=100, subsampling=0, xmp=xmp)
    with Decoder(size=20, batch_size=1, threads=1) as decoder:
        decoded = decoder.decode([np.frombuffer(data, np.uint8)])
    assert (decoded.facts[0].decoder, decoded.sizes) == ("pillow", [(40, 28)])


def test_the_decoders_make_the_same_square() -> None:
    photo = tiny.photograph((317, 211))
    plain = pictures.encoded(photo, "PNG")
    opaque = photo.convert("RGBA")  # DALI does not get it, because something might be transparent
    files = [plain, pictures.encoded(opaque, "PNG"), pictures.encoded(photo, "TIFF"), pictures.encoded(photo, "BMP")]
    with Decoder(size=64, batch_size=4, threads=2) as decoder:
        decoded = decoder.decode([np.frombuffer(data, np.uint8) for data in files])
    assert [facts.decoder for facts in decoded.facts] == ["dali", "pillow", "pillow", "pillow"]
    for square in decoded.images[1:]:
        assert np.array_equal(square, decoded.images[0])
    by_pillow = resized_square(np.asarray(photo), 64).astype(int)
    assert np.abs(decoded.images[0] - by_pillow).mean() < 0.5


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_several_frames_the_first_is_shown_and_that_is_said(kind: str) -> None:
    options = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    )
    first = pictures.BASE.quantize(64).convert("RGB")
    data = pictures.encoded(first, kind, save_all=True, append_images=[Image.new("RGB", first.size)], **options)
    assert difference(data, np.asarray(first)) < 3
    assert decode_picture(data).first_frame
    assert not decode_picture(pictures.encoded(first, kind, **options)).first_frame


def test_a_kind_that_pillow_only_reads_is_decoded() -> None:
    height, width = pictures.GREY.shape
    flat = pictures.RGB.tobytes()
    planes = pictures.RGB.transpose(2, 0, 1).tobytes()
    psd = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, height, width, 8, 3) + bytes(12) + b"\0\0" + planes
    sun = struct.pack(">8I", 0x59A66A95, width, height, 24, len(flat), 3, 0, 0) + flat
    xpm = b'/* XPM */\nstatic char *x[] = {\n"2 1 2 1",\n"a c #FF0000",\n"b c #0000FF",\n"ab"};\n'
    cursor = bytearray(pictures.encoded(pictures.in_mode("RGBA").resize((32, 32)), "ICO", bitmap_format="bmp"))
    cursor[2] = 2  # a cursor is an icon with another number, and a hot spot where the planes were
    cursor_shown = pictures.shown(bytes(cursor))
    assert difference(psd, pictures.RGB) == 0
    assert difference(sun, pictures.RGB) == 0
    assert decode_picture(xpm).pixels.tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert cursor_shown is not None
    assert difference(bytes(cursor), cursor_shown) == 0


HEADERS = {
    "JPEG XL": b"\xff\x0a" + bytes(30),
    "OpenEXR": b"v/1\x01" + bytes(30),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": b"%PDF-1.7\n",
    "video": b"\0\0\0\x18ftypisom" + bytes(20),
    "IPTC": b"\x1c\x03\x3c\0\x02" + bytes(20),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "Canon CR2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(20),
    "Canon CR3": b"\0\0\0\x18ftypcrx " + bytes(20),
    "Fujifilm RAF": b"FUJIFILMCCD-RAW 0201" + bytes(20),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_kind_that_is_not_read_is_refused_by_its_name_with_what_to_do(name: str) -> None:
    with pytest.raises(ImageError) as refused:
        decode_picture(HEADERS[name])
    assert refused.value.status == "unsupported_format"
    said = str(refused.value)
    assert name in said
    assert any(words in said for words in ("convert it", "export it", "develop it", "export its", "take pictures"))


def test_heic_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"msf1\0\0\0\0msf1hevc"):
        with pytest.raises(ImageError, match=r"HEIC.*pip install 'purifyctl\[heic\]'") as refused:
            decode_picture(b"\0\0\0\x18ftyp" + brands + bytes(100))
        assert refused.value.status == "unsupported_format"
    avif = pictures.encoded(pictures.BASE, "AVIF")
    assert kind_of(avif[:4] + b"ftypmif1" + avif[12:]).name == "AVIF"  # of several brands, the one that says most


@pytest.mark.parametrize("text", [b"", b"hello, world\n", b"BMW is a car, and so is this", b"{}", b"P4 is no picture"])
def test_text_is_no_picture(text: bytes) -> None:
    with pytest.raises(ImageError) as refused:
        decode_picture(text)
    assert refused.value.status in ("empty", "not_an_image")


def pam(values: np.ndarray, most: int, tuple_type: str = "") -> bytes:
    height, width, depth = values.shape
    kind = f"TUPLTYPE {tuple_type}\n" if tuple_type else ""
    head = f"P7\n# a comment\nWIDTH {width}\nHEIGHT {height}\nDEPTH {depth}\nMAXVAL {most}\n{kind}ENDHDR\n"
    return head.encode() + values.astype(np.uint8 if most < 256 else ">u2").tobytes()


def test_pam_is_decoded_at_every_depth_and_largest_value() -> None:
    grey, rgb = pictures.GREY[..., None], pictures.RGB
    shown = pictures.grey_rgb(pictures.GREY)
    assert difference(pam(grey, 255, "GRAYSCALE"), shown) == 0
    assert difference(pam(rgb, 255, "RGB"), rgb) == 0
    assert difference(pam(rgb.astype(np.uint16) * 257, 65535), rgb) == 0
    assert difference(pam(rgb.astype(np.uint16) * 16, 4080), rgb) == 0
    assert difference(pam(grey // 128, 1, "BLACKANDWHITE"), pictures.grey_rgb(pictures.GREY // 128 * 255)) == 0
    alpha = np.asarray(pictures.ALPHA)[..., None]
    truth = pictures.shown(pictures.encoded(pictures.in_mode("RGBA"), "PNG"))
    assert truth is not None
    assert difference(pam(np.concatenate([rgb, alpha], 2), 255, "RGB_ALPHA"), truth) <= 1
    assert decode_picture(pam(rgb, 255)).decoder == "netpbm"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white", [1, 255, 65535])
def test_pfm_in_three_colours_is_decoded(order: str, white: int) -> None:
    values = (pictures.RGB / 255 * white).astype(f"{order}f4")
    scale = {"<": "-1.0", ">": "1.0"}[order]
    data = f"PF\n{pictures.BASE.width} {pictures.BASE.height}\n{scale}\n".encode() + values[::-1].tobytes()
    assert difference(data, pictures.RGB) <= 1
    with pytest.raises(ImageError, match=r"ends early: 5\d%") as refused:
        decode_picture(data[: len(data) // 2 - 500])
    assert refused.value.status == "decode_failed"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (pam(np.zeros((2, 2, 5)), 255), "unsupported_format"),
        (pam(np.zeros((2, 2, 3)), 255)[:-1], "decode_failed"),
        (pam(np.zeros((2, 2, 3)), 255).replace(b"ENDHDR", b"END"), "not_an_image"),
        (pam(np.zeros((2, 2, 3)), 255).replace(b"MAXVAL 255", b"MAXVAL 0"), "not_an_image"),
        (pam(np.zeros((2, 2, 3)), 255).replace(b"WIDTH 2", b"WIDTH 0"), "not_an_image"),
        (pam(np.zeros((2, 2, 3)), 255).replace(b"WIDTH 2", b"WIDTH 99999999"), "too_large"),
        (b"PF\n3 3\n0\n" + bytes(108), "not_an_image"),
        (b"PF\n3 3\n-1.e.e\n" + bytes(108), "not_an_image"),
    ],
)
def test_a_damaged_pam_or_pfm_says_what_is_wrong(data: bytes, status: str) -> None:
    with pytest.raises(ImageError) as refused:
        decode_picture(data)
    assert refused.value.status == status


def test_each_kind_has_a_name_and_endings_of_its_own() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    endings = [ending for kind in KINDS for ending in kind.endings]
    assert len(set(endings)) == len(endings)
    assert all(ending.startswith(".") and ending == ending.lower() for ending in endings)
    assert all(bool(kind.readers) != bool(kind.instead) for kind in KINDS)


def test_pillows_own_limit_and_switches_stay_as_they_were() -> None:
    from PIL import ImageFile

    before = Image.MAX_IMAGE_PIXELS
    large = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(large, "PNG")
    assert decode_picture(large.getvalue()[:0] + pictures.encoded(pictures.BASE, "PNG")).pixels.shape == (28, 40, 3)
    with pytest.raises(ImageError, match="--max-pixels") as refused:
        decode_picture(large.getvalue())
    assert refused.value.status == "too_large"
    assert (before, False) == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
