"""Texts of control characters, bidirectional overrides, combining marks and half characters, as strangers make them."""

import random
import re
import unicodedata

ALPHABETS = (
    [chr(code) for code in (*range(1, 0x20), 0x7F, *range(0x80, 0xA0))],
    [chr(code) for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)],
    [chr(code) for code in (0x300, 0x301, 0x336, 0x489, 0x20DD, 0x200B, 0x200D, 0xFEFF, 0xFE0F)],
    [chr(code) for code in (0xD800, 0xDBFF, 0xDC00, 0xDC80, 0xDCFF, 0xDFFF)],
    ["\x1b[2J", "\x1b]0;title\x07", "\x1b[1A\x1b[2K", "\x9b31m", "\r", "\n", "\nerror: ", "\x1b[8m", "\x08", "\t"],
    [*"=+-@ab1 .[]{}%'\"\\", "é", "日", "🙂", "[red]", "[/]", "trusted here  yes"],
)
OUR_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")


def texts(n: int, *, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [
        "".join(chance.choice(chance.choice(ALPHABETS)) for _ in range(chance.randint(1, 12))) + str(i)
        for i in range(n)
    ]


def names(n: int, *, seed: int = 0) -> list[bytes]:
    """The same as names that a file can have. None is hidden, and none looks like an option."""
    return [b"n" + text.encode(errors="surrogatepass").replace(b"/", b"") for text in texts(n, seed=seed)]


def check(printed: bytes) -> None:
    """Nothing but line ends and our own colours moves a terminal."""
    plain = OUR_COLOURS.sub(b"", printed)
    assert not [byte for byte in plain if (byte < 0x20 and byte != 0x0A) or byte == 0x7F], plain
    moving = [char for char in plain.decode() if unicodedata.category(char) in ("Cf", "Cs", "Zl", "Zp")]
    assert not moving, plain
    assert not re.search("[\x80-\x9f]", plain.decode())
