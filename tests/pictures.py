"""Small pictures in every mode of Pillow's, files of every kind that it saves, and what a viewer shows of them."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

Image.init()

_Y, _X = np.mgrid[0:28, 0:40]
RGB = np.dstack([_X * 6, _Y * 9, 128 + 90 * np.sin(_X / 5) * np.cos(_Y / 4)]).clip(0, 255).astype(np.uint8)
BASE = Image.fromarray(RGB)
GREY = np.asarray(BASE.convert("L"))
ALPHA = Image.fromarray(((_X * 6 + _Y * 3) % 256).astype(np.uint8))

MODES = (
    "1", "L", "P", "RGB", "RGBA", "LA", "PA", "La", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B",
    "F",
)  # fmt: skip
NOT_SAVED = ("PDF", "EPS", "PALM", "BUFR", "GRIB", "HDF5", "WMF")  # no pixels that Pillow could read again
KINDS = [name for name in sorted(Image.SAVE) if name not in NOT_SAVED]
_COMPRESSIONS = (
    None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "group3", "group4", "tiff_ccitt",
    "lzma", "zstd",
)  # fmt: skip
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "TIFF": [*({"compression": name} if name else {} for name in _COMPRESSIONS), {"big_tiff": True}],
    "JPEG": [
        {}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"restart_marker_rows": 1},
        {"optimize": True}, {"keep_rgb": True},
    ],
    "PNG": [{}, {"optimize": True}, {"bits": 4}, {"bits": 2}],
    "GIF": [{}, {"interlace": 0}],
    "WEBP": [{}, {"lossless": True}],
    "JPEG2000": [{}, {"no_jp2": True}, {"irreversible": True}, {"num_resolutions": 2}, {"tile_size": (16, 16)}],
    "TGA": [{}, {"compression": "tga_rle"}, {"orientation": -1}, {"orientation": 1}],
    "DDS": [{}, *({"pixel_format": name} for name in ("DXT1", "DXT3", "DXT5", "BC2", "BC3", "BC5"))],
    "AVIF": [{}, {"subsampling": "4:4:4"}, {"quality": 100}],
    "BLP": [{}, {"blp_version": "BLP1"}],
    "SGI": [{}, {"bpc": 2}],
    "ICO": [{}, {"bitmap_format": "bmp"}],
}  # fmt: skip


def in_mode(mode: str) -> Image.Image:
    """The same picture in one of Pillow's modes."""
    grey = BASE.convert("L")
    if mode in ("RGBA", "LA"):
        image = BASE.copy() if mode == "RGBA" else grey
        image.putalpha(ALPHA)
        return image
    if mode in ("La", "RGBa"):
        return in_mode(mode.upper()).convert(mode)
    if mode == "PA":
        return BASE.quantize(64).convert("PA")
    if mode == "I;16":
        return Image.fromarray(GREY.astype(np.uint16) * 257)
    if mode == "I;16B":
        return Image.frombytes(mode, BASE.size, (GREY.astype(">u2") * 257).tobytes())
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(BASE, srgb, lab, outputMode="LAB")
    return BASE.convert(mode)


def saved(kind: str) -> Iterator[tuple[str, bytes]]:
    """Files of one kind, in every mode and with every option that it takes: a name for each, and its bytes."""
    for mode in MODES:
        for options in OPTIONS.get(kind, [{}]):
            try:
                yield f"{kind} {mode} {options}", encoded(in_mode(mode), kind, **options)
            except Exception:  # the kind does not take this mode or option
                continue


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(data: bytes) -> np.ndarray | None:
    """What a viewer shows of a file, by Pillow's own means, on white. None: Pillow cannot read it."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception:
        return None
    kind, mode = image.format, image.mode
    image = ImageOps.exif_transpose(image)
    if mode.startswith("I;16") or (mode == "I" and kind in ("PPM", "PNG")):
        return grey_rgb((np.asarray(image) // 257).astype(np.uint8))
    if mode == "F" and np.asarray(image).max() > 255:  # it was written from 16 bits
        return grey_rgb((np.asarray(image) / 257).round().astype(np.uint8))
    if mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def grey_rgb(values: np.ndarray) -> np.ndarray:
    """Grey uint8 [height, width] as RGB."""
    return np.repeat(values[..., None], 3, axis=2)


def oriented(image: Image.Image, orientation: int) -> Image.Image:
    """What a viewer shows of a picture with this orientation."""
    turned = image.copy()
    turned.getexif()[274] = orientation
    return ImageOps.exif_transpose(turned)


def of_many_scans(side: int) -> bytes:
    """A sound grey progressive JPEG of 883 scans with nothing in them: 14 bits of 63 coefficients, one by one."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body

    blocks = (-(-side // 8)) ** 2
    one_code = bytes([1, *[0] * 15])  # a Huffman table of the code "0" alone
    bits = ("0" + "1" * 14) * -(-blocks // 32767)  # "the next 32,767 blocks end here"
    bits += "1" * (-len(bits) % 8)
    nothing = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    data = b"\xff\xd8" + segment(0xDB, bytes([0, *[1] * 64]))
    data += segment(0xC2, b"\x08" + side.to_bytes(2) * 2 + b"\x01\x01\x11\0")
    data += segment(0xC4, b"\0" + one_code + b"\0") + segment(0xC4, b"\x10" + one_code + b"\xe0")
    data += segment(0xDA, b"\x01\x01\0\0\0\0") + bytes(-(-blocks // 8))
    for coefficient in range(1, 64):
        for low in range(13, -1, -1):
            high = 0 if low == 13 else low + 1
            data += segment(0xDA, bytes([1, 1, 0, coefficient, coefficient, high << 4 | low])) + nothing
    return data + b"\xff\xd9"
