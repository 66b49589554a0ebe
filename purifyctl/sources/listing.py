"""The inputs of a tree: a stream in one fixed order, that of their paths byte by byte, never all in memory."""

import heapq
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from purifyctl.errors import ConfigError
from purifyctl.sources.archive import members
from purifyctl.sources.source import Found, Tree
from purifyctl.sources.urls import without_secrets


def find_inputs(
    tree: Tree,
    *,
    files_from: Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Iterator[Found]:
    """Every file of a tree (or the one file that it is), sorted by path; for archives, every image inside.

    A file need not look like an image: reading it shows what it is, and it gets its row either way. A folder that
    cannot be listed gets a row, too, and so does a link to a folder, which is not followed. Hidden files and folders
    (leading dot) are left out.

    Members of an uncompressed tar archive (`*.tar`) are named `ARCHIVE/PATH`. Members whose names do not end like an
    image's are left out: many archives hold a label beside each image.

    Parameters
    ----------
    files_from
        A list of paths in the tree, which is then not listed: one path per line, or with NUL bytes between them
        (`find -print0`). A path that is named twice counts once; a file that is not there gets its row when it is
        read. Lines may also be whole paths or URLs in the tree.
    include, exclude
        Globs on the relative path, such as `*.jpg` or `cats/*`; `*` also matches slashes. Without `include`
        everything is included.

    Raises
    ------
    ConfigError
        The root or the list does not exist or cannot be read.
    """
    if files_from is None:
        found = _all(tree)
    elif files_from.is_file():
        found = _listed(files_from, tree)
    else:
        raise ConfigError(
            f"There is no file {files_from}.", hint="check --files-from; a list is read twice, so a pipe will not do"
        )
    return filter(_chosen_by(include, exclude), found)


def _chosen_by(include: Sequence[str], exclude: Sequence[str]) -> Callable[[Found], bool]:
    def chosen(found: Found) -> bool:
        if not include and not exclude:
            return True
        path = os.fsdecode(found.path)
        return (not include or any(fnmatchcase(path, g) for g in include)) and not any(
            fnmatchcase(path, g) for g in exclude
        )

    return chosen


def _all(tree: Tree) -> Iterator[Found]:
    if tree.is_folder():
        yield from _walk(tree)
    elif tree.root_name.endswith(b".tar"):
        yield from members(tree, tree.root, tree.root_name)
    else:
        yield Found(tree.root_name, tree.root)


def _walk(tree: Tree) -> Iterator[Found]:
    """Depth first. The entries of each folder are sorted by what they add to paths: a folder's name with its slash."""
    try:
        levels = [tree.entries(tree.root, b"")]
    except OSError as error:
        raise ConfigError(
            f"{os.fsdecode(tree.root)} cannot be listed: {error.strerror or error}.",
            hint="check the path, and what lets you read it",
        ) from None
    while levels:
        for found in levels[-1]:
            if found.problem or not found.path.endswith(b"/"):
                yield found
            elif tree.is_archive(found):
                yield from members(tree, found.file, found.path[:-1])
            else:
                try:
                    levels.append(tree.entries(found.file, found.path))
                except OSError as error:
                    why = f"It is a folder that cannot be listed: {error.strerror or error}."
                    yield found._replace(problem=why)
                else:
                    break  # into it
        else:
            levels.pop()


def _listed(file: Path, tree: Tree) -> Iterator[Found]:
    """The files that a list names, sorted."""
    with file.open("rb") as stream:
        for path, _ in itertools.groupby(sorted_lines(_paths(stream, tree))):
            place = tree.place(path.rstrip(b"/"))
            if path.endswith(b".tar/"):
                yield from members(tree, place, path[:-1])
            else:
                yield Found(path, place)


def _paths(stream: BinaryIO, tree: Tree) -> Iterator[bytes]:
    """The paths of a list, written as `_walk` writes them: relative to the root, archives with a slash."""
    separator = b"\0" if b"\0" in stream.read(1 << 16) else b"\n"
    stream.seek(0)
    for line in _split(stream, separator):
        line = line.removesuffix(b"\r") if separator == b"\n" else line
        if not line:
            continue
        path = tree.inside(line)
        if path is None:
            named = without_secrets(os.fsdecode(line))
            raise ConfigError(f"The list names {named!r}, which is no file in SRC.", hint="correct the list")
        yield path + b"/" if path.endswith(b".tar") else path


def _split(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    rest = b""
    while data := stream.read(1 << 20):
        *lines, rest = (rest + data).split(separator)
        yield from lines
    yield rest


def sorted_lines(lines: Iterator[bytes], in_memory: int = 1_000_000) -> Iterator[bytes]:
    """Sort any number of lines without NUL bytes. It holds `in_memory` of them at a time; the others wait on disk."""
    with ExitStack() as stack:
        runs: list[Iterator[bytes]] = []
        while group := sorted(itertools.islice(lines, in_memory)):
            if len(group) < in_memory:
                runs.append(iter(group))
                break
            spilled = stack.enter_context(tempfile.TemporaryFile())
            spilled.write(b"\0".join(group))
            spilled.seek(0)
            runs.append(_split(spilled, b"\0"))
        yield from heapq.merge(*runs)
