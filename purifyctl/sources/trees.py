"""Where inputs lie: a tree of folders, on this machine (`LocalTree`) or behind a URL (`remote.RemoteTree`)."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol

from purifyctl.errors import ConfigError
from purifyctl.sources.source import ImageFile, is_url

LINKED = "It is a link to a folder; those are not followed."


class Found(NamedTuple):
    """One input of a source. Names are bytes, as the file system has them."""

    path: bytes  # relative to the source; a folder's ends in a slash
    file: bytes  # where its bytes lie: a path or a URL
    start: int = 0  # of its bytes, within the file
    length: int | None = None  # None: the whole file
    problem: str = ""  # why it cannot be read, where that is known already

    def as_image(self) -> ImageFile:
        file = os.fsdecode(self.file)
        return ImageFile(
            file if is_url(file) else Path(file),
            PurePosixPath(os.fsdecode(self.path)),
            None if self.length is None else (self.start, self.length),
            self.problem,
        )


class Tree(Protocol):
    """A source. Places in it are bytes: a file system's path, or a URL without anything secret."""

    @property
    def root(self) -> bytes: ...

    @property
    def name(self) -> bytes:
        """The last part of `root`: what a source that is one file is called."""

    def is_folder(self) -> bool:
        """Whether the root is one. Raises ConfigError where there is nothing."""

    def entries(self, folder: bytes, path: bytes) -> Iterator[Found]:
        """What a folder holds, but for hidden names. Raises OSError at once if it cannot be listed.

        `path` is the folder's own, to which names are added: those of folders and tar shards end in a slash. They are
        sorted, with it.
        """

    def is_shard(self, entry: Found) -> bool:
        """Whether an entry that ends in a slash is a tar shard, and no folder."""

    def inside(self, line: bytes) -> bytes | None:
        """A line of a list as a path relative to the root; None: there is no such path in this tree."""

    def file(self, path: bytes) -> bytes:
        """Where a path relative to the root lies."""

    def open(self, file: bytes) -> BinaryIO:
        """A file that can be read from anywhere. Raises OSError."""


class LocalTree:
    """A folder, or a file, on this machine.

    Parameters
    ----------
    skip
        A folder that is not entered.
    """

    def __init__(self, source: Path, skip: Path | None = None) -> None:
        self.root = os.fsencode(source)
        self.name = os.fsencode(source.name)
        self._skip = os.path.realpath(os.fsencode(skip)) if skip else None

    def is_folder(self) -> bool:
        if os.path.isdir(self.root):
            return True
        if os.path.isfile(self.root):
            return False
        source = os.fsdecode(self.root)
        if any(part.endswith(":") for part in Path(source).parts):  # as Path leaves https://server/folder
            raise ConfigError(  # says nothing of it, for it may hold a password
                "What is named as the source looks like a URL, and only run reads from URLs.",
                hint="copy the photographs to this machine first",
            )
        raise ConfigError(f"There is no folder or file {source}.", hint="check the path")

    def entries(self, folder: bytes, path: bytes) -> Iterator[Found]:
        names = self._names(folder)  # no more than names: a folder may hold millions
        where = os.path.join(folder, b"")
        return (
            Found(path + name, where + name)
            if not name.endswith(b"/")
            else Found(path + name, where + name[:-1], problem=LINKED if self._is_linked(where + name) else "")
            for name in names
        )

    def is_shard(self, entry: Found) -> bool:
        return entry.path.endswith(b".tar/") and not os.path.isdir(entry.file)

    def _is_linked(self, folder: bytes) -> bool:
        return os.path.islink(folder[:-1]) and os.path.isdir(folder)

    def _names(self, folder: bytes) -> list[bytes]:
        names = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:
                    is_folder = False  # a link in a circle; reading it will say so
                if is_folder and self._skip is not None and os.path.realpath(entry.path) == self._skip:
                    continue
                names.append(entry.name + b"/" if is_folder or entry.name.endswith(b".tar") else entry.name)
        names.sort()
        return names

    def inside(self, line: bytes) -> bytes | None:
        path = os.path.normpath(line).removeprefix(os.path.join(os.path.abspath(self.root), b""))
        return None if path.startswith((b"/", b"../")) or path in (b".", b"..") else path

    def file(self, path: bytes) -> bytes:
        return os.path.join(self.root, path)

    def open(self, file: bytes) -> BinaryIO:
        return open(file, "rb")
