"""Inputs that a URL names: in object stores and on web servers, through fsspec, which is imported when one is used."""

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from purifyctl.errors import BusyError, ConfigError, ImageError, MissingDependencyError, PurifyctlError
from purifyctl.sources.source import is_url
from purifyctl.sources.trees import Found
from purifyctl.sources.web import Web, decoded, encoded

PAUSES_S = (0.25, 1.0)  # before the second and the third try, where a server stumbles
PATIENCE_S = 40.0  # for one answer of a store; less than --image-timeout, which would blame the image
FIRST_BYTES = 8 * 1024**2  # asked for at once: all of nearly every photograph, without asking for its size
HEADER_BYTES = 64 * 1024  # read at once of a tar shard while its members are listed
CLOUD = ("s3", "s3a", "gs", "gcs", "http", "https")  # what the extra brings packages for
STUMBLES = {  # of which libraries derive, by name: none of them need be installed
    *("ConnectionError", "TimeoutError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError"),
}

Answer = TypeVar("Answer")


class Place(Protocol):
    """What is asked for things by URL. It may raise whatever its library does."""

    def is_folder(self, url: str) -> bool: ...

    def names(self, folder: str) -> list[tuple[bytes, bool]]:
        """Of all that lies in a folder, and whether each is one."""

    def size(self, url: str) -> int: ...

    def get(self, url: str, span: tuple[int, int] | None, max_bytes: int) -> bytes:
        """A file's bytes, or so many from one on. Raises ImageError, before it loads more than `max_bytes`."""


class _Server:
    """Who is asked, with patience. `secrets` are kept out of what it says."""

    def __init__(self, *secrets: str) -> None:
        # shorter ones would be found in any word; URLs in a text lose theirs anyway
        self._secrets = [secret for secret in secrets if len(secret) > 3]

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask, and ask again where the server stumbles.

        Raises
        ------
        OSError
            Its one argument says why, without secrets. A ConnectionError: another time it may succeed.
        """
        for pause in (*PAUSES_S, None):
            try:
                return question()
            except ImageError:
                raise
            except Exception as error:  # every library has its own kinds
                plain = self._plain(error)
            if pause is None or not isinstance(plain, ConnectionError):
                break
            time.sleep(pause)
        raise plain

    def _plain(self, error: Exception) -> OSError:
        text = without_secrets(str(error) or type(error).__name__)
        for secret in self._secrets:
            text = text.replace(secret, "...")
        if isinstance(error, FileNotFoundError):
            return OSError("it is not there")
        if isinstance(error, PermissionError):
            return PermissionError(f"access is denied ({text})")
        if STUMBLES & {kind.__name__ for kind in type(error).__mro__}:
            return ConnectionError("no answer in time" if isinstance(error, TimeoutError) else text)
        return OSError(text)


class RemoteTree(_Server):
    """A source that a URL names. Safe to use from several threads.

    User, password and the query, which may be a signature, are sent along with whatever is asked for, but are no part
    of the places in the tree: those are written into plans and rows.

    Raises
    ------
    ConfigError
        The URL is malformed, or fsspec knows no such protocol.
    MissingDependencyError
        The package for its protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url, user, query = split_url(url)
        self._protocol = self.url.partition("://")[0]
        self._is_web = self._protocol in ("http", "https")
        super().__init__(user, user.partition(":")[2], query)
        path = self.url.partition("://")[2].partition("/")[2]
        # a bucket, a server's top; and s3://bucket/cats/ may be a folder beside an object s3://bucket/cats
        self._must_be_folder = not path or url.partition("?")[0].endswith("/")
        self._place: Place
        if self._is_web:
            self._place = Web(_file_system(self._protocol, self.url), user, query)
        else:
            self._place = _Store(_file_system(self._protocol, url), self.url)
        self.root = os.fsencode(self.url)
        name = self.url.rpartition("/")[2]
        self.name = decoded(name) if self._is_web else os.fsencode(name)

    def is_folder(self) -> bool:
        if self._must_be_folder:
            return True
        try:
            return self._ask(partial(self._place.is_folder, self.url))
        except OSError as error:
            raise self._unlisted(error) from None

    def entries(self, folder: bytes, path: bytes) -> Iterator[Found]:
        """As any tree's, but where the server stumbles: half a plan would look like a whole one.

        Raises
        ------
        ConfigError
            The root cannot be listed.
        BusyError
            The server does not answer.
        """
        folder = folder.removesuffix(b"/")
        try:
            listed = self._ask(partial(self._place.names, os.fsdecode(folder)))
        except OSError as error:
            if folder == self.root or isinstance(error, ConnectionError):
                raise self._unlisted(error) from None
            raise
        folders = {name for name, is_folder in listed if is_folder}
        entries = []
        for name, is_folder in dict.fromkeys(listed):
            if name.startswith(b".") and name not in (b".", b".."):
                continue
            problem, is_shard = "", False
            if not name:
                problem = "It has a name without letters (//), by which it cannot be asked for."
            elif name in (b".", b".."):
                problem = "Its name leads out of its folder."
            elif b"/" in name or b"\0" in name:
                problem = "Its name holds a slash or a zero byte."
                name = name.replace(b"/", b"%2F").replace(b"\0", b"%00")
            elif name.endswith(b".tar") and not is_folder:
                is_shard = name not in folders
                problem = "" if is_shard else "It is a tar shard, but a folder has its name, and so its members' names."
            slash = b"/" if is_folder or is_shard or not name else b""
            # a folder's URL keeps its slash, a shard's has none
            where = self._join(folder, name) + (b"" if is_shard else slash)
            entries.append(Found(path + name + slash, where, problem=problem))
        return iter(sorted(entries))

    def is_shard(self, entry: Found) -> bool:
        return not entry.file.endswith(b"/")

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
            if not url.startswith(f"{self.url}/"):
                return None
            rest = url[len(self.url) + 1 :]
            path = decoded(rest) if self._is_web else os.fsencode(rest)
        return None if {b"", b".", b".."} & set(path.split(b"/")) or b"\0" in path else path

    def file(self, path: bytes) -> bytes:
        return self._join(self.root, path)

    def open(self, file: bytes) -> BinaryIO:
        """A file of which only the parts that are read are fetched.

        Raises
        ------
        BusyError
            When it is read: the server does not answer. What it holds is not known then.
        """
        url = os.fsdecode(file)

        def get(start: int, length: int) -> bytes:
            try:
                return self._ask(partial(self._place.get, url, (start, length), length))
            except ConnectionError as error:
                raise self._unlisted(error) from None

        try:
            size = self._ask(partial(self._place.size, url))
        except ConnectionError as error:
            raise self._unlisted(error) from None
        return cast(BinaryIO, io.BufferedReader(_Parts(size, get), HEADER_BYTES))

    def read(self, url: str, span: tuple[int, int] | None, max_bytes: int) -> bytes:
        """The bytes of one input, or so many from one on.

        Raises
        ------
        ImageError
            With status "unreadable" or "too_large".
        """
        size = span[1] if span else 0
        if size > max_bytes:
            raise too_large(size, max_bytes)
        try:
            return self._ask(partial(self._place.get, url, span, max_bytes))
        except OSError as error:
            shown = os.fsencode(url).decode("utf-8", "backslashreplace")
            raise ImageError("unreadable", f"It cannot be read from {shown}: {error}.") from None

    def _join(self, folder: bytes, name: bytes) -> bytes:
        return b"%s/%s" % (folder, encoded(name) if self._is_web else name)

    def _unlisted(self, error: OSError) -> PurifyctlError:
        if isinstance(error, ConnectionError):
            return BusyError(f"{self.url} cannot be listed: {error}.", hint="give the same command again later")
        return ConfigError(
            f"{self.url} cannot be listed: {error}.",
            hint="check SRC and your credentials for it; a server that lists no folders needs --files-from LIST",
        )


class RemoteFolder(_Server):
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
        self.url, user, _ = split_url(url)
        super().__init__(user, user.partition(":")[2])
        self._system = _file_system(self.url.partition("://")[0], url)
        self._store = _Store(self._system, self.url)

    def write(self, path: PurePosixPath, data: bytes) -> None:
        """Raises OSError: a ConnectionError or a PermissionError has to do with the store, others with this file."""
        self._ask(lambda: self._system.pipe_file(self._store.path(f"{self.url}/{path}"), data))


class _Store:
    """Any of fsspec's file systems. `root`: a URL; what lies below it is called the same by the file system."""

    def __init__(self, system: Any, root: str) -> None:
        self._system, self._root = system, root
        self._top = str(system._strip_protocol(root)).rstrip("/")
        # one that runs in fsspec's own thread can be waited for
        self._patience = {"timeout": PATIENCE_S} if getattr(system, "async_impl", False) else {}

    def is_folder(self, url: str) -> bool:
        return bool(self._system.info(self.path(url))["type"] == "directory")

    def names(self, folder: str) -> list[tuple[bytes, bool]]:
        path = self.path(folder)
        found = []
        for entry in self._system.ls(path or "/", detail=True):
            is_folder = entry["type"] == "directory"
            name = str(entry["name"])
            if name in (path, path + "/") and not (is_folder and name != path):
                continue  # the folder itself, as an object of no bytes
            inside = name.removeprefix(path + "/")
            found.append((os.fsencode(inside.removesuffix("/") if is_folder else inside), is_folder))
        return found

    def size(self, url: str) -> int:
        return int(self._system.size(self.path(url)))

    def get(self, url: str, span: tuple[int, int] | None, max_bytes: int) -> bytes:
        path = self.path(url)
        if span:
            start, length = span
            data = self._part(path, start, start + length)
            if len(data) != length:
                raise OSError("it is shorter than it was when the run was planned")
            return data
        first = min(FIRST_BYTES, max_bytes + 1)
        try:
            data = self._part(path, 0, first)
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, ValueError):
            if self.size(url) == 0:  # of which a store has no first byte to send
                return b""
            raise
        if len(data) < first:
            return data
        if (size := self.size(url)) > max_bytes:
            raise too_large(size, max_bytes)
        return data + self._part(path, first, size)

    def _part(self, path: str, start: int, end: int) -> bytes:
        return bytes(self._system.cat_file(path, start=start, end=end, **self._patience)) if end > start else b""

    def path(self, url: str) -> str:
        return self._top + url[len(self._root) :]


class _Parts(io.RawIOBase):
    """A file of which `get` fetches bytes: (first, how many)."""

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
        wanted = max(0, min(len(buffer), self._size - self._at))
        data = self._get(self._at, wanted) if wanted else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_source(source: Path | str) -> Path | RemoteTree:
    """What a source names: a path, also as file://, or a URL. Raises as `RemoteTree` does."""
    text = str(source)
    if isinstance(source, Path) or not is_url(text):
        return Path(source)
    if text.lower().startswith(("file://", "local://")):  # so that it is kept apart from the output, as any path
        return Path(text.partition("://")[2])
    return RemoteTree(text)


def split_url(url: str) -> tuple[str, str, str]:
    """A URL without what may be secret, the user and password in it, and its query.

    Raises
    ------
    ConfigError
        It is none, as far as can be told.
    """
    protocol, _, rest = url.partition("://")
    protocol, query = protocol.lower(), ""
    if "::" in protocol:
        raise ConfigError("URLs within URLs (::) are not read.", hint="unpack it, or name what it is in")
    is_web = protocol in ("http", "https")
    if is_web:
        rest, _, query = rest.partition("?")
    server, slash, path = rest.rstrip("/").partition("/")
    user, _, host = server.rpartition("@")
    if is_web or ":" in user:  # abfs://container@account has nothing to hide
        server = host
    else:
        user = ""
    port = re.sub(r"^\[[^]]*\]|^[^:]*", "", server)
    if not re.fullmatch(r"(:\d+)?", port) and not server.startswith("arn:"):  # most likely part of a password
        raise ConfigError(
            f"SRC is a malformed {protocol}:// URL: its port is no number.",
            hint="write / ? # @ and : in a password as %2F %3F %23 %40 and %3A",
        )
    if is_web:
        if not server:
            raise ConfigError(f"SRC is a malformed {protocol}:// URL: it names no server.", hint="check SRC")
        path = encoded(decoded(path)).decode()  # one spelling for each
    return f"{protocol}://{server}{slash}{path}", user, query


def without_secrets(text: str) -> str:
    """Text in which no URL has a user, a password or a query."""
    text = re.sub(r"://[^/\s'\"@]*@", "://", text)
    return re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]*", r"\1", text)


def too_large(size: int, max_bytes: int) -> ImageError:
    return ImageError("too_large", f"The file has {size:,} bytes; {max_bytes:,} are allowed.")


def _file_system(protocol: str, url: str) -> Any:
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(protocol)
        # listings are streams, and a run holds on to none of them
        settings = {"skip_instance_cache": True, "use_listings_cache": False}
        if protocol not in ("http", "https"):
            settings |= kind._get_kwargs_from_urls(url)  # server and password of ftp:// and the like
        return kind(**settings)
    except ImportError as error:
        if protocol in CLOUD:
            package = {"s3": "s3fs", "gs": "gcsfs", "gc": "gcsfs", "ht": "aiohttp"}[protocol[:2]]
            raise MissingDependencyError(package, needed_for=f"Reading {protocol}://", extra="cloud") from None
        raise ConfigError(f"{protocol}:// cannot be read: {error}.", hint="install what that names") from None
    except ValueError as error:
        known = "Protocol not known" not in str(error)
        why = f"{protocol}:// cannot be read: {error}" if known else f"fsspec knows no protocol {protocol}://"
        raise ConfigError(f"{without_secrets(why)}.", hint="check SRC") from None
