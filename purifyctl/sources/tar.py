"""The headers of tar archives from strangers. Whatever they say costs one member, or at worst the rest of the archive.

Python's tarfile takes headers at their word. It loads extended headers of any size, follows negative sizes backwards,
stops at the first damage, and raises a dozen kinds of errors. Here every number is checked against the archive's own
length, and reading continues behind damage if there is another header.
"""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

BLOCK = 512
EXTENDED_BYTES = 1 << 20  # of one extended header: a name, times, attributes such as those of macOS
NAME_BYTES = 4096  # no file system has longer paths
SEARCHED_BYTES = 256 << 20  # of one archive, behind damage
AT_ONCE = 1 << 16  # bytes searched at once
SIZE = re.compile(rb"\d{1,18}")
USED = frozenset((b"path", b"linkpath", b"size", b"GNU.sparse.name"))  # records of extended headers that count here

Kind = Literal["file", "folder", "hard link", "symbolic link", "device", "other"]
_KINDS: dict[bytes, Kind] = {b"0": "file", b"\0": "file", b"7": "file", b"5": "folder", b"D": "folder"}
_KINDS |= {b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"6": "device"}


class Member(NamedTuple):
    """One member as its headers describe it."""

    name: bytes
    kind: Kind
    start: int  # of its bytes within the archive
    size: int  # 0 if there is a problem
    mtime: int  # seconds since 1970
    target: bytes  # of a link
    problem: str  # why it cannot be read; empty: all its bytes lie inside the archive


class TarHeaders:
    """Iterates over an archive's members, in the archive's order.

    Parameters
    ----------
    stream
        The archive, not compressed, from its first byte. Any position can be read. Only headers are read, except
        behind damage. At most 1 MiB of the archive is in memory at a time.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._length = stream.seek(0, os.SEEK_END)
        self._to_search = SEARCHED_BYTES
        self._damage: list[str] = []  # the first place
        self._places = 0
        self._lost = ""

    @property
    def problem(self) -> str:
        """What is wrong with the archive, known when the iteration is over. Empty: nothing."""
        more = [f"There are {self._places - 1:,} more damaged places."] if self._places > 1 else []
        return " ".join([*self._damage, *more, self._lost]).strip()

    def __iter__(self) -> Iterator[Member]:
        """Raises OSError if the archive cannot be read."""
        at: int | None = 0
        said: dict[bytes, bytes] = {}  # by extended headers about the next member
        problem = ""
        while at is not None:
            block = self._read(at, BLOCK)
            if len(block) < BLOCK:
                self._note(f"It ends at byte {self._length:,} without an end mark: it was cut short.")
                return
            if not block.strip(b"\0"):
                if not self._places:
                    return
                at = self._next_header(at + BLOCK)  # behind damage it may be the end of an archive within this one
                continue
            header = _Header.of(block)
            if header is None:
                where = f"There is no valid header at byte {at:,}." if at else "It does not begin as a tar file does."
                self._note(where)
                at, said, problem = self._next_header(at + BLOCK), {}, ""
                continue
            start = at + BLOCK
            if header.kind in b"xXgLK":
                at, found = self._extended(start, header)
                if at is None:
                    at, found = self._next_header(start), None
                if found is None:
                    problem = "Its extended header is damaged or too large."
                elif header.kind != b"g":  # one for all members; no program gives them all one name or one size
                    said |= found
                continue
            if header.kind == b"S":
                start = self._behind_sparse_map(start, block)
            member = _member(header, said, start, problem, self._length)
            if not header.has_data:
                at = start
            elif 0 <= member.size <= self._length - start:
                at = start + _blocks(member.size)
            else:
                what = "no valid size" if member.size < 0 else f"{member.size:,} bytes, more than follow"
                self._note(f"The member at byte {at:,} has {what}.")
                at = self._next_header(start)
            if header.kind != b"V":  # the archive's own label
                yield member._replace(size=0) if member.problem else member
            said, problem = {}, ""

    def _read(self, at: int, length: int) -> bytes:
        self._stream.seek(min(at, self._length))
        return self._stream.read(length)

    def _note(self, damage: str) -> None:
        self._places += 1
        self._damage = self._damage or [damage]

    def _extended(self, start: int, header: "_Header") -> tuple[int | None, dict[bytes, bytes] | None]:
        """Where the next header lies, None if that is not known; and what this one says, None if it is damaged."""
        size = header.size
        if size is None or size < 0 or start + size > self._length:
            self._note(f"At byte {start - BLOCK:,} there is an extended header that the archive does not hold.")
            return None, None
        found = None
        if size > EXTENDED_BYTES:
            self._note(f"At byte {start - BLOCK:,} there is an extended header of {size:,} bytes.")
        else:
            data = self._read(start, size)
            if header.kind in b"LK":
                found = {b"path" if header.kind == b"L" else b"linkpath": data.partition(b"\0")[0]}
            else:
                found = _records(data)
        return start + _blocks(size), found

    def _behind_sparse_map(self, start: int, block: bytes) -> int:
        more = block[482]
        while more:
            block = self._read(start, BLOCK)
            if len(block) < BLOCK or _is_marked_header(block):
                break
            more = block[504]
            start += BLOCK
        return start

    def _next_header(self, at: int) -> int | None:
        """The next place that has a header, found by looking at every block."""
        while at < self._length:
            if self._to_search <= 0:
                self._lost = f"What follows byte {at:,} was not searched for members."
                return None
            chunk = self._read(at, AT_ONCE)
            for i in range(0, len(chunk) - BLOCK + 1, BLOCK):
                if _is_marked_header(chunk[i : i + BLOCK]):
                    self._to_search -= i
                    return at + i
            self._to_search -= AT_ONCE
            at += AT_ONCE
        return None


class _Header(NamedTuple):
    name: bytes
    kind: bytes
    size: int | None  # None: it is no number
    mtime: int
    target: bytes

    @staticmethod
    def of(block: bytes) -> "_Header | None":
        """What a block says. None: it is no header, because its checksum is wrong."""
        rest = block[:148] + b" " * 8 + block[156:]
        unsigned = sum(rest)
        if _number(block[148:156]) not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest)):
            return None  # some old programs summed signed bytes
        name, prefix = _text(block[:100]), _text(block[345:500])
        if block[257:263] == b"ustar\0" and prefix:
            name = prefix + b"/" + name
        return _Header(
            name, block[156:157], _number(block[124:136]), _number(block[136:148]) or 0, _text(block[157:257])
        )

    @property
    def has_data(self) -> bool:
        return self.kind not in b"123456"


def size_in_header(block: bytes) -> int | None:
    """The size of the member that a header describes. None: the block is no header, or its size is no number."""
    header = _Header.of(block) if len(block) == BLOCK else None
    return header.size if header else None


def _is_marked_header(block: bytes) -> bool:
    """Whether a block that may be data is a header beyond doubt."""
    return block[257:262] == b"ustar" and _Header.of(block) is not None


def _member(header: _Header, said: dict[bytes, bytes], start: int, problem: str, length: int) -> Member:
    is_sparse = header.kind == b"S" or b"sparse" in said
    name = said.get(b"GNU.sparse.name", said.get(b"path", header.name))
    kind = _KINDS.get(header.kind, "other")
    if header.kind == b"\0" and name.endswith(b"/"):
        kind = "folder"
    stated = said.get(b"size")
    size = header.size if stated is None else int(stated) if SIZE.fullmatch(stated) else None
    if size is None or size < 0:
        problem = problem or "Its size is no number, or a negative one."
        size = -1
    elif size != header.size and size < 8**11:  # the largest size of a plain header
        problem = problem or "Its headers give it two sizes."
    elif header.has_data and start + size > length:
        problem = problem or f"It has {size:,} bytes, and its archive holds {length - start:,} of them."
    if is_sparse:
        problem = problem or "It is stored without its zeros (tar --sparse), which is not read."
    if b"\0" in name:
        problem, name = problem or "Its name holds a zero byte.", name.replace(b"\0", b"%00")
    if len(name) > NAME_BYTES:
        problem, name = problem or f"Its name has {len(name):,} bytes.", name[:100] + b"..." + name[-100:]
    return Member(name, kind, start, size, header.mtime, said.get(b"linkpath", header.target)[:NAME_BYTES], problem)


def _records(data: bytes) -> dict[bytes, bytes] | None:
    """The records of a PAX header that count here: `LENGTH KEY=VALUE`, each with a line end. None: it is damaged."""
    found, at = {}, 0
    while at < len(data) and data[at]:  # some programs pad it with zeros
        digits, space, _ = data[at : at + 8].partition(b" ")
        if not (space and digits.isdigit()):
            return None
        end = at + int(digits)
        key, equals, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            return None
        if key in USED:
            found[key] = value
        if key.startswith(b"GNU.sparse."):
            found[b"sparse"] = b""
        at = end
    return found


def _number(field: bytes) -> int | None:
    """A number in a header: octal digits, or the base 256 of GNU. None: it is none."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    digits = _text(field).strip(b" ")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else None


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
