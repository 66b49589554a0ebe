"""A folder of photographs and hostile files: every kind that `tests.tiny` knows, fuzzed bytes, odd names.

python -m tests.hostile --photos DIR --out DIR [--n 2000] [--share 0.2] [--seed 0]
"""

import argparse
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import get_args

from purifyctl.errors import Status
from purifyctl.images.sink import printable
from purifyctl.run.rows import read_rows
from tests import tiny

READ = frozenset(get_args(Status)) - {"crashed", "timeout", "write_failed"}  # the statuses that a damaged file may get
MARK = "kills-its-decoder"
NAMES = (b"plain %d", b"new\nline %d", b"caf\xe9 %d", b"<b>%d<b>", b"%d %%s $(id) `id`", b"-%d", b"\xe6\x97\xa5 %d")


def build(photos: Path, out: Path, n: int, share: float, seed: int) -> dict[bytes, frozenset[str]]:
    """Make a folder of n files; `share` of them are hostile. Returns the statuses that each file may get.

    Raises
    ------
    ValueError
        There are too few photographs.
    """
    chance = random.Random(seed)
    good = sorted(file for file in photos.rglob("*") if file.is_file())
    hostile = round(n * share)
    if len(good) < n - hostile:
        raise ValueError(f"{photos} holds {len(good)} files; {n - hostile} are needed.")
    chance.shuffle(good)
    expected: dict[bytes, frozenset[str]] = {}
    out.mkdir(parents=True)
    bad = itertools.islice(_hostile(good, chance), hostile)
    files = [(b"%s.jpg" % file.stem.encode(), file, frozenset({"ok"})) for file in good[: n - hostile]]
    for name, content, statuses in chance.sample([*files, *bad], n):
        path = b"%05d %s" % (len(expected), name)  # hostile ones are everywhere among the others
        expected[path] = statuses
        file = out / os.fsdecode(path)
        if isinstance(content, Path):
            file.symlink_to(content.absolute())
        else:
            file.write_bytes(content)
    return expected


def mark(picture: Path) -> None:
    """Put `MARK` into a JPEG as a comment: `tests.faulty_decoder` dies of it, and nothing else does."""
    data = picture.read_bytes()
    comment = b"\xff\xfe" + (len(MARK) + 2).to_bytes(2) + MARK.encode()
    picture.unlink()  # it may be a link
    picture.write_bytes(data[:2] + comment + data[2:])


def _hostile(good: list[Path], chance: random.Random) -> Iterator[tuple[bytes, bytes, frozenset[str]]]:
    """Hostile kinds and fuzzed photographs in turns, without end."""
    kinds = itertools.cycle(tiny.hostile_files().items())
    for i in itertools.count():
        name = NAMES[i % len(NAMES)] % i
        if i % 2:
            kind, (data, status) = next(kinds)
            yield b"%s %s" % (name, kind.encode()), data, frozenset({status})
        else:
            yield name + b".jpg", fuzzed(chance.choice(good).read_bytes(), chance), READ


def fuzzed(data: bytes, chance: random.Random) -> bytes:
    """A copy with some bytes changed, cut out or doubled, or without its end."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 20)):
        at = chance.randrange(len(changed) or 1)
        what = chance.random()
        if what < 0.7 and changed:
            changed[at] = chance.randrange(256)
        elif what < 0.8:
            del changed[at : at + chance.randint(1, 64)]
        elif what < 0.9:
            changed[at:at] = changed[at : at + chance.randint(1, 64)]
        else:
            changed = changed[: max(16, at)]
    return bytes(changed)


def check(out: Path, expected: dict[bytes, frozenset[str]]) -> dict[str, int]:
    """Check that a run has one row for every file, with a status that it may get. Returns the number of each status."""
    rows = [row for part in sorted((out / "rows").iterdir()) for row in read_rows(part)]
    by_path = {printable(PurePosixPath(os.fsdecode(path))): statuses for path, statuses in expected.items()}
    assert len(rows) == len(by_path) == len({row["path"] for row in rows})
    for row in rows:
        assert row["status"] in by_path[row["path"]], row
    return dict(Counter(row["status"] for row in rows).most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = build(arguments.photos, arguments.out, arguments.n, arguments.share, arguments.seed)
    print(f"{len(made)} files in {arguments.out}.")


if __name__ == "__main__":
    main()
