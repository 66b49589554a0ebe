"""Lists of files, as people and other systems write them."""

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from purifyctl.errors import ConfigError
from purifyctl.sources.source import Tree
from purifyctl.sources.urls import without_secrets

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def listed_paths(file: Path, tree: Tree) -> Iterator[bytes]:
    """The paths that a list names, as a listing writes them: relative to the root, archives with a slash.

    One path per line, or with NUL bytes between them (`find -print0`), whose names are exact. A path is relative to the
    root, or whole, or a URL in the tree. A path that is named twice counts once. UTF-8 with or without a mark at
    its beginning, other bytes as the file system has them, and UTF-16 with a mark are read. Spaces at the end of a
    line are left out, and so are empty lines and lines that begin with "# ".

    Raises
    ------
    ConfigError
        The list cannot be read, names nothing, or names something outside of the tree.
    """
    if not file.is_file():
        raise ConfigError(
            f"There is no file {file}.", hint="check --files-from; a list is read twice, so a pipe will not do"
        )
    empty = True
    try:
        with file.open("rb") as stream:
            for number, line in _lines(stream):
                empty = False
                try:
                    path = tree.inside(line)
                except ConfigError as error:
                    raise ConfigError(f"{file}, line {number}: {error.message}", hint=error.hint) from None
                if path is None:
                    named = without_secrets(os.fsdecode(line))
                    raise ConfigError(
                        f"{file}, line {number}: {named!r} is no file in SRC.",
                        hint="write paths as they are in SRC, or whole paths that lead into it",
                    )
                yield path + b"/" if path.endswith(b".tar") else path
    except UnicodeError:
        raise ConfigError(f"{file} begins as UTF-16 and is not.", hint="save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}.", hint="check --files-from") from None
    if empty:
        raise ConfigError(f"{file} names no file.", hint="check --files-from")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that name something, with their numbers."""
    start = stream.read(1 << 16)
    stream.seek(0)
    if start.startswith(_UTF16):
        lines: Iterator[bytes] = iter(os.fsencode(stream.read().decode("utf-16")).split(b"\n"))
    elif b"\0" in start:
        yield from ((number, name) for number, name in enumerate(split(stream, b"\0"), 1) if name)
        return
    else:
        stream.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
        lines = split(stream, b"\n")
    for number, line in enumerate(lines, 1):
        line = line.rstrip(b" \t\r\n")
        if line and line != b"#" and not line.startswith(b"# "):
            yield number, line


def split(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    """What lies between the separators, and after the last one."""
    rest = b""
    while data := stream.read(1 << 20):
        *lines, rest = (rest + data).split(separator)
        yield from lines
    yield rest
