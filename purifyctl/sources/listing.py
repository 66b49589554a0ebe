"""Which files a job reads: a stream in one fixed order, that of their paths byte by byte, never all in memory."""

import heapq
import itertools
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from purifyctl.errors import ConfigError
from purifyctl.sources.remote import RemoteTree, without_secrets
from purifyctl.sources.source import ImageFile
from purifyctl.sources.trees import Found, LocalTree, Tree

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")  # in tar shards


def list_images(
    source: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = (), skip_folder: Path | None = None
) -> list[ImageFile]:
    """What `find_images` finds, as a list.

    Raises
    ------
    ConfigError
        The source does not exist, cannot be listed, or holds no files.
    """
    images = [
        found.as_image() for found in find_images(source, include=include, exclude=exclude, skip_folder=skip_folder)
    ]
    if not images:
        filtered = " that --include and --exclude leave" if include or exclude else ""
        raise ConfigError(f"{source} holds no files{filtered}.", hint="check the path and the globs")
    return images


def find_images(
    source: Path | RemoteTree,
    *,
    files_from: Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_folder: Path | None = None,
) -> Iterator[Found]:
    """Every file of a folder tree (or the one file `source`), sorted by path; of tar shards, every image inside.

    What a URL names is asked for when the first input is taken, so that a plan that is there needs no answer.

    A file need not look like an image: what it is shows when it is read, and it gets its row either way. So does a
    folder that cannot be listed, and a link to a folder, which is not followed. Hidden files and folders (leading dot)
    are left out.

    Members of an uncompressed tar shard (`*.tar`) are named `SHARD/PATH` and read where they lie: nothing is unpacked.
    Members whose names do not end like an image's, such as the labels beside each image in many shards, are left out.

    Parameters
    ----------
    files_from
        A list of paths in the folder `source`, which is then not listed: one per line, or with NUL bytes between them
        (`find -print0`). What is named twice counts once; what is not there gets its row when it is read.
        Lines may also be whole paths or URLs in the source.
    include, exclude
        Globs on the relative path, such as `*.jpg` or `cats/*`; `*` also matches slashes. Without `include`
        everything is included.
    skip_folder
        A folder that is not entered: the job's own output, should it lie inside the source.

    Raises
    ------
    ConfigError
        The source or the list does not exist or cannot be read.
    """
    tree: Tree = source if isinstance(source, RemoteTree) else LocalTree(source, skip_folder)
    if files_from is not None:
        if isinstance(source, Path) and not source.is_dir():
            raise ConfigError(f"{source} is no folder, in which the files of a list could lie.", hint="check the path")
        if not files_from.is_file():
            raise ConfigError(
                f"There is no file {files_from}.", hint="check --files-from; a list is read twice, so no pipe will do"
            )
        found = _listed(files_from, tree)
    elif isinstance(source, Path):
        found = _all(tree, is_folder=tree.is_folder())
    else:
        found = _all(tree)
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


def _all(tree: Tree, *, is_folder: bool | None = None) -> Iterator[Found]:
    if tree.is_folder() if is_folder is None else is_folder:
        yield from _walk(tree)
    elif tree.name.endswith(b".tar"):
        yield from _members(tree, tree.root, tree.name)
    else:
        yield Found(tree.name, tree.root)


def _walk(tree: Tree) -> Iterator[Found]:
    """Depth first, each folder's entries in the order of what they put into paths: a folder's name with its slash."""
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
            elif tree.is_shard(found):
                yield from _members(tree, found.file, found.path[:-1])
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
            there = tree.file(path.rstrip(b"/"))
            if path.endswith(b".tar/"):
                yield from _members(tree, there, path[:-1])
            else:
                yield Found(path, there)


def _paths(stream: BinaryIO, tree: Tree) -> Iterator[bytes]:
    """Paths of a list, as `_walk` names them. Whole ones lose the source's part."""
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
    """Sort any number of lines without NUL bytes, `in_memory` of them at a time; the others wait on disk."""
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


def _members(tree: Tree, file: bytes, path: bytes) -> Iterator[Found]:
    """The images in a tar shard, sorted; of two with one name the last one counts, as when it is unpacked."""
    inside: dict[bytes, Found] = {}
    problem = ""
    try:
        with tree.open(file) as stream, tarfile.open(fileobj=stream, mode="r:") as shard:
            for member in shard:
                name = os.fsencode(member.name.lstrip("/"))
                if b".." not in name.split(b"/"):
                    name = os.path.normpath(name)  # one spelling for each
                last = PurePosixPath(os.fsdecode(name)).name
                if member.isdir() or last.startswith(".") or not last.lower().endswith(IMAGE_ENDINGS):
                    continue
                found = Found(b"%s/%s" % (path, name), file, member.offset_data, member.size)
                if b".." in name.split(b"/"):
                    found = found._replace(problem="Its name leads out of the shard.")
                elif not member.isfile():
                    found = found._replace(problem="It is no file, but a link or a device.")
                inside[name] = found
            stream.seek(shard.offset)
            if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                problem = "The shard has no end: it was cut short."
    except (OSError, tarfile.TarError) as error:
        problem = f"The shard cannot be read{' to its end' if inside else ''}: {error}."
    if problem:
        yield Found(path + b"/", file, problem=problem)
    yield from (inside[name] for name in sorted(inside))
