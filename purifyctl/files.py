"""Writes files so that a reader finds a whole file or none; opens files that strangers made; and hashes them."""

import errno
import hashlib
import io
import itertools
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

_counter = itertools.count()
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # nothing else can be written there, either


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


def open_regular(file: Path) -> io.BufferedReader:
    """Open a file to read it. Pipes and devices are not opened, because that may wait forever or change something.

    Raises
    ------
    OSError
        It cannot be opened, or is no regular file. `strerror` says why.
    """
    _check_regular(file.stat())
    # it may have changed since: a pipe without a writer opens at once like this
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_regular(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file, but a pipe, a socket or a device")


def file_sha256(file: Path) -> str:
    """Raises OSError if it cannot be read, or is no regular file."""
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
