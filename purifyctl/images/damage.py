"""Whether all data of a JPEG or PNG file is there. Their decoders fill what is missing with grey and say nothing; those
of the other kinds refuse the file.
"""

import re

import numpy as np
import simplejpeg
from isal import isal_zlib
from numpy.typing import NDArray

from purifyctl.config.kinds import Kind

Encoded = NDArray[np.uint8]  # the bytes of one file

# What libjpeg says about compressed data that ends early or means nothing
OF_DATA = re.compile(r"premature end|bad Huffman|extraneous bytes before marker 0xd\d|RST|progression", re.IGNORECASE)
BETWEEN_SCANS = re.compile(r"extraneous bytes before marker 0x(c4|d[abd])")  # of a progressive file
# What it says about headers: nothing is missing then
OF_HEADERS = re.compile(r"Adobe color|JFIF revision|Invalid SOS parameters|ICC marker|extraneous bytes before marker")
END = b"\xff\xd9"  # of a JPEG
SCAN = b"\xff\xda"  # begins a scan of one; within a scan's data these bytes never follow each other
# A scan of nothing takes ten bytes and passes over all pixels. Usual files have 10 scans, the smallest ones up to 64.
USUAL_SCANS, SCANNED_PIXELS = 20, 4_000_000_000


def damage(kind: Kind, data: Encoded, *, progressive: bool = False) -> str | None:
    """What is wrong with a file's data, in words. None: it is sound, or of a kind whose decoder says so itself.

    `progressive`: it is a JPEG whose data comes in several scans.
    """
    if kind.name == "JPEG":
        return _jpeg(data, progressive)
    return _png(data) if kind.name == "PNG" else None


def too_many_scans(data: Encoded, pixels: int) -> str | None:
    """Why a progressive JPEG with this number of pixels would take too long to decode. None: it would not."""
    scans = data.tobytes().count(SCAN)
    if scans <= USUAL_SCANS or scans * pixels <= SCANNED_PIXELS:
        return None
    return f"The JPEG passes over its {pixels:,} pixels {scans:,} times, which would take too long."


def _jpeg(data: Encoded, progressive: bool) -> str | None:
    why = _warning(data, progressive)
    if why and why.startswith("Premature end of JPEG file"):
        marked = np.append(data, np.frombuffer(END, np.uint8))
        if _warning(marked, progressive) is None:  # only the mark of the end is missing
            return None
    if why is None or _is_padding(why, data):
        return None
    return f"The JPEG data is damaged or ends early ({why.removeprefix('Corrupt JPEG data: ')}){_share_missing(data)}."


def _warning(data: Encoded, progressive: bool) -> str | None:
    """libjpeg's first warning about the compressed data. Most of the time goes into reading all of it; the pixels are
    made at an eighth of the size, which costs little.
    """
    try:
        simplejpeg.decode_jpeg(data, min_height=1, min_width=1, strict=True)
    except (ValueError, KeyError) as error:
        said = str(error)
        if OF_DATA.search(said) or (progressive and BETWEEN_SCANS.search(said)):
            return said
        # any other error: a marker that nobody knows, in the data or behind it; or a file that this decoder never takes
        return None if OF_HEADERS.search(said) or not _has_header(data) else said
    return None


def _has_header(data: Encoded) -> bool:
    """Whether this decoder can read a file's header, so that an error is about what comes after it."""
    try:
        simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: of a subsampling that it does not know
        return False
    return True


def _is_padding(why: str, data: Encoded) -> bool:
    """Whether the bytes that were too many are zeros in front of the end, as some cameras write them."""
    found = re.search(r"(\d+) extraneous bytes before marker 0xd9", why)
    return found is not None and bytes(int(found[1])) + END in data.tobytes()


def _share_missing(data: Encoded) -> str:
    """How much of the picture is missing at its lower end: rows that libjpeg filled with one colour."""
    try:
        grey = simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=False)[..., 0]
    except (ValueError, KeyError):
        return ""
    filled = (grey == grey[-1, -1]).all(axis=1)
    rows = int(np.argmin(filled[::-1])) if not filled.all() else len(filled)
    share = round(100 * rows / len(filled))
    return f"; about {share} % of the picture is missing at the bottom" if share else ""


def _png(data: Encoded) -> str | None:
    """Check the sums of all chunks that make up the picture."""
    at, file = 8, memoryview(data)  # type: ignore[arg-type]  # numpy's arrays are buffers
    while at + 8 <= len(file):
        length, name = int.from_bytes(file[at : at + 4]), bytes(file[at + 4 : at + 8])
        end = at + 12 + length
        if end > len(file):
            return (
                f"The PNG data ends early: {end - len(file):,} bytes of its chunk {name.decode('latin-1')} are missing."
            )
        if name[:1].isupper() and isal_zlib.crc32(file[at + 4 : end - 4]) != int.from_bytes(file[end - 4 : end]):
            return f"The PNG data is damaged: the sum of its chunk {name.decode('latin-1')} is wrong."
        if name == b"IEND":
            return None
        at = end
    return "The PNG data ends early: its last chunk is missing." if at == 8 else None
