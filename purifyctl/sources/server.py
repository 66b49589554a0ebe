"""What all servers have in common: fsspec opens the way to them, they are asked with patience, and secrets stay out of
messages.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from purifyctl.errors import ConfigError, ImageError, MissingDependencyError
from purifyctl.sources.urls import WEB, without_secrets

PAUSES_S = (0.25, 1.0)  # before the second and the third try, if a server fails for a moment
CLOUD = ("s3", "s3a", "gs", "gcs", *WEB)  # the extra "cloud" brings packages for these
STUMBLES = {  # names of errors: the libraries' own errors derive from them, and no library need be installed
    *("ConnectionError", "TimeoutError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError"),
}

Answer = TypeVar("Answer")


class Place(Protocol):
    """A kind of server. It is asked for things by URL, and may raise whatever its library raises."""

    listed_bytes: int  # of index pages, so far

    def is_folder(self, url: str) -> bool: ...

    def names(self, folder: str) -> list[tuple[bytes, bool, str]]:
        """What lies in a folder: each name, whether it is a folder, and `Found.stamp`."""

    def size(self, url: str) -> int: ...

    def get(self, url: str, span: tuple[int, int] | None, max_bytes: int) -> bytes:
        """A file's bytes, or those of `span` (first byte, length). Raises ImageError before it loads more than
        `max_bytes`.
        """


class Patience:
    """Asks a server, and asks again if it fails for a moment. `secrets` do not appear in its errors."""

    def __init__(self, *secrets: str) -> None:
        # a shorter one would be found in any word; URLs in a text lose theirs in any case
        self._secrets = [secret for secret in secrets if len(secret) > 3]

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """The answer to a question.

        Raises
        ------
        OSError
            Its only argument says why, without secrets. A ConnectionError: another time it may succeed.
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


def file_system(protocol: str, url: str) -> Any:
    """fsspec's file system for a protocol. `url` may hold secrets.

    Raises
    ------
    ConfigError
        fsspec knows no such protocol, or the URL is malformed.
    MissingDependencyError
        The package for the protocol is not installed.
    """
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(protocol)
        # listings are streams, and a run keeps none of them
        settings = {"skip_instance_cache": True, "use_listings_cache": False}
        if protocol not in WEB:
            settings |= kind._get_kwargs_from_urls(url)  # server and password of ftp:// and similar ones
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
