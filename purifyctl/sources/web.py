"""Web servers: files by one request each, and folders by the links on their index pages.

fsspec's own listing mistakes sort links and other pages for files, does not undo HTML's escapes, and spells some names
differently from the server. Its own reading has no size limit. Only its session, thread and settings are
used.
"""

import html
import os
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from purifyctl import console
from purifyctl.errors import ImageError
from purifyctl.sources.urls import WEB, decoded

if TYPE_CHECKING:
    from aiohttp import ClientResponse

STALLED_S = 12.0  # without a byte; three tries take less than --image-timeout, which would blame the image
READ_BYTES = 1 << 18  # read at once
PAGE_S = 300.0  # for an index page, or for the headers of an archive
LEAST_RATE = 50_000  # bytes per second, at which longer parts of archives arrive
INDEX_BYTES = 256 << 20  # of an index page
INDEX_LINKS = 1_000_000
BUSY = (408, 425, 429)  # and all from 500 on: later the request may succeed
LINK = re.compile(rb"""<a\s[^<>]*?href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""", re.IGNORECASE)


class Web:
    """Web servers. `user` ("name:password") and `query` go with every request."""

    def __init__(self, system: Any, user: str, query: str) -> None:
        self._system, self._user, self._query = system, user, query
        self.listed_bytes = 0

    def is_folder(self, url: str) -> bool:
        """A server redirects a request for a folder to the folder's name with a slash."""
        return bool(self._wait(self._where, url))

    def names(self, folder: str) -> list[tuple[bytes, bool, str]]:
        page, base = self._wait(self._page, f"{folder}/")
        children, elsewhere = _children(page, base)
        if elsewhere:
            console.note_once(f"Links to other servers are not followed, such as {folder}/ -> {elsewhere}")
        return [(name, is_folder, "") for name, is_folder in children]  # pages show times as they like

    def size(self, url: str) -> int:
        return int(self._wait(self._size, url))

    def get(self, url: str, span: tuple[int, int] | None, max_bytes: int) -> bytes:
        if span is not None and span[1] == 0:
            return b""
        return bytes(self._wait(self._get, url, span, max_bytes))

    def _wait(self, question: Callable[..., Awaitable[Any]], *about: Any) -> Any:
        """Ask in the thread of fsspec's session, and wait for the answer."""
        from fsspec.asyn import sync

        return sync(self._system.loop, question, *about)

    async def _where(self, url: str) -> bool:
        async with await self._request(url) as answer:
            _check(answer)
            return bool(answer.url.raw_path.endswith("/"))

    async def _page(self, url: str) -> tuple[bytes, str]:
        async with await self._request(url, most_s=PAGE_S) as answer:
            _check(answer)
            asked, answers = _server(url), _server(str(answer.url))
            if answers != asked and (asked[0], answers[0], asked[1]) != (80, 443, answers[1]):
                raise OSError(f"the server redirects requests for it to another one, {answers[1]}:{answers[0]}")
            if decoded(answer.url.raw_path) != decoded(urlsplit(url).path):  # most likely to a login
                raise OSError(f"the server redirects requests for it to {answer.url.raw_path}")
            if answer.content_type not in ("text/html", "application/xhtml+xml"):
                raise OSError(f"the server sends no index page, but {answer.content_type}")
            try:
                page = await _body(answer, INDEX_BYTES)
            except ImageError:
                raise OSError(f"its index page has more than {INDEX_BYTES:,} bytes") from None
            self.listed_bytes += len(page)
            return page, str(answer.url)

    async def _size(self, url: str) -> int:
        async with await self._request(url, "bytes=0-0") as answer:
            stated = re.fullmatch(r"bytes (?:0-0|\*)/(\d{1,18})", answer.headers.get("Content-Range", ""))
            if answer.status in (206, 416) and stated:
                return int(stated[1])
            _check(answer)
            raise OSError("the server does not send parts of files, which is how archives are read")

    async def _get(self, url: str, span: tuple[int, int] | None, max_bytes: int) -> bytes:
        start, length = span or (0, 0)
        part = f"bytes={start}-{start + length - 1}" if span else ""
        async with await self._request(url, part, PAGE_S + length / LEAST_RATE if span else None) as answer:
            if span and answer.status == 416:
                raise OSError("it is shorter than it was when the run was planned")
            _check(answer)
            if span and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise OSError("the server does not send parts of files, which is how archives are read")
            data = await _body(answer, length if span else max_bytes)
        if span and len(data) != length:
            raise OSError("it is shorter than it was when the run was planned")
        return data

    async def _request(self, url: str, part: str = "", most_s: float | None = None) -> Any:
        from aiohttp import ClientTimeout
        from yarl import URL

        protocol, _, rest = url.partition("://")
        whole = f"{protocol}://{self._user}{'@' if self._user else ''}{rest}{'?' if self._query else ''}{self._query}"
        session = await self._system.set_session()
        options = dict(self._system.kwargs)
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}  # sizes are those of the file
        if part:
            headers["Range"] = part
        timeout = ClientTimeout(total=most_s, sock_connect=STALLED_S, sock_read=STALLED_S)
        return session.get(URL(whole, encoded=True), headers=headers, **{"timeout": timeout, **options})


def _check(answer: "ClientResponse") -> None:
    """Raises OSError if the answer is an error."""
    if answer.status < 400:
        return
    said = f"{answer.status} {answer.reason or ''}".strip()
    if answer.status in (404, 410):
        raise FileNotFoundError(said)
    if answer.status in (401, 403):
        raise PermissionError(said)
    if answer.status in BUSY or answer.status >= 500:
        raise ConnectionError(f"the server answered {said}")
    raise OSError(f"the server answered {said}")


async def _body(answer: "ClientResponse", max_bytes: int) -> bytes:
    """The body of an answer. Raises ImageError as soon as it has more than `max_bytes`."""
    size = answer.content_length
    data = bytearray()
    while size is None or size <= max_bytes:
        chunk = await answer.content.read(min(READ_BYTES, max_bytes + 1 - len(data)))
        data += chunk
        if not chunk:
            return bytes(data)
        if len(data) > max_bytes:
            break
    stated = f"The file has {size:,} bytes" if size else "The file has more bytes than that"
    raise ImageError("too_large", f"{stated}; {max_bytes:,} are allowed.")


def _server(url: str) -> tuple[int | None, str | None]:
    """Port and name. Raises ValueError if this is no URL."""
    parts = urlsplit(url)
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme), parts.hostname


def _children(page: bytes, base: str) -> tuple[list[tuple[bytes, bool]], str]:
    """The names that an index page links to directly in its folder `base`, and whether each is a folder; and a server
    that it links to for such a name, but that is another one.
    """
    server, folder, elsewhere = _server(base), decoded(urlsplit(base).path), ""
    found: dict[tuple[bytes, bool], bool] = {}
    for match in LINK.finditer(page):
        if len(found) > INDEX_LINKS:
            raise OSError(f"its index page has more than {INDEX_LINKS:,} names")
        href = html.unescape(os.fsdecode(b"".join(filter(None, match.groups())))).partition("#")[0].strip()
        if not href or "?" in href:  # the same page in another order
            continue
        try:
            link = urlsplit(urljoin(base, href))
            its_server = _server(link.geturl())
        except ValueError:  # this is no URL
            continue
        parent, _, name = link.path.removesuffix("/").rpartition("/")
        if not name or decoded(parent + "/") != folder:
            continue
        if its_server == server:
            found[decoded(name), link.path.endswith("/")] = True
        elif link.scheme in WEB and not elsewhere:
            elsewhere = f"{its_server[1]}:{its_server[0]}"
    return list(found), elsewhere
