"""Purified images onto disk: a mirrored tree in which no two inputs share a name, written atomically."""

import itertools
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from purifyctl.images.encode import EXTENSIONS

_counter = itertools.count()


def output_paths(paths: Sequence[PurePosixPath], image_format: str) -> list[PurePosixPath]:
    """Where each input's purified image goes, relative to the images folder. Never the same for two inputs.

    `cats/1.png` keeps its name when PNG is written; `cats/1.jpg` becomes `cats/1.jpg.png`, so that it stays apart
    from a `cats/1.png` beside it. Should that name be taken too, the ending is added once more.
    """
    endings = EXTENSIONS[image_format]
    kept: dict[PurePosixPath, set[str]] = defaultdict(set)
    for folder in {folder for path in paths for folder in path.parents}:
        kept[folder.parent].add(folder.name)  # a folder's name is taken too
    for path in paths:
        if path.suffix.lower() in endings:
            kept[path.parent].add(path.name)
    outputs = []
    for path in paths:
        name = path.name
        taken = kept[path.parent]
        if path.suffix.lower() not in endings:
            name += endings[0]
            while name in taken:
                name += endings[0]
            taken.add(name)
        outputs.append(path.with_name(name))
    return outputs


def write_atomically(file: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader finds all of it or nothing."""
    # short: `file`'s own name may be as long as names can be
    temporary = file.with_name(f".{os.getpid()}-{next(_counter)}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def printable(path: PurePosixPath) -> str:
    """A path as text that any file format takes: bytes that are no UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
