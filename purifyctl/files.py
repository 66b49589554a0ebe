"""Writes files so that a reader finds a whole file or none; and hashes them."""

import hashlib
import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

_counter = itertools.count()


def write_atomically(file: Path, data: bytes | memoryview, *, temporary: Path | None = None) -> None:
    """Write a file so that a reader finds the whole file or none.

    `temporary`: the folder where the file is written first. It must be on the same file system. None: the file's own.
    """
    # a short name, because `file`'s own name may have the greatest length that is allowed
    part = (temporary or file.parent) / f".{os.getpid()}-{next(_counter)}.part"
    try:
        part.write_bytes(data)
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_into_tree(file: Path, data: bytes | memoryview, *, temporary: Path | None = None) -> None:
    """As `write_atomically`; makes the folder of the file if it is missing."""
    try:
        write_atomically(file, data, temporary=temporary)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data, temporary=temporary)


def link_into_tree(file: Path, target: Path, *, temporary: Path) -> None:
    """Make `file` a hard link to `target`. It replaces an existing file, and makes the folder if it is missing."""
    part = temporary / f".{os.getpid()}-{next(_counter)}.part"
    os.link(target, part)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)  # it is still there if `file` already was a link to `target`


def write_json(file: Path, data: Any) -> None:
    """Write plain data as JSON for people and programs, atomically."""
    write_atomically(file, (json.dumps(data, indent=2) + "\n").encode())


def why_not_writable(folder: Path) -> str:
    """Make a folder if there is none, and a file in it, which is removed: why this fails. Empty: it does not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
