"""Tar archives that lie: built block by block, because no tar program would write them."""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
END = bytes(2 * BLOCK)
PIXELS = b"\xff\xd8\xff" + bytes(range(1, 256)) * 5  # nothing decodes it here; no block of it looks like a header
TYPES = bytes(range(256))


def header(
    name: bytes,
    *,
    size: int | bytes = 0,
    kind: bytes = b"0",
    target: bytes = b"",
    magic: bytes = b"ustar\x0000",
    checksum: bytes | None = None,
    change: Callable[[bytearray], None] = lambda _: None,
) -> bytes:
    """One header block. Numbers may be given as the field's bytes; `change` is made before the checksum."""
    block = bytearray(BLOCK)
    block[:100] = name[:100].ljust(100, b"\0")
    block[100:108] = b"0000644\0"
    block[124:136] = (
        size.ljust(12, b"\0")[:12] if isinstance(size, bytes) else b"%011o\0" % size if size < 8**11 else base256(size)
    )
    block[136:148] = b"%011o\0" % 1_700_000_000
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157:257] = target[:100].ljust(100, b"\0")
    block[257:265] = magic
    change(block)
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes, data: bytes = PIXELS, **fields: object) -> bytes:
    return header(name, size=fields.pop("size", len(data)), **fields) + padded(data)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    """A record of a PAX header. Its length counts itself."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    return member(b"PaxHeaders/x", b"".join(record(*r) for r in records), kind=kind)


def base256(value: int) -> bytes:
    return bytes([0xFF if value < 0 else 0x80]) + (value % 256**11).to_bytes(11, "big")


VICTIM = member(b"victim.jpg")

# What stands between good members, by what is wrong with it. Each kind was seen to stop, hang or bloat tarfile.
FAULTS: dict[str, bytes] = {
    "zero byte in a PAX name": pax((b"path", b"a\0b.jpg")) + VICTIM,
    "sparse size that is no number": pax((b"GNU.sparse.size", b"zz"), (b"GNU.sparse.name", b"s.jpg")) + VICTIM,
    "sparse map of letters": pax((b"GNU.sparse.map", b"a,b,c"), (b"GNU.sparse.size", b"9")) + VICTIM,
    "sparse version 1.0 without a map": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")) + VICTIM,
    "sparse offset without bytes": pax((b"GNU.sparse.offset", b"-1"), (b"GNU.sparse.numbytes", b"x")) + VICTIM,
    "PAX size of 10**30": pax((b"size", b"1" + b"0" * 30)) + VICTIM,
    "PAX size with 5,000 digits": pax((b"size", b"9" * 5000)) + VICTIM,
    "negative PAX size": pax((b"size", b"-512")) + VICTIM,
    "PAX size in other digits": pax((b"size", "١٢".encode())) + VICTIM,
    "PAX size that is a fraction": pax((b"size", b"1.5")) + VICTIM,
    "negative base-256 size": member(b"victim.jpg", size=base256(-1024)),
    "huge base-256 size": member(b"victim.jpg", size=base256(2**80)),
    "size that is no number": member(b"victim.jpg", size=b"hello world"),
    "signed octal size": member(b"victim.jpg", size=b"-0000002000"),
    "size beyond the archive": member(b"victim.jpg", size=2**32),
    "wrong checksum": member(b"victim.jpg", checksum=b"000000\0 "),
    "checksum that is no number": member(b"victim.jpg", checksum=b"abcdefgh"),
    "record longer than its header": member(b"x", b"999999 path=a.jpg\n", kind=b"x") + VICTIM,
    "record of no length": member(b"x", b"0 path=a.jpg\n", kind=b"x") + VICTIM,
    "record with a negative length": member(b"x", b"-5 path=a.jpg\n", kind=b"x") + VICTIM,
    "record without a value": member(b"x", b"7 path\n\n", kind=b"x") + VICTIM,
    "extended header beyond the archive": header(b"x", size=2**33, kind=b"x") + VICTIM,
    "extended header of negative size": header(b"x", size=base256(-512), kind=b"x") + VICTIM,
    "long name beyond the archive": header(b"x", size=2**33, kind=b"L") + VICTIM,
    "long name of two MiB": member(b"x", b"n" * (2 << 20), kind=b"L") + VICTIM,
    "name of 9,000 bytes": pax((b"path", b"n" * 9000 + b".jpg")) + VICTIM,
    "10,000 extended headers": pax((b"path", b"again.jpg")) * 10_000 + VICTIM,
    "global name and size": pax((b"path", b"all.jpg"), (b"size", b"3"), kind=b"g") + VICTIM,
    "sparse member of GNU's": member(b"victim.jpg", kind=b"S"),
    "sparse map without end": header(b"victim.jpg", kind=b"S", change=lambda b: b.__setitem__(482, 1))
    + (bytes(504) + b"\1" + bytes(7)) * 50,
    "symbolic link to a file": header(b"victim.jpg", kind=b"2", target=b"/etc/passwd"),
    "hard link to a device": header(b"victim.jpg", kind=b"1", target=b"/dev/zero"),
    "link with data": member(b"victim.jpg", kind=b"2", target=b"good-0.jpg"),
    "character device": header(b"victim.jpg", kind=b"3"),
    "pipe": header(b"victim.jpg", kind=b"6"),
    "folder with data": member(b"victim.jpg/", kind=b"5"),
    "unknown type": member(b"victim.jpg", kind=b"\xee"),
    "label of another volume": member(b"victim.jpg", kind=b"M"),
    "name that leads out": member(b"../../victim.jpg"),
    "name of slashes": member(b"////") + VICTIM,
    "archive in a picture's place": member(b"victim.jpg", member(b"inner.jpg") + END),
    "garbage between members": bytes(range(256)) * 8,
}


class Case(NamedTuple):
    what: str
    archive: bytes
    good: dict[str, bytes]  # members that must be found and read, whatever else the archive says


def wrapped(what: str, fault: bytes) -> Case:
    """A fault between good members."""
    good = {f"good-{i}.jpg": PIXELS + b"%d" % i for i in range(4)}
    blocks = [member(name.encode(), data) for name, data in good.items()]
    return Case(what, b"".join(blocks[:2]) + fault + b"".join(blocks[2:]) + END, good)


def cases(n: int, seed: int) -> Iterator[Case]:
    """Kinds in turns, each with other random choices."""
    chance = random.Random(seed)
    kinds = (_records, _header, _size, _named_fault, _cut, _bytes_changed, _chain, _nested)
    for i in range(n):
        yield kinds[i % len(kinds)](chance)


def _records(chance: random.Random) -> Case:
    keys = (b"path", b"linkpath", b"size", b"mtime", b"uid", b"hdrcharset", b"GNU.sparse.size", b"GNU.sparse.map")
    keys += (b"GNU.sparse.name", b"GNU.sparse.realsize", b"GNU.sparse.major", b"GNU.sparse.numblocks", b"", b"SCHILY.x")
    values = (b"", b"zz", b"-1", b"1" + b"0" * 30, b"1,2,3", b"\0", b"\xff\xfe", b"a.jpg", b"../x.jpg", b"1e9", b"NaN")
    data = b"".join(
        record(chance.choice(keys), chance.choice((*values, chance.randbytes(chance.randint(0, 40)))))
        for _ in range(chance.randint(1, 5))
    )
    if chance.random() < 0.5:
        data = _changed(data, chance)
    kind = chance.choice((b"x", b"X", b"g"))
    following = VICTIM if chance.random() < 0.7 else member(b"victim.jpg", size=chance.choice((b"zz", base256(-5))))
    return wrapped("records", member(b"x", data, kind=kind) + following)


def _header(chance: random.Random) -> Case:
    def change(block: bytearray) -> None:
        for _ in range(chance.randint(1, 8)):
            at = chance.choice([*range(124), *range(136, BLOCK)])
            block[at] = chance.randrange(256)

    kind = bytes([chance.choice(TYPES)])
    fault = member(b"victim.jpg", kind=kind, change=change if chance.random() < 0.7 else lambda _: None)
    return wrapped(f"header of type {kind!r}", fault + VICTIM)  # it may be an extended header of the next one


def _size(chance: random.Random) -> Case:
    value = chance.choice((chance.randint(-(2**70), 2**70), chance.randint(-(2**20), 0), chance.randint(2**20, 2**33)))
    field = chance.choice((base256(value), b"%o" % abs(value), chance.randbytes(12), b"%d" % value))
    kind = chance.choice((b"0", b"x", b"L", b"K", b"S", b"g", b"V", b"7"))
    case = wrapped(f"size {field!r} of type {kind!r}", member(b"victim.jpg", size=field, kind=kind) + VICTIM)
    is_honest = field[0] != 0xFF and not (field[0] == 0x80 and int.from_bytes(field[1:], "big") > len(case.archive))
    return case._replace(good=dict(list(case.good.items())[:2])) if is_honest else case  # it may hold what follows


def _named_fault(chance: random.Random) -> Case:
    names = chance.sample([name for name in FAULTS if not name.startswith(("10,000", "long name of"))], 2)
    return wrapped(" and ".join(names), FAULTS[names[0]] + member(b"between.jpg") + FAULTS[names[1]])


def _cut(chance: random.Random) -> Case:
    case = wrapped("cut short", VICTIM)
    length = chance.randrange(len(case.archive))
    kept = {name: data for name, data in case.good.items() if case.archive.find(data) + len(data) <= length}
    return Case("cut short", case.archive[:length], kept)


def _bytes_changed(chance: random.Random) -> Case:
    case = wrapped("changed bytes", chance.choice(list(FAULTS.values())[:25]))
    at = chance.randrange(len(case.archive))
    changed = case.archive[:at] + _changed(case.archive[at : at + 4 * BLOCK], chance) + case.archive[at + 4 * BLOCK :]
    intact = {name: data for name, data in case.good.items() if case.archive.find(data) + len(data) <= at}
    return Case(case.what, changed, intact)


def _chain(chance: random.Random) -> Case:
    """Many extended headers, one after the other."""
    kinds = [chance.choice((b"x", b"g", b"L", b"K")) for _ in range(chance.randint(10, 500))]
    headers = [
        pax((b"path", b"%d.jpg" % i), kind=k) if k in b"xg" else member(b"n", b"%d.jpg" % i, kind=k)
        for i, k in enumerate(kinds)
    ]
    return wrapped("a chain", b"".join(headers) + VICTIM)


def _nested(chance: random.Random) -> Case:
    inner = member(b"inner.jpg") + END
    for _ in range(chance.randint(1, 30)):
        inner = member(chance.choice((b"inner.tar", b"inner.jpg")), inner) + END[: chance.choice((0, BLOCK, 1024))]
    return wrapped("nested", member(b"outer.tar", inner, checksum=chance.choice((None, b"000000\0 "))))


def _changed(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 20)):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)
