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
from typing import BinaryIO, NamedTuple

from purifyctl.errors import ConfigError
from purifyctl.images.source import ImageFile

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")  # in tar shards


class Found(NamedTuple):
    """One input of a source. Names are bytes, as the file system has them."""

    path: bytes  # relative to the source; a folder's ends in a slash
    file: bytes  # where its bytes lie
    start: int = 0  # of its bytes, within the file
    length: int | None = None  # None: the whole file
    problem: str = ""  # why it cannot be read, where that is known already

    def as_image(self) -> ImageFile:
        return ImageFile(
            Path(os.fsdecode(self.file)),
            PurePosixPath(os.fsdecode(self.path)),
            None if self.length is None else (self.start, self.length),
            self.problem,
        )


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
        raise ConfigError(f"{source} holds no files{filtered}.", hint="check SRC and the globs")
    return images


def find_images(
    source: Path,
    *,
    files_from: Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_folder: Path | None = None,
) -> Iterator[Found]:
    """Every file of a folder tree (or the one file `source`), sorted by path; of tar shards, every image inside.

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
    where = os.fsencode(source)
    if files_from is not None:
        found = _listed(files_from, source)
    elif source.is_file():
        name = os.fsencode(source.name)
        found = _members(where, name) if name.endswith(b".tar") else iter([Found(name, where)])
    elif source.is_dir():
        found = _walk(where, os.path.realpath(os.fsencode(skip_folder)) if skip_folder else None)
    else:
        raise ConfigError(f"There is no folder or file {source}.", hint="check SRC")
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


def _walk(source: bytes, skip: bytes | None) -> Iterator[Found]:
    """Depth first, each folder's entries in the order of what they put into paths: a folder's name with its slash."""
    levels = [(source, b"", iter(_entries(source, skip)))]
    while levels:
        folder, path, names = levels[-1]
        name = next(names, None)
        if name is None:
            levels.pop()
            continue
        inside, file = path + name, os.path.join(folder, name.rstrip(b"/"))
        if not name.endswith(b"/"):
            yield Found(inside, file)
        elif name.endswith(b".tar/") and not os.path.isdir(file):
            yield from _members(file, inside[:-1])
        elif os.path.islink(file):
            yield Found(inside, file, problem="It is a link to a folder; those are not followed.")
        else:
            try:
                levels.append((file, inside, iter(_entries(file, skip))))
            except OSError as error:
                yield Found(inside, file, problem=f"It is a folder that cannot be listed: {error.strerror}.")


def _listed(file: Path, source: Path) -> Iterator[Found]:
    """The files that a list names, sorted. Raises ConfigError at once where there is none."""
    if not source.is_dir():
        raise ConfigError(f"{source} is no folder, in which the files of a list could lie.", hint="check SRC")
    if not file.is_file():
        raise ConfigError(
            f"There is no file {file}.", hint="check --files-from; a list is read twice, so no pipe will do"
        )
    where = os.fsencode(source)

    def found() -> Iterator[Found]:
        with file.open("rb") as stream:
            for path, _ in itertools.groupby(sorted_lines(_paths(stream, where))):
                there = os.path.join(where, path.rstrip(b"/"))
                if path.endswith(b".tar/"):
                    yield from _members(there, path[:-1])
                else:
                    yield Found(path, there)

    return found()


def _paths(stream: BinaryIO, source: bytes) -> Iterator[bytes]:
    """Paths of a list, as `_walk` names them. Absolute ones lose the source's part."""
    separator = b"\0" if b"\0" in stream.read(1 << 16) else b"\n"
    stream.seek(0)
    root = os.path.join(os.path.abspath(source), b"")
    for line in _split(stream, separator):
        line = line.removesuffix(b"\r") if separator == b"\n" else line
        path = os.path.normpath(line).removeprefix(root) if line else b""
        if path.startswith((b"/", b"../")) or path in (b".", b".."):
            raise ConfigError(
                f"The list names {os.fsdecode(line)!r}, which is no file in SRC.", hint="correct the list"
            )
        if path:
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


def _entries(folder: bytes, skip: bytes | None) -> list[bytes]:
    """Names in a folder, sorted; those of folders and of tar shards end in a slash.

    Raises
    ------
    OSError
        It cannot be listed.
    """
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False  # a link in a circle; reading it will say so
            if is_folder and skip is not None and os.path.realpath(entry.path) == skip:
                continue
            names.append(entry.name + b"/" if is_folder or entry.name.endswith(b".tar") else entry.name)
    names.sort()
    return names


def _members(file: bytes, path: bytes) -> Iterator[Found]:
    """The images in a tar shard, sorted; of two with one name the last one counts, as when it is unpacked."""
    inside: dict[bytes, Found] = {}
    problem = ""
    try:
        with tarfile.open(os.fsdecode(file), "r:") as shard:
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
            shard.fileobj.seek(shard.offset)
            if shard.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                problem = "The shard has no end: it was cut short."
    except (OSError, tarfile.TarError) as error:
        problem = f"The shard cannot be read{' to its end' if inside else ''}: {error}."
    if problem:
        yield Found(path + b"/", file, problem=problem)
    yield from (inside[name] for name in sorted(inside))
