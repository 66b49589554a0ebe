"""Object stores, and whatever else fsspec reaches: S3, Google Cloud Storage, FTP, SMB."""

import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from purifyctl.errors import ConfigError
from purifyctl.sources.server import Patience, file_system
from purifyctl.sources.source import too_large
from purifyctl.sources.urls import is_url, split_url

PATIENCE_S = 40.0  # for one answer; less than --image-timeout, which would blame the image
FIRST_BYTES = 8 * 1024**2  # asked for at once: nearly every photograph is smaller, and its size need not be asked for


class Store:
    """One of fsspec's file systems. It names what lies below the URL `root` as the URLs do."""

    listed_bytes = 0  # it has no index pages

    def __init__(self, system: Any, root: str) -> None:
        self._system, self._root = system, root
        self._top = str(system._strip_protocol(root)).rstrip("/")
        # an asynchronous one runs in fsspec's own thread, so that nobody has to wait forever for its answer
        self._patience = {"timeout": PATIENCE_S} if getattr(system, "async_impl", False) else {}

    def is_folder(self, url: str) -> bool:
        return bool(self._system.info(self._path(url))["type"] == "directory")

    def names(self, folder: str) -> list[tuple[bytes, bool, str]]:
        path = self._path(folder)
        found = []
        for entry in self._system.ls(path or "/", detail=True):
            is_folder = entry["type"] == "directory"
            name = str(entry["name"])
            if name in (path, path + "/") and not (is_folder and name != path):
                continue  # the folder itself, as an object of no bytes
            inside = name.removeprefix(path + "/")
            found.append((os.fsencode(inside.removesuffix("/") if is_folder else inside), is_folder, _stamp(entry)))
        return found

    def size(self, url: str) -> int:
        return int(self._system.size(self._path(url)))

    def get(self, url: str, span: tuple[int, int] | None, max_bytes: int) -> bytes:
        path = self._path(url)
        if span:
            start, length = span
            data = self._bytes(path, start, start + length)
            if len(data) != length:
                raise OSError("it is shorter than it was when the run was planned")
            return data
        first = min(FIRST_BYTES, max_bytes + 1)
        try:
            data = self._bytes(path, 0, first)
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, ValueError):
            if self.size(url) == 0:  # stores refuse to send the first byte of an empty object
                return b""
            raise
        if len(data) < first:
            return data
        if (size := self.size(url)) > max_bytes:
            raise too_large(size, max_bytes)
        return data + self._bytes(path, first, size)

    def put(self, url: str, data: bytes) -> None:
        self._system.pipe_file(self._path(url), data)

    def _bytes(self, path: str, start: int, end: int) -> bytes:
        return bytes(self._system.cat_file(path, start=start, end=end, **self._patience)) if end > start else b""

    def _path(self, url: str) -> str:
        return self._top + url[len(self._root) :]


def _stamp(entry: Mapping[str, Any]) -> str:
    """What a store says of an object that changes with its content. Stores have different names for it."""
    version = next(
        (str(entry[key]) for key in ("ETag", "etag", "LastModified", "mtime", "updated") if entry.get(key)), ""
    )
    return f"{entry.get('size')} {version}" if version else ""


class RemoteFolder:
    """A place for images in an object store. Safe to use from several threads; a file appears whole, or not at all.

    Raises
    ------
    ConfigError
        The URL is malformed, or names no object store.
    MissingDependencyError
        The package for its protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        if not is_url(url) or url.lower().startswith(("file://", "local://", "http://", "https://")):
            raise ConfigError(
                "--images-to is for object stores, such as s3://bucket/folder.", hint="here, --out will do"
            )
        self.url, user, query = split_url(url)  # without secrets
        self.has_secrets = bool(user or query)
        self._patience = Patience(user, user.partition(":")[2])
        self._store = Store(file_system(self.url.partition("://")[0], url), self.url)

    def write(self, path: PurePosixPath, data: bytes) -> None:
        """Raises OSError: a ConnectionError or a PermissionError is the store's fault, any other this file's."""
        self._patience.ask(lambda: self._store.put(f"{self.url}/{path}", data))
