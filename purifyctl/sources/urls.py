"""URLs as text: which texts are URLs, which parts are secret, and one spelling for each path."""

import os
import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from purifyctl.errors import ConfigError

WEB = ("http", "https")


def is_url(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.:-]*://", text) is not None


def encoded(path: bytes) -> bytes:
    """A path in the form that URLs of web servers have."""
    return quote_from_bytes(path).encode()


def decoded(path: str) -> bytes:
    """The bytes that the path of a web server's URL stands for."""
    return unquote_to_bytes(os.fsencode(path))


def split_url(url: str) -> tuple[str, str, str]:
    """Separate a URL from its secrets: (the URL without them, "user:password", query).

    Raises
    ------
    ConfigError
        The URL is malformed, as far as this can be seen.
    """
    protocol, _, rest = url.partition("://")
    protocol, query = protocol.lower(), ""
    if "::" in protocol:
        raise ConfigError("URLs within URLs (::) are not read.", hint="unpack it, or name what it is in")
    is_web = protocol in WEB
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
    """The text, with user, password and query taken out of every URL in it."""
    text = re.sub(r"://[^/\s'\"@]*@", "://", text)
    return re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]*", r"\1", text)
