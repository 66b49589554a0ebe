"""Files, written so that a reader finds all of them or nothing; and what identifies them."""

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

_counter = itertools.count()


def write_atomically(file: Path, data: bytes | memoryview, *, temporary: Path | None = None) -> None:
    """Write a file so that a reader finds all of it or nothing.

    `temporary`: the folder to write in first, of the same file system; without one, the file's own.
    """
    # short: `file`'s own name may be as long as names can be
    part = (temporary or file.parent) / f".{os.getpid()}-{next(_counter)}.part"
    try:
        part.write_bytes(data)
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_into_tree(file: Path, data: bytes | memoryview, *, temporary: Path | None = None) -> None:
    """`write_atomically`, and make the folder first where there is none yet."""
    try:
        write_atomically(file, data, temporary=temporary)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data, temporary=temporary)


def link_into_tree(file: Path, target: Path, *, temporary: Path) -> None:
    """A hard link to `target`, in place of whatever `file` is; makes its folder first where there is none yet."""
    part = temporary / f".{os.getpid()}-{next(_counter)}.part"
    os.link(target, part)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)  # still there where `file` was such a link already


def write_json(file: Path, data: Any) -> None:
    """Write plain data as JSON for people and programs, atomically."""
    write_atomically(file, (json.dumps(data, indent=2) + "\n").encode())


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
