"""Camera raw files that call themselves TIFF (NEF, DNG, ARW, PEF, ...). Their first page is a small preview, which
nobody means to purify instead of the photograph, and only their tags show what they are.
"""

import struct
from dataclasses import dataclass

from purifyctl.config.kinds import RAW

SUBFILE_TYPE, PHOTOMETRIC, MAKE, SUB_PAGES, DNG_VERSION = 254, 262, 271, 330, 50706
SENSOR = (32803, 34892)  # photometric interpretations: a colour filter array, a linear raw picture
REDUCED = 1  # in SUBFILE_TYPE: the page is a smaller copy of another one
MOST_ENTRIES, MOST_PAGES = 500, 8  # more are read by nobody, and a damaged file may claim any number
TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 13: "I"}  # BYTE, ASCII, SHORT, LONG, IFD

Values = tuple[int, ...] | bytes


@dataclass(frozen=True)
class _File:
    data: memoryview
    order: str  # of bytes, as struct writes it

    def unpack(self, layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + layout, self.data, at)

    def page(self, at: int) -> dict[int, Values]:
        """The tags of a page that are read here."""
        (count,) = self.unpack("H", at)
        tags: dict[int, Values] = {}
        for entry in range(at + 2, at + 2 + 12 * min(count, MOST_ENTRIES), 12):
            tag, kind, n = self.unpack("HHI", entry)
            if tag not in (SUBFILE_TYPE, PHOTOMETRIC, MAKE, SUB_PAGES, DNG_VERSION) or kind not in TYPES:
                continue
            n = min(n, 64 if kind == 2 else MOST_PAGES)
            layout = f"{n}{TYPES[kind]}"
            where = entry + 8 if struct.calcsize("=" + layout) <= 4 else self.unpack("I", entry + 8)[0]
            values = self.unpack(layout, where)
            tags[tag] = values[0] if kind == 2 else values  # type: ignore[assignment]
        return tags


def not_the_picture(data: memoryview) -> str | None:
    """Why the first page of this TIFF file is not the photograph, and what to do. None: it is."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        return None
    file = _File(data, order)
    try:
        first = file.page(file.unpack("I", 4)[0])
        inner = [file.page(at) for at in first.get(SUB_PAGES, ()) if isinstance(at, int)]
    except struct.error:  # a damaged file; its reader will say so
        return None
    if DNG_VERSION in first:
        return RAW.format("DNG")
    if any(one in SENSOR for page in (first, *inner) for one in page.get(PHOTOMETRIC, ())):
        make = first.get(MAKE, b"")
        maker = make.split(b"\0")[0].decode("ascii", "replace").split() if isinstance(make, bytes) else []
        return RAW.format(f"{maker[0].title()} raw" if maker else "inside TIFF")
    if inner and any(one & REDUCED for one in first.get(SUBFILE_TYPE, ()) if isinstance(one, int)):
        return "Its first page is only a preview, and the picture lies where it is not read: save it as plain TIFF."
    return None
