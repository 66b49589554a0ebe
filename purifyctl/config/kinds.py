"""The kinds of picture files: how a file's first bytes show its kind, who reads it, and what is refused by name.

To read another kind, add its record. Pillow reads what has `readers`; DALI takes plain pictures of some kinds
(`images/decode.py`), because it is faster.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

HEADER_BYTES = 512  # what `kind_of` wants to see of a file


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    name: str
    start: bytes  # a regular expression that the file's first bytes match
    endings: tuple[str, ...]  # of file names, in lower case
    readers: tuple[str, ...] = ()  # Pillow's names of them; empty: not read, and `instead` says why
    instead: str = ""  # for a kind that is not read: what it is, and what to do
    shown_by: Literal["start", "ending", "nothing"] = (
        "start"  # what makes such a file count as a picture: how it begins;
    )
    # only how its name ends, because other files may begin like it; nothing: it is no picture, and may be left out
    several: bool = False  # it may hold several frames or pages, and viewers show the first one
    package: str = ""  # the reader's package, if it is not Pillow; the extra has the kind's name in lower case


def _iso(*brands: bytes) -> bytes:
    """Files of ISO/IEC 14496-12: a box `ftyp` with brands of four letters; the right one may be any of the first."""
    return rb"\0\0..ftyp(?:.{4}){0,8}?(?:" + b"|".join(brands) + rb")"


NETPBM = ("purifyctl's own",)  # the reader of kinds that Pillow does not read: images/netpbm.py
RAW = "It is a camera's raw file ({}): develop it first, and use the JPEG or TIFF that comes out."
_DRAWING = "It is a drawing ({}), not pixels: export it as PNG first."
_OTHER = "It is {}, which is not read here: convert it to PNG first."


def _raw(name: str, start: bytes, *endings: str) -> Kind:
    return Kind(name, start, endings, instead=RAW.format(name))


# The first record that matches decides: narrow ones stand before wide ones.
KINDS = (
    Kind("JPEG", rb"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".mpo"), ("JPEG",)),
    Kind("PNG", rb"\x89PNG\r\n\x1a\n", (".png", ".apng"), ("PNG",), several=True),
    Kind("WebP", rb"RIFF.{4}WEBP", (".webp",), ("WEBP",), several=True),
    Kind("GIF", rb"GIF8[79]a", (".gif",), ("GIF",), several=True),
    Kind("BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", (".bmp",), ("BMP",)),
    Kind("AVIF", _iso(b"avif", b"avis"), (".avif", ".avifs", ".avci"), ("AVIF",), several=True),
    _raw("Canon CR3", _iso(b"crx "), ".cr3"),
    Kind("HEIC", _iso(b"hei[cxms]", b"hev[cxms]", b"mif1", b"msf1"), (".heic", ".heif", ".hif"), ("HEIF",),
         package="pillow_heif"),
    Kind("video", rb"\0\0..ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI |\0\0\x01[\xb3\xba]", (), shown_by="nothing",
         instead="It is a video: take pictures from it first."),
    _raw("Canon CR2", rb"II\*\0.{4}CR\x02", ".cr2"),
    _raw("Canon CRW", rb"II.{4}HEAPCCDR", ".crw"),
    _raw("Olympus ORF", rb"IIR[OS]|MMOR", ".orf"),
    _raw("Panasonic RW2", rb"IIU\0", ".rw2", ".rwl"),
    _raw("Fujifilm RAF", rb"FUJIFILMCCD-RAW", ".raf"),
    _raw("Sigma X3F", rb"FOVb", ".x3f"),
    _raw("Minolta MRW", rb"\0MRM", ".mrw"),
    # what else begins like TIFF (NEF, DNG, ARW, ...) shows in its tags: images/raw.py
    Kind("TIFF", rb"II\*\0|MM\0\*|II\+\0|MM\0\+|II\0\*|MM\*\0", (".tif", ".tiff", ".btf"), ("TIFF",), several=True),
    Kind("JPEG 2000", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
         (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jph", ".jpt"), ("JPEG2000",)),
    Kind("PPM", rb"P[1-6f]\s[\s#\d]|P0CMYK\s|Py(?:P|RGBA|CMYK)\s", (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), ("PPM",)),
    Kind("colour PFM", rb"PF\s+\d", (), NETPBM),
    Kind("PAM", rb"P7\s*\n", (".pam",), NETPBM),
    Kind("XV thumbnail", rb"P7 332", (), ("XVTHUMB",), shown_by="ending"),
    Kind("DDS", rb"DDS ", (".dds",), ("DDS",)),
    Kind("ICO", rb"\0\0\x01\0[^\0]", (".ico",), ("ICO",), shown_by="ending"),
    Kind("CUR", rb"\0\0\x02\0[^\0]", (".cur",), ("CUR",), shown_by="ending"),
    Kind("ICNS", rb"icns", (".icns",), ("ICNS",)),
    Kind("SGI", rb"\x01\xda[\0\x01][\x01\x02]", (".sgi", ".rgb", ".rgba", ".bw"), ("SGI",)),
    Kind("PSD", rb"8BPS\0\x01", (".psd",), ("PSD",)),
    Kind("QOI", rb"qoif", (".qoi",), ("QOI",)),
    Kind("FLI", rb".{4}[\x11\x12]\xaf.{8}[\0\x03]\0", (".fli", ".flc"), ("FLI",), several=True, shown_by="ending"),
    Kind("PCX", rb"\n[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]", (".pcx",), ("PCX",), shown_by="ending"),
    Kind("DCX", rb"\xb1\x68\xde\x3a", (".dcx",), ("DCX",), several=True, shown_by="ending"),
    Kind("BLP", rb"BLP[12]", (".blp",), ("BLP",)),
    Kind("FTEX", rb"FTEX", (".ftc", ".ftu"), ("FTEX",), shown_by="ending"),
    Kind("GBR", rb"\0\0..\0\0\0[\x01\x02].{8}\0\0\0[\x01\x04]", (".gbr",), ("GBR",), shown_by="ending"),
    Kind("MSP", rb"DanM|LinS", (".msp",), ("MSP",), shown_by="ending"),
    Kind("Sun raster", rb"\x59\xa6\x6a\x95", (".ras", ".sun"), ("SUN",)),
    Kind("XBM", rb"\s*#define[ \t]+\S*_width[ \t]", (".xbm",), ("XBM",), shown_by="ending"),
    Kind("XPM", rb"\s*/\* XPM \*/", (".xpm",), ("XPM",), shown_by="ending"),
    Kind("FITS", rb"SIMPLE  =", (".fits", ".fit", ".fts"), ("FITS",)),
    Kind("Pixar raster", rb"\x80\xe8\0\0", (".pxr",), ("PIXAR",), shown_by="ending"),
    Kind("McIdas", rb"\0\0\0\0\0\0\0\x04", (), ("MCIDAS",), shown_by="ending"),
    Kind("IM", rb"(?:[A-Za-z][^:\n]{0,60}:[^\n]{0,120}\n){0,6}Image type:", (".im",), ("IM",), shown_by="ending"),
    Kind("IMT", rb"(?:\*[^\n]*\n)*(?:width|height) \d+\n", (".imt",), ("IMT",), shown_by="ending"),
    Kind("DIB", rb"(?:\x0c\0\0\0.{4}|[\x28\x34\x38\x40\x6c\x7c]\0\0\0.{8})\x01\0[\x01\x02\x04\x08\x10\x18\x20]\0",
         (".dib",), ("DIB",), shown_by="ending"),
    # no mark of its own: a number within its range in each place
    Kind("TGA",
         rb".(?:\x01[\x01\x09]|[\0\x01][\x02\x03\x0a\x0b]).{9}(?!\0\0)..(?!\0\0)..[\x01\x08\x0f\x10\x18\x20][\0-\x3f]",
         (".tga", ".icb", ".vda", ".vst"), ("TGA",), shown_by="ending"),
    Kind("EPS", rb"%!PS|\xc5\xd0\xd3\xc6", (".eps", ".ps"), shown_by="nothing", instead=_DRAWING.format("EPS")),
    Kind("SVG", rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*)*<svg", (".svg",),
         shown_by="nothing", instead=_DRAWING.format("SVG")),
    Kind("PDF", rb"%PDF", (".pdf",), shown_by="nothing", instead="It is a PDF document: export its pictures first."),
    Kind("WMF", rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", (".wmf", ".emf"), shown_by="nothing",
         instead=_DRAWING.format("WMF or EMF")),
    Kind("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL ", (".jxl",), instead=_OTHER.format("JPEG XL")),
    Kind("JPEG XR", rb"II\xbc\x01", (".jxr", ".wdp", ".hdp"), instead=_OTHER.format("JPEG XR")),
    Kind("OpenEXR", rb"v/1\x01", (".exr",), instead=_OTHER.format("OpenEXR")),
    Kind("Radiance HDR", rb"#\?RADIANCE|#\?RGBE", (".hdr", ".rgbe"), instead=_OTHER.format("Radiance HDR")),
    Kind("PSB", rb"8BPS\0\x02", (".psb",), instead=_OTHER.format("a large Photoshop file, PSB")),
    Kind("XCF", rb"gimp xcf", (".xcf",), instead=_OTHER.format("GIMP's XCF")),
    Kind("IPTC", rb"\x1c[\x01-\x09].\0", (), shown_by="nothing",
         instead="It is an IPTC record, not a picture: convert it to PNG first."),
    Kind("BUFR, GRIB or HDF5", rb"BUFR|GRIB|\x89HDF\r\n\x1a\n", (), shown_by="nothing",
         instead="It holds data of weather or science (BUFR, GRIB or HDF5): convert it to PNG first."),
    Kind("DjVu", rb"AT&TFORM", (".djvu",), shown_by="nothing", instead=_OTHER.format("DjVu")),
)  # fmt: skip

# A file that matches none of them: Pillow's readers look for themselves. SPIDER and Photo CD have no mark at the start.
UNMARKED = Kind("unmarked", b"", (".spider", ".spi", ".pcd"))
# Pillow's readers that are never asked: they run another program (Ghostscript), open whatever lies inside, or have no
# decoder of their own.
NOT_ASKED = ("EPS", "IPTC", "WMF", "MPEG", "BUFR", "GRIB", "HDF5")

# Of camera raw files that begin like TIFF (`images/raw.py` looks at their tags) or in many ways, and of kinds that
# nothing here reads
_OTHER_ENDINGS = """
    3fr ari arw bay cap dcr dcs dng drf eip erf fff gpr iiq k25 kdc mef mos nef nrw pef ptx pxn raw rwz sr2 srf srw
    fpx mic wal bufr
"""
PICTURE_ENDINGS = frozenset(
    [ending for kind in (*KINDS, UNMARKED) if kind.shown_by != "nothing" for ending in kind.endings]
    + [f".{ending}" for ending in _OTHER_ENDINGS.split()]
)


def ending_of(name: bytes) -> bytes:
    """The ending of a picture's name, as it is written there: `.JPG`. Empty if no picture's name ends like this."""
    dot = name.rfind(b".", name.rfind(b"/") + 1)
    ending = name[dot:] if dot >= 0 else b""
    return ending if ending.lower().decode("latin-1") in PICTURE_ENDINGS else b""


def is_picture(header: bytes) -> bool:
    """Whether a file that begins with these bytes is a picture, of a kind that can be recognised by its beginning."""
    kind = kind_of(header)
    return kind is not None and kind.shown_by == "start"


def kind_of(header: bytes) -> Kind | None:
    """The kind of a file, from its first `HEADER_BYTES` bytes. None: no kind that is known by its start."""
    return next((kind for start, kind in _compiled() if start.match(header)), None)


@cache
def _compiled() -> tuple[tuple[re.Pattern[bytes], Kind], ...]:
    return tuple((re.compile(kind.start, re.DOTALL), kind) for kind in KINDS)
