"""Inputs behind a URL: in object stores and on web servers, through fsspec, which is imported when one is used."""

import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import BusyError, ConfigError, ImageError, PurifyctlError
from purifyctl.sources.bounds import Bounds
from purifyctl.sources.choice import Choice
from purifyctl.sources.listing import find_inputs
from purifyctl.sources.server import Patience, Place, file_system
from purifyctl.sources.source import MAX_BYTES, Found, ImageFile, member_of, too_large
from purifyctl.sources.store import Store
from purifyctl.sources.tar import BLOCK, NAME_BYTES
from purifyctl.sources.urls import WEB, decoded, encoded, is_url, split_url
from purifyctl.sources.web import Web

HEADER_BYTES = 64 * 1024  # read at once of an archive while its members are listed


class RemoteSource:
    """A `Source` and a `Tree` behind a URL. Safe to use from several threads.

    User, password and the query, which may be a signature, are sent along with every request. The places in the tree
    do not contain them, because places are written into plans and rows.

    Raises
    ------
    ConfigError
        The URL is malformed, or fsspec knows no such protocol.
    MissingDependencyError
        The package for its protocol is not installed.
    """

    on_this_machine = None
    at_once = 32  # each has to wait for the server

    def __init__(self, url: str) -> None:
        self.name, user, query = split_url(url)
        self.has_secrets = bool(user or query)
        protocol, _, rest = self.name.partition("://")
        self._is_web = protocol in WEB
        self._patience = Patience(user, user.partition(":")[2], query)
        # a bucket, a server's top; and s3://bucket/cats/ may be a folder beside an object s3://bucket/cats
        self._must_be_folder = not rest.partition("/")[2] or url.partition("?")[0].endswith("/")
        self._bounds = Bounds(self.name)  # of the latest listing
        self._place: Place
        if self._is_web:
            self._place = Web(file_system(protocol, self.name), user, query)
        else:
            self._place = Store(file_system(protocol, url), self.name)
        self.root = os.fsencode(self.name)
        last = self.name.rpartition("/")[2]
        self.root_name = decoded(last) if self._is_web else os.fsencode(last)

    def inputs(self, choice: Choice | None = None, *, files_from: Path | None = None) -> Iterator[Found]:
        self._bounds = Bounds(self.name)
        return find_inputs(self, choice or Choice(), files_from=files_from)

    def read(self, image: ImageFile, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
        if image.problem:
            raise ImageError(image.status, image.problem)
        url = str(image.file)
        start, size = image.span or (0, 0)
        if size > max_bytes:
            raise too_large(size, max_bytes)
        span = (start - BLOCK, BLOCK + size) if image.span else None
        try:
            data = self._patience.ask(partial(self._place.get, url, span, max_bytes + BLOCK if span else max_bytes))
        except OSError as error:
            shown = os.fsencode(url).decode("utf-8", "backslashreplace")
            raise ImageError("unreadable", f"It cannot be read from {shown}: {error}.") from None
        read = np.frombuffer(data, np.uint8)
        return member_of(read, size) if span else read

    def is_folder(self) -> bool:
        if self._must_be_folder:
            return True
        try:
            return self._patience.ask(partial(self._place.is_folder, self.name))
        except OSError as error:
            raise self._unlisted(error) from None

    def entries(self, folder: bytes, path: bytes) -> Iterator[Found]:
        """As in any tree. If the server does not answer, it raises: half a plan would look like a whole one.

        Raises
        ------
        ConfigError
            The root cannot be listed.
        BusyError
            The server does not answer.
        """
        folder = folder.removesuffix(b"/")
        self._bounds.enter(path)
        before = self._place.listed_bytes
        try:
            listed = self._patience.ask(partial(self._place.names, os.fsdecode(folder)))
            self._bounds.check(path, listed)
        except OSError as error:
            if folder == self.root or isinstance(error, ConnectionError):
                raise self._unlisted(error) from None
            raise
        finally:
            self._bounds.count(self._place.listed_bytes - before)
        folders = {name for name, is_folder, _ in listed if is_folder}
        entries = []
        for name, is_folder, stamp in dict.fromkeys(listed):
            if name.startswith(b".") and name not in (b".", b".."):
                continue
            problem, is_archive = "", False
            if not name:
                problem = "It has a name without letters (//), by which it cannot be asked for."
            elif name in (b".", b".."):
                problem = "Its name leads out of its folder."
            elif len(name) > NAME_BYTES:
                problem = f"Its name has {len(name):,} bytes."
                name = (name[:100] + b"..." + name[-100:]).replace(b"/", b"%2F").replace(b"\0", b"%00")
            elif b"/" in name or b"\0" in name:
                problem = "Its name holds a slash or a zero byte."
                name = name.replace(b"/", b"%2F").replace(b"\0", b"%00")
            elif name.endswith(b".tar") and not is_folder:
                is_archive = name not in folders
                problem = (
                    "" if is_archive else "It is an archive, but a folder has its name, and so its members' names."
                )
            slash = b"/" if is_folder or is_archive or not name else b""
            # a folder's URL keeps its slash, an archive's has none
            where = self._join(folder, name) + (b"" if is_archive else slash)
            entries.append(Found(path + name + slash, where, problem=problem, stamp=stamp))
        return iter(sorted(entries))

    def is_archive(self, entry: Found) -> bool:
        return not entry.file.endswith(b"/")

    def why_not(self, folder: Found) -> str:  # noqa: ARG002
        return ""  # to look for the files of a run would be a request for each folder

    def header(self, file: Found) -> bytes | None:
        """A request for each header would cost as much as one for each photograph, so the name alone decides."""
        return b"" if b"." in file.path.rpartition(b"/")[2] else None  # many stores name photographs by a hash

    def stamp(self, place: bytes) -> str:  # noqa: ARG002
        return ""

    def inside(self, line: bytes) -> bytes | None:
        path = line.removeprefix(b"./")
        text = os.fsdecode(line)
        if is_url(text):
            url, _, query = split_url(text)
            if query:
                raise ConfigError(
                    f"The list names {url} with a query, perhaps a signature. Plans hold none.",
                    hint="a query at the end of SRC is sent along with everything",
                )
            if not url.startswith(f"{self.name}/"):
                return None
            rest = url[len(self.name) + 1 :]
            path = decoded(rest) if self._is_web else os.fsencode(rest)
        return None if {b"", b".", b".."} & set(path.split(b"/")) or b"\0" in path else path

    def place(self, path: bytes) -> bytes:
        return self._join(self.root, path)

    def open(self, place: bytes) -> BinaryIO:
        """A file. Only the bytes that are read are fetched.

        Raises
        ------
        BusyError
            Also while it is read: the server does not answer, so that its members stay unknown.
        """
        url = os.fsdecode(place)

        def get(start: int, length: int) -> bytes:
            self._bounds.count(length)
            try:
                return self._patience.ask(partial(self._place.get, url, (start, length), length))
            except ConnectionError as error:
                raise self._unlisted(error) from None

        try:
            size = self._patience.ask(partial(self._place.size, url))
        except ConnectionError as error:
            raise self._unlisted(error) from None
        if not 0 <= size < 1 << 62:
            raise OSError(f"the server says that it has {size} bytes")
        return cast(BinaryIO, io.BufferedReader(_RangeReader(size, get), HEADER_BYTES))

    def _join(self, folder: bytes, name: bytes) -> bytes:
        return b"%s/%s" % (folder, encoded(name) if self._is_web else name)

    def _unlisted(self, error: OSError) -> PurifyctlError:
        if isinstance(error, ConnectionError):
            return BusyError(f"{self.name} cannot be listed: {error}.", hint="give the same command again later")
        return ConfigError(
            f"{self.name} cannot be listed: {error}.",
            hint="check SRC and your credentials for it; a server that lists no folders needs --files-from LIST",
        )


class _RangeReader(io.RawIOBase):
    """A file whose bytes `get` fetches: (first byte, length)."""

    def __init__(self, size: int, get: Callable[[int, int], bytes]) -> None:
        self._size, self._get, self._at = size, get, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._at))
        data = self._get(self._at, length) if length else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
