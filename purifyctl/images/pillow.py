"""Any picture that Pillow reads, as a viewer shows it: the first frame, upright, 8 bits, RGB in sRGB, nothing hidden.

Pillow's process-wide switches (MAX_IMAGE_PIXELS, LOAD_TRUNCATED_IMAGES) stay as they are: other threads and the
program around us use Pillow too.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl.config.kinds import HEADER_BYTES, NETPBM, NOT_ASKED, UNMARKED, Kind, kind_of
from purifyctl.config.picture_options import DEFAULTS, DecoderName, PictureOptions
from purifyctl.errors import ImageError
from purifyctl.images import metadata, profiles
from purifyctl.images.damage import damage, too_many_scans
from purifyctl.images.levels import DEEP, to_eight_bits
from purifyctl.images.netpbm import read_netpbm
from purifyctl.images.raw import not_the_picture
from purifyctl.images.tiff import pillow_is_wrong, read_tiff, size_of_tiff

# How to turn a picture upright, by EXIF's orientation
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """A whole picture, upright."""

    pixels: NDArray[np.uint8]  # RGB [height, width, 3]; transparent parts show the background
    decoder: DecoderName
    converted: str | None = None  # the name of the profile that the colours were converted from
    damaged: str | None = None  # what is wrong with the file; None: it is sound
    kept: metadata.Kept = metadata.NOTHING  # what an output of the same size can keep
    first_frame: bool = False  # the file holds several frames or pages, and this is the first


@dataclass(frozen=True)
class Opened:
    """A file whose header was read."""

    data: NDArray[np.uint8]
    kind: Kind
    image: Image.Image
    decoder: DecoderName = "pillow"

    @property
    def pixels(self) -> int:
        return self.image.width * self.image.height


def decode_picture(data: bytes | NDArray[np.uint8], options: PictureOptions = DEFAULTS) -> Picture:
    """Decode a file by Pillow.

    Raises
    ------
    ImageError
        With status "empty", "not_an_image", "unsupported_format", "too_large" or "decode_failed".
    """
    opened = open_picture(np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data, options)
    return decode_opened(opened, check_damage(opened, options), options)


def open_picture(data: NDArray[np.uint8], options: PictureOptions = DEFAULTS) -> Opened:
    """Read a file's header. Raises ImageError as `decode_picture` does, except for damaged pixels."""
    if len(data) == 0:
        raise ImageError("empty", "The file is empty.")
    kind = kind_of(data[:HEADER_BYTES].tobytes()) or UNMARKED
    if kind.instead:
        raise ImageError("unsupported_format", kind.instead)
    if kind.name == "TIFF" and (why := not_the_picture(data.data)):
        raise ImageError("unsupported_format", why)
    if kind.readers == NETPBM:  # there are few, so that their pixels are read now
        return Opened(data, kind, read_netpbm(data, partial(_check_size, options=options)), "netpbm")
    try:
        image = _open(kind, data)
        if not (kind.name == "TIFF" and pillow_is_wrong(image)):
            _check_size(image.size, options)
            return Opened(data, kind, image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # of a picture inside the file
        raise ImageError("too_large", f"{_first_line(error)}") from None
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers
        if kind.name != "TIFF":
            what = "The file has no readable image header" if kind is UNMARKED else f"Its {kind.name} header is damaged"
            raise ImageError("not_an_image", f"{what} ({type(error).__name__}).") from None
    return _open_tiff(kind, data, options)


def check_damage(opened: Opened, options: PictureOptions = DEFAULTS) -> str | None:
    """What is wrong with the file's data, where its decoder would not say so. None: nothing.

    Raises
    ------
    ImageError
        It is damaged, and the options refuse damaged files; or it would take too long to decode.
    """
    progressive = bool(opened.image.info.get("progressive"))
    if progressive and (why := too_many_scans(opened.data, opened.pixels)):
        raise ImageError("too_large", why)
    found = damage(opened.kind, opened.data, progressive=progressive)
    if found and options.damaged == "fail":
        raise ImageError("decode_failed", found)
    return found


def decode_opened(opened: Opened, damaged: str | None = None, options: PictureOptions = DEFAULTS) -> Picture:
    """Decode the pixels of a file. `damaged`: what `check_damage` said. Raises ImageError."""
    image = opened.image
    several = has_several_frames(opened)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise many kinds
        if opened.kind.name == "TIFF" and (second := _second_opinion(opened)):
            return picture_of(second, options, decoder="tifffile", first_frame=several)
        damaged = damaged or f"The image data is damaged or ends early: {_first_line(error)}."
        if options.damaged == "fail" or not _has_pixels(image):
            raise ImageError("decode_failed", damaged) from None
    _check_size(image.size, options)  # again: of several sizes inside, some readers find the real one only now
    try:
        return picture_of(image, options, decoder=opened.decoder, damaged=damaged, first_frame=several)
    except Exception as error:  # a mode or a palette that Pillow cannot convert
        raise ImageError("decode_failed", f"Pillow cannot show it: {_first_line(error)}.") from None


def has_several_frames(opened: Opened) -> bool:
    """Whether the file holds several frames or pages. Viewers show the first."""
    try:
        return opened.kind.several and bool(getattr(opened.image, "is_animated", False))
    except Exception:  # damaged behind the first frame, which is the one that counts
        return True


def picture_of(
    image: Image.Image,
    options: PictureOptions = DEFAULTS,
    *,
    decoder: DecoderName = "pillow",
    damaged: str | None = None,
    first_frame: bool = False,
) -> Picture:
    """What a viewer shows of a PIL image."""
    turn = UPRIGHT.get(metadata.orientation(image))
    profile = image.info.get("icc_profile") or None
    exif = metadata.kept_exif(image)
    shown, alpha, converted = _flat(image, profile if options.colour == "srgb" else None)
    if alpha is not None:
        canvas = Image.new("RGB", shown.size, options.background_rgb)
        canvas.paste(shown, mask=alpha)
        shown = canvas
    if turn is not None:
        shown = shown.transpose(turn)
        alpha = alpha.transpose(turn) if alpha is not None else None
    kept = metadata.Kept(
        alpha=None if alpha is None else np.asarray(alpha),
        background=options.background_rgb,
        profile=profiles.kept(profile, converted=converted is not None),
        exif=exif,
    )
    return Picture(np.asarray(shown), decoder, converted, damaged, kept, first_frame)


def _open(kind: Kind, data: NDArray[np.uint8]) -> Image.Image:
    """Call the readers of this kind ourselves: `Image.open` would apply Pillow's own limit of pixels."""
    if kind.package:
        _import_heif()
    problem: Exception | None = None
    start = data[:16].tobytes()
    for name in _readers(kind):
        factory, accept = Image.OPEN[name]
        if accept and accept(start) is not True:
            continue
        try:
            return factory(io.BytesIO(data.data), "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:  # as `Image.open` does: not of this kind
            problem = problem or error
    raise problem or SyntaxError("no reader knows it")


def _readers(kind: Kind) -> Iterator[str]:
    """Pillow's readers to ask about a file: those of its kind, then all others, because some files are called wrong."""
    Image.preinit()
    for name in kind.readers:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:
            raise ImageError("unsupported_format", f"This Pillow was built without {kind.name}.")
        yield name
    Image.init()
    yield from (name for name in Image.ID if name not in (*kind.readers, *NOT_ASKED))


def _import_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(
            "unsupported_format", "It is HEIC, as iPhones write it. To read it: pip install 'purifyctl[heic]'."
        ) from None
    pillow_heif.register_heif_opener()


def _open_tiff(kind: Kind, data: NDArray[np.uint8], options: PictureOptions) -> Opened:
    """Read a TIFF file that Pillow does not read, or reads wrong. There are few, so that its pixels are read now."""
    try:
        size = size_of_tiff(data)
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise ImageError("not_an_image", f"Its TIFF header is damaged ({type(error).__name__}).") from None
    _check_size(size, options)
    try:
        return Opened(data, kind, read_tiff(data), "tifffile")
    except Exception as error:
        raise ImageError("decode_failed", f"Neither Pillow nor tifffile reads it: {_first_line(error)}.") from None


def _second_opinion(opened: Opened) -> Image.Image | None:
    """What tifffile makes of a TIFF file whose pixels Pillow could not decode."""
    with suppress(Exception):
        return read_tiff(opened.data)
    return None


def _check_size(size: tuple[int, int], options: PictureOptions) -> None:
    width, height = size
    if width * height > options.max_pixels:
        raise ImageError(
            "too_large",
            f"{width}x{height} is more than the {options.max_pixels:,} pixels allowed; --max-pixels allows more.",
        )


def _has_pixels(image: Image.Image) -> bool:
    """Whether a decoder that failed left the part that it had decoded. It counts as the picture from now on."""
    image.tile = []  # type: ignore[attr-defined]  # of a file's image: nothing is left to decode
    try:
        image.load()
        return image.im is not None
    except Exception:
        return False


def _flat(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, Image.Image | None, str | None]:
    """A loaded image as RGB, its alpha (mode L; None: nothing is transparent), and the name of the profile that its
    colours were converted from.
    """
    alpha = None
    if image.mode.startswith(DEEP):
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            alpha = Image.fromarray(np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8))
        image = to_eight_bits(image)
    elif _is_transparent(image):
        grey = image.mode in ("LA", "La")
        whole = _divided(image).convert("RGBA")
        alpha = whole.getchannel("A")
        image = whole.getchannel("R") if grey else whole.convert("RGB")
    elif image.mode not in profiles.SPACES:
        image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() == (255, 255):
        alpha = None
    turned = profiles.to_srgb(image, profile) if profile else None
    if turned is not None and profile is not None:
        return turned, alpha, profiles.name(profile)
    return image.convert("RGB"), alpha, None


def _is_transparent(image: Image.Image) -> bool:
    """Whether it may show what lies behind it. Pillow's own property fails on a palette that a reader did not name."""
    palette = image.palette.mode if image.palette else ""
    return (
        image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        or "transparency" in image.info
        or (image.mode == "P" and palette.endswith("A"))
    )


def _divided(image: Image.Image) -> Image.Image:
    """Colours that were multiplied by their alpha, divided by it again."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]) if image.mode in ("La", "RGBa") else image


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
