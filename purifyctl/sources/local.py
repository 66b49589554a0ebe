"""A folder or a file on this machine."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from purifyctl.config.kinds import HEADER_BYTES
from purifyctl.config.run import RUN_FILES
from purifyctl.errors import ConfigError, ImageError
from purifyctl.files import open_regular
from purifyctl.sources.choice import SYSTEM_FOLDERS, Choice
from purifyctl.sources.listing import find_inputs
from purifyctl.sources.source import MAX_BYTES, Found, ImageFile, member_of, too_large
from purifyctl.sources.tar import BLOCK

LISTED = "links to folders that are listed anyway"


class LocalSource:
    """A `Source` and a `Tree` in the file system.

    Parameters
    ----------
    skip_folder
        A folder that is not entered: the output, if it lies inside the source.
    """

    has_secrets = False
    at_once = 1

    def __init__(self, source: Path, skip_folder: Path | None = None) -> None:
        self.on_this_machine = source
        self.name = str(source.absolute())
        self.root = os.fsencode(self.name)  # another process may be in another folder
        self.root_name = os.fsencode(source.name)
        self._skip = os.path.realpath(os.fsencode(skip_folder)) if skip_folder else None

    def inputs(self, choice: Choice | None = None, *, files_from: Path | None = None) -> Iterator[Found]:
        if files_from is None:
            self.is_folder()  # raises now if there is nothing
        elif not os.path.isdir(self.root):
            raise ConfigError(
                f"{self.on_this_machine} is no folder, in which the files of a list could lie.", hint="check the path"
            )
        return find_inputs(self, choice or Choice(), files_from=files_from)

    def read(self, image: ImageFile, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
        return read_file(image, max_bytes)

    def is_folder(self) -> bool:
        if os.path.isdir(self.root):
            return True
        if os.path.isfile(self.root):
            return False
        if any(part.endswith(":") for part in self.on_this_machine.parts):  # as Path leaves https://server/folder
            raise ConfigError(  # it does not show the path, which may hold a password
                "What is named as the source looks like a URL, and only run reads from URLs.",
                hint="copy the photographs to this machine first",
            )
        raise ConfigError(f"There is no folder or file {self.on_this_machine}.", hint="check the path")

    def entries(self, folder: bytes, path: bytes) -> Iterator[Found]:
        names = self._names(folder)  # only names, because a folder may hold millions
        where = os.path.join(folder, b"")
        return (
            Found(path + name, where + name, stamp=self.stamp(where + name))
            if not name.endswith(b"/")
            else Found(path + name, where + name[:-1])
            for name in names
        )

    def is_archive(self, entry: Found) -> bool:
        return entry.path.endswith(b".tar/") and not os.path.isdir(entry.file)

    def why_not(self, folder: Found) -> str:
        where = folder.file
        if self._skip is not None and os.path.realpath(where) == self._skip:
            return "folders of runs"
        if all(os.path.isfile(os.path.join(where, os.fsencode(name))) for name in RUN_FILES):
            return "folders of runs"
        return LISTED if os.path.islink(where) and self._is_listed_anyway(where) else ""

    def _is_listed_anyway(self, link: bytes) -> bool:
        """Whether a link leads to a folder that is listed under another path, or that the listing is inside of."""
        target = os.path.realpath(link)
        above = os.path.dirname(link)
        while len(above) >= len(self.root):  # each folder on the way to the link
            real = os.path.realpath(above)
            if os.path.join(real, b"").startswith(os.path.join(target, b"")):
                return True
            if target.startswith(os.path.join(real, b"")):
                between = target[len(real) :].split(b"/")
                if not any(name.startswith(b".") or name in SYSTEM_FOLDERS for name in between):
                    return True
            above = os.path.dirname(above)
        return False

    def header(self, file: Found) -> bytes | None:
        try:
            if not stat.S_ISREG(os.stat(file.file).st_mode):
                return b""
            with open_regular(Path(os.fsdecode(file.file))) as stream:
                return stream.read(HEADER_BYTES)
        except OSError:
            return None  # reading it will say why

    def stamp(self, place: bytes) -> str:
        try:
            facts = os.stat(place)
        except OSError:
            return ""
        return f"{facts.st_size} {facts.st_mtime_ns}"

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
                names.append(entry.name + b"/" if is_folder or entry.name.endswith(b".tar") else entry.name)
        names.sort()
        return names

    def inside(self, line: bytes) -> bytes | None:
        path = os.path.normpath(line).removeprefix(os.path.join(os.path.abspath(self.root), b""))
        return None if path.startswith((b"/", b"../")) or path in (b".", b"..") else path

    def place(self, path: bytes) -> bytes:
        return os.path.join(self.root, path)

    def open(self, place: bytes) -> BinaryIO:
        return open_regular(Path(os.fsdecode(place)))


def read_file(image: ImageFile, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    """The bytes of an input that lies on this machine. No source is needed for that.

    Raises
    ------
    ImageError
        With status "unreadable" (missing, no permission, not a regular file), "bad_archive" or "too_large".
    """
    if image.problem:
        raise ImageError(image.status, image.problem)
    file = image.on_this_machine
    if file is None:
        raise ValueError("a URL is read through its source")
    try:
        with open_regular(file) as stream:
            start, size = image.span or (0, os.fstat(stream.fileno()).st_size)
            if size > max_bytes:
                raise too_large(size, max_bytes)
            if image.span:
                return member_of(np.fromfile(stream, np.uint8, count=BLOCK + size, offset=start - BLOCK), size)
            return np.fromfile(stream, np.uint8, count=size)
    except OSError as error:
        raise ImageError("unreadable", f"It cannot be read: {error.strerror or error}.") from None
