"""What a source is: it lists its inputs, and reads them. What lies behind it is known only inside this package."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import ImageError, Status
from purifyctl.sources.choice import Choice
from purifyctl.sources.tar import BLOCK, size_in_header
from purifyctl.sources.urls import is_url

MAX_BYTES = 512 * 1024**2  # of one file; larger ones are no photographs


@dataclass(frozen=True)
class ImageFile:
    """One input: where its bytes lie, and its path relative to the source. Every result names it by this path."""

    file: Path | str  # a str is a URL, which Path would change
    path: PurePosixPath
    span: tuple[int, int] | None = None  # first byte and length within `file`; None: the whole file
    problem: str = ""  # why it cannot be read, if that is known already
    status: Status = "unreadable"  # of its row, if there is a problem

    @property
    def on_this_machine(self) -> Path | None:
        """The file that holds it; None: it lies behind a URL."""
        return self.file if isinstance(self.file, Path) else None

    @property
    def size(self) -> int:
        """Bytes; -1 if the file is not there, for example behind a broken link. Such an input fails when it is read."""
        try:
            return self.span[1] if self.span else Path(self.file).stat().st_size
        except OSError:
            return -1


class Found(NamedTuple):
    """One input as a listing finds it and a plan keeps it. Names are bytes, as the file system has them."""

    path: bytes  # relative to the source; a folder's ends in a slash
    file: bytes  # where its bytes lie: a path or a URL
    start: int = 0  # of its bytes, within the file
    length: int | None = None  # None: the whole file
    problem: str = ""  # why it cannot be read, if that is known already
    status: Status = "unreadable"  # of its row, if there is a problem
    stamp: str = ""  # differs when the content differs: its size and when it was changed. Empty: not known

    def as_image(self) -> ImageFile:
        file = os.fsdecode(self.file)
        return ImageFile(
            file if is_url(file) else Path(file),
            PurePosixPath(os.fsdecode(self.path)),
            None if self.length is None else (self.start, self.length),
            self.problem,
            self.status,
        )


class Source(Protocol):
    """Where pictures come from. Safe to use from several threads. `open_source` makes one."""

    @property
    def name(self) -> str:
        """Its absolute path, or its URL without secrets: what results and messages call it."""

    @property
    def on_this_machine(self) -> Path | None:
        """The folder or file as it was named; None: the source lies behind a URL."""

    @property
    def has_secrets(self) -> bool:
        """Whether its address holds a user, a password or a query."""

    @property
    def at_once(self) -> int:
        """How many inputs of a batch are best read at once: 1, or more if each has to wait for a server."""

    def inputs(self, choice: Choice | None = None, *, files_from: Path | None = None) -> Iterator[Found]:
        """Every input, sorted by path. See `listing.find_inputs` for the parameters, and for what counts as one.

        A server is asked when the first input is taken.

        Raises
        ------
        ConfigError
            The source or the list does not exist or cannot be read.
        BusyError
            The server does not answer. Another time it may.
        """

    def read(self, image: ImageFile, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
        """The bytes of one of its inputs.

        Raises
        ------
        ImageError
            With status "unreadable" (missing, no permission, not a regular file), "bad_archive" or "too_large".
        """


class Tree(Protocol):
    """What a listing asks of a source that has folders. Places in it are bytes: a file system's path, or a URL without
    secrets.
    """

    @property
    def root(self) -> bytes: ...

    @property
    def root_name(self) -> bytes:
        """The last part of `root`: the path of the only input, if the source is one file."""

    def is_folder(self) -> bool:
        """Whether the root is a folder. Raises ConfigError if there is nothing."""

    def entries(self, folder: bytes, path: bytes) -> Iterator[Found]:
        """What a folder holds, stamped, without hidden names, sorted. Raises OSError at once if it cannot be listed.

        `path` is the folder's own, to which names are added. Those of folders and archives end in a slash, and are
        sorted with it.
        """

    def is_archive(self, entry: Found) -> bool:
        """Whether an entry that ends in a slash is an archive, and not a folder."""

    def why_not(self, folder: Found) -> str:
        """Why a folder is not listed: what it is, in the plural. Empty: it is listed."""

    def header(self, file: Found) -> bytes | None:
        """The first bytes of a file whose name does not say what it is. None: it is an input in any case."""

    def stamp(self, place: bytes) -> str:
        """`Found.stamp` of a file."""

    def inside(self, line: bytes) -> bytes | None:
        """A line of a list as a path relative to the root; None: there can be no such path in this tree."""

    def place(self, path: bytes) -> bytes:
        """Where a path relative to the root lies."""

    def open(self, place: bytes) -> BinaryIO:
        """A file that can be read from any position. Raises OSError."""


def member_of(data: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """The content of an archive's member, from its bytes and those of the header in front of them.

    Raises
    ------
    ImageError
        There is no header of a member of this length: the archive has been written anew since it was listed.
    """
    block, content = data[:BLOCK], data[BLOCK:]
    if size_in_header(block.tobytes()) != length or len(content) != length:
        raise ImageError("unreadable", "Its archive has been written anew since the run was planned.")
    return content


def too_large(size: int, max_bytes: int) -> ImageError:
    return ImageError("too_large", f"The file has {size:,} bytes; {max_bytes:,} are allowed.")
