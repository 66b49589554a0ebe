"""PNG files, several times faster than Pillow writes them, and a little larger.

Each row is stored as its difference from the row above (PNG's filter "up"), and ISA-L compresses the rows. Pillow tries
five filters for each row, and zlib searches for longer matches. Figures: docs/benchmarks.md.
"""

from collections.abc import Iterable

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
UP = 2  # the filter's number in a file
COLOUR_TYPE = {1: 0, 3: 2, 4: 6}  # by the number of channels: grey, RGB, RGB with alpha
LEVEL = 1  # of ISA-L: 0 takes as long and makes larger files, 2 and 3 take longer and save nothing


def encode_png(image: NDArray[np.uint8], chunks: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG file of uint8 [height, width, channels], where channels are grey, RGB, or RGB with alpha.

    Parameters
    ----------
    chunks
        More chunks, such as `(b"iCCP", ...)`: the type of each, of four letters, and its data. They stand before the
        pixels.
    """
    height, width, channels = image.shape
    rows = np.empty((height, 1 + width * channels), np.uint8)
    flat = image.reshape(height, width * channels)
    rows[:, 0] = UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])  # modulo 256, as PNG asks for
    header = _number(width) + _number(height) + bytes([8, COLOUR_TYPE[channels], 0, 0, 0])
    pixels = isal_zlib.compress(rows, LEVEL)
    return SIGNATURE + b"".join(
        _chunk(kind, data) for kind, data in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return _number(len(data)) + kind + data + _number(isal_zlib.crc32(data, isal_zlib.crc32(kind)))


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")
